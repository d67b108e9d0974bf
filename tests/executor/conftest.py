"""What the tests of the executor share: a user of their own, and the proof that nothing of a task outlives its test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from mcp_server import runtime
from mcp_server.agents.registry import all_agents
from mcp_server.executor.attempt_folder import can_contain, compiled_supervisor
from mcp_server.settings import Settings
from tests.executor.bench import Bench
from tests.executor.recorder import Recorder
from tests.no_agents import NO_CODING_AGENTS
from tests.server.gate import Gate
from tests.server.processes import Place


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Generator[Place]:
    """A user with a home and a workspace. After the test no process of a task may be alive.

    Not in `tmp_path`: with the name of the test in it, it is too long for a socket.
    """
    for name in [name for name in os.environ if name.startswith("OFFHAND_")]:
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        made = Place.make(Path(folder))
        monkeypatch.setenv("HOME", str(made.user_home))
        monkeypatch.setenv("OFFHAND_HOME", str(made.home))
        yield made
        left = made.await_silence()
        made.end_all()
        assert not left, f"processes of tasks are alive after the test: {left}"


@pytest.fixture
def settings(place: Place) -> Settings:
    """The defaults, for `place`, without coding agents."""
    return Settings.model_validate(
        {"home": place.home, "workspaces": {"work": place.workspace}, "port": 0, "agents": NO_CODING_AGENTS}
    )


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """An agent that writes records, known to every server of the test that runs in this process."""
    made = Recorder()
    monkeypatch.setattr(runtime, "all_agents", lambda *given: [*all_agents(*given), made])
    return made


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Gate]:
    """Where a program and the test wait for each other."""
    made = Gate(tmp_path)
    yield made
    made.close()


@pytest.fixture
def second_gate(tmp_path: Path) -> Generator[Gate]:
    """For a second program at the same time."""
    made = Gate(tmp_path, "second")
    yield made
    made.close()


@pytest.fixture(scope="session")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_supervisor(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(params=["tree", "namespace"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, supervisor: Path) -> Iterator[Bench]:
    """Without and with a pid namespace."""
    namespaced = request.param == "namespace"
    if namespaced and not can_contain(supervisor):
        pytest.skip("this system gives no pid namespaces")
    made = Bench(tmp_path, supervisor, pid_namespace=namespaced)
    try:
        yield made
        assert not made.processes()
        assert not any(folder.is_alive() for folder in made.folders)
    finally:
        made.close()
