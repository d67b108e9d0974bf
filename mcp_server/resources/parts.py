"""Parts of what is too long for one answer: cut by bytes, but never inside of a character."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_server.errors import InvalidError

PART_LIMIT_BYTES = 1024 * 1024
CHARACTER_LIMIT_BYTES = 4
"""The longest in UTF-8. A part of text is no shorter, so that whoever reads on gets on."""

_NUMBER_LIMIT_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Span:
    """Which bytes somebody asked for."""

    offset: int = 0
    length: int = PART_LIMIT_BYTES

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Span:
        """From the query of an address. Raises InvalidError."""
        return cls(number(query, "offset", 0), number(query, "length", PART_LIMIT_BYTES, 1, PART_LIMIT_BYTES))

    @property
    def text_length(self) -> int:
        """How many bytes to look at for a part of text."""
        return max(self.length, CHARACTER_LIMIT_BYTES)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of `size` bytes. `goes_on`: more may come after what is there now."""

    span: Span
    data: bytes
    size: int
    goes_on: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing comes after it."""
        return not self.goes_on and self.span.offset + len(self.data) >= self.size

    def text(self) -> tuple[str, dict[str, Any]]:
        """As text, with what to say of it. Bad bytes are replaced; a character cut at the end is left for the next."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(self.data, final=self.complete)
        return text, self.facts(0 if self.complete else len(decoder.getstate()[0]))

    def facts(self, left_bytes: int = 0) -> dict[str, Any]:
        """Where it lies, and where to read on, but for its last `left_bytes`."""
        facts: dict[str, Any] = {"offset": self.span.offset, "size": self.size, "complete": self.complete}
        # The SDK sends no null: at the end the name is not there.
        return facts if self.complete else facts | {"nextOffset": self.span.offset + len(self.data) - left_bytes}


def part_of(whole: bytes, span: Span, length: int) -> Part:
    """The piece of `whole` that `span` asks for, of at most `length` bytes."""
    return Part(span, whole[span.offset : span.offset + length], len(whole))


def number(query: Mapping[str, str], name: str, default: int, least: int = 0, most: int | None = None) -> int:
    """A number in the query of an address. One that is too large stands for the largest there is.

    Raises:
        InvalidError: it is no number, or too small.
    """
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER_LIMIT_DIGITS) or int(text) < least:
        raise InvalidError(
            f"{name} is no number that can be used.", field=name, fix=f"Give a whole number, {least} or more."
        )
    return int(text) if most is None else min(int(text), most)
