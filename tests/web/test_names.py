"""By which names the server is called: its own, the public one, and no page of another site."""

from __future__ import annotations

import socket
from typing import Any

import httpx2
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mcp_server.callers import CALLER_KEY, DESK
from mcp_server.settings import Settings
from mcp_server.web.hosts import HostDoor, read_host, read_origin
from tests.server.processes import ServerProcess
from tests.web.conftest import Start
from tests.web.test_http import LIST, MODERN, assert_problem, bearer

LAN = "192.168.1.5"


async def inside(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("in")(scope, receive, send)


class Knock:
    """Requests at a door that is reached at `at`, an address of this machine."""

    def __init__(self, settings: Settings, at: tuple[str, int | None] | None = ("127.0.0.1", 8787)) -> None:
        self._door = HostDoor(inside, settings)
        self._at = at

    async def __call__(self, *headers: tuple[str, str], **scope: Any) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("the body is none of its business")

        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        await self._door(
            {"type": "http", "method": "POST", "path": "/mcp", "headers": raw, "server": self._at, **scope},
            receive,
            send,
        )
        return sent[0]["status"]


@pytest.fixture
def at_home(settings: Settings) -> Knock:
    """As it is without settings."""
    return Knock(settings)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8787", "localhost.", "127.0.0.1", "127.0.0.1:1", "127.0.0.2", "[::1]:8787", "[0:0::1]"],
)
async def test_this_machine_answers_to_its_own_names_on_any_port(at_home: Knock, host: str):
    assert await at_home(("host", host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:8787",
        "localhost@evil.example",
        "evil.example#localhost",
        "evil.example/localhost",
        "localhost:80:80",
        "localhost:x",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "[::ffff:8.8.8.8]",
        "[::1",
        "",
        " ",
        "\u00e9",
        "a" * 10_000,
        LAN,
    ],
)
async def test_it_answers_to_no_other_name(at_home: Knock, host: str):
    assert await at_home(("host", host)) == 421


async def test_a_request_without_a_host_or_with_two_is_malformed(at_home: Knock):
    assert await at_home() == 400
    assert await at_home(("host", "localhost"), ("host", "evil.example")) == 400


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "http://localhost:6274", "https://127.0.0.1:8443", "http://[::1]:3000", "HTTP://LOCALHOST"],
)
async def test_pages_of_this_machine_may_call(at_home: Knock, origin: str):
    assert await at_home(("host", "localhost:8787"), ("origin", origin.lower())) == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "localhost",
        "file://",
        "file://localhost",
        "chrome-extension://localhost",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "http://evil.example@localhost:1@x",
        "http://localhost/evil",
        "//localhost",
        f"http://{LAN}",
    ],
)
async def test_pages_of_other_sites_may_not_call(at_home: Knock, origin: str):
    assert await at_home(("host", "localhost:8787"), ("origin", origin)) == 403


async def test_two_origins_are_as_good_as_a_foreign_one(at_home: Knock):
    assert await at_home(("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")) == 403


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
async def test_who_listens_everywhere_is_called_by_the_address_that_the_connection_came_to(
    settings: Settings, everywhere: str
):
    knock = Knock(settings.model_copy(update={"host": everywhere}), at=(LAN, 8787))
    assert await knock(("host", f"{LAN}:8787"), ("origin", f"http://{LAN}:8787")) == 200
    assert await knock(("host", "192.168.1.6:8787")) == 421
    assert await knock(("host", f"{everywhere}:8787" if "." in everywhere else "[::]:8787")) == 421
    assert await knock(("host", "evil.example")) == 421


async def test_an_address_in_version_6_is_compared_by_what_it_means(settings: Settings):
    knock = Knock(settings.model_copy(update={"host": "::"}), at=("fd00:0::2", 8787))
    assert await knock(("host", "[FD00::2]:8787")) == 200
    mapped = Knock(settings.model_copy(update={"host": "::"}), at=(f"::ffff:{LAN}", 8787))
    assert await mapped(("host", LAN)) == 200


async def test_the_name_that_it_listens_on_is_its_name(settings: Settings):
    knock = Knock(settings.model_copy(update={"host": "Desk.local"}))
    assert await knock(("host", "desk.local:8787"), ("origin", "http://desk.local:8787")) == 200
    assert await knock(("host", "other.local:8787")) == 421


@pytest.fixture(params=["https://me.example", "https://me.example:8443/offhand", "http://me.example/"])
def public(request: pytest.FixtureRequest, settings: Settings) -> Knock:
    return Knock(Settings(home=settings.home, public_url=request.param))


@pytest.mark.parametrize("host", ["me.example", "ME.example:443", "me.example:8443", "me.example:8787"])
async def test_the_public_address_is_admitted_with_and_without_a_port(public: Knock, host: str):
    assert await public(("host", host)) == 200
    assert await public(("host", f"x.{host}")) == 421
    assert await public(("host", f"{host}.evil.example")) == 421


