"""Tasks per second that do nothing, each durable: its request, its claim and its end are on disk, a commit apart.

Through a server: delegated over one connection, each run by a supervisor of its own, so many at once; beside the same
program by subprocess, as many at once. Then without processes, in this process: claim and end, as the worker does it.
Beside a bare table: one connection that claims and ends by an UPDATE and a commit each.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from benchmarks.claim import new_task
from benchmarks.figures import Figure, Series, alternate, script
from benchmarks.processes import WORKSPACE, serving, temporary_folder
from benchmarks.wire import Conversation, over_socket
from mcp_server.attempts import Attempts, Ending
from mcp_server.callers import DESK, calling_as
from mcp_server.events import Events
from mcp_server.settings import SETTINGS_FILE
from mcp_server.store.sqlite import open_sqlite
from mcp_server.tasks import Task, Tasks

NOTHING = ["true"]
WIDTHS = (4, 16)
"""How many at once: by default, and where the user allows more."""

ENDS_AT_ONCE = 32
DONE = Ending("completed", None, {"text": "Done.", "say": "Done."}, returncode=0)
CLAIM = "UPDATE job SET status = 'running' WHERE id = (SELECT min(id) FROM job WHERE status = 'queued') RETURNING id"


def measure(quick: bool) -> list[Figure]:
    """Figures of the throughput."""
    rounds, tasks = (1, 20) if quick else (5, 200)
    figures = [_through_server(width, rounds, tasks) for width in WIDTHS]
    return [*figures, asyncio.run(_engine(rounds, tasks * 10))]


def _through_server(width: int, rounds: int, tasks: int) -> Figure:
    with temporary_folder() as home, temporary_folder() as place, ThreadPoolExecutor(width) as threads:
        (home / SETTINGS_FILE).write_text(f"limit = {width}\n")
        with serving(home, place) as server, over_socket(server.mcp_socket) as client:
            ours, bare = alternate(
                rounds, _rate(tasks, lambda: _delegated(client, tasks)), _rate(tasks, lambda: _run(threads, tasks))
            )
    beside = [Series(f"subprocess.run, {width} at once", bare)]
    return Figure(f"tasks that do nothing, {width} at once", "/s", ours, beside=beside, larger_is_better=True)


def _rate(tasks: int, work: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        begin = time.perf_counter()
        work()
        return tasks / (time.perf_counter() - begin)

    return measure


def _delegated(client: Conversation, tasks: int) -> None:
    numbers = [
        client.call("delegate_task", agent="shell", params={"command": NOTHING}, workspace=WORKSPACE, wait=0)["number"]
        for _ in range(tasks)
    ]
    for number in numbers:
        while (task := client.call("get_task", task_id=number, wait=30))["status"] in ("queued", "running"):
            pass
        if task["status"] != "completed":
            raise RuntimeError(str(task))


def _run(threads: ThreadPoolExecutor, tasks: int) -> None:
    list(threads.map(lambda _: subprocess.run(NOTHING, check=True, capture_output=True), range(tasks)))


async def _engine(rounds: int, tasks: int) -> Figure:
    with temporary_folder() as folder, calling_as(DESK):
        async with open_sqlite(folder / "ours.db") as database:
            events = Events()
            waiting, attempts = Tasks(database, events), Attempts(database, events)
            ours: list[float] = []
            bare: list[float] = []
            for _ in range(rounds):
                async with asyncio.TaskGroup() as group:
                    for _ in range(tasks):
                        group.create_task(waiting.create(new_task("echo")))
                begin = time.perf_counter()
                await _work_off(attempts, tasks)
                ours.append(tasks / (time.perf_counter() - begin))
                bare.append(await asyncio.to_thread(_bare_rate, folder / "bare.db", tasks))
    beside = [Series("one connection, a table of jobs", bare)]
    return Figure("claims and ends, without processes", "/s", ours, beside=beside, larger_is_better=True)


async def _work_off(attempts: Attempts, tasks: int) -> None:
    """One claim after another, as the worker has it; ends come together."""
    room = asyncio.Semaphore(ENDS_AT_ONCE)

    async def end(task: Task) -> None:
        await attempts.finish(task, DONE)
        room.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            await room.acquire()
            task = await attempts.claim(("echo",))
            assert task is not None
            group.create_task(end(task))


def _bare_rate(path: Path, tasks: int) -> float:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS job (id INTEGER PRIMARY KEY, status TEXT NOT NULL)")
        connection.execute("CREATE INDEX IF NOT EXISTS queued ON job (id) WHERE status = 'queued'")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO job (status) VALUES ('queued')", [()] * tasks)
        connection.execute("COMMIT")
        begin = time.perf_counter()
        for _ in range(tasks):
            (job,) = connection.execute(CLAIM).fetchone()
            connection.execute("UPDATE job SET status = 'completed' WHERE id = ?", (job,))
        return tasks / (time.perf_counter() - begin)


if __name__ == "__main__":
    script(measure)
