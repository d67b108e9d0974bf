"""The user's own repository: where it is, what a clone needs to know of it, and a branch for it to take in.

Nothing here writes into it but `take`, which adds objects and sets one branch. Its work tree, index, HEAD and
settings are never touched, and what its settings name is never run.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mcp_server.drivers.git import FETCH_SECONDS, Git, GitError, last_words

IDENTITY = ("Offhand", "offhand@localhost")
"""Of commits in a repository whose user has told git no name."""

COPIED_SETTINGS = ("autocrlf", "eol", "filemode", "ignorecase", "precomposeunicode", "symlinks")
"""Of `core`: how files are read and written. No program can be named by them."""

LOOSE_OBJECTS = 100
"""More new objects than that are kept as one pack."""

LOCK_SECONDS = 10.0
"""A lock of our branch that is older is nobody's."""

IGNORED_FILE_BYTES = 1024 * 1024
REFERENCES = ("refs/heads", "refs/remotes", "refs/tags")

_OBJECT_ID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class PlaceError(Exception):
    """There is no place to work in: the message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A branch or tag and the id that it has."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Repository:
    """The user's repository. `top` is None for a bare one; `settings` are the copied ones, as `core.name`."""

    top: Path | None
    git_dir: Path
    common: Path
    object_format: str
    identity: tuple[str, str]
    settings: dict[str, str]
    remote: str | None
    hooks: tuple[str, ...]

    @property
    def git(self) -> Git:
        """git on it, with its configured hooks switched off too."""
        off = {f"hook.{name}.enabled": "false" for name in self.hooks}
        return Git.theirs(self.git_dir).with_settings(off).with_env(**self.identity_env)

    @property
    def objects(self) -> Path:
        """Its folder of objects."""
        return self.common / "objects"

    @property
    def identity_env(self) -> dict[str, str]:
        """The identity, as git takes it from the environment."""
        name, email = self.identity
        return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in
                (("NAME", name), ("EMAIL", email))}  # fmt: skip

    @property
    def shallow(self) -> bytes:
        """Where its history was cut off, as the file of that name has it; empty where it is whole."""
        lines = _content(self.common / "shallow", self.common).split()
        return b"".join(line + b"\n" for line in lines if _OBJECT_ID.fullmatch(line))

    async def references(self, *patterns: str) -> list[Reference]:
        """Its branches and tags, or those of `patterns`."""
        listed = await self.git.text("for-each-ref", "--format=%(objectname) %(refname)", *(patterns or REFERENCES))
        pairs = [line.split(" ", 1) for line in listed.split("\n") if line]  # names may have other ends of lines
        return [Reference(name, target) for target, name in pairs]

    async def ignored(self) -> str:
        """The patterns of its user's own lists of ignored files: the one for all repositories, and the one in it."""
        # Not this repository's own setting: it could name any file, and the agent would read it.
        named = await _machine_git().outcome("config", "--get", "--type=path", "core.excludesFile")
        base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        path = Path(os.fsdecode(named[1].rstrip(b"\n")) if named[0] == 0 else f"{base}/git/ignore")
        texts = [_content(path, None), _content(self.common / "info/exclude", self.common)]
        return "\n".join(text.decode(errors="surrogateescape") for text in texts if text)

    async def fetch(self, into: Git, name: str) -> str | None:
        """Get what the repository's remote has under the full name `name`, into a git folder of ours. Its id, or None.

        Raises:
            PlaceError: there is no remote, or it cannot be reached.
        """
        if self.remote is None:
            raise PlaceError("The repository has no remote to get that from. Add one with: git remote add origin URL")
        if self.remote.startswith("-") or "::" in self.remote.split("/")[0]:
            raise PlaceError(f"The repository's remote has an address of a kind that is not used here: {self.remote}")
        git = into.over_the_network()
        words = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap=")
        try:
            await git.run(*words, "--", self.remote, f"+{name}:refs/offhand/base", seconds=FETCH_SECONDS)
        except GitError as error:
            if "couldn't find remote ref" in str(error):
                return None
            raise PlaceError(f"The repository's remote cannot be asked: {error}") from None
        return await into.commit_of("refs/offhand/base")

    async def take(self, ours: Git, commit: str, branch: str, before: str | None) -> None:
        """Take in `commit` from a git folder of ours and set `branch`, which is still at `before` (None: is new).

        Raises:
            GitError: the objects are damaged, or the branch has moved.
        """
        known = {reference.target for reference in await self.references("refs/heads", "refs/remotes")}
        looked_up = await ours.run("cat-file", "--batch-check=%(objectname)", stdin=_lines(sorted(known)))
        # A reference may be broken: what it names says "missing".
        there = [line for line in looked_up.decode().splitlines() if " " not in line]
        wanted = [commit, *(f"^{target}" for target in there)]
        with tempfile.TemporaryFile() as pack:
            words = ("pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset")
            code, _, err = await ours.outcome(*words, stdin=_lines(wanted), into=pack.fileno())
            if code:
                raise GitError(last_words(err))
            (count,) = struct.unpack(">I", os.pread(pack.fileno(), 4, 8))
            os.lseek(pack.fileno(), 0, os.SEEK_SET)
            if count:
                loose = ("unpack-objects", "-q", "--strict")
                packed = ("index-pack", "--stdin", "--strict")
                await self.git.run(*(loose if count <= LOOSE_OBJECTS else packed), stdin=pack.fileno())
        zero = "0" * len(commit)
        message = f"offhand: {branch}"
        self._drop_old_lock(branch)
        await self.git.run("update-ref", "-m", message, f"refs/heads/{branch}", commit, before or zero)

    def _drop_old_lock(self, branch: str) -> None:
        """Of a git that was killed: it is held for milliseconds, and would keep all further work back."""
        lock = self.common / f"refs/heads/{branch}.lock"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if time.time() - lock.lstat().st_mtime > LOCK_SECONDS:
                lock.unlink()

    async def checked_out(self) -> set[str]:
        """The branches that a work tree of the user's is on."""
        listed = await self.git.text("worktree", "list", "--porcelain")
        return {line.removeprefix("branch refs/heads/") for line in listed.split("\n") if line.startswith("branch ")}


