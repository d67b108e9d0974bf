"""What is too old goes, in small steps, and nothing else does."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mcp_server import retention as module
from mcp_server.attempts import Ending
from mcp_server.callers import DESK, calling_as
from mcp_server.retention import Retention
from mcp_server.settings import RetentionSettings
from mcp_server.store.database import Transaction
from mcp_server.tasks import Task
from tests.hosting import hosted
from tests.store.house import House, new_task, open_house
from tests.store.tour import DONE

DAY_SECONDS = 86400
MIB = 1024 * 1024


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[House]:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0)
    with calling_as(DESK):
        async with hosted(open_house(tmp_path / "offhand.db")) as opened:
            yield opened


def kept(house: House, table: str) -> int:
    connection = sqlite3.connect(house.path)
    (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    connection.close()
    return count


def sweeper(house: House, clones: Path | None = None, **days: int) -> Retention:
    forever = dict.fromkeys(RetentionSettings.model_fields, 0)
    return Retention(house.database, RetentionSettings(**forever | days), house.clock, clones)


async def finished_task(house: House, id: str, output: bytes = b"x" * 100) -> Task:
    """A task that was tried twice."""
    await house.tasks.create(new_task("work"), id=id)
    first = await house.attempts.claim(["echo"])
    assert first is not None
    await house.attempts.append_output(first, [("stdout", 0, output)])
    again = Ending(status="interrupted", reason="crash", result={}, retry_at=house.clock())
    await house.attempts.finish(first, again)
    second = await house.attempts.claim(["echo"])
    assert second is not None
    await house.attempts.append_output(second, [("stdout", 0, output), ("stderr", 0, b"oh")])
    return await house.attempts.finish(second, DONE)


async def test_events_go_when_they_are_too_old(house: House):
    await house.sessions.create(id="old")
    house.clock.advance(10 * DAY_SECONDS)
    await house.sessions.create(id="new")
    before = kept(house, "event")
    gone = await sweeper(house, events_days=9).sweep()
    assert gone["events"] == before - 1 == kept(house, "event")
    assert [event["id"] for event in (await house.sessions.list())[0]] == ["new", "old"]


async def test_nothing_goes_before_its_time_or_where_the_retention_is_for_ever(house: House):
    await finished_task(house, "t")
    house.clock.advance(9 * DAY_SECONDS)
    counts = {table: kept(house, table) for table in ("event", "output", "attempt")}
    tens = {"events_days": 10, "output_days": 10, "attempts_days": 10, "deliveries_days": 10}
    assert not any((await sweeper(house, **tens).sweep()).values())
    house.clock.advance(1000 * DAY_SECONDS)
    assert not any((await sweeper(house).sweep()).values())
    assert counts == {table: kept(house, table) for table in counts}


async def test_the_output_of_finished_tasks_goes_and_their_results_stay(house: House):
    old = await finished_task(house, "old")
    house.clock.advance(10 * DAY_SECONDS)
    new = await finished_task(house, "new")
    await sweeper(house, output_days=5).sweep()
    assert await house.attempts.read_output(old, "stdout", 0, 1000) == b""
    assert await house.attempts.read_output(new, "stdout", 0, 1000) == b"x" * 100
    assert (await house.tasks.get("old")).result == DONE.result
    assert kept(house, "attempt") == 4


async def test_the_last_attempt_of_a_task_stays(house: House):
    task = await finished_task(house, "t")
    house.clock.advance(10 * DAY_SECONDS)
    gone = await sweeper(house, attempts_days=5).sweep()
    assert gone["attempts"] == 1
    assert [each["attempt"] for each in await house.tasks.attempts(task)] == [2]


async def test_what_is_not_finished_is_never_touched(house: House):
    await house.tasks.create(new_task("work"), id="t")
    running = await house.attempts.claim(["echo"])
    assert running is not None
    await house.attempts.append_output(running, [("stdout", 0, b"here")])
    house.clock.advance(10_000 * DAY_SECONDS)
    await sweeper(house, output_days=1, attempts_days=1).sweep()
    assert await house.attempts.read_output(running, "stdout", 0, 1000) == b"here"


async def test_a_task_that_is_tried_again_keeps_its_output(house: House):
    await house.tasks.create(new_task("work"), id="t")
    first = await house.attempts.claim(["echo"])
    assert first is not None
    await house.attempts.append_output(first, [("stdout", 0, b"here")])
    await house.tasks.cancel("t")
    await house.attempts.finish(first, Ending(status="cancelled", reason="cancelled", result={}))
    house.clock.advance(10 * DAY_SECONDS)
    await house.tasks.retry("t")
    await sweeper(house, output_days=1, attempts_days=1).sweep()
    assert await house.attempts.read_output(first, "stdout", 0, 1000) == b"here"


async def test_deliveries_are_forgotten_after_their_retention(house: House):
    await house.deliveries.begin("key_1", "d-1", "f")
    await house.deliveries.end("key_1", "d-1", 200, {})
    house.clock.advance(10 * DAY_SECONDS)
    await sweeper(house, deliveries_days=10).sweep()
    assert (await house.deliveries.begin("key_1", "d-1", "f")).state == "answered"
    house.clock.advance(1)
    await sweeper(house, deliveries_days=10).sweep()
    assert (await house.deliveries.begin("key_1", "d-1", "f")).state == "new"


async def test_the_file_shrinks_and_whoever_writes_meanwhile_hardly_waits(house: House):
    for number in range(4):
        await finished_task(house, f"t{number}", b"y" * 4 * MIB)
    size = pages(house)
    house.clock.advance(10 * DAY_SECONDS)
    waits: list[float] = []

    async def write_on() -> None:
        while True:
            begin = time.perf_counter()
            await house.memories.store(type="fact", content="here", key="k")
            waits.append(time.perf_counter() - begin)

    writing = asyncio.create_task(write_on())
    gone = await sweeper(house, output_days=1).sweep()
    writing.cancel()
    assert gone["output"] > 0
    assert len(waits) > 20, "the sweep left no room for others"
    assert pages(house) < size / 4


def pages(house: House) -> int:
    connection = sqlite3.connect(house.path)
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    connection.close()
    return count


def make_clone(clones: Path, name: str) -> Path:
    """A clone as an agent may leave it: with folders that nobody may write to, and links."""
    folder = clones / name
    deep = folder / "work" / "cache"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (folder / "work" / "elsewhere").symlink_to(clones.parent)
    deep.chmod(0o500)
    return folder


async def test_a_clone_goes_when_nobody_used_its_conversation_for_long(house: House, tmp_path: Path):
    clones = tmp_path / "clones"
    old = await finished_task(house, "old")
    used = await finished_task(house, "used")
    followed = await finished_task(house, "followed")
    waiting = await finished_task(house, "waiting")
    folders = {task.id: make_clone(clones, str(task.number)) for task in (old, used, followed, waiting)}
    follow_up = new_task("and then?", parent_id="waiting", conversation_id="waiting")
    await house.tasks.create(follow_up, id="follow-up")
    house.clock.advance(10 * DAY_SECONDS)
    later = new_task("and then?", parent_id="followed", conversation_id="followed")
    await house.tasks.create(later, id="later")
    await house.tasks.cancel("later")
    house.clock.advance(5 * DAY_SECONDS)
    retried = await house.tasks.get("used")
    await house.tasks.create(new_task("again", parent_id="used", conversation_id=retried.id))

    gone = await sweeper(house, clones, clones_days=14).sweep()

    assert gone["clones"] == 1
    assert {name for name, folder in folders.items() if folder.exists()} == {"used", "followed", "waiting"}
    assert tmp_path.exists()
    assert (tmp_path / "offhand.db").exists(), "links are not followed"


async def test_a_clone_whose_task_was_deleted_goes_at_once_and_what_is_not_ours_stays(house: House, tmp_path: Path):
    clones = tmp_path / "clones"
    orphan = make_clone(clones, "4711")
    half_deleted = make_clone(clones, "12.going")
    other = make_clone(clones, "not-a-number")
    (clones / "note").write_text("x")
    (clones / "99").symlink_to(tmp_path)
    gone = await sweeper(house, clones).sweep()
    assert gone["clones"] == 2
    assert (orphan.exists(), half_deleted.exists(), other.exists()) == (False, False, True)
    assert (tmp_path / "offhand.db").exists()


async def test_without_an_age_a_clone_stays_with_its_conversation(house: House, tmp_path: Path):
    task = await finished_task(house, "old")
    folder = make_clone(tmp_path / "clones", str(task.number))
    house.clock.advance(1000 * DAY_SECONDS)
    assert (await sweeper(house, tmp_path / "clones").sweep())["clones"] == 0
    assert folder.exists()


async def test_what_was_asked_goes_with_the_events_but_not_while_its_task_goes_on(house: House):
    async def asked(id: str) -> Task:
        async def asking(transaction: Transaction, task: Task) -> None:
            await house.approvals.ask(transaction, task, "task", {"task": id}, "May I?", None, house.clock())

        task, _ = await house.tasks.create(new_task(id), id=id, asking=asking)
        return task

    for id in ("denied", "pending"):
        await asked(id)
    denied = await house.approvals.pending_of(await house.tasks.get("denied"))
    assert denied is not None
    await house.approvals.decide(denied.id, "deny", denied.hash)
    house.clock.advance(300 * DAY_SECONDS)
    assert (await sweeper(house, events_days=365).sweep())["approvals"] == 0
    house.clock.advance(100 * DAY_SECONDS)
    assert (await sweeper(house, events_days=365).sweep())["approvals"] == 1
    assert await house.approvals.pending_of(await house.tasks.get("pending")) is not None
