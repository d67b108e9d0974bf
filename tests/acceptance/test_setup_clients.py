"""What `offhand setup` writes is what the real clients read, and what they start answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.acceptance.clients import CLAUDE_CODE, CODEX, GEMINI, node_path, npm_packages, npm_version
from tests.acceptance.conftest import SignIn
from tests.server.processes import ROOT, Place, wait_for_exit

pytestmark = pytest.mark.acceptance

CALL_SECONDS = 90
STOP_SECONDS = 10


@pytest.fixture
def place(tmp_path: Path) -> Generator[Place]:
    """A user who has started each client once. The server that a client's shim starts is ended afterwards."""
    place = Place.make(tmp_path / "u")
    for folder in (".claude", ".gemini", ".codex"):
        (place.user_home / folder).mkdir()
    place.home.mkdir(mode=0o700)
    (place.home / "offhand.toml").write_text("port = 0\n")
    yield place
    running = place.home / "server.json"
    if running.exists():
        pid = json.loads(running.read_text("utf-8"))["pid"]
        os.kill(pid, 15)
        assert wait_for_exit(pid, STOP_SECONDS)


def environment(place: Place, packages: Path | None = None) -> dict[str, str]:
    """Nothing of the machine's user: a HOME of their own, and no calling home."""
    node = f"{node_path(packages)}:" if packages else ""
    return {
        "PATH": f"{node}/usr/local/bin:/usr/bin:/bin",
        "HOME": str(place.user_home),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
    }


def set_up(place: Place, client: str, *options: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "mcp_server", "setup", client, "--yes", *options],
        env=environment(place) | {"OFFHAND_HOME": str(place.home), "PYTHONPATH": str(ROOT)},
        cwd=place.workspace,
        check=True,
        capture_output=True,
        timeout=CALL_SECONDS,
    )


def said(place: Place, packages: Path, *command: str) -> str:
    done = subprocess.run(
        [packages / "node_modules" / ".bin" / command[0], *command[1:]],
        env=environment(place, packages),
        cwd=place.workspace,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_claude_code_reads_its_entry_and_connects(place: Place, sign_in: SignIn):
    packages = npm_packages(CLAUDE_CODE)
    set_up(place, "claude-code")
    told = said(place, packages, "claude", "mcp", "get", "offhand")

    assert "Scope: User config" in told
    assert "Connected" in told
    assert f"OFFHAND_HOME={place.home}" in told
    assert "PATH=/usr/local/bin:/usr/bin:/bin" in told
    set_up(place, "claude-code", "--remove")
    assert "offhand" not in said(place, packages, "claude", "mcp", "list")
    sign_in("Claude Code", npm_version(packages, CLAUDE_CODE), "mcp get of what `offhand setup` wrote")


def test_claude_code_finds_the_entry_of_a_project_and_asks_before_it_uses_it(place: Place):
    packages = npm_packages(CLAUDE_CODE)
    set_up(place, "claude-code", "--scope", "project")
    told = said(place, packages, "claude", "mcp", "list")

    assert "offhand" in told
    assert "Pending approval" in told


@pytest.mark.parametrize("scope", ["user", "project"])
def test_gemini_cli_reads_its_entry_and_connects(place: Place, sign_in: SignIn, scope: str):
    packages = npm_packages(GEMINI)
    set_up(place, "gemini", "--scope", scope)
    told = said(place, packages, "gemini", "mcp", "list")

    assert "✓ offhand" in told
    assert "Connected" in told
    sign_in("Gemini CLI", npm_version(packages, GEMINI), f"mcp list of what `offhand setup` wrote ({scope})")


def test_codex_reads_its_entry(place: Place, sign_in: SignIn):
    """Codex has no command that connects without an account."""
    packages = npm_packages(CODEX)
    (place.user_home / ".codex" / "config.toml").write_text('# mine\n[mcp_servers.other]\ncommand = "true"\n')
    set_up(place, "codex")
    listed = said(place, packages, "codex", "mcp", "list", "--json")
    servers = {server["name"]: server for server in json.loads(listed[listed.index("[\n") : listed.rindex("]") + 1])}

    assert set(servers) == {"offhand", "other"}
    told = servers["offhand"]["transport"]
    assert os.access(told["command"], os.X_OK)
    assert told["env"] == {"OFFHAND_HOME": str(place.home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    set_up(place, "codex", "--remove")
    assert '"offhand"' not in said(place, packages, "codex", "mcp", "list", "--json")
    sign_in("Codex", npm_version(packages, CODEX), "mcp list of what `offhand setup` wrote")