async def find_repository(folder: Path, workspace: Path | None) -> Repository | None:
    """The repository that `folder` (resolved) lies in, no higher than `workspace`; None where there is none.

    Raises:
        PlaceError: there is one that cannot be used.
    """
    if not folder.is_dir():
        raise PlaceError(f"The folder {folder} is gone. Name a workspace that exists: offhand workspace list")
    ceiling = {"GIT_CEILING_DIRECTORIES": str(workspace.parent)} if workspace else {}
    git = Git.theirs(None, folder).with_env(**ceiling)
    words = ("--is-bare-repository", "--show-object-format", "--absolute-git-dir", "--git-common-dir")
    code, out, err = await git.outcome("rev-parse", *words)
    if code:
        text = err.decode(errors="replace")
        if "not a git repository (or any" in text:
            return None
        raise PlaceError(f"git cannot use the repository in {folder}: {_first(text)}")
    lines = os.fsdecode(out).removesuffix("\n").split("\n")
    if len(lines) != len(words):
        raise PlaceError(f"The name of the folder {folder} has a line break in it. Give it another name.")
    bare, object_format, git_dir, common = lines
    found = Path(git_dir).resolve(), (folder / common).resolve()
    top = None
    if bare == "false":
        shown = await git.outcome("rev-parse", "--show-toplevel")
        if shown[0]:
            raise PlaceError(f"{folder} lies inside of a .git folder. Name the folder of the work tree.")
        top = Path(os.fsdecode(shown[1].rstrip(b"\n"))).resolve()
    _refuse_foreign(folder, top, *found)
    return await _described(top, *found, object_format)


