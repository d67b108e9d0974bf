"""What the shim makes of clients that are hostile, broken, or slow."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from mcp.server.subscriptions import ToolsListChanged

from mcp_server.transports import shim as shim_module
from mcp_server.transports.messages import MAX_LINE_BYTES
from tests.transports.raw_client import MODERN, RawClient, call, line, request, text_of
from tests.transports.shim_process import ShimProcess, fake_server
from tests.transports.small_server import Small
from tests.transports.test_mcp_socket import until

MIB = 1024 * 1024
PYTHON_BYTES = 24 * MIB
"""A shim that has nothing to do takes less than this."""


def most_memory(shim: ShimProcess) -> int:
    """The most bytes that the process ever had in memory."""
    status = Path(f"/proc/{shim.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def listen(request_id: str) -> bytes:
    return request(request_id, "subscriptions/listen", MODERN | {"notifications": {"toolsListChanged": True}})


def test_the_shim_keeps_more_of_a_line_than_the_server_takes() -> None:
    assert shim_module.LONGEST_LINE_BYTES > MAX_LINE_BYTES


@pytest.mark.parametrize("id_at", ["head", "tail"])
async def test_a_line_of_any_length_takes_bounded_memory_and_is_refused_by_its_id(served: Small, id_at: str) -> None:
    head, tail = (b'{"jsonrpc":"2.0","id":7,', b"}\n") if id_at == "head" else (b"{", b',"jsonrpc":"2.0","id":7}\n')
    async with ShimProcess.run(served.home) as shim:
        await shim.send(head + b'"method":"ping","params":{"text":"')
        for _ in range(200):
            await shim.send(b"x" * MIB)
        await shim.send(b'"}' + tail)
        refused = await shim.receive()
        assert (refused["id"], refused["error"]["code"]) == (7, -32600)
        assert text_of(await shim.ask(call(8, "echo", text="alive"))) == "alive"
        assert most_memory(shim) < PYTHON_BYTES + 4 * MAX_LINE_BYTES


async def test_half_a_line_and_then_silence_holds_up_no_news(served: Small) -> None:
    async with ShimProcess.run(served.home) as shim:
        await shim.ask(listen("s"))
        await shim.send(call(1, "who")[:-9])
        await served.facts.bus.publish(ToolsListChanged())
        assert (await shim.receive())["method"] == "notifications/tools/list_changed"
        await shim.send(call(1, "who")[-9:])
        assert text_of(await shim.receive()) == "desk"


async def test_ten_thousand_requests_of_a_client_that_does_not_read_take_bounded_memory(served: Small) -> None:
    async with ShimProcess.run(served.home, unread_bytes=64 * 1024) as shim, served.client() as other:
        shim.writer.write(b"".join(call(number, "large", size=5000) for number in range(10_000)))
        await until(lambda: served.facts.large_answers > 1000)
        for number in range(50):
            assert text_of(await other.ask(call(number, "echo", text="quick"))) == "quick"
        assert served.facts.large_answers < 4000
        answered = {(await shim.receive())["id"] for _ in range(10_000)}
        assert most_memory(shim) < PYTHON_BYTES + 16 * MIB
    assert answered == set(range(10_000))


async def test_a_client_may_ask_what_we_speak_and_then_shake_hands_and_a_restart_is_no_problem(small: Small) -> None:
    async with AsyncExitStack() as until_the_end:
        async with small.running():
            shim = await until_the_end.enter_async_context(ShimProcess.run(small.home))
            discovered = await shim.ask(request("d", "server/discover", MODERN))
            assert "2026-07-28" in discovered["result"]["supportedVersions"]
            assert (await shim.shake_hands())["result"]["protocolVersion"] == "2025-11-25"
        async with small.running():
            assert text_of(await shim.ask(call(1, "echo", modern=False, text="after"))) == "after"


@pytest.mark.parametrize("nonsense", [b"print debugging\n", b"\xff\xfe\n", b"[]\n", b'{"jsonrpc":"2.0"}\n'])
async def test_what_is_no_message_is_answered_and_does_no_harm(served: Small, nonsense: bytes) -> None:
    async with ShimProcess.run(served.home) as shim:
        assert (await shim.ask(nonsense))["error"]["code"] in (-32700, -32600)
        await shim.ask(listen("s"))
        assert (await shim.ask(nonsense))["error"]["code"] in (-32700, -32600)
        assert text_of(await shim.ask(call(1, "echo", text="alive"))) == "alive"
        shim.close_stdin()
        status, out, err = await shim.end()
    assert (status, err) == (0, "")
    assert all(json.loads(said)["jsonrpc"] == "2.0" for said in out.splitlines())


@pytest.mark.parametrize(
    "odd",
    [
        line({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": 7}),
        line({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged"}),
        b'{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":[]}}\n',
        b'{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged\n',
        line({"jsonrpc": "2.0", "id": "s", "error": None}),
        line({"jsonrpc": "2.0", "id": "s", "error": {"code": "none"}}),
        line({"jsonrpc": "2.0", "id": [1], "result": {}}),
    ],
)
async def test_odd_things_that_a_server_says_are_passed_on_as_they_are(home: Path, odd: bytes) -> None:
    async def serve(client: RawClient) -> None:
        await client.receive()
        await client.send(odd)
        await client.receive()
        await client.send(line({"jsonrpc": "2.0", "id": 2, "result": {}}))
        await client.receive_line()

    async with fake_server(home, serve), ShimProcess.run(home) as shim:
        await shim.send(listen("s"))
        assert await shim.receive_line() == odd
        assert (await shim.ask(request(2, "ping")))["id"] == 2


async def test_a_client_that_goes_while_no_server_runs_ends_the_shim_at_once(small: Small) -> None:
    async with AsyncExitStack() as until_the_end:
        async with small.running():
            shim = await until_the_end.enter_async_context(ShimProcess.run(small.home))
            await shim.ask(listen("s"))
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")
