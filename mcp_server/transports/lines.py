"""Cuts a stream of bytes into lines, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

KEPT_BYTES = 512


@dataclass(frozen=True, slots=True)
class TooLong:
    """What is left of a line over the limit: enough of both ends to find out whose it was."""

    head: bytes
    tail: bytes


class LineCutter:
    """Takes bytes as they come and gives whole lines, without their newline. `limit` is in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._searched = 0
        self._skipped: TooLong | None = None

    def feed(self, data: bytes) -> Iterator[bytes | TooLong]:
        """Every line that `data` completes, in order; one over the limit comes as `TooLong`, once."""
        self._rest += data
        while (end := self._rest.find(b"\n", self._searched)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            self._searched = 0
            if self._skipped is None and len(line) <= self._limit:
                yield line
            else:
                yield self._skip(line)
                self._skipped = None
        self._searched = len(self._rest)
        if self._skipped is not None or len(self._rest) > self._limit:
            self._skipped = self._skip(bytes(self._rest))
            self._rest.clear()
            self._searched = 0

    def _skip(self, part: bytes) -> TooLong:
        before = self._skipped or TooLong(b"", b"")
        return TooLong((before.head + part[:KEPT_BYTES])[:KEPT_BYTES], (before.tail + part)[-KEPT_BYTES:])
