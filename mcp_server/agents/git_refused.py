"""What git is never asked to do for anybody: run other programs, change its place or its configuration, read or
write elsewhere. The shell agent is there for those who want that.

This is not what keeps a phone out (`git_reading.py` is, a list of what is known to be harmless): it keeps
a rule such as "git may" from meaning "anything may".
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcp_server.errors import ForbiddenError, InvalidError
from mcp_server.spoken import spoken

FIELD = "params.command"
EXAMPLE = ("git", "status")


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


GLOBAL_OPTIONS = _names(
    """--no-pager -P --no-optional-locks --no-replace-objects --no-lazy-fetch --no-advice --literal-pathspecs
    --glob-pathspecs --noglob-pathspecs --icase-pathspecs"""
)
SUBCOMMANDS = _names(
    """add am annotate apply blame bisect branch cat-file check-attr check-ignore check-mailmap check-ref-format
    checkout cherry cherry-pick clean clone commit commit-tree config count-objects describe diff diff-files
    diff-index diff-tree fetch for-each-ref format-patch fsck gc grep hash-object init log ls-files ls-remote
    ls-tree merge merge-base merge-tree mktag mktree mv name-rev notes pack-refs prune pull push range-diff
    read-tree rebase reflog remote repack replace rerere reset restore rev-list rev-parse revert rm shortlog
    show show-branch show-ref sparse-checkout stash status submodule switch symbolic-ref tag update-index
    update-ref version worktree write-tree"""
)
"""git's own commands, built in: no alias can take their names."""
INSTEAD: Mapping[str, str] = {
    "help": 'It opens a viewer. Use -h, such as ["git", "log", "-h"].',
    "difftool": 'It runs other programs. Use ["git", "diff"].',
    "mergetool": 'It runs other programs. Use ["git", "diff"].',
    "whatchanged": 'git has given it up. Use ["git", "log", "--raw"].',
}

_EVERYWHERE = ("output", "ext-diff", "textconv", "help")
_TRANSPORT = ("upload-pack", "receive-pack", "exec")
_LONG: Mapping[str, tuple[str, ...]] = {
    "grep": ("open-files-in-pager", "no-index"),
    "diff": ("no-index",),
    "cat-file": ("filters",),
    "format-patch": ("output-directory",),
    "clone": (*_TRANSPORT, "config", "template"),
    "init": ("template",),
    "fetch": _TRANSPORT,
    "pull": _TRANSPORT,
    "push": _TRANSPORT,
    "ls-remote": _TRANSPORT,
    "remote": _TRANSPORT,
    "submodule": _TRANSPORT,
    "rebase": ("exec",),
    "config": ("global", "system", "file", "edit"),
}
_SHORT: Mapping[str, tuple[str, str]] = {
    "grep": ("O", "eABCmf"),
    "format-patch": ("o", "vU"),
    "clone": ("uc", "obj"),
    "rebase": ("x", "sXCS"),
    "config": ("fe", ""),
}
"""By subcommand: the letters that are refused, and those that take the rest of their word as a value."""
_NOT_ABBREVIATIONS = frozenset({"text"})
"""Names in full that begin a refused one and are harmless."""
_VERBS: Mapping[str, tuple[str, ...]] = {
    "bisect": ("run", "view", "visualize"),
    "submodule": ("foreach",),
}
_TAKES_ADDRESS = _names("clone fetch pull push ls-remote remote submodule")
_HELPER_ADDRESS = re.compile(r"(?:-[^=]*=)?[A-Za-z0-9][A-Za-z0-9+.-]*::")
_CLONE_VALUES = _names("-b --branch -o --origin -j --jobs --depth --filter --reference --shallow-since")


@dataclass(frozen=True, slots=True)
class GitCommand:
    """A command that git may be given: `git`, global options, subcommand, words."""

    options: tuple[str, ...]
    subcommand: str
    words: tuple[str, ...]


def parse(command: Sequence[str]) -> GitCommand:
    """Take the command apart.

    Raises:
        InvalidError: git has no such command, or it is incomplete.
        ForbiddenError: it would run other programs, or work elsewhere.
    """
    if command[0] != "git":
        fix = f'Start it with "git", such as {json.dumps(EXAMPLE)}, or use the shell agent.'
        raise InvalidError("This agent runs git only.", field=FIELD, fix=fix, say="This agent runs git only.")
    options: list[str] = []
    rest = list(command[1:])
    if rest[:1] in (["--version"], ["-v"]):
        rest[0] = "version"
    while rest and rest[0].startswith("-"):
        if rest[0] not in GLOBAL_OPTIONS:
            raise _forbidden(
                f"git {_shown(rest[0])} is not taken before the subcommand.",
                "Leave it out: it may change what git runs, and where. The folder goes into working_dir.",
            )
        options.append(rest.pop(0))
    if not rest:
        raise InvalidError(
            "The git command is incomplete.", field=FIELD, fix=f"Name one, such as {json.dumps(EXAMPLE)}."
        )
    parsed = GitCommand(tuple(options), rest[0], tuple(rest[1:]))
    _refuse_subcommand(parsed.subcommand)
    for word in parsed.words:
        _refuse_option(parsed.subcommand, word)
    _refuse_verbs(parsed)
    _refuse_addresses(parsed)
    return parsed


