"""The bytes of a request, read strictly: one JSON object in UTF-8, with nothing that could not come back as it went in.

Python's reader accepts NaN, Infinity, integers of any length and the last of two equal names. All of these are
refused here with their position, and so is nesting that would exhaust the stack of somebody further down.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, NoReturn, cast

from relay_adapter.errors import FieldIssue, MalformedError, invalid, shown

MAX_DEPTH = 100
"""Levels of nesting. pydantic's serialiser stops at about 250, Python's reader at about 1,000."""
MAX_INTEGER = 2**63 - 1
MAX_INTEGER_CHARACTERS = 20

_ODD = re.compile(r"[0-9]{19}|[0-9][eE]\+?[0-9]{3}|NaN|Infinity")
# The closing quote is optional so that a string that never ends is one token: else the scan would be quadratic.
_TOKEN = re.compile(
    r'"(?:[^"\\]++|\\.)*+"?|(?P<constant>NaN|-?Infinity)'
    r"|(?P<number>-?[0-9]+(?P<fraction>(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?))|(?P<open>[\[{])|(?P<close>[\]}])",
    re.DOTALL,
)
_ODD_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def parse_body(raw: bytes) -> dict[str, Any]:
    """The object in the body.

    Raises:
        MalformedError: not one JSON object in UTF-8; the message says where.
        InvalidError: a string holds U+0000 or a lone surrogate; names the field and the position.
    """
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        _malformed(f"The body is not UTF-8: byte {error.start} cannot be read.", "Send the JSON as UTF-8.")
    if not text.strip():
        _malformed("The body is empty.", 'Send a JSON object, such as {"text": "show the git status"}.')
    if _ODD.search(text) or text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_odd_tokens(text)
    value = _loads(text)
    if not isinstance(value, dict):
        _malformed("The body is JSON, but not an object.", 'Begin with { and end with }, such as {"text": "hello"}.')
    body = cast("dict[str, Any]", value)
    if _ODD_ESCAPE.search(text):
        _refuse_unstorable(body)
    return body


def fingerprint(body: dict[str, Any]) -> str:
    """The same for two bodies that mean the same, whatever their spacing and the order of their fields."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def _malformed(message: str, fix: str) -> NoReturn:
    raise MalformedError(f"{message} {fix}", issues=(FieldIssue("body", message, fix),), say=message)


def _at(text: str, offset: int) -> str:
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    return f"line {line}, column {column} (character {offset})"


def _loads(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            _malformed(f"The field {shown(twice)} is given twice in one object.", "Give it once.")
        return made

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        _malformed(f"The body is not JSON: {error.msg} at {_at(text, error.pos)}.", "Check the JSON at that place.")


def _refuse_odd_tokens(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "open":
                depth += 1
                if depth > MAX_DEPTH:
                    message = f"The body is nested more than {MAX_DEPTH} levels deep at {_at(text, token.start())}."
                    _malformed(message, "Make it flatter, or send the inner part as a string.")
            case "close":
                depth -= 1
            case "constant":
                message = f"{token.group()} is not JSON, at {_at(text, token.start())}."
                _malformed(message, "Send null, or a string.")
            case None:
                pass
            case _:
                _refuse_odd_number(text, token)


def _refuse_odd_number(text: str, token: re.Match[str]) -> None:
    digits = token.group("number")
    if token.group("fraction"):
        fits = math.isfinite(float(digits))
    else:
        fits = len(digits) <= MAX_INTEGER_CHARACTERS and abs(int(digits)) <= MAX_INTEGER
    if not fits:
        _malformed(f"The number at {_at(text, token.start())} is too large.", "Send it as a string.")


def _refuse_unstorable(body: dict[str, Any]) -> None:
    waiting: list[tuple[str, Any]] = [("", body)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            _refuse_in_string(path, value)
        elif isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            for name in members:
                _refuse_in_string(_joined(path, name), name)
            waiting.extend((_joined(path, name), member) for name, member in members.items())
        elif isinstance(value, list):
            waiting.extend((f"{path}[{index}]", item) for index, item in enumerate(cast("list[Any]", value)))


def _refuse_in_string(path: str, value: str) -> None:
    found = _UNSTORABLE.search(value)
    if found is None:
        return
    what = "U+0000" if found.group() == "\0" else f"a lone surrogate (U+{ord(found.group()):04X})"
    raise invalid(path, f"The text holds {what} at position {found.start()}.", "Take this character out.")


def _joined(path: str, name: str) -> str:
    return f"{path}.{shown(name)}" if path else shown(name)
