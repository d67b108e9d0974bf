"""When to try again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.executor.retry import DELAY_LIMIT_SECONDS, FIRST_DELAY_SECONDS, JITTER, backoff_seconds, retry_at

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
