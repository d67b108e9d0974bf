"""What an attempt's end is written down as. Files and a record; no process runs here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_server.agent import Availability, Checked, Exit, Invocation, Outcome, Pause, WorkOrder
from mcp_server.executor.attempt_folder import AttemptFolder, Status
from mcp_server.executor.results import (
    JUDGED_LIMIT_BYTES,
    REPORTED_LIMIT_BYTES,
    TAIL_LIMIT_BYTES,
    QuotaAt,
    ending_of,
    failed,
    interrupted,
    reported,
    tail,
)
from mcp_server.executor.retry import DELAY_LIMIT_SECONDS, backoff_seconds, retry_at
from mcp_server.tasks import Task

ORDER = WorkOrder(description="x")
TASK = Task(
    **dict.fromkeys(Task.__slots__)
    | {"number": 1, "id": "t", "agent": "judge", "timeout_seconds": 60.0, "attempt": 1, "params": {}, "caller": {}}  # type: ignore[arg-type]
)
ENDED = Status(
    outcome="exited",
    returncode=0,
    error="",
    stdout_bytes=0,
    stderr_bytes=0,
    stdout_dropped=0,
    stderr_dropped=0,
    started_at=1,
    finished_at=2,
    survivors=(),
    verified=True,
    user_seconds=0.0,
    system_seconds=0.0,
    max_rss_kb=1,
)
NEXT_TIME = 5_000_000


class Judge:
    """An agent that only judges, and remembers what it saw."""

    name = "judge"
    title = "Judge"
    description = ""
    default_timeout_seconds = 60.0
    default_limit: int | None = None
    needs_workspace = False
    continues = False

    def __init__(self, outcome: Outcome = Outcome(True, "fine", "It is fine.")) -> None:  # noqa: B008  # frozen
        self.outcome = outcome
        self.seen: Exit | None = None

    def availability(self) -> Availability:
        return Availability(True)

    def look(self) -> None:
        raise AssertionError

    def check(self, order: WorkOrder) -> Checked:
        raise AssertionError(order)

    def invocation(self, order: WorkOrder) -> Invocation:
        raise AssertionError(order)

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        assert order is ORDER
        self.seen = ended
        return self.outcome


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    return AttemptFolder(tmp_path)


def written(folder: AttemptFolder, stdout: bytes = b"", stderr: bytes = b"") -> dict[str, int]:
    """Put output into the folder; returns what the status says of it."""
    (folder.path / "stdout").write_bytes(stdout)
    (folder.path / "stderr").write_bytes(stderr)
    return {"stdout_bytes": len(stdout), "stderr_bytes": len(stderr)}


def ending(folder: AttemptFolder, judge: Judge | None = None, quota_at: QuotaAt | None = None, **facts: Any):
    return ending_of(TASK, judge or Judge(), ORDER, folder, replace(ENDED, **facts), NEXT_TIME, quota_at=quota_at)


def test_the_agent_says_whether_it_was_completed_not_the_exit_code(folder: AttemptFolder):
    denied = Judge(Outcome(False, "tools were denied", "It was not allowed to.", reason="denied"))

    assert ending(folder, denied, returncode=0).status == "failed"
    assert ending(folder, denied, returncode=0).reason == "denied"
    assert ending(folder, Judge(), returncode=1).status == "completed"


@pytest.mark.parametrize("outcome", ["exited", "signaled"])
def test_only_an_end_of_its_own_is_judged_by_the_agent(folder: AttemptFolder, outcome: Any):
    judge = Judge()
    ending(folder, judge, outcome=outcome, returncode=-9)

    assert judge.seen is not None
    assert (judge.seen.how, judge.seen.returncode) == (outcome, -9)


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        ("timeout", "failed", "timeout"),
        ("idle_timeout", "failed", "idle_timeout"),
        ("memory_limit", "failed", "memory_limit"),
        ("cancelled", "cancelled", "cancelled"),
        ("spawn_failed", "failed", "spawn_failed"),
    ],
)
def test_the_executor_speaks_for_every_other_end_and_it_is_never_a_success(
    folder: AttemptFolder, outcome: Any, status: str, reason: str
):
    judge = Judge()
    end = ending(folder, judge, outcome=outcome, returncode=0)

    assert judge.seen is None
    assert (end.status, end.reason) == (status, reason)
    assert end.result["say"]
    assert end.retry_at is None


def test_a_survivor_makes_it_a_failed_stop_whatever_else_was_said(folder: AttemptFolder):
    for outcome in ("cancelled", "timeout", "exited"):
        end = ending(folder, outcome=outcome, survivors=(4711, 4712), verified=False)

        assert (end.status, end.reason, end.retry_at) == ("failed", "stop_failed", None)
        assert "[4711, 4712]" in end.result["text"]
        assert "4711" not in end.result["say"]
        assert end.details["survivors"] == [4711, 4712]


def test_what_could_not_be_proven_is_said(folder: AttemptFolder):
    unproven = ending(folder, outcome="cancelled", verified=False)
    proven = ending(folder, outcome="cancelled", verified=True)

    assert "could not be proven" in unproven.result["say"]
    assert "unverified" in unproven.result
    assert "Nothing of it is running" in proven.result["say"]
    assert "unverified" not in proven.result


def test_only_a_failure_that_may_pass_is_tried_again(folder: AttemptFolder):
    passing = Judge(Outcome(False, "busy", "Busy.", may_pass=True))
    lasting = Judge(Outcome(False, "wrong", "Wrong."))
    strange = Judge(Outcome(True, "fine", "Fine.", may_pass=True))

    assert ending(folder, passing).retry_at == NEXT_TIME
    assert ending(folder, lasting).retry_at is None
    assert ending(folder, strange).retry_at is None


def test_a_result_holds_the_tails_and_says_where_they_begin(folder: AttemptFolder):
    text = "".join(f"{number:07}\n" for number in range(10_000)).encode()
    judge = Judge()
    end = ending(folder, judge, **written(folder, text, b"short"))

    assert end.result["stdout"].encode() == text[-TAIL_LIMIT_BYTES:]
    assert end.result["stdout_offset"] == len(text) - TAIL_LIMIT_BYTES
    assert (end.result["stderr"], end.result["stderr_offset"]) == ("short", 0)
    assert end.result["truncated"] is True
    assert judge.seen is not None
    assert judge.seen.stdout.encode() == text
    assert judge.seen.truncated is False


def test_the_agent_sees_more_than_the_result_shows_and_is_told_where_that_ends_too(folder: AttemptFolder):
    judge = Judge()
    ending(folder, judge, **written(folder, b"x" * (JUDGED_LIMIT_BYTES + 1)))

    assert judge.seen is not None
    assert len(judge.seen.stdout) == JUDGED_LIMIT_BYTES
    assert judge.seen.truncated is True


def test_what_was_dropped_is_counted_and_told(folder: AttemptFolder):
    end = ending(folder, **written(folder, b"x"), stdout_dropped=100, stderr_dropped=11)
    whole = ending(folder, **written(folder, b"x"))

    assert (end.result["truncated"], end.result["dropped_bytes"]) == (True, 111)
    assert whole.result["truncated"] is False
    assert "dropped_bytes" not in whole.result


@pytest.mark.parametrize("cut", range(8))
def test_a_tail_never_begins_in_the_middle_of_a_character(folder: AttemptFolder, cut: int):
    text = "aé語𝄞z" * 3
    written(folder, text.encode())
    size = len(text.encode())
    shown = tail(folder, "stdout", size, size - cut)

    assert "\ufffd" not in shown.text
    assert text.endswith(shown.text)
    assert shown.text.encode() == text.encode()[shown.offset :]


def test_bytes_that_are_no_text_are_replaced(folder: AttemptFolder):
    written(folder, b"\x80\x81\x82\x83\x84ok\xff")

    assert tail(folder, "stdout", 8, 7).text.endswith("ok\ufffd")
    assert tail(folder, "stderr", 0, 10).text == ""


def test_an_attempt_that_left_nothing_is_failed_or_interrupted():
    assert failed("text", "Say.", "invalid").status == "failed"
    assert failed("text", "Say.", "spawn_failed", 7).retry_at == 7
    lost = interrupted("It was interrupted.", 7)
    assert (lost.status, lost.reason, lost.retry_at) == ("interrupted", "interrupted", 7)
    assert "proven" in lost.result["unverified"]


def test_pauses_double_to_a_limit_and_differ_by_a_quarter_at_most():
    pauses = [backoff_seconds(attempt, 0.5) for attempt in range(1, 30)]

    assert pauses[:4] == [2, 4, 8, 16]
    assert pauses == sorted(pauses)
    assert max(pauses) == DELAY_LIMIT_SECONDS
    assert backoff_seconds(1, 0.0) == 1.5
    assert backoff_seconds(1, 0.999999) < 2.5


def test_there_is_no_next_time_once_the_attempts_are_used_up():
    assert retry_at(1, 3, 1_000_000, 0.5) == 3_000_000
    assert retry_at(2, 3, 0, 0.5) == 4_000_000
    assert retry_at(3, 3, 0, 0.5) is None
    assert retry_at(4, 3, 0, 0.5) is None


ASK = {"about": "tool", "action": {"tool": "Bash"}, "say": "May I?", "diff": None}


def test_a_pause_is_an_interruption_that_asks_or_waits(folder: AttemptFolder):
    asking = Judge(Outcome(False, "May I?", "May I?", reason="asks", pause=Pause(ask=ASK)))
    parked = Judge(Outcome(False, "Later.", "Later.", reason="quota", pause=Pause(until=12.5)))
    asks = ending(folder, asking)
    quota = ending(folder, parked, quota_at=lambda until: round((until or 0) * 1000))
    assert (asks.status, asks.reason, asks.pause, asks.ask, asks.retry_at) == ("interrupted", "asks", "asks", ASK, None)
    assert (quota.status, quota.reason, quota.pause, quota.retry_at) == ("interrupted", "quota", "quota", 12500)


def test_survivors_let_nothing_pause(folder: AttemptFolder):
    asking = Judge(Outcome(False, "May I?", "May I?", reason="asks", pause=Pause(ask=ASK)))
    end = ending(folder, asking, survivors=(4711,), verified=False)
    assert (end.status, end.reason, end.pause) == ("failed", "stop_failed", None)


def test_what_was_used_is_added_up_and_the_rest_is_of_the_last_attempt():
    records = ({"type": "usage", "model": "m-2", "turns": 2, "cost_usd": None, "input_tokens": 5},)
    earlier = [{"model": "m-1", "turns": 1, "cost_usd": 0.5}, {}, {"turns": None}]
    end = reported(failed("text", "Say.", "timeout"), records, earlier, diff="d")
    shown = {name: end.result[name] for name in ("text", "model", "turns", "cost_usd", "input_tokens", "diff")}
    assert shown == {"text": "text", "model": "m-2", "turns": 3, "cost_usd": 0.5, "input_tokens": 5, "diff": "d"}
    assert end.details["report"]["turns"] == 2, "an attempt keeps its own"
    assert reported(end, (), []) is end


def test_a_report_cannot_make_a_result_grow_without_end_nor_take_the_place_of_its_text():
    many = [{"path": "x" * 1000, "change": "added"} for _ in range(400)]
    records = (
        {"type": "work", "files": many, "text": "mine", "branch": "b" * (REPORTED_LIMIT_BYTES + 1), "say": "mine"},
    )
    end = reported(failed("text", "Say.", "timeout"), records, [])
    assert (end.result["text"], end.result["say"]) == ("text", "Say.")
    assert "branch" not in end.result
    assert len(end.result["files"]) + end.result["files_left_out"] == len(many)
    assert len(json.dumps(end.result)) < 2 * REPORTED_LIMIT_BYTES
