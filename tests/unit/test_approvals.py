"""Approvals: asked once, decided once, by whoever may, about exactly what was shown. No answer means no."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mcp_server.approvals import DIFF_LIMIT_BYTES, Approval, Approvals
from mcp_server.attempts import Ending
from mcp_server.callers import Caller, Scope, calling_as
from mcp_server.clock import now_us
from mcp_server.errors import ConflictError, ForbiddenError, NotFoundError
from mcp_server.executor import expiry
from mcp_server.executor.expiry import Expiry
from mcp_server.fingerprint import fingerprint
from mcp_server.store.database import Transaction
from mcp_server.tasks import Asking, Task
from tests.store.house import APPROVAL_SECONDS, House, StillClock, new_task, open_house
from tests.store.invariants import broken_invariants

ACTION: dict[str, Any] = {"agent": "echo", "argv": ["rm", "-r", "x"], "cwd": "/place"}
WATCH = Caller("phone", "watch", frozenset[Scope]({"approve"}), key_id="key_9")
DEADLINE_SECONDS = 10.0


def asking(house: House, action: Mapping[str, Any] = ACTION, diff: str | None = None, about: str = "task") -> Asking:
    async def ask(transaction: Transaction, task: Task) -> None:
        await house.approvals.ask(transaction, task, about, action, "May it run rm?", diff, house.clock())

    return ask


async def asked(house: House, id: str = "t1", **fields: Any) -> tuple[Task, Approval]:
    """A task that waits for an answer, and the question."""
    task, _ = await house.tasks.create(new_task(**fields), id, asking(house))
    approval = await house.approvals.pending_of(task)
    assert approval is not None
    return task, approval


async def ask_again(house: House, task: Task, action: Mapping[str, Any], about: str = "tool") -> Approval:
    """The running attempt of a task pauses and asks."""
    ending = Ending(status="interrupted", reason="asks", result={"text": ""}, pause="asks")

    async def ask(transaction: Transaction, waiting: Task, now: int) -> None:
        await house.approvals.ask(transaction, waiting, about, action, "May it?", None, now)

    paused = await house.attempts.finish(task, ending, asks=ask)
    assert paused.status == "waiting_approval"
    approval = await house.approvals.pending_of(paused)
    assert approval is not None
    return approval


async def claimed(house: House) -> Task:
    task = await house.attempts.claim(["echo"])
    assert task is not None
    return task


async def status_of(house: House, task: Task) -> tuple[str, str | None]:
    now = await house.tasks.get(task.id)
    return now.status, now.reason


async def test_a_task_that_needs_approval_waits_with_its_question(house: House):
    task, approval = await asked(house)
    assert (task.status, task.settled, task.attempt) == ("waiting_approval", True, 0)
    expected = {
        "status": "pending",
        "about": "task",
        "task_id": "t1",
        "task_number": 1,
        "agent": "echo",
        "asked_by": {"level": "desk", "name": "desk"},
        "action": ACTION,
        "hash": fingerprint(ACTION),
        "say": "May it run rm?",
        "diff": None,
        "created_at": "2026-11-21T08:00:00.000Z",
        "expires_at": "2026-11-21T09:00:00.000Z",
        "decided_at": None,
        "decided_by": None,
    }
    record = approval.record()
    assert {name: record[name] for name in expected} == expected
    assert house.kinds() == ["task.waiting_approval", "approval.asked"]
    assert await house.attempts.claim(["echo"]) is None, "nothing of it begins"


async def test_an_approved_task_goes_on(house: House):
    task, approval = await asked(house)
    with calling_as(WATCH):
        decided = await house.approvals.decide(approval.id, "approve", approval.hash)
    assert (decided.status, decided.decided_by) == ("approved", WATCH.record())
    assert await status_of(house, task) == ("queued", None)
    assert house.kinds()[2:] == ["approval.decided", "task.queued"]
    assert (await claimed(house)).id == task.id
    assert await house.approvals.granted(task) == (fingerprint(ACTION),)


async def test_a_denied_task_is_cancelled(house: House):
    task, approval = await asked(house)
    decided = await house.approvals.decide(approval.id, "deny", approval.hash)
    assert decided.status == "denied"
    assert await status_of(house, task) == ("cancelled", "denied")
    assert await house.approvals.granted(task) == ()
    assert await house.attempts.claim(["echo"]) is None


@pytest.mark.parametrize(("seconds", "status"), [(7200, "scheduled"), (-1, "queued"), (None, "queued")])
async def test_work_for_later_is_scheduled_once_it_is_approved(house: House, seconds: int | None, status: str):
    run_after = None if seconds is None else house.clock() + seconds * 1_000_000
    task, approval = await asked(house, run_after=run_after)
    assert task.run_after == run_after
    await house.approvals.decide(approval.id, "approve", approval.hash)
    now = await house.tasks.get(task.id)
    assert (now.status, now.run_after) == (status, run_after if status == "scheduled" else None)


async def test_an_approved_task_says_that_its_agent_is_missing(house: House):
    approvals = Approvals(
        house.database, house.events, 60, house.clock, waiting_reason={"echo": "agent_not_installed"}.get
    )
    task, approval = await asked(house)
    await approvals.decide(approval.id, "approve", approval.hash)
    assert await status_of(house, task) == ("queued", "agent_not_installed")


@pytest.mark.parametrize("first", ["approve", "deny"])
@pytest.mark.parametrize("second", ["approve", "deny"])
async def test_an_approval_is_decided_once(house: House, first: Any, second: Any):
    task, approval = await asked(house)
    decided = await house.approvals.decide(approval.id, first, approval.hash)
    before = await house.tasks.get(task.id)
    house.clock.advance(1)
    with pytest.raises(ConflictError) as caught:
        await house.approvals.decide(approval.id, second, approval.hash)
    assert caught.value.existing == decided.record()
    assert f"was {decided.status} already" in caught.value.message
    assert await house.tasks.get(task.id) == before


async def test_of_many_who_decide_at_once_one_is_heard(house: House):
    task, approval = await asked(house)
    answers = await asyncio.gather(
        *(house.approvals.decide(approval.id, "approve", approval.hash) for _ in range(5)),
        *(house.approvals.decide(approval.id, "deny", approval.hash) for _ in range(5)),
        return_exceptions=True,
    )
    heard = [answer for answer in answers if isinstance(answer, Approval)]
    assert len(heard) == 1
    assert sum(isinstance(answer, ConflictError) for answer in answers) == 9
    expected = "queued" if heard[0].status == "approved" else "cancelled"
    assert (await house.tasks.get(task.id)).status == expected


async def test_an_answer_that_comes_late_changes_nothing(house: House):
    task, approval = await asked(house)
    house.clock.advance(APPROVAL_SECONDS)
    with pytest.raises(ConflictError, match="No answer means no"):
        await house.approvals.decide(approval.id, "approve", approval.hash)
    assert await status_of(house, task) == ("waiting_approval", None)
    assert await house.approvals.expire_due() is None
    assert await status_of(house, task) == ("cancelled", "expired")
    with pytest.raises(ConflictError, match="was expired already"):
        await house.approvals.decide(approval.id, "approve", approval.hash)
    assert await status_of(house, task) == ("cancelled", "expired")
    assert house.kinds()[2:] == ["approval.expired", "task.cancelled"]


async def test_in_the_last_moment_there_is_still_an_answer(house: House):
    task, approval = await asked(house)
    house.clock.advance(APPROVAL_SECONDS - 0.000001)
    assert await house.approvals.expire_due() == approval.expires_at
    await house.approvals.decide(approval.id, "approve", approval.hash)
    assert (await house.tasks.get(task.id)).status == "queued"


@pytest.mark.parametrize("seen", ["", "0" * 64, fingerprint({}), fingerprint(ACTION).upper(), fingerprint(ACTION)[:-1]])
async def test_another_hash_decides_nothing(house: House, seen: str):
    task, approval = await asked(house)
    for decision in ("approve", "deny"):
        with pytest.raises(ConflictError) as caught:
            await house.approvals.decide(approval.id, decision, seen)
        assert caught.value.issues[0].field == "hash"
    assert await status_of(house, task) == ("waiting_approval", None)
    await house.approvals.decide(approval.id, "approve", approval.hash)


async def test_every_part_of_an_action_is_in_its_hash(house: House):
    others = [
        ACTION | {"agent": "shell"},
        ACTION | {"argv": ["rm", "-r", "x", ""]},
        ACTION | {"argv": ["rm -r", "x"]},
        ACTION | {"cwd": "/place/sub"},
        ACTION | {"more": None},
    ]
    hashes = {fingerprint(action) for action in (ACTION, *others)}
    assert len(hashes) == len(others) + 1


async def test_an_unknown_approval_is_not_found(house: House):
    task, _ = await asked(house)
    for name in ("nobody", "", "1", task.id, str(task.number), "\x00", "x" * 10_000):
        with pytest.raises(NotFoundError):
            await house.approvals.decide(name, "approve", fingerprint(ACTION))
        with pytest.raises(NotFoundError):
            await house.approvals.get(name)


@pytest.mark.parametrize("scopes", [("read", "submit"), ("admin",), ("read",), ()])
async def test_only_who_has_the_scope_approve_decides(house: House, scopes: tuple[Scope, ...]):
    task, approval = await asked(house)
    for level in ("phone", "hook", "desk"):
        caller = Caller(level, "somebody", frozenset(scopes))
        with calling_as(caller), pytest.raises(ForbiddenError):
            await house.approvals.decide(approval.id, "approve", approval.hash)
    assert await status_of(house, task) == ("waiting_approval", None)


async def test_cancelling_the_task_withdraws_the_question(house: House):
    task, approval = await asked(house)
    await house.tasks.cancel(task.id)
    assert (await house.approvals.get(approval.id)).status == "withdrawn"
    with pytest.raises(ConflictError, match="was withdrawn already"):
        await house.approvals.decide(approval.id, "approve", approval.hash)
    assert await status_of(house, task) == ("cancelled", "cancelled_by_user")
    house.clock.advance(APPROVAL_SECONDS)
    assert await house.approvals.expire_due() is None
    assert await status_of(house, task) == ("cancelled", "cancelled_by_user")


async def test_an_old_answer_does_not_answer_the_same_question_asked_again(house: House):
    task, first = await asked(house)
    await house.approvals.decide(first.id, "deny", first.hash)
    again = await house.tasks.retry(task.id, asking=asking(house))
    assert again.status == "waiting_approval"
    second = await house.approvals.pending_of(again)
    assert second is not None
    assert (second.hash, second.id == first.id) == (first.hash, False)
    with pytest.raises(ConflictError):
        await house.approvals.decide(first.id, "approve", first.hash)
    assert (await house.tasks.get(task.id)).status == "waiting_approval"
    await house.approvals.decide(second.id, "approve", second.hash)
    assert (await house.tasks.get(task.id)).status == "queued"


async def test_with_its_session_a_question_is_gone(house: House):
    await house.sessions.create(id="s1")
    _, approval = await asked(house, session_id="s1")
    with pytest.raises(ConflictError):
        await house.sessions.delete("s1")
    await house.tasks.cancel("t1")
    await house.sessions.delete("s1")
    with pytest.raises(NotFoundError):
        await house.approvals.decide(approval.id, "approve", approval.hash)
    _, other = await asked(house)
    assert other.id != approval.id, "the task's id is free again, the approval's is not"


async def test_a_waiting_task_is_retried_and_requeued_without_a_second_question(house: House):
    task, approval = await asked(house)
    assert (await house.tasks.retry(task.id)).status == "waiting_approval"
    assert (await house.tasks.retry(task.id, asking=asking(house))).status == "waiting_approval"
    assert (await house.tasks.requeue(task.id, priority=9, lane="fast")).status == "waiting_approval"
    items, _ = await house.approvals.list(decided=True)
    assert items == [approval]
    await house.approvals.decide(approval.id, "approve", approval.hash)
    assert ((await claimed(house)).priority, (await house.tasks.get(task.id)).lane) == (9, "fast")


async def test_what_an_agent_asks_in_mid_run_is_granted_for_this_task_alone(house: House):
    task, _ = await house.tasks.create(new_task(), "t1")
    other, _ = await house.tasks.create(new_task(), "t2")
    push = {"agent": "echo", "tool": "Bash", "input": {"command": "git push"}, "cwd": "/c"}
    approval = await ask_again(house, await claimed(house), push)
    assert approval.about == "tool"
    await house.approvals.decide(approval.id, "approve", approval.hash)
    assert await house.approvals.granted(task) == (fingerprint(push),)
    assert await house.approvals.granted(other) == ()


async def test_a_task_may_ask_several_things_one_after_another(house: House):
    task, _ = await house.tasks.create(new_task(), "t1")
    asked: list[Approval] = []
    for number in range(3):
        asked.append(await ask_again(house, await claimed(house), {"tool": "Bash", "number": number}))
        await house.approvals.decide(asked[-1].id, "approve", asked[-1].hash)
    assert await house.approvals.granted(task) == tuple(approval.hash for approval in asked)
    for approval in asked:
        with pytest.raises(ConflictError):
            await house.approvals.decide(approval.id, "deny", approval.hash)


async def test_what_was_approved_holds_no_more_once_the_task_is_retried_by_hand(house: House):
    task, _ = await house.tasks.create(new_task(), "t1")
    approval = await ask_again(house, await claimed(house), ACTION)
    await house.approvals.decide(approval.id, "approve", approval.hash)
    soon = Ending(status="interrupted", reason="crash", result={}, retry_at=house.clock())
    await house.attempts.finish(await claimed(house), soon)
    assert await house.approvals.granted(task) == (approval.hash,), "an attempt that crashed goes on"
    await house.attempts.finish(await claimed(house), Ending(status="failed", reason="x", result={"text": ""}))
    await house.tasks.retry(task.id)
    assert await house.approvals.granted(task) == ()
    assert (await house.approvals.get(approval.id)).status == "approved", "the record stays"


async def test_a_running_task_that_is_being_cancelled_asks_nothing_more(house: House):
    await house.tasks.create(new_task(), "t1")
    running = await claimed(house)
    await house.tasks.cancel("t1")
    ending = Ending(status="interrupted", reason="asks", result={"text": ""}, pause="asks")

    async def ask(transaction: Transaction, waiting: Task, now: int) -> None:
        await house.approvals.ask(transaction, waiting, "tool", ACTION, "May it?", None, now)

    ended = await house.attempts.finish(running, ending, asks=ask)
    assert ended.status == "cancelled"
    assert await house.approvals.list(decided=True) == ([], None)


async def test_what_waits_is_listed_newest_first_in_pages(house: House):
    approvals = [(await asked(house, f"t{number}"))[1] for number in range(5)]
    await house.approvals.decide(approvals[1].id, "deny", approvals[1].hash)
    first, cursor = await house.approvals.list(limit=2)
    second, end = await house.approvals.list(limit=2, cursor=cursor)
    assert [item.task_id for item in (*first, *second)] == ["t4", "t3", "t2", "t0"]
    assert end is None
    everything, _ = await house.approvals.list(decided=True)
    assert [item.status for item in everything] == ["pending", "pending", "pending", "denied", "pending"]


HOSTILE = {"argv": ["\x00", "\ud800", "\x1b[2J", "é\u202e", "x" * 100_000], "n": [1, 1.5, None, True, {"é": []}]}


async def test_whatever_an_agent_wrote_can_be_asked_kept_and_shown(house: House):
    task, _ = await house.tasks.create(new_task(), "t1", asking(house, HOSTILE, diff="+\x00\ud800é\n"))
    approval = await house.approvals.pending_of(task)
    assert approval is not None
    assert (approval.action, approval.hash) == (HOSTILE, fingerprint(HOSTILE))
    assert approval.diff == "+␀?é\n"
    json.dumps(approval.record()).encode()
    await house.approvals.decide(approval.id, "approve", fingerprint(HOSTILE))


async def test_a_long_diff_is_cut_and_says_so(house: House):
    task, _ = await house.tasks.create(new_task(), "t1", asking(house, diff="é" * DIFF_LIMIT_BYTES))
    approval = await house.approvals.pending_of(task)
    assert approval is not None
    assert approval.diff is not None
    assert approval.diff.endswith(f"é\n[cut: {DIFF_LIMIT_BYTES} bytes more]")


async def test_what_expired_while_no_server_was_there_is_cancelled_by_the_next(
    folder: Path, clock: StillClock, new_store: Path, at_desk: None
):
    path = folder / "offhand.db"
    shutil.copy(new_store, path)
    async with open_house(path, clock) as house:
        task, first = await asked(house)
        clock.advance(APPROVAL_SECONDS / 2)
        later, _ = await asked(house, "t2")
    clock.advance(APPROVAL_SECONDS / 2)
    async with open_house(path, clock) as house:
        with pytest.raises(ConflictError):
            await house.approvals.decide(first.id, "approve", first.hash)
        assert await house.approvals.expire_due() == clock() + APPROVAL_SECONDS / 2 * 1_000_000
        assert await status_of(house, task) == ("cancelled", "expired")
        assert await status_of(house, later) == ("waiting_approval", None)
    assert broken_invariants(path) == []


async def expired_by_the_timer(house: House, task: Task) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await house.tasks.wait(task, DEADLINE_SECONDS, lambda now: now.final)
    assert await status_of(house, task) == ("cancelled", "expired")


class Looked(Approvals):
    """Tells how often it was looked whether something expires. After the look, the timer sleeps."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.looks = 0
        self.changed = asyncio.Event()

    async def expire_due(self) -> int | None:
        due = await super().expire_due()
        self.looks += 1
        self.changed.set()
        return due

    async def looked(self, times: int) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.looks < times:
                self.changed.clear()
                await self.changed.wait()


