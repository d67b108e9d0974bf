"""Claiming the next task with a million in the store: half of them scheduled, some agents full, long lanes. In process.

Each claim is a commit of its own. Beside the same in a store of 10,000 tasks: a ratio of one says that nothing is
counted or walked over. The store is filled by the tasks' own statement, without events and index entries, which no
claim reads.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Goal, Series, alternate, script, timed
from benchmarks.processes import temporary_folder
from mcp_server.attempts import Attempts
from mcp_server.callers import DESK
from mcp_server.clock import MICROSECONDS, now_us
from mcp_server.events import Events
from mcp_server.store.queries import statements
from mcp_server.store.sqlite import open_sqlite
from mcp_server.tasks import NewTask

FEW = 10_000
TOGETHER = 10_000
CLAIM_GOALS = (Goal("median", 5),)
READ_GOALS = (Goal("p95", 20),)
COUNT = "count what waits, as list_agents does"
FULL = ("claude_code", "codex", "gemini")
ROOMY = ("git", "shell")
LANED = "in one lane"
TALKING = "in one conversation"
IDLE = "has nothing to do"
DAY = 86_400 * MICROSECONDS
CALLER = json.dumps(DESK.record())

Work = Callable[[Attempts], Coroutine[Any, Any, object]]


def measure(quick: bool) -> list[Figure]:
    """Figures of the claim."""
    count, rounds = (20_000, 10) if quick else (1_000_000, 300)
    with asyncio.Runner() as runner, temporary_folder() as folder:
        stack = AsyncExitStack()
        try:
            few, many = (runner.run(_filled(stack, folder / f"{size}.db", size)) for size in (FEW, count))
            return [_figure(runner, rounds, name, work, few, many) for name, work in _cases(count)]
        finally:
            runner.run(stack.aclose())


def _cases(count: int) -> Iterator[tuple[str, Work]]:
    size = f"{count:,} tasks"
    yield f"claim, {size}, half scheduled, all have room", _claim(*FULL, *ROOMY)
    yield f"claim, {size}, half scheduled, three of five full", _claim(*ROOMY)
    yield f"claim, {size}, who has room has nothing to do", _claim(IDLE, finds=False)
    yield f"claim, {size}, {_laned(count):,} wait in a busy lane", _claim(LANED, finds=False)
    yield f"claim, {size}, {_talking(count):,} wait in a conversation", _claim(TALKING, finds=False)
    yield f"look for what is due, {size}, none is", lambda attempts: attempts.promote_due(ROOMY)
    yield f"{COUNT}, {size}", Attempts.counts


def _claim(*agents: str, finds: bool = True) -> Work:
    async def work(attempts: Attempts) -> None:
        task = await attempts.claim(agents)
        if (task is not None) != finds:
            raise RuntimeError(f"claimed for {agents}: {task}")

    return work


def _laned(count: int) -> int:
    return count // 10


def _talking(count: int) -> int:
    return count // 500


def _figure(runner: asyncio.Runner, rounds: int, name: str, work: Work, few: Attempts, many: Attempts) -> Figure:
    ours, small = alternate(
        rounds, timed(lambda: runner.run(work(many))), timed(lambda: runner.run(work(few))), warm_up=3
    )
    goals = READ_GOALS if name.startswith(COUNT) else CLAIM_GOALS
    return Figure(name, "ms", ours, goals, [Series(f"the same, {FEW:,} tasks", small)])


async def _filled(stack: AsyncExitStack, path: Path, count: int) -> Attempts:
    async with open_sqlite(path):
        pass  # has made the tables
    begin = time.monotonic()
    _fill(path, count)
    print(f"filled with {count:,} tasks in {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return Attempts(await stack.enter_async_context(open_sqlite(path)), Events())


def _fill(path: Path, count: int) -> None:
    insert = statements()["task_insert"].partition("RETURNING")[0]
    rows = _rows(count)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        while some := list(islice(rows, TOGETHER)):
            connection.execute("BEGIN")
            connection.executemany(insert, some)
            connection.execute("COMMIT")


def _rows(count: int) -> Iterator[dict[str, Any]]:
    laned, talking = _laned(count), _talking(count)
    for number in range(laned):
        yield _row(f"lane-{number}", LANED, "running" if number == 0 else "queued", lane="deploy")
    for number in range(2 * talking):  # as many answered before as wait now
        status = "completed" if number < talking else "running" if number == talking else "queued"
        yield _row(f"talk-{number}", TALKING, status, conversation="talk")
    tomorrow = now_us() + DAY
    for number in range(count - laned - 2 * talking):
        agent = (*FULL, *ROOMY)[number // 2 % 5]
        if number % 2:
            yield _row(f"t{number}", agent, "scheduled", run_after=tomorrow + number)
        else:
            yield _row(f"t{number}", agent, "queued", priority=number // 10 % 3)


def _row(name: str, agent: str, status: str, conversation: str | None = None, **more: Any) -> dict[str, Any]:
    new = new_task(agent, conversation_id=conversation or name, parent_id=conversation, **more)
    return asdict(new) | {"id": name, "status": status, "caller": CALLER, "now": now_us()}


def new_task(agent: str, **more: Any) -> NewTask:
    """A task as short as they come."""
    return NewTask(
        request="{}",
        agent=agent,
        description="Something to do.",
        params="{}",
        workspace="bench",
        cwd="/",
        timeout_seconds=60,
        max_attempts=3,
        **more,
    )


if __name__ == "__main__":
    script(measure)
