"""Migrations: each runs once, whole or not at all, and an older store is copied before it is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.errors import NewerStoreError, StoreError, StoreFullError
from mcp_server.store import sqlite
from mcp_server.store.migrate import APPLICATION_ID, Migration, migrate, migrations
from mcp_server.store.sqlite import open_sqlite
from tests.store.invariants import broken_queue

LAST = migrations()[-1].version
SECOND = Migration(
    LAST + 1, f"{LAST + 1:04d}_second.sql", "CREATE TABLE second (a INTEGER); INSERT INTO second VALUES (2);"
)
THIRD = Migration(LAST + 2, f"{LAST + 2:04d}_third.sql", "CREATE TABLE third (a INTEGER);")
BROKEN = Migration(
    LAST + 1, f"{LAST + 1:04d}_broken.sql", "CREATE TABLE half (a INTEGER);\nINSERT INTO nowhere VALUES (1);"
)


@pytest.fixture
def connection(path: Path) -> Generator[sqlite3.Connection]:
    """A connection to what is still an empty file."""
    opened = sqlite3.connect(path, isolation_level=None)
    yield opened
    opened.close()


def tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def applied(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT version, name, checksum FROM migration ORDER BY version").fetchall()


def test_the_steps_are_numbered_from_one_without_gaps():
    steps = migrations()
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert all(step.name.startswith(f"{step.version:04d}_") for step in steps)


def test_a_new_store_gets_every_step_with_its_checksum_and_our_number(connection: sqlite3.Connection, path: Path):
    steps = [*migrations(), SECOND]
    migrate(connection, path, steps)
    assert applied(connection) == [(step.version, step.name, step.checksum) for step in steps]
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("SELECT a FROM second").fetchall() == [(2,)]
    assert list(path.parent.glob("*.before-*")) == [], "there is nothing to keep of a new store"


def test_steps_that_have_run_do_not_run_again(connection: sqlite3.Connection, path: Path):
    for _ in range(2):
        migrate(connection, path, [*migrations(), SECOND])
    assert connection.execute("SELECT a FROM second").fetchall() == [(2,)]


def test_an_older_store_is_copied_before_it_is_upgraded(connection: sqlite3.Connection, path: Path):
    migrate(connection, path, migrations())
    connection.execute("INSERT INTO counter VALUES ('kept', 7)")
    migrate(connection, path, [*migrations(), SECOND, THIRD])
    assert {"second", "third"} <= tables(connection)
    assert connection.execute("SELECT * FROM counter").fetchall() == [("kept", 7)]
    (copy,) = path.parent.glob("*.before-*")
    assert copy.name == f"offhand.db.before-{LAST + 1}"
    assert copy.stat().st_mode & 0o077 == 0
    old = sqlite3.connect(copy)
    assert old.execute("SELECT * FROM counter").fetchall() == [("kept", 7)]
    assert "second" not in tables(old)
    assert applied(old) == [(step.version, step.name, step.checksum) for step in migrations()]
    old.close()


def test_an_upgrade_that_is_broken_off_keeps_the_copy_of_the_original(connection: sqlite3.Connection, path: Path):
    migrate(connection, path, migrations())
    broken = Migration(LAST + 2, BROKEN.name, BROKEN.text)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, path, [*migrations(), SECOND, broken])
    migrate(connection, path, [*migrations(), SECOND, THIRD])
    old = sqlite3.connect(path.with_name(f"offhand.db.before-{LAST + 1}"))
    assert "second" not in tables(old)
    old.close()


def test_a_step_that_fails_leaves_nothing_of_itself(connection: sqlite3.Connection, path: Path):
    migrate(connection, path, migrations())
    before = tables(connection)
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(connection, path, [*migrations(), BROKEN])
    assert tables(connection) == before
    assert len(applied(connection)) == LAST
    assert not connection.in_transaction
    migrate(connection, path, [*migrations(), SECOND])
    assert "second" in tables(connection)


def test_a_store_with_steps_that_we_do_not_know_is_left_alone(connection: sqlite3.Connection, path: Path):
    migrate(connection, path, [*migrations(), SECOND, THIRD])
    before = path.read_bytes()
    with pytest.raises(NewerStoreError, match="2 steps ahead"):
        migrate(connection, path, migrations())
    assert path.read_bytes() == before


def test_a_step_that_was_edited_after_it_ran_is_found(connection: sqlite3.Connection, path: Path):
    migrate(connection, path, [*migrations(), SECOND])
    edited = Migration(SECOND.version, SECOND.name, SECOND.text + " ")
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        migrate(connection, path, [*migrations(), edited, THIRD])
    assert SECOND.name in caught.value.message
    assert caught.value.issues[0].fix
    assert path.read_bytes() == before
    assert list(path.parent.glob("*.before-*")) == []


def test_an_upgrade_marks_what_waits_and_counts_it(connection: sqlite3.Connection, path: Path):
    migrate(connection, path, migrations()[:1])
    tasks = [  # root, status, lane, priority
        ("t1", "completed", None, 0),
        ("t1", "running", "a", 0),
        ("t1", "queued", None, 0),
        ("t4", "completed", None, 0),
        ("t4", "queued", "a", 0),
        ("t6", "queued", "a", 1),
        ("t7", "queued", "b", 0),
        ("t8", "queued", None, 0),
        ("t9", "scheduled", "b", 9),
    ]
    for number, (root, status, lane, priority) in enumerate(tasks, 1):
        parent = None if root == f"t{number}" else root
        connection.execute(
            "INSERT INTO task (id, agent, description, params, priority, lane, status, timeout_seconds, max_attempts,"
            " attempts_allowed, parent_id, conversation_id, request, caller, created_at, updated_at)"
            " VALUES (?, 'echo', '', '', ?, ?, ?, 1, 1, 1, ?, ?, '', '', 1, 1)",
            (f"t{number}", priority, lane, status, parent, root),
        )
    migrate(connection, path, migrations())
    marked = "SELECT number FROM task WHERE {} ORDER BY number"
    assert connection.execute(marked.format("behind_conversation")).fetchall() == [(3,)]
    assert connection.execute(marked.format("behind_lane")).fetchall() == [(5,)]
    assert connection.execute("SELECT agent, count FROM queue_length").fetchall() == [("echo", 5)]
    connection.row_factory = sqlite3.Row
    assert broken_queue(connection) == []


async def test_opening_an_older_store_upgrades_it(path: Path, monkeypatch: pytest.MonkeyPatch):
    async with open_sqlite(path):
        pass
    monkeypatch.setattr(sqlite, "migrations", lambda: [*migrations(), SECOND])
    async with open_sqlite(path):
        pass
    assert path.with_name(f"offhand.db.before-{LAST + 1}").exists()
    connection = sqlite3.connect(path)
    assert "second" in tables(connection)
    connection.close()


async def test_an_upgrade_without_room_for_the_copy_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch):
    async with open_sqlite(path):
        pass
    monkeypatch.setattr(sqlite, "migrations", lambda: [*migrations(), SECOND])
    with pytest.MonkeyPatch.context() as patch:
        real = sqlite3.connect

        def connect(*args: Any, **options: Any) -> sqlite3.Connection:
            connection = real(*args, **options)
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # what VACUUM INTO needs
            return connection

        patch.setattr(sqlite3, "connect", connect)
        with pytest.raises(StoreError) as caught:
            async with open_sqlite(path):
                pass
    assert not isinstance(caught.value, StoreFullError)
    connection = sqlite3.connect(path)
    assert "second" not in tables(connection)
    connection.close()


def test_a_fresh_store_and_an_upgraded_one_have_the_same_schema(tmp_path: Path):
    schemas: list[list[Any]] = []
    steps = [*migrations(), SECOND, THIRD]
    for name, stages in (("fresh", [steps]), ("upgraded", [steps[:length] for length in range(1, len(steps) + 1)])):
        path = tmp_path / name
        connection = sqlite3.connect(path, isolation_level=None)
        for stage in stages:
            migrate(connection, path, stage)
        query = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
        schemas.append(connection.execute(query).fetchall())
        connection.close()
    assert schemas[0] == schemas[1]
