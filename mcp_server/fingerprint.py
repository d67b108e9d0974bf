"""One name for one content: what was approved is recognised by it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, cast

DEPTH_LIMIT = 100


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 in hexadecimal of a JSON object, the same for every order of its keys."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def keepable(value: Any, depth: int = DEPTH_LIMIT) -> Any:
    """The same, with U+FFFD or "?" for U+0000 and lone surrogates, which the store and the clients cannot take.

    Raises:
        ValueError: a number that JSON has no word for, or nested deeper than `depth`.
    """
    if not depth:
        raise ValueError("It is nested too deep.")
    match value:
        case str():
            return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        case dict():
            items = cast(dict[str, Any], value).items()
            return {keepable(name, depth): keepable(item, depth - 1) for name, item in items}
        case list():
            return [keepable(item, depth - 1) for item in cast(list[Any], value)]
        case float() if not math.isfinite(value):
            raise ValueError("That is no number of JSON.")
        case _:
            return value
