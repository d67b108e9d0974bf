"""A server whose disk or whose helpers fail at a chosen moment: nothing acknowledged is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_server.callers import DESK, calling_as
from mcp_server.delegation import Order
from mcp_server.errors import StoreFullError
from mcp_server.executor import attempt as attempt_module
from mcp_server.executor import worker as worker_module
from mcp_server.executor.attempt_folder import AttemptFolder
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import Settings
from mcp_server.tasks import Task
from tests.chaos.commits import EXPECTED, SHELL, delegate, until
from tests.chaos.faulty_disk import Commits, Fault, connect_through
from tests.chaos.faulty_supervisor import dies_in_its_first_sweep
from tests.executor.conftest import gate, place, settings
from tests.server.doors import served_in_memory
from tests.server.gate import Gate
from tests.server.processes import Place

__all__ = ["gate", "place", "settings"]

REPOSITORY = Path(__file__).parents[2]
DAY_SECONDS = 60.0
FULL_AT = (1, 2, 4, 7, 11, 16)
"""Commits of a day, counted from the opened store on."""

Disk = Callable[[Fault], Commits]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The store of this test commits through what this returns."""

    def made(fault: Fault) -> Commits:
        commits = Commits(fault)
        monkeypatch.setattr(sqlite3, "connect", connect_through(commits))
        return commits

    return made


def killed_at_commits(stride: int) -> dict[str, Any]:
    """See commits.py."""
    command = [sys.executable, "-m", "tests.chaos.commits", str(stride)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_server_that_is_killed_before_or_after_a_commit_loses_nothing_and_runs_nothing_twice():
    """Some of the commits of a day; `make chaos` takes them all."""
    found = killed_at_commits(7)
    assert found["failures"] == []
    assert found["commits"] > 15
    assert set(found["promised"]) == {*SHELL, "cancel"}


async def again_until_there_is_room(act: Callable[[], Any]) -> Any:
    """As a user does who is told that the disk is full."""
    async with asyncio.timeout(DAY_SECONDS):
        while True:
            try:
                return await act()
            except StoreFullError:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("at", FULL_AT)
async def test_a_disk_that_is_full_for_some_commits_delays_and_loses_nothing(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch, disk: Disk, at: int
):
    monkeypatch.setattr(attempt_module, "FINISH_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(worker_module, "TROUBLE_SECONDS", 0.02)
    commits = disk("no_space")
    with calling_as(DESK):
        async with open_runtime(settings) as runtime:
            commits.at = commits.count + at
            for name in SHELL:
                await again_until_there_is_room(lambda name=name: delegate(runtime, name))
            await until(runtime, "stopped", "running")
            await again_until_there_is_room(lambda: runtime.tasks.cancel("stopped"))
            ended = {name: await until(runtime, name, "completed", "failed", "cancelled") for name in SHELL}
            kept = {name: await stdout(runtime, task) for name, task in ended.items()}

    assert commits.count > commits.at
    assert {name: (task.status, kept[name]) for name, task in ended.items()} == EXPECTED
    ran = Counter((place.workspace / "runs").read_text().split())
    del ran["stopped"]  # it may have been cancelled before it came to its first word
    assert ran == Counter(dict.fromkeys(SHELL.keys() - {"stopped"}, 1))


async def stdout(runtime: Runtime, task: Task) -> str:
    return (await runtime.worker.attempts.read_output(task, "stdout", 0, 10_000)).decode()


async def test_while_the_disk_hangs_nothing_is_acknowledged_and_reading_goes_on(settings: Settings, disk: Disk):
    commits = disk("hangs")
    with calling_as(DESK):
        async with open_runtime(settings) as runtime:
            commits.at = commits.count + 1
            submitting = asyncio.create_task(delegate(runtime, "done"))
            await asyncio.to_thread(commits.hanging.wait, DAY_SECONDS)
            listed, _ = await runtime.tasks.list()
            acknowledged = submitting.done()
            commits.goes_on.set()
            await submitting
            done = await until(runtime, "done", "completed")

    assert listed == []
    assert not acknowledged
    assert done.status == "completed"


async def test_a_sweep_that_is_killed_is_made_again_before_the_next_attempt_begins(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch, gate: Gate
):
    """What an attempt left behind holds a lock; the next attempt must find it free."""
    supervisor = dies_in_its_first_sweep(place.base)
    monkeypatch.setattr(worker_module, "compiled_supervisor", lambda _: supervisor)
    left = f"exec 9<>held; flock -n 9 || echo overlap >> runs; echo begun >> runs; {gate.snippet}"
    async with served_in_memory(settings.model_copy(update={"pid_namespace": "off"})) as (_, runtime):
        params = {"command": ["sh", "-c", f"setsid sh -c {shlex.quote(left)} & wait"]}
        await runtime.delegation.delegate(Order(agent="shell", params=params, task_id="t"))
        await gate.reached()
        (pid,) = runtime.worker.supervisor_pids()
        os.kill(pid, signal.SIGKILL)
        await gate.reached()
        gate.go_on()
        done = await until(runtime, "t", "completed")
        collected = not Path(f"/proc/{pid}").exists()

    assert (place.base / "swept-once").exists()
    assert (done.status, done.attempt) == ("completed", 2)
    assert (place.workspace / "runs").read_text().split() == ["begun", "begun"]
    assert collected, "no zombie stays of who was killed"


async def test_an_attempt_that_cannot_be_followed_for_a_while_is_followed_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """As when the server may open no more files: the program runs on, and its end is still collected."""
    monkeypatch.setattr(worker_module, "TROUBLE_SECONDS", 0.02)
    refusals = iter(range(4))
    read = AttemptFolder.read

    def refused(self: AttemptFolder, *arguments: Any) -> bytes:
        if next(refusals, None) is not None:
            raise OSError(errno.EMFILE, "Too many open files")
        return read(self, *arguments)

    monkeypatch.setattr(AttemptFolder, "read", refused)
    with calling_as(DESK):
        async with open_runtime(settings) as runtime:
            await delegate(runtime, "done")
            done = await until(runtime, "done", "completed")
            kept = await stdout(runtime, done)

    assert next(refusals, None) is None
    assert (done.status, done.attempt, kept) == ("completed", 1, "hello\n")
