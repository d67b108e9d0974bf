"""What many tests share: a home of their own, and a runtime over it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from mcp_server.callers import DESK, calling_as
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import Settings
from tests.hosting import hosted
from tests.leftovers import descendants, keep_orphans, left_since
from tests.no_agents import NO_CODING_AGENTS


@pytest.fixture(scope="session")
def orphans_are_kept() -> bool:
    """Nothing that a test starts is ever out of sight, where the system can do that."""
    return keep_orphans()


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test(orphans_are_kept: bool) -> Generator[None]:
    if not orphans_are_kept:
        yield
        return
    before = descendants()
    yield
    left = left_since(before)
    assert not left, f"alive after the test: {left}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `OFFHAND_HOME` that nobody else uses, and no settings from the environment."""
    for name in [name for name in os.environ if name.startswith("OFFHAND_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("OFFHAND_HOME", str(folder))
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty folder that is a workspace named `work`."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(home: Path, workspace: Path) -> Settings:
    """The defaults, with the workspace `work`, on a free port, without coding agents."""
    return Settings.model_validate(
        {"home": home, "workspaces": {"work": workspace}, "port": 0, "agents": NO_CODING_AGENTS}
    )


@pytest.fixture
async def runtime(settings: Settings) -> AsyncGenerator[Runtime]:
    """A whole server without its doors."""
    async with hosted(open_runtime(settings)) as opened:
        yield opened


@pytest.fixture
def at_desk() -> Generator[None]:
    """Everything in the test is called by the user at the desk."""
    with calling_as(DESK):
        yield
