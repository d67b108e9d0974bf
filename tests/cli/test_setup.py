"""`offhand setup`: what it writes, what it leaves alone, and when it refuses. Each test has a HOME of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mcp_server.cli import app
from mcp_server.clients.change import plan_change
from mcp_server.clients.entry import our_entry, search_path
from mcp_server.clients.known import CLIENTS, Client, find_client
from mcp_server.errors import ConflictError, InvalidError, NotFoundError, UnavailableError
from tests.server.processes import ROOT

WAIT_SECONDS = 20
LARGE_FILE_SECONDS = 20
VARIABLES = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "OFFHAND_HOME")


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has started every client once, and set no variable."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "user"
    project = home / "project"
    project.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:here:/usr/bin::/bin")
    monkeypatch.chdir(project)
    for client in CLIENTS:
        client.folder().mkdir(parents=True)
    return home


@pytest.fixture
def run(user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def runs(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["offhand", "setup", *arguments])
        code = app.run()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ran(code, said.out, said.err)

    return runs


def servers_in(client: Client, path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    return (tomllib.loads(text) if path.suffix == ".toml" else json.loads(text))[client.section]


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.offhand-backup-*"))


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    return request.param


# What is written


def test_each_client_gets_the_shim_by_its_absolute_path_and_the_path_of_the_user(run: Run, client: Client, user: Path):
    done = run(client.name, "--yes")
    path = client.user_file()
    entry = servers_in(client, path)["offhand"]

    assert done.code == 0, done.err
    assert path.is_relative_to(user)
    assert os.access(entry["command"], os.X_OK)
    assert Path(entry["command"]).is_absolute()
    assert entry["env"] == {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    assert entry.get("type") == ("stdio" if client.typed else None)
    assert entry["command"] in done.out, "the change is shown"
    assert client.afterwards in done.out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not backups(path)
    assert {found.name for found in path.parent.iterdir() if "offhand" in found.name} == set()


def test_what_is_written_starts_a_shim(run: Run, user: Path):
    """With the environment of a desktop app, which knows nothing of the user's shell. The shim meets a closed stdin."""
    run("claude-desktop", "--yes")
    entry = servers_in(find_client("claude-desktop"), find_client("claude-desktop").user_file())["offhand"]
    home = user / ".local" / "share" / "offhand"
    home.mkdir(parents=True)
    (home / "offhand.toml").write_text("port = 'none'")
    done = subprocess.run(
        [entry["command"], *entry["args"]],
        env={"HOME": str(user)} | entry["env"],
        input='{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n',
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )

    answer = json.loads(done.stdout)
    assert answer["id"] == 1
    assert "port" in answer["error"]["message"], "it tried to start the server of this home, and says why it could not"


def test_each_client_has_its_own_word_for_servers(run: Run, client: Client):
    run(client.name, "--yes")
    text = client.user_file().read_text()

    word = {"vscode": "servers", "codex": "mcp_servers"}.get(client.name, "mcpServers")
    assert set(tomllib.loads(text) if client.name == "codex" else json.loads(text)) == {word}


def test_to_set_up_again_changes_nothing_and_says_so(run: Run, client: Client):
    run(client.name, "--yes")
    before = client.user_file().read_bytes()
    again = run(client.name)

    assert again.code == 0
    assert "Nothing to do" in again.out
    assert client.user_file().read_bytes() == before
    assert not backups(client.user_file())


def test_another_path_and_another_home_bring_the_entry_up_to_date(
    run: Run, client: Client, user: Path, monkeypatch: pytest.MonkeyPatch
):
    run(client.name, "--yes")
    monkeypatch.setenv("PATH", "/opt/bin")
    monkeypatch.setenv("OFFHAND_HOME", str(user / "elsewhere"))
    moved = run(client.name, "--yes")
    there = servers_in(client, client.user_file())["offhand"]["env"]
    monkeypatch.setenv("OFFHAND_HOME", str(user / ".local" / "share" / "offhand"))
    run(client.name, "--yes")
    back = servers_in(client, client.user_file())["offhand"]["env"]

    assert "/opt/bin" in moved.out
    assert there == {"OFFHAND_HOME": str(user / "elsewhere"), "PATH": "/opt/bin"}
    assert back == {"PATH": "/opt/bin"}, "the default home needs no variable"
    assert len(backups(client.user_file())) == 2


