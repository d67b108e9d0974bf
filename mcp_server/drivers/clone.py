"""The agent's own clone of the user's repository: made before the agent starts, read by git of ours after it ends.

A clone is a folder of two things. `work` is the agent's: a work tree with a `.git` of its own, in which it may do
what it likes. `kept.git` is ours, beside it: the branch as we have it, and the index by which we see what changed.
Nothing that the agent could write is asked when its work is kept: not its settings, hooks, index or references.

Objects are borrowed from the user's repository and never copied, so that a clone costs its files alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mcp_server.drivers import in_place
from mcp_server.drivers.git import Git, GitError, make_git_folder
from mcp_server.drivers.job import Job
from mcp_server.drivers.place import KEPT, WORK, WorkPlace, kept_git, record_work, remove
from mcp_server.drivers.records import Records
from mcp_server.drivers.repository import PlaceError, Repository, find_repository
from mcp_server.drivers.snapshot import Snapshot, snapshot

__all__ = ["KEPT", "WORK", "PlaceError", "WorkPlace", "keep", "note", "prepare"]

NOTE = "clone.json"
"""In the clone's folder, written last: what `Clone` has. A clone without it was not finished."""

PREFIX = "offhand"
SUBJECT_CHARACTERS = 72
NAMES_TRIED = 100


@dataclass(frozen=True, slots=True)
class Clone:
    """What is remembered of a clone, so that it can be used again, or made again where it was cleaned away.

    `branch` starts from the commit `base` and is at `commit`; the task `task` began at `start`. `source` is the git
    folder of the user's repository.
    """

    branch: str
    base: str
    commit: str
    task: str
    start: str
    source: str
    dirty: bool = False


async def prepare(job: Job, records: Records) -> WorkPlace:
    """The place of work, made or found again. Records `state` with what is needed to find it again.

    Raises:
        PlaceError: the repository cannot be cloned, or the branch or pull request is not there.
    """
    try:
        folder = Path(job.folder).resolve()
        repository = await find_repository(folder, Path(job.workspace).resolve() if job.workspace else None)
        if job.clone is None:
            return await in_place.begin(folder, repository, records)
        if repository is None:
            raise PlaceError(
                f"{folder} is no git repository, so the agent cannot get a clone of it. "
                "Make it one (git init, and a first commit), or let the agent work in the folder itself "
                'with params {"in_place": true}.'
            )
        return await _in_clone(job, Path(job.clone), repository, folder, records)
    except GitError as error:
        raise PlaceError(f"A place to work in could not be made: {error}") from None
    except OSError as error:
        raise PlaceError(f"A place to work in could not be made: {error.strerror}: {error.filename}") from None


async def keep(job: Job, place: WorkPlace, records: Records) -> None:
    """Commit what the agent changed, bring the branch into the user's repository, and record `work` with the diff.

    Raises:
        PlaceError: the work could not be kept; it is still in the clone, and the message says where.
    """
    try:
        if place.clone is None:
            await in_place.keep(place, records)
        elif job.profile != "review":
            await _keep_clone(job, place.clone, records)
    except (GitError, OSError, PlaceError) as error:
        where = place.folder if place.clone is None else place.clone / WORK
        raise PlaceError(f"The agent's work could not be kept: {error} It is still in {where}.") from None


async def note(job: Job, place: WorkPlace, records: Records) -> None:
    """Record as `work` what the agent has changed so far, and where it lies. The user's repository gets nothing of it.

    Raises:
        PlaceError: it could not be found out.
    """
    try:
        if place.clone is None:
            await in_place.keep(place, records)
        elif job.profile != "review":
            await _note_clone(job, place.clone, records)
    except (GitError, OSError) as error:
        raise PlaceError(f"What the agent has changed so far could not be found out: {error}") from None


