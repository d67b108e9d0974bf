"""Commands that an agent may run unasked: those that only read, and the project's own.

They are lists of what is known, looked at as an argument vector; whatever is not on them is asked about. What such a
command does in turn (a Makefile, a test) nobody looks at: the sandbox is what contains it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcp_server.git_reading import reads_only as git_reads_only


@dataclass(frozen=True, slots=True)
class _More:
    """Options by which a program does more than to read what it is pointed at: their beginnings, and single letters."""

    beginnings: tuple[str, ...] = ()
    letters: str = ""


_READERS = (
    *("basename", "cat", "cmp", "cut", "dirname", "du", "echo", "false", "head", "ls", "nl", "od", "printf", "pwd"),
    *("readlink", "realpath", "stat", "tail", "true", "type", "wc", "which"),
)
READING_PROGRAMS: Mapping[str, _More] = {
    **dict.fromkeys(_READERS, _More()),
    # Links in a repository may lead anywhere: these would follow them.
    "diff": _More(("--r",), "r"),
    **dict.fromkeys(("grep", "egrep", "fgrep"), _More(("--der",), "R")),
    "find": _More(("-exec", "-ok", "-delete", "-fprint", "-fls", "-files0-from")),
    "rg": _More(("--pre", "--hostname-bin", "--follow"), "L"),
}
"""Programs that read files and print."""

PROJECT_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("make", "*"),
    ("just", "*"),
    ("pytest", "*"),
    ("python", "-m", "pytest", "*"),
    ("python3", "-m", "pytest", "*"),
    ("python", "-m", "unittest", "*"),
    ("python3", "-m", "unittest", "*"),
    ("uv", "run", "pytest", "*"),
    ("tox", "*"),
    ("nox", "*"),
    ("ruff", "*"),
    ("black", "*"),
    ("mypy", "*"),
    ("pyright", "*"),
    ("npm", "test", "*"),
    ("npm", "run", "*"),
    ("pnpm", "test", "*"),
    ("pnpm", "run", "*"),
    ("yarn", "test", "*"),
    ("yarn", "run", "*"),
    ("tsc", "*"),
    ("eslint", "*"),
    ("prettier", "*"),
    ("vitest", "*"),
    ("jest", "*"),
    ("node", "--test", "*"),
    ("cargo", "build", "*"),
    ("cargo", "check", "*"),
    ("cargo", "clippy", "*"),
    ("cargo", "doc", "*"),
    ("cargo", "fmt", "*"),
    ("cargo", "run", "*"),
    ("cargo", "test", "*"),
    ("go", "build", "*"),
    ("go", "fmt", "*"),
    ("go", "test", "*"),
    ("go", "vet", "*"),
    ("gofmt", "*"),
    ("ctest", "*"),
    ("cmake", "--build", "*"),
    ("mvn", "test", "*"),
    ("mvn", "verify", "*"),
    ("gradle", "build", "*"),
    ("gradle", "test", "*"),
    ("./gradlew", "build", "*"),
    ("./gradlew", "test", "*"),
    ("bundle", "exec", "rspec", "*"),
    ("rake", "test", "*"),
    ("dotnet", "build", "*"),
    ("dotnet", "test", "*"),
    ("mkdir", "*"),
    ("touch", "*"),
    ("cp", "*"),
    ("mv", "*"),
)
"""Build, test and tidy, make and move files; nothing that is there to publish, to install or to fetch."""

CLONE_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("rm", "*"),
    ("rmdir", "*"),
    ("git", "add", "*"),
    ("git", "commit", "*"),
    ("git", "mv", "*"),
    ("git", "restore", "*"),
    ("git", "rm", "*"),
)
"""What is harmless in a clone alone: what they spoil there, the user has still."""

_SED_RANGE = re.compile(r"(\d+|\$)(,(\d+|\$))?p")
_UNQUOTED = frozenset("\n\r;&|<>`$(){}*?[]~!#\\^=")
"""What a shell may expand, split at or join by, wherever it stands without quotes. `=` may stand inside of a word."""

_IN_DOUBLE_QUOTES = frozenset("$`\\!")


def plain_command(line: str) -> tuple[str, ...] | None:
    """The argument vector of a command line that a shell would neither expand nor split; else None.

    Quotes are understood as far as nothing in them is expanded. A line that begins with an assignment is not plain.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    for character in line:
        if quote:
            if character == quote:
                quote = ""
            elif quote == '"' and character in _IN_DOUBLE_QUOTES:
                return None
            else:
                word = (word or "") + character
        elif character in "'\"":
            quote, word = character, word or ""
        elif character in " \t":
            if word is not None:
                words.append(word)
            word = None
        elif not character.isprintable() or (character in _UNQUOTED and not (character == "=" and word and words)):
            return None
        else:
            word = (word or "") + character
    if quote or "\0" in line:
        return None
    if word is not None:
        words.append(word)
    return tuple(words) or None