def test_a_home_that_only_the_shell_knows_of_is_written(run: Run, user: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(user / "data"))
    run("cursor", "--yes")
    entry = servers_in(find_client("cursor"), user / ".cursor" / "mcp.json")["offhand"]

    expected = user / ("Library/Application Support/offhand" if sys.platform == "darwin" else "data/offhand")
    assert entry["env"].get("OFFHAND_HOME", str(expected)) == str(expected)
    assert ("OFFHAND_HOME" in entry["env"]) == (sys.platform != "darwin")


def test_other_servers_and_what_the_user_added_to_ours_stay(run: Run, user: Path):
    path = user / ".cursor" / "mcp.json"
    other = {"command": "npx", "args": ["-y", "thing"], "env": {"TOKEN": "secret"}}
    old = {"command": "/gone/offhand-mcp", "timeout": 600, "env": {"MINE": "1", "OFFHAND_HOME": "/gone", "PATH": "/"}}
    path.write_text(json.dumps({"theme": "dark", "mcpServers": {"offhand": old, "other": other}}))
    path.chmod(0o640)
    before = path.read_bytes()
    done = run("cursor", "--yes")
    values = json.loads(path.read_text())
    (backup,) = backups(path)

    assert done.code == 0
    assert values["theme"] == "dark"
    assert values["mcpServers"]["other"] == other
    assert values["mcpServers"]["offhand"]["timeout"] == 600
    assert values["mcpServers"]["offhand"]["env"] == {"MINE": "1", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    assert values["mcpServers"]["offhand"]["command"] == our_entry().command
    assert backup.read_bytes() == before
    assert str(backup) in done.out
    assert {stat.S_IMODE(found.stat().st_mode) for found in (path, backup)} == {0o640}


def test_an_entry_for_an_address_is_replaced_as_a_whole(run: Run, user: Path):
    path = user / ".cursor" / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"offhand": {"url": "http://x/mcp", "headers": {"A": "b"}}}}))
    run("cursor", "--yes")

    assert set(servers_in(find_client("cursor"), path)["offhand"]) == {"type", "command", "args", "env"}


@pytest.mark.parametrize("name", ["vscode", "gemini"])
def test_comments_stay(run: Run, name: str):
    client = find_client(name)
    text = f'// mine\n{{\n\t"{client.section}": {{\n\t\t"a": {{"url": "http://a"}}, // this one\n\t}},\n}}\n'
    client.user_file().write_text(text)
    run(name, "--yes")
    changed = client.user_file().read_text()
    run(name, "--remove", "--yes")

    assert "// mine" in changed
    assert "// this one" in changed
    assert our_entry().command in changed
    assert client.user_file().read_text() == text


def test_only_what_changes_is_shown_of_a_file_that_is_one_long_line(run: Run, user: Path):
    (user / ".claude.json").write_text(json.dumps({"history": "x" * 5000, "token": "secret", "mcpServers": {"a": {}}}))
    shown = run("claude-code", "--dry-run")

    assert "secret" not in shown.out
    assert max(map(len, shown.out.splitlines())) < 400


def test_of_a_large_file_only_the_neighbourhood_is_shown_and_at_once(run: Run, user: Path):
    """Half a minute is what a diff of this file takes that looks at all of it."""
    projects = {f"/p/{number}": {"history": [{"display": "x" * 40}] * 40} for number in range(2000)}
    (user / ".claude.json").write_text(json.dumps({"projects": projects, "mcpServers": {"a": {}}, "z": 1}, indent=2))
    began = time.monotonic()
    shown = run("claude-code", "--dry-run")

    assert time.monotonic() - began < LARGE_FILE_SECONDS
    assert shown.out.count("\n+") == 9
    assert '\n-    "a": {}\n+    "a": {},\n' in shown.out
    assert '\n   "z": 1' in shown.out
    assert len(shown.out.splitlines()) < 24


