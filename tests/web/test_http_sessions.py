"""Sessions of the handshake era over HTTP: whose they are, and that they end."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import httpx2
import pytest
from mcp.server.mcpserver import MCPServer

from mcp_server.runtime import Runtime
from mcp_server.web.app import open_app
from tests.server.processes import ServerProcess
from tests.web.test_bad_requests import HELLO, open_session
from tests.web.test_http import ACCEPT, LIST, bearer


@pytest.fixture
def others(server: ServerProcess, http: httpx2.Client, desk: httpx2.Client) -> Generator[list[Any]]:
    """Everybody who did not open the session: another key of the same scopes, one that may do more, the desk."""
    keys = [server.make_key("other-phone"), server.make_key("other-admin", "admin", "read")]
    yield [*((http, bearer(key)) for key in keys), (desk, {})]
    for name in ("other-phone", "other-admin"):
        desk.delete(f"/api/keys/{name}")


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_session_is_there_only_for_the_key_that_opened_it(
    http: httpx2.Client, server: ServerProcess, others: list[Any], method: str
):
    headers = open_session(http, server.key)
    without_key = {name: value for name, value in headers.items() if name != "Authorization"}
    body = LIST if method == "POST" else None
    answers = [client.request(method, "/mcp", json=body, headers=without_key | key) for client, key in others]
    unknown = http.request(method, "/mcp", json=body, headers=headers | {"Mcp-Session-Id": "nope"})
    keyless = http.request(method, "/mcp", json=body, headers=without_key)
    owner = http.post("/mcp", json=LIST, headers=headers)

    assert {(answer.status_code, answer.text) for answer in answers} == {(404, unknown.text)}
    assert keyless.status_code == 401
    assert owner.status_code == 200, "it lives on"


def test_the_desk_has_sessions_of_its_own(desk: httpx2.Client, http: httpx2.Client, server: ServerProcess):
    opened = desk.post("/mcp", json=HELLO, headers=ACCEPT)
    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
    desk.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=ACCEPT | session)

    assert desk.post("/mcp", json=LIST, headers=ACCEPT | session).status_code == 200
    assert http.post("/mcp", json=LIST, headers=ACCEPT | session | bearer(server.key)).status_code == 404


def test_a_session_ends_with_its_key(http: httpx2.Client, server: ServerProcess, desk: httpx2.Client):
    headers = open_session(http, server.make_key("short-lived"))
    desk.delete("/api/keys/short-lived")

    assert http.post("/mcp", json=LIST, headers=headers).status_code == 401


async def test_an_idle_session_is_forgotten_and_its_client_is_told_to_open_another(runtime: Runtime):
    _, key = await runtime.keys.create("phone")
    async with open_app(runtime, session_idle_seconds=0.05) as (app, server):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=10) as client:
            opened = await client.post("/mcp", json=HELLO, headers=ACCEPT | bearer(key))
            before = open_sessions(server)
            async with asyncio.timeout(10):
                while open_sessions(server):
                    await asyncio.sleep(0)
            session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
            late = await client.post("/mcp", json=LIST, headers=ACCEPT | bearer(key) | session)
            again = await client.post("/mcp", json=HELLO, headers=ACCEPT | bearer(key))

    assert before == 1
    assert late.status_code == 404
    assert again.status_code == 200


async def test_what_opens_no_session_leaves_none(runtime: Runtime):
    _, key = await runtime.keys.create("phone")
    async with open_app(runtime) as (app, server):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=10) as client:
            for method, body in (("GET", None), ("DELETE", None), ("PUT", None), ("POST", LIST), ("POST", 7)):
                answer = await client.request(method, "/mcp", json=body, headers=ACCEPT | bearer(key))
                assert answer.status_code >= 400
            assert open_sessions(server) == 0


def open_sessions(server: MCPServer[None]) -> int:
    return len(server.session_manager._server_instances)  # pyright: ignore[reportPrivateUsage]
