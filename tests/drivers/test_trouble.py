"""What the error messages of agents and models mean."""

from __future__ import annotations

import time

import pytest

from mcp_server.drivers.trouble import named_time, trouble


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please retry in 34s.", 34),
        ("quota will reset after 3h2m10s", 3 * 3600 + 130),
        ("Try again in 1 hour and 5 minutes", 3900),
        ("try again in 2 days 3 hours", 2 * 86400 + 3 * 3600),
        ("retry after 1.5 seconds", 1.5),
    ],
)
def test_the_time_that_is_named_is_found(text: str, seconds: float) -> None:
    found = named_time(text)
    assert found is not None
    assert found - time.time() == pytest.approx(seconds, abs=5)


@pytest.mark.parametrize("text", ["Too many requests", "try again in a while", "retry in 0s", "resets in 400 days"])
def test_no_time_is_made_up(text: str) -> None:
    assert named_time(text) is None


@pytest.mark.parametrize(
    ("text", "reason", "may_pass"),
    [
        ("HTTP 401", "not_signed_in", False),
        ("API key not valid. Please pass a valid API key.", "not_signed_in", False),
        ("You exceeded your current quota (403)", "quota", False),
        ("RESOURCE_EXHAUSTED", "quota", False),
        ("Overloaded", "agent_error", True),
        ("connect ECONNREFUSED 127.0.0.1:1", "agent_error", True),
        ("Error 500", "agent_error", True),
        ("the file has 4290 lines", "agent_error", False),
        ("no such model", "agent_error", False),
        ("write failed: Disk quota exceeded", "agent_error", False),
    ],
)
def test_what_went_wrong_is_told_apart(text: str, reason: str, may_pass: bool) -> None:
    end = trouble("Tester", text)
    assert (end.reason, end.may_pass) == (reason, may_pass)
    assert end.text == text
