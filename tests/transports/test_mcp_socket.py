from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_server.callers import Caller
from mcp_server.errors import AlreadyServingError
from mcp_server.transports import ledger
from mcp_server.transports.messages import MAX_LINE_BYTES
from mcp_server.transports.socket import REFUSED
from tests.transports.raw_client import (
    DEADLINE_SECONDS,
    MODERN,
    RawClient,
    call,
    line,
    notification,
    request,
    text_of,
    within,
)
from tests.transports.small_server import Small

PHONE = Caller(level="phone", name="a phone", scopes=frozenset({"read"}))


async def test_a_handler_sees_who_is_calling_in_the_modern_era(small: Small) -> None:
    async with small.running(admit=lambda _: PHONE), small.client() as client:
        assert text_of(await client.ask(call(1, "who"))) == "a phone"


async def test_a_handler_sees_who_is_calling_after_a_handshake(small: Small) -> None:
    async with small.running(admit=lambda _: PHONE), small.client() as client:
        await client.shake_hands()
        assert text_of(await client.ask(call(1, "who", modern=False))) == "a phone"


async def test_each_connection_has_its_own_caller(small: Small) -> None:
    callers = iter([PHONE, Caller(level="phone", name="another", scopes=frozenset())])
    async with small.running(admit=lambda _: next(callers)), small.client() as first:
        assert text_of(await first.ask(call(1, "who"))) == "a phone"
        async with small.client() as second:
            assert text_of(await second.ask(call(1, "who"))) == "another"
            assert text_of(await first.ask(call(2, "who"))) == "a phone"


async def test_all_connections_share_one_lifespan(served: Small) -> None:
    async with served.client() as one, served.client() as other:
        await one.shake_hands()
        await other.ask(call(1, "who"))
    assert served.facts.lifespans == 1


async def test_a_handshake_is_served_after_discover(served: Small) -> None:
    async with served.client() as client:
        discovered = await client.ask(request(1, "server/discover", MODERN))
        assert "2026-07-28" in discovered["result"]["supportedVersions"]
        assert (await client.shake_hands())["result"]["protocolVersion"] == "2025-11-25"
        assert text_of(await client.ask(call(2, "echo", modern=False, text="hello"))) == "hello"


async def test_a_modern_call_is_served_after_discover(served: Small) -> None:
    async with served.client() as client:
        await client.ask(request(1, "server/discover", MODERN))
        await client.ask(request(2, "server/discover", MODERN))
        assert text_of(await client.ask(call(3, "echo", text="hello"))) == "hello"


async def test_calls_on_one_connection_overlap(served: Small) -> None:
    async with served.client() as client:
        await client.send(call(1, "wait"))
        assert (await client.ask(call(2, "echo", text="meanwhile")))["id"] == 2
        served.facts.go_on.set()
        assert text_of(await client.receive()) == "went on"


async def test_the_socket_is_open_to_its_owner_only(served: Small) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600


async def test_the_socket_is_removed_at_the_end(small: Small) -> None:
    async with small.running():
        assert small.path.exists()
    assert not small.path.exists()


async def test_the_socket_of_a_successor_is_left_alone(small: Small) -> None:
    async with small.running():
        small.path.unlink()
        successor = socket.socket(socket.AF_UNIX)
        successor.bind(str(small.path))
    with successor:
        assert small.path.exists()


async def test_a_stale_socket_is_replaced(small: Small) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(small.path))
    async with small.running(), small.client() as client:
        assert text_of(await client.ask(call(1, "echo", text="hello"))) == "hello"


async def test_a_socket_that_somebody_serves_is_not_taken_over(served: Small, home: Path) -> None:
    with pytest.raises(AlreadyServingError):
        async with Small(home).running():
            pass
    async with served.client() as client:
        assert text_of(await client.ask(call(1, "echo", text="still here"))) == "still here"


async def test_a_file_in_the_way_is_not_removed(small: Small) -> None:
    small.path.write_text("precious")
    with pytest.raises(OSError):
        async with small.running():
            pass
    assert small.path.read_text() == "precious"


async def test_a_refused_process_is_told_so_once_and_disconnected(small: Small) -> None:
    async with small.running(admit=lambda _: None), small.client() as client:
        refusal = await client.receive()
        assert (refusal["id"], refusal["error"]["code"]) == (None, REFUSED)
        assert await client.receive_line() == b""


async def test_a_process_about_which_nothing_can_be_found_out_is_disconnected(small: Small) -> None:
    def admit(_: socket.socket) -> Caller | None:
        raise OSError("no /proc")

    async with small.running(admit=admit):
        for _ in range(2):
            async with small.client() as client:
                assert await client.receive_line() == b""


