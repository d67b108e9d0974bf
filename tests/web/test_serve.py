"""`offhand serve` as a process: what it writes, how it starts, and that it ends at once whatever is open."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import MCPError

from mcp_server.paths import home_folder
from mcp_server.settings import load_settings
from tests.executor.test_worker import finished, shell
from tests.server.doors import ask, over_http, over_socket
from tests.server.gate import Gate
from tests.server.processes import STOP_SECONDS, Place, ServerProcess
from tests.web.conftest import Start
from tests.web.test_http import ACCEPT, LIST, META, MODERN, bearer

HANDSHAKE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


# What it says and writes


def test_the_first_start_shows_a_key_once_and_the_next_one_even_after_a_kill_says_how_to_make_another(
    place: Place, start: Start
):
    first = start()
    key, another = first.key, first.make_key("another")
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=first.facts["http_socket"])) as desk:
        desk.delete("http://offhand/api/keys/phone")
    first.kill()
    left = (place.home / "server.json").exists()
    second = start()
    codes = [
        httpx2.post(f"{second.url}/mcp", json=LIST, headers=MODERN | bearer(each), verify=False).status_code
        for each in (key, another)
    ]

    assert first.said.count(key) == 2, "the key, and the curl to paste"
    assert "shown only this once" in first.said
    assert left
    assert second.facts["pid"] == second.pid
    assert "ofh_" not in second.said
    assert "offhand key create" in second.said
    assert codes == [401, 200], "what was revoked stays so, and no other is made in its place"


def test_it_greets_itself_as_a_phone_would_and_the_curl_that_it_shows_works_as_it_stands(place: Place, start: Start):
    subprocess.run(["git", "init", "--quiet"], cwd=place.workspace, check=True)
    server = start("--hello", "work")
    (line,) = [line for line in server.said.splitlines() if line.strip().startswith("curl")]
    ran = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=20, check=True)
    answer = json.loads(ran.stdout)
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=server.facts["http_socket"])) as desk:
        keys = desk.get("http://offhand/api/keys").json()["items"]

    assert f"curl -s {server.url}/webhook -H 'X-API-Key: {server.key}'" in line
    assert answer["ok"] is True
    assert answer["result"]["status"] == "completed"
    assert "No commits yet" in answer["result"]["result"]["stdout"]
    assert "Sent one webhook as a phone would: git status in work." in server.said
    assert server.said.split("The phone would have heard: ", 1)[1].splitlines()[0] == answer["say"]
    assert [item["name"] for item in keys] == ["phone"], "the greeting leaves no key behind"


def test_it_says_where_it_is_and_only_the_user_can_read_what_it_writes_which_is_all_at_home(place: Place, start: Start):
    place.home.mkdir(mode=0o755)
    (place.base / "tmp").mkdir()
    before = everything(place.base)
    server = start(TMPDIR=str(place.base / "tmp"))
    facts = server.facts
    made = {path: path.lstat().st_mode for path in everything(place.home)}
    answer = httpx2.get(f"http://127.0.0.1:{facts['port']}/healthz", verify=False).json()
    seconds = server.stop()
    after = everything(place.base)

    assert facts["pid"] == server.pid
    assert isinstance(facts["port"], int)
    assert facts["version"] == answer["version"]
    assert Path(facts["mcp_socket"]).parent == Path(facts["http_socket"]).parent == place.home
    assert stat.S_IMODE(place.home.stat().st_mode) == 0o700
    for path, mode in made.items():
        allowed = 0o700 if stat.S_ISDIR(mode) else 0o600
        assert stat.S_IMODE(mode) & ~allowed == 0, f"{path}: {stat.filemode(mode)}"
    names = {path.name for path in made}
    assert names >= {"offhand.db", "logs", "offhand.log", "attempts", "server.json", "mcp.sock", "http.sock"}
    assert (place.home / "logs" / "offhand.log").stat().st_size > 0
    assert [path for path in after - before if not path.is_relative_to(place.home)] == []
    assert {path.name for path in after} & {"server.json", "mcp.sock", "http.sock", "bell.sock"} == set()
    assert (server.process.returncode, seconds < STOP_SECONDS) == (0, True)
    assert "Stopped." in server.said


async def test_what_a_task_makes_has_the_file_mode_that_the_user_is_used_to(place: Place, start: Start):
    mask = os.umask(0o022)
    try:
        server = start()
    finally:
        os.umask(mask)
    async with over_socket(server.facts["mcp_socket"]) as client:
        await ask(client, "delegate_task", agent="shell", params={"command": ["touch", "made"]})

    assert stat.S_IMODE((place.workspace / "made").stat().st_mode) == 0o644


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("named", ["", "~/mine", "mine", "/a/../b"], ids=["empty", "tilde", "relative", "dots"])
def test_every_way_to_name_the_home_is_read_the_same_by_all(place: Place, monkeypatch: pytest.MonkeyPatch, named: str):
    """Desktop clients pass the environment as it stands in their settings: no shell expands it."""
    monkeypatch.chdir(place.base)
    monkeypatch.setenv("HOME", str(place.user_home))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("OFFHAND_HOME", named)
    expected = {
        "": place.user_home / ".local" / "share" / "offhand",
        "~/mine": place.user_home / "mine",
        "mine": place.base / "mine",
        "/a/../b": Path("/b"),
    }[named]

    assert load_settings().home == home_folder() == expected


def test_a_variable_that_is_empty_is_as_if_it_were_not_set(place: Place, monkeypatch: pytest.MonkeyPatch):
    """As a compose file leaves it: OFFHAND_API_KEY: ${OFFHAND_API_KEY:-}."""
    monkeypatch.setenv("OFFHAND_HOME", str(place.home))
    usual = load_settings()
    for name in ("API_KEY", "PUBLIC_URL", "HOST", "PORT", "LIMIT", "WORKSPACES", "PASS_ENV"):
        monkeypatch.setenv(f"OFFHAND_{name}", "")

    assert load_settings() == usual


async def test_with_a_home_too_long_for_a_socket_both_move_to_the_runtime_folder(place: Place, start: Start):
    long = place.base / ("long" * 30)
    runtime = place.base / "run"
    runtime.mkdir(mode=0o700)
    server = start(ready=False, OFFHAND_HOME=str(long), XDG_RUNTIME_DIR=str(runtime))
    server.read_until("Serving.")
    facts = json.loads((long / "server.json").read_text())
    async with over_socket(facts["mcp_socket"]) as client:
        done = await ask(client, "delegate_task", agent="echo", description="far away")
    mode = stat.S_IMODE(Path(facts["mcp_socket"]).parent.stat().st_mode)
    server.stop()

    assert Path(facts["mcp_socket"]).is_relative_to(runtime)
    assert Path(facts["http_socket"]).is_relative_to(runtime)
    assert mode == 0o700
    assert done["status"] == "completed"
    assert not list(runtime.rglob("*.sock"))


# Settings


def test_settings_come_from_the_file_then_the_environment_then_the_command_line(place: Place, start: Start):
    place.home.mkdir(mode=0o700)
    (place.base / "other").mkdir()
    (place.home / "offhand.toml").write_text(
        'port = 1\nlimit = 3\ndefault_agent = "echo"\n'
        f'[workspaces]\nother = "{place.base / "other"}"\n[limits]\ngit = 1\n'
    )
    server = start(f"--workspace=third={place.base}", OFFHAND_LIMIT="2", OFFHAND_PORT="2")
    agents = agents_of(server)
    spoken = httpx2.post(
        f"{server.url}/webhook", json={"text": "who is it"}, headers={"X-API-Key": server.key}, verify=False
    ).json()

    assert server.facts["port"] > 2
    assert (agents["shell"]["limit"], agents["git"]["limit"]) == (2, 1)
    assert spoken["result"]["agent"] == "echo"
    line = next(line for line in server.said.splitlines() if "workspaces" in line)
    assert {"work", "other", "third"} <= set(line.replace(",", " ").split())


def agents_of(server: ServerProcess) -> dict[str, Any]:
    async def ask_it() -> dict[str, Any]:
        async with over_socket(server.facts["mcp_socket"]) as client:
            return await ask(client, "list_agents")

    return {item["name"]: item for item in asyncio.run(ask_it())["items"]}


def test_a_key_from_the_environment_works_and_an_earlier_one_ends(start: Start):
    old, new = "first-key-" + "a" * 20, "second-key-" + "b" * 20
    first = start(OFFHAND_API_KEY=old)
    with_old = httpx2.post(f"{first.url}/mcp", json=LIST, headers=MODERN | bearer(old), verify=False)
    first.stop()
    second = start(OFFHAND_API_KEY=new)
    answers = [
        httpx2.post(f"{second.url}/mcp", json=LIST, headers=MODERN | bearer(key), verify=False).status_code
        for key in (old, new)
    ]
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=second.facts["http_socket"])) as desk:
        listed = desk.get("http://offhand/api/keys").json()["items"]

    assert with_old.status_code == 200
    assert answers == [401, 200]
    assert [(item["name"], item["scopes"]) for item in listed if not item["revoked_at"]] == [
        ("environment", ["read", "submit"])
    ]
    assert "shown only this once" not in first.said, "a key was given, so none is made"
    assert old not in first.said


BAD_STARTS: list[tuple[list[str], dict[str, str], str | None, str]] = [
    ([], {"OFFHAND_API_KEY": "short"}, None, "OFFHAND_API_KEY"),
    ([], {"OFFHAND_LIMIT": "many"}, None, "limit"),
    ([], {"OFFHAND_LIMIT": "0"}, None, "limit"),
    ([], {"OFFHAND_PUBLIC_URL": "not a url"}, None, "public_url"),
    ([], {"OFFHAND_MCP_AUTH": "off", "OFFHAND_PUBLIC_URL": "https://me.example"}, None, "mcp_auth"),
    (["--host", "0.0.0.0"], {"OFFHAND_MCP_AUTH": "off"}, None, "mcp_auth"),
    ([], {"OFFHAND_WORKSPACES": "{"}, None, "workspaces"),
    ([], {}, "port = ", "offhand.toml"),
    ([], {}, 'idle_seconds = "long"', "idle_seconds"),
    ([], {}, "colour = 3", "colour"),
    ([], {}, '[[policy]]\ndecision = "maybe"', "policy"),
    ([], {}, '[[policy]]\ndecision = "deny"\nagnet = "git"', "agnet"),
    ([], {}, "\xff", "UTF-8"),
    (["--workspace", "x"], {}, None, "NAME=PATH"),
    (["--workspace", "x=/no/such/folder"], {}, None, "/no/such/folder"),
    (["--workspace", "a b=/tmp"], {}, None, "a b"),
    (["--port", "70000"], {}, None, "70000"),
    (["--host", "no.such.host.invalid"], {}, None, "no.such.host.invalid"),
    (["--nonsense"], {}, None, "--nonsense"),
]


class Refused:
    """`offhand serve` in this process, which ends before a door is opened."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._place = place
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, *arguments: str, **environment: str) -> str:
        """What it says on stderr."""
        from mcp_server.cli import app
        from mcp_server.web import serve

        def opened(*_: object) -> None:
            raise AssertionError("the doors were opened")

        self._monkeypatch.setattr(serve, "_doors", opened)
        for name, value in (self._place.environment() | environment).items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setattr("sys.argv", ["offhand", "serve", "--port", "0", *arguments])
        with our_logging():
            code = app.run()
        said = self._capfd.readouterr()
        assert code in (1, 2)
        assert "Traceback" not in said.err
        assert "Serving" not in said.out
        return said.err


