"""Properties of the table of transitions, and of what an attempt's end makes of its task."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_server.attempts import Ending, _next
from mcp_server.tasks import FINAL, TRANSITIONS, Task

NOW = 1_800_000_000_000_000
ENDINGS = st.builds(
    Ending,
    status=st.sampled_from(["completed", "failed", "cancelled", "interrupted"]),
    reason=st.sampled_from([None, "exit_code", "timeout", "interrupted", "stop_failed", "spawn_failed"]),
    result=st.just({}),
    retry_at=st.one_of(st.none(), st.integers(NOW - 10_000_000, NOW + 10_000_000)),
)
PAUSES = st.one_of(
    st.just(Ending("interrupted", "asks", {}, pause="asks")),
    st.integers(NOW - 10_000_000, NOW + 10_000_000).map(
        lambda at: Ending("interrupted", "quota", {}, pause="quota", retry_at=at)
    ),
)


def task(status: Any) -> Task:
    fields: dict[str, Any] = dict.fromkeys(Task.__slots__)
    return Task(**fields | {"status": status, "reason": "cancelled_by_user" if status == "cancelling" else None})


def reachable(start: Any) -> set[Any]:
    found, waiting = {start}, [start]
    while waiting:
        for following in TRANSITIONS[waiting.pop()] - found:
            found.add(following)
            waiting.append(following)
    return found


def test_from_every_state_every_end_can_be_reached_or_is_there_already():
    assert set(TRANSITIONS) == {state for following in TRANSITIONS.values() for state in following}
    for state in TRANSITIONS:
        assert FINAL & reachable(state), state
    assert reachable("cancelling") >= {"cancelled", "failed"}
    assert TRANSITIONS["completed"] == frozenset(), "what is done is not done again"


def test_a_task_runs_only_out_of_the_queue():
    before = {state for state, following in TRANSITIONS.items() if "running" in following}
    assert before == {"queued"}


@given(PAUSES)
def test_a_pause_waits_for_the_answer_or_the_time_but_not_where_somebody_asked_for_a_cancel(ending: Ending):
    to_status, reason, run_after = _next(task("running"), ending, NOW)
    assert reason == ending.pause
    if ending.pause == "asks":
        assert (to_status, run_after) == ("waiting_approval", None)
    else:
        assert to_status == ("scheduled" if run_after else "queued")
    assert _next(task("cancelling"), ending, NOW)[0] == "cancelled"


@given(st.sampled_from(["running", "cancelling"]), st.one_of(ENDINGS, PAUSES))
def test_every_end_of_an_attempt_is_a_step_of_the_table(status: str, ending: Ending):
    to_status, _, run_after = _next(task(status), ending, NOW)
    assert to_status in TRANSITIONS[status]  # type: ignore[index]
    assert (run_after is not None) == (to_status == "scheduled")
    assert run_after is None or run_after > NOW


@given(ENDINGS)
def test_who_asked_for_a_cancel_gets_no_further_attempt(ending: Ending):
    to_status, _, _ = _next(task("cancelling"), ending, NOW)
    assert to_status in FINAL
    assert (to_status == "completed") == (ending.status == "completed"), "nor a lie about work that was done"


@given(ENDINGS)
def test_only_a_completed_attempt_completes_its_task(ending: Ending):
    for status in ("running", "cancelling"):
        to_status, _, _ = _next(task(status), ending, NOW)
        assert to_status != "completed" or ending.status == "completed"