def test_changes_in_two_places_are_shown_as_two(user: Path):
    path = user / ".codex" / "config.toml"
    lines = "\n".join(f"v{number} = 1" for number in range(20))
    path.write_text(f'[mcp_servers.offhand]\ncommand = "x"\n[a]\n{lines}\n[mcp_servers.offhand.env]\nPATH = "/x"\n')
    shown = plan_change(find_client("codex"), path, None).diff()

    assert [line for line in shown.splitlines() if line.startswith("-") or line == "…"] == [
        "-[mcp_servers.offhand]",
        '-command = "x"',
        "…",
        "-[mcp_servers.offhand.env]",
        '-PATH = "/x"',
    ]


def test_a_link_to_the_file_stays_a_link(run: Run, user: Path):
    kept = user / "dotfiles"
    kept.mkdir()
    (kept / "mcp.json").write_text("{}")
    (user / ".cursor" / "mcp.json").symlink_to(kept / "mcp.json")
    run("cursor", "--yes")

    assert (user / ".cursor" / "mcp.json").is_symlink()
    assert "offhand" in json.loads((kept / "mcp.json").read_text())["mcpServers"]
    assert backups(kept / "mcp.json")


# Taking it out


def test_removing_gives_back_the_file_as_it_was(run: Run, client: Client):
    path = client.user_file()
    section = {client.section: {"other": {"command": "x"}}}
    text = '[mcp_servers.other]\ncommand = "x"\n' if path.suffix == ".toml" else json.dumps(section, indent=2)
    path.write_text(text)
    run(client.name, "--yes")
    removed = run(client.name, "--remove", "--yes")
    again = run(client.name, "--remove")

    assert removed.code == 0
    assert path.read_text() == text
    assert "Nothing to do" in again.out


def test_removing_from_a_client_that_is_not_there_is_no_error_and_makes_no_file(run: Run, user: Path):
    (user / ".cursor").rmdir()
    done = run("cursor", "--remove", "--yes")

    assert (done.code, (user / ".cursor").exists()) == (0, False)
    assert "Nothing to do" in done.out


# A project


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("claude-code", ".mcp.json"),
        ("cursor", ".cursor/mcp.json"),
        ("vscode", ".vscode/mcp.json"),
        ("gemini", ".gemini/settings.json"),
        ("codex", ".codex/config.toml"),
    ],
)
def test_a_project_has_a_file_of_its_own(run: Run, user: Path, name: str, file: str):
    done = run(name, "--scope", "project", "--yes")

    assert "offhand" in servers_in(find_client(name), user / "project" / file)
    assert not find_client(name).user_file().exists()
    assert "others who get a copy" in done.out


def test_claude_desktop_has_no_projects(run: Run):
    refused = run("claude-desktop", "--scope", "project", "--yes")

    assert refused.code == 1
    assert "--scope" in refused.err


# Asking


