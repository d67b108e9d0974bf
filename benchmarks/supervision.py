"""What a supervisor costs: from the start of an attempt until its end is on disk and read, and the memory it holds.

The program does nothing, so that all of it is overhead; beside it the same program by a bare posix_spawn, and a Python
that starts and ends, which is most of it. Once as attempts run here, in a pid namespace of their own if the system
gives any, and once without. Memory is of many supervisors whose programs sleep: by RSS, and by PSS, where what they
share is divided among them (Linux).
"""

from __future__ import annotations

import os
import resource
import secrets
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, alternate, script
from benchmarks.processes import temporary_folder
from mcp_server.executor.attempt_folder import AttemptFolder, Spec, Status, can_contain, compiled_supervisor

NOTHING = (shutil.which("true") or "/bin/true",)
SLEEPS = (shutil.which("sleep") or "/bin/sleep", "600")
PYTHON = (sys.executable, "-I", "-S", "-c", "pass")
SLEEPING_PYTHON = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")
HELD = 20
NAMESPACE_GOALS = (Goal("median", 5),)
END_SECONDS = 30.0
LOOK_SECONDS = 0.001
SETTLE_SECONDS = 1.0
WARM_UP = 2


class Attempts:
    """Attempts whose folders lie in `folder`, run without a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.supervisor = compiled_supervisor(folder)
        self.namespaces = can_contain(self.supervisor)
        self._numbers = count(1)

    def start(self, argv: Sequence[str], *, contained: bool, kill_grace_seconds: float = 5.0) -> AttemptFolder:
        """Begin one. In a pid namespace where there are any, if it shall be `contained`."""
        name = f"{next(self._numbers)}-1"
        spec = Spec(
            attempt=name,
            argv=tuple(argv),
            cwd=str(self.folder),
            env={"PATH": os.defpath},
            timeout_seconds=600,
            output_limit_bytes=1 << 20,
            cookie=secrets.token_hex(16),
            kill_grace_seconds=kill_grace_seconds,
            pid_namespace=contained and self.namespaces,
        )
        folder = AttemptFolder(self.folder / name)
        folder.start(spec, supervisor=self.supervisor)
        return folder


def wait_until_ended(folder: AttemptFolder) -> Status:
    """How it ended, once it has. The folder is gone then."""
    pidfd = folder.open_pidfd()
    if pidfd is not None:
        select.select([pidfd], [], [], END_SECONDS)
        os.close(pidfd)
    status = folder.status()
    if status is None:
        raise RuntimeError(f"no end in {folder.path}")
    folder.reap()
    folder.remove()
    return status


def measure(quick: bool) -> list[Figure]:
    """Figures of a supervisor."""
    with temporary_folder() as folder:
        attempts = Attempts(folder)
        times = _times(attempts, 5 if quick else 150)
        return times + (_memory(attempts, 3 if quick else HELD) if Path("/proc/self/smaps_rollup").exists() else [])


def _times(attempts: Attempts, rounds: int) -> list[Figure]:
    ways: tuple[Callable[[], object], ...] = (
        lambda: wait_until_ended(attempts.start(NOTHING, contained=True)),
        lambda: wait_until_ended(attempts.start(NOTHING, contained=False)),
        lambda: _spawned(NOTHING),
        lambda: _spawned(PYTHON),
    )
    spent: list[list[float]] = [[] for _ in ways]
    clocks = alternate(rounds, *(_timed(way, kept) for way, kept in zip(ways, spent, strict=True)), warm_up=WARM_UP)
    return [
        *_costs("by the clock", clocks),
        *_costs("CPU", [kept[WARM_UP:] for kept in spent]),
    ]


def _timed(way: Callable[[], object], spent: list[float]) -> Callable[[], float]:
    """Milliseconds by the clock; those of CPU, of all processes that ended meanwhile and of ours, go to `spent`."""

    def measure() -> float:
        cpu, begin = _cpu_seconds(), time.perf_counter()
        way()
        took = time.perf_counter() - begin
        spent.append((_cpu_seconds() - cpu) * MILLISECONDS)
        return took * MILLISECONDS

    return measure


def _cpu_seconds() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def _costs(unit: str, samples: Sequence[Sequence[float]]) -> list[Figure]:
    contained, plain, bare, python = samples
    besides = [Series("the program by posix_spawn", bare), Series("python -I -S -c pass", python)]
    added = [ours - without for ours, without in zip(contained, plain, strict=True)]
    return [
        Figure(f"supervised program, start to end, {unit}", "ms", contained, beside=besides),
        Figure(f"the same without pid namespace, {unit}", "ms", plain, beside=besides),
        Figure(f"what the pid namespace adds, {unit}", "ms", added, NAMESPACE_GOALS),
    ]


def _spawned(argv: tuple[str, ...]) -> None:
    os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)


def _memory(attempts: Attempts, held: int) -> list[Figure]:
    with _sleeping(held) as bare:
        beside = [[_megabytes([pid], name) for pid in bare] for name in ("Rss", "Pss")]
    figures: list[Figure] = []
    for contained in (True, False):
        with _held(attempts, held, contained=contained) as pids:
            for name, other in zip(("Rss", "Pss"), beside, strict=True):
                what = f"memory of a supervisor ({name.upper()}, of {held})"
                figures.append(
                    Figure(
                        what if contained else f"{what}, no namespace",
                        "MB",
                        [_megabytes(own, name) for own in pids],
                        beside=[Series("a Python that sleeps", other)],
                    )
                )
    return figures


@contextmanager
def _held(attempts: Attempts, number: int, *, contained: bool) -> Generator[list[list[int]]]:
    """The pids of so many supervisors; in a namespace each is two processes."""
    folders = [attempts.start(SLEEPS, contained=contained) for _ in range(number)]
    try:
        yield [_processes_of(folder) for folder in folders]
    finally:
        for folder in folders:
            folder.terminate()
        for folder in folders:
            wait_until_ended(folder)


def _processes_of(folder: AttemptFolder) -> list[int]:
    """The supervisor and, in a namespace, the first process of it; not the program."""
    deadline = time.monotonic() + END_SECONDS
    while (started := folder.started()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError("the program did not start")
        time.sleep(LOOK_SECONDS)
    below = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    return [started.pid, *(int(pid) for pid in below if int(pid) != started.child_pid)]


@contextmanager
def _sleeping(number: int) -> Generator[list[int]]:
    """The pids of so many Pythons that sleep."""
    pids = [os.posix_spawn(SLEEPING_PYTHON[0], SLEEPING_PYTHON, os.environ) for _ in range(number)]
    try:
        time.sleep(SETTLE_SECONDS)
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def _megabytes(pids: Sequence[int], name: str) -> float:
    """`Rss` or `Pss` of processes together, MB of 10^6 bytes."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


if __name__ == "__main__":
    script(measure)
