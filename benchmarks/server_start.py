"""From the start of `offhand serve` until it is ready: `server.json` is there and `/readyz` answers.

Once on an empty home (the store is made), and once on one that was served before. Beside importing the SDK alone,
and beside the bare SDK's HTTP server.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, alternate, script, timed
from benchmarks.processes import bare_http, serving, temporary_folder

IMPORT = "import mcp.server.mcpserver"


def measure(quick: bool) -> list[Figure]:
    """Figures of the server's start."""
    with temporary_folder() as home, temporary_folder() as folder:
        again, first, imported, bare = alternate(
            3 if quick else 20,
            timed_start(lambda: serving(home)),
            _on_empty_home,
            timed(lambda: subprocess.run([sys.executable, "-c", IMPORT], check=True)),
            timed_start(lambda: bare_http(folder)),
        )
    besides = (Series(f'python -c "{IMPORT}"', imported), Series("bare SDK HTTP server", bare))
    return [
        Figure("server: start to ready", "ms", again, [Goal("median", 1000)], besides),
        Figure("server: start to ready, empty home", "ms", first, [Goal("median", 1000)], besides),
    ]


def timed_start(start: Callable[[], AbstractContextManager[object]]) -> Callable[[], float]:
    """Milliseconds until the context that `start` makes is entered."""

    def once() -> float:
        begin = time.perf_counter()
        with start():
            return (time.perf_counter() - begin) * MILLISECONDS

    return once


def _on_empty_home() -> float:
    with temporary_folder() as home:
        return timed_start(lambda: serving(home))()


if __name__ == "__main__":
    script(measure)
