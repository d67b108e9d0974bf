"""Time and chance, as arguments where a test wants to hold them still. Inside: integer microseconds since 1970, UTC."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

MICROSECONDS = 1_000_000

Clock = Callable[[], int]
NewId = Callable[[str], str]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def now_us() -> int:
    """Microseconds since 1970 by the wall clock."""
    return time.time_ns() // 1000


def new_id(prefix: str) -> str:
    """An id nobody can guess: `prefix_` and 80 random bits. The prefix says what it is when it turns up in a log."""
    bits = secrets.randbits(80)
    return f"{prefix}_" + "".join(_ALPHABET[bits >> shift & 31] for shift in range(75, -5, -5))


def iso(microseconds: int | None) -> str | None:
    """ISO 8601 in UTC, as every door shows times."""
    if microseconds is None:
        return None
    moment = datetime.fromtimestamp(microseconds / MICROSECONDS, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(text: str) -> int:
    """Microseconds of an ISO 8601 moment; without a zone it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * MICROSECONDS)
