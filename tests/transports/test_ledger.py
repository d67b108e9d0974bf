"""Whatever both sides say, in whatever order, and however often the server is another one."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_server.transports.ledger import Ledger

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

ids = st.sampled_from([0, 1, "a", "offhand-mcp:0", None, 1.5, True, [1]])
odd = st.sampled_from([None, 7, "x", [], {}, {"uri": 1}, {"requestId": []}, {"notifications": 3, "_meta": 4}])
methods = st.sampled_from(
    ["initialize", "ping", "subscriptions/listen", "resources/subscribe", "resources/unsubscribe", "tools/call"]
)
requests = st.builds(lambda i, m, p: {"jsonrpc": "2.0", "id": i, "method": m, "params": p}, ids, methods, odd)
subscribes = st.builds(
    lambda i, m: {"jsonrpc": "2.0", "id": i, "method": m, "params": {"uri": "task://7"}},
    ids,
    st.sampled_from(["resources/subscribe", "resources/unsubscribe"]),
)
notifications = st.builds(
    lambda m, p: {"jsonrpc": "2.0", "method": m, "params": p},
    st.sampled_from(["notifications/initialized", "notifications/cancelled"]),
    odd | st.builds(lambda i: {"requestId": i}, ids),
)
answers = st.builds(
    lambda i, name, value: {"jsonrpc": "2.0", "id": i, name: value},
    ids,
    st.sampled_from(["result", "error"]),
    odd | st.sampled_from([{"code": -32000}, {"capabilities": {"tools": {"listChanged": True}, "resources": 1}}]),
)
acknowledgements = st.builds(
    lambda i, honoured: {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {"_meta": {SUBSCRIPTION_ID: i}, "notifications": honoured},
    },
    ids,
    odd | st.just({"resourceSubscriptions": ["task://7"], "toolsListChanged": True}),
)
from_client = st.tuples(st.just("client"), requests | subscribes | notifications | odd)
from_server = st.tuples(st.just("server"), answers | acknowledgements | odd)
conversation = st.lists(from_client | from_server | st.tuples(st.just("restart"), st.none()), max_size=30)


def line(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


@given(conversation)
def test_nothing_that_is_said_breaks_the_book_or_makes_it_say_what_is_no_message(
    said: list[tuple[str, Any]],
) -> None:
    book = Ledger(lambda _: None)
    for who, message in said:
        if who == "client":
            book.note_from_client(line(message))
        elif who == "server":
            shown = book.note_from_server(line(message))
            assert shown in (b"", line(message)) or all(json.loads(part)["method"] for part in shown.splitlines())
        else:
            for answer in book.answer_all("restarted").splitlines():
                assert json.loads(answer)["error"]["message"] == "restarted"
            assert not book.owed or book.awaits_initialize
            assert all(json.loads(part) for part in book.replay())
    book.answer_all("the end", last=True)
    assert book.is_idle


METHODS = ["initialize", "ping", "subscriptions/listen", "resources/subscribe"]


@given(st.lists(st.tuples(st.sampled_from([*METHODS, "answer", "error"]), st.sampled_from([0, "a"])), min_size=4))
def test_a_request_that_was_answered_is_not_answered_again(said: list[tuple[str, int | str]]) -> None:
    book = Ledger(lambda _: None)
    still_open: set[int | str] = set()
    for what, request_id in said:
        if what in METHODS and request_id in still_open:
            continue  # no client may
        if what in METHODS:
            message = {"jsonrpc": "2.0", "id": request_id, "method": what, "params": {"uri": "task://7"}}
            book.note_from_client(line(message))
            still_open.add(request_id)
        else:
            outcome = {"result": {}} if what == "answer" else {"error": {"code": -32602}}
            if book.note_from_server(line({"jsonrpc": "2.0", "id": request_id} | outcome)):
                still_open.discard(request_id)
    answered = [json.loads(part)["id"] for part in book.answer_all("the end", last=True).splitlines()]
    assert sorted(map(str, answered)) == sorted(map(str, still_open))