@contextmanager
def our_logging() -> Generator[None]:
    """`serve` sets up the logging of its process; this one is not its."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture
def serve_refused(place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    return Refused(place, monkeypatch, capfd)


@pytest.mark.parametrize(
    ("arguments", "environment", "file", "named"),
    BAD_STARTS,
    ids=[f"{case[3]}-{number}" for number, case in enumerate(BAD_STARTS)],
)
def test_a_setting_that_cannot_be_used_is_named_and_nothing_starts(
    place: Place,
    serve_refused: Refused,
    arguments: list[str],
    environment: dict[str, str],
    file: str | None,
    named: str,
):
    if file is not None:
        place.home.mkdir(mode=0o700)
        (place.home / "offhand.toml").write_bytes(file.encode("latin-1"))

    assert named in serve_refused(*arguments, **environment)


# A second one


def test_a_second_server_on_the_same_home_says_who_serves_and_ends(server: ServerProcess, serve_refused: Refused):
    home, port = server.place.home, str(server.facts["port"])
    elsewhere = server.place.run("serve", "--port", "0")
    same_port = serve_refused("--port", port, OFFHAND_HOME=str(home))

    assert elsewhere.returncode == 1
    for said in (elsewhere.stderr, same_port):
        assert str(home) in said
        assert f"process {server.pid} on port {port}" in said
        assert "Traceback" not in said
    assert server.facts["pid"] == server.pid
    assert httpx2.get(f"{server.url}/healthz", verify=False).status_code == 200


def test_a_port_that_somebody_else_has_is_named_with_the_way_out(serve_refused: Refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = serve_refused("--port", str(port))

    assert f"127.0.0.1:{port}" in said
    assert "--port 0" in said


# The store


def foreign_text(path: Path) -> None:
    path.write_text("Dear diary, " * 1000)


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE diary (day, text)")
    connection.close()


def newer_store(path: Path) -> None:
    from mcp_server.store.migrate import migrate, migrations

    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path, migrations())
    connection.execute("INSERT INTO migration (version, name, checksum, applied_at) VALUES (9999, 'later', 'x', 1)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (foreign_text, "not an Offhand store"),
        (foreign_database, "not an Offhand store"),
        (newer_store, "newer Offhand"),
    ],
)
def test_a_store_that_is_not_ours_to_open_is_left_as_it_is(place: Place, serve_refused: Refused, make: Any, words: str):
    place.home.mkdir(mode=0o700)
    store = place.home / "offhand.db"
    make(store)
    before = store.read_bytes()
    said = serve_refused()

    assert str(store) in said
    assert words in said
    assert "OFFHAND_HOME" in said
    assert store.read_bytes() == before


def test_a_home_that_cannot_be_written_is_said_in_one_line(place: Place, serve_refused: Refused):
    """A file where the folder should be: a mode would not stop root."""
    place.home.write_text("in the way")
    said = serve_refused()

    assert str(place.home) in said
    assert "OFFHAND_HOME" in said
    assert len(said.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home_is_said_in_one_line(place: Place, serve_refused: Refused):
    place.home.mkdir(mode=0o500)

    assert str(place.home) in serve_refused()


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "ctrl_c"])
async def test_it_ends_at_once_whatever_is_open_and_work_goes_on(place: Place, start: Start, gate: Gate, number: int):
    server = start()
    url, key, facts = server.url, server.key, server.facts
    async with AsyncExitStack() as stack:
        raw = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=30, verify=False))
        desk = await stack.enter_async_context(over_socket(facts["mcp_socket"]))
        await shell(desk, f"echo t >> runs; {gate.snippet}; echo result", task_id="t", wait=0)
        await gate.reached()
        legacy = await open_legacy_stream(stack, raw, key)
        listening = await open_listen_stream(stack, raw, key)
        asked = call("get_task", {"task_id": "t", "wait": 45})
        waiting = [
            asyncio.create_task(raw.post("/mcp", json=asked, headers=CALL | bearer(key))),
            asyncio.create_task(raw.get("/tasks/t?wait=45", headers=bearer(key))),
        ]
        at_desk = asyncio.create_task(ask(desk, "get_task", task_id="t", wait=45))
        known = f"X-API-Key: {key}\r\n".encode()
        for words in (
            b"POST /webhook HTTP/1.1\r\nHost: x\r\n" + known + b"Content-Length: 100\r\n\r\nhalf",
            b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n" + known + b"Content-Length: 100\r\n\r\nhalf",
            b"POST /web",
        ):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", facts["port"])))
            half.sendall(words)
        idle = stack.enter_context(socket.socket(socket.AF_UNIX))
        idle.connect(facts["http_socket"])
        await settled(raw, key)

        seconds = await asyncio.to_thread(server.stop, number)
        answers = await asyncio.wait_for(asyncio.gather(*waiting, at_desk, return_exceptions=True), 10)
        for stream in (legacy, listening):
            with suppress(httpx2.TransportError):
                async with asyncio.timeout(10):
                    await stream.aread()

    assert seconds < STOP_SECONDS
    assert server.process.returncode == 0
    assert "Traceback" not in server.said, server.said
    assert "Stopped." in server.said
    assert not (place.home / "server.json").exists()
    over_mcp, over_web, over_line = answers
    assert isinstance(over_mcp, httpx2.Response)
    assert "running" in over_mcp.text
    assert isinstance(over_web, httpx2.Response)
    assert over_web.status_code in (200, 202)
    assert isinstance(over_line, dict | MCPError)
    assert any("/attempts/1-1" in line for line in place.task_processes().values()), "its supervisor lives"

    second = start()
    async with over_socket(second.facts["mcp_socket"]) as client:
        gate.go_on()
        done = await finished(client, "t")

    assert "Found after the restart: 1 still running; none lost." in second.said
    assert (done["status"], done["attempt"], done["result"]["stdout"]) == ("completed", 1, "result\n")
    assert (place.workspace / "runs").read_text() == "t\n"


CALL = MODERN | {"Mcp-Method": "tools/call", "Mcp-Name": "get_task"}


def call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return LIST | {"method": "tools/call", "params": {"name": tool, "arguments": arguments, "_meta": META}}


async def settled(raw: httpx2.AsyncClient, key: str) -> None:
    """By the time that this is answered, what was sent before has arrived."""
    headers = CALL | {"Mcp-Name": "list_agents"} | bearer(key)
    for _ in range(3):
        answer = await raw.post("/mcp", json=call("list_agents", {}), headers=headers)
        assert answer.status_code == 200


async def open_legacy_stream(stack: AsyncExitStack, raw: httpx2.AsyncClient, key: str) -> httpx2.Response:
    """The server's own stream of a session of the older era."""
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HANDSHAKE}
    opened = await raw.post("/mcp", json=hello, headers=ACCEPT | bearer(key))
    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"} | bearer(key)
    await raw.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=ACCEPT | session)
    stream = await stack.enter_async_context(
        raw.stream("GET", "/mcp", headers={"Accept": "text/event-stream"} | session)
    )
    assert stream.status_code == 200
    assert "text/event-stream" in stream.headers["content-type"]
    return stream


