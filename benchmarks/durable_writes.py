"""The store alone: durable writes per second, 32 callers at once, each with a transaction of its own.

Beside one shared aiosqlite connection that commits for each caller, on a file of the same kind (WAL, FULL), with the
same statement. The event statement is the smallest that we have; storing a memory is what a tool does.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from benchmarks.figures import Figure, Series, script
from benchmarks.processes import temporary_folder
from mcp_server.callers import DESK, calling_as
from mcp_server.events import Events
from mcp_server.memories import Memories
from mcp_server.store.database import Transaction
from mcp_server.store.migrate import migrations
from mcp_server.store.queries import statements
from mcp_server.store.sqlite import open_sqlite

CALLERS = 32
VALUES = {"at": 0, "kind": "measured", "subject": "bench://1", "session_id": None, "data": "{}", "caller": None}

Write = Callable[[], Awaitable[object]]


def measure(quick: bool) -> list[Figure]:
    """Figures of the store's writer."""
    return asyncio.run(_measure(3 if quick else 7, 500 if quick else 3000))


async def _measure(rounds: int, writes: int) -> list[Figure]:
    with temporary_folder() as folder, calling_as(DESK):
        async with open_sqlite(folder / "ours.db") as database, _shared(folder / "shared.db") as shared:
            number = itertools.count()
            memories = Memories(database, Events())
            ways: list[Write] = [
                lambda: database.write(_event),
                lambda: shared.execute_fetchall(statements()["event_insert"], VALUES),
                lambda: memories.store(type="idea", content="Something to keep.", key=f"k{next(number)}"),
            ]
            rates: list[list[float]] = [[] for _ in ways]
            for _ in range(rounds):
                for way, kept in zip(ways, rates, strict=True):
                    kept.append(await _rate(way, writes))
            alone = [await _rate(ways[0], writes // 10, callers=1) for _ in range(rounds)]
    ours, theirs, stored = rates
    beside = [Series("one shared aiosqlite connection, a commit each", theirs)]
    return [
        Figure(f"durable writes, {CALLERS} callers", "/s", ours, beside=beside, larger_is_better=True),
        Figure("durable writes, 1 caller", "/s", alone, larger_is_better=True),
        Figure(f"memories stored, {CALLERS} callers", "/s", stored, beside=beside, larger_is_better=True),
    ]


async def _event(transaction: Transaction) -> None:
    await transaction.one("event_insert", **VALUES)


@asynccontextmanager
async def _shared(path: Path) -> AsyncGenerator[aiosqlite.Connection]:
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        for setting in ("journal_mode = WAL", "synchronous = FULL"):
            await connection.execute_fetchall(f"PRAGMA {setting}")
        await connection.executescript(migrations()[0].text)
        yield connection


async def _rate(write: Write, writes: int, callers: int = CALLERS) -> float:
    left = itertools.count(1)

    async def caller() -> None:
        while next(left) <= writes:
            await write()

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return writes / (time.perf_counter() - begin)


if __name__ == "__main__":
    script(measure)
