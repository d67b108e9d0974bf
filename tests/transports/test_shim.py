from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

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
from tests.transports.small_server import Small, say_where

RESTARTED = -32000


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_real_client_calls_tools_through_the_shim(served: Small, mode: Literal["auto", "legacy"]) -> None:
    parameters = StdioServerParameters(command=SHIM[0], args=SHIM[1:], env=environment(served.home))
    async with asyncio.timeout(20), Client(parameters, mode=mode) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"who", "echo"}
        result = await client.call_tool("who", {})
        assert result.structured_content == {"result": "desk"}
        large = await client.call_tool("large", {"size": 3_000_000})
        assert large.structured_content == {"result": "x" * 3_000_000}
        echoed = await client.call_tool("echo", {"text": "y" * 3_000_000})
        assert echoed.structured_content == {"result": "y" * 3_000_000}


async def test_lines_are_copied_byte_by_byte_in_both_directions(home: Path) -> None:
    lines = [
        b"\xff\xfe\x00 not even text\r \x85\n",
        b'{ "jsonrpc" :"2.0",\t"method": "notifications/x"}\r\n',
        b"\n",
        b"[" + b"0," * 4_000_000 + b"0]\n",
        b"{}\n",
    ]

    async def echo(client: RawClient) -> None:
        while received := await client.receive_line():
            await client.send(received)

    async with fake_server(home, echo), ShimProcess.run(home) as shim:
        for expected in lines:
            await shim.send(expected)
            assert await shim.receive_line() == expected
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")


async def test_both_directions_may_be_full_at_once(home: Path) -> None:
    """A client that writes much before it reads, and a server that answers meanwhile: nobody waits for ever."""
    flood = [b"x" * 100_000 + b"\n"] * 300

    async def echo(client: RawClient) -> None:
        while received := await client.receive_line():
            await client.send(received)

    async with fake_server(home, echo), ShimProcess.run(home) as shim:
        received, _ = await asyncio.gather(receive_all(shim, len(flood)), shim.send(b"".join(flood)))
    assert received == flood


async def test_a_client_may_write_all_before_it_reads(home: Path) -> None:
    """What fits into the buffers of the shim must not wait for the client to read."""
    flood = b"x" * 50_000 + b"\n"

    async def echo(client: RawClient) -> None:
        while received := await client.receive_line():
            await client.send(received)

    def write_then_read() -> list[bytes]:
        with subprocess.Popen(
            SHIM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(home), bufsize=0
        ) as shim:
            deadline = threading.Timer(DEADLINE_SECONDS, shim.kill)
            deadline.start()
            assert shim.stdin is not None
            assert shim.stdout is not None
            for _ in range(15):
                shim.stdin.write(flood)
            shim.stdin.close()
            read = shim.stdout.read()
            deadline.cancel()
            return read.splitlines(keepends=True)

    async with fake_server(home, echo):
        assert await asyncio.to_thread(write_then_read) == [flood] * 15


async def test_a_last_message_without_newline_is_sent(served: Small) -> None:
    async with ShimProcess.run(served.home) as shim:
        await shim.send(call(1, "echo", text="hello").rstrip())
        shim.close_stdin()
        status, out, err = await shim.end()
    assert (status, err, text_of(json.loads(out))) == (0, "", "hello")


async def test_the_answers_still_open_are_delivered_after_stdin_closed(served: Small) -> None:
    async with ShimProcess.run(served.home) as shim:
        await shim.send(call(1, "wait") + call(2, "large", size=1_000_000))
        assert (await shim.receive())["id"] == 2
        shim.close_stdin()
        served.facts.go_on.set()
        status, out, err = await shim.end()
    assert (status, err, text_of(json.loads(out))) == (0, "", "went on")


async def test_an_answer_that_takes_too_long_does_not_hold_the_shim(served: Small) -> None:
    async with ShimProcess.run(served.home) as shim:
        await shim.send(call(1, "wait"))
        await within(served.facts.waiting)
        shim.close_stdin()
        began = time.monotonic()
        status, out, err = await shim.end()
    assert (status, err) == (0, "")
    assert json.loads(out)["error"]["code"] == RESTARTED
    assert 2 < time.monotonic() - began < 4


