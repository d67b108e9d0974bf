"""What a value may be, whichever noun it belongs to: ids, texts, JSON, cursors. Limits are in UTF-8 bytes."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any

from mcp_server.errors import InvalidError, NotFoundError, TooLargeError

CONTENT_LIMIT_BYTES = 1024 * 1024
METADATA_LIMIT_BYTES = 64 * 1024
LABEL_LIMIT_BYTES = 512
DEPTH_LIMIT = 100
"""Levels of nested JSON: reading it back must not run out of stack, wherever that is done."""
LIST_LIMIT = 100
PAGE_LIMIT = 100
WAIT_LIMIT_SECONDS = 45

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")

ID_RULE = "Use 1 to 128 of the characters A-Z a-z 0-9 . _ : - with at least one that is no digit."


def id_fault(value: str) -> str | None:
    """What is wrong with an id, if anything. Ids that are all digits would be taken for task numbers."""
    if not _ID.match(value):
        return "That is no id: it has characters that ids may not have, or it is empty or too long."
    return "An id must not be all digits." if value.isdigit() else None


def check_new_id(value: str, field: str) -> str:
    """`value` as the id of a new record."""
    if fault := id_fault(value):
        raise InvalidError(fault, field=field, fix=ID_RULE)
    return value


def check_known_id(value: str, field: str, noun: str) -> str:
    """`value` as the id of a record that should exist; one that can be no id is a 422, not a 404."""
    if fault := id_fault(value):
        raise InvalidError(fault, field=field, fix=f"Name the id of a {noun}. {ID_RULE}")
    return value


def missing(noun: str, field: str, fix: str) -> NotFoundError:
    """The error for an id that names nothing."""
    return NotFoundError(f"There is no such {noun}.", field=field, fix=fix)


def check_text(value: str, field: str, *, limit: int = LABEL_LIMIT_BYTES, blank: bool = False) -> str:
    """A text that can be kept as it is: no U+0000, no lone surrogate, within `limit` bytes."""
    if found := _FORBIDDEN.search(value):
        raise InvalidError(
            f"There is a character U+{ord(found[0]):04X} at position {found.start()}, which no text may have.",
            field=field,
            fix="Take it out; for binary content use add_artifact with encoding base64.",
        )
    size = len(value.encode())
    if size > limit:
        raise TooLargeError(
            f"{field} has {size} bytes; the limit is {limit}.", field=field, fix=f"Send at most {limit} bytes of UTF-8."
        )
    if not blank and not value.strip():
        raise InvalidError(f"{field} is empty.", field=field, fix="Give it a text, or leave the field out.")
    return value


def check_labels(values: Sequence[str], field: str) -> list[str]:
    """A list of short texts, such as tags or participants; duplicates go, the order stays."""
    if len(values) > LIST_LIMIT:
        raise InvalidError(f"{field} has {len(values)} items.", field=field, fix=f"Send at most {LIST_LIMIT}.")
    return list(dict.fromkeys(check_text(value, f"{field}[{index}]") for index, value in enumerate(values)))


def check_json(value: Any, field: str, *, limit: int = METADATA_LIMIT_BYTES) -> str:
    """`value` as compact JSON text, every string in it checked, keys included."""
    _check_strings(value, field)
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise InvalidError(
            f"{field} holds a number that JSON does not have.", field=field, fix="Use finite numbers."
        ) from None
    return check_text(text, field, limit=limit)


def _check_strings(value: Any, field: str, depth: int = 0) -> None:
    if depth > DEPTH_LIMIT:
        raise InvalidError(
            "The JSON is nested too deeply.",
            field=field.partition(".")[0].partition("[")[0],
            fix=f"Nest it at most {DEPTH_LIMIT} levels deep.",
        )
    if isinstance(value, str):
        check_text(value, field, limit=CONTENT_LIMIT_BYTES, blank=True)
    elif isinstance(value, dict):
        for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
            check_text(str(key), f"{field} (a key)", limit=CONTENT_LIMIT_BYTES, blank=True)  # pyright: ignore[reportUnknownArgumentType]
            _check_strings(item, f"{field}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            _check_strings(item, f"{field}[{index}]", depth + 1)


def make_cursor(*position: int) -> str:
    """An opaque mark of where a list goes on."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> int | None:
    """The position in a cursor of `make_cursor`; None where there is none."""
    if cursor is None:
        return None
    try:
        (position,) = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if isinstance(position, int) and 0 <= position < 2**62:
            return position
    except (ValueError, TypeError, binascii.Error, RecursionError):
        pass
    raise InvalidError("That cursor is unknown.", field="cursor", fix="Use next_cursor of the last answer, or none.")