def only_reads(argv: Sequence[str], cwd: str, place: str, *, own_clone: bool) -> bool:
    """Whether the command is known to do nothing but read files in `place`. git only where its settings are ours."""
    program, words = argv[0], argv[1:]
    if program == "git":
        return own_clone and bool(words) and git_reads_only(words[0], words[1:])
    if program == "sed":
        return (
            len(words) >= 2
            and words[0] == "-n"
            and _SED_RANGE.fullmatch(words[1]) is not None
            and not any(word.startswith("-") for word in words[2:])
            and reads_inside(words[2:], cwd, place)
        )
    more = READING_PROGRAMS.get(program)
    return more is not None and not any(_does_more(word, more) for word in words) and reads_inside(words, cwd, place)


def is_of_the_project(argv: Sequence[str], cwd: str, place: str, *, own_clone: bool) -> bool:
    """Whether the command builds, tests or tidies in `place`; in a clone of the agent's own, also commits."""
    patterns = (*PROJECT_COMMANDS, *CLONE_COMMANDS) if own_clone else PROJECT_COMMANDS
    return any(matches(pattern, argv) for pattern in patterns) and all(
        is_inside(path, cwd, place) and not is_of_git(path, cwd) for word in argv[1:] for path in _paths_in(word)
    )


def matches(pattern: Sequence[str], argv: Sequence[str]) -> bool:
    """A last `*` stands for any rest, also for none; any other `*` for exactly one argument. As in `policy.py`."""
    open_ended = pattern[-1] == "*"
    head = pattern[:-1] if open_ended else pattern
    if len(argv) < len(head) or (not open_ended and len(argv) != len(head)):
        return False
    return all(wanted in ("*", given) for wanted, given in zip(head, argv, strict=False))


def reads_inside(words: Sequence[str], cwd: str, place: str) -> bool:
    """Whether no word names a file out of `place`, as far as words look like paths; links are followed.

    What is not there cannot be read: a word such as `/api/users` may be what is searched for.
    """
    paths = (path for word in words for path in _paths_in(word))
    return all(is_inside(path, cwd, place) or not os.path.lexists(os.path.join(cwd, path)) for path in paths)


def is_inside(path: str, cwd: str, place: str) -> bool:
    """Whether a path, seen from `cwd`, lies in `place` once links are followed."""
    real = os.path.realpath(os.path.join(cwd, path))
    home = os.path.realpath(place)
    return real == home or real.startswith(home.rstrip("/") + "/")


def is_of_git(path: str, cwd: str) -> bool:
    """Whether it lies in a folder `.git`: what is written there may run the next time that somebody uses git."""
    written = os.path.join(cwd, path)
    parts = (*written.split("/"), *os.path.realpath(written).split("/"))
    return any(part.casefold() == ".git" for part in parts)


def _does_more(word: str, more: _More) -> bool:
    if word.startswith(more.beginnings):
        return True
    bundled = word.startswith("-") and not word.startswith("--")
    return bundled and any(letter in word for letter in more.letters)


def _paths_in(word: str) -> list[str]:
    """What of a word may be a path: all of it, what stands behind `=`, or behind the letters of short options."""
    found = [word] if not word.startswith("-") else []
    found += [part for part in word.split("=")[1:] if part]
    if word.startswith("-") and "/" in word:
        found.append(word[word.index("/") :])
    if word.startswith("-") and ".." in word:
        found.append(word[word.index("..") :])
    return found
