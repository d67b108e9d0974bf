"""Tasks: what users do with them, and the one table of their transitions."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from mcp_server.attempts import Ending
from mcp_server.callers import Caller, calling_as
from mcp_server.errors import ConflictError, InvalidError, NotFoundError, TooLargeError
from mcp_server.store.database import Transaction
from mcp_server.tasks import FINAL, TRANSITIONS, Status, Task, move, task_number
from mcp_server.values import make_cursor
from tests.store.house import House, StillClock, new_task

FAILED = Ending(status="failed", reason="exit_code", result={"text": "no", "returncode": 1}, returncode=1)
DONE = Ending(status="completed", reason=None, result={"text": "yes", "say": "Yes.", "returncode": 0}, returncode=0)


async def in_state(house: House, status: Status, **fields: Any) -> Task:
    """A task that came to `status` by the ways there are."""
    later = house.clock() + 1_000_000 if status == "scheduled" else None
    task, _ = await house.tasks.create(new_task(run_after=later, **fields), id=fields.pop("id", "t1"))
    if status == "cancelled":
        return await house.tasks.cancel(task.id)
    if status in ("running", "cancelling", "completed", "failed"):
        claimed = await house.attempts.claim(["echo"])
        assert claimed is not None
        task = claimed
    if status == "cancelling":
        return await house.tasks.cancel(task.id)
    if status in ("completed", "failed"):
        return await house.attempts.finish(task, DONE if status == "completed" else FAILED)
    return task


REACHABLE: list[Status] = ["scheduled", "queued", "running", "cancelling", "completed", "failed", "cancelled"]


async def test_a_task_is_what_was_asked_for(house: House):
    await house.sessions.create(id="s1")
    asked = new_task("do it", session_id="s1", task_type="code", priority=5, lane="slow", params='{"a": [1]}')
    task, created = await house.tasks.create(asked, id="task_001")
    assert created
    record = task.record()
    expected = {
        "id": "task_001",
        "number": 1,
        "agent": "echo",
        "status": "queued",
        "reason": None,
        "session_id": "s1",
        "task_type": "code",
        "description": "do it",
        "params": {"a": [1]},
        "priority": 5,
        "lane": "slow",
        "attempt": 0,
        "max_attempts": 3,
        "timeout_seconds": 60.0,
        "created_by": {"level": "desk", "name": "desk"},
        "created_at": "2026-11-21T08:00:00.000Z",
        "started_at": None,
        "finished_at": None,
        "run_after": None,
        "result": None,
    }
    assert {name: record[name] for name in expected} == expected
    assert (await house.tasks.get("task_001")).record() == record
    assert (house.told[-1].kind, house.told[-1].subject) == ("task.queued", "task://task_001")
    assert house.told[-1].data == {"number": 1, "agent": "echo", "reason": None, "attempt": 0}


async def test_numbers_count_up_and_stand_for_ids(house: House):
    for number in (1, 2, 3):
        task, _ = await house.tasks.create(new_task(), id=f"t{number}")
        assert task.number == number
    assert (await house.tasks.get("2")).id == "t2"
    assert (await house.tasks.cancel("2")).id == "t2"
    assert (await house.tasks.requeue("3", priority=1, lane=None)).id == "t3"


async def test_a_number_is_never_used_twice(house: House):
    await house.sessions.create(id="s1")
    await house.tasks.create(new_task(session_id="s1"), id="t1")
    await house.tasks.cancel("t1")
    await house.sessions.delete("s1")
    task, _ = await house.tasks.create(new_task(), id="t1")
    assert task.number == 2


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("007", 7), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("t7", None), ("٧", None), ("-7", None)],
)
def test_what_is_all_digits_is_a_number(text: str, number: int | None):
    assert task_number(text) == number


async def test_twenty_callers_at_once_make_one_task(house: House):
    answers = await asyncio.gather(*(house.tasks.create(new_task(), id="t1") for _ in range(20)))
    assert [created for _, created in answers].count(True) == 1
    assert {task.number for task, _ in answers} == {1}
    assert house.kinds() == ["task.queued"]
    assert len((await house.tasks.list())[0]) == 1


async def test_twenty_callers_at_once_with_two_contents_make_one_task(house: House):
    answers = await asyncio.gather(
        *(house.tasks.create(new_task(f"do {number % 2}"), id="t1") for number in range(20)), return_exceptions=True
    )
    assert [isinstance(answer, ConflictError) for answer in answers].count(True) == 10
    assert house.kinds() == ["task.queued"]


async def test_the_same_id_with_other_content_is_a_conflict(house: House):
    task, _ = await house.tasks.create(new_task("one"), id="t1")
    with pytest.raises(ConflictError) as caught:
        await house.tasks.create(new_task("other"), id="t1")
    assert caught.value.existing == task.record()
    assert caught.value.issues[0].field == "task_id"
    for verb in ("another id", "continue_task", "update_task"):
        assert verb in caught.value.issues[0].fix
    assert "t1" not in caught.value.say


@pytest.mark.parametrize("status", REACHABLE)
async def test_the_same_again_is_the_record_as_it_is_now(status: Status, house: House):
    task = await in_state(house, status)
    later = house.clock() + 1_000_000 if status == "scheduled" else None
    again, created = await house.tasks.create(new_task(run_after=later), id="t1")
    assert (again, created) == (task, False)


async def test_an_unknown_session_is_not_found_and_nothing_is_stored(house: House):
    with pytest.raises(NotFoundError) as caught:
        await house.tasks.create(new_task(session_id="nobody"), id="t1")
    assert caught.value.issues[0].field == "session_id"
    assert await house.tasks.list() == ([], None)
    with pytest.raises(InvalidError):
        await house.tasks.create(new_task(session_id="a b"), id="t1")


@pytest.mark.parametrize("operation", ["get", "cancel", "retry"])
async def test_an_unknown_task_is_not_found_and_a_bad_id_is_refused(operation: str, house: House):
    for unknown in ("nobody", "99", "0"):
        with pytest.raises(NotFoundError) as caught:
            await getattr(house.tasks, operation)(unknown)
        assert caught.value.issues[0].field == "task_id"
        assert "list_tasks" in caught.value.issues[0].fix
    for bad in ("a b", "a/b", "", "x" * 10_000, "9" * 19, "a\x00"):
        with pytest.raises(InvalidError) as refused:
            await getattr(house.tasks, operation)(bad)
        assert refused.value.issues[0].field == "task_id"


@pytest.mark.parametrize("bad", ["a b", "12", "", "a\n", "é"])
async def test_a_bad_new_id_is_refused(bad: str, house: House):
    with pytest.raises(InvalidError) as caught:
        await house.tasks.create(new_task(), id=bad)
    assert caught.value.issues[0].field == "task_id"


async def test_a_task_for_later_is_scheduled_and_one_for_the_past_is_queued(house: House, clock: StillClock):
    for name, offset, status in (("t1", 1, "scheduled"), ("t2", 0, "queued"), ("t3", -1, "queued")):
        task, _ = await house.tasks.create(new_task(run_after=clock() + offset), id=name)
        assert task.status == status
    assert house.kinds() == ["task.scheduled", "task.queued", "task.queued"]


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        ("scheduled", "cancelled"),
        ("queued", "cancelled"),
        ("running", "cancelling"),
        ("cancelling", "cancelling"),
        ("completed", "completed"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
    ],
)
async def test_cancel_ends_what_waits_and_asks_what_runs(status: Status, becomes: Status, house: House):
    before = await in_state(house, status)
    events = len(house.told)
    task = await house.tasks.cancel("t1")
    assert task.status == becomes
    if before.status == becomes:
        assert (task, len(house.told)) == (before, events), "nothing was written"
    else:
        assert task.reason == "cancelled_by_user"
        assert len(house.told) == events + 1


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        ("failed", "queued"),
        ("cancelled", "queued"),
        ("scheduled", "scheduled"),
        ("queued", "queued"),
        ("running", "running"),
        ("cancelling", "cancelling"),
    ],
)
async def test_retry_queues_what_failed_or_was_cancelled(status: Status, becomes: Status, house: House):
    before = await in_state(house, status)
    task = await house.tasks.retry("t1")
    assert task.status == becomes
    if status in ("failed", "cancelled"):
        assert (task.reason, task.finished_at) == (None, None)
        assert task.attempts_allowed == task.attempt + task.max_attempts
    else:
        assert task == before


async def test_a_completed_task_is_not_retried(house: House):
    task = await in_state(house, "completed")
    with pytest.raises(ConflictError) as caught:
        await house.tasks.retry("t1")
    assert caught.value.existing == task.record()
    assert caught.value.issues[0].field == "action"
    assert "continue_task" in caught.value.issues[0].fix


async def test_a_retry_keeps_the_attempts_that_were_made(house: House, clock: StillClock):
    await in_state(house, "failed")
    clock.advance(60)
    await house.tasks.retry("t1", priority=9, lane="slow", reason="agent_not_installed")
    task = await house.tasks.get("t1")
    assert (task.priority, task.lane, task.reason) == (9, "slow", "agent_not_installed")
    claimed = await house.attempts.claim(["echo"])
    assert claimed is not None
    assert (claimed.attempt, claimed.attempts_allowed, claimed.result, claimed.reason) == (2, 4, None, None)
    await house.attempts.finish(claimed, DONE)
    attempts = await house.tasks.attempts(task)
    assert [(row["attempt"], row["status"], row["reason"], row["returncode"]) for row in attempts] == [
        (1, "failed", "exit_code", 1),
        (2, "completed", None, 0),
    ]
    assert attempts[0]["finished_at"] == "2026-11-21T08:00:00.000Z"
    assert attempts[1]["started_at"] == "2026-11-21T08:01:00.000Z"


@pytest.mark.parametrize("status", ["scheduled", "queued"])
async def test_what_waits_can_be_moved_in_line(status: Status, house: House):
    await in_state(house, status)
    assert (await house.tasks.requeue("t1", priority=7, lane=None)).priority == 7
    task = await house.tasks.requeue("t1", priority=None, lane="slow")
    assert (task.priority, task.lane, task.status) == (7, "slow", status)
    assert (await house.tasks.requeue("t1", priority=None, lane="")).lane is None
    assert house.kinds()[1:] == ["task.changed"] * 3


@pytest.mark.parametrize("status", ["running", "cancelling", "completed", "failed", "cancelled"])
async def test_what_has_begun_keeps_its_place(status: Status, house: House):
    task = await in_state(house, status)
    for change, field in (({"priority": 1, "lane": None}, "priority"), ({"priority": None, "lane": "x"}, "lane")):
        with pytest.raises(ConflictError) as caught:
            await house.tasks.requeue("t1", **change)  # type: ignore[arg-type]
        assert caught.value.issues[0].field == field
        assert status in caught.value.message
    assert await house.tasks.get("t1") == task


@pytest.mark.parametrize(
    ("priority", "lane"), [(1001, None), (-1001, None), (10**30, None), (None, "a\x00"), (None, " ")]
)
async def test_a_bad_priority_or_lane_is_refused_and_changes_nothing(
    priority: int | None, lane: str | None, house: House
):
    waiting = await in_state(house, "queued")
    with pytest.raises(InvalidError) as caught:
        await house.tasks.requeue("t1", priority=priority, lane=lane)
    assert caught.value.issues[0].field == ("priority" if lane is None else "lane")
    with pytest.raises(TooLargeError):
        await house.tasks.requeue("t1", priority=None, lane="é" * 257)
    assert await house.tasks.get("t1") == waiting
    await house.tasks.cancel("t1")
    with pytest.raises(InvalidError):
        await house.tasks.retry("t1", priority=priority, lane=lane)
    assert (await house.tasks.get("t1")).status == "cancelled"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["t4", "t3", "t2", "t1"]),
        ({"status": "queued"}, ["t4", "t3", "t1"]),
        ({"status": "cancelled"}, ["t2"]),
        ({"status": "running"}, []),
        ({"agent": "git"}, ["t3"]),
        ({"agent": "nobody"}, []),
        ({"session_id": "s1"}, ["t2", "t1"]),
        ({"session_id": "nobody"}, []),
        ({"lane": "slow"}, ["t4", "t2"]),
        ({"lane": "slow", "status": "queued"}, ["t4"]),
        ({"lane": "slow", "agent": "git"}, []),
        ({"session_id": "s1", "lane": "slow", "status": "cancelled", "agent": "echo"}, ["t2"]),
        ({"session_id": "s1", "agent": "git"}, []),
        ({"status": "queued", "agent": "git"}, ["t3"]),
        ({"query": "carbon"}, ["t4", "t1"]),
        ({"query": "carbon", "status": "queued", "lane": "slow"}, ["t4"]),
        ({"query": "carbon", "session_id": "s1"}, ["t1"]),
        ({"query": "carbon", "agent": "git"}, []),
        ({"query": "?!"}, []),
    ],
    ids=str,
)
async def test_lists_are_newest_first_and_filtered(filters: dict[str, Any], expected: list[str], house: House):
    await house.sessions.create(id="s1")
    await house.tasks.create(new_task("carbon one", session_id="s1"), id="t1")
    await house.tasks.create(new_task("two", session_id="s1", lane="slow"), id="t2")
    await house.tasks.create(new_task("three", agent="git"), id="t3")
    await house.tasks.create(new_task("carbon four", lane="slow"), id="t4")
    await house.tasks.cancel("t2")
    listed, cursor = await house.tasks.list(**filters)
    assert ([task.id for task in listed], cursor) == (expected, None)


@pytest.mark.parametrize(
    "filters",
    [{}, {"status": "queued"}, {"agent": "echo"}, {"session_id": "s1"}, {"lane": "slow"}, {"query": "every"}],
    ids=str,
)
async def test_pages_go_on_where_the_last_one_ended(filters: dict[str, Any], house: House):
    await house.sessions.create(id="s1")
    for number in range(7):
        await house.tasks.create(new_task(f"every {number}", session_id="s1", lane="slow"), id=f"t{number}")
    seen: list[str] = []
    cursor = None
    for expected in (3, 3, 1):
        page, cursor = await house.tasks.list(limit=3, cursor=cursor, **filters)
        assert len(page) == expected
        seen += [task.id for task in page]
    assert cursor is None
    assert seen == [f"t{number}" for number in range(6, -1, -1)]
    assert await house.tasks.list(cursor=make_cursor(1), **filters) == ([], None)
    with pytest.raises(InvalidError) as caught:
        await house.tasks.list(cursor="nonsense", **filters)
    assert caught.value.issues[0].field == "cursor"


def test_the_table_is_the_one_of_the_design():
    assert TRANSITIONS.keys() == set(Status.__args__)
    assert {status: following for status, following in TRANSITIONS.items() if status in FINAL} == {
        "completed": frozenset(),
        "failed": {"queued", "waiting_approval"},
        "cancelled": {"queued", "waiting_approval"},
    }
    assert TRANSITIONS["running"] >= {"completed", "failed", "cancelling", "waiting_approval"}
    assert "cancelled" not in TRANSITIONS["running"], "what runs is cancelled only after its processes are dead"
    assert "running" not in TRANSITIONS["scheduled"], "what is scheduled is promoted, never claimed"


@pytest.mark.parametrize("status", REACHABLE)
@pytest.mark.parametrize("to_status", TRANSITIONS)
async def test_a_move_is_made_only_where_the_table_has_it(status: Status, to_status: Status, house: House):
    task = await in_state(house, status)
    events = len(house.told)

    async def body(transaction: Transaction) -> Task:
        moved = await move(house.events, transaction, task, to_status, "why", house.clock())
        raise _MadeError(moved)

    with pytest.raises((_MadeError, ConflictError)) as caught:
        await house.database.write(body)
    if to_status in TRANSITIONS[status]:
        assert isinstance(caught.value, _MadeError)
        assert (caught.value.task.status, caught.value.task.reason) == (to_status, "why")
        assert (caught.value.task.finished_at is not None) == (to_status in FINAL)
    else:
        assert isinstance(caught.value, ConflictError)
        assert caught.value.existing == task.record()
    assert await house.tasks.get("t1") == task, "the failed transaction left nothing"
    assert len(house.told) == events


class _MadeError(Exception):
    """Carries a moved task out of a transaction that is to be undone."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task


