"""The HTTP doors: who is let in, from where, with what; everything else is a clear refusal."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from tests.server.processes import ServerProcess

ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
MODERN = ACCEPT | {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def assert_problem(answer: httpx2.Response, status: int, kind: str) -> dict[str, Any]:
    """RFC 9457, in the shape of every error of ours."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["ok"] is False
    assert problem["status"] == status
    assert problem["type"] == f"urn:offhand:problem:{kind}"
    assert all(problem[name] for name in ("title", "detail", "say"))
    assert all(issue[name] for issue in problem["errors"] for name in ("field", "message", "fix"))
    return problem


# Who


@pytest.mark.parametrize("path", ["/mcp", "/api/keys", "/api/anything"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic b2s6b2s="},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "x" * 10_000},
        {"Authorization": "Bearer \u00e9"},
    ],
    ids=["none", "wrong", "empty", "basic", "wrong_header", "long", "latin"],
)
def test_without_a_living_key_nobody_comes_in(http: httpx2.Client, path: str, headers: dict[str, str]):
    given = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = http.post(path, json=LIST, headers=MODERN | given)

    problem = assert_problem(answer, 401, "unauthenticated")
    expected = 'Bearer realm="offhand", error="invalid_token"' if headers else 'Bearer realm="offhand"'
    assert answer.headers["www-authenticate"] == expected
    assert "offhand key create" in problem["errors"][0]["fix"]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
def test_no_method_is_a_way_around_the_key(http: httpx2.Client, method: str):
    assert http.request(method, "/mcp", headers=ACCEPT).status_code == 401


def test_a_key_is_taken_as_bearer_or_as_header_and_two_different_ones_are_not(
    http: httpx2.Client, server: ServerProcess
):
    as_bearer = http.post("/mcp", json=LIST, headers=MODERN | bearer(server.key))
    small = http.post("/mcp", json=LIST, headers=MODERN | {"Authorization": f"bearer {server.key}"})
    as_header = http.post("/mcp", json=LIST, headers=MODERN | {"X-API-Key": server.key})
    both = http.post("/mcp", json=LIST, headers=MODERN | bearer(server.key) | {"X-API-Key": server.key})
    differing = http.post("/mcp", json=LIST, headers=MODERN | bearer(server.key) | {"X-API-Key": "other"})

    assert [answer.status_code for answer in (as_bearer, small, as_header, both)] == [200] * 4
    assert len(as_bearer.json()["result"]["tools"]) == 15
    assert differing.status_code == 401


def test_a_key_never_appears_in_an_answer_or_in_the_log(http: httpx2.Client, server: ServerProcess):
    answers = [
        http.post("/mcp", json=LIST, headers=MODERN | bearer(server.key)),
        http.post("/mcp", json=LIST, headers=MODERN | bearer(server.key + "x")),
        http.get(f"/nowhere?key={server.key}"),
    ]

    assert not any(server.key in answer.text for answer in answers)
    assert not any(server.key in path.read_text() for path in (server.place.home / "logs").iterdir())
    assert server.key.encode() not in (server.place.home / "offhand.db").read_bytes()


# From where


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8787", "127.0.0.1.evil.example", "169.254.169.254"])
def test_a_foreign_host_is_misdirected(http: httpx2.Client, server: ServerProcess, host: str):
    answer = http.post("/mcp", json=LIST, headers=MODERN | bearer(server.key) | {"Host": host})

    assert answer.status_code == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"])
def test_a_foreign_origin_is_forbidden(http: httpx2.Client, server: ServerProcess, origin: str):
    answer = http.post("/mcp", json=LIST, headers=MODERN | bearer(server.key) | {"Origin": origin})

    assert answer.status_code == 403


def test_this_machine_by_its_names_is_at_home(http: httpx2.Client, server: ServerProcess):
    port = server.facts["port"]
    for name in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        headers = MODERN | bearer(server.key) | {"Host": name, "Origin": f"http://{name}"}
        assert http.post("/mcp", json=LIST, headers=headers).status_code == 200, name


# With what


def test_a_body_that_is_no_json_is_malformed(http: httpx2.Client, server: ServerProcess):
    for body in (b"{", b"", b"\xff\xfe", b"[" * 100_000):
        answer = http.post("/mcp", content=body, headers=MODERN | bearer(server.key))

        assert answer.status_code == 400, body[:10]


def test_a_body_that_is_no_request_is_malformed(http: httpx2.Client, server: ServerProcess):
    for body in ({}, [], 7, None, {"jsonrpc": "1.0", "id": 1, "method": "tools/list"}, "text"):
        answer = http.post("/mcp", json=body, headers=MODERN | bearer(server.key))

        assert 400 <= answer.status_code < 500, body


def test_a_body_above_the_limit_is_too_large_and_the_server_lives_on(http: httpx2.Client, server: ServerProcess):
    call = LIST | {"method": "tools/call", "params": {"name": "list_agents", "arguments": {"x": "y" * (8 << 20)}}}
    answer = http.post("/mcp", json=call, headers=MODERN | bearer(server.key))

    assert answer.status_code == 413
    assert http.post("/mcp", json=LIST, headers=MODERN | bearer(server.key)).status_code == 200


def test_a_megabyte_fits_through_the_door(http: httpx2.Client, server: ServerProcess):
    arguments = {"type": "fact", "content": "x" * (1 << 20)}
    call = LIST | {"method": "tools/call", "params": {"name": "store_memory", "arguments": arguments, "_meta": META}}
    headers = MODERN | {"Mcp-Method": "tools/call", "Mcp-Name": "store_memory"} | bearer(server.key)
    answer = http.post("/mcp", json=call, headers=headers)

    assert answer.status_code == 200
    assert answer.json()["result"]["structuredContent"]["created"] is True