def test_the_shim_knows_the_code_of_a_refusal() -> None:
    assert ledger.REFUSED == REFUSED


@pytest.mark.parametrize(
    ("nonsense", "code"),
    [
        (b"this is no JSON\n", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":\n', -32700),
        (b"\xff\xfe\n", -32700),
        (b"[" * 100_000 + b"\n", -32700),
        (b"[]\n", -32600),
        (b"17\n", -32600),
        (b"{}\n", -32600),
        (b'{"jsonrpc":"1.0","id":null,"method":"ping"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1,"result":"of what?"}\n', -32600),
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["as the first line", "later"])
async def test_nonsense_is_answered_and_the_connection_lives(
    served: Small, nonsense: bytes, code: int, first: bool
) -> None:
    async with served.client() as client:
        if not first:
            await client.ask(call(1, "who"))
        answer = await client.ask(nonsense)
        assert (answer["id"], answer["error"]["code"]) == (None, code)
        assert text_of(await client.ask(call(2, "echo", text="alive"))) == "alive"


@pytest.mark.parametrize(
    ("bad_request", "code"),
    [
        (b'{"jsonrpc":"2.0","id":"a","method":"ping","params":{"text":"\\ud800"}}\n', -32700),
        (b'{"jsonrpc":"2.0","id":"a","method":"ping","params":[]}\n', -32600),
        (b'{"id":"a","method":"ping"}\n', -32600),
    ],
)
async def test_a_bad_request_is_answered_by_its_id(served: Small, bad_request: bytes, code: int) -> None:
    async with served.client() as client:
        answer = await client.ask(bad_request)
        assert (answer["id"], answer["error"]["code"]) == ("a", code)


async def test_an_id_that_cannot_be_written_is_not_answered_by_it(served: Small) -> None:
    async with served.client() as client:
        answer = await client.ask(b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}\n')
        assert (answer["id"], answer["error"]["code"]) == (None, -32700)


async def test_empty_lines_and_carriage_returns_are_harmless(served: Small) -> None:
    async with served.client() as client:
        await client.send(b"\n\r\n   \n" + call(1, "echo", text="hello").replace(b"\n", b"\r\n"))
        assert text_of(await client.receive()) == "hello"


async def test_a_line_may_come_in_pieces(served: Small) -> None:
    async with served.client() as client:
        for byte in call(1, "echo", text="slowly"):
            await client.send(bytes([byte]))
        assert text_of(await client.receive()) == "slowly"


async def test_a_line_of_almost_the_limit_is_read(served: Small) -> None:
    text = "x" * (MAX_LINE_BYTES - 1000)
    async with served.client() as client:
        answer = await client.ask(call(1, "echo", text=text))
    assert text_of(answer) == text


LONG = {"text": "x" * MAX_LINE_BYTES}


@pytest.mark.parametrize(
    ("message", "answered_id"),
    [
        ({"jsonrpc": "2.0", "id": 7, "method": "ping", "params": LONG}, 7),
        ({"method": "ping", "params": LONG, "jsonrpc": "2.0", "id": "tail"}, "tail"),
        ({"method": "ping", "id": 7, "params": LONG, "jsonrpc": "2.0"}, None),
    ],
    ids=["the id at the head", "the id at the tail", "the id elsewhere"],
)
async def test_a_line_over_the_limit_is_answered_and_skipped(
    served: Small, message: dict[str, Any], answered_id: int | str | None
) -> None:
    async with served.client() as client:
        answer = await client.ask(line(message))
        assert (answer["id"], answer["error"]["code"]) == (answered_id, -32600)
        assert text_of(await client.ask(call(8, "echo", text="alive"))) == "alive"


async def test_half_a_line_before_the_end_is_dropped(served: Small) -> None:
    async with served.client() as client:
        await client.send(call(1, "who")[:-5])
        client.writer.write_eof()
        assert await client.receive_line() == b""


async def test_a_cancelled_call_is_not_answered(served: Small) -> None:
    async with served.client() as client:
        await client.send(call(1, "wait"))
        await within(served.facts.waiting)
        await client.send(notification("notifications/cancelled", {"requestId": 1}))
        await within(served.facts.cancelled)
        assert (await client.ask(call(2, "who")))["id"] == 2


async def test_a_client_that_vanishes_in_mid_call_leaves_nothing_behind(
    served: Small, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = len(asyncio.all_tasks())
    async with served.client() as client:
        await client.ask(call(1, "who"))
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    descriptors = len(os.listdir("/dev/fd"))
    for shakes_hands in (True, False):
        served.facts.waiting, served.facts.cancelled = anyio.Event(), anyio.Event()
        client = await RawClient.connect(served.path)
        if shakes_hands:
            await client.shake_hands()
        await client.send(call(1, "wait", modern=not shakes_hands))
        await within(served.facts.waiting)
        client.writer.transport.abort()
        await within(served.facts.cancelled)
        await client.close()
        del client
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert len(asyncio.all_tasks()) == tasks
    assert caplog.records == []
    assert len(os.listdir("/dev/fd")) == descriptors


async def test_a_client_that_does_not_read_delays_nobody(served: Small) -> None:
    async with served.client() as deaf, served.client() as other:
        await deaf.ask(call(0, "who"))
        deaf.stop_reading()
        await deaf.send(b"".join(call(number, "large", size=1024 * 1024) for number in range(1, 31)))
        assert text_of(await other.ask(call(1, "echo", text="quick"))) == "quick"
        deaf.go_on_reading()
        answered = {(await deaf.receive())["id"] for _ in range(30)}
    assert answered == set(range(1, 31))


async def test_a_client_that_does_not_read_is_not_served_until_it_does(served: Small) -> None:
    async with served.client() as deaf, served.client() as other:
        await deaf.ask(call(0, "who"))
        deaf.stop_reading()
        await deaf.send(b"".join(call(number, "large", size=1024 * 1024) for number in range(1, 31)))
        await until(lambda: served.facts.large_answers == 30)
        await deaf.send(b"".join(call(number, "large", size=1024 * 1024) for number in range(31, 101)))
        assert text_of(await other.ask(call(1, "echo", text="quick"))) == "quick"
        assert served.facts.large_answers == 30
        deaf.go_on_reading()
        answered = {(await deaf.receive())["id"] for _ in range(100)}
    assert answered == set(range(1, 101))


async def test_what_a_client_does_not_read_waits_where_it_comes_from(served: Small) -> None:
    meta = MODERN["_meta"] | {"progressToken": "p"}
    chatter = request(1, "tools/call", {"name": "chatter", "arguments": {"count": 100}, "_meta": meta})
    async with served.client() as deaf, served.client() as other:
        await deaf.ask(call(0, "who"))
        deaf.stop_reading()
        await deaf.send(chatter)
        await until(lambda: served.facts.said > 0)
        for number in range(100):
            assert text_of(await other.ask(call(number, "echo", text="quick"))) == "quick"
        assert served.facts.said < 10
        deaf.go_on_reading()
        received = [await deaf.receive() for _ in range(101)]
    assert [message["params"]["progress"] for message in received[:100]] == list(range(100))
    assert text_of(received[100]) == "done"


async def test_the_end_of_the_server_closes_every_connection_within_a_second(small: Small) -> None:
    async with small.running():
        idle, modern, legacy = [await RawClient.connect(small.path) for _ in range(3)]
        await legacy.shake_hands()
        await legacy.ask(call(1, "who", modern=False))
        await modern.send(call(1, "wait"))
        await within(small.facts.waiting)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    answer = json.loads(await modern.receive_line())
    assert (answer["id"], answer["error"]["code"]) == (1, -32000)
    for client in (idle, modern, legacy):
        assert await client.receive_line() == b""
        await client.close()


async def test_the_end_of_the_server_waits_for_no_deaf_client(small: Small) -> None:
    async with small.running():
        deaf = await RawClient.connect(small.path)
        await deaf.ask(call(0, "who"))
        deaf.stop_reading()
        await deaf.send(b"".join(call(number, "large", size=1024 * 1024) for number in range(1, 31)))
        async with small.client() as other:
            await other.ask(call(1, "who"))
        began = time.monotonic()
    assert time.monotonic() - began < 1
    await deaf.close()


async def test_a_handler_that_will_not_stop_holds_neither_its_connection_nor_the_door(small: Small) -> None:
    async with small.running():
        client = await RawClient.connect(small.path)
        await client.send(call(1, "stubborn"))
        await within(small.facts.waiting)

        async def look_on() -> tuple[bytes, float]:
            try:
                said = await client.receive_line()
                with pytest.raises(ConnectionRefusedError):
                    await RawClient.connect(small.path)
            finally:
                small.facts.go_on.set()
            return said, time.monotonic()

        looking_on = asyncio.create_task(look_on())
        began = time.monotonic()
    said, ended = await looking_on
    assert said == b""
    assert ended - began < 1.5
    await client.close()


async def until(condition: Callable[[], bool]) -> None:
    """For what no event tells: a few rounds of the loop."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while not condition():
            await anyio.lowlevel.checkpoint()
