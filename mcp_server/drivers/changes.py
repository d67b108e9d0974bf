"""What differs between two trees: the files for the record, and a diff for people."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from mcp_server.drivers.git import Git, GitError, last_words

DIFF_LIMIT_BYTES = 4 * 1024 * 1024
FILES_LISTED = 500
TEXT_FILE_BYTES = 2 * 1024 * 1024
"""Larger files are shown as binary ones."""

_CHANGES = {"A": "added", "C": "added", "D": "deleted", "M": "changed", "R": "renamed", "T": "changed"}
_QUIET = ("--no-ext-diff", "--no-textconv", "--no-color", "--find-renames", "--ignore-submodules=none", "-l2000")


async def changed_files(git: Git, before: str, after: str) -> list[dict[str, Any]]:
    """Each file that differs: `path`, `change`, `insertions`, `deletions` (None: binary), and `from` where renamed.

    Raises:
        GitError: git cannot compare them.
    """
    compare = ("diff-tree", "-r", "-z", *_QUIET)
    raw = (await git.run(*compare, "--raw", before, after)).decode(errors="replace").split("\0")
    counted = (await git.run(*compare, "--numstat", before, after)).decode(errors="replace").split("\0")
    counts = _counts(counted)
    files: list[dict[str, Any]] = []
    at = 0
    while at + 1 < len(raw):
        letter = raw[at].rsplit(" ", 1)[-1][:1]
        two = letter in "RC"
        path = raw[at + 2] if two else raw[at + 1]
        insertions, deletions = counts.get(path, (None, None))
        origin = {"from": raw[at + 1]} if letter == "R" else {}
        change = _CHANGES.get(letter, "changed")
        files.append({"path": path, "change": change, "insertions": insertions, "deletions": deletions} | origin)
        at += 3 if two else 2
    return files


def _counts(fields: list[str]) -> dict[str, tuple[int | None, int | None]]:
    """`added TAB removed TAB path`, or for a rename an empty path and then both paths as fields of their own."""
    counts: dict[str, tuple[int | None, int | None]] = {}
    at = 0
    while at < len(fields) and fields[at]:
        added, removed, path = fields[at].split("\t", 2)
        if not path:
            path = fields[at + 2]
            at += 2
        counts[path] = (None if added == "-" else int(added), None if removed == "-" else int(removed))
        at += 1
    return counts


async def write_diff(git: Git, before: str, after: str, target: Path) -> None:
    """Write the diff of two trees to `target`. Binary files are only named; what is too long is cut, and says so.

    Raises:
        GitError: git cannot compare them.
    """
    textual = git.with_settings({"core.bigFileThreshold": str(TEXT_FILE_BYTES)})
    file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        code, _, err = await textual.outcome("diff-tree", "-r", "-p", *_QUIET, before, after, into=file)
    finally:
        os.close(file)
    if code:
        raise GitError(last_words(err))
    size = target.stat().st_size
    if size > DIFF_LIMIT_BYTES:
        await asyncio.to_thread(_cut, target, size)


def _cut(target: Path, size: int) -> None:
    with target.open("r+b") as file:
        file.truncate(DIFF_LIMIT_BYTES)
        file.seek(0, os.SEEK_END)
        file.write(f"\n[cut: {size - DIFF_LIMIT_BYTES} bytes more; the branch has it all]\n".encode())
