"""What is said about a git command: what people would answer who were asked, not what git printed.

git prints for people to read, in many forms (`-s`, `--oneline`, `--stat`, …). What is not recognised is
answered with its first line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mcp_server.agent import Exit
from mcp_server.spoken import spoken

_ID_LINE = re.compile(r"^[*|/\\_ .-]*commit [0-9a-f]{7,64}\b")
_ONE_LINE = re.compile(r"^[*|/\\_ .-]*\b[0-9a-f]{7,64} (?:\([^)]*\) )?(.+)")
_GRAPH = re.compile(r"^[*|/\\_ .-]*(?=\s{4})")
_SUMMARY = re.compile(
    r"^ (\d+) files? changed(?:, (\d+) insertions?\(\+\))?(?:, (\d+) deletions?\(-\))?$", re.MULTILINE
)
_HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def say_done(subcommand: str, words: Sequence[str], ended: Exit) -> str:
    """The sentence for a command that did what it was asked."""
    speak = {
        "status": _say_status,
        "log": _say_log,
        "show": _say_show,
        "diff": _say_diff,
        "branch": _say_branch,
        "grep": _say_grep,
    }.get(subcommand)
    said = speak(words, ended) if speak else ""
    return spoken(said or _first_lines(words, ended)) or "Done."


def say_failed(ended: Exit) -> str:
    """git's own first complaint, without its prefix, paths and parentheses."""
    lines = [line.strip() for line in (ended.stderr + "\n" + ended.stdout).splitlines() if line.strip()]
    complaint = next((line for line in lines if re.match(r"(fatal|error):", line)), lines[0] if lines else "")
    complaint = re.sub(r"^((fatal|error):\s*)+", "", complaint)
    complaint = re.sub(r"\s*\([^)]*\)(: \.git$)?", "", complaint)
    complaint = re.sub(r"'?(?<![\w.])/[^\s':]+(?:/[^\s':]+)+'?", "a file", complaint)
    if ended.how == "signaled":
        return spoken(f"git was stopped by a signal. {complaint}")
    return spoken(f"git says: {complaint}" if complaint else f"git failed with exit code {ended.returncode}.")


def _say_status(words: Sequence[str], ended: Exit) -> str:
    seen = _read_status(ended.stdout)
    if seen is None:
        return ""
    parts: list[str] = []
    if seen.unmerged:
        parts.append(f"{_count(len(seen.unmerged), 'file')} in conflict")
    if seen.changed:
        parts.append(f"{_count(len(seen.changed), 'file')} changed")
    if seen.untracked:
        parts.append(f"{seen.untracked} untracked")
    if not parts and not ended.truncated:
        parts.append("nothing to commit" if seen.empty else "everything committed")
    if ended.truncated:
        parts.append("and more")
    return ", ".join([*seen.where, *parts]) + "."


@dataclass(slots=True)
class _Status:
    where: list[str]
    changed: set[str]
    unmerged: set[str]
    untracked: int = 0
    empty: bool = False
    """No commits yet."""


def _read_status(text: str) -> _Status | None:
    """None where this is no status that we understand."""
    lines = [line for line in re.split(r"[\n\0]", text) if line]
    if any(
        re.match(r"(On branch |HEAD detached|Not currently on any branch|nothing to commit)", line) for line in lines
    ):
        return _read_long_status(lines)
    if any(line.startswith(("# branch.", "1 ", "2 ", "u ")) for line in lines):
        return _read_porcelain_two(lines)
    if all(line.startswith("## ") or re.match(r"[ MTADRCU?!]{2} ", line) or "\0" in text for line in lines):
        return _read_short_status(lines, nul="\0" in text)
    return None


