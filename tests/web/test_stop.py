"""Told to stop, the server ends every HTTP stream as streams end, and is gone within five seconds."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import httpx2

from tests.server.gate import Gate
from tests.server.processes import STOP_SECONDS, ServerProcess
from tests.web.conftest import Start
from tests.web.test_bad_requests import HELLO
from tests.web.test_http import ACCEPT, META, MODERN, bearer
from tests.web.test_serve import CALL, call, open_legacy_stream, open_listen_stream, settled

STREAMS = 50
LEGACY_STREAMS = 10


async def test_with_many_streams_and_calls_open_each_ends_as_it_should(start: Start, gate: Gate):
    server = start()
    key = server.key
    limits = httpx2.Limits(max_connections=None)
    async with AsyncExitStack() as stack:
        raw = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=server.url, timeout=30, verify=False, limits=limits)
        )
        await running_task(raw, server, gate)
        listening = [await open_listen_stream(stack, raw, key) for _ in range(STREAMS)]
        legacy = [await open_legacy_stream(stack, raw, key) for _ in range(LEGACY_STREAMS)]
        asked = [
            asyncio.create_task(
                raw.post("/mcp", json=call("get_task", {"task_id": "t", "wait": 45}), headers=CALL | bearer(key))
            )
            for _ in range(5)
        ]
        asked.append(asyncio.create_task(wait_in_a_session(raw, key)))
        await settled(raw, key)

        seconds = await asyncio.to_thread(server.stop)
        async with asyncio.timeout(10):
            said = [(await stream.aread()).decode() for stream in listening]
            old = [(await stream.aread()).decode() for stream in legacy]
            answers = await asyncio.gather(*asked)

    assert seconds < STOP_SECONDS
    assert server.process.returncode == 0
    assert "Traceback" not in server.said, server.said
    assert "Traceback" not in (server.place.home / "logs" / "offhand.log").read_text()
    for words in said:
        last = json.loads(words.rpartition("data: ")[2])
        assert last["id"] == 2, "its answer, which is how a stream of the newer era ends"
        assert "result" in last
    assert len(old) == LEGACY_STREAMS, "each was closed, none was cut off"
    for answer in answers:
        assert "running" in answer.text


async def test_readers_that_do_not_read_do_not_hold_it_up(start: Start, gate: Gate):
    server = start()
    async with httpx2.AsyncClient(base_url=server.url, timeout=30, verify=False) as raw:
        await running_task(raw, server, gate)
    with ExitStack() as stack:
        for _ in range(STREAMS):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            deaf.connect(("127.0.0.1", server.facts["port"]))
            deaf.sendall(listen_request(server.key))
        for _ in range(STREAMS):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", server.facts["port"])))
            idle.sendall(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + server.key.encode() + b"\r\n")
        seconds = await asyncio.to_thread(server.stop)

    assert seconds < STOP_SECONDS
    assert server.process.returncode == 0
    assert "Traceback" not in server.said, server.said


async def running_task(raw: httpx2.AsyncClient, server: ServerProcess, gate: Gate) -> None:
    """A task `t` that goes on until the test says otherwise; phones may not use the shell, so the desk asks for it."""
    transport = httpx2.AsyncHTTPTransport(uds=server.facts["http_socket"])
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as desk:
        order = {"agent": "shell", "params": {"command": ["sh", "-c", gate.snippet]}, "task_id": "t", "wait": 0}
        headers = CALL | {"Mcp-Name": "delegate_task"}
        answer = await desk.post("/mcp", json=call("delegate_task", order), headers=headers)
        assert answer.status_code == 200, answer.text
    await gate.reached()


async def wait_in_a_session(raw: httpx2.AsyncClient, key: str) -> httpx2.Response:
    opened = await raw.post("/mcp", json=HELLO, headers=ACCEPT | bearer(key))
    headers = ACCEPT | bearer(key) | {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    await raw.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
    return await raw.post("/mcp", json=call("get_task", {"task_id": "t", "wait": 45}), headers=headers)


def listen_request(key: str) -> bytes:
    params: dict[str, Any] = {"notifications": {"resourceSubscriptions": ["task://t/output"]}, "_meta": META}
    body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "subscriptions/listen", "params": params}).encode()
    headers = MODERN | {"Mcp-Method": "subscriptions/listen", "Host": "localhost", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers | bearer(key)).items())
    return f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body
