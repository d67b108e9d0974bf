"""Kills a writer between any two statements, and looks at what is left. Run by test_sqlite.py as its own process.

Each round forks a child that takes the tour on a store of its own and is killed, with SIGKILL, as its
writer begins its n-th statement. Forking one warm process takes milliseconds where a new interpreter
would take a tenth of a second, so that every single statement can have its round.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_server.callers import DESK, calling_as
from tests.store.house import open_house
from tests.store.invariants import broken_invariants
from tests.store.tour import CHAPTERS, Chapter, tour

ACKNOWLEDGED = {
    "session s1": "SELECT 1 FROM session WHERE id = 's1'",
    "chunk c1": "SELECT 1 FROM chunk WHERE id = 'c1'",
    "version 1": "SELECT 1 FROM memory WHERE id = 'm1' AND version >= 1",
    "version 2": "SELECT 1 FROM memory WHERE id = 'm1' AND version >= 2",
    "version 3": "SELECT 1 FROM memory WHERE id = 'm1' AND version >= 3",
    "artifact a1": "SELECT 1 FROM artifact WHERE id = 'a1'",
    "title": "SELECT 1 FROM session WHERE title = 'Carbon tracking'",
    "task t1": "SELECT 1 FROM task WHERE id = 't1'",
    "queued t1": "SELECT 1 FROM event WHERE subject = 'task://t1' AND kind = 'task.queued'",
    "output t1": "SELECT 1 WHERE (SELECT sum(length(data)) FROM output) = 9",
    "scheduled t1": "SELECT 1 FROM attempt WHERE status = 'interrupted'",
    "completed t1": "SELECT 1 FROM task WHERE id = 't1' AND status = 'completed'",
    "queued t2": "SELECT 1 WHERE (SELECT count(*) FROM event WHERE subject = 'task://t2') >= 3",
    "cancelled t2": "SELECT 1 FROM event WHERE subject = 'task://t2' AND kind = 'task.cancelled'",
    "asked p1": "SELECT 1 FROM approval JOIN task ON number = task_number WHERE task.id = 'p1'",
    "approved p1": "SELECT 1 FROM event WHERE kind = 'approval.decided' AND data ->> 'status' = 'approved'",
    "denied p2": "SELECT 1 FROM event WHERE subject = 'task://p2' AND data ->> 'reason' = 'denied'",
    "withdrawn p3": "SELECT 1 FROM approval WHERE status = 'withdrawn'",
    "expired p4": "SELECT 1 FROM task WHERE id = 'p4' AND reason = 'expired'",
    "asked again": "SELECT 1 WHERE (SELECT count(*) FROM approval) = 6",
    "key phone": "SELECT 1 FROM api_key WHERE name = 'phone'",
    "revoked phone": "SELECT 1 FROM api_key WHERE revoked_at IS NOT NULL",
    "delivery d-1": "SELECT 1 FROM delivery WHERE status = 200",
    "group": "SELECT 1 WHERE (SELECT count(*) FROM chunk WHERE session_id = 's2') = 3",
    "no memory m9": "SELECT 1 FROM event WHERE kind = 'memory.deleted'",
    "no artifact a9": "SELECT 1 FROM event WHERE kind = 'artifact.deleted'",
    "no session s1": "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM session WHERE id = 's1')",
}
"""How the file shows that an acknowledged write is there."""

CHANGING = ("COMMIT", "INSERT", "UPDATE", "DELETE", "CREATE", "PRAGMA application_id =", "PRAGMA journal_mode")
"""Between two of these lies every state that a file can be left in: nothing else changes it."""

ANSWER_SECONDS = 0.005
"""Before a kill at a commit: whoever is told too early has the time to say so."""

GONE_WITH_SESSION = {"session s1", "chunk c1", "version 1", "version 2", "version 3", "artifact a1", "title", "task t1"}
GONE_WITH_SESSION |= {"output t1", "scheduled t1", "completed t1"}


@dataclass(frozen=True, slots=True)
class Report:
    """What came of some chapters: how many statements they have, what they promise, and what went wrong."""

    statements: int
    promises: list[str]
    failures: list[str]


class StatementCounter:
    """Counts what the writing connection runs, and ends the process at statement `deadly`."""

    def __init__(self, deadly: int) -> None:
        self.count = 0
        self._deadly = deadly

    def __call__(self, statement: str) -> None:
        if not statement.lstrip().startswith(CHANGING):
            return
        self.count += 1
        if self.count == self._deadly:
            if statement.startswith("COMMIT"):
                time.sleep(ANSWER_SECONDS)
            os.kill(os.getpid(), signal.SIGKILL)


def watch_writer(counter: StatementCounter) -> None:
    """Let `counter` hear of every statement of connections that may write."""
    connect = sqlite3.connect

    def watched(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        if not options.get("uri"):
            connection.set_trace_callback(counter)
        return connection

    sqlite3.connect = watched  # type: ignore[assignment]


def play(path: Path, chapters: Sequence[Chapter], deadly: int) -> tuple[int, list[str]]:
    """Play in a child that dies at statement `deadly`. Returns how it ended, and what it was promised."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 70
        try:
            counter = StatementCounter(deadly)
            watch_writer(counter)
            asyncio.run(_live(path, chapters, writing))
            os.write(writing, f"{counter.count}\n".encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(writing)
    with open(reading, encoding="utf-8") as told:
        promised = told.read().splitlines()
    return os.waitpid(child, 0)[1], promised


async def _live(path: Path, chapters: Sequence[Chapter], writing: int) -> None:
    with calling_as(DESK):
        async with open_house(path) as house:
            await tour(house, lambda name: os.write(writing, f"{name}\n".encode()) and None, chapters)


async def _works_again(path: Path) -> None:
    with calling_as(DESK):
        async with open_house(path) as house:
            await house.sessions.create(title="After the crash")


def broken_promises(path: Path, promised: list[str]) -> list[str]:
    """What was acknowledged and is not in the file."""
    connection = sqlite3.connect(path)
    try:
        gone = connection.execute("SELECT 1 FROM event WHERE kind = 'session.deleted'").fetchone() is not None
        return [
            f"acknowledged, then lost: {name}"
            for name in promised
            if not (gone and name in GONE_WITH_SESSION) and not connection.execute(ACKNOWLEDGED[name]).fetchone()
        ]
    finally:
        connection.close()


def kill_everywhere(folder: Path, template: Path | None, chapters: Sequence[Chapter], label: str) -> Report:
    """Kill at every statement of `chapters`. Without a template the store is made anew, migrations and all."""

    def fresh(number: int) -> Path:
        path = folder / f"{number}.db"
        if template is not None:
            shutil.copy(template, path)
        return path

    status, promised = play(fresh(0), chapters, 0)
    if status != 0:
        return Report(0, [], [f"{label} cannot be played"])
    report = Report(int(promised.pop()), promised, [])
    for deadly in range(1, report.statements + 1):
        path = fresh(deadly)
        wrong = _one_round(path, chapters, deadly)
        report.failures.extend(f"{label}, killed at statement {deadly}: {each}" for each in wrong)
        for file in folder.glob(f"{deadly}.db*"):
            file.unlink()
    return report


def _one_round(path: Path, chapters: Sequence[Chapter], deadly: int) -> list[str]:
    status, promised = play(path, chapters, deadly)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        return [f"the child ended with {status}"]
    try:
        # SQLite itself recovers the file for the checks; now and then the product does, and goes on with it.
        if deadly % 4 == 0 or not chapters:
            asyncio.run(_works_again(path))
        return [*broken_invariants(path), *broken_promises(path, promised)]
    except Exception as error:
        return [repr(error)]


def main() -> None:
    """`python -m tests.store.crash FOLDER`: prints what was found, as JSON."""
    folder = Path(sys.argv[1])
    jobs: list[tuple[Path, Path | None, Sequence[Chapter], str]] = [(folder / "new", None, (), "a new store")]
    filled = folder / "filled"
    asyncio.run(_works_again(filled))
    for chapter in CHAPTERS:
        name = chapter.__name__
        jobs.append((folder / name, shutil.copy(filled, folder / f"before{name}"), [chapter], name))
        play(filled, [chapter], 0)  # what the next chapter needs
    for job in jobs:
        job[0].mkdir()
    with multiprocessing.get_context("fork").Pool(min(len(jobs), os.cpu_count() or 1)) as pool:
        reports = pool.starmap(kill_everywhere, jobs, chunksize=1)
    print(
        json.dumps(
            {
                "statements": [report.statements for report in reports],
                "promises": [name for report in reports for name in report.promises],
                "failures": [failure for report in reports for failure in report.failures],
            }
        )
    )


if __name__ == "__main__":
    main()