def _refuse_subcommand(name: str) -> None:
    if name in SUBCOMMANDS:
        return
    if name in INSTEAD:
        raise _forbidden(f"git {name} is not run here.", INSTEAD[name])
    close = difflib.get_close_matches(name, SUBCOMMANDS, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise InvalidError(
        f"{_shown(name)} is none of git's own commands that are run here.",
        field=FIELD,
        fix=f"{hint}Aliases and extensions may run any program: give those to the shell agent.",
        say=f"I do not run that git command. {f'Did you mean {close[0]}?' if close else ''}".strip(),
    )


def _refuse_option(subcommand: str, word: str) -> None:
    """Every word counts, also after `--`: `git grep -e -- -O` takes the `--` for the pattern."""
    if word.startswith("--"):
        name = word[2:].partition("=")[0]
        refused = (*_EVERYWHERE, *_LONG.get(subcommand, ()))
        # git takes an option by any beginning of its name.
        hit = name and name not in _NOT_ABBREVIATIONS and any(long.startswith(name) for long in refused)
        if hit or name.startswith("no-no-"):
            raise _forbidden_option(subcommand, word.partition("=")[0])
    elif word.startswith("-") and subcommand in _SHORT:
        letters, values = _SHORT[subcommand]
        for letter in word[1:]:
            if letter in letters:
                raise _forbidden_option(subcommand, f"-{letter}")
            if letter in values:
                break


def _refuse_verbs(parsed: GitCommand) -> None:
    for word in parsed.words:
        if word in _VERBS.get(parsed.subcommand, ()):
            raise _forbidden(
                f"git {parsed.subcommand} {word} runs other programs.", "Give that to the shell agent instead."
            )


def _refuse_addresses(parsed: GitCommand) -> None:
    for word in parsed.words if parsed.subcommand in _TAKES_ADDRESS else ():
        if _HELPER_ADDRESS.match(word):
            raise _forbidden(
                f"The address {_shown(word)} would run a helper program.", "Use an address of https, ssh or file."
            )


def refuse_places(parsed: GitCommand, cwd: Path, workspaces: Sequence[Path]) -> None:
    """What makes a new folder makes it in a workspace.

    Raises:
        ForbiddenError: it would not.
    """
    for target in _new_folders(parsed):
        place = Path(os.path.realpath(cwd / target))
        if not any(place.is_relative_to(workspace) for workspace in workspaces):
            raise _forbidden(
                f"The folder {_shown(target)} lies outside of the workspaces.", "Name a folder inside of a workspace."
            )


def _new_folders(parsed: GitCommand) -> Sequence[str]:
    words = parsed.words
    if parsed.subcommand == "worktree" and words[:1] in (("add",), ("move",)):
        return _plain(words[1:], frozenset({"-b", "-B", "--reason"}))[: 1 if words[0] == "add" else 2]
    if parsed.subcommand == "init":
        return [*_plain(words, frozenset({"-b", "--initial-branch"})), *_separate_git_dirs(words)]
    if parsed.subcommand == "clone":
        return [*_plain(words, _CLONE_VALUES)[1:], *_separate_git_dirs(words)]
    return ()


def _separate_git_dirs(words: Sequence[str]) -> list[str]:
    pairs = zip(words, (*words, "")[1:], strict=True)
    return [word.partition("=")[2] or following for word, following in pairs if word.startswith("--sep")]


def _plain(words: Sequence[str], take_value: frozenset[str]) -> list[str]:
    """The words that are neither options nor their values."""
    before = ("", *words)
    return [word for last, word in zip(before, words, strict=False) if last not in take_value and word[:1] != "-"]


def _forbidden_option(subcommand: str, option: str) -> ForbiddenError:
    return _forbidden(
        f"git {subcommand} is not run with {_shown(option)}: it may run another program, or work elsewhere.",
        "Leave it out, or give the command to the shell agent. A file of that name is written with ./ before it.",
    )


def _forbidden(message: str, fix: str) -> ForbiddenError:
    return ForbiddenError(message, field=FIELD, fix=fix, say=spoken(f"{message} {fix}"))


def _shown(word: str) -> str:
    return repr(word if len(word) <= 60 else word[:59] + "…")
