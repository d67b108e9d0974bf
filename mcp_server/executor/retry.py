"""When to try again: exponential backoff with jitter, for failures that may pass."""

from __future__ import annotations

from mcp_server.clock import MICROSECONDS

FIRST_DELAY_SECONDS = 2.0
DELAY_LIMIT_SECONDS = 600.0
JITTER = 0.25


def backoff_seconds(attempt: int, chance: float) -> float:
    """The delay after the `attempt`-th failure (from 1): 2 s, doubled each time, at most 10 minutes, ± a quarter.

    `chance` is a random number in [0, 1), so that tasks which failed together do not come back together.
    """
    delay = min(FIRST_DELAY_SECONDS * 2 ** min(attempt - 1, 20), DELAY_LIMIT_SECONDS)
    return delay * (1 + JITTER * (2 * chance - 1))


def retry_at(attempt: int, attempts_allowed: int, now: int, chance: float) -> int | None:
    """The moment of the next attempt in microseconds; None where no attempt is left."""
    if attempt >= attempts_allowed:
        return None
    return now + round(backoff_seconds(attempt, chance) * MICROSECONDS)
