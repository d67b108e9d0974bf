"""The command line: keys, workspaces, help. Each command in this process; the server that some ask is a real one."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from mcp_server.cli import app
from mcp_server.cli.app import offhand
from tests.server.processes import Place, ServerProcess
from tests.web.test_http import LIST, MODERN, bearer


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def server() -> Generator[ServerProcess]:
    """Serves for the commands that ask a running server."""
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        place = Place.make(Path(folder))
        running = ServerProcess.start(place)
        try:
            yield running
        finally:
            running.close()
            place.end_all()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A user without a server."""
    return Place.make(tmp_path / "them")


@pytest.fixture
def run(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`offhand ARGUMENTS` of the user `place`, or of another one."""

    def runs(*arguments: str, of: Place = place) -> Ran:
        for name, value in of.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(of.base)
        monkeypatch.setattr("sys.argv", ["offhand", *arguments])
        code = app.run()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ran(code, said.out, said.err)

    return runs


# Keys


def key_of(ran: Ran) -> str:
    assert ran.code == 0, ran.err
    return ran.out.strip()


def status_with(server: ServerProcess, key: str) -> int:
    import httpx2

    return httpx2.post(f"{server.url}/mcp", json=LIST, headers=MODERN | bearer(key), verify=False).status_code


def test_a_key_is_made_listed_and_revoked_through_the_running_server(run: Run, server: ServerProcess):
    made = run("key", "create", "watch", of=server.place)
    works = status_with(server, key_of(made))
    listed = run("key", "list", of=server.place)
    revoked = run("key", "revoke", "watch", of=server.place)
    dead = status_with(server, key_of(made))
    after = run("key", "list", of=server.place)

    assert re.fullmatch(r"ofh_[\w-]{32,}\n", made.out), "stdout is the key alone, for scripts"
    assert "shown only this once" in made.err
    assert "read, submit" in made.err
    assert re.search(r"^watch +read,submit +\S+ +active$", listed.out, re.MULTILINE)
    assert made.out.strip() not in listed.out
    assert "watch is revoked" in revoked.out
    assert re.search(r"^watch .* revoked ", after.out, re.MULTILINE)
    assert (works, dead) == (200, 401)


def test_a_key_is_made_listed_and_revoked_without_a_server_and_works_once_one_runs(run: Run, place: Place):
    made = run("key", "create", "watch", "--json")
    second = run("key", "create", "other")
    listed = json.loads(run("key", "list", "--json").out)["items"]
    revoked = json.loads(run("key", "revoke", "other", "--json").out)

    record = json.loads(made.out)
    assert record["key"].startswith("ofh_")
    assert record["scopes"] == ["read", "submit"]
    assert made.err == ""
    assert [item["name"] for item in listed] == ["other", "watch"]
    assert not any("key" in item or "hash" in item for item in listed)
    assert revoked["revoked_at"]
    assert stat.S_IMODE(place.home.stat().st_mode) == 0o700
    with tempfile.TemporaryDirectory(prefix="oh-") as short:
        moved = Place.make(Path(short))
        place.home.rename(moved.home)
        running = ServerProcess.start(moved)
        try:
            codes = [status_with(running, key) for key in (record["key"], key_of(second))]
        finally:
            running.close()
    assert codes == [200, 401]


@pytest.mark.parametrize("asks_server", [True, False], ids=["server", "store"])
def test_scopes_are_given_one_by_one_and_those_that_do_not_go_together_are_refused(
    run: Run, server: ServerProcess, place: Place, asks_server: bool
):
    of = server.place if asks_server else place
    admin = run("key", "create", "boss", "--scope", "admin", "--scope", "read", "--json", of=of)
    both = run("key", "create", "both", "--scope", "submit", "--scope", "approve", of=of)
    unknown = run("key", "create", "odd", "--scope", "everything", of=of)
    listed = json.loads(run("key", "list", "--json", of=of).out)["items"]

    assert json.loads(admin.out)["scopes"] == ["admin", "read"]
    assert (both.code, unknown.code) == (1, 2)
    assert "never holds submit together with approve" in both.err
    assert "two keys" in both.err
    assert "everything" in unknown.err
    assert "approve" in unknown.err, "the known ones are named"
    assert {item["name"] for item in listed} & {"both", "odd"} == set()


@pytest.mark.parametrize("asks_server", [True, False], ids=["server", "store"])
def test_a_name_that_is_taken_or_unknown_is_said_in_one_line(
    run: Run, server: ServerProcess, place: Place, asks_server: bool
):
    of = server.place if asks_server else place
    run("key", "create", "twice", of=of)
    taken = run("key", "create", "twice", of=of)
    unknown = run("key", "revoke", "nobody/at all", of=of)

    for ran in (taken, unknown):
        assert ran.code == 1
        assert ran.out == ""
        assert ran.err.startswith("offhand: ")
        assert len(ran.err.splitlines()) == 1
    assert "revoke that key first" in taken.err
    assert "offhand key list" in unknown.err


def test_without_a_key_the_list_says_how_to_make_one(run: Run):
    assert "offhand key create" in run("key", "list").out


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpcore2 drops its socket unclosed
def test_a_server_file_that_a_kill_left_behind_is_no_obstacle(run: Run, place: Place):
    place.home.mkdir(mode=0o700)
    for content in (
        '{"pid": 1, "http_socket": "/nowhere/http.sock", "port": 1}',
        '{"pid": 1}',
        "{half",
        "[]",
    ):
        (place.home / "server.json").write_text(content)
        assert run("key", "list").code == 0, content


# Workspaces


def test_workspaces_are_added_listed_and_removed_and_comments_stay(run: Run, place: Place):
    place.home.mkdir(mode=0o700)
    settings = place.home / "offhand.toml"
    settings.write_text('# mine\ndefault_agent = "echo"  # for now\n\n[workspaces]\n# the old one\nold = "~/old"\n')
    (place.base / "new").mkdir()
    added = run("workspace", "add", "new", "new")
    listed = run("workspace", "list")
    as_json = json.loads(run("workspace", "list", "--json").out)["items"]
    removed = run("workspace", "remove", "old")
    unknown = run("workspace", "remove", "old")
    text = settings.read_text()

    assert added.out == f"Workspace new is {place.base / 'new'}.\n"
    assert re.search(r"^old +.*no such folder", listed.out, re.MULTILINE)
    assert {item["name"]: item["path"] for item in as_json} == {
        "old": str(place.user_home / "old"),
        "new": str(place.base / "new"),
    }
    assert removed.code == 0
    assert "not touched" in removed.out
    assert (unknown.code, "offhand workspace list" in unknown.err) == (1, True)
    assert text.startswith('# mine\ndefault_agent = "echo"  # for now\n')
    assert f'new = "{place.base / "new"}"' in text
    assert 'old = "' not in text
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert [path.name for path in place.home.iterdir()] == ["offhand.toml"]


@pytest.mark.parametrize(
    ("name", "path", "named"),
    [("a b", ".", "a b"), ("", ".", "name"), ("a/b", ".", "a/b"), ("ok", "nowhere", "nowhere"), ("x" * 65, ".", "xxx")],
)
def test_a_workspace_that_cannot_be_is_refused_and_nothing_is_written(
    run: Run, place: Place, name: str, path: str, named: str
):
    refused = run("workspace", "add", name, path)

    assert refused.code == 1
    assert named in refused.err
    assert not (place.home / "offhand.toml").exists()


def test_a_running_server_is_to_be_restarted_and_the_command_says_so(run: Run, server: ServerProcess):
    added = run("workspace", "add", "more", ".", of=server.place)
    removed = run("workspace", "remove", "more", of=server.place)

    assert "Restart the server" in added.out
    assert "Restart the server" in removed.out


def test_a_settings_file_that_cannot_be_read_is_named_and_left(run: Run, place: Place):
    place.home.mkdir(mode=0o700)
    settings = place.home / "offhand.toml"
    settings.write_text("[workspaces\n")
    for arguments in (["workspace", "list"], ["workspace", "add", "x", "."], ["workspace", "remove", "x"]):
        refused = run(*arguments)

        assert refused.code == 1, arguments
        assert "offhand.toml" in refused.err, arguments
    assert settings.read_text() == "[workspaces\n"
    settings.write_text("workspaces = 3\n")
    for arguments in (["workspace", "list"], ["workspace", "add", "x", "."], ["workspace", "remove", "x"]):
        assert "workspaces" in run(*arguments).err, arguments


# Help


def every_command() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for name, command in offhand.commands.items():
        found.append((name,))
        found += [(name, sub) for sub in getattr(command, "commands", {})]
    return found


def test_these_are_the_commands():
    assert set(every_command()) >= {
        (),
        ("mcp",),
        ("serve",),
        ("key",),
        ("key", "create"),
        ("key", "list"),
        ("key", "revoke"),
        ("workspace",),
        ("workspace", "add"),
        ("workspace", "list"),
        ("workspace", "remove"),
    }


@pytest.mark.parametrize("command", every_command(), ids=lambda command: " ".join(command) or "offhand")
def test_every_command_says_what_it_is_for(run: Run, place: Place, command: tuple[str, ...]):
    shown = run(*command, "--help")
    short = run(*command, "-h")
    body = shown.out.split("Usage:")[1].split("Options:")[0].splitlines()[1:]
    sentences = [line.strip() for line in body if line.strip()]

    assert (shown.code, short.code) == (0, 0), shown.err + short.err
    assert short.out == shown.out
    assert sentences, shown.out
    assert len(" ".join(sentences).split()) >= 4
    found: click.Command = offhand
    for name in command:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    for option in (param for param in found.params if isinstance(param, click.Option)):
        assert option.help, option.name
        assert option.help.split()[0] in shown.out
    assert not place.home.exists(), "help writes nothing"


def test_an_unknown_command_is_a_usage_error(run: Run):
    wrong = run("srve")

    assert wrong.code == 2
    assert "srve" in wrong.err


def test_the_version_is_told(run: Run):
    from mcp_server.release import release

    assert release() in run("--version").out


# The shim


def imported_by(*arguments: str, place: Place) -> set[str]:
    """The modules that `offhand ARGUMENTS` has imported when it ends."""
    program = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))\n"
        f"sys.argv = ['offhand', *{list(arguments)!r}]\n"
        "from mcp_server.__main__ import main\n"
        "raise SystemExit(main())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=place.environment(),
        cwd=place.base,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return set(ran.stderr.split())


def test_the_shim_is_reached_without_anything_that_takes_time(server: ServerProcess):
    modules = imported_by("mcp", place=server.place)
    heavy = {"click", "mcp", "pydantic", "asyncio", "httpx2", "starlette", "mcp_server.cli.app", "mcp_server.settings"}

    assert "mcp_server.transports.shim" in modules
    assert not modules & heavy


def test_help_about_the_shim_is_help_and_no_shim(run: Run):
    assert "mcp-config.json" in run("mcp", "--help").out


def answers(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def test_offhand_mcp_speaks_mcp_on_stdin_and_stdout(server: ServerProcess):
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "mcp_server", "mcp"],
        input="".join(json.dumps(message) + "\n" for message in messages),
        env=server.place.environment(),
        cwd=server.place.base,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )

    first, second = answers(ran.stdout)
    assert first["result"]["serverInfo"]["name"] == "offhand"
    assert len(second["result"]["tools"]) == 15
    assert ran.stderr == ""
