"""How much work a claim, and a change to what waits, is for SQLite, counted in its own instructions.

What does not concern it costs it nothing, however many wait.
"""

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
from mcp_server.tasks import FINAL
from tests.store.house import START, new_task

SLACK = 20
"""Instructions that it may be more or less by: which page a row stands on, whether a lookup finds one."""


class Queue:
    """A store with tasks in it, and how much work the next claim of an agent is."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.count = 0

    def add(self, count: int, status: str, **fields: object) -> None:
        insert = statements()["task_insert"].partition("RETURNING")[0]
        for number in range(self.count, self.count + count):
            own = {"id": f"t{number}", "conversation_id": f"t{number}", "caller": json.dumps(DESK.record())}
            self._connection.execute(insert, asdict(new_task("x")) | own | {"status": status, "now": START} | fields)
        self.count += count

    def work(self, agent: str) -> tuple[int | None, int]:
        """The number of the next task of `agent`, and how many instructions it took to find it."""
        found, counted = self.counted("task_heads", agent=agent)
        return (found[0][0] if found else None), counted

    def counted(self, name: str, **values: object) -> tuple[list[tuple[int, ...]], int]:
        """What a statement answers, and how many instructions it took."""
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        self._connection.set_progress_handler(count, 1)
        found = self._connection.execute(statements()[name], values).fetchall()
        self._connection.set_progress_handler(None, 0)
        return found, counted

    def moved(self, number: int, from_status: str, to_status: str) -> int:
        """How many instructions a change of state took."""
        states = {"from_status": from_status, "to_status": to_status, "final": to_status in FINAL}
        rest: dict[str, object] = {"reason": None, "run_after": None, "now": START, "fence": None}
        found, counted = self.counted("task_move", number=number, **states, **rest)
        assert found
        return counted


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


def test_a_long_conversation_is_not_walked_over(queue: Queue) -> None:
    talk = {"agent": "echo", "conversation_id": "talk", "parent_id": "t0"}
    _, empty = queue.work("echo")
    queue.add(200, "completed", **talk)
    queue.add(1, "running", **talk)
    queue.add(200, "queued", **talk)
    assert queue.work("echo") == (None, empty)


def test_of_a_busy_lane_the_first_is_passed_over_and_no_other(queue: Queue) -> None:
    queue.add(1, "running", agent="echo", lane="deploy")
    queue.add(2, "queued", agent="echo", lane="deploy", priority=9)
    queue.add(1, "queued", agent="echo")
    found, two = queue.work("echo")
    queue.add(500, "queued", agent="echo", lane="deploy", priority=9)
    assert (found, queue.work("echo")) == (4, (4, two))


def test_what_goes_on_in_a_lane_is_the_same_work_however_many_wait(queue: Queue) -> None:
    works: list[list[int]] = []
    for lane, count in (("short", 4), ("long", 500)):
        first = queue.count + 1
        queue.add(count, "queued", agent="echo", lane=lane)
        begins = queue.counted("task_claim", number=first, fence=1, now=START)[1]
        leaves = queue.moved(first + 1, "queued", "cancelled")
        rises = queue.counted("task_set_queue", number=first + 3, priority=9, lane=lane, now=START)[1]
        works.append([begins, queue.moved(first, "running", "failed"), leaves, rises])
    short, long = works
    assert all(abs(one - other) <= SLACK for one, other in zip(short, long, strict=True)), works


def test_what_goes_on_in_a_conversation_is_the_same_work_however_many_wait(queue: Queue) -> None:
    works: list[list[int]] = []
    for talk, count in (("short", 4), ("long", 500)):
        first = queue.count + 1
        queue.add(count, "completed", agent="echo", conversation_id=talk, parent_id="t0")
        queue.add(count, "queued", agent="echo", conversation_id=talk, parent_id="t0")
        head = first + count
        assert queue.work("echo")[0] == head
        begins = queue.counted("task_claim", number=head, fence=1, now=START)[1]
        ends = queue.moved(head, "running", "failed")
        again = queue.moved(head, "failed", "queued")
        works.append([begins, ends, again, queue.moved(head, "queued", "cancelled")])
        queue.moved(head + 1, "queued", "running")
    short, long = works
    assert all(abs(one - other) <= SLACK for one, other in zip(short, long, strict=True)), works


def test_counting_what_waits_is_the_same_work_however_much_it_is(queue: Queue) -> None:
    queue.add(1, "queued", agent="echo")
    _, one = queue.counted("task_counts")
    queue.add(500, "queued", agent="echo")
    found, many = queue.counted("task_counts")
    assert (found, many) == ([("echo", "queued", 501)], one)


def test_the_next_message_of_a_conversation_waits_for_every_earlier_one(queue: Queue) -> None:
    talk = {"agent": "echo", "conversation_id": "talk", "parent_id": "t0"}
    queue.add(1, "completed", **talk)
    queue.add(1, "running", **talk)
    queue.add(1, "cancelled", **talk)
    queue.add(1, "queued", **talk)
    assert queue.work("echo")[0] is None
    queue.add(1, "queued", agent="echo")
    assert queue.work("echo")[0] == 5