async def _in_clone(job: Job, home: Path, repository: Repository, folder: Path, records: Records) -> WorkPlace:
    known = _from_state(job.state)
    there = _known(home) if _is_whole(home) else None
    # What another store left here under the same number is nobody's any more.
    if there is not None and (there.task == job.task_id or (known is not None and there.branch == known.branch)):
        clone = await _used_again(home, repository, there, records)
    else:
        records.progress("making a clone of the repository")
        remove(home)
        clone = await _made(job, home, repository, known, records)
    if clone.task != job.task_id:
        clone = replace(clone, task=job.task_id, start=clone.commit)
    _remember(home, clone, records)
    below = folder.relative_to(repository.top or repository.git_dir) if repository.top else Path()
    place = (home / WORK / below).resolve()
    if not place.is_dir() or not place.is_relative_to((home / WORK).resolve()):
        raise PlaceError(f"The folder {below} is not in the branch {clone.branch}: it was never committed there.")
    return WorkPlace(place, home, clone.branch, clone.start)


async def _made(job: Job, home: Path, repository: Repository, known: Clone | None, records: Records) -> Clone:
    """A new clone; of the branch of `known`, if there was one before."""
    home.mkdir(mode=0o700, parents=True)
    ignored, shallow = await repository.ignored(), repository.shallow
    make: dict[str, Any] = {"object_format": repository.object_format, "shallow": shallow, "ignored": ignored}
    make_git_folder(home / KEPT, head="refs/heads/none", borrowed=repository.objects, **make)
    git = kept_git(home, repository)
    start = await _start_again(repository, known, records) if known else None
    clone = start or await _start(job, repository, git, records)
    await git.run("update-ref", f"refs/heads/{clone.branch}", clone.commit)
    await git.run("symbolic-ref", "HEAD", f"refs/heads/{clone.branch}")
    (home / WORK).mkdir(mode=0o700)
    await _check_out(git, None, clone.commit)
    await _make_agents_folder(home, repository, clone)
    return clone


async def _start(job: Job, repository: Repository, git: Git, records: Records) -> Clone:
    commit = await _base(job.base, repository, git)
    branch = await _free_name(repository, _wanted_name(job))
    dirty = job.base is None and await in_place.is_dirty(repository, commit)
    if dirty:
        records.progress("uncommitted changes in your checkout are not part of the agent's clone")
    return Clone(branch, commit, commit, job.task_id, commit, str(repository.common), dirty)


async def _start_again(repository: Repository, known: Clone, records: Records) -> Clone | None:
    """Where a conversation goes on whose clone was cleaned away."""
    for name in (f"refs/heads/{known.branch}", known.commit):
        if commit := await repository.git.commit_of(name):
            return replace(known, commit=commit, start=commit, source=str(repository.common))
    records.progress(f"the branch {known.branch} is gone; starting anew")
    return None


async def _base(base: str | None, repository: Repository, git: Git) -> str:
    """The commit that a new branch starts from."""
    theirs = repository.git
    if base is None:
        found = await theirs.commit_of("HEAD")
        if found is None:
            raise PlaceError("The repository has no commit yet. Make a first one, or let the agent work in place.")
        return found
    number = re.fullmatch(r"pull/(\d+)", base)
    if number:
        found = await repository.fetch(git, f"refs/pull/{number[1]}/head")
        if found is None:
            raise PlaceError(f"The repository's remote has no pull request {number[1]}.")
        return found
    if not await theirs.answers("check-ref-format", f"refs/heads/{base}"):
        raise PlaceError(f"{base!r} cannot be the name of a branch.")
    for name in (f"refs/heads/{base}", f"refs/remotes/{base}", f"refs/remotes/origin/{base}", f"refs/tags/{base}"):
        if found := await theirs.commit_of(name):
            return found
    found = await repository.fetch(git, f"refs/heads/{base}") if repository.remote else None
    if found is None:
        raise PlaceError(f"There is no branch {base!r}, neither here nor at the repository's remote.")
    return found


