"""From asking for a cancel until the last process of the task is gone, and until the record says `cancelled`.

All processes of a task hold the same pipe open, so its end is the moment at which none of them is left. Cancelled are
one process, and a tree: one that stays, one in a session of its own, one forked twice; in a pid namespace (where the
system gives any) and without. Those that ignore SIGTERM would live 5 s longer: they get no grace here, and no server.
Beside a `killpg` of one process.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, alternate, script
from benchmarks.processes import WORKSPACE, serving, temporary_folder
from benchmarks.supervision import Attempts, wait_until_ended
from benchmarks.wire import Conversation, over_socket
from mcp_server.settings import SETTINGS_FILE

GOALS = (Goal("p99", 500),)
ONE = "exec 3> {pipe}; echo ready >&3; exec sleep 600"
TREE = "exec 3> {pipe}; sleep 600 & setsid sleep 600 & (setsid sleep 600 &); echo ready >&3; wait"
DEAF = f"trap '' TERM; {TREE}"
FORKING = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pipe = os.open("{pipe}", os.O_WRONLY)
if os.fork():
    os.write(pipe, b"ready")
    while True:
        signal.pause()
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
"""One that stays, and one that is never the same for long, each time in a session of its own."""

DEADLINE_SECONDS = 30.0
WARM_UP = 2
HOW = (("auto", "pid namespace"), ("off", "no namespace"))


def measure(quick: bool) -> list[Figure]:
    """Figures of cancelling."""
    rounds = 5 if quick else 120
    with ExitStack() as stack:
        place = stack.enter_context(temporary_folder())
        beside = _killed(place, rounds)
        figures: list[Figure] = []
        for setting, how in HOW:
            figures += _through_server(place, setting, how, rounds, beside)
            figures += _without_server(place, setting, how, rounds // 2, beside)
        return figures


def _through_server(place: Path, setting: str, how: str, rounds: int, beside: Sequence[Series]) -> list[Figure]:
    figures: list[Figure] = []
    with temporary_folder() as home, ThreadPoolExecutor(1) as threads:
        (home / SETTINGS_FILE).write_text(f'pid_namespace = "{setting}"\n')
        with serving(home, place) as server, over_socket(server.mcp_socket) as client:
            for what, program in (("one process", ONE), ("a tree", TREE)):
                pairs = [_cancelled(client, threads, place, program) for _ in range(WARM_UP + rounds)][WARM_UP:]
                empty, said = zip(*pairs, strict=True)
                name = f"cancel {what}, {how}"
                figures += [
                    Figure(f"{name}: until it is empty", "ms", empty, GOALS, beside),
                    Figure(f"{name}: until the record says so", "ms", said, GOALS, beside),
                ]
    return figures


def _cancelled(client: Conversation, threads: ThreadPoolExecutor, place: Path, program: str) -> tuple[float, float]:
    """Milliseconds until nothing of the task is left, and until the answer said that it is cancelled."""
    with held_pipe(place) as pipe:
        params = {"command": ["sh", "-c", program.format(pipe=pipe.path)]}
        task = client.call("delegate_task", agent="shell", params=params, workspace=WORKSPACE, wait=0)["id"]
        pipe.wait_until_held()
        begin = time.perf_counter()
        answer = threads.submit(client.call, "update_task", task_id=task, action="cancel", wait=DEADLINE_SECONDS)
        took = pipe.wait_until_free() - begin
        if (record := answer.result())["status"] != "cancelled":
            raise RuntimeError(str(record))
    return took * MILLISECONDS, client.milliseconds


def _without_server(place: Path, setting: str, how: str, rounds: int, beside: Sequence[Series]) -> list[Figure]:
    attempts = Attempts(place)
    deaf = _ended(attempts, setting, ("/bin/sh", "-c", DEAF), rounds)
    forking = _ended(attempts, setting, (sys.executable, "-I", "-S", "-c", FORKING), rounds)
    return [
        Figure(f"kill a tree that ignores SIGTERM, {how}", "ms", deaf, GOALS, beside),
        Figure(f"kill what forks on and on, {how}", "ms", forking, beside=beside),
    ]


def _ended(attempts: Attempts, setting: str, argv: Sequence[str], rounds: int) -> list[float]:
    def measure() -> float:
        with held_pipe(attempts.folder) as pipe:
            program = [word.format(pipe=pipe.path) for word in argv]
            folder = attempts.start(program, contained=setting == "auto", kill_grace_seconds=0.0)
            pipe.wait_until_held()
            begin = time.perf_counter()
            folder.terminate()
            took = pipe.wait_until_free() - begin
            wait_until_ended(folder)
        return took * MILLISECONDS

    return alternate(rounds, measure)[0]


def _killed(place: Path, rounds: int) -> list[Series]:
    """What a bare kill takes. It would leave what is in a session of its own."""
    shell = shutil.which("sh") or "/bin/sh"

    def measure() -> float:
        with held_pipe(place) as pipe:
            argv = (shell, "-c", ONE.format(pipe=pipe.path))
            pid = os.posix_spawn(shell, argv, os.environ, setsid=True)
            pipe.wait_until_held()
            begin = time.perf_counter()
            os.killpg(pid, signal.SIGTERM)
            took = pipe.wait_until_free() - begin
            os.waitpid(pid, 0)
        return took * MILLISECONDS

    return [Series("killpg of one process", alternate(rounds, measure)[0])]


class HeldPipe:
    """The reading end of a pipe that a program and all that it starts hold open for writing."""

    def __init__(self, path: Path, reading: int) -> None:
        self.path = path
        self._reading = reading

    def wait_until_held(self) -> None:
        """Return once the program has written that it is there."""
        self._wait()
        if not os.read(self._reading, 100):
            raise RuntimeError("the program ended at once")

    def wait_until_free(self) -> float:
        """When the last process that held it was gone, by the clock of time.perf_counter()."""
        self._wait()
        freed_at = time.perf_counter()
        if left := os.read(self._reading, 100):
            raise RuntimeError(f"unexpected: {left!r}")
        return freed_at

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._reading, select.POLLIN)
        if not poller.poll(DEADLINE_SECONDS * 1000):
            raise TimeoutError(f"{self.path} did not change")


@contextmanager
def held_pipe(folder: Path) -> Generator[HeldPipe]:
    """A named pipe in `folder`."""
    path = folder / f"pipe-{next(_numbers)}"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield HeldPipe(path, reading)
    finally:
        os.close(reading)
        path.unlink()


_numbers = count(1)

if __name__ == "__main__":
    script(measure)