def asked(answer: str, *arguments: str) -> tuple[int, str]:
    """Run with a terminal, answer, and read what was said until the end."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mcp_server", "setup", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        os.close(theirs)
        os.write(ours, answer.encode())
        said, _ = process.communicate(timeout=WAIT_SECONDS)
    os.close(ours)
    return process.returncode, said


@pytest.mark.parametrize(("answer", "written"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_user_at_a_terminal_is_asked_and_silence_is_no(user: Path, answer: str, written: bool):
    code, said = asked(answer, "cursor")

    assert code == 0
    assert "[y/N]" in said
    assert (user / ".cursor" / "mcp.json").exists() == written
    assert ("Nothing was changed" in said) == (not written)


def test_with_nobody_to_ask_nothing_is_written(run: Run, user: Path):
    for arguments in (["cursor"], ["cursor", "--json"]):
        refused = run(*arguments)

        assert refused.code == 1, arguments
        assert "--yes" in refused.err
        assert not (user / ".cursor" / "mcp.json").exists()


def test_a_dry_run_shows_the_change_and_json_tells_it(run: Run, user: Path):
    shown = run("cursor", "--dry-run")
    told = json.loads(run("cursor", "--dry-run", "--json").out)
    run("cursor", "--yes")
    nothing = json.loads(run("cursor", "--json").out)
    removed = json.loads(run("cursor", "--remove", "--yes", "--json").out)

    assert '+      "command": ' in shown.out
    assert "Nothing was changed" in shown.out
    assert told | {"file": ""} == {
        "client": "cursor",
        "scope": "user",
        "file": "",
        "change": "add",
        "written": False,
        "backup": None,
    }
    assert (nothing["change"], nothing["written"]) == ("none", False)
    assert (removed["change"], removed["written"]) == ("remove", True)
    assert Path(removed["backup"]).exists()


def test_a_dry_run_writes_nothing(run: Run, user: Path):
    run("cursor", "--dry-run")
    run("cursor", "--dry-run", "--yes")

    assert list((user / ".cursor").iterdir()) == []


# Refusals


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{broken", "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b"[]", "no object"),
        (b'{"mcpServers": []}', "mcpServers is no object"),
        (b'{"mcpServers": {"offhand": {}, "offhand": {}}}', "more than once"),
    ],
)
def test_a_file_that_is_not_understood_is_left_and_the_entry_is_shown(run: Run, user: Path, content: bytes, why: str):
    path = user / ".cursor" / "mcp.json"
    path.write_bytes(content)
    refused = run("cursor", "--yes")
    listed = run()

    assert refused.code == 1
    assert why in refused.err
    by_hand = json.loads(refused.err[refused.err.index("\n") :])
    assert by_hand["mcpServers"]["offhand"]["command"] == our_entry().command
    assert path.read_bytes() == content
    assert [found.name for found in path.parent.iterdir()] == ["mcp.json"]
    assert listed.code == 0, "the list still lists the others"


def test_a_toml_file_that_is_not_understood_is_left_and_the_entry_is_shown(run: Run, user: Path):
    (user / ".codex" / "config.toml").write_text("[open")
    refused = run("codex", "--yes")

    assert refused.code == 1
    assert tomllib.loads(refused.err[refused.err.index("\n") :])["mcp_servers"]["offhand"]["env"]["PATH"]
    assert (user / ".codex" / "config.toml").read_text() == "[open"


def test_a_client_that_is_not_installed_is_named_with_the_folder_that_is_missing(run: Run, client: Client):
    client.folder().rmdir()
    refused = run(client.name, "--yes")

    assert refused.code == 1
    assert str(client.folder()) in refused.err
    assert not client.user_file().exists()


def test_a_client_whose_program_is_on_the_path_is_installed(
    run: Run, user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (user / ".codex").rmdir()
    (tmp_path / "codex").write_text("#!/bin/sh\n")
    (tmp_path / "codex").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert run("codex", "--yes").code == 0
    assert (user / ".codex" / "config.toml").exists()


def test_a_folder_in_the_place_of_the_file_is_refused(run: Run, user: Path):
    (user / ".cursor" / "mcp.json").mkdir()
    refused = run("cursor", "--yes")

    assert refused.code == 1
    assert "mcp.json is no file" in refused.err


def test_a_read_only_file_is_respected(run: Run, user: Path):
    path = user / ".cursor" / "mcp.json"
    path.write_text("{}")
    path.chmod(0o444)
    refused = run("cursor", "--yes")

    assert refused.code == 1
    assert "read-only" in refused.err
    assert path.read_text() == "{}"
    assert not backups(path)


def test_a_file_that_changed_in_the_meantime_is_left(user: Path):

    path = user / ".cursor" / "mcp.json"
    planned = plan_change(find_client("cursor"), path, our_entry())
    path.write_text('{"new": 1}')
    with pytest.raises(ConflictError):
        planned.write(datetime.now(UTC))

    assert path.read_text() == '{"new": 1}'


def test_a_folder_that_cannot_be_written_to_says_so(user: Path):
    (user / ".cursor").rmdir()
    (user / ".cursor").write_text("a file")

    with pytest.raises(UnavailableError, match="Nothing was changed"):
        plan_change(find_client("cursor"), user / ".cursor" / "mcp.json", our_entry()).write(datetime.now(UTC))


def test_a_shim_whose_path_a_client_would_change_is_refused(user: Path, monkeypatch: pytest.MonkeyPatch):
    folder = user / "a$HOME"
    folder.mkdir()
    (folder / "offhand-mcp").write_text("")
    (folder / "offhand-mcp").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(folder / "python"))

    with pytest.raises(InvalidError, match="HOME"):
        our_entry()


def test_without_the_script_the_interpreter_is_the_command(user: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", "/somewhere/python3")
    monkeypatch.setattr("sysconfig.get_path", lambda name, scheme=None: "/nowhere")

    entry = our_entry()
    assert (entry.command, entry.args) == ("/somewhere/python3", ("-P", "-m", "mcp_server.transports.shim"))


def test_a_path_keeps_absolute_folders_once_in_their_order():
    assert search_path("/b:/a:.:x:/b::/c d:/$X:/e\udcff") == "/b:/a:/c d"


# Names and the list


def test_names_and_aliases_are_found_and_none_stands_for_two():
    for client in CLIENTS:
        for name in (client.name, client.title, client.name.upper(), *client.aliases):
            assert find_client(name) is client
    spoken = [name for client in CLIENTS for name in (client.name, *client.aliases)]
    assert len(spoken) == len(set(spoken))
    with pytest.raises(NotFoundError):
        find_client("netscape")


def test_an_unknown_client_is_answered_with_those_that_are_known(run: Run):
    refused = run("netscape")

    assert refused.code == 1
    assert all(client.name in refused.err for client in CLIENTS)


def test_the_list_says_what_is_there_and_what_is_set_up(run: Run, user: Path):
    (user / ".codex").rmdir()
    (user / ".gemini" / "settings.json").write_text('{"mcpServers": {"offhand": {"command": "/old/offhand-mcp"}}}')
    run("cursor", "--yes")
    shown = run().out
    items = {item["name"]: item for item in json.loads(run("--json").out)["items"]}

    assert re.search(r"^cursor +set up in \S+mcp\.json$", shown, re.MULTILINE)
    assert re.search(r"^gemini +set up in .*, with /old/offhand-mcp$", shown, re.MULTILINE)
    assert re.search(r"^codex +not found", shown, re.MULTILINE)
    assert re.search(r"^vscode +found, not set up$", shown, re.MULTILINE)
    assert {name: item["set_up"] for name, item in items.items() if item["set_up"]} == {"cursor": True, "gemini": True}
    assert [name for name, item in items.items() if not item["found"]] == ["codex"]
    assert items["cursor"]["file"] == str(user / ".cursor" / "mcp.json")


def test_to_remove_needs_a_client(run: Run):
    assert run("--remove").code == 2


def test_clients_follow_their_own_variables(user: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME"):
        monkeypatch.setenv(name, str(user / name))
    monkeypatch.setattr("sys.platform", "linux")

    files = {client.name: client.user_file().relative_to(user).as_posix() for client in CLIENTS}
    assert files == {
        "claude-desktop": "XDG_CONFIG_HOME/Claude/claude_desktop_config.json",
        "claude-code": "CLAUDE_CONFIG_DIR/.claude.json",
        "cursor": ".cursor/mcp.json",
        "vscode": "XDG_CONFIG_HOME/Code/User/mcp.json",
        "gemini": "GEMINI_CLI_HOME/.gemini/settings.json",
        "codex": "CODEX_HOME/config.toml",
    }


def test_on_macos_desktop_apps_keep_their_files_in_the_library(user: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.platform", "darwin")

    library = user / "Library" / "Application Support"
    assert find_client("claude-desktop").user_file() == library / "Claude" / "claude_desktop_config.json"
    assert find_client("vscode").user_file() == library / "Code" / "User" / "mcp.json"
