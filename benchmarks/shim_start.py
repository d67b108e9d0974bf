"""What a desktop client waits for: from the start of `offhand mcp` to the answer to its first message.

The server runs already. Beside the bare SDK's stdio server and beside Python itself.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, alternate, script, timed
from benchmarks.processes import bare_stdio, ended, serving, shim_command, spawned, temporary_folder
from benchmarks.wire import FIRST_LINE


def measure(quick: bool) -> list[Figure]:
    """Figures of the shim's start."""
    rounds = 5 if quick else 60
    with temporary_folder() as folder, serving(folder) as server:
        shim, bare, python = alternate(
            rounds,
            first_answer(lambda: spawned(shim_command(), server.environment, folder, pipes=True)),
            first_answer(lambda: bare_stdio(folder)),
            timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)),
        )
        program = Path(sys.executable).with_name("offhand-mcp")
        installed = ()
        if program.exists():
            (samples,) = alternate(
                rounds, first_answer(lambda: spawned([str(program)], server.environment, folder, pipes=True))
            )
            installed = (Series("the installed offhand-mcp", samples),)
    besides = (Series("bare SDK stdio server", bare), Series("python -c pass", python), *installed)
    return [Figure("shim: start to first answer", "ms", shim, [Goal("median", 40)], besides)]


def first_answer(start: Callable[[], subprocess.Popen[bytes]]) -> Callable[[], float]:
    """Milliseconds from `start` to the answer to `initialize`; the process has ended afterwards."""

    def once() -> float:
        begin = time.perf_counter()
        with ended(start()) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(FIRST_LINE)
            process.stdin.flush()
            answer = process.stdout.readline()
            milliseconds = (time.perf_counter() - begin) * MILLISECONDS
            if b'"result"' not in answer:
                raise RuntimeError("no answer")
            return milliseconds

    return once


if __name__ == "__main__":
    script(measure)
