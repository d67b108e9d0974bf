"""Claude Code and the Gemini CLI see the server: each reads its own configuration, connects, and says so.

They are asked for their health check alone, which needs no account and no network.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.clients import CLAUDE_CODE, GEMINI, npm_packages
from tests.acceptance.conftest import SignIn
from tests.acceptance.servers import Offhand

pytestmark = pytest.mark.acceptance

COMMAND_SECONDS = 60
CLAUDE_SETTINGS = {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
GEMINI_SETTINGS = {"GEMINI_CLI_TRUST_WORKSPACE": "true"}

Command = Callable[..., str]


@pytest.fixture
def claude(client_environment: Callable[[Path], dict[str, str]]) -> Command:
    packages = npm_packages(CLAUDE_CODE)
    return command_line(packages / "node_modules" / ".bin" / "claude", client_environment(packages) | CLAUDE_SETTINGS)


@pytest.fixture
def gemini(client_environment: Callable[[Path], dict[str, str]]) -> Command:
    packages = npm_packages(GEMINI)
    return command_line(packages / "node_modules" / ".bin" / "gemini", client_environment(packages) | GEMINI_SETTINGS)


def test_claude_code_connects_over_the_shim(claude: Command, server: Offhand, sign_in: SignIn) -> None:
    claude("mcp", "add", "--scope", "user", "offhand", *environment_options(server.shim), "--", *program(server.shim))
    assert "Connected" in claude("mcp", "get", "offhand")
    sign_in("Claude Code", claude("--version").split()[0], "mcp get over the shim")


def test_claude_code_connects_over_http(claude: Command, server: Offhand, sign_in: SignIn) -> None:
    add = ["mcp", "add", "--scope", "user", "--transport", "http", "offhand", server.url, "--header"]
    claude(*add, f"Authorization: {server.authorization}")
    assert "Connected" in claude("mcp", "get", "offhand")
    sign_in("Claude Code", claude("--version").split()[0], "mcp get over HTTP")


def test_claude_code_does_not_connect_with_a_wrong_key(claude: Command, server: Offhand) -> None:
    add = ["mcp", "add", "--scope", "user", "--transport", "http", "offhand", server.url, "--header"]
    claude(*add, "Authorization: Bearer ofh_wrong")
    assert "Connected" not in claude("mcp", "get", "offhand")


def test_the_gemini_cli_connects_over_the_shim_and_over_http(gemini: Command, server: Offhand, sign_in: SignIn) -> None:
    key = f"Authorization: {server.authorization}"
    gemini("mcp", "add", "--scope", "user", *environment_options(server.shim), "by-shim", *program(server.shim))
    gemini("mcp", "add", "--scope", "user", "--transport", "http", "-H", key, "by-http", server.url)
    gemini(
        *("mcp", "add", "--scope", "user", "--transport", "http", "-H", "Authorization: Bearer ofh_wrong"),
        *("by-wrong-key", server.url),
    )
    lines = gemini("mcp", "list").splitlines()
    said = {name: line for name in ("by-shim", "by-http", "by-wrong-key") for line in lines if f"{name}:" in line}
    assert said["by-shim"].endswith(" - Connected")
    assert said["by-http"].endswith(" - Connected")
    assert not said["by-wrong-key"].endswith(" - Connected")
    sign_in("Gemini CLI", gemini("--version").strip(), "mcp list over the shim and over HTTP")


def command_line(program: Path, environment: Mapping[str, str]) -> Command:
    """Run a client's command in its own HOME; what it printed on both streams."""

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(program), *arguments],
            env=environment,
            cwd=environment["HOME"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def program(door: Mapping[str, Any]) -> list[str]:
    return [door["command"], *door["args"]]


def environment_options(door: Mapping[str, Any]) -> list[str]:
    return [option for name, value in door["env"].items() for option in ("-e", f"{name}={value}")]
