"""The driver of Claude Code, against a program that speaks as it does. The real one is in the acceptance tests."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_server.drivers import claude_code, claude_tools
from mcp_server.drivers.job import CommandRule, Job
from mcp_server.drivers.records import RECORDS_NAME, Ask, End, Records
from mcp_server.fingerprint import fingerprint
from tests.drivers.repositories import watched

FAKE = Path(__file__).with_name("fake_claude.py")
PUSH = {"use": ["Bash", {"command": "git push"}]}
Json = dict[str, Any]


class Ran:
    """What came of one attempt."""

    def __init__(self, end: End, records: list[Json], noted: list[Json], printed: str) -> None:
        self.end = end
        self.records = records
        self.noted = noted
        self.printed = printed

    def of(self, kind: str) -> list[Json]:
        return [record for record in self.records if record["type"] == kind]

    @property
    def progress(self) -> list[str]:
        return [record["say"] for record in self.of("progress")]

    @property
    def state(self) -> Json:
        """As the server merges it."""
        merged: Json = {}
        for record in self.of("state"):
            merged |= record["state"]
        return merged

    @property
    def ask(self) -> Ask:
        assert self.end.outcome == "asks"
        assert self.end.ask is not None
        return self.end.ask

    @property
    def argv(self) -> list[str]:
        return next(note["argv"] for note in self.noted if "argv" in note)

    @property
    def env(self) -> Json:
        return next(note["env"] for note in self.noted if "env" in note)

    @property
    def prompts(self) -> list[str]:
        told = [note["told"] for note in self.noted if "told" in note]
        return [message["message"]["content"] for message in told if message["type"] == "user"]

    @property
    def used(self) -> list[tuple[str, str]]:
        return [(note["used"], note["decision"]) for note in self.noted if "used" in note]


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path: Path, place: Path) -> Run:
    """Drive one attempt: `steps` are what the agent does; None: no script, it goes on with the one before."""
    home = tmp_path / "agent-home"
    home.mkdir()

    async def driven(steps: list[Any] | None, words: str = "Do it.", **fields: Any) -> Ran:
        (home / "noted.jsonl").unlink(missing_ok=True)
        records = tmp_path / RECORDS_NAME
        records.unlink(missing_ok=True)
        script = "" if steps is None else f"\n{json.dumps(steps)}"
        defaults: Json = {"clone": str(tmp_path), "task_id": "task-1", "prompt": f"{words}{script}"}
        job = Job(
            driver="claude_code",
            agent="claude_code",
            title="Claude Code",
            program=(sys.executable, str(FAKE)),
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            task_number=1,
            folder=str(place),
            **(defaults | fields),
        )
        printed = io.StringIO()
        end = await claude_code.drive(job, place, Records(records, printed))
        noted = [json.loads(line) for line in (home / "noted.jsonl").read_text().splitlines()]
        return Ran(end, [json.loads(line) for line in records.read_text().splitlines()], noted, printed.getvalue())

    return driven


async def test_a_success_has_its_answer_its_usage_and_what_was_going_on(run: Run, place: Path):
    ran = await run(
        [
            {"use": ["Edit", {"file_path": str(place / "src/app.py"), "old_string": "a", "new_string": "b"}]},
            {"use": ["Bash", {"command": "pytest -q"}]},
            {"say": "All is well."},
        ]
    )
    assert (ran.end.outcome, ran.end.text, ran.end.verified) == ("completed", "All is well.", True)
    assert ran.progress == [
        "editing src/app.py",
        "running pytest -q",
        "ran pytest -q: 1 failed, 2 passed",
    ]
    assert ran.of("usage")[-1] == {
        "type": "usage",
        "model": "model-1",
        "turns": 3,
        "input_tokens": 100,
        "output_tokens": 7,
        "cost_usd": 0.5,
    }
    assert ran.state["task"] == "task-1"
    assert ran.state["session"] in ran.argv
    assert ran.used == [("Edit", "allow"), ("Bash", "allow")]
    assert "All is well." not in ran.printed  # the end record prints it, once


async def test_the_repository_is_not_asked_for_settings_and_nothing_is_read_unasked(run: Run):
    ran = await run([], model="sonnet", max_turns=3, max_cost_usd=0.25, arguments=("--debug",))
    words = " ".join(ran.argv)
    for option in (
        "--setting-sources user",
        "--strict-mcp-config",
        "--permission-mode manual",
        "--model sonnet",
        "--max-turns 3",
        "--max-budget-usd 0.25",
    ):
        assert option in words
    assert ran.argv[-1] == "--debug"
    assert ran.env["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] == "1"
    assert "Edit" not in words
    assert "Edit" in " ".join((await run([], profile="review")).argv)


async def test_a_leading_slash_is_no_command(run: Run):
    assert (await run([], "/compact it")).prompts[0].startswith("\n/compact it")


async def test_what_is_not_allowed_is_denied_and_recorded(run: Run):
    ran = await run([PUSH], profile="review")
    assert ran.end.outcome == "completed"
    assert ran.used == [("Bash", "deny")]
    assert [(denied["tool"], json.loads(denied["input"])) for denied in ran.of("denied")] == [
        ("Bash", {"command": "git push"})
    ]


async def test_a_denial_of_claude_codes_own_is_recorded_too(run: Run):
    ours = {"tool_name": "WebFetch", "tool_use_id": "toolu_1", "tool_input": {"url": "http://a"}}
    own = {"tool_name": "Bash", "tool_use_id": "toolu_2", "tool_input": {"command": "make"}}
    uses = [{"use": ["WebFetch", {"url": "http://a"}]}, {"use": ["Bash", {"command": "cat README.md"}]}]
    ran = await run([*uses, {"result": {"permission_denials": [ours, own]}}], profile="review")
    assert ran.used == [("WebFetch", "deny"), ("Bash", "allow")]
    assert [(denied["tool"], "own settings" in denied["why"]) for denied in ran.of("denied")] == [
        ("WebFetch", False),
        ("Bash", True),
    ]


async def test_the_projects_notes_are_pointed_at(run: Run, place: Path):
    assert "AGENTS.md" not in " ".join((await run([])).argv)
    (place / "AGENTS.md").write_text("Use tabs.")
    assert "read AGENTS.md first" in " ".join((await run([])).argv)


async def test_a_question_ends_the_process_and_an_approval_lets_that_very_call_through(run: Run, place: Path):
    asked = await run([PUSH, {"say": "Pushed."}])
    assert asked.ask.action == {
        "agent": "claude_code",
        "tool": "Bash",
        "input": {"command": "git push"},
        "cwd": str(place),
        "argv": ["git", "push"],
    }
    assert asked.ask.say == "Claude Code wants to run git push."
    granted = (fingerprint(asked.ask.action),)
    ran = await run([], "never told", state=asked.state, granted=granted, interrupted=True)
    assert (ran.end.outcome, ran.end.text) == ("completed", "Pushed.")
    assert ran.prompts == []
    assert ran.used == [("Bash", "allow")]
    assert ran.progress == ["running git push", "ran git push: 1 failed, 2 passed"]
    assert ran.state["session"] == asked.state["session"]
    assert ran.state["asked"] is None


async def test_an_approved_call_that_was_made_already_is_not_asked_for_again(run: Run):
    asked = await run([PUSH, {"exit": 9}, {"say": "Went on."}])
    state, granted = asked.state, (fingerprint(asked.ask.action),)
    died = await run(None, state=state, granted=granted)
    assert died.end.outcome == "failed"
    # As if the server had gone before it read that the call was let through.
    ran = await run(None, state=state | {"task": "task-1"}, granted=granted)
    assert ran.end.text == "Went on."
    assert ran.used == []
    assert ran.prompts[0].startswith("You were interrupted.")


async def test_what_was_denied_is_not_put_again_in_a_follow_up(run: Run):
    asked = await run([PUSH])
    ran = await run([{"say": "Left out."}], "Then not.", state=asked.state, task_id="task-2")
    assert (ran.end.outcome, ran.end.text) == ("completed", "Left out.")
    assert ran.used == []
    assert ran.prompts[0].startswith("Then not.")
    assert "--resume" in ran.argv


async def test_another_call_than_the_approved_one_is_asked_about(run: Run):
    asked = await run([PUSH, {"use": ["Bash", {"command": "git push --force"}]}])
    again = await run(None, state=asked.state, granted=(fingerprint(asked.ask.action),))
    assert again.ask.action["argv"] == ["git", "push", "--force"]
    assert fingerprint(again.ask.action) != fingerprint(asked.ask.action)


async def test_where_it_cannot_defer_it_is_interrupted_and_told_on_resume(run: Run):
    use = {"use": ["WebFetch", {"url": "https://example.org"}], "asks": True}
    asked = await run([use, use, {"say": "Read."}])
    assert asked.ask.say == "Claude Code wants to read https://example.org."
    granted = (fingerprint(asked.ask.action),)
    ran = await run(None, state=asked.state, granted=granted)
    allowed = "The user has allowed what you asked for: read https://example.org."
    assert ran.prompts == [f"{allowed} Do exactly that now, and go on with the task."]
    assert (ran.used, ran.end.text) == ([("WebFetch", "allow")], "Read.")


async def test_a_helper_cannot_ask(run: Run):
    ran = await run([{"use": ["Bash", {"command": "git push by a helper"}]}, {"say": "It could not."}])
    assert ran.end.outcome == "completed"
    assert ran.used == [("Bash", "deny")]
    assert ran.of("denied") == []


async def test_a_rule_of_the_users_comes_first(run: Run):
    rules = (CommandRule(("git", "push"), "deny"),)
    assert (await run([PUSH], profile="full", rules=rules)).used == [("Bash", "deny")]
    assert (await run([PUSH], rules=(CommandRule(("git", "*"), "allow"),))).used == [("Bash", "allow")]


async def test_a_link_out_of_the_place_is_seen_through(run: Run, place: Path, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (place / "link").symlink_to(tmp_path / "outside")
    ran = await run([{"use": ["Write", {"file_path": "link/x.txt", "content": "one\ntwo\n"}]}])
    assert ran.ask.say == "Claude Code wants to edit link/x.txt."
    assert ran.ask.diff is not None
    assert "+one\n+two\n" in ran.ask.diff
    read = await run([{"use": ["Read", {"file_path": str(place / "link/x.txt")}]}], profile="review")
    assert read.used == [("Read", "deny")]


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "*/../../x", "~/*"])
def test_a_pattern_may_not_lead_elsewhere(pattern: str, place: Path):
    inside = claude_tools.tool_request("Glob", {"pattern": "src/*.py"}, str(place), None)
    assert all(Path(path).is_relative_to(place) for path in inside.paths)
    outside = claude_tools.tool_request("Glob", {"pattern": pattern}, str(place), None)
    assert not all(Path(path).is_relative_to(place) for path in outside.paths)


async def test_what_was_too_long_for_the_conversation_may_be_read(run: Run, tmp_path: Path):
    first = await run([])
    kept = tmp_path / "agent-home" / ".claude" / first.state["session"] / "tool-results" / "1.txt"
    ran = await run([{"use": ["Read", {"file_path": str(kept)}]}], state=first.state, task_id="task-2")
    assert ran.used == [("Read", "allow")]


async def test_an_attempt_after_an_interruption_goes_on_where_it_was(run: Run):
    died = await run([{"say": "Half way."}, {"exit": 137}, {"say": "There."}])
    assert (died.end.outcome, died.end.reason, died.end.may_pass) == ("failed", "no_result", True)
    ran = await run(None, "never told", state=died.state, interrupted=True)
    assert ran.end.text == "There."
    assert ran.prompts == [
        "You were interrupted. Go on with the task where you were; look first at what is done already."
    ]


async def test_a_prompt_that_never_arrived_is_told_again(run: Run):
    died = await run([{"exit": 1, "stderr": "boom"}], "First words.")
    assert "task" not in died.state
    assert "boom" in died.end.text
    assert died.end.may_pass is False  # it never got to work
    ran = await run([{"say": "Now."}], "First words.", state=died.state, interrupted=True)
    assert ran.end.text == "Now."
    assert ran.prompts[0].startswith("First words.")


async def test_a_lost_conversation_is_begun_anew_with_what_was_said(run: Run):
    state = {"session": "8b1d9a0e-0000-4000-8000-000000000000", "task": "task-0"}
    ran = await run([{"say": "Again."}], "And now?", state=state, earlier=("Remember 4711.", "I will."))
    assert ran.end.text == "Again."
    assert "Remember 4711.\n\nI will.\n\nNow:\n\nAnd now?" in ran.prompts[-1]
    assert ran.state["session"] != state["session"]


async def test_costs_are_of_this_attempt_alone_also_where_only_totals_are_told(run: Run):
    first = await run([])
    assert first.state["cost_usd"] == 0.5
    second = await run([{"result": {"model_usage_since_last_result": None, "usage": {"output_tokens": 3}}}],
                       state=first.state, task_id="task-2")  # fmt: skip
    assert second.of("usage")[-1]["cost_usd"] == 0.5
    assert second.state["cost_usd"] == 1.0


@pytest.mark.parametrize(
    ("fields", "budget", "say"),
    [
        ({"subtype": "error_max_turns"}, {"max_turns": 3}, "3 turns"),
        ({"subtype": "error_max_budget_usd"}, {"max_cost_usd": 1.5}, "1.5 dollars"),
    ],
)
async def test_a_budget_that_is_used_up_is_asked_about(run: Run, fields: Json, budget: Json, say: str):
    ran = await run(
        [{"say": "."}, {"result": fields | {"is_error": True}}, {"say": "More."}], max_turns=3, max_cost_usd=1.5
    )
    assert (ran.ask.about, ran.ask.action["budget"]) == ("budget", budget)
    assert say in ran.ask.say
    granted = (fingerprint(ran.ask.action),)
    more = await run(None, state=ran.state, granted=granted)
    assert more.prompts == ["You may go on with the task where you were."]
    assert more.end.text == "More."


@pytest.mark.parametrize(
    ("fields", "outcome", "reason", "may_pass"),
    [
        ({"is_error": False, "subtype": "error_that_is_new"}, "failed", "agent_error", True),
        ({"api_error_status": 400}, "failed", "agent_error", False),
        ({"api_error_status": 401}, "failed", "not_signed_in", False),
        ({"api_error_status": 500}, "failed", "agent_error", True),
        ({"api_error_status": None}, "failed", "agent_error", True),
        ({"api_error_status": 429}, "quota", "quota", False),
        ({"api_error": "usage_limit_reached"}, "quota", "quota", False),
    ],
)
async def test_an_error_is_told_apart_by_its_status(run: Run, fields: Json, outcome: str, reason: str, may_pass: bool):
    ran = await run([{"say": "."}, {"result": {"is_error": True, "result": "It says why."} | fields}])
    assert (ran.end.outcome, ran.end.reason, ran.end.may_pass) == (outcome, reason, may_pass)
    assert ran.end.text == "It says why."
    assert ran.end.until is None


async def test_a_limit_names_its_time(run: Run):
    until = time.time() + 3600
    limit = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": until}}
    near = {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed_warning", "resetsAt": 1}}
    ran = await run([near, limit, {"result": {"is_error": True, "api_error_status": 429}}])
    assert (ran.end.outcome, ran.end.until) == ("quota", until)


async def test_a_long_wait_is_not_waited_for(run: Run):
    retry = {"type": "system", "subtype": "api_retry", "error_status": 429, "error": "rate_limit", "attempt": 1}
    ran = await run([retry | {"retry_delay_ms": 3_600_000}, {"stay": True}])
    assert ran.end.outcome == "quota"
    assert ran.end.until is not None
    assert 3500 < ran.end.until - time.time() < 3700


async def test_a_login_that_is_refused_twice_is_not_tried_for_minutes(run: Run):
    retry = {"type": "system", "subtype": "api_retry", "error_status": 401, "error": "authentication_failed"}
    steps = [retry | {"attempt": 1, "max_retries": 10}, retry | {"attempt": 2, "max_retries": 10}, {"stay": True}]
    ran = await run(steps)
    assert (ran.end.outcome, ran.end.reason) == ("failed", "not_signed_in")
    assert ran.progress == ["waits for the model (authentication failed), try 1 of 10"]


@pytest.mark.parametrize(
    "line",
    [
        "no JSON at all",
        '{"type": "assistant", "message": ',
        "[1, 2]",
        "null",
        '{"no": "type"}',
        '{"type": 7}',
        '{"type": "something_new", "what": [1]}',
        '{"type": "assistant", "message": {"content": "text"}}',
        '{"type": "assistant", "message": {"content": [{"type": "tool_use", "name": 5, "input": []}]}}',
        '{"type": "assistant"}',
        '{"type": "user", "message": {"content": [{"type": "tool_result", "content": {"a": 1}}]}}',
        '{"type": "user", "message": null}',
        '{"type": "system", "subtype": "api_retry", "error_status": "x", "retry_delay_ms": "y"}',
        '{"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": "soon"}}',
        '{"type": "control_response"}',
        "[" * 100_000,
        '{"type": "text", "x": "' + "x" * 3_000_000 + '"}',
    ],
    ids=range(17),
)
async def test_what_cannot_be_understood_does_no_harm(run: Run, line: str):
    ran = await run([line, {"use": ["Bash", {"command": "make test"}]}, {"say": "Fine."}])
    assert (ran.end.outcome, ran.end.text) == ("completed", "Fine.")
    assert ran.used == [("Bash", "allow")]


async def test_an_end_without_a_result_is_no_success(run: Run):
    ran = await run(["not JSON", {"exit": 0, "stderr": "it fell"}])
    assert (ran.end.outcome, ran.end.reason) == ("failed", "no_result")
    assert "it fell" in ran.end.text
    assert "1 line could" in ran.end.text


async def test_one_that_has_answered_and_does_not_end_is_stopped(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claude_code, "EXIT_SECONDS", 0.2)
    ran = await run([{"stay": True}, {"say": "Answered."}])
    assert (ran.end.outcome, ran.end.text) == ("completed", "Answered.")
    assert "does not end" in ran.printed


async def test_a_prompt_is_given_as_it_is(run: Run):
    words = "--help -p \"'`$(x)`' \\ %s {prompt} ü 😀 " + "y" * 200_000
    assert (await run([], words)).prompts == [f"{words}\n[]"]


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("Write", {"file_path": "/place/src/app.py"}, "editing src/app.py"),
        ("Read", {"file_path": "/etc/hosts"}, "reading /etc/hosts"),
        ("Bash", {"command": "pytest   -q\n  --lf"}, "running pytest -q --lf"),
        ("Bash", {"command": "x" * 500}, f"running {'x' * 79}…"),
        ("Grep", {"pattern": "TODO"}, "searching for TODO"),
        ("Task", {"description": "look around"}, "has a helper at work: look around"),
        (
            "TodoWrite",
            {"todos": [{"status": "pending"}, {"status": "in_progress", "activeForm": "tidying"}]},
            "tidying",
        ),
        ("TodoWrite", {"todos": "none"}, ""),
        ("ToolSearch", {"query": "x"}, ""),
        ("mcp__a__b", {}, "using mcp__a__b"),
        ("Bash", {"command": None}, "running "),
    ],
)
def test_what_it_does_is_told_in_a_few_words(tool: str, given: Json, said: str):
    assert claude_tools.doing(tool, given, Path("/place")) == said


@pytest.mark.parametrize(
    ("output", "failed", "said"),
    [
        ("== 2 failed, 30 passed in 1.2s ==", True, "ran make test: 2 failed, 30 passed"),
        ("== 30 passed in 1.2s ==", False, "ran make test: 30 passed"),
        ("Exit code 2\nboom", True, "ran make test: it failed with exit code 2"),
        ("boom", True, "ran make test: it failed"),
        ("built", False, ""),
    ],
)
def test_how_a_command_ended_is_told_where_it_says_so(output: str, failed: bool, said: str):
    assert claude_tools.done("Bash", {"command": "make test"}, output, failed) == said


async def test_while_a_tool_works_it_is_known_and_not_while_the_model_does(run: Run, monkeypatch: pytest.MonkeyPatch):
    at_work = watched(monkeypatch)
    bash = {"use": ["Bash", {"command": "make"}]}
    await run([bash, {"use": ["Task", {"description": "help"}]}, {"say": "done"}], profile="full")
    assert [list(each.values()) for each in at_work if each] == [["running make"]]
    assert at_work[-1] == {}
    at_work.clear()
    half = {"type": "user", "message": {"content": []}}
    open_tool = {"type": "control_request", "request_id": "r", "request": {"subtype": "hook_callback"}}
    wish = {"tool_name": "Bash", "tool_input": {"command": "make"}, "tool_use_id": "left-open"}
    open_tool["request"] = {"subtype": "hook_callback", "input": wish}
    await run([open_tool, half, {"say": "the model goes on"}], profile="full")
    assert at_work == [{"left-open": "running make"}, {}]


async def test_its_version_is_recorded(run: Run):
    ran = await run([{"type": "system", "subtype": "init", "session_id": "s", "claude_code_version": "2.1.329"}])
    assert [record["version"] for record in ran.of("agent")] == ["2.1.329"]