async def _used_again(home: Path, repository: Repository, known: Clone, records: Records) -> Clone:
    """The clone as the last attempt left it, brought up to the user's own commits on its branch where that is easy."""
    # The repository may have been moved, and its history cut or completed, since.
    (home / KEPT / "objects/info/alternates").write_bytes(os.fsencode(repository.objects) + b"\n")
    for lock in (home / KEPT).rglob("*.lock"):  # of a git that was killed: nobody else works here
        lock.unlink()
    git = kept_git(home, repository)
    if known.source != str(repository.common):
        if not (await repository.git.commit_of(known.commit) or await repository.git.commit_of(known.base)):
            raise PlaceError(
                f"This conversation works in another repository, {known.source}. Give the work as a new task."
            )
        known = replace(known, source=str(repository.common))
    theirs = await repository.git.commit_of(f"refs/heads/{known.branch}")
    if theirs and theirs != known.commit and await git.answers("merge-base", "--is-ancestor", known.commit, theirs):
        await asyncio.to_thread(_put_pipes_away, home / WORK)
        left = await snapshot(git)
        if left.tree == await git.text("rev-parse", f"{known.commit}^{{tree}}"):
            records.progress("taking over your own commits on the branch")
            await _check_out(git, known.commit, theirs)
            await git.run("update-ref", f"refs/heads/{known.branch}", theirs)
            known = replace(known, commit=theirs, start=theirs)
            await _make_agents_folder(home, repository, known)
    if (home / WORK / ".git").is_symlink() or not (home / WORK / ".git/HEAD").is_file():
        await _make_agents_folder(home, repository, known)
    return known


async def _check_out(git: Git, before: str | None, after: str) -> None:
    words = ("-m", "-u", before, after) if before else ("--reset", "-u", after)
    try:
        await git.run("read-tree", *words)
    except GitError as error:
        missing = "missing" in str(error) or "unable to read" in str(error)
        help_ = (
            " The repository is a partial clone: check that commit out in it once, then it is here." if missing else ""
        )
        raise PlaceError(f"The files of {after[:12]} could not be written: {error}.{help_}") from None


async def _make_agents_folder(home: Path, repository: Repository, clone: Clone) -> None:
    """The agent's own `.git`: it sees the user's branches and tags, and no remote that it could push to."""
    target = home / WORK / ".git"
    remove(target)
    head = f"refs/heads/{clone.branch}"
    make_git_folder(
        target,
        head=head,
        object_format=repository.object_format,
        borrowed=(home / KEPT / "objects"),
        shallow=repository.shallow,
        ignored=await repository.ignored(),
    )
    seen = {reference.name: reference.target for reference in await repository.references()}
    seen[head] = clone.commit
    packed = "".join(f"{target_} {name}\n" for name, target_ in sorted(seen.items()))
    (target / "packed-refs").write_text(packed, "utf-8", errors="surrogateescape")
    name, email = repository.identity
    settings = {"user.name": name, "user.email": email, "commit.gpgSign": "false", "gc.auto": "0"} | repository.settings
    for key, value in settings.items():
        await Git.ours(target).run("config", key, value)
    shutil.copyfile(home / KEPT / "index", target / "index")


async def _note_clone(job: Job, home: Path, records: Records) -> None:
    _, git, known, taken = await _taken(job, home)
    await record_work(git, known.start, taken.tree, taken, records, branch=None, base=known.start, commit=None,
                      dirty=known.dirty, clone=str(home / WORK))  # fmt: skip


async def _taken(job: Job, home: Path) -> tuple[Repository, Git, Clone, Snapshot]:
    """What is in the clone now."""
    repository = await find_repository(
        Path(job.folder).resolve(), Path(job.workspace).resolve() if job.workspace else None
    )
    if repository is None:
        raise GitError("the user's repository is gone")
    known = _known(home)
    if known is None:
        raise GitError(f"{NOTE} beside the clone is gone or damaged.")
    git = kept_git(home, repository)
    await asyncio.to_thread(_put_pipes_away, home / WORK)
    return repository, git, known, await snapshot(git)