async def open_listen_stream(stack: AsyncExitStack, raw: httpx2.AsyncClient, key: str) -> httpx2.Response:
    """A subscription of the newer era."""
    params = {"notifications": {"resourceSubscriptions": ["task://t"]}, "_meta": META}
    body = {"jsonrpc": "2.0", "id": 2, "method": "subscriptions/listen", "params": params}
    headers = ACCEPT | {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"} | bearer(key)
    stream = await stack.enter_async_context(raw.stream("POST", "/mcp", json=body, headers=headers))
    assert stream.status_code == 200, await stream.aread()
    assert "text/event-stream" in stream.headers["content-type"]
    return stream


async def test_a_phone_that_hangs_up_in_the_middle_of_a_call_does_not_end_the_task(
    place: Place, server: ServerProcess, gate: Gate
):
    headers = CALL | {"Mcp-Name": "delegate_task"} | bearer(server.key)
    arguments = {"agent": "echo", "description": "x", "params": {"sleep": 0.5}, "task_id": "hung_up", "wait": 45}
    async with over_http(server.url, server.key) as watcher:
        async with httpx2.AsyncClient(base_url=server.url, timeout=30, verify=False) as phone:
            calling = asyncio.create_task(phone.post("/mcp", json=call("delegate_task", arguments), headers=headers))
            async with asyncio.timeout(10):
                while not (await ask(watcher, "list_tasks", status="running"))["items"]:
                    pass
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
        done = await finished(watcher, "hung_up")

    assert done["status"] == "completed"


async def test_a_client_at_the_desk_that_hangs_up_in_the_middle_of_a_call_does_not_end_the_task(
    server: ServerProcess, gate: Gate
):
    reader, writer = await asyncio.open_unix_connection(server.facts["mcp_socket"])
    command = {"command": ["sh", "-c", f"{gate.snippet}; echo result"]}
    order = {"agent": "shell", "params": command, "task_id": "desk_hung_up", "wait": 45}
    writer.write(json.dumps(call("delegate_task", order)).encode() + b"\n")
    await gate.reached()
    writer.transport.abort()
    with suppress(ConnectionError):
        await reader.read()
    async with over_socket(server.facts["mcp_socket"]) as client:
        running = await ask(client, "get_task", task_id="desk_hung_up")
        gate.go_on()
        done = await finished(client, "desk_hung_up")

    assert running["status"] == "running"
    assert (done["status"], done["result"]["stdout"]) == ("completed", "result\n")


def test_it_can_be_told_to_stop_while_it_starts(place: Place, start: Start):
    server = start(ready=False)
    server.process.terminate()
    server.process.wait(20)

    assert server.process.returncode in (0, -signal.SIGTERM)
    assert not (place.home / "server.json").exists()
