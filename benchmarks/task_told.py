"""From a task's last act until those who wait for it know: get_task with `wait`, one caller and the last of eight.

The task's last act is to print what time it is. Beside the same program started and waited for by subprocess, from
the same last act. Then by subscription: those who follow the task, and read it when they are told that it changed.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.figures import Figure, Goal, Series, alternate, script
from benchmarks.processes import WORKSPACE, repository, serving, temporary_folder
from benchmarks.task_start import NANOSECONDS_PER_MILLISECOND, clock_program
from benchmarks.wire import Conversation, over_socket

WAITING = 8
GOALS = (Goal("p99", 50),)

Wait = Callable[[Conversation, str], tuple[int, int]]


def measure(quick: bool) -> list[Figure]:
    """Figures of telling that a task has finished."""
    # It works long enough for all to be waiting before it ends.
    command = ["sh", "-c", f"sleep 0.15; {' '.join(map(_quoted, clock_program()))}"]
    with temporary_folder() as home, repository() as workspace, ExitStack() as stack:
        server = stack.enter_context(serving(home, workspace))
        waiting = [stack.enter_context(over_socket(server.mcp_socket)) for _ in range(WAITING)]
        threads = stack.enter_context(ThreadPoolExecutor(WAITING))
        following = [stack.enter_context(over_socket(server.mcp_socket)) for _ in range(WAITING)]
        one, eight, one_subscribed, eight_subscribed, bare = alternate(
            5 if quick else 120,
            lambda: _told(waiting[:1], threads, command, _wait_for),
            lambda: _told(waiting, threads, command, _wait_for),
            lambda: _told(following[:1], threads, command, _follow),
            lambda: _told(following, threads, command, _follow),
            lambda: _waited_for(command),
        )
    besides = (Series("subprocess.run of the same", bare),)
    return [
        Figure("finished to told, one waiting get_task", "ms", one, GOALS, besides),
        Figure(f"finished to told, last of {WAITING} waiting", "ms", eight, GOALS, besides),
        Figure("finished to read, one subscriber", "ms", one_subscribed, GOALS, besides),
        Figure(f"finished to read, last of {WAITING} subscribers", "ms", eight_subscribed, GOALS, besides),
    ]


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _told(waiting: Sequence[Conversation], threads: ThreadPoolExecutor, command: list[str], wait: Wait) -> float:
    params = {"command": command}
    task = waiting[0].call("delegate_task", agent="shell", params=params, workspace=WORKSPACE, wait=0)["id"]
    ends = list(threads.map(lambda lines: wait(lines, task), waiting))
    return (max(told for told, _ in ends) - ends[0][1]) / NANOSECONDS_PER_MILLISECOND


def _wait_for(lines: Conversation, task: str) -> tuple[int, int]:
    """When we were told, and when the task did its last act (nanoseconds since 1970)."""
    while True:
        # It answers at every change: queued, running, finished.
        record = lines.call("get_task", task_id=task, wait=30)
        told = time.time_ns()
        if record["finished_at"]:
            return told, int(record["result"]["stdout"])


def _follow(lines: Conversation, task: str) -> tuple[int, int]:
    """The same, by subscription."""
    lines.follow(f"task://{task}")
    while True:
        record = lines.call("get_task", task_id=task)
        told = time.time_ns()
        if record["finished_at"]:
            return told, int(record["result"]["stdout"])
        lines.told()


def _waited_for(command: list[str]) -> float:
    said = subprocess.run(command, check=True, capture_output=True).stdout
    return (time.time_ns() - int(said)) / NANOSECONDS_PER_MILLISECOND


if __name__ == "__main__":
    script(measure)
