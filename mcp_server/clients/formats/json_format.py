"""JSON, also with comments and trailing commas, as VS Code and Gemini CLI have it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from mcp_server.clients.format import Keys, UnreadableError

BOM = "\ufeff"

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_INDENTATION = re.compile(r"[ \t]*")


def _refuse_constant(name: str) -> Any:
    raise UnreadableError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass(slots=True)
class _Value:
    """A value and where it stands. `members` only where the value is an object that was looked into."""

    start: int
    end: int
    value: Any
    members: list[_Member] | None = None


@dataclass(slots=True)
class _Member:
    """One member of an object; `comma` is where the comma after it stands, if one does."""

    key: str
    start: int
    value: _Value
    comma: int | None


class _Reader:
    """Reads one text. Objects on the way to `keys` are taken apart; the rest is left to `json` where it can read it."""

    def __init__(self, text: str, keys: Keys = ()) -> None:
        self._text = text
        self._keys = keys

    def document(self) -> _Value:
        start = self._skip(1 if self._text.startswith(BOM) else 0)
        root = self._value(start, self._keys)
        end = self._skip(root.end)
        if end != len(self._text):
            raise self._wrong(end)
        return root

    def _value(self, at: int, keys: Keys | None) -> _Value:
        if self._text[at : at + 1] != "{" or keys is None:
            try:
                value, end = _DECODER.raw_decode(self._text, at)
            except json.JSONDecodeError:
                pass  # there may be comments in it
            else:
                return _Value(at, end, value)
        match self._text[at : at + 1]:
            case "{":
                return self._object(at, keys)
            case "[":
                return self._array(at)
            case _:
                raise self._wrong(at)

    def _object(self, start: int, keys: Keys | None) -> _Value:
        members: list[_Member] = []
        at = self._skip(start + 1)
        while self._text[at : at + 1] != "}":
            if members and members[-1].comma is None:
                raise self._wrong(at)
            try:
                key, end = _DECODER.raw_decode(self._text, at)
            except json.JSONDecodeError:
                raise self._wrong(at) from None
            colon = self._skip(end)
            if not isinstance(key, str) or self._text[colon : colon + 1] != ":":
                raise self._wrong(at)
            further = keys[1:] if keys and keys[0] == key else None
            value = self._value(self._skip(colon + 1), further)
            after = self._skip(value.end)
            comma = after if self._text[after : after + 1] == "," else None
            members.append(_Member(key, at, value, comma))
            at = self._skip(after + 1) if comma is not None else after
        return _Value(start, at + 1, {member.key: member.value.value for member in members}, members)

    def _array(self, start: int) -> _Value:
        values: list[Any] = []
        at, separated = self._skip(start + 1), True
        while self._text[at : at + 1] != "]":
            if not separated:
                raise self._wrong(at)
            value = self._value(at, None)
            values.append(value.value)
            at = self._skip(value.end)
            separated = self._text[at : at + 1] == ","
            at = self._skip(at + 1) if separated else at
        return _Value(start, at + 1, values)

    def _skip(self, at: int) -> int:
        """Past white space and comments."""
        found = _BLANK.match(self._text, at)
        return found.end() if found else at

    def _wrong(self, at: int) -> UnreadableError:
        line = self._text.count("\n", 0, at) + 1
        return UnreadableError(f"it is not JSON at line {line}, column {at - self._text.rfind(chr(10), 0, at)}")


class JsonFormat:
    """See `Format`."""

    def read(self, text: str) -> dict[str, Any]:
        if not _has_content(text):
            return {}
        value = _document(text).value
        if not isinstance(value, dict):
            raise UnreadableError("it holds no object")
        return value  # pyright: ignore[reportUnknownVariableType]

    def set(self, text: str, keys: Keys, value: Any) -> str:
        if not _has_content(text):
            text = f"{text}{{}}\n"
        owner = root = _document(text, keys)
        for depth, key in enumerate(keys):
            member = _member(owner, keys[:depth], key)
            if member is None:
                for missing in reversed(keys[depth + 1 :]):
                    value = {missing: value}
                return _insert(text, owner, f"{_inline(key)}: ", value, _unit(text, root))
            owner = member.value
        written = _written(text, value, _indentation(text, owner.start), _unit(text, root))
        return text[: owner.start] + written + text[owner.end :]

    def remove(self, text: str, keys: Keys) -> str:
        if not _has_content(text):
            return text
        owner = _document(text, keys)
        for depth, key in enumerate(keys):
            member = _member(owner, keys[:depth], key)
            if member is None:
                return text
            if depth == len(keys) - 1:
                assert owner.members is not None
                return _cut(text, owner.members, member)
            owner = member.value
        return text

    def show(self, keys: Keys, value: Any) -> str:
        for key in reversed(keys):
            value = {key: value}
        return json.dumps(value, indent=2, ensure_ascii=False)


JSON = JsonFormat()


def _has_content(text: str) -> bool:
    return bool(text.removeprefix(BOM).strip())


def _document(text: str, keys: Keys = ()) -> _Value:
    try:
        return _Reader(text, keys).document()
    except RecursionError:
        raise UnreadableError("it is nested too deeply") from None


def _member(owner: _Value, place: Keys, key: str) -> _Member | None:
    where = ".".join(place) or "the top of the file"
    if owner.members is None:
        raise UnreadableError(f"{where} is no object")
    found = [member for member in owner.members if member.key == key]
    if len(found) > 1:
        raise UnreadableError(f"{key} stands more than once in {where}")
    return found[0] if found else None


def _insert(text: str, owner: _Value, head: str, value: Any, unit: str) -> str:
    """Behind the last member. What follows that member, such as a comment, stays with it."""
    assert owner.members is not None
    last = owner.members[-1] if owner.members else None
    if last is not None and last.comma is None:
        text = f"{text[: last.value.end]},{text[last.value.end :]}"
    closing = owner.end - 1 + (last is not None and last.comma is None)
    if last is not None and "\n" not in text[owner.start : closing]:
        kept = text[:closing].rstrip(" \t")
        return f"{kept} {head}{_inline(value)}{text[len(kept) : closing]}{text[closing:]}"
    outer = _indentation(text, owner.start)
    inner = _indentation(text, last.start) if last is not None else outer + unit
    end = _line_end(text)
    kept = text[:closing].rstrip()
    # A trailing comma is how this file is written.
    comma = "," if last is not None and last.comma is not None else ""
    rest = text[len(kept) : closing]
    rest = rest[rest.index("\n") - (end == "\r\n") :] if "\n" in rest else f"{end}{outer}"
    return f"{kept}{end}{inner}{head}{_written(text, value, inner, unit)}{comma}{rest}{text[closing:]}"


def _cut(text: str, members: list[_Member], member: _Member) -> str:
    """Without the member, the one comma that goes with it, and the lines that held nothing else."""
    start, end = member.start, member.value.end
    number = members.index(member)
    if member.comma is not None:
        end = member.comma + 1
    line = text.rfind("\n", 0, start) + 1
    rest = re.compile(r"[ \t]*\r?\n").match(text, end)
    if rest and not text[line:start].strip():
        start, end = line, rest.end()
    elif member.comma is not None:
        found = _INDENTATION.match(text, end)
        end = found.end() if found else end
    else:
        start = len(text[:start].rstrip(" \t"))
    text = text[:start] + text[end:]
    before = members[number - 1].comma if number and member.comma is None else None
    return text if before is None else text[:before] + text[before + 1 :]


def _written(text: str, value: Any, indentation: str, unit: str) -> str:
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return f"{_line_end(text)}{indentation}".join(lines)


def _inline(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _indentation(text: str, at: int) -> str:
    found = _INDENTATION.match(text, text.rfind("\n", 0, at) + 1)
    return found[0] if found else ""


def _unit(text: str, root: _Value) -> str:
    """How far one level is moved in: as far as the first member of the file is."""
    for member in root.members or ():
        line = text.rfind("\n", 0, member.start) + 1
        if line and not text[line : member.start].strip():
            return text[line : member.start] or "  "
    return "  "
