"""What a repository's own configuration would make git run, found without running git.

Whoever may write into a workspace may write `.git/config`, and git runs programs that it names. Most
are switched off by fixed settings; filters and configured hooks go by names that only the repository
knows. We look where git would look, and rather at too many files than at too few.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcp_server.agents.git_config import ConfigError, Entry, read_config

CONFIG_FILES = 32
"""More files than that, through includes, and we no longer say that we know what is in them."""


@dataclass(frozen=True, slots=True)
class Repository:
    """What was found around a folder. `doubt` says why the repository cannot be vouched for; empty where it can."""

    found: bool
    filters: frozenset[str]
    hooks: frozenset[str]
    submodules: frozenset[str]
    """Those that a command of the repository's own is to update."""
    doubt: str


def look_around(cwd: Path, workspace: Path, workspaces: Sequence[Path]) -> Repository:
    """Every repository that git could find from `cwd` (resolved) upwards, no higher than `workspace`."""
    entries: list[Entry] = []
    doubts: list[str] = []
    places = list(_git_folders(cwd, workspace))
    for place, git_dir in places:
        try:
            common = _common_folder(git_dir)
            if not _belongs(place, git_dir, common, workspaces):
                doubts.append("its repository lies outside of the workspaces")
            if any(_links_out(folder, workspaces) for folder in {git_dir, common}):
                doubts.append("its repository has links that leave it")
            found = _configuration(git_dir, common)
        except (OSError, ConfigError, ValueError) as error:
            doubts.append(f"its git configuration cannot be read ({error})")
            continue
        entries += found
        if any(_leaves(entry, git_dir, workspaces) for entry in found):
            doubts.append("its working tree lies outside of the workspaces")
    return Repository(
        found=bool(places),
        filters=frozenset(entry.subsection for entry in entries if entry.section == "filter"),
        hooks=frozenset(entry.subsection for entry in entries if entry.section == "hook"),
        submodules=frozenset(entry.subsection for entry in entries if _updates_by_command(entry)),
        doubt=doubts[0] if doubts else "",
    )


def _git_folders(cwd: Path, workspace: Path) -> Iterator[tuple[Path, Path]]:
    """Pairs of a folder and the git folder that it stands for, nearest first."""
    for place in (cwd, *cwd.parents):
        if not place.is_relative_to(workspace):
            return
        dot_git = place / ".git"
        if dot_git.is_dir():
            yield place, dot_git
        elif dot_git.is_file():
            yield place, _followed(dot_git, place)
        if (place / "HEAD").exists() and ((place / "config").exists() or (place / "objects").exists()):
            yield place, place


def _followed(dot_git: Path, place: Path) -> Path:
    """The folder that a `.git` file names; itself where it names none, which git refuses."""
    with dot_git.open("rb") as file:
        head = file.read(8192)
    name = os.fsdecode(head.removeprefix(b"gitdir:").strip()) if head.startswith(b"gitdir:") else ".git"
    return place / name


def _common_folder(git_dir: Path) -> Path:
    try:
        name = (git_dir / "commondir").read_bytes()
    except FileNotFoundError:
        return git_dir
    return git_dir / os.fsdecode(name.rstrip(b"\r\n"))


def _belongs(place: Path, git_dir: Path, common: Path, workspaces: Sequence[Path]) -> bool:
    """Whether the repository lies in a workspace, or is an outside one that has `place` for a worktree.

    Only who may write into the outside repository can have made that entry.
    """
    if _inside(git_dir, workspaces) and _inside(common, workspaces):
        return True
    real = git_dir.resolve()
    if real.parent != common.resolve() / "worktrees":
        return False
    named = os.fsdecode((real / "gitdir").read_bytes().strip())
    return (real / named).resolve() == (place / ".git").resolve()


def _links_out(git_dir: Path, workspaces: Sequence[Path]) -> bool:
    """git shows lines that it does not understand: `shallow` or `packed-refs` may be a link to a private file."""
    folders = [folder for folder in (git_dir, git_dir / "info") if folder.is_dir()]
    links = [path for folder in folders for path in folder.iterdir() if path.is_symlink()]
    return not all(_inside(path, workspaces) for path in links)


def _inside(path: Path, workspaces: Iterable[Path]) -> bool:
    real = path.resolve()
    return any(real.is_relative_to(workspace) for workspace in workspaces)


def _leaves(entry: Entry, git_dir: Path, workspaces: Sequence[Path]) -> bool:
    """`core.worktree` lets a repository claim any folder of the machine as its own."""
    if (entry.section, entry.subsection, entry.key) != ("core", "", "worktree"):
        return False
    return not _inside(git_dir / os.path.expanduser(entry.value), workspaces)


def _updates_by_command(entry: Entry) -> bool:
    return (entry.section, entry.key) == ("submodule", "update") and entry.value.startswith("!")


def _configuration(git_dir: Path, common: Path) -> list[Entry]:
    """All entries of the repository's own files and of what they include, whether the condition holds or not."""
    waiting = [common / "config", common / "config.worktree", git_dir / "config.worktree"]
    seen: set[Path] = set()
    entries: list[Entry] = []
    while waiting:
        path = waiting.pop().resolve()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        if len(seen) > CONFIG_FILES:
            raise ConfigError("it includes too many files")
        found = read_config(path)
        entries += found
        waiting += [_included(entry.value, path) for entry in found if _is_include(entry)]
    return entries


def _is_include(entry: Entry) -> bool:
    return entry.section in ("include", "includeif") and entry.key == "path"


def _included(value: str, path: Path) -> Path:
    if value.startswith("%(prefix)"):
        raise ConfigError("it includes a file of git's installation")
    return path.parent / os.path.expanduser(value)
