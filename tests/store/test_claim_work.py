"""How much work a claim is for SQLite, counted in its own instructions: what does not concern it costs it nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from mcp_server.callers import DESK
from mcp_server.store.migrate import migrate, migrations
from mcp_server.store.queries import statements
from tests.store.house import START, new_task

INSTRUCTIONS_PER_ROW = 60
"""Of a task that is walked over: some dozen for the index, the row and the look at what it waits for."""


class Queue:
    """A store with tasks in it, and how much work the next claim of an agent is."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._last = 0

    def add(self, count: int, status: str, **fields: object) -> None:
        insert = statements()["task_insert"].partition("RETURNING")[0]
        for number in range(self._last, self._last + count):
            own = {"id": f"t{number}", "conversation_id": f"t{number}", "caller": json.dumps(DESK.record())}
            self._connection.execute(insert, asdict(new_task("x")) | own | {"status": status, "now": START} | fields)
        self._last += count

    def work(self, agent: str) -> tuple[int | None, int]:
        """The number of the next task of `agent`, and how many instructions it took to find it."""
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        self._connection.set_progress_handler(count, 1)
        found = self._connection.execute(statements()["task_heads"], {"agent": agent}).fetchone()
        self._connection.set_progress_handler(None, 0)
        return found and found[0], counted


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    path = tmp_path / "offhand.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path, migrations())
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    yield Queue(connection)
    connection.close()


def test_a_claim_is_the_same_work_whatever_else_waits(queue: Queue) -> None:
    queue.add(1, "queued", agent="echo")
    _, alone = queue.work("echo")
    queue.add(500, "scheduled", agent="echo", run_after=START)
    queue.add(500, "queued", agent="git")
    queue.add(500, "completed", agent="echo")
    queue.add(500, "queued", agent="echo")
    assert queue.work("echo") == (1, alone)


def test_finding_nothing_is_no_work(queue: Queue) -> None:
    _, empty = queue.work("echo")
    queue.add(500, "queued", agent="git")
    queue.add(500, "scheduled", agent="echo", run_after=START)
    assert queue.work("echo") == (None, empty)


def test_a_long_conversation_costs_each_message_that_waits_a_look_at_the_one_before_it(queue: Queue) -> None:
    talk = {"agent": "echo", "conversation_id": "talk", "parent_id": "t0"}
    queue.add(200, "completed", **talk)
    queue.add(1, "running", **talk)
    queue.add(200, "queued", **talk)
    found, counted = queue.work("echo")
    assert found is None
    assert counted < 200 * INSTRUCTIONS_PER_ROW


def test_the_next_message_of_a_conversation_waits_for_every_earlier_one(queue: Queue) -> None:
    talk = {"agent": "echo", "conversation_id": "talk", "parent_id": "t0"}
    queue.add(1, "completed", **talk)
    queue.add(1, "running", **talk)
    queue.add(1, "cancelled", **talk)
    queue.add(1, "queued", **talk)
    assert queue.work("echo")[0] is None
    queue.add(1, "queued", agent="echo")
    assert queue.work("echo")[0] == 5
