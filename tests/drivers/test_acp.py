"""The driver of agents that speak the Agent Client Protocol, against an agent that does what its prompt says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from mcp_server.drivers import acp
from mcp_server.drivers.job import CommandRule, Job
from mcp_server.drivers.records import End, Records
from mcp_server.fingerprint import fingerprint
from tests.drivers.repositories import watched

AGENT = Path(__file__).with_name("fake_acp_agent.py")


class Driven:
    """What came of one attempt."""

    def __init__(self, end: End, records: list[dict[str, Any]], shown: str) -> None:
        self.end = end
        self.records = records
        self.shown = shown

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["type"] == kind]

    @property
    def told(self) -> list[str]:
        return [record["say"] for record in self.of("progress")]

    @property
    def state(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for record in self.of("state"):
            merged |= record["state"]
        return merged


Drive = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def drive(tmp_path: Path, place: Path) -> Drive:
    attempts = iter(range(100))

    async def run(*script: list[Any], arguments: tuple[str, ...] = (), **job: Any) -> Driven:
        folder = tmp_path / f"attempt-{next(attempts)}"
        folder.mkdir()
        records = Records(folder / "records.jsonl", shown := StringIO())
        fields: dict[str, Any] = {
            "driver": "acp",
            "agent": "tester",
            "title": "Tester",
            "program": (sys.executable, "-I", "-S", str(AGENT), *arguments),
            "env": {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            "prompt": "Do this.\n" + json.dumps(script),
            "task_id": "task-1",
            "task_number": 1,
            "folder": str(place),
        }
        end = await acp.drive(Job(**fields | job), place, records)
        lines = (folder / "records.jsonl").read_text().splitlines()
        return Driven(end, [json.loads(line) for line in lines], shown.getvalue())

    return run


async def test_the_answer_is_what_is_said_after_the_last_tool(drive: Drive) -> None:
    done = await drive(["say", "I look first."], ["run", "ls -l", ""], ["say", "All "], ["say", "is well."], ["usage"])
    assert done.end == End(outcome="completed", text="All is well.")
    assert done.told == ["running ls -l", "ran ls -l"]
    [usage] = done.of("usage")
    assert (usage["input_tokens"], usage["output_tokens"], usage["turns"]) == (20, 10, 2)


@pytest.mark.parametrize("beginning", ["/", "$", " \n/", "\ufeff/"])
async def test_a_prompt_is_never_a_command_of_the_agents_own(drive: Drive, tmp_path: Path, beginning: str) -> None:
    done = await drive(prompt=f'{beginning}extensions install evil\n[["say", "done"]]')
    assert done.end.outcome == "completed"
    [told] = json.loads((tmp_path / "sessions" / f"{done.state['session']}.json").read_text())
    assert told.startswith(f"The task: {beginning}extensions")


async def test_while_a_tool_works_it_is_known_and_not_while_the_model_does(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = watched(monkeypatch)
    await drive(["say", "a"], ["work", "make"], ["work", "a helper", "think"], ["say", "b"])
    assert at_work == [{}, {"call-1-1": "running make"}, {}, {}, {}, {}]
    at_work.clear()
    await drive(["run", "ls", ""], ["run", "make", ""], ["run", "git push", ""])
    running = [list(each.values()) for each in at_work]
    assert running == [["running ls"], [], ["running make"], [], []]


async def test_the_agents_version_is_recorded(drive: Drive) -> None:
    assert [record["version"] for record in (await drive()).of("agent")] == ["1.2.3"]


async def test_a_failed_test_run_is_told_in_words(drive: Drive) -> None:
    done = await drive(["run", "pytest -q", "..F..F\n2 failed, 4 passed in 0.1s"])
    assert done.told[-1] == "ran pytest -q, 2 failed"


async def test_a_file_in_the_place_of_work_is_edited_without_asking(drive: Drive, place: Path) -> None:
    done = await drive(["edit", str(place / "app.py"), "print(1)\n"], ["say", "Edited."])
    assert done.end.outcome == "completed"
    assert (place / "app.py").read_text() == "print(1)\n"
    assert "editing app.py" in done.told


async def test_a_file_elsewhere_is_asked_about_with_its_diff(drive: Drive, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.txt"
    done = await drive(["edit", str(outside), "new\n"])
    assert done.end.outcome == "asks"
    assert done.end.ask is not None
    assert done.end.ask.diff is not None
    assert "+new" in done.end.ask.diff
    assert not outside.exists()


async def test_a_path_that_climbs_out_of_the_place_is_asked_about(drive: Drive, place: Path) -> None:
    done = await drive(["edit", str(place / ".." / "elsewhere.txt"), "new\n"])
    assert done.end.outcome == "asks"
    assert not (place.parent / "elsewhere.txt").exists()


@pytest.mark.parametrize("command", ["rm -rf build", "make; rm -rf ~", "cat $(which sh)", "ls > out.txt", "sudo make"])
async def test_other_commands_are_asked_about_before_they_run(drive: Drive, command: str) -> None:
    done = await drive(["run", command, ""], ["say", "never"])
    assert done.end.outcome == "asks"
    assert done.end.ask is not None
    assert done.end.ask.action["input"] == {"command": command}
    assert done.end.ask.say == f"Tester wants to run {command}."
    assert done.told == []


async def test_what_was_allowed_is_done_in_the_same_session_and_nothing_else(drive: Drive) -> None:
    script = [["run", "rm -rf build", ""], ["run", "rm -rf dist", ""], ["say", "Gone."]]
    first = await drive(*script)
    granted = fingerprint(first.end.ask.action)
    second = await drive(*script, state=first.state, granted=(granted,))
    assert second.state["session"] == first.state["session"]
    assert "ran rm -rf build" in second.told
    assert second.end.ask.action["input"] == {"command": "rm -rf dist"}
    third = await drive(*script, state=second.state, granted=(granted, fingerprint(second.end.ask.action)))
    assert third.end == End(outcome="completed", text="Gone.")


@pytest.mark.parametrize("then", ["error", "silence"])
async def test_a_question_is_not_lost_where_the_agent_does_not_end_its_turn_well(
    drive: Drive, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acp, "CANCEL_SECONDS", 0.2)
    done = await drive(["run_deaf", "rm -rf build", then])
    assert done.end.outcome == "asks"
    assert done.end.ask.action["input"] == {"command": "rm -rf build"}


async def test_what_was_allowed_and_done_is_not_told_to_be_done_again(drive: Drive, tmp_path: Path) -> None:
    script = [["run", "rm -rf build", ""], ["exit", 9]]
    first = await drive(*script)
    granted = (fingerprint(first.end.ask.action),)
    second = await drive(*script, state=first.state, granted=granted)
    assert second.end.reason == "agent_ended"
    await drive(["say", "x"], state=first.state | second.state, granted=granted)
    prompts = json.loads((tmp_path / "sessions" / f"{first.state['session']}.json").read_text())
    assert [prompt.split(".")[0] for prompt in prompts[1:]] == [
        "The user has allowed what you asked for: run rm -rf build",
        "You were interrupted",
    ]


async def test_costs_of_a_session_that_was_lost_are_not_taken_off_a_new_one(drive: Drive) -> None:
    done = await drive(["cost", 0.5], ["say", "x"], state={"session": "gone", "cost_usd": 9.0, "task": "task-0"})
    assert done.of("usage")[0]["cost_usd"] == 0.5


async def test_a_review_is_refused_what_changes_things(drive: Drive, place: Path) -> None:
    done = await drive(["edit", str(place / "a"), "x"], ["run", "make", ""], ["say", "Looked."], profile="review")
    assert done.end == End(outcome="completed", text="Looked.")
    assert [denied["tool"] for denied in done.of("denied")] == ["edit", "execute"]
    assert not (place / "a").exists()


async def test_full_asks_nothing(drive: Drive) -> None:
    done = await drive(["run", "rm -rf build; true", ""], ["say", "Done."], profile="full")
    assert done.end == End(outcome="completed", text="Done.")


async def test_a_rule_of_the_users_decides_first(drive: Drive) -> None:
    rules = (CommandRule(("rm", "-rf", "build"), "allow"), CommandRule(("make", "*"), "deny"))
    done = await drive(["run", "rm -rf build", ""], ["run", "make all", ""], ["say", "Done."], rules=rules)
    assert done.end.outcome == "completed"
    assert [denied["input"] for denied in done.of("denied")] == ['{"command": "make all"}']


async def test_a_follow_up_goes_on_in_the_same_session_and_hears_nothing_twice(drive: Drive, tmp_path: Path) -> None:
    first = await drive(["say", "One."])
    second = await drive(["say", "Two."], state=first.state, task_id="task-2")
    assert second.end.text == "Two."
    assert second.state["session"] == first.state["session"]
    prompts = json.loads((tmp_path / "sessions" / f"{first.state['session']}.json").read_text())
    assert [prompt.splitlines()[0] for prompt in prompts] == ["Do this.", "Do this."]


async def test_an_interrupted_task_is_told_to_go_on(drive: Drive, tmp_path: Path) -> None:
    first = await drive(["complain", "I am killed"], ["exit", 9])
    assert (first.end.outcome, first.end.reason, first.end.may_pass) == ("failed", "agent_ended", True)
    assert "I am killed" in first.end.text
    second = await drive(["say", "Done."], state=first.state)
    assert second.end.text == "Done."
    prompts = json.loads((tmp_path / "sessions" / f"{first.state['session']}.json").read_text())
    assert prompts[1].startswith("You were interrupted.")


@pytest.mark.parametrize("arguments", [("--no-load",), ()])
async def test_an_agent_that_has_lost_its_session_is_told_what_was_said(
    drive: Drive, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    lost = {"session": "gone", "task": "task-1"}
    done = await drive(
        ["say", "New."], state=lost, task_id="task-2", earlier=("Name it.", "Alpha."), arguments=arguments
    )
    assert done.end.text == "New."
    [told] = json.loads((tmp_path / "sessions" / f"{done.state['session']}.json").read_text())
    assert "Name it.\n\nAlpha." in told


async def test_costs_are_counted_from_where_the_last_attempt_ended(drive: Drive) -> None:
    first = await drive(["cost", 0.25], ["say", "One."])
    second = await drive(["cost", 0.75], ["say", "Two."], state=first.state, task_id="task-2")
    assert [run.of("usage")[0]["cost_usd"] for run in (first, second)] == [0.25, 0.5]


async def test_a_budget_of_money_stops_and_asks(drive: Drive) -> None:
    done = await drive(["cost", 1.5], ["await_cancel"], max_cost_usd=1.0)
    assert done.end.ask.about == "budget"
    assert done.end.say == "Tester has used 1.50 of 1.00 dollars. Shall it go on for as much again?"


async def test_a_budget_of_steps_stops_and_asks_and_a_yes_goes_on(drive: Drive) -> None:
    script = [["run", "ls a", ""], ["run", "ls b", ""], ["say", "Done."]]
    first = await drive(*script, max_turns=1)
    assert first.end.ask.about == "budget"
    second = await drive(*script, max_turns=5, state=first.state, granted=(fingerprint(first.end.ask.action),))
    assert second.end.text == "Done."


@pytest.mark.parametrize(
    ("message", "outcome", "reason", "may_pass"),
    [
        ("429 Too Many Requests, retry in 2h 5m", "quota", "quota", False),
        ("Quota exceeded for this project", "quota", "quota", False),
        ("401 Unauthorized", "failed", "not_signed_in", False),
        ("503 Service Unavailable", "failed", "agent_error", True),
        ("400 bad model", "failed", "agent_error", False),
    ],
)
async def test_errors_of_the_model_are_told_apart(
    drive: Drive, message: str, outcome: str, reason: str, may_pass: bool
) -> None:
    done = await drive(["fail", -32000, message])
    assert (done.end.outcome, done.end.reason, done.end.may_pass) == (outcome, reason, may_pass)
    assert message in done.end.text


async def test_an_agent_that_exits_at_once_says_why(drive: Drive) -> None:
    done = await drive(arguments=("--exit-at-once",))
    assert (done.end.outcome, done.end.reason) == ("failed", "agent_ended")
    assert "exit code 3" in done.end.text
    assert "no such model" in done.end.text


async def test_updates_that_nobody_knows_and_lines_that_are_no_json_do_no_harm(drive: Drive) -> None:
    done = await drive(["unknown"], ["print", "warning: {not json\n"], ["say", "Fine."])
    assert done.end == End(outcome="completed", text="Fine.")


async def test_half_a_line_and_then_an_end_is_no_success(drive: Drive) -> None:
    done = await drive(["print", '{"jsonrpc": "2.0", "id"'], ["exit", 0])
    assert (done.end.outcome, done.end.reason, done.end.may_pass) == ("failed", "agent_ended", True)


async def test_one_that_never_says_anything_is_given_up(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acp, "START_SECONDS", 0.2)
    silent = (sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read(); sys.stdin.read()")
    done = await drive(program=silent)
    assert (done.end.outcome, done.end.reason, done.end.may_pass) == ("failed", "no_answer", True)


async def test_an_answer_of_megabytes_comes_in_one_line(drive: Drive) -> None:
    done = await drive(["say", "x" * 3_000_000])
    assert done.end.outcome == "completed"
    assert len(done.end.text) == 3_000_000


@pytest.mark.parametrize("reason", ["refusal", "max_tokens", "cancelled", "max_turn_requests"])
async def test_a_turn_that_did_not_end_by_itself_is_no_success(drive: Drive, reason: str) -> None:
    done = await drive(["stop", reason])
    assert done.end.outcome == "failed"
    assert done.end.text


async def test_a_prompt_of_200_kb_with_every_quoting_character_arrives_whole(drive: Drive, tmp_path: Path) -> None:
    text = "--help; $(rm -rf ~) `x` \"quoted\" 'single' \\ \u2028 é\n" * 4000
    done = await drive(prompt=text + '[["say", "Read."]]')
    [told] = json.loads((tmp_path / "sessions" / f"{done.state['session']}.json").read_text())
    assert told == text + '[["say", "Read."]]'


async def test_the_agent_gets_the_environment_of_the_job_alone(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cret")
    done = await drive(["env"])
    seen: Mapping[str, str] = json.loads(done.end.text)
    assert "MY_SECRET" not in seen
    assert seen["HOME"] == str(tmp_path)