def _read_long_status(lines: list[str]) -> _Status:
    seen = _Status([], set(), set())
    section = ""
    for line in lines:
        if line.startswith("On branch "):
            seen.where.append(f"On branch {line[10:]}")
        elif line.startswith(("HEAD detached", "Not currently on any branch")):
            seen.where.append("On no branch")
        elif line.startswith("No commits yet"):
            seen.where.append("no commits yet")
            seen.empty = True
        elif found := re.match(r"Your branch is (ahead|behind).* by (\d+) commit", line):
            seen.where.append(f"{found[2]} {found[1]}")
        elif found := re.match(r"and have (\d+) and (\d+) different commits", line):
            seen.where.append(f"{found[1]} ahead, {found[2]} behind")
        elif found := re.match(r".*\b(merging|rebasing|rebase in progress|cherry-picking|reverting|bisecting)\b", line):
            seen.where.append("a rebase is going on" if "rebase" in found[1] else f"{found[1]} is going on")
        elif line.startswith("\t"):
            _take_entry(seen, section, line[1:])
        elif not line.startswith(" "):
            section = line
    return seen


def _take_entry(seen: _Status, section: str, entry: str) -> None:
    name = entry.partition(":")[2].strip() or entry
    if section.startswith("Untracked"):
        seen.untracked += 1
    elif section.startswith("Unmerged"):
        seen.unmerged.add(name)
    elif section.startswith("Changes"):
        seen.changed.add(name)


def _read_short_status(lines: list[str], *, nul: bool) -> _Status:
    seen = _Status([], set(), set())
    waiting = iter(lines)
    for line in waiting:
        if line.startswith("## "):
            _take_head(seen, line[3:])
            continue
        kind, name = line[:2], line[3:]
        if nul and kind[:1] in "RC":
            next(waiting, None)  # the old name follows as an entry of its own
        if kind == "??":
            seen.untracked += 1
        elif "U" in kind or kind in ("AA", "DD"):
            seen.unmerged.add(name)
        elif kind != "!!":
            seen.changed.add(name)
    return seen


def _take_head(seen: _Status, head: str) -> None:
    for prefix in ("No commits yet on ", "Initial commit on "):
        if head.startswith(prefix):
            seen.where += [f"On branch {head.removeprefix(prefix)}", "no commits yet"]
            seen.empty = True
            return
    if head.startswith("HEAD (no branch)"):
        seen.where.append("On no branch")
        return
    seen.where.append(f"On branch {re.split(r'[.]{3}| ', head)[0]}")
    seen.where += [f"{number} {way}" for way, number in re.findall(r"(ahead|behind) (\d+)", head)]


def _read_porcelain_two(lines: list[str]) -> _Status:
    seen = _Status([], set(), set())
    for line in lines:
        if line.startswith("# branch.oid (initial)"):
            seen.empty = True
        elif line.startswith("# branch.head "):
            head = line.removeprefix("# branch.head ")
            seen.where.append("On no branch" if head == "(detached)" else f"On branch {head}")
        elif line.startswith(("1 ", "2 ")):
            seen.changed.add(line)
        elif line.startswith("u "):
            seen.unmerged.add(line)
        elif line.startswith("? "):
            seen.untracked += 1
    if seen.empty:
        seen.where.append("no commits yet")
    return seen


def _say_log(words: Sequence[str], ended: Exit) -> str:
    subjects = _subjects(ended.stdout)
    if not subjects:
        return "" if ended.stdout.strip() else "No commits."
    if ended.truncated:
        # We hold the end of the output only: the newest commits were printed first.
        return f"More than {_count(len(subjects), 'commit')}."
    which = "first" if "--reverse" in words else "latest"
    number = "1 commit" if len(subjects) == 1 else f"{len(subjects)} commits"
    return f"{number}. The {which}: {subjects[0]}" if len(subjects) > 1 else f"{number}: {subjects[0]}"


