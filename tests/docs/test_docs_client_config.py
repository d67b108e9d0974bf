"""`mcp-config.json` works: a client that launches what it says is answered."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.conftest import clean_environment
from tests.docs.pages import names, page, section, table

CONFIGURATION: dict[str, Any] = json.loads(page("mcp-config.json"))
DEADLINE_SECONDS = 60
MESSAGES = (
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "desktop", "version": "1"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
)


@pytest.fixture
def background_home(tmp_path: Path) -> Generator[Path]:
    """A home in which the shim starts a server; that is ended afterwards."""
    home = tmp_path / "home"
    yield home
    running = home / "server.json"
    if running.exists():
        pid = json.loads(running.read_text("utf-8"))["pid"]
        watch = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        os.kill(pid, signal.SIGTERM)
        if watch is not None:
            import select

            ended, _, _ = select.select([watch], [], [], DEADLINE_SECONDS)
            os.close(watch)
            assert ended, "the server did not end"


def test_the_entry_for_offhand_answers_initialize_and_lists_its_tools(background_home: Path, scripts: Path) -> None:
    entry = CONFIGURATION["mcpServers"]["offhand"]
    env = clean_environment(background_home) | entry.get("env", {})
    env["PATH"] = f"{scripts}{os.pathsep}{env['PATH']}"
    with subprocess.Popen(
        [str(scripts / entry["command"]), *entry["args"]],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        deadline = threading.Timer(DEADLINE_SECONDS, client.kill)
        deadline.start()
        assert client.stdin is not None
        assert client.stdout is not None
        answers: dict[int, Any] = {}
        for message in MESSAGES:
            client.stdin.write(json.dumps(message) + "\n")
            client.stdin.flush()
            if "id" in message:
                answer = json.loads(client.stdout.readline())
                answers[answer["id"]] = answer["result"]
        client.stdin.close()
        assert client.wait(DEADLINE_SECONDS) == 0
        deadline.cancel()
    assert answers[1]["serverInfo"]["name"] == "offhand"
    documented = re.findall(r"^### `(\w+)`$", page("docs/tools.md"), re.MULTILINE)
    assert {tool["name"] for tool in answers[2]["tools"]} == set(documented)


def test_nothing_but_offhand_is_switched_on() -> None:
    assert set(CONFIGURATION["mcpServers"]) == {"offhand"}


def test_what_is_ready_to_be_switched_on_is_documented_and_can_be_launched_by_every_client() -> None:
    ready = CONFIGURATION["mcpServersReadyToSwitchOn"]
    rows = table(section(page("docs/configuration.md"), "## mcp-config.json"), "server")
    assert {names(row[0])[0] for row in rows} == set(ready) == {"postgres", "github", "filesystem"}
    for name, entry in ready.items():
        # Claude Desktop skips, or refuses, entries that have no command.
        assert set(entry) <= {"command", "args", "env"}, name
        assert entry["command"] in ("npx", "uvx"), name
        to_fill_in = json.dumps([entry["args"], entry.get("env", {})])
        assert re.search(r"[A-Z]+_[A-Z_]+|USER:PASSWORD", to_fill_in), name
