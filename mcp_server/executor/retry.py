"""When to try again: exponential backoff with jitter, for failures that may pass and for quotas that are used up."""

from __future__ import annotations

from mcp_server.clock import MICROSECONDS

FIRST_DELAY_SECONDS = 2.0
DELAY_LIMIT_SECONDS = 600.0
QUOTA_DELAY_SECONDS = 900.0
"""Where nobody says when a quota is there again; doubled each time."""

QUOTA_DELAY_LIMIT_SECONDS = 7200.0
QUOTA_NAMED_LIMIT_SECONDS = 31 * 86400
"""A time that lies farther ahead is a mistake of whoever names it."""

JITTER = 0.25


def backoff_seconds(attempt: int, chance: float) -> float:
    """The delay after the `attempt`-th failure (from 1): 2 s, doubled each time, at most 10 minutes, ± a quarter.

    `chance` is a random number in [0, 1), so that tasks which failed together do not come back together.
    """
    return _jittered(min(FIRST_DELAY_SECONDS * 2 ** min(attempt - 1, 20), DELAY_LIMIT_SECONDS), chance)


def retry_at(attempt: int, attempts_allowed: int, now: int, chance: float) -> int | None:
    """The moment of the next attempt in microseconds; None where no attempt is left."""
    if attempt >= attempts_allowed:
        return None
    return now + round(backoff_seconds(attempt, chance) * MICROSECONDS)


def quota_at(until: float | None, pauses: int, now: int, chance: float) -> int:
    """The moment in microseconds to go on after a quota was used up, for the `pauses`-th time in a row (from 1).

    `until`: when it is there again, in seconds since 1970, as the agent says. A moment that is over, or named again and
    again, is waited for like a failure; without one it is 15 minutes, doubled each time, 2 hours at most, ± a quarter.
    """
    if until is not None and until - now / MICROSECONDS <= QUOTA_NAMED_LIMIT_SECONDS:
        return max(round(until * MICROSECONDS), now + round(backoff_seconds(pauses, chance) * MICROSECONDS))
    delay = min(QUOTA_DELAY_SECONDS * 2 ** min(pauses - 1, 20), QUOTA_DELAY_LIMIT_SECONDS)
    return now + round(_jittered(delay, chance) * MICROSECONDS)


def _jittered(seconds: float, chance: float) -> float:
    return seconds * (1 + JITTER * (2 * chance - 1))
