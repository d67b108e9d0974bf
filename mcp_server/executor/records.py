"""The records of an attempt, read while its driver writes them: whole lines only, each once.

What stands in the file came by way of an agent, so nothing in it is believed to have its shape.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args

from mcp_server.attempts import RecordsRead
from mcp_server.drivers.records import DIFF_NAME, SAY_CHARACTERS, Outcome
from mcp_server.fingerprint import keepable
from mcp_server.spoken import visible
from mcp_server.values import CONTENT_LIMIT_BYTES

READ_BYTES = 64 * 1024
"""In one transaction, so that whoever writes meanwhile waits for milliseconds."""

LINE_LIMIT_BYTES = 8 * 1024 * 1024
"""A line that is longer is left out."""

FILE_LIMIT_BYTES = 64 * 1024 * 1024
"""What comes after this is not read, but for the last record: how it ended."""

PROGRESS_LIMIT = 10_000
"""Of one attempt, so much progress is told of."""

NUMBER_LIMIT = 2**53
DIFF_NOTE_BYTES = 200
"""Room that is left for a word about what was cut."""

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]


class RecordReader:
    """Reads the records of one attempt.

    `records` are those that were read so far, in order. Progress is not among them: it is told, not judged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._end = 0
        self._progress = 0
        self._waiting: RecordsRead | None = None

    def replay(self, end: int) -> None:
        """Read again what an earlier server dealt with, up to byte `end`."""
        while self._end < end and self.next(end) is not None:
            self.done()
        self._end = max(self._end, end)

    def next(self, end: int = FILE_LIMIT_BYTES) -> RecordsRead | None:
        """The next records up to byte `end`, the same ones until they are `done`; None where no line is whole yet."""
        if self._waiting is None:
            self._waiting = self._read(min(end, FILE_LIMIT_BYTES))
        return self._waiting

    def done(self) -> None:
        """What `next` gave is dealt with."""
        self._waiting = None

    def take_end(self) -> None:
        """How it ended, from the end of a file that was too long to be read to there."""
        with _opened(self.path) as fd:
            size = os.fstat(fd).st_size if fd is not None else 0
            if fd is None or size <= self._end:
                return
            start = max(self._end, size - LINE_LIMIT_BYTES)
            data = os.pread(fd, size - start, start)
        record = _parsed(data[data.rfind(b"\n", 0, -1) + 1 :]) if data.endswith(b"\n") else None
        if record is not None and record["type"] == "end":
            self.records.append(record)

    def left_over(self) -> int:
        """How many bytes of the file were not read: half a line, or what came after the limit."""
        with _opened(self.path) as fd:
            return max(0, os.fstat(fd).st_size - self._end) if fd is not None else 0

    def _read(self, end: int) -> RecordsRead | None:
        start, data = self._end, self._lines(end)
        if not data:
            return None
        self._end += len(data)
        progress: list[str] = []
        state: dict[str, Any] = {}
        damaged = 0
        for line in data.removesuffix(b"\n").split(b"\n"):
            record = _parsed(line)
            if record is None:
                damaged += 1
            elif record["type"] == "progress":
                progress += filter(None, [_told(record["say"])])
            else:
                self.records.append(record)
                state |= record["state"] if record["type"] == "state" else {}
        if damaged:
            logger.warning("%d records in %s cannot be read, and are left out", damaged, self.path.parent.name)
        room = max(0, PROGRESS_LIMIT - self._progress)
        self._progress += len(progress)
        return RecordsRead(start, self._end, progress[:room], state)

    def _lines(self, end: int) -> bytes:
        """Whole lines from where we are, and at most to byte `end`."""
        with _opened(self.path) as fd:
            if fd is None:
                return b""
            size = READ_BYTES
            while True:
                data = os.pread(fd, min(size, end - self._end), self._end)
                if whole := data.rfind(b"\n") + 1:
                    return data[:whole]
                if len(data) >= LINE_LIMIT_BYTES:
                    return data
                if len(data) < size:
                    return b""
                size *= 2


def read_diff(folder: Path) -> tuple[str, int]:
    """The diff beside the records, as text that can be kept, and how many bytes were cut off. Empty: there is none."""
    with _opened(folder / DIFF_NAME) as fd:
        if fd is None:
            return "", 0
        size = os.fstat(fd).st_size
        data = os.pread(fd, CONTENT_LIMIT_BYTES - DIFF_NOTE_BYTES, 0)
    # What is replaced grows from one byte to three, so this can be more than there is room for.
    text = data.decode(errors="replace").replace("\0", "\ufffd").encode()[: CONTENT_LIMIT_BYTES - DIFF_NOTE_BYTES]
    return text.decode(errors="ignore"), max(0, size - len(data))


@contextmanager
def _opened(path: Path) -> Generator[int | None]:
    """A plain file to read from; None where there is none. A link or a pipe is none: whoever put it there is not us."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield None
        return
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _parsed(line: bytes) -> Record | None:
    """A record that has the shape it must have; None for anything else."""
    try:
        record = keepable(json.loads(line))
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    fields = cast(dict[str, Any], record)
    kind = fields.get("type")
    shape = SHAPES.get(kind) if isinstance(kind, str) else None
    if shape is None or not all(fits(fields.get(name)) for name, fits in shape.items()):
        return None
    return fields


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _is_number_or_none(value: Any) -> bool:
    return value is None or (_is(int, float)(value) and abs(value) < NUMBER_LIMIT)


def _is_ask_or_none(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    ask = cast(dict[str, Any], value)
    return (
        ask.get("about") in ("tool", "budget")
        and isinstance(ask.get("action"), dict)
        and isinstance(ask.get("say"), str)
        and _TEXT_OR_NONE(ask.get("diff"))
    )


_TEXT = _is(str)
_TEXT_OR_NONE = _is(str, NoneType)
_NUMBERS = ("turns", "input_tokens", "output_tokens", "cost_usd")

SHAPES: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "progress": {"say": _TEXT},
    "state": {"state": _is(dict)},
    "usage": {"model": _TEXT_OR_NONE, **dict.fromkeys(_NUMBERS, _is_number_or_none)},
    "agent": {"version": _TEXT},
    "denied": dict.fromkeys(("tool", "input", "why"), _TEXT),
    "work": {},
    "end": {
        "outcome": lambda value: value in get_args(Outcome),
        "text": _TEXT,
        "say": _TEXT,
        "reason": _TEXT_OR_NONE,
        "may_pass": _is(bool),
        "verified": _is(bool),
        "until": _is_number_or_none,
        "ask": _is_ask_or_none,
    },
}
"""What the fields of each kind of record must be. It may have more."""


def _told(say: str) -> str:
    return " ".join(visible(say).split())[:SAY_CHARACTERS]
