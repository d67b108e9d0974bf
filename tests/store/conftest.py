"""What the store's tests share."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.store.database import Database, Event
from mcp_server.store.sqlite import open_sqlite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store would be; nothing is there yet."""
    return tmp_path / "offhand.db"


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The connections that may write, as the store opens them: a test can look at what they run, or limit them."""
    connect = sqlite3.connect
    opened: list[sqlite3.Connection] = []

    def watched(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        if not options.get("uri"):
            opened.append(connection)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    return opened


@pytest.fixture
def told() -> list[Event]:
    """The events that the listener heard of."""
    return []


@pytest.fixture
async def database(path: Path, writers: list[sqlite3.Connection], told: list[Event]) -> AsyncGenerator[Database]:
    """A new store."""
    async with open_sqlite(path, told.append) as opened:
        yield opened