async def test_a_timer_ends_the_time_to_answer(house: House):
    """By the real clock: it sleeps until it is woken by the question, and then until the time has come."""
    approvals = Looked(house.database, house.events, 0.05, now_us)
    timer = asyncio.create_task(Expiry(approvals, house.events, now_us).run())
    await approvals.looked(1)

    async def ask(transaction: Transaction, task: Task) -> None:
        await approvals.ask(transaction, task, "task", ACTION, "May it?", None, now_us())

    task, _ = await house.tasks.create(new_task(), "t1", ask)
    await expired_by_the_timer(house, task)
    timer.cancel()


async def test_a_clock_that_was_set_ends_the_time_to_answer_too(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(expiry, "CLOCK_LOOK_SECONDS", 0.01)
    approvals = Looked(house.database, house.events, 60, house.clock)
    timer = asyncio.create_task(Expiry(approvals, house.events, house.clock).run())
    await approvals.looked(1)
    task, _ = await asked(house)
    await approvals.looked(2)
    house.clock.advance(APPROVAL_SECONDS)
    await expired_by_the_timer(house, task)
    timer.cancel()


async def test_while_nothing_waits_nobody_looks_at_the_clock(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(expiry, "CLOCK_LOOK_SECONDS", 0.0)
    approvals = Looked(house.database, house.events, 60, house.clock)
    timer = asyncio.create_task(Expiry(approvals, house.events, house.clock).run())
    await approvals.looked(1)
    for _ in range(3):
        await house.tasks.create(new_task())
    assert approvals.looks == 1
    timer.cancel()
