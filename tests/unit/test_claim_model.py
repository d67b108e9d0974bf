"""The claim beside a plain model of it: every rule in Python, over all tasks, without a mark or an index."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.callers import DESK
from mcp_server.store.queries import statements
from mcp_server.tasks import FINAL, TRANSITIONS
from tests.store.house import START, new_task, open_house
from tests.store.invariants import broken_queue

AGENTS = ("echo", "git")
RUNNING = ("running", "cancelling")

Row = dict[str, Any]

TASKS = st.fixed_dictionaries(
    {
        "agent": st.sampled_from(AGENTS),
        "priority": st.integers(-1, 1),
        "lane": st.sampled_from((None, "a", "a", "b")),
        "conversation": st.sampled_from((None, "x", "x", "y")),
        "session_id": st.sampled_from((None, "s1", "s2")),
        "status": st.sampled_from(("queued", "queued", "queued", *sorted(TRANSITIONS))),
    }
)
CHANGES = st.tuples(
    st.sampled_from(
        ("add", "add", "move", "move", "move", "move", "requeue", "requeue", "delete", "delete", "delete session")
    ),
    st.integers(0, 1000),
    TASKS,
)


def model_claim(tasks: Collection[Row], agents: Collection[str]) -> int | None:
    """The number of the task that a claim for `agents` must take."""
    unfinished = [task for task in tasks if task["status"] not in FINAL]
    busy = {task["lane"] for task in unfinished if task["status"] in RUNNING} - {None}
    free = [
        task
        for task in unfinished
        if task["status"] == "queued" and task["agent"] in agents and task["lane"] not in busy
        if task["parent_id"] is None
        or not any(
            other["conversation_id"] == task["conversation_id"] and other["number"] < task["number"]
            for other in unfinished
        )
    ]
    first = min(free, key=lambda task: (-task["priority"], task["number"]), default=None)
    return first["number"] if first else None


class Store:
    """A store that is changed by statements alone, in every order that its table of transitions allows."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA foreign_keys = ON")
        values = {"title": "x", "participants": "[]", "metadata": "{}", "request": "", "caller": "{}", "now": START}
        for session in ("s1", "s2"):
            self._run(statements()["session_insert"], {"id": session, **values})

    def close(self) -> None:
        self._connection.close()

    def tasks(self) -> list[Row]:
        return [dict(row) for row in self._connection.execute("SELECT * FROM task ORDER BY number")]

    def wrong(self) -> list[str]:
        """What the marks and counts say that the tasks do not."""
        return broken_queue(self._connection)

    def add(self, wanted: Row) -> None:
        fields = {name: wanted[name] for name in ("agent", "priority", "lane", "session_id", "status")}
        if fields["session_id"] not in {row["id"] for row in self._run("SELECT id FROM session")}:
            fields["session_id"] = None
        id = f"t{uuid4()}"
        own = {"id": id, "conversation_id": id, "caller": json.dumps(DESK.record()), "now": START}
        if wanted["conversation"]:
            begun = {task["conversation_id"] for task in self.tasks()}
            root = wanted["conversation"]
            own |= (
                {"conversation_id": root, "parent_id": root} if root in begun else {"id": root, "conversation_id": root}
            )
        self._run(statements()["task_insert"], asdict(new_task("x")) | own | fields)

    def change(self, kind: str, pick: int, wanted: Row) -> None:
        """One change to one task, which `pick` chooses; without a task, none."""
        tasks = self.tasks()
        task = tasks[pick % len(tasks)] if tasks else None
        if kind == "add":
            self.add(wanted)
        elif kind == "delete session":
            self._run("DELETE FROM session WHERE id = ?", (f"s{pick % 2 + 1}",))
        elif task is None:
            return
        elif kind == "move":
            following = sorted(TRANSITIONS[task["status"]])
            if following:
                to_status = following[pick % len(following)]
                self._run("UPDATE task SET status = ? WHERE number = ?", (to_status, task["number"]))
        elif kind == "requeue":
            values = {"number": task["number"], "priority": wanted["priority"], "lane": wanted["lane"], "now": START}
            self._run(statements()["task_set_queue"], values)
        else:
            self._run("DELETE FROM task WHERE number = ?", (task["number"],))

    def _run(self, statement: str, values: Any = ()) -> list[sqlite3.Row]:
        return self._connection.execute(statement, values).fetchall()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tasks=st.lists(TASKS, min_size=4, max_size=12),
    changes=st.lists(CHANGES, max_size=30),
    limits=st.tuples(*[st.integers(0, 3)] * len(AGENTS)),
)
async def test_a_claim_takes_what_a_look_at_every_task_would_take(
    tasks: list[Row], changes: list[tuple[str, int, Row]], limits: tuple[int, ...], folder: Path, new_store: Path
):
    path = folder / f"{uuid4()}.db"
    shutil.copy(new_store, path)
    store = Store(path)
    for task in tasks:
        store.add(task)
        assert store.wrong() == []
    for change in changes:
        store.change(*change)
        assert store.wrong() == [], change
    async with open_house(path) as house:
        while True:
            known = store.tasks()
            running = Counter(task["agent"] for task in known if task["status"] in RUNNING)
            roomy = [agent for agent, limit in zip(AGENTS, limits, strict=True) if running[agent] < limit]
            expected = model_claim(known, roomy)
            got = await house.attempts.claim(roomy)
            assert (got and got.number) == expected
            assert store.wrong() == []
            if got is None:
                break
    store.close()
    path.unlink()