async def _keep_clone(job: Job, home: Path, records: Records) -> None:
    repository, git, known, taken = await _taken(job, home)
    commit = known.commit
    if taken.tree != await git.text("rev-parse", f"{commit}^{{tree}}"):
        commit = await _commit(git, repository, taken, [commit], _message(job))
        await git.run("update-ref", f"refs/heads/{known.branch}", commit)
    known = replace(known, commit=commit)
    _remember(home, known, records)  # first: whoever is killed in between would bring the same again as another commit
    if commit != known.base:
        known = await _deliver(repository, git, known)
        _remember(home, known, records)
    await record_work(git, known.start, commit, taken, records, branch=known.branch if commit != known.base else None,
                  base=known.start, commit=commit if commit != known.base else None, dirty=known.dirty)  # fmt: skip


async def _commit(git: Git, repository: Repository, taken: Snapshot, parents: list[str], message: str) -> str:
    words = [word for parent in parents for word in ("-p", parent)]
    made = await git.with_env(**repository.identity_env).run(
        "commit-tree", taken.tree, *words, "-F", "-", stdin=message.encode(errors="replace")
    )
    return made.decode().strip()


async def _deliver(repository: Repository, git: Git, clone: Clone) -> Clone:
    """Set the branch in the user's repository; a new name where the user has gone another way with it."""
    now = await repository.git.commit_of(f"refs/heads/{clone.branch}")
    if now == clone.commit:
        return clone
    ahead = now is None or await git.answers("merge-base", "--is-ancestor", now, clone.commit)
    if ahead and clone.branch not in await repository.checked_out():
        await repository.take(git, clone.commit, clone.branch, now)
        return clone
    branch = await _free_name(repository, clone.branch)
    await repository.take(git, clone.commit, branch, None)
    await git.run("update-ref", f"refs/heads/{branch}", clone.commit)
    await git.run("symbolic-ref", "HEAD", f"refs/heads/{branch}")
    return replace(clone, branch=branch)


def _wanted_name(job: Job) -> str:
    return f"{PREFIX}/task-{job.task_number}" + (f"-{job.slug}" if job.slug else "")


async def _free_name(repository: Repository, wanted: str) -> str:
    """`wanted`, or that with a number, so that no branch of the user's has it."""
    taken = {reference.name.removeprefix("refs/heads/") for reference in await repository.references("refs/heads")}
    if PREFIX in taken:
        wanted = wanted.replace("/", "-", 1)
    names = (wanted, *(f"{wanted}-{number}" for number in range(2, NAMES_TRIED)))
    for name in names:
        if name not in taken and not any(other.startswith(f"{name}/") for other in taken):
            return name
    raise PlaceError(f"There are too many branches named {wanted} already; delete some.")


def _message(job: Job) -> str:
    words = " ".join(job.prompt.replace("\0", " ").split())
    subject = words if len(words) <= SUBJECT_CHARACTERS else words[: SUBJECT_CHARACTERS - 1].rstrip() + "…"
    return f"{subject or f'Task {job.task_number}'}\n\nOffhand-Task: {job.task_number}\nOffhand-Agent: {job.title}\n"


def _is_whole(home: Path) -> bool:
    return (home / KEPT / "HEAD").is_file() and (home / WORK).is_dir()


def _known(home: Path) -> Clone | None:
    try:
        return Clone(**json.loads((home / NOTE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _from_state(state: Mapping[str, Any]) -> Clone | None:
    try:
        return Clone(**state["clone"])
    except (KeyError, TypeError):
        return None


def _remember(home: Path, clone: Clone, records: Records) -> None:
    temporary = home / f"{NOTE}.new"
    temporary.write_text(json.dumps(asdict(clone)), "utf-8")
    temporary.replace(home / NOTE)
    records.state(clone=asdict(clone))


def _put_pipes_away(top: Path) -> None:
    """Pipes that have the names of files that git reads: it would wait for ever for what comes out of them."""
    for folder, _, names in os.walk(top):
        for name in {".gitignore", ".gitattributes"}.intersection(names):
            path = os.path.join(folder, name)
            if stat.S_ISFIFO(os.lstat(path).st_mode):
                os.unlink(path)
