"""One change to a client's file: worked out first, shown, and then written, with the file as it was kept beside it."""

from __future__ import annotations

import copy
import difflib
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast

from mcp_server.clients.entry import NAME, OURS_IN_ENV, Entry
from mcp_server.clients.format import Keys, UnreadableError
from mcp_server.clients.known import Client
from mcp_server.errors import ConflictError, InvalidError, UnavailableError

Kind = Literal["add", "update", "remove", "none"]

LONGEST_FILE_BYTES = 64 * 1024 * 1024
SHOWN_LINE = 160
"""Of a longer line of a file, the rest is not shown: some clients write all that they know in one."""

CONTEXT_LINES = 2


@dataclass(frozen=True, slots=True)
class Change:
    """What a file holds now and will hold. `before` is None where there is no file yet."""

    path: Path
    kind: Kind
    before: bytes | None
    after: bytes

    def diff(self) -> str:
        """The lines that go (`-`) and come (`+`), with a little of what is around them."""
        now, then = ((data or b"").decode().splitlines() for data in (self.before, self.after))
        # difflib takes half a minute for what a client wrote in a year, so it gets only the part that differs.
        start = max(0, _common(now, then) - CONTEXT_LINES)
        end = max(0, _common(now[start:][::-1], then[start:][::-1]) - CONTEXT_LINES)
        now, then = now[start : len(now) - end], then[start : len(then) - end]
        lines = list(difflib.unified_diff(now, then, n=CONTEXT_LINES, lineterm=""))[3:]  # after its header
        shown = ("…" if line.startswith("@@ ") else line for line in lines)
        return "\n".join(line if len(line) <= SHOWN_LINE else f"{line[:SHOWN_LINE]}…" for line in shown)

    def write(self, now: datetime) -> Path | None:
        """Write the file, whole or not at all. Returns where the file as it was is kept, if there was one.

        Raises:
            ConflictError: the file is not what it was when this change was worked out.
            UnavailableError: it cannot be written.
        """
        with _told(self.path):
            if _read(self.path) != self.before:
                raise ConflictError(
                    f"{self.path} was changed in the meantime, and is left as it is.", field="file", fix="Try again."
                )
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = stat.S_IMODE(self.path.stat().st_mode) if self.before is not None else 0o600
            if not mode & stat.S_IWUSR:
                raise UnavailableError(f"{self.path} is read-only. Nothing was changed.", field="file")
            backup = None
            if self.before is not None:
                backup = self.path.with_name(f"{self.path.name}.offhand-backup-{now:%Y%m%dT%H%M%S%f}")
                _write_new(backup, self.before, mode)
            temporary = self.path.with_name(f".{self.path.name}.offhand-{os.getpid()}")
            try:
                _write_new(temporary, self.after, mode)
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
            return backup


def installed_entry(client: Client, path: Path) -> dict[str, Any] | None:
    """What stands for Offhand in the file now. Raises InvalidError or UnavailableError."""
    path = _resolved(path)
    with _told(path):
        before = _read(path)
    with _explained(client, path, None):
        values = client.format.read((before or b"").decode())
    entry = _at(values, (client.section, NAME))
    return cast("dict[str, Any]", entry) if isinstance(entry, dict) else None


def plan_change(client: Client, path: Path, entry: Entry | None) -> Change:
    """Put our entry into the file, or take it out (None). Nothing is written here.

    What the user added to our entry stays, and so does a variable that is not ours.

    Raises:
        InvalidError: the file cannot be understood, or not be changed without touching something else.
        UnavailableError: it cannot be read.
    """
    path = _resolved(path)
    with _told(path):
        before = _read(path)
    wanted = entry.record(typed=client.typed) if entry is not None else None
    with _explained(client, path, wanted):
        text = (before or b"").decode()
        values = client.format.read(text)
        there = _at(values, (client.section, NAME))
        edits = _edits(there, wanted)
        for rest, value in edits:
            keys = (client.section, NAME, *rest)
            text = client.format.remove(text, keys) if value is None else client.format.set(text, keys, value)
            _change(values, keys, value)
        if _without_empty(client.format.read(text), client.section) != _without_empty(values, client.section):
            raise UnreadableError("it cannot be changed without touching something else")
    kind: Kind = "none" if not edits else "remove" if wanted is None else "add" if there is None else "update"
    return Change(path, kind, before, text.encode() if edits else before or b"")


def _edits(there: Any, wanted: dict[str, Any] | None) -> list[tuple[Keys, Any]]:
    """What to set, or to remove (None), within our entry."""
    if wanted is None:
        return [((), None)] if there is not None else []
    kept = cast("dict[str, Any]", there if isinstance(there, dict) else {})
    if "command" not in kept or not isinstance(kept.get("env", {}), dict):
        return [((), wanted)]
    edits: list[tuple[Keys, Any]] = [
        ((key,), value) for key, value in wanted.items() if key != "env" and kept.get(key) != value
    ]
    env = cast("dict[str, Any]", kept.get("env", {}))
    for name in OURS_IN_ENV:
        if env.get(name) != wanted["env"].get(name):
            edits.append((("env", name), wanted["env"].get(name)))
    return edits


def _at(values: Any, keys: Keys) -> Any:
    for key in keys:
        if not isinstance(values, dict):
            return None
        values = cast("dict[str, Any]", values).get(key)
    return values


def _change(values: dict[str, Any], keys: Keys, value: Any) -> None:
    """The same change to what was read, to compare the new text with."""
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    if value is None:
        values.pop(keys[-1], None)
    else:
        values[keys[-1]] = copy.deepcopy(value)


def _without_empty(values: dict[str, Any], section: str) -> dict[str, Any]:
    """In TOML, a table of tables is gone with the last of them."""
    return values if values.get(section) != {} else {key: value for key, value in values.items() if key != section}


def _common(one: list[str], other: list[str]) -> int:
    """How many lines both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (left, right) in pairs if left != right), min(len(one), len(other)))


def _resolved(path: Path) -> Path:
    """Where a link leads, so that the link stays one."""
    return Path(os.path.realpath(path))


def _read(path: Path) -> bytes | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_size > LONGEST_FILE_BYTES:
        raise InvalidError(f"{path} is no file that could be a client's configuration.", field="file")
    return path.read_bytes()


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Never with a wider mode than the file has that it stands for: there may be secrets in it."""
    with suppress(FileNotFoundError):
        if path.name.startswith("."):
            path.unlink()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


@contextmanager
def _told(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror or error}. Nothing was changed.", field="file") from None


@contextmanager
def _explained(client: Client, path: Path, wanted: dict[str, Any] | None) -> Generator[None]:
    """Say what to do by hand where a file is not understood."""
    try:
        yield
    except (UnreadableError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        keys = (client.section, NAME)
        fix = f"Mend it, or take out {'.'.join(keys)} by hand."
        if wanted is not None:
            fix = f"Mend it, or add this by hand:\n{client.format.show(keys, wanted)}"
        raise InvalidError(f"{path} was left as it is: {why}.", field="file", fix=fix) from None
