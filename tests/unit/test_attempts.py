"""Attempts: claiming, fencing, output and endings. The executor's side of a task."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.attempts import STATE_LIMIT_BYTES, Ending, RecordsRead
from mcp_server.errors import ConflictError, NotFoundError
from mcp_server.store.database import Transaction
from mcp_server.tasks import FINAL, TRANSITIONS, Task
from tests.store.house import House, new_task, open_house
from tests.store.invariants import broken_invariants

DONE = Ending(status="completed", reason=None, result={"text": "yes"}, returncode=0)
FAILED = Ending(status="failed", reason="exit_code", result={"text": "no"}, returncode=1)
STOPPED = Ending(status="cancelled", reason="cancelled_by_user", result={"text": ""})
SURVIVORS = Ending(status="failed", reason="stop_failed", result={"text": ""}, details={"pids": [1]})


async def claimed(house: House, *agents: str) -> Task:
    """The next task, which must be there."""
    task = await house.attempts.claim(agents or ["echo"])
    assert task is not None
    return task


async def claim_ids(house: House, *agents: str) -> list[str]:
    """Everything that can be claimed now, in its order."""
    ids: list[str] = []
    while (task := await house.attempts.claim(agents or ["echo"])) is not None:
        ids.append(task.id)
    return ids


async def test_a_claim_begins_an_attempt_under_a_new_fence(house: House):
    await house.tasks.create(new_task(), id="t1")
    house.clock.advance(1)
    task = await claimed(house)
    assert (task.id, task.status, task.attempt, task.fence, task.reason) == ("t1", "running", 1, 1, None)
    assert task.started_at == house.clock()
    assert await house.attempts.claim(["echo"]) is None
    assert house.kinds() == ["task.queued", "task.running"]
    assert [row["status"] for row in await house.tasks.attempts(task)] == ["running"]
    assert await house.attempts.running() == [task]


async def test_there_is_nothing_to_claim_for_nobody(house: House):
    await house.tasks.create(new_task())
    assert await house.attempts.claim([]) is None
    assert await house.attempts.claim(["git"]) is None


async def test_the_highest_priority_runs_first_then_the_oldest(house: House):
    for number, priority in enumerate((0, 5, -5, 5, 0)):
        await house.tasks.create(new_task(priority=priority), id=f"t{number}")
    assert await claim_ids(house) == ["t1", "t3", "t0", "t4", "t2"]


async def test_the_order_holds_across_agents_and_only_those_with_room_are_asked(house: House):
    for name, agent, priority in (("t1", "git", 0), ("t2", "echo", 1), ("t3", "shell", 9), ("t4", "git", 1)):
        await house.tasks.create(new_task(agent=agent, priority=priority), id=name)
    assert await claim_ids(house, "git", "echo") == ["t2", "t4", "t1"]
    assert await claim_ids(house, "shell") == ["t3"]


async def test_a_younger_task_of_higher_priority_comes_before_another_agents_older_one(house: House):
    await house.tasks.create(new_task(agent="git", priority=1), id="t1")
    await house.tasks.create(new_task(agent="echo", priority=2), id="t2")
    await house.tasks.create(new_task(agent="shell", priority=1), id="t3")
    assert await claim_ids(house, "shell", "git", "echo") == ["t2", "t1", "t3"]


async def test_tasks_in_one_lane_run_one_after_another(house: House):
    await house.tasks.create(new_task(lane="slow", priority=9), id="t1")
    await house.tasks.create(new_task(lane="slow", agent="git", priority=8), id="t2")
    await house.tasks.create(new_task(lane="fast"), id="t3")
    await house.tasks.create(new_task(), id="t4")
    await house.tasks.create(new_task(), id="t5")
    assert await claim_ids(house, "echo", "git") == ["t1", "t3", "t4", "t5"]
    await house.tasks.cancel("t1")
    assert await claim_ids(house, "echo", "git") == [], "it is cancelling: its processes may live"
    await house.attempts.finish(await house.tasks.get("t1"), STOPPED)
    assert await claim_ids(house, "echo", "git") == ["t2"]


async def test_a_lane_that_is_busy_does_not_hold_up_others_behind_it(house: House):
    for number in range(5):
        await house.tasks.create(new_task(lane="slow", priority=9), id=f"slow{number}")
    await house.tasks.create(new_task(), id="other")
    assert await claim_ids(house) == ["slow0", "other"]


async def test_a_follow_up_waits_for_the_conversation_before_it(house: House):
    await house.tasks.create(new_task("one"), id="t1")
    for number in (2, 3):
        follow = new_task(f"turn {number}", parent_id="t1", conversation_id="t1", priority=9)
        await house.tasks.create(follow, id=f"t{number}")
    await house.tasks.create(new_task("another"), id="t4")
    assert await claim_ids(house) == ["t1", "t4"]
    await house.attempts.finish(await house.tasks.get("t1"), DONE)
    assert await claim_ids(house) == ["t2"]
    await house.tasks.cancel("t2")
    assert await claim_ids(house) == []
    await house.attempts.finish(await house.tasks.get("t2"), STOPPED)
    assert await claim_ids(house) == ["t3"]
    assert await house.attempts.conversation(await house.tasks.get("t3")) == ("one", "yes", "turn 2")


async def test_two_claims_at_once_never_take_the_same_task(house: House):
    for number in range(10):
        await house.tasks.create(new_task(), id=f"t{number}")
    taken = await asyncio.gather(*(house.attempts.claim(["echo"]) for _ in range(20)))
    ids = [task.id for task in taken if task]
    assert sorted(ids) == sorted(f"t{number}" for number in range(10))
    fences = [task.fence for task in taken if task]
    assert fences == sorted(set(fences))


async def test_scheduled_tasks_are_promoted_when_their_time_has_come(house: House):
    now = house.clock()
    for name, seconds, agent in (("t1", 10, "echo"), ("t2", 20, "codex"), ("t3", 30, "echo")):
        await house.tasks.create(new_task(agent=agent, run_after=now + seconds * 1_000_000), id=name)
    assert await house.attempts.promote_due(["echo"]) == now + 10_000_000
    assert await claim_ids(house) == [], "what is scheduled is never claimed"
    house.clock.now = now + 20_000_000
    assert await house.attempts.promote_due(["echo"]) == now + 30_000_000
    assert [(await house.tasks.get(name)).status for name in ("t1", "t2", "t3")] == ["queued", "queued", "scheduled"]
    assert [(await house.tasks.get(name)).reason for name in ("t1", "t2")] == [None, "agent_not_installed"]
    assert house.kinds()[3:] == ["task.queued", "task.queued"]
    house.clock.now = now + 30_000_000
    assert await house.attempts.promote_due(["echo"]) is None


async def test_completed_work_is_written_down_with_its_result(house: House):
    await house.tasks.create(new_task(), id="t1")
    running = await claimed(house)
    house.clock.advance(1)
    result = {"text": "ja – 🙂", "stdout": "x", "returncode": 0}
    task = await house.attempts.finish(running, Ending(status="completed", reason=None, result=result, returncode=0))
    assert (task.status, task.reason, task.finished_at, task.result) == ("completed", None, house.clock(), result)
    assert house.kinds() == ["task.queued", "task.running", "task.completed"]
    (attempt,) = await house.tasks.attempts(task)
    assert (attempt["status"], attempt["returncode"]) == ("completed", 0)


async def test_a_failure_that_may_pass_is_scheduled_and_keeps_the_attempt(house: House):
    await house.tasks.create(new_task(), id="t1")
    retry_at = house.clock() + 5_000_000
    ending = Ending(status="failed", reason="quota", result={"text": "later"}, retry_at=retry_at)
    task = await house.attempts.finish(await claimed(house), ending)
    assert (task.status, task.reason, task.run_after, task.finished_at) == ("scheduled", "quota", retry_at, None)
    house.clock.advance(5)
    await house.attempts.promote_due(["echo"])
    again = await claimed(house)
    assert (again.attempt, again.fence) == (2, 2)
    assert [row["status"] for row in await house.tasks.attempts(task)] == ["failed", "running"]


async def test_an_interrupted_attempt_may_be_queued_at_once(house: House):
    await house.tasks.create(new_task(), id="t1")
    ending = Ending(status="interrupted", reason="interrupted", result={}, retry_at=house.clock())
    task = await house.attempts.finish(await claimed(house), ending)
    assert (task.status, task.reason) == ("queued", "interrupted")
    assert [row["status"] for row in await house.tasks.attempts(task)] == ["interrupted"]
    assert (await claimed(house)).attempt == 2


@pytest.mark.parametrize(
    ("ending", "status", "reason"),
    [
        (STOPPED, "cancelled", "cancelled_by_user"),
        (DONE, "completed", None),
        (SURVIVORS, "failed", "stop_failed"),
        (FAILED, "cancelled", "cancelled_by_user"),
        (Ending(status="failed", reason="x", result={}, retry_at=1), "cancelled", "cancelled_by_user"),
    ],
    ids=["stopped", "it was done already", "survivors", "it failed by itself", "it would be tried again"],
)
async def test_what_was_cancelled_says_how_it_ended(ending: Ending, status: str, reason: str | None, house: House):
    await house.tasks.create(new_task(), id="t1")
    running = await claimed(house)
    await house.tasks.cancel("t1")
    task = await house.attempts.finish(running, ending)
    assert (task.status, task.reason) == (status, reason)


ASKS = Ending(status="interrupted", reason="asks", result={"text": "May I?"}, pause="asks", ask={"about": "tool"})


async def test_a_question_lets_the_task_wait_and_costs_no_attempt(house: House):
    await house.tasks.create(new_task(max_attempts=1), id="t1")
    asked: list[Task] = []

    async def ask(transaction: Transaction, task: Task, now: int) -> None:
        assert now == house.clock()
        asked.append(task)
        await house.approvals.ask(transaction, task, "tool", {"argv": ["make"]}, "May I?", None, now)

    waiting = await house.attempts.finish(await claimed(house), ASKS, ask)
    assert (waiting.status, waiting.reason, waiting.result, waiting.attempts_allowed) == (
        "waiting_approval",
        "asks",
        None,
        2,
    )
    assert asked == [waiting]
    (attempt,) = await house.tasks.attempts(waiting)
    assert (attempt["status"], attempt["reason"]) == ("interrupted", "asks")


async def test_a_question_that_cannot_be_put_leaves_the_attempt_as_it_was(house: House):
    await house.tasks.create(new_task(), id="t1")
    running = await claimed(house)

    async def fail(*_: object) -> None:
        raise ConflictError("No room.")

    with pytest.raises(ConflictError, match="No room"):
        await house.attempts.finish(running, ASKS, fail)
    task = await house.tasks.get("t1")
    assert (task.status, task.attempts_allowed) == ("running", 3)


async def test_whoever_cancelled_meanwhile_is_not_asked(house: House):
    await house.tasks.create(new_task(), id="t1")
    running = await claimed(house)
    await house.tasks.cancel("t1")

    async def ask(*_: object) -> None:
        raise AssertionError("asked")

    task = await house.attempts.finish(running, ASKS, ask)
    assert (task.status, task.reason, task.attempts_allowed) == ("cancelled", "cancelled_by_user", 3)


async def test_a_quota_parks_the_task_and_costs_no_attempt_and_pauses_in_a_row_are_counted(house: House):
    await house.tasks.create(new_task(max_attempts=1), id="t1")
    for pauses in range(3):
        task = await claimed(house)
        assert await house.attempts.quota_pauses(task) == pauses
        later = house.clock() + 1_000_000
        quota = Ending(status="interrupted", reason="quota", result={}, retry_at=later, pause="quota")
        parked = await house.attempts.finish(task, quota)
        assert (parked.status, parked.reason, parked.run_after) == ("scheduled", "quota", later)
        house.clock.advance(1)
        await house.attempts.promote_due(["echo"])
    task = await claimed(house)
    assert (task.attempt, task.attempts_allowed, task.max_attempts) == (4, 4, 1)
    await house.attempts.finish(task, Ending("interrupted", "interrupted", {}, retry_at=house.clock()))
    assert await house.attempts.quota_pauses(await claimed(house)) == 0, "in a row"


# Records


async def remembered(house: House, *progress: str, start: int = 0, end: int = 10, **state: Any) -> Task:
    """A running task of which these records were kept."""
    await house.tasks.create(new_task(), id="t1")
    task = await claimed(house)
    await house.attempts.keep_records(task, RecordsRead(start, end, progress, state))
    return await house.tasks.get("t1")


def said(house: House) -> list[str]:
    return [event.data["progress"] for event in house.told if event.kind == "task.progress"]


async def test_progress_is_shown_and_told_of_but_not_twice_in_a_row(house: House):
    task = await remembered(house, "reading", "editing", "editing", "reading")
    assert task.progress == "reading"
    assert task.record()["progress"] == "reading"
    assert said(house) == ["reading", "editing", "reading"]


async def test_progress_is_over_when_the_attempt_is(house: House):
    task = await remembered(house, "editing")
    assert (await house.tasks.cancel("t1")).progress == "editing", "it still does"
    assert (await house.attempts.finish(task, STOPPED)).progress is None


async def test_state_is_merged_and_shared_by_the_conversation(house: House):
    task = await remembered(house, session="s-1", turn=1)
    await house.attempts.keep_records(task, RecordsRead(10, 20, (), {"turn": 2}))
    assert await house.attempts.state(task) == {"session": "s-1", "turn": 2}
    await house.attempts.finish(task, FAILED)
    follow_up = new_task("and then?", parent_id="t1", conversation_id="t1")
    await house.tasks.create(follow_up, id="t2")
    later = await claimed(house)
    assert await house.attempts.state(later) == {"session": "s-1", "turn": 2}
    assert await house.attempts.first_of_conversation(later) == task.number
    assert await house.tasks.has_state("t1")
    assert not await house.tasks.has_state("t2")


async def test_what_is_too_much_to_remember_is_left_out_and_the_rest_stays(house: House):
    task = await remembered(house, session="s-1")
    await house.attempts.keep_records(task, RecordsRead(10, 20, ("on",), {"all": "x" * STATE_LIMIT_BYTES}))
    assert await house.attempts.state(task) == {"session": "s-1"}
    assert await house.attempts.records_read(task) == 20


@pytest.mark.parametrize("start", [0, 5, 20])
async def test_records_are_kept_once_and_in_their_order(house: House, start: int):
    task = await remembered(house, "one", session="s-1")
    with pytest.raises(ConflictError):
        await house.attempts.keep_records(task, RecordsRead(start, 30, ("two",), {"session": "s-2"}))
    assert said(house) == ["one"]
    assert await house.attempts.state(task) == {"session": "s-1"}
    assert await house.attempts.records_read(task) == 10


async def test_records_that_come_late_change_nothing(house: House):
    task = await remembered(house, "one")
    adopted = await house.attempts.adopt(task.number)
    with pytest.raises(ConflictError):
        await house.attempts.keep_records(task, RecordsRead(10, 20, ("two",)))
    await house.attempts.keep_records(adopted, RecordsRead(10, 20, ("three",)))
    await house.attempts.finish(adopted, DONE)
    with pytest.raises(ConflictError):
        await house.attempts.keep_records(adopted, RecordsRead(20, 30, ("four",)))
    assert said(house) == ["one", "three"]


async def test_an_attempt_knows_whether_one_before_it_had_begun(house: House):
    task = await remembered(house, "one")
    assert not await house.attempts.had_begun(task)
    await house.attempts.finish(task, Ending("interrupted", "interrupted", {}, retry_at=house.clock()))
    assert await house.attempts.had_begun(await claimed(house))


async def test_what_is_queued_says_whether_it_waits_for_its_agent(house: House):
    for number in range(3):
        await house.tasks.create(new_task(), id=f"t{number}")
    await house.tasks.create(new_task(agent="git"), id="other")
    running = await claimed(house)
    await house.attempts.set_installed("echo", False)
    assert [(await house.tasks.get(f"t{number}")).reason for number in range(3)] == [None] + ["agent_not_installed"] * 2
    assert (await house.tasks.get("t1")).settled
    assert (await house.tasks.get("other")).reason is None
    told = len(house.told)
    await house.attempts.set_installed("echo", False)
    assert len(house.told) == told, "nothing changed"
    await house.attempts.set_installed("echo", True)
    assert (await house.tasks.get("t1")).reason is None
    assert house.kinds()[-1] == "task.changed"
    assert (await house.tasks.get(running.id)).status == "running"


async def test_survivors_of_an_attempt_are_never_tried_again(house: House):
    await house.tasks.create(new_task(), id="t1")
    task = await house.attempts.finish(await claimed(house), SURVIVORS)
    assert (task.status, task.reason) == ("failed", "stop_failed")


async def test_an_attempt_that_never_began_costs_none(house: House):
    await house.tasks.create(new_task(max_attempts=1), id="t1")
    for _ in range(3):
        running = await claimed(house)
        assert running.attempt == 1
        task = await house.attempts.forget(running)
        assert (task.status, task.attempt, await house.tasks.attempts(task)) == ("queued", 0, [])


async def test_what_was_cancelled_before_it_began_is_cancelled(house: House):
    await house.tasks.create(new_task(), id="t1")
    running = await claimed(house)
    await house.tasks.cancel("t1")
    assert (await house.attempts.forget(running)).status == "cancelled"


async def test_an_adopted_attempt_goes_on_under_a_new_fence(house: House):
    await house.tasks.create(new_task(), id="t1")
    old = await claimed(house)
    new = await house.attempts.adopt(old.number)
    assert (new.attempt, new.status) == (old.attempt, "running")
    assert new.fence > old.fence
    assert house.kinds()[-1] == "task.adopted"
    with pytest.raises(ConflictError):
        await house.attempts.finish(old, DONE)
    assert (await house.attempts.finish(new, DONE)).status == "completed"


def snapshot(path: Path) -> list[Any]:
    """Everything that a late write could change."""
    connection = sqlite3.connect(path)
    try:
        tables = ("task", "attempt", "output", "event", "document")
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    finally:
        connection.close()


LATE: dict[str, Callable[[House, Task], Any]] = {
    "an end": lambda house, task: house.attempts.finish(task, DONE),
    "a failure": lambda house, task: house.attempts.finish(task, FAILED),
    "a retry": lambda house, task: house.attempts.finish(
        task, Ending(status="failed", reason="x", result={}, retry_at=house.clock())
    ),
    "a retry later": lambda house, task: house.attempts.finish(
        task, Ending(status="failed", reason="x", result={}, retry_at=house.clock() + 1_000_000)
    ),
    "that it never began": lambda house, task: house.attempts.forget(task),
    "output": lambda house, task: house.attempts.append_output(task, [("stdout", 0, b"late")]),
}


@pytest.mark.parametrize("kind", LATE)
@pytest.mark.parametrize("now", ["adopted", "claimed again", "adopted and cancelling"])
async def test_a_write_under_an_old_fence_changes_nothing(kind: str, now: str, house: House):
    await house.tasks.create(new_task(), id="t1")
    old = await claimed(house)
    if now == "claimed again":
        await house.attempts.forget(old)
        await claimed(house)
    else:
        await house.attempts.adopt(old.number)
    if now == "adopted and cancelling":
        await house.tasks.cancel("t1")
    before = snapshot(house.path)
    if kind == "output":
        await LATE[kind](house, old)
    else:
        with pytest.raises(ConflictError):
            await LATE[kind](house, old)
    assert snapshot(house.path) == before


@pytest.mark.parametrize("kind", [kind for kind in LATE if kind != "output"])
@pytest.mark.parametrize("ended", [DONE, FAILED, "cancelled", "scheduled", "queued"])
async def test_an_attempt_ends_only_once(kind: str, ended: Any, house: House):
    await house.tasks.create(new_task(), id="t1")
    running = await claimed(house)
    if ended == "cancelled":
        await house.tasks.cancel("t1")
        ended = STOPPED
    if ended in ("scheduled", "queued"):
        wait = 1_000_000 if ended == "scheduled" else 0
        ended = Ending(status="failed", reason="x", result={}, retry_at=house.clock() + wait)
    await house.attempts.finish(running, ended)
    before = snapshot(house.path)
    with pytest.raises(ConflictError):
        await LATE[kind](house, running)
    assert snapshot(house.path) == before


async def test_the_end_of_a_task_that_was_deleted_is_not_found(house: House):
    await house.sessions.create(id="s1")
    await house.tasks.create(new_task(session_id="s1"), id="t1")
    running = await claimed(house)
    await house.attempts.finish(running, DONE)
    await house.sessions.delete("s1")
    with pytest.raises(NotFoundError):
        await house.attempts.finish(running, DONE)
    await house.attempts.append_output(running, [("stdout", 0, b"late")])


async def test_output_is_read_from_any_offset_while_it_grows(house: House):
    await house.tasks.create(new_task(), id="t1")
    task = await claimed(house)
    await house.attempts.append_output(task, [("stdout", 0, b"hello "), ("stderr", 0, b"\xff\x00")])
    await house.attempts.append_output(task, [("stdout", 6, b"wor"), ("stdout", 9, b"ld")])
    read = house.attempts.read_output
    whole = b"hello world"
    for offset in range(13):
        for limit in (1, 3, 100):
            assert await read(task, "stdout", offset, limit) == whole[offset:][:limit], (offset, limit)
    assert await read(task, "stderr", 0, 100) == b"\xff\x00"
    assert [await house.attempts.output_end(task, stream) for stream in ("stdout", "stderr")] == [11, 2]


async def test_the_same_bytes_again_change_nothing(house: House):
    await house.tasks.create(new_task(), id="t1")
    task = await claimed(house)
    for _ in range(2):
        await house.attempts.append_output(task, [("stdout", 0, b"one"), ("stdout", 3, b"two")])
    assert await house.attempts.read_output(task, "stdout", 0, 100) == b"onetwo"
    assert await house.attempts.output_end(task, "stdout") == 6


async def test_each_attempt_has_its_own_output(house: House):
    await house.tasks.create(new_task(), id="t1")
    first = await claimed(house)
    await house.attempts.append_output(first, [("stdout", 0, b"first")])
    await house.attempts.finish(first, Ending(status="failed", reason="x", result={}, retry_at=house.clock()))
    second = await claimed(house)
    assert await house.attempts.output_end(second, "stdout") == 0
    await house.attempts.append_output(second, [("stdout", 0, b"2nd")])
    assert await house.attempts.read_output(second, "stdout", 0, 100) == b"2nd"
    assert await house.attempts.read_output(first, "stdout", 0, 100) == b"first"


async def test_whoever_waits_for_output_is_woken_by_it(house: House):
    await house.tasks.create(new_task(), id="t1")
    task = await claimed(house)
    async with asyncio.timeout(10):
        waiting = asyncio.ensure_future(house.attempts.wait_for_output(task, "stdout", 0, 30))
        await house.attempts.append_output(task, [("stdout", 0, b"x")])
        await waiting
        ended = asyncio.ensure_future(house.attempts.wait_for_output(task, "stdout", 1, 30))
        await house.attempts.finish(task, DONE)
        await ended
        await house.attempts.wait_for_output(task, "stdout", 1, 30)


async def test_counts_are_of_what_waits_and_runs(house: House):
    for name, agent in (("t1", "echo"), ("t2", "echo"), ("t3", "git"), ("t4", "git")):
        await house.tasks.create(new_task(agent=agent), id=name)
    await claimed(house)
    await house.tasks.cancel("t3")
    counts = {(row["agent"], row["status"]): row["count"] for row in await house.attempts.counts()}
    assert counts == {("echo", "queued"): 1, ("echo", "running"): 1, ("git", "queued"): 1}


ACTS = ("create", "create", "claim", "claim", "done", "fail", "later", "again", "stop", "forget", "output")
ACTS = (*ACTS, "adopt", "cancel", "retry", "requeue", "promote")
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, 30)),
    min_size=15,
    max_size=60,
)


class Walk:
    """A random walk of users and an executor over one store, beside a model of what must come of it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.tasks: dict[int, Task] = {}
        self.handles: list[Task] = []
        self.last_fence = 0

    async def take(self, step: str, pick: int) -> None:
        """One step, and what must hold after it."""
        events = len(self.house.told)
        before = dict(self.tasks)
        handle = self.handles[pick % len(self.handles)] if self.handles else None
        task = before[pick % len(before) + 1] if before else None
        if step == "create":
            await self._create(pick)
        elif step == "claim":
            await self._claim(["echo", "git"] if pick % 3 else ["git"])
        elif step == "promote":
            self.house.clock.advance(pick)
            await self.house.attempts.promote_due(["echo", "git"])
        elif step in ("done", "fail", "later", "again", "stop", "forget", "output", "adopt"):
            if handle is not None:
                await self._work(step, handle)
        elif task is not None:
            await self._ask(step, task, pick)
        await self._compare(before, [event.kind for event in self.house.told[events:]])

    async def _create(self, pick: int) -> None:
        parent = self.tasks.get(pick % 7) if pick % 3 == 0 else None
        later = self.house.clock() + pick * 1_000_000 if pick % 5 == 0 else None
        fields: dict[str, Any] = {"agent": ("echo", "git")[pick % 2], "priority": pick % 4, "run_after": later}
        fields |= {"lane": (None, None, "a", "b")[pick % 4]}
        if parent is not None:
            fields |= {"parent_id": parent.id, "conversation_id": parent.conversation_id}
        task, _ = await self.house.tasks.create(new_task(f"task {len(self.tasks)}", **fields))
        self.tasks[task.number] = task

    async def _claim(self, agents: list[str]) -> None:
        open_before = [task for task in self.tasks.values() if task.status not in FINAL]
        busy = {task.lane for task in open_before if task.status in ("running", "cancelling") and task.lane}
        ready = [
            task
            for task in open_before
            if task.status == "queued" and task.agent in agents and task.lane not in busy
            if task.parent_id is None
            or not any(
                other.conversation_id == task.conversation_id and other.number < task.number for other in open_before
            )
        ]
        expected = min(ready, key=lambda task: (-task.priority, task.number), default=None)
        got = await self.house.attempts.claim(agents)
        assert (got and got.number) == (expected and expected.number)
        if got is not None:
            self._new_fence(got)

    async def _work(self, step: str, handle: Task) -> None:
        held = self.tasks[handle.number]
        current = held.fence == handle.fence and held.status in ("running", "cancelling")
        if step == "adopt":
            if held.status in ("running", "cancelling"):
                self._new_fence(await self.house.attempts.adopt(handle.number))
            return
        now = self.house.clock()
        attempts = self.house.attempts
        acts: dict[str, Callable[[], Any]] = {
            "done": lambda: attempts.finish(handle, DONE),
            "fail": lambda: attempts.finish(handle, FAILED),
            "later": lambda: attempts.finish(
                handle, Ending(status="failed", reason="x", result={}, retry_at=now + 9_000_000)
            ),
            "again": lambda: attempts.finish(handle, Ending(status="failed", reason="x", result={}, retry_at=now)),
            "stop": lambda: attempts.finish(handle, STOPPED),
            "forget": lambda: attempts.forget(handle),
            "output": lambda: attempts.append_output(handle, [("stdout", 0, b"x")]),
        }
        before = None if current else snapshot(self.house.path)
        try:
            await acts[step]()
            late = False
        except ConflictError:
            late = True
        if step != "output":
            assert late == (not current)
        if before is not None and held.fence != handle.fence:
            assert snapshot(self.house.path) == before, "a late write changed something"

    async def _ask(self, step: str, task: Task, pick: int) -> None:
        name = task.id if pick % 2 else str(task.number)
        try:
            if step == "cancel":
                await self.house.tasks.cancel(name)
            elif step == "retry":
                await self.house.tasks.retry(name)
            else:
                await self.house.tasks.requeue(name, priority=pick % 5, lane=("", "a", "c")[pick % 3])
        except ConflictError:
            assert (step, task.status) == ("retry", "completed") or step == "requeue"

    def _new_fence(self, task: Task) -> None:
        assert task.fence > self.last_fence, "a fence was used twice"
        self.last_fence = task.fence
        self.handles.append(task)

    async def _compare(self, before: dict[int, Task], kinds: list[str]) -> None:
        moved = 0
        for number in self.tasks:
            seen = await self.house.tasks.get(str(number))
            known = before.get(number)
            if known is None or seen.status != known.status:
                moved += 1
            if known is not None and seen.status != known.status:
                assert seen.status in TRANSITIONS[known.status], f"{known.status} to {seen.status}"
            self.tasks[number] = seen
        states = [kind for kind in kinds if kind not in ("task.adopted", "task.changed")]
        assert len(states) == moved, f"{moved} changes of state wrote {states}"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_no_walk_leaves_the_table(steps: list[tuple[str, int]], folder: Path, new_store: Path, at_desk: None):
    path = folder / f"{uuid4()}.db"
    shutil.copy(new_store, path)
    async with open_house(path) as house:
        walk = Walk(house)
        for step, pick in steps:
            await walk.take(step, pick)
    assert broken_invariants(path) == []
