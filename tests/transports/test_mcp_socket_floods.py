"""Clients that ask more than is good, out of order, or for what nobody knows."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from mcp_server.transports import connection
from mcp_server.transports.intake import MAX_IN_FLIGHT, MAX_WAITING_BYTES
from tests.transports.raw_client import (
    HANDSHAKE,
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
from tests.transports.test_mcp_socket import until


def cancelled(request_id: int | str) -> bytes:
    return notification("notifications/cancelled", {"requestId": request_id})


async def flood(client: RawClient, data: bytes) -> asyncio.Task[None]:
    """Write without waiting for anything; how much of it is read is up to the server."""
    client.writer.write(data)
    return asyncio.create_task(client.writer.drain())


async def test_only_so_many_requests_of_a_connection_run_at_once_and_all_are_answered(served: Small) -> None:
    async with served.client() as eager, served.client() as other:
        written = await flood(eager, b"".join(call(number, "wait") for number in range(2000)))
        await until(lambda: served.facts.running == MAX_IN_FLIGHT)
        for number in range(20):
            assert text_of(await other.ask(call(number, "echo", text="quick"))) == "quick"
        assert served.facts.running == MAX_IN_FLIGHT
        served.facts.go_on.set()
        answered = [(await eager.receive())["id"] for _ in range(2000)]
        await written
    assert sorted(answered) == list(range(2000))
    assert served.facts.most_running == MAX_IN_FLIGHT


async def test_nothing_more_is_read_from_who_leaves_too_much_waiting(served: Small) -> None:
    text = "x" * 10_000
    async with served.client() as eager, served.client() as other:
        await eager.send(b"".join(call(number, "wait") for number in range(MAX_IN_FLIGHT)))
        await until(lambda: served.facts.running == MAX_IN_FLIGHT)
        written = await flood(eager, b"".join(call(number + 1000, "echo", text=text) for number in range(1000)))
        unsent = cast(asyncio.WriteTransport, eager.writer.transport).get_write_buffer_size
        await until(lambda: unsent() < 1000 * len(text) - MAX_WAITING_BYTES)
        for number in range(20):
            assert text_of(await other.ask(call(number, "echo", text="quick"))) == "quick"
        assert unsent() > 1000 * len(text) - 4 * MAX_WAITING_BYTES
        served.facts.go_on.set()
        answered = {(await eager.receive())["id"] for _ in range(1000 + MAX_IN_FLIGHT)}
        await written
    assert len(answered) == 1000 + MAX_IN_FLIGHT


async def test_a_request_that_waits_for_its_turn_can_be_cancelled(served: Small) -> None:
    async with served.client() as client:
        await client.send(b"".join(call(number, "wait") for number in range(MAX_IN_FLIGHT)))
        await until(lambda: served.facts.running == MAX_IN_FLIGHT)
        await client.send(call("a", "large", size=1) + call("b", "echo", text="b") + cancelled("a"))
        await client.send(cancelled(0))
        answer = await client.receive()
        assert (answer["id"], text_of(answer)) == ("b", "b")
        assert served.facts.large_answers == 0
        assert served.facts.running == MAX_IN_FLIGHT - 1


async def test_a_cancelled_request_makes_room_for_another(served: Small) -> None:
    async with served.client() as client:
        for begin in (0, MAX_IN_FLIGHT):
            numbers = range(begin, begin + MAX_IN_FLIGHT)
            await client.send(b"".join(call(number, "wait") for number in numbers))
            await until(lambda: served.facts.running == MAX_IN_FLIGHT)
            await client.send(b"".join(cancelled(number) for number in numbers))
            await until(lambda: served.facts.running == 0)
        assert text_of(await client.ask(call("last", "echo", text="room"))) == "room"


async def test_open_streams_take_no_room_of_requests(served: Small) -> None:
    async with served.client() as client:
        for number in range(MAX_IN_FLIGHT + 10):
            wanted = MODERN | {"notifications": {"toolsListChanged": True}}
            assert "method" in await client.ask(request(f"s{number}", "subscriptions/listen", wanted))
        assert text_of(await client.ask(call(1, "echo", text="room"))) == "room"


async def test_a_deaf_client_with_many_requests_costs_a_bounded_number_of_tasks(served: Small) -> None:
    async with served.client() as deaf, served.client() as other:
        await deaf.ask(call(0, "who"))
        await other.ask(call(0, "who"))
        before = len(asyncio.all_tasks())
        deaf.stop_reading()
        written = await flood(deaf, b"".join(call(number, "large", size=100_000) for number in range(1, 10_000)))
        await until(lambda: served.facts.large_answers > MAX_IN_FLIGHT + 50)
        for number in range(1, 101):
            assert text_of(await other.ask(call(number, "echo", text="quick"))) == "quick"
            assert len(asyncio.all_tasks()) < before + MAX_IN_FLIGHT + 10
        assert served.facts.large_answers < 2 * MAX_IN_FLIGHT
        written.cancel()
        deaf.writer.transport.abort()
        await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_the_id_of_a_request_that_is_still_open_is_refused(served: Small) -> None:
    async with served.client() as client:
        await client.send(call(1, "wait"))
        await within(served.facts.waiting)
        refused = await client.ask(call(1, "large", size=1))
        assert (refused["id"], refused["error"]["code"]) == (1, -32600)
        assert served.facts.large_answers == 0
        served.facts.go_on.set()
        assert text_of(await client.receive()) == "went on"
        assert text_of(await client.ask(call(1, "echo", text="free again"))) == "free again"


async def test_an_answer_that_is_too_long_for_a_message_is_an_error(
    served: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 10_000)
    async with served.client() as client:
        answer = await client.ask(call(1, "large", size=10_000))
        assert (answer["id"], answer["error"]["code"]) == (1, -32603)
        assert "10000" in answer["error"]["message"]
        assert text_of(await client.ask(call(2, "echo", text="alive"))) == "alive"


async def test_half_a_line_and_then_silence_holds_up_nobody(small: Small) -> None:
    async with small.running():
        silent = await RawClient.connect(small.path)
        await silent.send(call(1, "who") + call(2, "who")[:-9])
        assert (await silent.receive())["id"] == 1
        async with small.client() as other:
            assert text_of(await other.ask(call(1, "echo", text="quick"))) == "quick"
    assert await silent.receive_line() == b""
    await silent.close()


@pytest.mark.parametrize(
    "early",
    [request(1, "tools/list"), request(1, "resources/subscribe", {"uri": "task://7"}), call(1, "who", modern=False)],
    ids=["a list", "a subscription", "a call"],
)
async def test_a_request_before_the_handshake_is_refused_and_the_handshake_still_works(
    served: Small, early: bytes
) -> None:
    async with served.client() as client:
        refused = await client.ask(early)
        assert (refused["id"], refused["error"]["code"]) == (1, -32602)
        await client.shake_hands()
        assert text_of(await client.ask(call(2, "echo", modern=False, text="hello"))) == "hello"


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("method", ["no/such/method", "tasks/list", "", "tools/call/"])
async def test_an_unknown_method_is_refused_by_the_code_for_it(served: Small, method: str, modern: bool) -> None:
    async with served.client() as client:
        if not modern:
            await client.shake_hands()
        refused = await client.ask(request(1, method, MODERN if modern else {}))
        assert (refused["id"], refused["error"]["code"]) == (1, -32601)
        assert text_of(await client.ask(call(2, "echo", modern=modern, text="alive"))) == "alive"


@pytest.mark.parametrize("version", ["1999-01-01", "2099-12-31", "latest"])
async def test_an_unknown_version_of_the_newer_era_is_refused_with_those_we_speak(served: Small, version: str) -> None:
    meta = MODERN["_meta"] | {"io.modelcontextprotocol/protocolVersion": version}
    async with served.client() as client:
        refused = await client.ask(request(1, "tools/list", {"_meta": meta}))
        assert (refused["id"], refused["error"]["code"]) == (1, -32022)
        assert "2026-07-28" in refused["error"]["data"]["supported"]
        assert text_of(await client.ask(call(2, "echo", text="alive"))) == "alive"


async def test_a_handshake_for_an_unknown_version_is_answered_with_one_we_speak(served: Small) -> None:
    async with served.client() as client:
        asked: dict[str, Any] = HANDSHAKE | {"protocolVersion": "2099-12-31"}
        answer = await client.ask(request(1, "initialize", asked))
        assert answer["result"]["protocolVersion"] == "2025-11-25"


async def test_an_answer_that_nobody_asked_for_and_a_cancellation_of_nothing_are_harmless(served: Small) -> None:
    async with served.client() as client:
        await client.send(line({"jsonrpc": "2.0", "id": 99, "result": {}}))
        for nonsense in ({"requestId": 5}, {"requestId": None}, {"requestId": [1]}, {}):
            await client.send(notification("notifications/cancelled", nonsense))
        assert text_of(await client.ask(call(1, "echo", text="alive"))) == "alive"