async def test_a_subscription_does_not_hold_the_shim(served: Small) -> None:
    listen = request("s", "subscriptions/listen", MODERN | {"notifications": {"toolsListChanged": True}})
    async with ShimProcess.run(served.home) as shim:
        assert "method" in await shim.ask(listen)
        shim.close_stdin()
        began = time.monotonic()
        assert (await shim.end())[0] == 0
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("chosen", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_the_shim_at_once_and_quietly(served: Small, chosen: signal.Signals) -> None:
    async with ShimProcess.run(served.home) as shim:
        await shim.ask(call(1, "who"))
        await shim.send(call(2, "wait"))
        await within(served.facts.waiting)
        began = time.monotonic()
        shim.process.send_signal(chosen)
        status, out, err = await shim.end()
        assert time.monotonic() - began < 0.5
        await within(served.facts.cancelled)
    assert (status, out, err) == (130 if chosen is signal.SIGINT else -chosen, b"", "")


async def test_the_shim_ends_when_nobody_reads_its_stdout(served: Small) -> None:
    read_end, write_end = os.pipe()
    shim = await asyncio.create_subprocess_exec(
        *SHIM, stdin=subprocess.PIPE, stdout=write_end, stderr=subprocess.PIPE, env=environment(served.home)
    )
    os.close(write_end)
    assert shim.stdin is not None
    shim.stdin.write(call(1, "who"))
    await asyncio.wait_for(asyncio.to_thread(os.read, read_end, 1), DEADLINE_SECONDS)
    os.close(read_end)
    async with asyncio.timeout(10):
        _, err = await shim.communicate()
    assert (shim.returncode, err) == (0, b"")


async def test_an_open_request_gets_an_error_when_the_server_ends_and_the_next_one_an_answer(small: Small) -> None:
    async with AsyncExitStack() as until_the_end:
        async with small.running():
            shim = await until_the_end.enter_async_context(ShimProcess.run(small.home))
            assert text_of(await shim.ask(call(1, "echo", text="before"))) == "before"
        async with small.running():
            await shim.send(call("open", "wait"))
            await within(small.facts.waiting)
        closed = await shim.receive()
        assert (closed["id"], closed["error"]["code"]) == ("open", RESTARTED)
        async with small.running():
            assert text_of(await shim.ask(call(2, "echo", text="after"))) == "after"


async def test_a_request_that_a_dying_server_leaves_open_gets_one_error(home: Path) -> None:
    served = asyncio.Event()

    async def die(client: RawClient) -> None:
        received = [await client.receive() for _ in range(3)]
        await client.send(line({"jsonrpc": "2.0", "id": 2, "result": {}}))
        await client.send(b'{"jsonrpc":"2.0","id":3,"result":{"half an')
        assert [message.get("id") for message in received] == [2, None, 3]
        served.set()

    async with AsyncExitStack() as until_the_end:
        async with fake_server(home, die):
            shim = await until_the_end.enter_async_context(ShimProcess.run(home))
            await shim.send(request(2, "ping") + notification("notifications/x") + request(3, "ping"))
            await within(served)
        assert (await shim.receive())["id"] == 2
        error = await shim.receive()
        assert (error["id"], error["error"]["code"]) == (3, RESTARTED)
        async with Small(home).running():
            assert text_of(await shim.ask(call(4, "echo", text="whole"))) == "whole"
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")


async def test_a_request_that_was_only_half_sent_gets_an_error_and_the_next_one_goes_out_whole(small: Small) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def read_the_beginning(client: RawClient) -> None:
        await client.reader.readexactly(1000)
        client.stop_reading()
        begun.set()
        await let_go.wait()

    async with fake_server(small.home, read_the_beginning) as path, ShimProcess.run(small.home) as shim:
        await shim.send(call(1, "echo", text="x" * 5_000_000))
        await shim.send(call(2, "echo", text="next"))
        await within(begun)
        path.unlink()
        async with small.running():
            let_go.set()
            closed = await shim.receive()
            assert (closed["id"], closed["error"]["code"]) == (1, RESTARTED)
            assert text_of(await shim.receive()) == "next"


async def test_a_cancelled_request_gets_no_error_when_the_server_ends(home: Path) -> None:
    async def die(client: RawClient) -> None:
        for _ in range(3):
            await client.receive()

    async with AsyncExitStack() as until_the_end:
        async with fake_server(home, die):
            shim = await until_the_end.enter_async_context(ShimProcess.run(home))
            await shim.send(request(1, "ping"))
            await shim.send(notification("notifications/cancelled", {"requestId": 1}) + request(2, "ping"))
            assert (await shim.receive())["id"] == 2
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")


async def test_an_answer_of_the_client_and_a_request_of_the_server_close_nothing(home: Path) -> None:
    """Both sides count their own requests: the same id means another thing in the other direction."""

    async def ask_back(client: RawClient) -> None:
        await client.receive()
        await client.send(request(1, "elicitation/create"))
        assert (await client.receive())["result"] == {}

    async with AsyncExitStack() as until_the_end:
        async with fake_server(home, ask_back):
            shim = await until_the_end.enter_async_context(ShimProcess.run(home))
            assert (await shim.ask(request(1, "tools/call")))["method"] == "elicitation/create"
            await shim.send(line({"jsonrpc": "2.0", "id": 1, "result": {}}))
            closed = await shim.receive()
        assert (closed["id"], closed["error"]["code"]) == (1, RESTARTED)


async def test_the_handshake_is_repeated_and_its_second_answer_kept_back(small: Small) -> None:
    async with AsyncExitStack() as until_the_end:
        async with small.running():
            shim = await until_the_end.enter_async_context(ShimProcess.run(small.home))
            assert (await shim.shake_hands())["id"] == "handshake"
        for number in range(3):
            async with small.running():
                answer = await shim.ask(call(number, "echo", modern=False, text="after"))
                assert (answer["id"], text_of(answer)) == (number, "after")
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")


async def test_the_next_server_hears_the_whole_handshake_word_for_word(home: Path) -> None:
    heard: list[list[bytes]] = []

    async def listen(client: RawClient) -> None:
        heard.append([])
        while received := await client.receive_line():
            heard[-1].append(received)
            if b'"id"' in received:
                await client.send(line({"jsonrpc": "2.0", "id": json.loads(received)["id"], "result": {}}))
            if b'"ping"' in received:
                return

    handshake = [request(1, "initialize", HANDSHAKE).replace(b":", b" : "), notification("notifications/initialized")]
    pings = [request(number, "ping") for number in (2, 3)]
    async with fake_server(home, listen), ShimProcess.run(home) as shim:
        for message in (*handshake, *pings):
            await shim.send(message)
            if b'"id"' in message:
                assert (await shim.receive())["id"] == json.loads(message)["id"]
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")
    assert heard == [[*handshake, pings[0]], [*handshake, pings[1]]]


async def test_a_handshake_that_was_not_answered_is_answered_by_the_next_server(small: Small) -> None:
    asked, let_go = asyncio.Event(), asyncio.Event()

    async def stay_silent(client: RawClient) -> None:
        await client.receive()
        asked.set()
        await let_go.wait()

    async with fake_server(small.home, stay_silent) as path, ShimProcess.run(small.home) as shim:
        await shim.send(request(1, "initialize", HANDSHAKE))
        await within(asked)
        path.unlink()
        async with small.running():
            let_go.set()
            answer = await shim.receive()
    assert (answer["id"], answer["result"]["serverInfo"]["name"]) == (1, "small")


async def test_a_refused_shim_tells_the_client_why_and_ends(small: Small) -> None:
    async with small.running(admit=lambda _: None), ShimProcess.run(small.home) as shim:
        answer = await shim.ask(request(1, "initialize", HANDSHAKE))
        status, out, err = await shim.end()
    assert (answer["id"], status, out) == (1, 1, b"")
    assert "refused" in answer["error"]["message"]
    assert answer["error"]["message"] in err


async def test_a_server_that_hangs_up_every_time_is_given_up(home: Path) -> None:
    calls: list[RawClient] = []

    async def hang_up(client: RawClient) -> None:
        calls.append(client)
        await client.receive_line()

    async with fake_server(home, hang_up), ShimProcess.run(home) as shim:
        answers = [await shim.ask(request(number, "ping")) for number in range(3)]
        status, _, err = await shim.end()
    assert [answer["id"] for answer in answers] == [0, 1, 2]
    assert "log" in answers[-1]["error"]["message"]
    assert (status, len(calls)) == (1, 3)
    assert "log" in err


async def test_the_place_of_the_socket_may_need_unescaping(home: Path) -> None:
    odd = home / 'ä "quoted" \\ folder'
    odd.mkdir()
    say_where(home, mcp_socket=str(odd / "mcp.sock"))
    async with Small(odd).running(), ShimProcess.run(home) as shim:
        assert text_of(await shim.ask(call(1, "who"))) == "desk"


async def test_arguments_are_refused_with_a_hint(home: Path) -> None:
    async with ShimProcess.run(home, [*SHIM, "--help"]) as shim:
        status, out, err = await shim.end()
    assert (status, out) == (2, b"")
    assert err.startswith("usage:")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
async def test_a_shim_without_stdin_or_stdout_ends(served: Small, closed: str) -> None:
    shim = await asyncio.create_subprocess_exec(
        "sh", "-c", f'exec "$@" {closed}', "sh", *SHIM, stdin=subprocess.PIPE, env=environment(served.home)
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await shim.wait() == 0


def test_the_start_of_the_shim_imports_next_to_nothing() -> None:
    code = "import sys; import mcp_server.transports.shim; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-S", "-c", code], env=environment(Path()), capture_output=True, check=True)
    heavy = {"json", "re", "socket", "enum", "pathlib", "typing", "subprocess", "threading", "collections", "mcp"}
    assert heavy.isdisjoint(ran.stdout.decode().split())


async def receive_all(client: RawClient, count: int) -> list[bytes]:
    return [await client.receive_line() for _ in range(count)]
