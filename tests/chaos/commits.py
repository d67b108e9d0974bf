"""Kills a server before and after each of its commits, and looks at what the next one makes of it.

    python -m tests.chaos.commits [STRIDE]      every commit, or some; prints what was found, as JSON

Each round forks a server (a runtime without doors) that lives through one small day and dies at its n-th commit; its
supervisors go on. The parent's next server must bring everything that was acknowledged to its end, each program once.
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
import tempfile
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcp_server.callers import DESK, calling_as
from mcp_server.delegation import Order
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import Settings
from mcp_server.tasks import Task
from tests.chaos.faulty_disk import Commits, Fault, connect_through
from tests.store.invariants import broken_invariants

DEADLINE_SECONDS = 30.0
SHELL = {
    "done": "echo done >> runs; echo hello",
    "fails": "echo fails >> runs; exit 3",
    "stopped": "echo stopped >> runs; sleep 1000",
    "slow": "echo slow >> runs; for i in 1 2 3 4 5 6; do echo $i; sleep 0.02; done",
}
EXPECTED = {
    "done": ("completed", "hello\n"),
    "fails": ("failed", ""),
    "stopped": ("cancelled", ""),
    "slow": ("completed", "1\n2\n3\n4\n5\n6\n"),
}


def settings_of(folder: Path) -> Settings:
    return Settings(home=folder / "home", workspaces={"work": folder / "work"}, port=0)


async def one_day(folder: Path, said: int) -> None:
    """Four tasks, one of them cancelled. What is acknowledged is said."""
    with calling_as(DESK):
        async with open_runtime(settings_of(folder)) as runtime:
            for name in SHELL:
                await delegate(runtime, name)
                os.write(said, f"{name}\n".encode())
            await until(runtime, "stopped", "running")
            await runtime.tasks.cancel("stopped")
            os.write(said, b"cancel\n")
            for name in SHELL:
                await until(runtime, name, "completed", "failed", "cancelled")


async def delegate(runtime: Runtime, name: str) -> None:
    params = {"command": ["sh", "-c", SHELL[name]]}
    await runtime.delegation.delegate(Order(agent="shell", params=params, task_id=name))


async def until(runtime: Runtime, name: str, *statuses: str) -> Task:
    task = await runtime.tasks.wait(
        await runtime.tasks.get(name), DEADLINE_SECONDS, lambda now: now.final or now.status in statuses
    )
    assert task.status in statuses or task.final, f"{name} is {task.status}"
    return task


async def the_day_after(folder: Path, promised: set[str]) -> list[str]:
    """What the next server makes of it."""
    wrong: list[str] = []
    with calling_as(DESK):
        async with open_runtime(settings_of(folder)) as runtime:
            tasks, _ = await runtime.tasks.list(limit=100)
            names = {task.id for task in tasks}
            wrong += [f"{name} was acknowledged and is lost" for name in promised - names - {"cancel"}]
            if "stopped" in names and "cancel" not in promised:
                await runtime.tasks.cancel("stopped")
            for name in sorted(names):
                task = await until(runtime, name, "completed", "failed", "cancelled")
                wrong += await _look_at(runtime, task)
            still = runtime.worker.supervisor_pids()
            if still:
                wrong.append(f"supervisors are alive: {still}")
    wrong += broken_invariants(folder / "home" / "offhand.db")
    runs = folder / "work" / "runs"
    for name, times in Counter(runs.read_text().split() if runs.exists() else ()).items():
        if times > 1:
            wrong.append(f"{name} ran {times} times")
    left = [path.name for path in (folder / "home" / "attempts").iterdir() if path.suffix != ".pyc"]
    return wrong + ([f"left on the disk: {left}"] if left else [])


async def _look_at(runtime: Runtime, task: Task) -> list[str]:
    status, stdout = EXPECTED[task.id]
    kept = (await runtime.worker.attempts.read_output(task, "stdout", 0, 10_000)).decode()
    if (task.status, kept) == (status, stdout) and task.attempt <= 1:
        return []
    if task.id == "stopped" and task.status == "cancelled" and task.attempt == 0:
        return []
    return [f"{task.id} is {task.status} ({task.reason}) in attempt {task.attempt}, with {kept!r}"]


def play(folder: Path, fault: Fault, at: int) -> tuple[int, int, set[str]]:
    """A server that dies at commit `at`. Returns how it ended, its commits if it lived, and what it acknowledged."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "work").mkdir(parents=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 70
        try:
            commits = Commits(fault, at)
            sqlite3.connect = connect_through(commits)  # type: ignore[assignment]
            asyncio.run(one_day(folder, writing))
            os.write(writing, f"{commits.count}\n".encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(writing)
    with open(reading, encoding="utf-8") as told:
        said = told.read().split()
    status = os.waitpid(child, 0)[1]
    count = next((int(word) for word in said if word.isdigit()), 0)
    return status, count, {word for word in said if not word.isdigit()}


def one_round(folder: Path, fault: Fault, at: int) -> list[str]:
    status, _, promised = play(folder, fault, at)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        return [] if status == 0 else [f"the server ended with {status}"]  # a day with fewer commits than the first
    try:
        return asyncio.run(the_day_after(folder, promised))
    except Exception as error:
        return [repr(error)]
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)


def kill_at_commits(folder: Path, stride: int) -> dict[str, Any]:
    """Of all rounds, every `stride`-th."""
    status, commits, promised = play(folder / "first", "killed_before", 0)
    failures: list[str] = [] if status == 0 else [f"the day cannot be lived: {status}"]
    faults: tuple[Fault, ...] = ("killed_before", "killed_after")
    rounds = [(fault, at) for at in range(1, commits + 1) for fault in faults][::stride]
    jobs: list[Any] = [(folder / f"{fault}-{at}", fault, at) for fault, at in rounds]
    with multiprocessing.get_context("fork").Pool(os.cpu_count() or 1) as pool:
        for (_, fault, at), wrong in zip(jobs, pool.starmap(one_round, jobs, chunksize=1), strict=True):
            failures += [f"{fault} commit {at}: {each}" for each in wrong]
    return {"commits": commits, "promised": sorted(promised), "rounds": len(jobs), "failures": failures}


def main() -> int:
    stride = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        found = kill_at_commits(Path(folder), stride)
    print(json.dumps(found))
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
