"""The files of a work tree as a git tree, made without looking at anything in it that would tell git what to do.

The git folder and the index are ours; of the work tree only files and links are read. A `.git` in it is never
opened as a repository of ours, whatever it holds: git is not run there.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mcp_server.drivers.git import Git, GitError, last_words

FILE_LIMIT_BYTES = 100 * 1024 * 1024
"""Larger files are left out; most hosts would refuse the branch."""

TOTAL_LIMIT_BYTES = 1024 * 1024 * 1024
FILES_LIMIT = 100_000
NESTED_LIMIT = 200
"""Repositories inside of the work tree; for each of them git is asked once."""
NESTED_DEPTH = 8
SKIPPED_LISTED = 50

_LEFT = ".bash_profile .bashrc .claude.json .env .gitconfig .gitmodules .mcp.json .npmrc .profile .ripgreprc .zshrc"
_LEFT_BY_SANDBOXES = frozenset(_LEFT.split())
"""Sandboxes that are killed leave these behind, empty."""
_LOCAL = frozenset({".claude/settings.local.json"})
"""Notes of an agent for itself."""


@dataclass(slots=True)
class Snapshot:
    """A tree, and what could not or should not become part of it, with the reason."""

    tree: str
    skipped: list[str] = field(default_factory=list[str])


async def snapshot(git: Git) -> Snapshot:
    """Bring the index of `git`, which is ours, up to what its work tree holds now, and write it as a tree.

    Raises:
        GitError: the files cannot be read, or there is no room.
    """
    assert git.work_tree is not None
    taking = _Taking(git.work_tree)
    changed = await _paths(git, "diff-files", "-z", "--name-only", "--ignore-submodules=all", "--no-ext-diff")
    taking.look(changed, known=True)
    links = await _links(git)
    gone = [path for path in taking.gone if path not in links]
    if gone:
        await _update(git, gone, "--force-remove")
    await _look_at_new(git, git.work_tree, b"", taking)
    if taking.there:
        for path in await _update(git, taking.there, "--add", "--replace"):
            taking.skip(path, "git takes no such name")
    tree = await git.text("write-tree")
    return Snapshot(tree, taking.notes())


class _Taking:
    """Sorts paths into those that are taken into the index, those that are gone from it, and those that are left."""

    def __init__(self, top: Path) -> None:
        self._top = os.fsencode(top)
        self._bytes = 0
        self.nested = 0
        self.there: list[bytes] = []
        self.gone: list[bytes] = []
        self.skipped: list[str] = []

    def look(self, paths: Iterable[bytes], *, known: bool) -> None:
        """Sort `paths`. Those that are `known` are in the index already."""
        for path in paths:
            full = os.path.join(self._top, path)
            try:
                found = os.lstat(full)
            except (FileNotFoundError, NotADirectoryError):
                if known:
                    self.gone.append(path)
            except OSError as error:
                self.skip(path, error.strerror or "cannot be read")
            else:
                self._sort(path, full, found, known=known)

    def skip(self, path: bytes, why: str) -> None:
        """Leave a path as it is in the index, and say so."""
        self.skipped.append(f"{path.decode(errors='replace')}: {why}")

    def notes(self) -> list[str]:
        """What was left out, not too many of them."""
        more = len(self.skipped) - SKIPPED_LISTED
        return self.skipped[:SKIPPED_LISTED] + ([f"and {more} more"] if more > 0 else [])

    def _sort(self, path: bytes, full: bytes, found: os.stat_result, *, known: bool) -> None:
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            if known:
                self.gone.append(path)
        elif not known and _is_left_over(path, found):
            pass
        elif found.st_size > FILE_LIMIT_BYTES:
            self.skip(path, f"larger than {FILE_LIMIT_BYTES // 1024 // 1024} MiB")
        elif self._bytes + found.st_size > TOTAL_LIMIT_BYTES or len(self.there) >= FILES_LIMIT:
            self.skip(path, "too much has changed to keep all of it")
        elif stat.S_ISREG(found.st_mode) and not os.access(full, os.R_OK):
            self.skip(path, "may not be read")
        elif not _is_unicode(path):
            self.skip(path, "its name is not UTF-8")
        else:
            self._bytes += found.st_size
            self.there.append(path)


async def _look_at_new(git: Git, folder: Path, prefix: bytes, taking: _Taking, depth: int = 0) -> None:
    """Files that the index does not have and that are not ignored.

    Git does not look into a folder with a `.git` of its own, such as a project that the agent made with `git init`.
    Its files are taken one by one, as those of any other folder.
    """
    here = replace(git, work_tree=folder, cwd=folder)
    if prefix:
        # With the index of the whole, its paths would be taken for files of this folder.
        here = here.with_env(GIT_INDEX_FILE=os.devnull + "-none")
    for path in await _paths(here, "ls-files", "-z", "--others", "--exclude-standard"):
        if not path.endswith(b"/"):
            taking.look([prefix + path], known=False)
        elif depth >= NESTED_DEPTH or taking.nested >= NESTED_LIMIT:
            taking.skip(prefix + path, "too many repositories in it")
        else:
            nested = folder / os.fsdecode(path)
            taking.nested += 1
            if not nested.is_symlink():
                await _look_at_new(git, nested, prefix + path, taking, depth + 1)


async def _links(git: Git) -> frozenset[bytes]:
    """The submodules in the index: they stay at the commit that they are at."""
    entries = await _paths(git, "ls-files", "-z", "--stage")
    return frozenset(entry.split(b"\t", 1)[1] for entry in entries if entry.startswith(b"160000 "))


async def _update(git: Git, paths: Iterable[bytes], *words: str) -> list[bytes]:
    """Returns the paths that git does not take: some systems would see a `.git` in them."""
    code, _, err = await git.outcome(
        "update-index", *words, "-z", "--stdin", stdin=b"".join(path + b"\0" for path in paths)
    )
    if code:
        raise GitError(last_words(err))
    return re.findall(rb"^Ignoring path (.*)$", err, re.MULTILINE)


async def _paths(git: Git, *words: str) -> list[bytes]:
    return [path for path in (await git.run(*words)).split(b"\0") if path]


def _is_left_over(path: bytes, found: os.stat_result) -> bool:
    name = path.decode(errors="replace")
    return name in _LOCAL or (name in _LEFT_BY_SANDBOXES and stat.S_ISREG(found.st_mode) and found.st_size == 0)


def _is_unicode(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True
