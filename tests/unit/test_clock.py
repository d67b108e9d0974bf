"""Time and ids."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.clock import from_iso, iso, new_id, now_us


def test_now_is_in_microseconds_of_the_wall_clock():
    before = time.time_ns() // 1000
    assert before <= now_us() <= time.time_ns() // 1000


def test_times_are_shown_in_utc_with_milliseconds():
    assert iso(1_795_248_000_123_456) == "2026-11-21T08:00:00.123Z"
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(None) is None


@pytest.mark.parametrize(
    "text",
    ["2026-11-21T08:00:00Z", "2026-11-21T08:00:00", "2026-11-21T09:00:00+01:00", "2026-11-21T08:00:00.000000+00:00"],
)
def test_moments_are_read_in_any_zone_and_in_utc_without_one(text: str):
    assert from_iso(text) == 1_795_248_000_000_000


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01", "2026-11-21T25:00:00Z", "1795248000"])
def test_what_is_no_moment_is_refused(text: str):
    with pytest.raises(ValueError, match=r".+"):
        from_iso(text)


@given(st.integers(0, 4_102_444_800_000))
def test_a_shown_time_is_read_back(milliseconds: int):
    shown = iso(milliseconds * 1000)
    assert shown is not None
    assert from_iso(shown) == milliseconds * 1000


def test_made_ids_say_what_they_are_and_do_not_repeat():
    made = {new_id("task") for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"task_[0-9a-z]{16}", each) for each in made)
