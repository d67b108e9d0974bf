"""What an error message of an agent or its model means: no login, no quota left, or something that may pass."""

from __future__ import annotations

import re
import time

from mcp_server.drivers.records import End

_SIGN_IN = re.compile(
    r"\b(401|403|unauthori[sz]ed|authentication|auth required|not (logged|signed) in|log ?in again|"
    r"api[ _]key (is )?(not |in)valid|invalid[ _]api[ _]key)\b",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"\b(429\b|rate.?limit|(?<!disk )quota|usage limit|too many requests|resource.?exhausted)", re.IGNORECASE
)
_PASSES = re.compile(
    r"\b(5\d\d|overloaded|unavailable|timed? ?out|connection (reset|refused|closed)|econn\w+|fetch failed)\b",
    re.IGNORECASE,
)
_DELAY = re.compile(
    r"(?:retry|try again|resets?|available)[^.\n]{0,20}?\b(?:in|after)\s+((?:\d+(?:\.\d+)?\s*"
    r"(?:days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|m|s)", re.IGNORECASE)
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
LONGEST_SECONDS = 8 * 86400.0
"""A time further away is no time that an agent names for its quota."""


def trouble(title: str, text: str) -> End:
    """How it ended, from what the agent `title` said of it. A quota comes before a login: both may be a 403."""
    if _QUOTA.search(text):
        say = f"{title} has used up its quota for now."
        return End(outcome="quota", text=text, say=say, reason="quota", until=named_time(text))
    if _SIGN_IN.search(text):
        say = f"{title} is not signed in on your machine. Sign in there, then retry."
        return End(outcome="failed", text=text, say=say, reason="not_signed_in")
    return End(outcome="failed", text=text, reason="agent_error", may_pass=bool(_PASSES.search(text)))


def named_time(text: str) -> float | None:
    """When to go on, in seconds since 1970, where a text says "try again in 1h 5m" or the like; else None."""
    found = _DELAY.search(text)
    if found is None:
        return None
    seconds = sum(float(number) * _SECONDS[unit.lower()] for number, unit in _PART.findall(found.group(1)))
    return time.time() + seconds if 0 < seconds <= LONGEST_SECONDS else None