async def test_a_move_from_a_state_that_is_no_more_changes_nothing(house: House):
    seen = await in_state(house, "queued")
    await house.tasks.cancel("t1")

    async def body(transaction: Transaction) -> Task:
        return await move(house.events, transaction, seen, "running", None, house.clock())

    with pytest.raises(ConflictError):
        await house.database.write(body)
    assert (await house.tasks.get("t1")).status == "cancelled"


async def test_an_event_of_a_move_names_who_asked(house: House):
    await in_state(house, "queued")
    phone = Caller("phone", "my phone", frozenset({"submit"}), key_id="key_1")
    with calling_as(phone):
        await house.tasks.cancel("t1")
    connection = sqlite3.connect(house.path)
    callers = [row[0] for row in connection.execute("SELECT caller ->> 'name' FROM event ORDER BY sequence")]
    connection.close()
    assert callers == ["desk", "my phone"]


async def test_waiting_ends_as_soon_as_the_task_is_there(house: House):
    task = await in_state(house, "running")
    looked = asyncio.Event()
    looks: list[str] = []

    def done(seen: Task) -> bool:
        looks.append(seen.status)
        if len(looks) == 2:  # before it watches, and once it does
            looked.set()
        return seen.final

    waiting = asyncio.ensure_future(house.tasks.wait(task, 30, done))
    async with asyncio.timeout(10):
        await looked.wait()
        await house.attempts.finish(task, DONE)
        assert (await waiting).status == "completed"
    assert looks == ["running", "running", "completed"]


