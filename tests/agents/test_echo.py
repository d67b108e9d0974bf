"""The echo agent answers what it was told, in every way that a test or a newcomer may ask for."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.agent import Exit, WorkOrder
from mcp_server.agents.echo import EchoAgent
from mcp_server.errors import InvalidError


@pytest.fixture
def echo(make_bench: Any) -> Any:
    return make_bench(EchoAgent(), None)


def test_it_answers_what_it_was_told(echo: Any):
    outcome = echo.run(description="Grüße an *alle* 🎉\nund <mehr>")
    assert outcome.completed
    assert outcome.text == "Grüße an *alle* 🎉\nund <mehr>"
    assert outcome.say == "Grüße an alle 🎉 und mehr."


def test_it_writes_what_it_answers(echo: Any):
    assert echo.end(echo.order(description="hello")).stdout == "hello\n"


def test_it_needs_no_words(echo: Any):
    outcome = echo.run()
    assert outcome.completed
    assert outcome.say == "Echo was told nothing."


def test_it_reads_only_and_needs_no_workspace(echo: Any):
    checked = echo.agent.check(WorkOrder(description="x"))
    assert checked.reads_only
    assert checked.argv == ("echo",)
    assert not echo.agent.needs_workspace


def test_it_writes_numbered_lines_and_complaints_first(echo: Any):
    ended = echo.end(echo.order(description="done", params={"lines": 3, "stderr": "hm"}))
    assert (ended.stdout, ended.stderr) == ("1\n2\n3\ndone\n", "hm\n")


def test_a_million_lines_are_written(echo: Any):
    ended = echo.end(echo.order(params={"lines": 1_000_000}))
    assert ended.stdout.endswith("1000000\n\n")


@pytest.mark.parametrize("fail", [True, "out of paper"])
def test_it_fails_when_told_to(echo: Any, fail: bool | str):
    order = echo.order(description="x", params={"fail": fail})
    ended = echo.end(order)
    outcome = echo.agent.judge(order, ended)
    assert ended.returncode == 1
    assert not outcome.completed
    assert outcome.reason == "exit_code"
    assert not outcome.may_pass
    assert outcome.say == f"Echo failed: {'It was told to fail.' if fail is True else 'out of paper.'}"


def test_not_to_fail_is_not_a_failure(echo: Any):
    assert echo.run(description="x", params={"fail": False}).completed


def test_it_ends_with_the_code_it_is_told(echo: Any):
    assert echo.end(echo.order(params={"exit_code": 42})).returncode == 42
    assert echo.run(params={"exit_code": 42}).say == "Echo failed: exit code 42."


def test_it_asks_a_question(echo: Any):
    outcome = echo.run(description="x", params={"ask": "Which colour?"})
    assert outcome.completed
    assert outcome.details == {"question": "Which colour?"}
    assert outcome.say == "Echo asks: Which colour?"


def test_it_fails_at_first_and_works_later(echo: Any):
    for attempt, completes in ((1, False), (2, False), (3, True)):
        outcome = echo.run(description="x", params={"flaky": 2}, attempt=attempt)
        assert outcome.completed is completes
        assert outcome.may_pass is not completes


def test_a_failure_after_the_flaky_attempts_does_not_pass(echo: Any):
    outcome = echo.run(params={"flaky": 1, "fail": True}, attempt=2)
    assert not outcome.completed
    assert not outcome.may_pass


def test_in_a_conversation_it_says_what_came_before(echo: Any):
    outcome = echo.run(description="and now?", earlier=("Say hello", "hello"))
    assert outcome.text == "and now?\n\nBefore that:\n- Say hello\n- hello"
    assert outcome.say == "and now? Before that: Say hello. hello."


def test_a_long_conversation_does_not_grow_with_every_turn(echo: Any):
    earlier: tuple[str, ...] = ()
    ended = Exit("exited", 0, "", "")
    for turn in range(30):
        answer = echo.agent.judge(echo.order(description=f"turn {turn}", earlier=earlier), ended).text
        earlier = (*earlier, f"turn {turn}", answer)
    assert len(earlier[-1]) < 500


def test_sleeping_is_left_to_the_program(echo: Any):
    told = json.loads(echo.agent.invocation(echo.order(params={"sleep": 3600})).stdin)
    assert told["sleep"] == 3600


def test_it_runs_without_anything_of_the_users(echo: Any):
    invocation = echo.agent.invocation(echo.order(description="secret"))
    assert invocation.argv[:3] == (sys.executable, "-I", "-S")
    assert "secret" not in " ".join(invocation.argv)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sleep", -1),
        ("sleep", 3601),
        ("sleep", "3"),
        ("sleep", True),
        ("sleep", float("nan")),
        ("sleep", float("inf")),
        ("lines", 1_000_001),
        ("lines", 1.5),
        ("lines", [1]),
        ("stderr", 5),
        ("fail", 5),
        ("exit_code", 256),
        ("exit_code", -1),
        ("ask", True),
        ("flaky", 101),
        ("slep", 1),
        ("command", ["git"]),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(echo: Any, name: str, value: Any):
    with pytest.raises(InvalidError) as caught:
        echo.agent.check(echo.order(params={name: value}))
    assert caught.value.issues[0].field == f"params.{name}"
    assert caught.value.issues[0].fix


def test_a_misspelled_parameter_is_guessed(echo: Any):
    with pytest.raises(InvalidError) as caught:
        echo.agent.check(echo.order(params={"slep": 1}))
    assert caught.value.issues[0].fix == "Did you mean 'sleep'?"


@given(
    st.dictionaries(
        st.sampled_from(["sleep", "lines", "stderr", "fail", "exit_code", "ask", "flaky", "x"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    ),
    st.text(),
)
def test_whatever_params_are_given_it_refuses_or_has_something_to_run(params: dict[str, Any], description: str):
    agent = EchoAgent()
    order = WorkOrder(description=description, params=params)
    try:
        agent.check(order)
    except InvalidError as error:
        refusal = error
    else:
        assert json.loads(agent.invocation(order).stdin)
        return
    assert refusal.issues
