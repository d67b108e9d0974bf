"""What work in a clone and work in the user's own folder have in common: the place, and what is recorded of it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcp_server.drivers.changes import FILES_LISTED, changed_files, write_diff
from mcp_server.drivers.git import Git
from mcp_server.drivers.records import DIFF_NAME, Records
from mcp_server.drivers.repository import Repository
from mcp_server.drivers.snapshot import Snapshot

WORK = "work"
KEPT = "kept.git"


@dataclass(frozen=True, slots=True)
class WorkPlace:
    """Where the agent works, and what its work is compared with. `clone` is None for work in the user's own folder.

    `base` is the commit that the task started from; in the user's own folder the tree, if there is a repository.
    """

    folder: Path
    clone: Path | None = None
    branch: str | None = None
    base: str | None = None


async def record_work(git: Git, before: str, after: str, taken: Snapshot, records: Records, **facts: Any) -> None:
    """Record what differs between two trees, with the diff beside the records."""
    files = await changed_files(git, before, after)
    diff = None
    if files:
        await write_diff(git, before, after, records.folder / DIFF_NAME)
        diff = DIFF_NAME
    more = {"more_files": len(files) - FILES_LISTED} if len(files) > FILES_LISTED else {}
    skipped = {"skipped": taken.skipped} if taken.skipped else {}
    records.work(**facts, files=files[:FILES_LISTED], diff=diff, **more, **skipped)


def kept_git(home: Path, repository: Repository) -> Git:
    """Git with the folder of ours in `home`, beside the work tree, and with what the repository is set to."""
    return replace(Git.ours(home / KEPT, home / WORK), cwd=home).with_settings(repository.settings)


def remove(path: Path) -> None:
    """Remove what an agent may have made hard to remove."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        path.chmod(0o700)
        for folder, names, _ in os.walk(path):
            for name in names:
                inner = os.path.join(folder, name)
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
        shutil.rmtree(path)
