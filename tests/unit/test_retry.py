"""When to try again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.clock import MICROSECONDS
from mcp_server.executor.retry import (
    DELAY_LIMIT_SECONDS,
    FIRST_DELAY_SECONDS,
    JITTER,
    QUOTA_DELAY_LIMIT_SECONDS,
    QUOTA_DELAY_SECONDS,
    QUOTA_NAMED_LIMIT_SECONDS,
    backoff_seconds,
    quota_at,
    retry_at,
)

CHANCES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 2), (2, 4), (3, 8), (9, 512), (10, 600), (1000, 600)])
def test_the_delay_doubles_up_to_its_limit(attempt: int, seconds: float):
    assert backoff_seconds(attempt, 0.5) == seconds


@given(st.integers(1, 10_000), CHANCES)
def test_the_jitter_stays_within_a_quarter(attempt: int, chance: float):
    middle = backoff_seconds(attempt, 0.5)
    assert middle * (1 - JITTER) <= backoff_seconds(attempt, chance) <= middle * (1 + JITTER)
    assert FIRST_DELAY_SECONDS <= middle <= DELAY_LIMIT_SECONDS


def test_chance_spreads_the_delays():
    assert backoff_seconds(1, 0.0) == 1.5
    assert backoff_seconds(1, 0.999) > 2.4


@given(st.integers(1, 20), st.integers(1, 20), CHANCES)
def test_there_is_a_next_attempt_only_while_one_is_allowed(attempt: int, allowed: int, chance: float):
    moment = retry_at(attempt, allowed, 1_000_000, chance)
    assert (moment is None) == (attempt >= allowed)
    if moment is not None:
        assert moment == 1_000_000 + round(backoff_seconds(attempt, chance) * 1_000_000)


@given(st.integers(1, 10_000), CHANCES)
def test_the_delay_never_shrinks_from_one_failure_to_the_next(attempt: int, chance: float):
    assert backoff_seconds(attempt, chance) <= backoff_seconds(attempt + 1, chance)


@given(st.integers(1, 10_000), CHANCES, CHANCES)
def test_more_chance_never_means_an_earlier_moment(attempt: int, one: float, other: float):
    low, high = sorted((one, other))
    assert backoff_seconds(attempt, low) <= backoff_seconds(attempt, high)


NOW = 1_800_000_000 * MICROSECONDS
NOW_SECONDS = NOW / MICROSECONDS


def seconds_from_now(moment: int) -> float:
    return (moment - NOW) / MICROSECONDS


@pytest.mark.parametrize(("pauses", "seconds"), [(1, 900), (2, 1800), (3, 3600), (4, 7200), (5, 7200), (1000, 7200)])
def test_a_quota_of_which_nobody_says_the_time_is_waited_for_longer_each_time(pauses: int, seconds: float):
    assert seconds_from_now(quota_at(None, pauses, NOW, 0.5)) == seconds


def test_a_quota_is_waited_for_until_the_named_time():
    assert quota_at(NOW_SECONDS + 7, 1, NOW, 0.5) == NOW + 7 * MICROSECONDS
    assert quota_at(NOW_SECONDS + 5 * 86400, 1, NOW, 0.5) == NOW + 5 * 86400 * MICROSECONDS


def test_a_named_time_that_is_over_or_named_again_and_again_is_no_busy_loop():
    assert seconds_from_now(quota_at(NOW_SECONDS - 10**6, 1, NOW, 0.5)) == 2
    assert seconds_from_now(quota_at(NOW_SECONDS + 1, 4, NOW, 0.5)) == 16
    assert seconds_from_now(quota_at(0, 100, NOW, 0.5)) == DELAY_LIMIT_SECONDS


def test_a_named_time_that_is_absurdly_far_is_not_believed():
    absurd = NOW_SECONDS + QUOTA_NAMED_LIMIT_SECONDS + 1
    assert seconds_from_now(quota_at(absurd, 1, NOW, 0.5)) == QUOTA_DELAY_SECONDS
    assert seconds_from_now(quota_at(2.0**53, 1, NOW, 0.5)) == QUOTA_DELAY_SECONDS


@given(st.one_of(st.none(), st.floats(-(2**53), 2**53)), st.integers(1, 10_000), CHANCES)
def test_whatever_is_named_a_paused_task_goes_on_later_but_not_never(until: float | None, pauses: int, chance: float):
    delay = seconds_from_now(quota_at(until, pauses, NOW, chance))
    assert 1 < delay <= max(QUOTA_NAMED_LIMIT_SECONDS, QUOTA_DELAY_LIMIT_SECONDS * (1 + JITTER)) + 1
