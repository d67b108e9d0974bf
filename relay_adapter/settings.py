"""What the relay is told at start. Read once, frozen."""

from __future__ import annotations

from dataclasses import dataclass

BODY_LIMIT_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """`public_url`: what links are built from; None: the address that the request came to.

    `default_agent` does what comes as `{"text": …}`. `wait_seconds` is how long an answer waits for a short task
    where nobody said otherwise, `max_wait_seconds` the longest that may be asked for.
    """

    public_url: str | None
    default_agent: str
    body_limit_bytes: int = BODY_LIMIT_BYTES
    wait_seconds: float = 10.0
    max_wait_seconds: float = 45.0