def test_what_is_no_http_ends_that_connection_and_nothing_else(http: httpx2.Client, server: ServerProcess):
    for words in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"A" * 200_000):
        with socket.create_connection(("127.0.0.1", server.facts["port"]), timeout=5) as raw:
            with suppress(OSError):  # we are sent away before we have said all
                raw.sendall(words)
                raw.shutdown(socket.SHUT_WR)
            assert b" 200 " not in read_all(raw)
    assert http.get("/healthz").status_code == 200


def read_all(raw: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionError):
        while data := raw.recv(65536):
            received += data
    return received


# Everything else


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_told_to_everybody_and_tells_nothing_else(http: httpx2.Client, path: str, server: ServerProcess):
    answer = http.get(path)

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": server.facts["version"]}


@pytest.mark.parametrize("path", ["/", "/nowhere", "/mcp/x", "/healthz/x", "/%00", "/../etc/passwd", "/static/../x"])
def test_there_is_nothing_at_an_unknown_address(http: httpx2.Client, path: str):
    problem = assert_problem(http.get(path), 404, "not-found")

    assert "/docs" in problem["errors"][0]["fix"]


def test_there_is_nothing_at_an_unknown_address_below_api_either(desk: httpx2.Client):
    for path in ("/api/", "/api/nowhere", "/api/keys/a/b/c"):
        assert_problem(desk.get(path) if "keys" not in path else desk.delete(path), 404, "not-found")


def test_a_method_that_an_address_does_not_know_is_refused(http: httpx2.Client):
    answer = http.post("/healthz")

    assert_problem(answer, 405, "method-not-allowed")
    assert "GET" in answer.headers["allow"]


# /api/keys


def test_the_desk_makes_lists_and_revokes_keys_without_a_key(desk: httpx2.Client, http: httpx2.Client):
    made = desk.post("/api/keys", json={"name": "watch", "scopes": ["read"]})
    listed = desk.get("/api/keys")
    works = http.post("/mcp", json=LIST, headers=MODERN | bearer(made.json()["key"]))
    revoked = desk.delete("/api/keys/watch")
    dead = http.post("/mcp", json=LIST, headers=MODERN | bearer(made.json()["key"]))
    again = desk.delete("/api/keys/watch")

    assert made.status_code == 201
    assert made.json()["scopes"] == ["read"]
    assert made.headers["cache-control"] == "no-store"
    assert "watch" in [item["name"] for item in listed.json()["items"]]
    assert made.json()["key"] not in listed.text
    assert "hash" not in listed.text
    assert (works.status_code, dead.status_code) == (200, 401)
    assert revoked.json()["revoked_at"]
    assert_problem(again, 404, "not-found")


def test_over_tcp_only_an_admin_key_manages_keys(http: httpx2.Client, server: ServerProcess):
    approver, admin = server.make_key("boss-a", "approve"), server.make_key("boss", "admin", "read")
    for key in (server.key, approver):
        for answer in (
            http.get("/api/keys", headers=bearer(key)),
            http.post("/api/keys", json={"name": "mine", "scopes": ["admin"]}, headers=bearer(key)),
            http.delete("/api/keys/boss", headers=bearer(key)),
        ):
            problem = assert_problem(answer, 403, "forbidden")
            assert "admin" in problem["detail"]
    listed = http.get("/api/keys", headers=bearer(admin))
    made = http.post("/api/keys", json={"name": "by-boss"}, headers=bearer(admin))

    assert listed.status_code == 200
    assert "mine" not in [item["name"] for item in listed.json()["items"]]
    assert made.status_code == 201
    assert made.json()["scopes"] == ["read", "submit"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, "body"),
        (b"[" * 5000, 400, "body"),
        (b"[]", 422, "body"),
        (b"{}", 422, "name"),
        (b'{"name": 7}', 422, "name"),
        (b'{"name": ""}', 422, "name"),
        (b'{"name": "a\\u0000b"}', 422, "name"),
        (b'{"name": "x", "scope": ["read"]}', 422, "scope"),
        (b'{"name": "x", "scopes": "read"}', 422, "scopes"),
        (b'{"name": "x", "scopes": []}', 422, "scopes"),
        (b'{"name": "x", "scopes": ["everything"]}', 422, "scope"),
        (b'{"name": "x", "scopes": ["submit", "approve"]}', 422, "scope"),
        (b'{"name": "x", "scopes": ["submit", "admin"]}', 422, "scope"),
        (b'{"name": "' + b"x" * 200 + b'"}', 413, "name"),
        (b'{"name": "' + b"x" * 70_000 + b'"}', 413, "body"),
        (b'{"name": "phone"}', 409, "name"),
    ],
    ids=lambda value: value[:24].decode() if isinstance(value, bytes) else None,
)
def test_a_key_that_cannot_be_made_is_refused_with_the_field_and_none_is_made(
    desk: httpx2.Client, body: bytes, status: int, field: str
):
    before = desk.get("/api/keys").json()["items"]
    answer = desk.post("/api/keys", content=body)

    assert answer.status_code == status, answer.text
    assert answer.json()["errors"][0]["field"] == field, answer.text
    assert desk.get("/api/keys").json()["items"] == before


def test_what_is_shown_of_keys_is_json_in_utf_8(desk: httpx2.Client):
    made = desk.post("/api/keys", json={"name": "Jürgens Telefon 📱"})

    assert json.loads(made.content)["name"] == "Jürgens Telefon 📱"
    assert desk.delete("/api/keys/J%C3%BCrgens%20Telefon%20%F0%9F%93%B1").status_code == 200
