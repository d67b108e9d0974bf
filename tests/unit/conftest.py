"""What the nouns' tests share: one house each, looked over for half records when the test is done."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from mcp_server.store.migrate import migrate, migrations
from tests.store.house import House, StillClock, open_house
from tests.store.invariants import broken_invariants


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that nobody has used: copying it is many times faster than migrating anew."""
    path = tmp_path_factory.mktemp("store") / "offhand.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path, migrations())
    connection.close()
    return path


@pytest.fixture
def clock() -> StillClock:
    """The time in `house`, which stands still."""
    return StillClock()


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    """In memory where the system has a place for it: what a noun does needs no disk, and fsync is most of the time."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="offhand-test-", dir=memory) as made:
        yield Path(made)


@pytest.fixture
async def house(folder: Path, clock: StillClock, new_store: Path, at_desk: None) -> AsyncGenerator[House]:
    """The nouns over a store of their own, called from the desk. Whatever a test did, no half record may be left."""
    path = folder / "offhand.db"
    shutil.copy(new_store, path)
    async with open_house(path, clock) as opened:
        yield opened
    if opened.told:
        assert broken_invariants(path) == []
