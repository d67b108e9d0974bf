"""For commands that act on a running server: a user whose servers and tasks end with the test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_server.cli import app
from mcp_server.executor.attempt_folder import AttemptFolder
from tests.server.gate import Gate
from tests.server.processes import Place, ServerProcess

Start = Callable[..., ServerProcess]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Offhand = Callable[..., Ran]


def supervising(user: Place) -> list[int]:
    """The supervisors that are alive, one for each running attempt."""
    folders = (AttemptFolder(path) for path in (user.home / "attempts").glob("*-*") if path.is_dir())
    return sorted(pid for folder in folders if (pid := folder.supervisor_pid()) is not None)


@pytest.fixture
def user() -> Generator[Place]:
    """A user of their own. After the test no process of a task may be alive."""
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        made = Place.make(Path(folder))
        try:
            yield made
            left = made.await_silence()
            assert not left, f"processes of tasks are alive after the test: {left}"
        finally:
            made.end_all()


@pytest.fixture
def start(user: Place) -> Generator[Start]:
    """Start a server of `user`; it is ended after the test."""
    started: list[ServerProcess] = []

    def begin(*arguments: str, **environment: str) -> ServerProcess:
        started.append(ServerProcess.start(user, *arguments, **environment))
        return started[-1]

    yield begin
    for server in started:
        server.close()


@pytest.fixture
def offhand(user: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offhand:
    """`offhand ARGUMENTS` of `user`, in this process: it would take a second each to start."""

    def runs(*arguments: str) -> Ran:
        for name, value in user.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("sys.argv", ["offhand", *arguments])
        code = app.run()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ran(code, said.out, said.err)

    return runs


@pytest.fixture
def gates(tmp_path: Path) -> Generator[Callable[[], Gate]]:
    """Makes gates, as many as the test wants."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(tmp_path, f"gate-{os.getpid()}-{len(made)}"))
        return made[-1]

    yield make
    for gate in made:
        gate.close()