async def _described(top: Path | None, git_dir: Path, common: Path, object_format: str) -> Repository:
    listed = await Git.theirs(git_dir).outcome("config", "-z", "--list")
    if listed[0]:
        raise PlaceError(
            f"git cannot read the settings of the repository: {_first(listed[2].decode(errors='replace'))}"
        )
    pairs = [entry.partition("\n") for entry in listed[1].decode(errors="surrogateescape").split("\0") if entry]
    values = {name: value for name, _, value in pairs}
    name, email = values.get("user.name", "").strip(), values.get("user.email", "").strip()
    return Repository(
        top=top,
        git_dir=git_dir,
        common=common,
        object_format=object_format,
        identity=(name or IDENTITY[0], email or IDENTITY[1]) if name or email else IDENTITY,
        settings={f"core.{each}": values[f"core.{each}"] for each in COPIED_SETTINGS if values.get(f"core.{each}")},
        remote=_remote(values, top or git_dir),
        hooks=tuple({each.split(".", 1)[1].rsplit(".", 1)[0] for each in values if each.startswith("hook.")}),
    )


def _remote(values: dict[str, str], top: Path) -> str | None:
    """The address of the remote `origin`, or of the only one."""
    urls = {name[len("remote.") : -len(".url")]: url for name, url in values.items() if _is_url(name)}
    url = urls.get("origin") or (next(iter(urls.values())) if len(urls) == 1 else None)
    if url and "://" not in url and url.startswith(("./", "../")):
        return str(top / url)
    return url or None


def _is_url(name: str) -> bool:
    return name.startswith("remote.") and name.endswith(".url")


def _refuse_foreign(folder: Path, top: Path | None, git_dir: Path, common: Path) -> None:
    """Whoever may write a file into a workspace may write a `.git` that names another repository of the user's.

    It belongs to the folder when it lies in it, or when it names the folder itself: as a linked worktree or a
    submodule does. Only who may write into the other repository can have made that entry.
    """
    if top is None:
        if folder.is_relative_to(git_dir):
            return
        raise PlaceError(f"{folder} does not lie in the bare repository {git_dir}, which it names.")
    if not folder.is_relative_to(top):
        raise PlaceError(f"The repository of {folder} says that its work tree is {top}, which is another folder.")
    if git_dir.is_relative_to(top) and common.is_relative_to(top):
        return
    named = _content(git_dir / "gitdir", git_dir).strip()
    if (
        git_dir.parent == common / "worktrees"
        and named
        and (git_dir / os.fsdecode(named)).resolve() == (top / ".git").resolve()
    ):
        return
    # A submodule: git has read `core.worktree` from its settings, and that names the folder.
    if git_dir == common and "modules" in git_dir.parts and top.joinpath(".git").is_file() and _works_in(git_dir, top):
        return
    raise PlaceError(
        f"The repository of {top} lies elsewhere, in {git_dir}, and does not know of it. "
        "Name the repository's own folder, or add this one with: git worktree add"
    )


def _works_in(git_dir: Path, top: Path) -> bool:
    found = re.search(
        rb"^\s*worktree\s*=\s*(.+?)\s*$", _content(git_dir / "config", git_dir), re.MULTILINE | re.IGNORECASE
    )
    return found is not None and (git_dir / os.fsdecode(found[1].strip(b'"'))).resolve() == top


def _content(path: Path, inside: Path | None) -> bytes:
    """The beginning of a small file; empty where there is none, or where it is a link that leaves `inside`."""
    try:
        if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
            return b""
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(IGNORED_FILE_BYTES)
    except OSError:
        return b""


def _machine_git() -> Git:
    """git outside of any repository."""
    return Git.theirs(Path(os.devnull))


def _lines(words: Iterable[str]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()


def _first(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it does not say why")
    return line.removeprefix("fatal:").strip()