async def test_the_page_of_the_public_address_is_admitted_as_it_stands_there(settings: Settings):
    knock = Knock(Settings(home=settings.home, public_url="https://me.example:8443/offhand"))  # type: ignore[arg-type]
    host = ("host", "me.example")
    for origin in ("https://me.example:8443", "https://me.example", "https://me.example:443"):
        assert await knock(host, ("origin", origin)) == 200, origin
    for origin in (
        "http://me.example",
        "http://me.example:443",
        "https://me.example:9",
        "https://x.me.example",
        "https://me.example.x",
    ):
        assert await knock(host, ("origin", origin)) == 403, origin


async def test_at_the_desk_no_name_matters_since_no_browser_is_there(settings: Settings):
    knock = Knock(settings, at=("/run/http.sock", None))
    assert await knock(("host", "offhand"), **{CALLER_KEY: DESK}) == 200


def test_what_is_no_host_and_no_origin_is_read_as_none():
    assert read_host("[::1]:8787") == ("::1", 8787)
    assert read_host("a b") is None
    assert read_origin("https://me.example") == ("https", "me.example", 443)
    assert read_origin("null") is None


# Over the wire


def test_who_comes_by_another_name_is_told_what_to_set_and_nothing_is_asked_of_him_first(http: httpx2.Client):
    for path in ("/mcp", "/api/keys"):
        problem = assert_problem(http.post(path, json=LIST, headers={"Host": "me.example"}), 421, "misdirected")
        assert "me.example" in problem["detail"]
        assert "OFFHAND_PUBLIC_URL" in problem["errors"][0]["fix"]
        assert "OFFHAND_HOST" in problem["errors"][0]["fix"]
        foreign = http.post(path, json=LIST, headers={"Origin": "https://me.example"})
        assert "OFFHAND_PUBLIC_URL" in assert_problem(foreign, 403, "forbidden")["errors"][0]["fix"]


def test_no_address_allows_a_browser_to_send_a_key_from_another_site(http: httpx2.Client, server: ServerProcess):
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key, content-type",
    }
    for path in ("/mcp", "/webhook", "/api/keys", "/tasks/1", "/docs"):
        preflight = http.options(path, headers=asked)
        real = http.post(path, json={}, headers={"Origin": "https://evil.example"} | bearer(server.key))
        for answer in (preflight, real):
            assert not [name for name in answer.headers if name.startswith("access-control-")], path
        assert preflight.status_code >= 400, path


def test_a_phone_reaches_the_webhook_by_any_name(http: httpx2.Client, server: ServerProcess):
    body = {"type": "task_command", "data": {"action_type": "echo", "description": "hello"}}
    for host in ("desk.local:8787", "192.168.1.5:8787", "me.example"):
        answer = http.post("/webhook", json=body, headers={"Host": host} | bearer(server.key))
        assert answer.status_code == 200, answer.text


@pytest.fixture
def network_address() -> str:
    """The address of this machine that others on its network would call."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine is on no network")
        return probe.getsockname()[0]


def test_on_the_network_it_is_called_by_its_address_and_not_by_a_name_that_points_there(
    start: Start, network_address: str
):
    server = start(OFFHAND_HOST="0.0.0.0")
    at = f"{network_address}:{server.facts['port']}"
    with httpx2.Client(base_url=f"http://{at}", verify=False) as other:
        by_address = other.post("/mcp", json=LIST, headers=MODERN | bearer(server.key) | {"Origin": f"http://{at}"})
        rebound = other.post("/mcp", json=LIST, headers=MODERN | bearer(server.key) | {"Host": "evil.example"})
        another = other.post("/mcp", json=LIST, headers=MODERN | bearer(server.key) | {"Host": "203.0.113.9"})

    assert (by_address.status_code, rebound.status_code, another.status_code) == (200, 421, 421)


def test_behind_a_tunnel_the_public_address_is_enough_with_its_path_passed_on_or_not(start: Start):
    server = start(OFFHAND_PUBLIC_URL="https://me.example/offhand")
    headers = MODERN | bearer(server.key) | {"Host": "me.example", "X-Forwarded-For": "203.0.113.9"}
    with httpx2.Client(base_url=server.url, verify=False) as tunnel:
        statuses = {
            path: tunnel.post(path, json=LIST, headers=headers).status_code
            for path in ("/mcp", "/offhand/mcp", "/offhandmcp", "/offhand/offhand/mcp", "/x/mcp")
        }
        keyless = tunnel.post("/offhand/mcp", json=LIST, headers=headers | {"Authorization": ""})
        health = tunnel.get("/offhand/healthz")
        docs = tunnel.get("/offhand/openapi.json", headers={"Host": "me.example"}).json()

    assert statuses == {
        "/mcp": 200,
        "/offhand/mcp": 200,
        "/offhandmcp": 404,
        "/offhand/offhand/mcp": 404,
        "/x/mcp": 404,
    }
    assert keyless.status_code == 401
    assert health.status_code == 200
    assert docs["servers"][0]["url"] == "https://me.example/offhand"
