"""What is wrong with a request to `/mcp` is said, in both eras; nothing is answered with a 500, or not at all."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Generator
from typing import Any

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from mcp_server.callers import CALLER_KEY, DESK
from mcp_server.web.mcp_endpoint import BODY_LIMIT_BYTES, McpEndpoint
from tests.server.processes import ServerProcess
from tests.web.test_http import ACCEPT, LIST, META, MODERN, assert_problem, bearer, read_all
from tests.web.test_serve import HANDSHAKE

HELLO = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HANDSHAKE}


def open_session(client: httpx2.Client, key: str) -> dict[str, str]:
    """The headers of a request in a new session of the handshake era."""
    opened = client.post("/mcp", json=HELLO, headers=ACCEPT | bearer(key))
    assert opened.status_code == 200, opened.text
    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
    headers = ACCEPT | session | bearer(key)
    told = client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
    assert told.status_code == 202
    return headers


@pytest.fixture(params=["2025-11-25", "2026-07-28"])
def headers(request: pytest.FixtureRequest, http: httpx2.Client, server: ServerProcess) -> dict[str, str]:
    """Of a request that would be answered."""
    modern = request.param == "2026-07-28"
    return MODERN | bearer(server.key) if modern else open_session(http, server.key)


@pytest.fixture(autouse=True)
def undisturbed(server: ServerProcess) -> Generator[None]:
    """Whatever a test sends, the server has no fault of its own to report."""
    log = server.place.home / "logs" / "offhand.log"
    before = len(log.read_text())
    yield
    assert "Traceback" not in log.read_text()[before:]
    assert "ERROR" not in log.read_text()[before:]


def assert_json_rpc_error(answer: httpx2.Response, status: int, code: int, words: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] == code
    assert words in error["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_a_body_of_another_type_is_refused(http: httpx2.Client, headers: dict[str, str], content_type: str):
    answer = http.post("/mcp", json=LIST, headers=headers | {"Content-Type": content_type})

    problem = assert_problem(answer, 415, "unsupported-media-type")
    assert "Content-Type: application/json" in problem["errors"][0]["fix"]


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/json;x", "application/json ;x"]
)
def test_json_may_be_named_in_every_way(http: httpx2.Client, headers: dict[str, str], content_type: str):
    assert http.post("/mcp", json=LIST, headers=headers | {"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "application/json", ""])
def test_who_does_not_take_our_answers_is_told_what_they_are(http: httpx2.Client, headers: dict[str, str], accept: str):
    answer = http.post("/mcp", json=LIST, headers=headers | {"Accept": accept})

    assert answer.status_code == 406
    assert "application/json" in answer.text
    assert "text/event-stream" in answer.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"a": 1} x', b"null x", b"{'a': 1}", b"[" * 100_000, b'{"a":' * 5000, b"9" * 5000],
    ids=lambda body: body[:8].decode("latin-1"),
)
def test_what_is_not_json_is_a_parse_error(http: httpx2.Client, headers: dict[str, str], body: bytes):
    answer = http.post("/mcp", content=body, headers=headers)

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in (-32700, -32600)


@pytest.mark.parametrize(
    "body",
    [
        [LIST],
        [],
        7,
        "text",
        {},
        {"jsonrpc": "2.0"},
        {"jsonrpc": "1.0", "id": 1, "method": "ping"},
        {"id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": None, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
        {"jsonrpc": "2.0", "id": True, "method": "ping"},
        {"jsonrpc": "2.0", "id": [1], "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": 7},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": 7},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": [7]},
    ],
    ids=json.dumps,
)
def test_what_is_no_message_is_refused_in_words(http: httpx2.Client, headers: dict[str, str], body: Any):
    answer = http.post("/mcp", json=body, headers=headers)

    assert_json_rpc_error(answer, 400, -32600)
    assert "input_value" not in answer.text, "no dump of a validator"


def test_a_method_that_nobody_knows_is_said_so(http: httpx2.Client, headers: dict[str, str]):
    body = {"jsonrpc": "2.0", "id": 3, "method": "no/such", "params": {"_meta": META}}
    answer = http.post("/mcp", json=body, headers=headers | {"Mcp-Method": "no/such"})

    assert "-32601" in answer.text


@pytest.mark.parametrize("version", ["2099-01-01", "1999-01-01", "latest", "", "2026-07-28, 2025-11-25", "x" * 3000])
def test_a_protocol_version_that_nobody_knows_is_answered_with_those_that_are(
    http: httpx2.Client, server: ServerProcess, version: str
):
    meta = META | {"io.modelcontextprotocol/protocolVersion": version}
    body = LIST | {"params": {"_meta": meta}}
    answer = http.post("/mcp", json=body, headers=MODERN | {"MCP-Protocol-Version": version} | bearer(server.key))

    assert_json_rpc_error(answer, 400, -32022)
    assert "2026-07-28" in answer.json()["error"]["data"]["supported"]


def test_a_version_in_the_header_that_the_body_contradicts_is_refused(http: httpx2.Client, server: ServerProcess):
    headers = MODERN | {"MCP-Protocol-Version": "2099-01-01"} | bearer(server.key)
    assert_json_rpc_error(http.post("/mcp", json=LIST, headers=headers), 400, -32020)


@pytest.mark.parametrize("session", ["nope", "x" * 5000, "../../etc", "\u00e9"])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_an_unknown_session_is_not_found(http: httpx2.Client, server: ServerProcess, session: str, method: str):
    known = ACCEPT | bearer(server.key) | {"MCP-Protocol-Version": "2025-11-25"}
    headers = {name: value.encode("latin-1") for name, value in (known | {"Mcp-Session-Id": session}).items()}
    answer = http.request(method, "/mcp", json=LIST if method == "POST" else None, headers=headers)

    assert_json_rpc_error(answer, 404, -32600, "Session not found")


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_in_the_handshake_era_a_session_is_needed(http: httpx2.Client, server: ServerProcess, method: str):
    headers = ACCEPT | bearer(server.key)
    answer = http.request(method, "/mcp", json=LIST if method == "POST" else None, headers=headers)

    assert_json_rpc_error(answer, 400, -32600, "session")


@pytest.mark.parametrize(
    ("version", "method", "allowed"),
    [
        *(("2025-11-25", method, "GET, POST, DELETE") for method in ("PUT", "PATCH", "OPTIONS")),
        *(("2026-07-28", method, "POST") for method in ("PUT", "PATCH", "OPTIONS", "GET", "DELETE")),
    ],
)
def test_a_method_that_the_era_does_not_know_is_refused_with_those_that_it_does(
    http: httpx2.Client, server: ServerProcess, version: str, method: str, allowed: str
):
    headers = ACCEPT | {"MCP-Protocol-Version": version} | bearer(server.key)
    answer = http.request(method, "/mcp", headers=headers)

    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    assert answer.content


def test_after_a_delete_the_session_is_gone(http: httpx2.Client, server: ServerProcess):
    headers = open_session(http, server.key)
    deleted = http.delete("/mcp", headers=headers)
    again = http.delete("/mcp", headers=headers)

    assert deleted.status_code == 200
    assert_json_rpc_error(again, 404, -32600)
    assert_json_rpc_error(http.post("/mcp", json=LIST, headers=headers), 404, -32600)


async def test_an_id_that_is_still_open_is_refused_and_the_first_is_answered(server: ServerProcess):
    async with httpx2.AsyncClient(base_url=server.url, timeout=20, verify=False) as client:
        opened = await client.post("/mcp", json=HELLO, headers=ACCEPT | bearer(server.key))
        headers = ACCEPT | bearer(server.key) | {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        await client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
        order = {"agent": "echo", "description": "slow", "params": {"sleep": 1.0}, "wait": 20}

        def asked(tool: str, **arguments: Any) -> asyncio.Task[httpx2.Response]:
            params = {"name": tool, "arguments": arguments}
            body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
            return asyncio.create_task(client.post("/mcp", json=body, headers=headers))

        both = [asked("delegate_task", **order), asked("delegate_task", **order)]
        done, _ = await asyncio.wait(both, timeout=15, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = (task.result() for task in done)
        async with asyncio.timeout(15):  # pings keep an answer that never comes from timing out
            (first,) = [await task for task in both if task not in done]
        later = await asked("list_agents")

    assert_json_rpc_error(refused, 400, -32600, "id")
    assert refused.json()["id"] is None, "or a client would take it for the answer of the first"
    assert '"id":7,"result"' in first.text
    assert '"id":7,"result"' in later.text


def test_the_same_id_in_two_sessions_and_in_two_requests_of_the_newer_era_is_no_matter(
    http: httpx2.Client, server: ServerProcess
):
    one, two = open_session(http, server.key), open_session(http, server.key)
    for headers in (one, two, MODERN | bearer(server.key), MODERN | bearer(server.key)):
        assert http.post("/mcp", json=LIST, headers=headers).status_code == 200


@pytest.mark.parametrize("announced", [str(BODY_LIMIT_BYTES + 1), "9" * 30])
def test_a_body_that_is_announced_too_large_is_not_waited_for(server: ServerProcess, announced: str):
    head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {server.key}\r\nContent-Length: {announced}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.facts["port"]), timeout=10) as raw:
        raw.sendall(head.encode())
        assert b" 4" in raw.recv(65536)[:13]


def test_a_body_in_pieces_without_an_end_is_cut_off_at_the_limit(http: httpx2.Client, server: ServerProcess):
    def pieces() -> Generator[bytes]:
        for _ in range(BODY_LIMIT_BYTES // (1 << 20) + 1):
            yield b" " * (1 << 20)

    answer = http.post("/mcp", content=pieces(), headers=MODERN | bearer(server.key))

    problem = assert_problem(answer, 413, "too-large")
    assert str(BODY_LIMIT_BYTES) in problem["detail"]


def test_who_hangs_up_in_the_middle_of_a_body_leaves_nothing_behind(
    http: httpx2.Client, server: ServerProcess, headers: dict[str, str]
):
    given = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\n{given}Content-Length: 100\r\n\r\n" + '{"jsonrpc'
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.facts["port"]), timeout=10) as raw:
            raw.sendall(head.encode())
            raw.shutdown(socket.SHUT_WR)
            assert b" 200 " not in read_all(raw)
    assert http.post("/mcp", json=LIST, headers=headers).status_code == 200


async def answer_to(*parts: Any) -> list[Any]:
    """What is answered to a body of which only these parts come; there is no request yet, so nothing is done."""

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it was taken for a request")

    coming, answered = list(parts), list[Any]()

    async def receive() -> Any:
        return coming.pop(0) if coming else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        answered.append(message)

    headers = [(b"content-type", b"application/json"), (b"mcp-protocol-version", b"2026-07-28")]
    scope = {"type": "http", "method": "POST", "headers": headers, CALLER_KEY: DESK}
    async with asyncio.timeout(10):
        await McpEndpoint(never, silence_seconds=0.01)(scope, receive, send)
    return answered


async def test_half_a_body_and_then_silence_is_given_up():
    start, body = await answer_to({"type": "http.request", "body": b'{"json', "more_body": True})

    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"])["type"] == "urn:offhand:problem:timeout"


async def test_a_body_that_was_cut_off_is_not_taken_for_a_request_even_where_it_reads_like_one():
    whole = json.dumps(LIST).encode()

    assert (
        await answer_to({"type": "http.request", "body": whole, "more_body": True}, {"type": "http.disconnect"}) == []
    )


def test_who_has_no_key_is_refused_before_a_byte_of_the_body_is_read(server: ServerProcess):
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.facts["port"]), timeout=10) as raw:
        raw.sendall(head)
        assert raw.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_blanks_behind_the_value_of_a_header_are_no_part_of_it(server: ServerProcess):
    body = json.dumps(LIST).encode()
    headers = MODERN | bearer(server.key) | {"Host": "localhost", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value} \t\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", server.facts["port"]), timeout=10) as raw:
        raw.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
