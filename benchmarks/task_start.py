"""From sending delegate_task until the task runs: its record says so, and its program's own clock.

The program prints what time it is; so does the same program started by a bare posix_spawn. `started_at` in a record has
milliseconds, cut off, so a whole one is added.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime
from functools import cache

from benchmarks.figures import Figure, Goal, Series, alternate, script
from benchmarks.processes import WORKSPACE, repository, serving, temporary_folder
from benchmarks.wire import Conversation, over_socket

NANOSECONDS_PER_MILLISECOND = 1e6
GOALS = (Goal("median", 25), Goal("p99", 100))


def measure(quick: bool) -> list[Figure]:
    """Figures of starting a task."""
    by_record: list[float] = []
    with ExitStack() as stack:
        home, workspace = stack.enter_context(temporary_folder()), stack.enter_context(repository())
        server = stack.enter_context(serving(home, workspace))
        ours = stack.enter_context(over_socket(server.mcp_socket))
        by_clock, spawn = alternate(10 if quick else 300, lambda: _delegated(ours, by_record), _spawned, warm_up=3)
    besides = (Series("the same program by posix_spawn", spawn),)
    return [
        Figure("delegate to running, by the record", "ms", by_record[3:], GOALS, besides),
        Figure("delegate to running, by the program's clock", "ms", by_clock, GOALS, besides),
    ]


@cache
def clock_program() -> tuple[str, ...]:
    """A program that prints nanoseconds since 1970: `date` where it can, else Python."""
    date = ("date", "+%s%N")
    said = subprocess.run(date, capture_output=True, text=True, check=False).stdout.strip()
    return date if said.isdigit() else (sys.executable, "-I", "-S", "-c", "import time; print(time.time_ns())")


def _delegated(ours: Conversation, by_record: list[float]) -> float:
    params = {"command": list(clock_program())}
    begin = time.time_ns()
    task = ours.call("delegate_task", agent="shell", params=params, workspace=WORKSPACE, wait=30)
    if task["status"] != "completed":
        raise RuntimeError(str(task))
    started = datetime.fromisoformat(task["started_at"]).timestamp() * 1000
    by_record.append(started + 1 - begin / NANOSECONDS_PER_MILLISECOND)
    return (int(task["result"]["stdout"]) - begin) / NANOSECONDS_PER_MILLISECOND


def _spawned() -> float:
    program = clock_program()
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writing, 1)]
    begin = time.time_ns()
    pid = os.posix_spawnp(program[0], program, os.environ, file_actions=actions)
    os.close(writing)
    with os.fdopen(reading) as output:
        said = int(output.read())
    os.waitpid(pid, 0)
    return (said - begin) / NANOSECONDS_PER_MILLISECOND


if __name__ == "__main__":
    script(measure)
