"""One real server for all tests of a run, and the `connect` fixture: every behaviour through every door."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from mcp_server.settings import Settings
from tests.leftovers import SHARED
from tests.no_agents import AS_VARIABLE
from tests.server.doors import Door, in_memory, over_http, over_socket
from tests.server.gate import Gate
from tests.server.processes import Place, ServerProcess

DOORS = [f"{way}-{mode}" for way in ("memory", "socket", "http") for mode in ("auto", "legacy")]
PHONE = "phone"


@pytest.fixture(scope="session")
def server() -> Generator[ServerProcess]:
    """A real process that serves for all tests. Its home is not in `tmp_path`, which is too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        place = Place.make(Path(folder))
        running = ServerProcess.start(place, **AS_VARIABLE)
        SHARED.add(running.process.pid)
        try:
            yield running
        finally:
            running.close()
            SHARED.discard(running.process.pid)
            place.end_all()


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Gate]:
    """Where a program and the test wait for each other."""
    made = Gate(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=DOORS)
def connect(request: pytest.FixtureRequest, settings: Settings) -> Door:
    """A door: in memory, the unix socket, or HTTP, in one of the protocol eras."""
    way, _, mode = request.param.partition("-")
    if way == "memory":
        return Door(request.param, {"level": "desk", "name": "desk"}, partial(in_memory, settings, mode))
    server: ServerProcess = request.getfixturevalue("server")
    if way == "socket":
        return Door(
            request.param, {"level": "desk", "name": "desk"}, partial(over_socket, server.facts["mcp_socket"], mode)
        )
    return Door(request.param, {"level": "phone", "name": PHONE}, partial(over_http, server.url, server.key, mode))


@pytest.fixture
def git_repository(workspace: Path) -> None:
    """The workspace is a repository with one commit and one file that is not in it."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], [*identity, "commit", "--quiet", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=workspace, check=True, capture_output=True)
    (workspace / "new.txt").write_text("new\n")
