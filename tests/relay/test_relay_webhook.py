"""`POST /webhook` and `GET /tasks/{id}`: who may ask, what comes back, what is refused."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from mcp import Client
from mcp.types import CallToolResult, ContentBlock, TextContent

from relay_adapter.answers import Answer, response_of
from relay_adapter.body import parse_body
from relay_adapter.errors import InternalError
from relay_adapter.gateway import Gateway
from relay_adapter.relay import OFF_LOOP_BYTES
from relay_adapter.settings import RelaySettings
from tests.relay.harness import KEY, OTHER_KEY, Arguments, RelayClient, problem_result, served, task_record

GIT: dict[str, Any] = {
    "command": "delegate_task",
    "data": {"agent": "git", "task_id": "t1", "params": {"command": ["git", "status"]}},
}
PROBLEM_JSON = "application/problem+json"


def problem(response: Any, status: int, slug: str) -> dict[str, Any]:
    """The problem details of a response, which has the form that every problem has."""
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM_JSON
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    body = response.json()
    assert body["ok"] is False
    assert body["type"] == f"urn:offhand:problem:{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["say"]
    assert len(body["say"].split()) <= 41
    assert isinstance(body["errors"], list)
    return body


def fields_of(body: dict[str, Any]) -> list[str]:
    return [error["field"] for error in body["errors"]]


# Who are you?


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"X-API-Key": KEY, "Authorization": f"Bearer {KEY}"},
    ],
)
async def test_either_header_says_who_is_calling(relay_client: RelayClient, headers: dict[str, str]) -> None:
    response = await relay_client.post({"command": "list_agents"}, headers=headers)
    assert response.status_code == 200
    assert relay_client.tools.acting == [("key_phone", None)]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"X-API-Key": KEY + "x"},
        {"X-API-Key": "x" * 10_000},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"X-API-Key": KEY, "Authorization": "Bearer wrong"},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
        {"X-API-Key": KEY, "Authorization": f"Bearer {OTHER_KEY}"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/webhook"), ("GET", "/tasks/t1")])
async def test_no_key_a_wrong_key_and_two_keys_are_refused(
    relay_client: RelayClient, headers: dict[str, str], method: str, path: str
) -> None:
    body = {"json": GIT} if method == "POST" else {}
    response = await relay_client.anonymous(method, path, headers=headers, **body)
    problem(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"
    assert relay_client.calls == []


async def test_the_body_is_not_read_before_the_key_is_known(relay_client: RelayClient) -> None:
    read: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"{}"

    response = await relay_client.anonymous("POST", "/webhook", content=body())
    assert response.status_code == 401
    assert read == []


# Forms and answers


async def test_an_answer_has_say_the_record_and_a_link(relay_client: RelayClient) -> None:
    async def delegate(arguments: Arguments) -> dict[str, Any]:
        return task_record(arguments["task_id"], say="The tree is clean.", link="https://desk.test/t/t1", ok="kept")

    relay_client.tools.script["delegate_task"] = delegate
    response = await relay_client.post(GIT)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    body = response.json()
    assert set(body) == {"ok", "say", "result", "link"}
    assert body["ok"] is True
    assert body["say"] == "The tree is clean."
    assert body["link"] == "https://desk.test/t/t1"
    assert body["result"]["id"] == "t1"
    assert not {"say", "link"} & set(body["result"])


async def test_a_text_goes_to_the_default_agent(relay_client: RelayClient) -> None:
    response = await relay_client.post({"text": "review the open PR"})
    assert response.json()["ok"]
    expected = {"agent": "claude_code", "description": "review the open PR", "wait": 10}
    assert relay_client.calls == [("delegate_task", expected)]


async def test_a_task_that_failed_is_an_answer(relay_client: RelayClient) -> None:
    async def delegate(_: Arguments) -> dict[str, Any]:
        return task_record(status="failed")

    relay_client.tools.script["delegate_task"] = delegate
    response = await relay_client.post(GIT)
    assert response.status_code == 200
    assert response.json()["ok"] is True
    assert response.json()["result"]["status"] == "failed"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", ""])
async def test_any_content_type_is_taken(relay_client: RelayClient, content_type: str) -> None:
    response = await relay_client.post(content=b'{"command": "list_agents"}', headers={"Content-Type": content_type})
    assert response.status_code == 200


async def test_text_comes_back_as_it_is_and_not_escaped(relay_client: RelayClient) -> None:
    async def delegate(arguments: Arguments) -> dict[str, Any]:
        return task_record(result={"text": arguments["description"]})

    relay_client.tools.script["delegate_task"] = delegate
    odd = "é 😀 \u2028 \u0001 ‮"
    response = await relay_client.post({"text": odd})
    assert response.json()["result"]["result"]["text"] == odd
    assert "😀".encode() in response.content


async def test_a_lone_surrogate_in_an_answer_breaks_nothing() -> None:
    response = response_of(Answer(200, {"ok": True, "say": "é \ud800"}))
    assert json.loads(bytes(response.body).decode("utf-8")) == {"ok": True, "say": "é \ud800"}


# Work that goes on


@pytest.mark.parametrize("status", ["scheduled", "waiting_approval", "queued", "running", "cancelling"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (GIT, 202),
        ({"type": "task_command", "data": {"action_type": "git", "task_id": "t1"}}, 202),
        ({"text": "hello"}, 202),
        ({"command": "continue_task", "data": {"task_id": "t0", "message": "go on"}}, 202),
        ({"command": "retry_task", "data": {"task_id": "t1"}}, 202),
        ({"command": "update_task", "data": {"task_id": "t1", "action": "retry"}}, 202),
        ({"command": "get_task", "data": {"task_id": "t1"}}, 200),
        ({"command": "cancel_task", "data": {"task_id": "t1"}}, 200),
        ({"command": "update_task", "data": {"task_id": "t1", "priority": 1}}, 200),
    ],
)
async def test_unfinished_work_is_answered_with_where_to_read_it_again(
    relay_client: RelayClient, status: str, body: dict[str, Any], expected: int
) -> None:
    async def unfinished(_: Arguments) -> dict[str, Any]:
        return task_record("t:1", status)

    relay_client.tools.script = dict.fromkeys(("delegate_task", "continue_task", "update_task", "get_task"), unfinished)
    response = await relay_client.post(body)
    assert response.status_code == expected
    assert int(response.headers["retry-after"]) > 0
    answer = response.json()
    assert answer["ok"] is True
    assert answer["task_id"] == "t:1"
    assert answer["status_url"] == "http://desk.test:8787/tasks/t%3A1"
    assert answer["result"]["status"] == status


async def test_what_waits_for_a_person_is_asked_for_less_often(relay_client: RelayClient) -> None:
    async def waiting(_: Arguments) -> dict[str, Any]:
        return task_record(status="waiting_approval")

    async def running(_: Arguments) -> dict[str, Any]:
        return task_record(status="running")

    relay_client.tools.script = {"delegate_task": waiting, "get_task": running}
    later = await relay_client.post(GIT)
    soon = await relay_client.get("/tasks/t1")
    assert int(later.headers["retry-after"]) > int(soon.headers["retry-after"])


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_finished_work_has_no_status_url(relay_client: RelayClient, status: str) -> None:
    async def finished(_: Arguments) -> dict[str, Any]:
        return task_record(status=status)

    relay_client.tools.script["delegate_task"] = finished
    response = await relay_client.post(GIT)
    assert response.status_code == 200
    assert "retry-after" not in response.headers
    assert not {"task_id", "status_url"} & set(response.json())


async def test_a_session_that_is_paused_is_no_unfinished_task(relay_client: RelayClient) -> None:
    async def paused(_: Arguments) -> dict[str, Any]:
        return {"id": "s1", "status": "paused", "say": "It is paused."}

    relay_client.tools.script["update_session"] = paused
    response = await relay_client.post({"command": "pause_session", "session_id": "s1"})
    assert response.status_code == 200
    assert "status_url" not in response.json()
    assert response.json()["link"] is None


@pytest.mark.parametrize(
    ("public_url", "root_path", "asked_at", "host", "expected"),
    [
        ("https://me.example", "", "http://desk.test:8787", None, "https://me.example"),
        ("https://me.example/offhand/", "", "http://desk.test", None, "https://me.example/offhand"),
        (None, "", "http://desk.test", None, "http://desk.test"),
        (None, "", "https://desk.test:8443", None, "https://desk.test:8443"),
        (None, "", "http://127.0.0.1:8787", None, "http://127.0.0.1:8787"),
        (None, "", "http://[::1]:8787", None, "http://[::1]:8787"),
        (None, "/off hand", "http://desk.test", None, "http://desk.test/off%20hand"),
        (None, "", "http://desk.test:8787", "bad host/'<x>", "http://desk.test:8787"),
        (None, "", "http://[::1]:8787", "", "http://[::1]:8787"),
    ],
)
async def test_the_status_url_leads_back_to_where_the_request_came_in(
    public_url: str | None, root_path: str, asked_at: str, host: str | None, expected: str
) -> None:
    async def running(_: Arguments) -> dict[str, Any]:
        return task_record("a.b", "running")

    settings = RelaySettings(public_url=public_url, default_agent="echo")
    async with served(settings, root_path=root_path, base_url=asked_at) as client:
        client.tools.script["delegate_task"] = running
        headers = {} if host is None else {"Host": host}
        path = f"{root_path}/webhook"
        response = await client.request("POST", path, json=GIT, headers=headers)
        assert response.json()["status_url"] == f"{expected}/tasks/a.b"


async def test_a_task_is_read_by_id_and_by_number(relay_client: RelayClient) -> None:
    by_id = await relay_client.get(
        "/tasks/git_status_001", params={"wait": "3", "output_offset": "5", "stream": "stderr"}
    )
    by_number = await relay_client.get("/tasks/7")
    assert by_id.status_code == by_number.status_code == 200
    assert by_id.json()["result"]["id"] == "git_status_001"
    first = {"task_id": "git_status_001", "wait": 3, "output_offset": 5, "stream": "stderr"}
    assert relay_client.calls == [("get_task", first), ("get_task", {"task_id": "7", "wait": 10})]
    assert relay_client.tools.acting == [("key_phone", None)] * 2


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/tasks/a%20b", "task_id"),
        ("/tasks/a%2Fb", "task_id"),
        ("/tasks/%00", "task_id"),
        ("/tasks/", "task_id"),
        ("/tasks/" + "x" * 10_000, "task_id"),
        ("/tasks/t1?output_offset=-1", "output_offset"),
        ("/tasks/t1?output_offset=x", "output_offset"),
        ("/tasks/t1?stream=all", "stream"),
        ("/tasks/t1?offset=1", "offset"),
    ],
)
async def test_a_task_that_cannot_be_named_so_is_refused(relay_client: RelayClient, path: str, field: str) -> None:
    body = problem(await relay_client.get(path), 422, "invalid")
    assert fields_of(body) == [field]
    assert relay_client.calls == []


async def test_an_unknown_task_is_not_found(relay_client: RelayClient) -> None:
    async def nobody(_: Arguments) -> CallToolResult:
        return problem_result(404, "not-found", "task_id")

    relay_client.tools.script["get_task"] = nobody
    assert fields_of(problem(await relay_client.get("/tasks/t9"), 404, "not-found")) == ["task_id"]


# Waiting


@pytest.mark.parametrize(
    ("body", "tool"),
    [
        (GIT, "delegate_task"),
        ({"command": "continue_task", "data": {"task_id": "t", "message": "m"}}, "continue_task"),
        ({"command": "get_task", "data": {"task_id": "t"}}, "get_task"),
        ({"command": "cancel_task", "data": {"task_id": "t"}}, "update_task"),
    ],
)
async def test_the_wait_is_passed_on(relay_client: RelayClient, body: dict[str, Any], tool: str) -> None:
    await relay_client.post(body)
    await relay_client.post(body, params={"wait": "0"})
    await relay_client.post(body, params={"wait": "45"})
    await relay_client.post(body, params={"wait": "2.5"})
    own = body | {"data": body["data"] | {"wait": 7}}
    await relay_client.post(own, params={"wait": "3"})
    assert [(name, arguments["wait"]) for name, arguments in relay_client.calls] == [
        (tool, 10),
        (tool, 0),
        (tool, 45),
        (tool, 2.5),
        (tool, 7),
    ]


async def test_tools_that_do_not_wait_get_no_wait(relay_client: RelayClient) -> None:
    await relay_client.post({"command": "list_agents"}, params={"wait": "5"})
    assert relay_client.calls == [("list_agents", {})]


@pytest.mark.parametrize("wait", ["", "-1", "46", "45.1", "1e1", "nan", "inf", "x", "0x5", "1 ", "９", "9" * 5000])
@pytest.mark.parametrize(("method", "path"), [("POST", "/webhook"), ("GET", "/tasks/t1")])
async def test_a_bad_wait_is_refused(relay_client: RelayClient, wait: str, method: str, path: str) -> None:
    body = {"json": GIT} if method == "POST" else {}
    response = await relay_client.request(method, path, params={"wait": wait}, **body)
    assert fields_of(problem(response, 422, "invalid")) == ["wait"]
    assert relay_client.calls == []


async def test_an_unknown_query_and_one_given_twice_are_refused(relay_client: RelayClient) -> None:
    unknown = await relay_client.request("POST", "/webhook?wiat=5", json=GIT)
    body = problem(unknown, 422, "invalid")
    assert fields_of(body) == ["wiat"]
    assert 'Did you mean "wait"?' in body["errors"][0]["fix"]
    twice = await relay_client.request("POST", "/webhook?wait=1&wait=2", json=GIT)
    assert fields_of(problem(twice, 422, "invalid")) == ["wait"]


async def test_a_wait_is_never_longer_than_the_settings_allow() -> None:
    settings = RelaySettings(public_url=None, default_agent="echo", wait_seconds=1, max_wait_seconds=5)
    async with served(settings) as client:
        await client.post(GIT | {"data": GIT["data"] | {"wait": 30}})
        await client.post(GIT)
        assert [arguments["wait"] for _, arguments in client.calls] == [5, 1]
        problem(await client.post(GIT, params={"wait": "6"}), 422, "invalid")


# Bad input


async def test_a_body_above_the_limit_is_refused_whole_and_in_chunks() -> None:
    settings = RelaySettings(public_url=None, default_agent="echo", body_limit_bytes=1000)
    read: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(100):
            read.append(number)
            yield b" " * 100

    async with served(settings) as client:
        problem(await client.post(content=b'{"text": "' + b"x" * 1000 + b'"}'), 413, "too-large")
        problem(await client.post(content=chunks()), 413, "too-large")
        assert len(read) == 11
        assert client.calls == []
        exact = json.dumps({"text": ""}).encode()
        exact = exact[:-2] + b"x" * (1000 - len(exact)) + exact[-2:]
        assert (await client.post(content=exact)).status_code == 200


async def test_an_announced_length_above_the_limit_is_refused_unread() -> None:
    settings = RelaySettings(public_url=None, default_agent="echo")
    read: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"{}"

    async with served(settings) as client:
        for announced in (str(8 * 1024 * 1024 + 1), "9" * 5000):
            response = await client.post(content=chunks(), headers={"Content-Length": announced})
            problem(response, 413, "too-large")
        assert read == []


async def test_eight_mebibytes_are_read(relay_client: RelayClient) -> None:
    frame = b'{"command": "conversation_chunk", "session_id": "s", "data": {"content": ""}}'
    body = frame[:-3] + b"x" * (8 * 1024 * 1024 - len(frame)) + frame[-3:]
    assert (await relay_client.post(content=body)).status_code == 200
    problem(await relay_client.post(content=body + b" "), 413, "too-large")


async def test_a_large_body_is_read_beside_the_event_loop(
    relay_client: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def parse(raw: bytes) -> dict[str, Any]:
        threads.append(threading.get_ident())
        return parse_body(raw)

    monkeypatch.setattr("relay_adapter.relay.parse_body", parse)
    await relay_client.post({"text": "x"})
    await relay_client.post({"text": "x" * OFF_LOOP_BYTES})
    assert threads[0] == threading.get_ident()
    assert threads[1] != threading.get_ident()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"a": NaN}', b"\xff", b'{"a": ' + b"[" * 5000])
async def test_a_malformed_body_is_refused(relay_client: RelayClient, raw: bytes) -> None:
    body = problem(await relay_client.post(content=raw), 400, "malformed")
    assert fields_of(body) == ["body"]
    assert relay_client.calls == []


async def test_a_character_that_cannot_be_stored_is_refused_with_field_and_position(relay_client: RelayClient) -> None:
    raw = rb'{"command": "delegate_task", "data": {"agent": "git", "task": "abc\u0000"}}'
    body = problem(await relay_client.post(content=raw), 422, "invalid")
    assert fields_of(body) == ["data.task"]
    assert "position 3" in body["errors"][0]["message"]


async def test_a_github_delivery_is_told_that_it_is_not_accepted_yet(relay_client: RelayClient) -> None:
    headers: dict[str, str] = {"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=0"}
    with_key = await relay_client.post({"zen": "x"}, headers=headers)
    without_key = await relay_client.anonymous("POST", "/webhook", json={"zen": "x"}, headers=headers)
    for response in (with_key, without_key):
        body = problem(response, 422, "invalid")
        assert "GitHub deliveries are not accepted yet" in body["detail"]
    wrong = await relay_client.post({}, headers=headers | {"X-API-Key": "wrong"})
    problem(wrong, 401, "unauthenticated")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
async def test_other_methods_are_told_what_is_allowed(relay_client: RelayClient, method: str) -> None:
    response = await relay_client.request(method, "/webhook")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


async def test_a_task_can_only_be_read(relay_client: RelayClient) -> None:
    response = await relay_client.request("POST", "/tasks/t1", json={})
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "GET, HEAD"
    assert (await relay_client.request("HEAD", "/tasks/t1")).status_code == 200


async def test_a_field_error_is_a_problem_with_field_message_and_fix(relay_client: RelayClient) -> None:
    body = problem(await relay_client.post({"command": "delegate_task", "data": {"agnt": "git"}}), 422, "invalid")
    assert {error["field"] for error in body["errors"]} == {"data.agnt", "data.agent"}
    assert all(set(error) == {"field", "message", "fix"} for error in body["errors"])
    assert "data.agnt" in body["detail"]


# Errors of tools


@pytest.mark.parametrize(
    ("status", "slug"),
    [(403, "forbidden"), (404, "not-found"), (409, "conflict"), (413, "too-large"), (422, "invalid"), (429, "rate")],
)
async def test_a_tools_error_is_passed_on_with_its_status(relay_client: RelayClient, status: int, slug: str) -> None:
    async def refuse(_: Arguments) -> CallToolResult:
        return problem_result(status, slug, existing={"id": "t1"})

    relay_client.tools.script["delegate_task"] = refuse
    response = await relay_client.post(GIT)
    body = problem(response, status, slug)
    assert body["say"] == "It did not work."
    assert body["existing"] == {"id": "t1"}
    assert ("retry-after" in response.headers) is (status == 429)


async def test_a_tools_not_now_says_when_to_come_again(relay_client: RelayClient) -> None:
    async def refuse(_: Arguments) -> CallToolResult:
        return problem_result(503, "unavailable", retry_after=17)

    relay_client.tools.script["delegate_task"] = refuse
    response = await relay_client.post(GIT)
    problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "17"


async def test_a_tools_field_is_named_as_the_sender_wrote_it(relay_client: RelayClient) -> None:
    names = ("agent", "params.command", "params.command[0]", "working_dir", "wait", "task_id", "session_id", "unheard")

    async def refuse(_: Arguments) -> CallToolResult:
        return problem_result(422, "invalid", *names)

    relay_client.tools.script["delegate_task"] = refuse
    data = {"action_type": "git", "task_id": "t1", "params": {"command": ["x"], "working_dir": "/"}}
    inner = {"type": "task_command", "session_id": "s1", "data": data}
    body = problem(await relay_client.post({"type": "webhook", "payload": inner}), 422, "invalid")
    assert fields_of(body) == [
        "payload.data.action_type",
        "payload.data.params.command",
        "payload.data.params.command[0]",
        "payload.data.params.working_dir",
        "wait",
        "payload.data.task_id",
        "payload.session_id",
        "unheard",
    ]


class SecretError(Exception):
    """What must not leave."""


def unusable(kind: str) -> CallToolResult:
    text: list[ContentBlock] = [TextContent(text="secret at /home/me")]
    records: dict[str, Any] = {"none": None, "no say": {"id": "t1"}, "odd say": {"say": 7}}
    if kind in records:
        return CallToolResult(content=text, structured_content=records[kind])
    statuses: dict[str, Any] = {"error without record": None, "no status": {}, "odd status": {"status": 200}}
    record = statuses[kind]
    return CallToolResult(
        content=text, structured_content=record if record is None else record | {"say": "x"}, is_error=True
    )


@pytest.mark.parametrize(
    "kind", ["raises", "none", "no say", "odd say", "error without record", "no status", "odd status"]
)
async def test_an_answer_that_cannot_be_used_is_500_logged_and_tells_nothing(
    relay_client: RelayClient, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def behave(_: Arguments) -> CallToolResult:
        if kind == "raises":
            raise SecretError("secret at /home/me")
        return unusable(kind)

    relay_client.tools.script["delegate_task"] = behave
    with caplog.at_level(logging.ERROR, logger="relay_adapter"):
        response = await relay_client.post(GIT)
    problem(response, 500, "internal")
    assert "secret" not in response.text
    assert any(record.name.startswith("relay_adapter") for record in caplog.records)


async def test_a_call_that_breaks_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenClient:
        async def call_tool(self, name: str, arguments: Arguments) -> CallToolResult:
            raise SecretError("secret")

    with pytest.raises(InternalError) as caught, caplog.at_level(logging.ERROR, logger="relay_adapter"):
        await Gateway(cast("Client", BrokenClient())).call("list_agents", {})
    assert "secret" not in caught.value.message
    assert "secret" in caplog.text


async def test_a_ledger_that_breaks_is_500(relay_client: RelayClient) -> None:
    relay_client.ledger.broken = SecretError("secret")
    response = await relay_client.post(GIT | {"delivery_id": "d-1"})
    problem(response, 500, "internal")
    assert "secret" not in response.text


# Batches


def batch(*commands: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"command": "batch", "data": {"commands": list(commands), **more}}


MEMORY = {"command": "store_memory", "data": {"type": "idea", "content": "x"}}
SEARCH = {"command": "search", "data": {"query": "x"}}


async def test_a_batch_answers_one_result_per_command_in_order(relay_client: RelayClient) -> None:
    response = await relay_client.post(batch(MEMORY, GIT, SEARCH))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["ok"] is True
    assert len(body["say"].split()) <= 40
    assert "3 of 3 done" in body["say"]
    assert [result["command"] for result in body["results"]] == ["store_memory", "delegate_task", "search"]
    assert all(result["ok"] and result["say"] and "result" in result for result in body["results"])
    assert [name for name, _ in relay_client.calls] == ["store_memory", "delegate_task", "search"]


async def test_a_batch_stops_at_the_first_error(relay_client: RelayClient) -> None:
    async def refuse(_: Arguments) -> CallToolResult:
        return problem_result(403, "forbidden", "agent")

    relay_client.tools.script["delegate_task"] = refuse
    response = await relay_client.post(batch(MEMORY, GIT, SEARCH))
    assert response.status_code == 200
    body = response.json()
    assert body["ok"] is False
    assert "1 of 3 done. 1 did not run." in body["say"]
    assert [result["ok"] for result in body["results"]] == [True, False]
    failed = body["results"][1]
    assert failed["command"] == "delegate_task"
    assert failed["status"] == 403
    assert failed["errors"][0]["field"] == "data.commands[1].data.agent"
    assert [name for name, _ in relay_client.calls] == ["store_memory", "delegate_task"]


async def test_a_batch_goes_on_after_an_error_when_told_to(relay_client: RelayClient) -> None:
    async def refuse(_: Arguments) -> CallToolResult:
        raise SecretError("secret")

    relay_client.tools.script["delegate_task"] = refuse
    response = await relay_client.post(batch(MEMORY, GIT, SEARCH, continue_on_error=True))
    assert response.status_code == 200
    body = response.json()
    assert body["ok"] is False
    assert [result["ok"] for result in body["results"]] == [True, False, True]
    assert body["results"][1]["status"] == 500


async def test_a_task_that_failed_does_not_stop_a_batch(relay_client: RelayClient) -> None:
    async def failed(_: Arguments) -> dict[str, Any]:
        return task_record(status="failed")

    relay_client.tools.script["delegate_task"] = failed
    body = (await relay_client.post(batch(GIT, SEARCH))).json()
    assert body["ok"] is True
    assert len(body["results"]) == 2


async def test_nothing_of_a_batch_runs_when_one_command_is_wrong(relay_client: RelayClient) -> None:
    wrong = {"command": "delegate_task", "data": {"agent": "git", "priority": "high"}}
    for more in ({}, {"continue_on_error": True}):
        response = await relay_client.post(batch(MEMORY, GIT, wrong, **more))
        body = problem(response, 422, "invalid")
        assert fields_of(body) == ["data.commands[2].data.priority"]
    assert relay_client.calls == []


async def test_a_batch_tells_for_each_unfinished_task_where_to_read_it(relay_client: RelayClient) -> None:
    async def running(arguments: Arguments) -> dict[str, Any]:
        return task_record(arguments.get("task_id", "t2"), "running")

    relay_client.tools.script["delegate_task"] = running
    response = await relay_client.post(batch(GIT, {"text": "hello"}))
    body = response.json()
    assert response.status_code == 200
    assert [result["task_id"] for result in body["results"]] == ["t1", "t2"]
    assert body["results"][1]["status_url"] == "http://desk.test:8787/tasks/t2"
    assert "2 still at work" in body["say"]


async def test_the_waits_of_a_batch_share_one_deadline(relay_client: RelayClient) -> None:
    async def slow(_: Arguments) -> dict[str, Any]:
        relay_client.clock.seconds += 4
        return task_record(status="running")

    relay_client.tools.script["delegate_task"] = slow
    patient = {"command": "delegate_task", "data": {"agent": "git", "wait": 30}}
    hasty = {"command": "delegate_task", "data": {"agent": "git", "wait": 1}}
    await relay_client.post(batch(GIT, patient, hasty, GIT, MEMORY), params={"wait": "11"})
    assert [arguments.get("wait") for _, arguments in relay_client.calls] == [11, 7, 1, 0, None]