async def test_waiting_misses_no_change_before_it_began(house: House):
    queued = await in_state(house, "queued")
    await house.tasks.cancel("t1")
    async with asyncio.timeout(10):
        assert (await house.tasks.wait(queued, 30, lambda seen: seen.final)).status == "cancelled"


async def test_waiting_gives_up_and_shows_the_task_as_it_is(house: House):
    task = await in_state(house, "running")
    async with asyncio.timeout(10):
        assert (await house.tasks.wait(task, 0.01, lambda seen: seen.final)).status == "running"
        assert (await house.tasks.wait(task, 0, lambda seen: seen.final)) is task


async def test_waiting_ends_when_the_server_goes(house: House):
    task = await in_state(house, "running")
    waiting = asyncio.ensure_future(house.tasks.wait(task, 30, lambda seen: seen.final))
    await asyncio.sleep(0)
    house.events.close()
    async with asyncio.timeout(10):
        assert (await waiting).status == "running"


@pytest.mark.parametrize(
    ("status", "reason", "settled"),
    [
        ("queued", None, False),
        ("queued", "agent_not_installed", True),
        ("scheduled", None, True),
        ("running", None, False),
        ("cancelling", None, False),
        ("completed", None, True),
    ],
)
async def test_it_is_known_when_waiting_is_of_no_use(status: Status, reason: str | None, settled: bool, house: House):
    assert (await in_state(house, status, reason=reason)).settled is settled


async def test_what_is_only_spoken_is_not_in_the_record(house: House):
    task = await in_state(house, "completed")
    assert task.record()["result"] == {"text": "yes", "returncode": 0}
