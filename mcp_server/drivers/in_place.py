"""Work in the user's own folder: what it was like before is remembered, and nothing of it is committed.

Its repository is only read, by a git folder of ours with a copy of its index.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from mcp_server.drivers.git import Git, GitError, make_git_folder
from mcp_server.drivers.place import KEPT, WorkPlace, kept_git, record_work, remove
from mcp_server.drivers.records import Records
from mcp_server.drivers.repository import Repository, find_repository
from mcp_server.drivers.snapshot import snapshot


async def begin(folder: Path, repository: Repository | None, records: Records) -> WorkPlace:
    """The folder itself, and what is in it now."""
    if repository is None or repository.top is None:
        records.progress("the folder is no git repository: what changes in it is not recorded")
        return WorkPlace(folder)
    made = Path(tempfile.mkdtemp(prefix="before-", dir=records.folder))
    git = await _beside(made / KEPT, repository)
    before = await snapshot(git)
    return WorkPlace(folder, None, None, before.tree)


async def keep(place: WorkPlace, records: Records) -> None:
    """Record what has changed since this attempt began."""
    made = next(iter(records.folder.glob("before-*")), None)
    if place.base is None or made is None:
        return
    try:
        repository = await find_repository(place.folder, None)
        if repository is None or repository.top is None:
            raise GitError("the repository is gone")
        git = replace(kept_git(made, repository), work_tree=repository.top, cwd=repository.top)
        after = await snapshot(git)
        branch = await repository.git.outcome("symbolic-ref", "--short", "--quiet", "HEAD")
        name = branch[1].decode(errors="replace").strip() or None
        await record_work(git, place.base, after.tree, after, records, branch=name, base=None, commit=None, dirty=True)
    finally:
        remove(made)


async def _beside(folder: Path, repository: Repository) -> Git:
    """A git folder of ours for the user's own work tree, with a copy of the index."""
    assert repository.top is not None
    make_git_folder(
        folder,
        head="refs/heads/none",
        object_format=repository.object_format,
        borrowed=repository.objects,
        shallow=repository.shallow,
        ignored=await repository.ignored(),
    )
    git = replace(kept_git(folder.parent, repository), work_tree=repository.top, cwd=repository.top)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(repository.git_dir / "index", folder / "index")
    if not await git.answers("ls-files", "--stage"):  # an index in two files, of which we have one
        (folder / "index").unlink()
        if head := await repository.git.commit_of("HEAD"):
            await git.run("read-tree", head)
            await git.outcome("update-index", "-q", "--refresh", "--ignore-submodules")
    return git


async def is_dirty(repository: Repository, commit: str) -> bool:
    """Whether the user's checkout has what its last commit does not have; found without running git in it."""
    if repository.top is None:
        return False
    with tempfile.TemporaryDirectory() as made:
        git = await _beside(Path(made) / KEPT, repository)
        checks = (
            ("diff-index", "--cached", "--quiet", "--ignore-submodules=all", commit),
            ("diff-files", "--quiet", "--ignore-submodules=all"),
        )
        for words in checks:
            if not await git.answers(*words):
                return True
        return bool(await git.run("ls-files", "--others", "--exclude-standard", "--directory", "-z"))
