"""From the start of a server after `kill -9` until it is ready, with 50 tasks running and 10,000 queued.

Ready means that it has taken over what runs: each task has a supervisor that went on meanwhile. In each round one of
them has ended while no server was there; how long until that is written down and the next of the queue runs is the
second figure. Beside the start of a server that has nothing to do, in the same rounds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, alternate, script
from benchmarks.processes import WORKSPACE, Offhand, serving, temporary_folder
from benchmarks.server_start import timed_start
from benchmarks.wire import Conversation, over_socket
from mcp_server.executor.attempt_folder import AttemptFolder
from mcp_server.settings import SETTINGS_FILE

GOALS = (Goal("median", 1500),)
SLEEP = {"command": ["sleep", "3600"]}
DEADLINE_SECONDS = 60.0
LOOK_SECONDS = 0.002


def measure(quick: bool) -> list[Figure]:
    """Figures of the start after a crash."""
    running, queued, rounds = (5, 100, 2) if quick else (50, 10_000, 20)
    with temporary_folder() as home, temporary_folder() as place, temporary_folder() as idle, _all_ended(home):
        (home / SETTINGS_FILE).write_text(f"limit = {running}\n")
        begin = time.monotonic()
        with serving(home, place) as server:
            _queue(server, running, queued)
            _crash(server)
        print(f"queued {queued:,} tasks in {time.monotonic() - begin:.0f} s", file=sys.stderr)
        world = World(home, place, running)
        ready, nothing = alternate(rounds, world.start, timed_start(lambda: serving(idle)))
    what = f"start after kill -9, {running} running, {queued:,} queued"
    beside = (Series("a server with nothing to do", nothing),)
    return [
        Figure(f"{what}: ready", "ms", ready, GOALS, beside),
        Figure(f"{what}: an end written down, the next task running", "ms", world.going_on[-rounds:], beside=beside),
    ]


class World:
    """A home whose server has crashed. `running` tasks run in it, those with the lowest numbers first."""

    def __init__(self, home: Path, place: Path, running: int) -> None:
        self._home = home
        self._place = place
        self._running = running
        self._ended = 0
        self.going_on: list[float] = []
        """Milliseconds from each start until the next task ran."""

    def start(self) -> float:
        """Have a task end, start a server, and crash it again. Milliseconds until it was ready."""
        self._ended += 1
        end_program(AttemptFolder(self._home / "attempts" / f"{self._ended}-1"))
        begin = time.perf_counter()
        with serving(self._home, self._place) as server, over_socket(server.mcp_socket) as client:
            ready = time.perf_counter()
            _wait_until_running(client, self._ended + self._running)
            self.going_on.append((time.perf_counter() - begin) * MILLISECONDS)
            self._check(client)
            _crash(server)
        return (ready - begin) * MILLISECONDS

    def _check(self, client: Conversation) -> None:
        listed = client.call("list_tasks", status="running", limit=100)["items"]
        expected = range(self._ended + 1, self._ended + self._running + 1)
        attempts = {task["number"]: task["attempt"] for task in listed}
        if attempts != dict.fromkeys(expected, 1):
            raise RuntimeError(f"expected tasks {expected} to run, each for the first time: {attempts}")
        if (ended := client.call("get_task", task_id=self._ended))["reason"] != "signal":
            raise RuntimeError(str(ended))


def _queue(server: Offhand, running: int, queued: int) -> None:
    with over_socket(server.mcp_socket) as client:
        for _ in range(running + queued):
            client.call("delegate_task", agent="shell", params=SLEEP, workspace=WORKSPACE, timeout_seconds=7200, wait=0)
        for number in range(1, running + 1):
            _wait_until_running(client, number)


def _wait_until_running(client: Conversation, number: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (status := client.call("get_task", task_id=number)["status"]) != "running":
        if time.monotonic() > deadline:
            raise TimeoutError(f"task {number} is {status}")
        time.sleep(LOOK_SECONDS)


def _crash(server: Offhand) -> None:
    server.process.kill()
    server.process.wait()


def end_program(folder: AttemptFolder) -> None:
    """End what a supervisor runs, and wait until its end is written down."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (started := folder.started()) is None and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    if started is None:
        raise TimeoutError(f"nothing runs in {folder.path}")
    os.kill(started.child_pid, signal.SIGTERM)
    while folder.is_alive() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


@contextmanager
def _all_ended(home: Path) -> Generator[None]:
    """No supervisor of `home` is left afterwards. The server has ended by then."""
    try:
        yield
    finally:
        folders = [AttemptFolder(path) for path in (home / "attempts").glob("*-*") if path.is_dir()]
        for folder in folders:
            folder.terminate()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(folder.is_alive() for folder in folders) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    script(measure)