def _subjects(text: str) -> list[str]:
    """The first line of each commit's message, in the order printed; empty for a format that is not git's own."""
    lines = text.splitlines()
    if any(_ID_LINE.match(line) for line in lines):
        subjects: list[str] = []
        waits = False
        for line in lines:
            if _ID_LINE.match(line):
                if waits:
                    subjects.append("without a message")
                waits = True
            elif waits and (indented := _GRAPH.sub("", line)).startswith("    ") and indented.strip():
                subjects.append(indented.strip())
                waits = False
        return [*subjects, "without a message"] if waits else subjects
    found = [_ONE_LINE.match(line) for line in lines]
    return [match[1] for match in found if match] if found and found[0] else []


def _say_show(words: Sequence[str], ended: Exit) -> str:
    subjects = _subjects(ended.stdout)
    if not subjects or ended.truncated:
        return ""
    changes = _changes(ended.stdout)
    return f"{subjects[0].rstrip('.')}. {changes}" if changes else subjects[0]


def _say_diff(words: Sequence[str], ended: Exit) -> str:
    if ended.truncated:
        return "A long diff; its end is in the record."
    if not ended.stdout.strip():
        return "There are differences." if ended.returncode == 1 else "No differences."
    if changes := _changes(ended.stdout):
        return changes
    if any(word in ("--name-only", "--name-status", "--numstat", "--raw") for word in words):
        return _say_changes(len(re.findall(r"[^\n\0]+", ended.stdout)), 0, 0)
    return ""


def _changes(text: str) -> str:
    """How many files differ and by how much, from a diff or from its summary. Empty for anything else."""
    if found := _SUMMARY.search(text):
        return _say_changes(int(found[1]), int(found[2] or 0), int(found[3] or 0))
    files = added = removed = 0
    old = new = 0
    for line in text.splitlines():
        if old > 0 or new > 0:
            # Inside of a hunk, whose header says how long it is: "--- a" may be a line that was removed.
            sign = line[:1]
            added, removed = added + (sign == "+"), removed + (sign == "-")
            old, new = old - (sign in ("-", " ", "")), new - (sign in ("+", " ", ""))
        elif line.startswith(("diff --git ", "diff --cc ", "diff --combined ")):
            files += 1
        elif found := _HUNK.match(line):
            old, new = int(found[1] or 1), int(found[2] or 1)
    return _say_changes(files, added, removed) if files else ""


def _say_changes(files: int, added: int, removed: int) -> str:
    parts = [_count(files, "file") + (" differs" if files == 1 else " differ")]
    if added:
        parts.append(f"{_count(added, 'line')} added")
    if removed:
        parts.append(f"{removed} removed" if added else f"{_count(removed, 'line')} removed")
    return ", ".join(parts) + "."


def _say_branch(words: Sequence[str], ended: Exit) -> str:
    lines = [line for line in ended.stdout.splitlines() if line.strip()]
    if words and words[0] == "--show-current":
        return f"On branch {lines[0]}." if lines else "On no branch."
    marked = [line for line in lines if line.startswith(("* ", "  ", "+ "))]
    if not lines or len(marked) < len(lines):
        return ""
    current = next((line[2:] for line in lines if line.startswith("* ")), "")
    here = "" if not current else "on no branch" if current.startswith("(") else f"on {current.split()[0]}"
    number = "1 branch" if len(lines) == 1 else f"{len(lines)} branches"
    return f"{number}, {here}." if here else f"{number}. The first: {lines[0].split()[0]}."


def _say_grep(words: Sequence[str], ended: Exit) -> str:
    lines = ended.stdout.splitlines()
    if not lines:
        return "No matches." if ended.returncode == 1 else ""
    return "1 line found." if len(lines) == 1 else f"{len(lines)} lines found."


def _first_lines(words: Sequence[str], ended: Exit) -> str:
    if ended.returncode == 1 and not ended.stdout.strip():
        return "No."
    lines = [line for line in (ended.stdout.strip() or ended.stderr.strip()).splitlines() if line.strip()]
    if not lines:
        return "Done."
    if ended.truncated:
        return f"A long answer, which ends: {lines[-1]}"
    return lines[0] if len(lines) == 1 else f"{spoken(lines[0], 30)} And {_count(len(lines) - 1, 'more line')}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
