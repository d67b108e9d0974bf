"""A clone for a coding agent, of a repository with 1 GB of history: until it can be used, and what it takes on disk.

A tenth of the history is in the newest commit, in files of 100 KB that cannot be compressed, so that they are written
out. Beside it stand what git offers: a clone of its own on the same disk (hard links), one that copies, and a worktree.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from benchmarks.figures import Figure, Series, alternate, script, timed
from benchmarks.processes import temporary_folder
from mcp_server.drivers import clone
from mcp_server.drivers.job import Job
from mcp_server.drivers.records import Records

COMMITS = 10
FILES = 1_000
FILE_BYTES = 100_000
MB = 1e6

GIT = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0")


def measure(quick: bool) -> list[Figure]:
    """Figures of clones."""
    with temporary_folder() as folder:
        source = folder / "source"
        _fill(source, 20 if quick else FILES)
        made = Made(folder, source)
        ours, linked, copied, worktree = alternate(
            1 if quick else 5, made.ours, made.linked, made.copied, made.worktree
        )
        size = sum(made.bytes_of(source / ".git")) / MB
    note = f"the repository has {size:,.0f} MB of objects; disk counts what hard links do not share"
    times = (
        Series("git clone, hard links", linked),
        Series("git clone --no-local", copied),
        Series("git worktree add", worktree),
    )
    disks = tuple(Series(series.name, made.disk[name]) for series, name in zip(times, Made.OTHERS, strict=True))
    return [
        Figure("clone for an agent", "ms", ours, beside=times, note=note),
        Figure("clone for an agent, on disk", "MB", made.disk["ours"], beside=disks),
    ]


class Made:
    """Clones made one after another, each taken away again; what each took on disk is kept."""

    OTHERS = ("linked", "copied", "worktree")

    def __init__(self, folder: Path, source: Path) -> None:
        self._folder = folder
        self._source = source
        self._target = folder / "clone"
        self.disk: dict[str, list[float]] = {name: [] for name in ("ours", *self.OTHERS)}

    def ours(self) -> float:
        """As a task of a coding agent makes it."""
        job = Job(
            driver="command",
            agent="bench",
            title="Bench",
            program=("true",),
            prompt="",
            task_id="bench",
            task_number=1,
            slug="bench",
            folder=str(self._source),
            clone=str(self._target),
        )
        records = Records(self._folder / "records.jsonl", StringIO())
        return self._measured("ours", lambda: asyncio.run(clone.prepare(job, records)))

    def linked(self) -> float:
        """git's own, on the same disk."""
        return self._measured("linked", lambda: self._git("clone", "-q", str(self._source), str(self._target)))

    def copied(self) -> float:
        """git's own, as from another disk."""
        return self._measured(
            "copied", lambda: self._git("clone", "-q", "--no-local", str(self._source), str(self._target))
        )

    def worktree(self) -> float:
        """A work tree that shares the repository."""
        tree = ("-C", str(self._source), "worktree")
        took = self._measured(
            "worktree", lambda: self._git(*tree, "add", "-q", "--detach", str(self._target)), keep=True
        )
        self._git(*tree, "remove", "--force", str(self._target))
        return took

    def _measured(self, name: str, make: Callable[[], object], *, keep: bool = False) -> float:
        took = timed(make)()
        self.disk[name].append(sum(self.bytes_of(self._target)) / MB)
        if not keep:
            shutil.rmtree(self._target)
        return took

    def bytes_of(self, folder: Path) -> list[int]:
        """Of every file that is there once; what has a second name lies elsewhere too."""
        files = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
        return [file.lstat().st_size for file in files if file.lstat().st_nlink == 1]

    def _git(self, *arguments: str) -> None:
        subprocess.run([*GIT, *arguments], check=True, capture_output=True)


def _fill(source: Path, files: int) -> None:
    source.mkdir()
    run = [*GIT, "-C", str(source)]
    subprocess.run([*run, "init", "-q"], check=True, capture_output=True)
    for commit in range(COMMITS):
        for number in range(files):
            (source / f"{number}.bin").write_bytes(os.urandom(FILE_BYTES))
        subprocess.run([*run, "add", "."], check=True, capture_output=True)
        subprocess.run([*run, "commit", "-q", "-m", f"Commit {commit}"], check=True, capture_output=True)
    subprocess.run([*run, "repack", "-adq", "--window=0"], check=True, capture_output=True)


if __name__ == "__main__":
    script(measure)
