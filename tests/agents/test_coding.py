"""A coding agent: what it takes, what its driver is told, what its records mean."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_server.agent import Availability, Exit, WorkOrder
from mcp_server.agents.coding import CLAUDE_CODE, CODEX, CodingAgent
from mcp_server.agents.coding_report import report_of
from mcp_server.agents.isolation import bubblewrap
from mcp_server.agents.program_version import version_of
from mcp_server.drivers.job import Job
from mcp_server.errors import InvalidError, UnavailableError
from mcp_server.settings import Settings

Make = Callable[..., CodingAgent]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, but for the system's own programs; and a home folder."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    return folder


def put(folder: Path, name: str, script: str = "echo '2.1.329 (Claude Code)'") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def make(home: Path, workspace: Path, programs: Path) -> Make:
    """Claude Code under some settings."""

    def made(known: Any = CLAUDE_CODE, **settings: Any) -> CodingAgent:
        given = {"home": home, "workspaces": {"work": workspace}, "sandbox": "off"} | settings
        return CodingAgent(known, Settings.model_validate(given), lambda: [workspace])

    return made


@pytest.fixture
def agent(make: Make, programs: Path) -> CodingAgent:
    put(programs, "claude")
    return make()


@pytest.fixture
def order(workspace: Path, tmp_path: Path) -> Callable[..., WorkOrder]:
    def made(description: str = "Fix the login", **fields: Any) -> WorkOrder:
        basic: dict[str, Any] = {"workspace": workspace, "cwd": workspace, "clone": tmp_path / "clones" / "1" / "x"}
        return WorkOrder(description, **(basic | fields))

    return made


def job_of(agent: CodingAgent, order: WorkOrder) -> Job:
    agent.check(order)
    return Job.from_json(agent.invocation(order).stdin)


def issue(agent: CodingAgent, order: WorkOrder) -> tuple[str, str]:
    with pytest.raises(InvalidError) as caught:
        agent.check(order)
    found = caught.value.issues[0]
    assert found.fix
    assert len(found.message) < 300
    return found.field, found.fix


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"profile": "yolo"}, "profile"),
        ({"profile": ["edit"]}, "profile"),
        ({"model": ""}, "model"),
        ({"model": "--dangerously-skip-permissions"}, "model"),
        ({"model": "a b"}, "model"),
        ({"model": 5}, "model"),
        ({"max_turns": 0}, "max_turns"),
        ({"max_turns": True}, "max_turns"),
        ({"max_turns": 1.5}, "max_turns"),
        ({"max_turns": "5"}, "max_turns"),
        ({"max_cost_usd": 0}, "max_cost_usd"),
        ({"max_cost_usd": float("nan")}, "max_cost_usd"),
        ({"max_cost_usd": float("inf")}, "max_cost_usd"),
        ({"max_cost_usd": True}, "max_cost_usd"),
        ({"in_place": "yes"}, "in_place"),
        ({"in_place": True, "branch": "main"}, "in_place"),
        ({"branch": "main", "pull_request": 7}, "pull_request"),
        ({"pull_request": "7"}, "pull_request"),
        ({"pull_request": 0}, "pull_request"),
        ({"pull_request": True}, "pull_request"),
        ({"branch": "--upload-pack=id"}, "branch"),
        ({"branch": "a..b"}, "branch"),
        ({"branch": "a b"}, "branch"),
        ({"branch": "a:b"}, "branch"),
        ({"branch": "a\n"}, "branch"),
        ({"branch": "x.lock"}, "branch"),
        ({"branch": "/x"}, "branch"),
        ({"branch": ""}, "branch"),
        ({"branch": "pull/7"}, "branch"),
        ({"command": ["x"]}, "command"),
        ({"modell": "x"}, "modell"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_refused(
    agent: CodingAgent, order: Callable[..., WorkOrder], params: dict[str, Any], field: str
):
    assert issue(agent, order(params=params))[0] == f"params.{field}"


def test_parameters_reach_the_driver(agent: CodingAgent, order: Callable[..., WorkOrder], workspace: Path):
    params = {"profile": "review", "model": "opus[1m]", "max_turns": 5, "max_cost_usd": 2, "pull_request": 7}
    job = job_of(agent, order(params=params, state={"session": "s"}, granted=("h",), resumed=True, number=7))
    assert (job.profile, job.model, job.max_turns, job.max_cost_usd, job.base) == (
        "review",
        "opus[1m]",
        5,
        2.0,
        "pull/7",
    )
    assert (job.state, job.granted, job.interrupted, job.task_number) == ({"session": "s"}, ("h",), True, 7)
    assert (job.folder, job.workspace, job.slug) == (str(workspace), str(workspace), "fix-the-login")
    assert job.clone is not None
    assert job_of(agent, order(params={"branch": "feature/a-b", "profile": None})).base == "feature/a-b"
    in_place = job_of(agent, order(params={"in_place": True}, clone=None))
    assert (in_place.clone, in_place.base, in_place.profile) == (None, None, "edit")


def test_a_clone_of_its_own_is_never_left_out(agent: CodingAgent, order: Callable[..., WorkOrder]):
    with pytest.raises(AssertionError):
        agent.invocation(order(clone=None))


@pytest.mark.parametrize(
    "prompt", ["--help", "-p 'x' \"y\" `z` $(id) \\ %s {prompt} \U0001f600\u2028\t", "line\n" * 40_000 + "'\"`$"]
)
def test_a_prompt_of_any_kind_reaches_the_driver_by_stdin(
    agent: CodingAgent, order: Callable[..., WorkOrder], prompt: str
):
    agent.check(order(prompt))
    invocation = agent.invocation(order(prompt))
    assert Job.from_json(invocation.stdin.encode()).prompt == prompt
    assert not any(prompt in argument for argument in invocation.argv)
    assert prompt not in invocation.env.values()


def test_without_words_or_a_workspace_nothing_is_taken(agent: CodingAgent, order: Callable[..., WorkOrder]):
    assert issue(agent, order(" \n"))[0] == "description"
    assert issue(agent, order(workspace=None, cwd=None))[0] == "workspace"


def test_what_the_settings_say_holds_where_the_order_says_nothing(
    make: Make, order: Callable[..., WorkOrder], programs: Path
):
    put(programs, "claude")
    own = {"model": "haiku", "profile": "review", "max_turns": 9, "args": ["--x"], "timeout_seconds": 60, "title": "C"}
    agent = make(agents={"claude_code": own})
    job = job_of(agent, order())
    assert (job.model, job.profile, job.max_turns, job.arguments) == ("haiku", "review", 9, ("--x",))
    assert (agent.default_timeout_seconds, agent.title) == (60, "C")
    assert job_of(agent, order(params={"model": "opus", "profile": "full"})).profile == "full"


def test_only_what_is_named_is_passed_on(
    make: Make, order: Callable[..., WorkOrder], programs: Path, monkeypatch: pytest.MonkeyPatch
):
    put(programs, "claude")
    for name in ("GH_TOKEN", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "AWS_SECRET", "OWN"):
        monkeypatch.setenv(name, "secret")
    agent = make(pass_env=["GH_TOKEN"], agents={"claude_code": {"pass_env": ["OWN"], "env": {"MODE": "x"}}})
    invocation = agent.invocation(order())
    env = Job.from_json(invocation.stdin).env
    assert {name for name, value in env.items() if value == "secret"} == {"GH_TOKEN", "ANTHROPIC_API_KEY", "OWN"}
    assert env["MODE"] == "x"
    assert "AWS_SECRET" not in invocation.env


def test_a_program_that_appears_is_ready_with_its_version_and_one_that_goes_is_missing(
    agent: CodingAgent, programs: Path
):
    agent.look()
    assert (agent.availability().installed, agent.availability().version) == (True, "2.1.329")
    newer = put(programs, "claude", "echo 3.0.1-beta")
    os.utime(newer, ns=(1, 1))
    agent.look()
    assert agent.availability().version == "3.0.1-beta"
    newer.unlink()
    gone = agent.availability()
    assert not gone.installed
    assert "npm install -g @anthropic-ai/claude-code" in gone.missing
    put(programs, "claude")
    assert agent.availability().installed


def test_a_version_is_asked_for_once(agent: CodingAgent, programs: Path):
    put(programs, "claude", f"echo x >> {programs}/asked; echo 1.2")
    agent.look()
    agent.look()
    assert (programs / "asked").read_text() == "x\n"


@pytest.mark.parametrize(
    ("script", "version"),
    [("exit 1", None), ("echo none", None), ("printf '\\377 1.2.3\\n'", "1.2.3"), ("echo v1.2.3; exit 1", "1.2.3")],
)
def test_a_version_may_be_anything(programs: Path, script: str, version: str | None):
    assert version_of([str(put(programs, "odd", script))], os.environ) == version
    assert version_of([str(programs / "nowhere")], os.environ) is None


def test_a_program_in_a_workspace_is_not_run(make: Make, order: Callable[..., WorkOrder], workspace: Path):
    put(workspace, "claude")
    agent = make(agents={"claude_code": {"program": str(workspace / "claude")}})
    agent.look()
    assert not agent.availability().installed
    assert "workspace" in agent.availability().missing
    with pytest.raises(UnavailableError, match="workspace"):
        agent.invocation(order())


def test_a_budget_that_cannot_be_held_is_refused(make: Make, order: Callable[..., WorkOrder]):
    assert issue(make(CODEX), order(params={"max_cost_usd": 1}))[0] == "params.max_cost_usd"


def test_without_a_sandbox_nothing_is_contained_and_it_says_so(agent: CodingAgent, order: Callable[..., WorkOrder]):
    agent.look()
    assert "without a sandbox" in agent.availability().notes[0]
    assert not agent.check(order()).contained
    assert not agent.check(order()).reads_only


@pytest.mark.skipif(bubblewrap(os.defpath)[0] is None, reason="bubblewrap does not work here")
def test_in_a_sandbox_it_is_contained_but_for_the_widest_profile_and_in_place(
    make: Make, order: Callable[..., WorkOrder], programs: Path, home: Path
):
    put(programs, "claude")
    agent = make(sandbox="auto")
    agent.look()
    assert agent.availability() == Availability(installed=True, version="2.1.329")
    for params, contained in (({}, True), ({"profile": "review"}, True), ({"profile": "full"}, False)):
        assert agent.check(order(params=params)).contained is contained
    assert not agent.check(order(params={"in_place": True})).contained
    sandbox = job_of(agent, order()).sandbox
    assert sandbox.bubblewrap is not None
    assert str(home) in sandbox.hidden
    assert any(place.endswith("/.claude") for place in sandbox.writable)


def test_where_the_sandbox_must_be_and_is_not_nothing_runs(
    make: Make, order: Callable[..., WorkOrder], programs: Path, monkeypatch: pytest.MonkeyPatch
):
    put(programs, "claude")
    monkeypatch.setenv("PATH", str(programs))
    agent = make(sandbox="strict")
    agent.look()
    found = agent.availability()
    assert (found.installed, found.ready) == (True, False)
    assert "strict" in found.missing
    with pytest.raises(UnavailableError, match="strict"):
        agent.invocation(order())


def test_rules_about_commands_reach_the_driver(
    make: Make, order: Callable[..., WorkOrder], programs: Path, workspace: Path
):
    put(programs, "claude")
    rules = [
        {"decision": "allow", "agent": "claude_code", "command": ["gh", "*"]},
        {"decision": "allow", "agent": "shell", "command": ["id"]},
        {"decision": "deny", "level": "phone", "command": ["git", "push", "*"]},
        {"decision": "allow", "level": "phone", "command": ["sudo", "*"]},
        {"decision": "ask", "workspace": "work", "command": ["make"]},
        {"decision": "allow", "workspace": "other", "command": ["rm", "*"]},
        {"decision": "allow", "agent": "claude_code"},
    ]
    agent = make(policy=rules, workspaces={"work": workspace, "other": workspace.parent})
    found = [(rule.command, rule.decision) for rule in job_of(agent, order()).rules]
    assert found == [(("gh", "*"), "allow"), (("git", "push", "*"), "deny"), (("make",), "ask")]


END = {
    "type": "end",
    "outcome": "completed",
    "text": "I fixed it.",
    "say": "",
    "reason": None,
    "may_pass": False,
    "verified": True,
    "until": None,
    "ask": None,
}
WORK = {
    "type": "work",
    "branch": "offhand/task-7-fix",
    "base": "abc",
    "commit": "def",
    "files": [{"path": "a", "change": "modified", "insertions": 1, "deletions": 0}],
    "diff": "changes.diff",
    "dirty": False,
}
USAGE = {"type": "usage", "model": "opus", "turns": 3, "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.5}
DENIED = {"type": "denied", "tool": "Bash", "input": "{}", "why": "no"}


def judge(agent: CodingAgent, *records: dict[str, Any], profile: str = "edit") -> Any:
    ended = Exit("exited", 0, "", "", records=records)
    outcome = agent.judge(WorkOrder("x", {"profile": profile}), ended)
    assert len(outcome.say.split()) <= 40
    json.dumps(dict(outcome.details))
    return outcome


def test_work_that_was_done_is_told_with_where_it_is(agent: CodingAgent):
    done = judge(agent, {"type": "state", "state": {"session": "s-1"}}, USAGE, WORK, END)
    assert done.completed
    assert done.text == "I fixed it."
    assert done.say == "Claude Code is done: 1 file changed on branch offhand/task-7-fix. I fixed it."
    assert done.details["agent_conversation_id"] == "s-1"
    assert (done.details["model"], done.details["turns"], done.details["cost_usd"]) == ("opus", 3, 0.5)
    assert (done.details["files_count"], done.details["commit"], done.details["dirty"]) == (1, "def", False)
    assert "diff" not in done.details
    assert "unverified" not in done.details


def test_an_answer_without_changes(agent: CodingAgent):
    assert judge(agent, END).say == "Claude Code is done and changed no files. I fixed it."
    assert judge(agent, END, profile="review").say == "Claude Code is done. I fixed it."
    assert judge(agent, END | {"text": "word " * 500}).say.count("word") > 20
    assert judge(agent, END | {"text": "", "say": "Fixed."}).say == "Claude Code is done and changed no files. Fixed."


def test_changes_that_it_did_not_see_are_said(agent: CodingAgent):
    unseen = "It did not see your uncommitted changes."
    assert unseen in judge(agent, WORK | {"dirty": True}, END).say
    review = judge(agent, {"type": "state", "state": {"clone": {"dirty": True}}}, END, profile="review")
    assert review.say == f"Claude Code is done. {unseen} I fixed it."
    assert review.details["dirty"] is True
    in_place = judge(agent, WORK | {"dirty": True, "base": None, "branch": "main"}, END)
    assert unseen not in in_place.say


def test_what_is_not_certain_is_said(agent: CodingAgent):
    unsure = judge(agent, WORK, END | {"verified": False})
    assert unsure.completed
    assert unsure.details["unverified"] in unsure.say
    denied = judge(agent, DENIED, DENIED, WORK, END)
    assert (denied.details["denials_count"], len(denied.details["denials"])) == (2, 2)
    assert "2 uses of tools were not allowed" in denied.say
    assert "unverified" in denied.details


def test_a_failure_says_where_its_work_is(agent: CodingAgent):
    failed = judge(agent, WORK, END | {"outcome": "failed", "text": "API error 500", "reason": None, "may_pass": True})
    assert (failed.completed, failed.reason, failed.may_pass) == (False, "agent_error", True)
    assert failed.say == "Claude Code failed. API error 500. What it did is on branch offhand/task-7-fix."
    said = judge(agent, END | {"outcome": "failed", "say": "Claude Code is not signed in."}).say
    assert said == "Claude Code is not signed in."


def test_without_a_last_record_it_failed_and_is_tried_again(agent: CodingAgent):
    for records in ((), (USAGE, WORK)):
        lost = judge(agent, *records)
        assert (lost.completed, lost.reason, lost.may_pass) == (False, "no_result", True)
    assert lost.details["commit"] == "def"


def test_questions_and_quotas_are_pauses(agent: CodingAgent):
    ask = {"about": "tool", "action": {"tool": "Bash"}, "say": "Claude Code wants to push.", "diff": None}
    asked = judge(agent, END | {"outcome": "asks", "text": "", "ask": ask})
    assert (asked.pause.ask, asked.say, asked.completed) == (ask, "Claude Code wants to push.", False)
    quota = judge(agent, END | {"outcome": "quota", "text": "Limit reached", "until": 5.0})
    assert (quota.pause.until, quota.pause.ask, quota.reason) == (5.0, None, "quota")
    nothing_asked = judge(agent, END | {"outcome": "asks"})
    assert (nothing_asked.pause, nothing_asked.completed) == (None, False)


def test_a_report_is_bounded_and_takes_the_latest():
    files = [{"path": str(number)} for number in range(700)]
    records = [
        USAGE,
        USAGE | {"turns": 4, "model": None},
        {"type": "work", "files": files},
        *[DENIED] * 60,
        {"type": "x"},
    ]
    report = report_of(records)
    assert (report["turns"], report["model"]) == (4, "opus")
    assert (len(report["files"]), report["files_count"]) == (500, 700)
    assert (len(report["denials"]), report["denials_count"]) == (50, 60)
    assert report_of([]) == {}
