"""What a client follows goes on when the server is restarted under it."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPDeprecationWarning
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import ResourceUpdatedNotification

from tests.transports.raw_client import (
    DEADLINE_SECONDS,
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
from tests.transports.shim_process import SHIM, ShimProcess, environment, fake_server
from tests.transports.small_server import Small
from tests.transports.test_shim_start import SMALL, servers_end_with_the_test, stand_in

__all__ = ["servers_end_with_the_test"]

RESTARTED = -32000
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
LIST_CHANGED = "notifications/resources/list_changed"


def listen(request_id: int | str, **wanted: Any) -> bytes:
    return request(request_id, "subscriptions/listen", MODERN | {"notifications": wanted})


def told(request_id: int | str, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params | {"_meta": {SUBSCRIPTION_ID: request_id}}}


def acknowledgement(request_id: int | str, **honoured: Any) -> bytes:
    message = told(request_id, ACKNOWLEDGED, notifications=honoured)
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def refusal(request_id: int | str, code: int = -32602) -> bytes:
    return line({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": "no such thing"}})


def result(request_id: int | str, **fields: Any) -> bytes:
    return line({"jsonrpc": "2.0", "id": request_id, "result": fields})


class Script:
    """A server that answers its n-th connection with the n-th list of (what it is sent, what it says to that)."""

    def __init__(self, *connections: list[tuple[str, bytes]]) -> None:
        self.connections = [dict(connection) for connection in connections]
        self.heard: list[list[dict[str, Any]]] = []

    async def serve(self, client: RawClient) -> None:
        answers = self.connections[len(self.heard)]
        heard: list[dict[str, Any]] = []
        self.heard.append(heard)
        while received := await client.receive_line():
            heard.append(json.loads(received))
            said = answers.pop(heard[-1]["method"], b"")
            await client.send(said)
            if not answers:
                return

    def methods(self) -> list[list[str]]:
        return [[message["method"] for message in connection] for connection in self.heard]


async def test_a_stream_goes_on_at_the_next_server_and_tells_what_may_have_been_missed(small: Small) -> None:
    async with AsyncExitStack() as until_the_end:
        async with small.running():
            shim = await until_the_end.enter_async_context(ShimProcess.run(small.home))
            await shim.send(listen("s", resourcesListChanged=True, resourceSubscriptions=["task://7", "task://8"]))
            assert (await shim.receive())["method"] == ACKNOWLEDGED
            await small.facts.bus.publish(ResourceUpdated(uri="task://7"))
            assert await shim.receive() == told("s", UPDATED, uri="task://7")
        for _ in range(3):
            async with small.running():
                assert [await shim.receive() for _ in range(3)] == [
                    told("s", LIST_CHANGED),
                    told("s", UPDATED, uri="task://7"),
                    told("s", UPDATED, uri="task://8"),
                ]
                await small.facts.bus.publish(ResourcesListChanged())
                assert await shim.receive() == told("s", LIST_CHANGED)
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")


async def test_a_real_client_goes_on_listening_over_a_restart(small: Small) -> None:
    parameters = StdioServerParameters(command=SHIM[0], args=SHIM[1:], env=environment(small.home))
    async with asyncio.timeout(2 * DEADLINE_SECONDS), AsyncExitStack() as until_the_end:
        async with small.running():
            client = await until_the_end.enter_async_context(Client(parameters))
            events = await until_the_end.enter_async_context(client.listen(resource_subscriptions=["task://7"]))
            await small.facts.bus.publish(ResourceUpdated(uri="task://7"))
            assert await anext(events) == ResourceUpdated(uri="task://7")
        async with small.running():
            assert await anext(events) == ResourceUpdated(uri="task://7")
            await small.facts.bus.publish(ResourceUpdated(uri="task://7"))
            assert await anext(events) == ResourceUpdated(uri="task://7")
            assert (await client.call_tool("who", {})).structured_content == {"result": "desk"}


async def test_a_subscription_of_the_older_era_goes_on_unless_it_was_ended(small: Small) -> None:
    async with AsyncExitStack() as until_the_end:
        async with small.running():
            shim = await until_the_end.enter_async_context(ShimProcess.run(small.home))
            await shim.shake_hands()
            for number, uri in enumerate(["task://7", "task://8"]):
                await shim.ask(request(number, "resources/subscribe", {"uri": uri}))
            await shim.ask(request(3, "resources/unsubscribe", {"uri": "task://8"}))
        async with small.running():
            assert (await shim.receive())["params"] == {"uri": "task://7"}
            assert list(small.facts.subscribed) == ["task://7"]
            await small.facts.subscribed["task://7"].send_resource_updated("task://7")
            assert (await shim.receive())["params"] == {"uri": "task://7"}
            assert text_of(await shim.ask(call(4, "echo", modern=False, text="hello"))) == "hello"
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")


async def test_a_real_client_of_the_older_era_goes_on_being_told_over_a_restart(small: Small) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.put_nowait(str(message.params.uri))

    parameters = StdioServerParameters(command=SHIM[0], args=SHIM[1:], env=environment(small.home))
    async with asyncio.timeout(2 * DEADLINE_SECONDS), AsyncExitStack() as until_the_end:
        async with small.running():
            opened = Client(parameters, mode="legacy", message_handler=hear)
            client = await until_the_end.enter_async_context(opened)
            with pytest.warns(MCPDeprecationWarning):
                await client.subscribe_resource("task://7")
            assert list(small.facts.subscribed) == ["task://7"]
        async with small.running():
            assert await heard.get() == "task://7"
            await small.facts.subscribed["task://7"].send_resource_updated("task://7")
            assert await heard.get() == "task://7"


async def test_after_a_handshake_the_lists_are_told_of_that_were_promised(home: Path) -> None:
    told_of = {"tools": {"listChanged": True}, "resources": {"listChanged": True}, "prompts": {"listChanged": False}}
    answer = result(0, capabilities=told_of)
    server = Script(
        [("initialize", answer), ("notifications/initialized", b"")],
        [("initialize", answer), ("never", b"")],
    )
    async with fake_server(home, server.serve), ShimProcess.run(home) as shim:
        await shim.ask(request(0, "initialize", HANDSHAKE))
        await shim.send(notification("notifications/initialized"))
        assert [(await shim.receive())["method"] for _ in range(2)] == [
            LIST_CHANGED,
            "notifications/tools/list_changed",
        ]
    assert server.methods() == [["initialize", "notifications/initialized"]] * 2


async def test_a_graceful_end_of_the_server_is_none_of_the_stream(home: Path) -> None:
    server = Script(
        [("subscriptions/listen", acknowledgement(1, toolsListChanged=True) + result(1))],
        [("subscriptions/listen", acknowledgement(1, toolsListChanged=True) + refusal(1, RESTARTED))],
        [("subscriptions/listen", acknowledgement(1, toolsListChanged=True)), ("ping", result(2))],
    )
    async with fake_server(home, server.serve), ShimProcess.run(home) as shim:
        assert (await shim.ask(listen(1, toolsListChanged=True)))["method"] == ACKNOWLEDGED
        for _ in range(2):
            assert await shim.receive() == told(1, "notifications/tools/list_changed")
        assert await shim.ask(request(2, "ping")) == json.loads(result(2))


async def test_other_requests_fail_when_a_stream_goes_on(small: Small) -> None:
    async with AsyncExitStack() as until_the_end:
        async with small.running():
            shim = await until_the_end.enter_async_context(ShimProcess.run(small.home))
            await shim.ask(listen("s", toolsListChanged=True))
            await shim.send(call(1, "wait"))
            await within(small.facts.waiting)
        failed = await shim.receive()
        assert (failed["id"], failed["error"]["code"]) == (1, RESTARTED)
        async with small.running():
            assert await shim.receive() == told("s", "notifications/tools/list_changed")


async def test_a_stream_that_the_client_cancelled_does_not_come_back(home: Path) -> None:
    server = Script(
        [
            ("subscriptions/listen", acknowledgement(1, toolsListChanged=True)),
            ("notifications/cancelled", b""),
            ("ping", result(2)),
        ],
        [("ping", result(3))],
    )
    async with fake_server(home, server.serve), ShimProcess.run(home) as shim:
        await shim.ask(listen(1, toolsListChanged=True))
        await shim.send(notification("notifications/cancelled", {"requestId": 1}))
        assert (await shim.ask(request(2, "ping")))["id"] == 2
        assert (await shim.ask(request(3, "ping")))["id"] == 3
    assert server.methods() == [["subscriptions/listen", "notifications/cancelled", "ping"], ["ping"]]


async def test_a_stream_that_was_not_acknowledged_is_acknowledged_by_the_next_server(home: Path) -> None:
    ping = acknowledgement(1, toolsListChanged=True)
    server = Script([("subscriptions/listen", b"")], [("subscriptions/listen", ping), ("ping", result(2))])
    async with fake_server(home, server.serve), ShimProcess.run(home) as shim:
        assert (await shim.ask(listen(1, toolsListChanged=True)))["method"] == ACKNOWLEDGED
        assert (await shim.ask(request(2, "ping")))["id"] == 2


async def test_a_stream_that_the_next_server_refuses_ends_with_its_error(home: Path) -> None:
    server = Script(
        [("subscriptions/listen", acknowledgement(1, toolsListChanged=True))],
        [("subscriptions/listen", refusal(1)), ("ping", result(2))],
        [("ping", result(3))],
    )
    async with fake_server(home, server.serve), ShimProcess.run(home) as shim:
        await shim.ask(listen(1, toolsListChanged=True))
        assert await shim.receive() == json.loads(refusal(1))
        for number in (2, 3):
            assert (await shim.ask(request(number, "ping")))["id"] == number
    assert server.methods()[2] == ["ping"]


async def test_a_subscription_that_the_next_server_refuses_is_told_of_and_forgotten(home: Path) -> None:
    handshake = [("initialize", result(0, capabilities={})), ("notifications/initialized", b"")]
    server = Script(
        [*handshake, ("resources/subscribe", result(1))],
        [*handshake, ("resources/subscribe", refusal("offhand-mcp:0")), ("ping", result(2))],
        [*handshake, ("ping", result(3))],
    )
    async with fake_server(home, server.serve), ShimProcess.run(home) as shim:
        await shim.shake_hands(0)
        await shim.ask(request(1, "resources/subscribe", {"uri": "task://7"}))
        assert (await shim.receive())["params"] == {"uri": "task://7"}
        for number in (2, 3):
            assert (await shim.ask(request(number, "ping")))["id"] == number
        shim.close_stdin()
        _, _, complaints = await shim.end()
    assert complaints == "The restarted server does not follow task://7: no such thing\n"
    assert server.methods()[2] == ["initialize", "notifications/initialized", "ping"]


async def test_what_only_the_first_server_could_follow_is_told_of_once_more(home: Path) -> None:
    server = Script(
        [("subscriptions/listen", acknowledgement(1, resourceSubscriptions=["task://7", "task://8"]))],
        [("subscriptions/listen", acknowledgement(1, resourceSubscriptions=["task://8"])), ("never", b"")],
    )
    async with fake_server(home, server.serve), ShimProcess.run(home) as shim:
        await shim.ask(listen(1, resourceSubscriptions=["task://7", "task://8"]))
        assert [(await shim.receive())["params"]["uri"] for _ in range(2)] == ["task://7", "task://8"]
        shim.close_stdin()
        assert (await shim.end())[2] == "The restarted server cannot follow task://7 any more.\n"


async def test_a_shim_that_is_refused_after_a_restart_ends_the_streams_with_the_reason(small: Small) -> None:
    async with AsyncExitStack() as until_the_end:
        async with small.running():
            shim = await until_the_end.enter_async_context(ShimProcess.run(small.home))
            await shim.ask(listen("s", toolsListChanged=True))
        async with small.running(admit=lambda _: None):
            answer = await shim.receive()
            status, out, _ = await shim.end()
    assert (answer["id"], status, out) == ("s", 1, b"")
    assert "refused" in answer["error"]["message"]


async def test_waiting_for_the_next_server_starts_none_and_a_request_does(home: Path) -> None:
    looks = asyncio.Semaphore(0)

    async def hang_up(client: RawClient) -> None:
        await client.receive()
        await client.send(acknowledgement(1, toolsListChanged=True))
        looks.release()

    async with AsyncExitStack() as until_the_end:
        async with fake_server(home, hang_up):
            shim = await until_the_end.enter_async_context(ShimProcess.run(home, stand_in(home, SMALL)))
            await shim.ask(listen(1, toolsListChanged=True))
            async with asyncio.timeout(DEADLINE_SECONDS):
                for _ in range(4):
                    await looks.acquire()
        assert not (home / "calls").exists()
        await shim.send(call(2, "who"))
        while (answer := await shim.receive()).get("id") != 2:
            assert answer["method"] == "notifications/tools/list_changed"
        assert text_of(answer) == "desk"
    assert (home / "calls").exists()


async def test_no_server_is_started_for_a_notification(home: Path) -> None:
    server = Script([("subscriptions/listen", acknowledgement(1, toolsListChanged=True)), ("never", b"")])
    cancelled = notification("notifications/cancelled", {"requestId": 1})
    async with AsyncExitStack() as until_the_end:
        async with fake_server(home, server.serve):
            shim = await until_the_end.enter_async_context(ShimProcess.run(home, stand_in(home, SMALL)))
            await shim.ask(listen(1, toolsListChanged=True))
        await shim.send(cancelled)
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")
    assert not (home / "calls").exists()


async def test_a_server_that_fails_again_and_again_is_waited_for_until_it_serves(home: Path) -> None:
    connections = 0

    async def serve(client: RawClient) -> None:
        nonlocal connections
        connections += 1
        await client.receive()
        if connections in (1, 7):
            await client.send(acknowledgement(1, toolsListChanged=True))
        if connections == 7:
            await client.receive_line()

    async with fake_server(home, serve), ShimProcess.run(home) as shim:
        await shim.ask(listen(1, toolsListChanged=True))
        assert await shim.receive() == told(1, "notifications/tools/list_changed")
        assert connections == 7
