"""`OFFHAND_MCP_AUTH=off`: direct callers on this machine need no key for `/mcp`, and nobody else gains anything."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.types import Receive, Scope, Send

from mcp_server.callers import CALLER_KEY, Caller
from mcp_server.errors import InvalidError
from mcp_server.settings import load_settings
from mcp_server.web.auth import LoopbackDoor
from tests.server.doors import ask
from tests.server.processes import Place, ServerProcess
from tests.web.test_http import ACCEPT, LIST, META, MODERN, assert_problem, bearer

PROXIES = [
    {"Forwarded": "for=203.0.113.9"},
    {"Forwarded": ""},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-For": ""},
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Host": "localhost"},
    {"x-forwarded-anything": "1"},
    {"X-Real-IP": "127.0.0.1"},
    {"Via": "1.1 proxy"},
    {"CF-Connecting-IP": "203.0.113.9"},
    {"CF-Ray": "1"},
    {"Cdn-Loop": "cloudflare"},
    {"True-Client-IP": "127.0.0.1"},
    {"X-Client-IP": "127.0.0.1"},
    {"Fastly-Client-IP": "203.0.113.9"},
    {"X-Original-Forwarded-For": "203.0.113.9"},
    {"Tailscale-User-Login": "me@example.com"},
    {"Ngrok-Trace-Id": "1"},
]


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    """Serves `/mcp` without a key."""
    place = Place.make(tmp_path_factory.mktemp("off"))
    running = ServerProcess.start(place, OFFHAND_MCP_AUTH="off")
    try:
        yield running
    finally:
        running.close()
        place.end_all()


@pytest.fixture
def web(keyless: ServerProcess) -> Generator[httpx2.Client]:
    with httpx2.Client(base_url=keyless.url, timeout=20, verify=False) as client:
        yield client


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    return LIST | {"method": "tools/call", "params": {"name": name, "arguments": arguments, "_meta": META}}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_without_a_key_is_a_phone_named_loopback(keyless: ServerProcess, mode: str):
    async with (
        httpx2.AsyncClient(timeout=30, verify=False) as http,
        Client(streamable_http_client(f"{keyless.url}/mcp", http_client=http), mode=mode) as client,
    ):
        done = await ask(client, "delegate_task", agent="echo", description="hello", wait=10)
        asked = await ask(client, "delegate_task", agent="shell", params={"command": ["id"]})

    assert done["status"] == "completed"
    assert done["created_by"] == {"level": "phone", "name": "loopback"}
    assert asked["status"] == "waiting_approval", "the policy applies to it as to every phone"


@pytest.mark.parametrize("headers", PROXIES, ids=lambda headers: "-".join(next(iter(headers.items()))))
def test_what_came_through_a_proxy_needs_a_key(web: httpx2.Client, keyless: ServerProcess, headers: dict[str, str]):
    without = web.post("/mcp", json=LIST, headers=MODERN | headers)
    opening = web.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize"}, headers=ACCEPT | headers)
    with_key = web.post("/mcp", json=LIST, headers=MODERN | headers | bearer(keyless.key))

    problem = assert_problem(without, 401, "unauthenticated")
    assert "direct callers" in problem["detail"]
    assert without.headers["www-authenticate"] == 'Bearer realm="offhand"'
    assert opening.status_code == 401
    assert with_key.status_code == 200


def test_a_foreign_host_or_origin_does_not_come_near(web: httpx2.Client):
    for host in ("evil.example", "192.0.2.2"):
        assert web.post("/mcp", json=LIST, headers=MODERN | {"Host": host}).status_code == 421
    for origin in ("https://evil.example", "null"):
        assert web.post("/mcp", json=LIST, headers=MODERN | {"Origin": origin}).status_code == 403
    home = {"Host": "localhost:1", "Origin": "http://localhost:6274"}
    assert web.post("/mcp", json=LIST, headers=MODERN | home).status_code == 200


def test_no_page_can_make_a_browser_call_it(web: httpx2.Client):
    """What a browser sends without asking first is refused, and what it asks for first is not allowed."""
    page = {"Origin": "http://localhost:3000"}
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = web.options("/mcp", headers=page | wanted)
    unasked = [
        web.post("/mcp", content=b"{}", headers=MODERN | page | {"Content-Type": content_type})
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
    ]

    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control-")]
    assert [answer.status_code for answer in unasked] == [415, 415, 415]


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer wrong"}, {"Authorization": ""}, {"X-API-Key": "wrong"}, {"Authorization": "Basic eDp5"}],
)
def test_a_wrong_key_is_still_wrong(web: httpx2.Client, headers: dict[str, str]):
    answer = web.post("/mcp", json=LIST, headers=MODERN | headers)

    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="offhand", error="invalid_token"'


def test_a_right_key_is_who_it_is(web: httpx2.Client, keyless: ServerProcess):
    reader = keyless.make_key("reader", "read")
    headers = MODERN | {"Mcp-Method": "tools/call", "Mcp-Name": "create_session"} | bearer(reader)
    answer = web.post("/mcp", json=tool("create_session", title="x"), headers=headers).json()

    assert answer["result"]["isError"] is True
    assert "scope submit" in answer["result"]["structuredContent"]["detail"]


def test_every_other_address_needs_its_key_as_ever(web: httpx2.Client):
    for method, path in (("GET", "/api/keys"), ("POST", "/webhook"), ("GET", "/tasks/1")):
        assert web.request(method, path, json={}).status_code == 401, path


def test_it_is_said_at_the_start(keyless: ServerProcess, server: ServerProcess):
    assert "MCP AUTH     off" in keyless.said
    assert "MCP AUTH" not in server.said


class Reached:
    """Whom the door let through, if anybody."""

    def __init__(self) -> None:
        self.caller: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.caller = scope.get(CALLER_KEY)


@pytest.mark.parametrize(
    ("client", "host", "let_in"),
    [
        (("127.0.0.1", 1), "localhost", True),
        (("::1", 1), "[::1]:8787", True),
        (("192.168.1.9", 1), "localhost", False),
        (("::ffff:192.168.1.9", 1), "localhost", False),
        (("203.0.113.9", 0), "127.0.0.1", False),
        (None, "localhost", False),
        (("127.0.0.1", 1), "192.168.1.5", False),
        (("127.0.0.1", 1), "me.example", False),
        (("127.0.0.1", 1), "", False),
        (("", 1), "localhost", False),
    ],
)
async def test_only_the_other_end_of_the_connection_counts(client: Any, host: str, let_in: bool):
    inside = Reached()
    answered: list[Any] = []

    async def send(message: Any) -> None:
        answered.append(message)

    async def receive() -> Any:
        raise AssertionError("the body is none of its business")

    scope = {"type": "http", "method": "POST", "headers": [(b"host", host.encode())], "client": client}
    await LoopbackDoor(inside)(scope, receive, send)

    assert inside.caller == (Caller("phone", "loopback", frozenset({"read", "submit"})) if let_in else None)
    assert ([message.get("status") for message in answered] == [401, None]) != let_in


@pytest.mark.parametrize(
    "more",
    [
        {"OFFHAND_PUBLIC_URL": "https://me.example"},
        {"OFFHAND_PUBLIC_URL": "http://localhost:8787"},
        {"OFFHAND_HOST": "0.0.0.0"},
        {"OFFHAND_HOST": "::"},
        {"OFFHAND_HOST": "192.168.1.5"},
        {"OFFHAND_HOST": "desk.local"},
    ],
)
def test_nothing_starts_where_others_could_come(home: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, str]):
    monkeypatch.setenv("OFFHAND_MCP_AUTH", "off")
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidError) as caught:
        load_settings()

    (issue,) = caught.value.issues
    assert issue.field == "mcp_auth"
    assert next(iter(more)).removeprefix("OFFHAND_").lower() in issue.message
    monkeypatch.setenv("OFFHAND_MCP_AUTH", "on")
    assert load_settings().mcp_auth == "on"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_it_may_be_off_on_any_loopback_address(home: Path, host: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OFFHAND_MCP_AUTH", "off")
    assert load_settings(host=host).mcp_auth == "off"


@pytest.mark.parametrize("word", ["none", "false", "OFF", "0"])
def test_only_the_word_off_switches_it_off(home: Path, word: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OFFHAND_MCP_AUTH", word)
    with pytest.raises(InvalidError, match="mcp_auth"):
        load_settings()
