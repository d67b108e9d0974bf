"""One field of a command: what it may hold, in a check, in words and as a schema. One table gives all three."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, cast

from relay_adapter.errors import FieldIssue, InvalidError, invalid, shown

Kind = Literal[
    "id", "task", "text", "number", "wait", "integer", "boolean", "texts", "object", "text or object", "moment"
]

MAX_WAIT_SECONDS = 45
"""No tool waits longer; part of the tools' contract."""
ID_PATTERN = r"[A-Za-z0-9._:-]{1,128}"

_ID = re.compile(ID_PATTERN)
_DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True, slots=True)
class Field:
    """`choices`: the only texts allowed. `about` is shown in the interactive docs."""

    name: str
    kind: Kind
    about: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """What values of a kind look like. `rule` ends the sentence "The field x …"."""

    fits: Callable[[Any], bool]
    rule: str
    fix: str
    schema: dict[str, Any]


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None and _DIGITS.fullmatch(value) is None


def _is_task(value: Any) -> bool:
    return (_is_integer(value) and value > 0) or (isinstance(value, str) and _ID.fullmatch(value) is not None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_wait(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= MAX_WAIT_SECONDS


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[Any]", value))


_ID_RULE = "must be 1 to 128 letters, digits, dots, underscores, colons or hyphens"
_ID_FIX = "Choose an id such as review_001."

SHAPES: dict[Kind, Shape] = {
    "id": Shape(
        _is_id,
        f"{_ID_RULE}, and not digits alone.",
        _ID_FIX,
        {"type": "string", "pattern": rf"^(?!\d+$){ID_PATTERN}$"},
    ),
    "task": Shape(
        _is_task,
        f"{_ID_RULE}, or the number of the task.",
        "Give the id of the task, or its number.",
        {"oneOf": [{"type": "string", "pattern": f"^{ID_PATTERN}$"}, {"type": "integer", "minimum": 1}]},
    ),
    "text": Shape(_is_text, "must be a text.", "Write it in quotes.", {"type": "string"}),
    "number": Shape(_is_number, "must be a number.", "Write it without quotes, such as 60.", {"type": "number"}),
    "wait": Shape(
        _is_wait,
        f"must be a number of seconds from 0 to {MAX_WAIT_SECONDS}.",
        "Ask again later for what takes longer.",
        {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS},
    ),
    "integer": Shape(
        _is_integer, "must be a whole number.", "Write it without quotes, such as 1.", {"type": "integer"}
    ),
    "boolean": Shape(
        lambda value: isinstance(value, bool), "must be true or false.", "Write it without quotes.", {"type": "boolean"}
    ),
    "texts": Shape(
        _is_texts,
        "must be a list of texts.",
        'Write it as ["one", "two"].',
        {"type": "array", "items": {"type": "string"}},
    ),
    "object": Shape(
        lambda value: isinstance(value, dict),
        "must be an object.",
        'Write it as {"name": "value"}.',
        {"type": "object"},
    ),
    "text or object": Shape(
        lambda value: isinstance(value, str | dict),
        "must be a text or an object.",
        'Write it in quotes, or as {"name": "value"}.',
        {"oneOf": [{"type": "string"}, {"type": "object"}]},
    ),
    "moment": Shape(
        lambda value: isinstance(value, str) or _is_number(value),
        "must be a time.",
        "Write it as 2026-11-21T08:00:00Z.",
        {"oneOf": [{"type": "string"}, {"type": "number"}]},
    ),
}


def read_field(field: Field, value: Any, path: str) -> Any:
    """The value as the tool takes it.

    Raises:
        InvalidError: of another kind, or not one of the choices.
    """
    shape = SHAPES[field.kind]
    if not shape.fits(value):
        raise invalid(path, f"The field {field.name} {shape.rule}", shape.fix)
    if field.choices and value not in field.choices:
        message = f"The field {field.name} must be one of {', '.join(field.choices)}."
        raise invalid(path, message, nearest(value, field.choices))
    return str(value) if field.kind == "task" else value


def read_member(body: dict[str, Any], field: Field, at: str) -> Any:
    """One member of an object, or None where it is missing (or null) and not required."""
    value = body.get(field.name)
    if value is not None:
        return read_field(field, value, f"{at}{field.name}")
    if field.required:
        raise missing(field, f"{at}{field.name}")
    return None


def missing(field: Field, path: str) -> InvalidError:
    """A required field that is not there."""
    return invalid(path, f"The field {field.name} is missing.", field.about or SHAPES[field.kind].fix)


def unknown(name: str, known: Iterable[str], at: str, fix: str | None = None) -> FieldIssue:
    """A field that nothing here understands. `fix` where something better than the nearest name can be said."""
    return FieldIssue(f"{at}{shown(name)}", f"The field {shown(name)} is not known here.", fix or nearest(name, known))


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a name that is not known: the one that was probably meant, and all there are."""
    names = sorted(known)
    close = get_close_matches(name[:100], names, n=1)
    meant = f'Did you mean "{close[0]}"? ' if close else ""
    return f"{meant}Known here: {', '.join(names)}."
