"""The driver of Codex, against a program that speaks both of Codex's protocols and does what its prompt says."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from mcp_server.drivers import codex
from mcp_server.drivers.codex_items import Item, command_line
from mcp_server.drivers.job import CommandRule, Job
from mcp_server.drivers.records import End, Records
from mcp_server.fingerprint import fingerprint
from tests.drivers.repositories import watched

PROGRAM = Path(__file__).with_name("fake_codex.py")
COMMAND = "item/commandExecution/requestApproval"
EDIT = "item/fileChange/requestApproval"
RULES = (CommandRule(("touch", "*"), "deny"), CommandRule(("rm", "*"), "ask"))


class Driven:
    """What came of one attempt, and what Codex noted down until then."""

    def __init__(self, end: End, records: list[dict[str, Any]], noted: list[dict[str, Any]], shown: str) -> None:
        self.end = end
        self.records = records
        self.noted = noted
        self.shown = shown

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["type"] == kind]

    def notes(self, what: str) -> list[Any]:
        return [note[what] for note in self.noted if what in note]

    @property
    def told(self) -> list[str]:
        return [record["say"] for record in self.of("progress")]

    @property
    def state(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for record in self.of("state"):
            merged |= record["state"]
        return merged

    @property
    def settings(self) -> dict[str, Any]:
        """What was set by `-c`."""
        argv: list[str] = self.notes("argv")[-1]
        given = [argv[number + 1] for number, word in enumerate(argv) if word == "-c"]
        merged: dict[str, Any] = {}
        for setting in given:
            merged |= tomllib.loads(setting)
        return merged

    def requested(self, method: str) -> list[dict[str, Any]]:
        """What we sent to the app-server by this name."""
        return [message["params"] for message in self.notes("message") if message.get("method") == method]


class Shown(StringIO):
    """Stdout of the driver: `begun` is set by its first line."""

    def __init__(self, begun: asyncio.Event) -> None:
        super().__init__()
        self._begun = begun

    def write(self, s: str) -> int:
        self._begun.set()
        return super().write(s)


Drive = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def drive(tmp_path: Path, place: Path) -> Drive:
    attempts = iter(range(100))
    home = tmp_path / "home"
    (home / ".codex").mkdir(parents=True)

    async def run(*script: Any, begun: asyncio.Event | None = None, **job: Any) -> Driven:
        folder = tmp_path / f"attempt-{next(attempts)}"
        folder.mkdir()
        (home / "noted.jsonl").unlink(missing_ok=True)
        records = Records(folder / "records.jsonl", shown := Shown(begun or asyncio.Event()))
        fields: dict[str, Any] = {
            "driver": "codex",
            "agent": "codex",
            "title": "Codex",
            "program": (sys.executable, "-I", "-S", str(PROGRAM)),
            "env": {"PATH": "/usr/bin:/bin", "HOME": str(home)},
            "prompt": "Do this.\n" + json.dumps(script),
            "task_id": "task-1",
            "task_number": 1,
            "folder": str(place),
        }
        end = await codex.drive(Job(**fields | job), place, records)
        lines = (folder / "records.jsonl").read_text().splitlines()
        noted = (home / "noted.jsonl").read_text().splitlines()
        return Driven(end, list(map(json.loads, lines)), list(map(json.loads, noted)), shown.getvalue())

    return run


def event(kind: str, **item: Any) -> dict[str, Any]:
    """As `codex exec` says it."""
    return {"type": f"item.{kind}", "item": item}


def notified(kind: str, **item: Any) -> dict[str, Any]:
    """As the app-server says it."""
    return {"method": f"item/{kind}", "params": {"threadId": "thread-1", "turnId": "turn-1", "item": item}}


def shell(command: str, code: int | None, output: str = "") -> dict[str, Any]:
    command = f"/bin/bash -lc '{command}'"
    return {"type": "commandExecution", "id": "c", "command": command, "exitCode": code, "aggregatedOutput": output}


def asked(command: str, **more: Any) -> dict[str, Any]:
    return {"ask": COMMAND, "params": {"itemId": "c", "command": f"/bin/bash -lc '{command}'", **more}}


def changes(*paths: Path | str, kind: str = "add", diff: str = "hello\n") -> dict[str, Any]:
    each = [{"path": str(path), "kind": {"type": kind}, "diff": diff} for path in paths]
    return notified("started", type="fileChange", id="f", changes=each)


ASKED_EDIT = {"ask": EDIT, "params": {"itemId": "f", "reason": None}}
TOUCH = asked("touch /outside", startedAtMs=1, reason="because")


class TestExec:
    """Where nothing is asked."""

    @pytest.mark.parametrize(("profile", "sandbox"), [("review", "read-only"), ("full", "danger-full-access")])
    async def test_profiles_that_ask_nothing_run_by_exec_in_codex_own_sandbox(
        self, drive: Drive, profile: str, sandbox: str
    ) -> None:
        done = await drive(event("completed", type="agent_message", text="Looks well."), profile=profile)
        assert done.end == End(outcome="completed", text="Looks well.")
        assert done.notes("argv")[0][0] == "exec"
        assert done.settings["sandbox_mode"] == sandbox

    async def test_what_it_does_is_told_in_a_few_words(self, drive: Drive, place: Path) -> None:
        run = {"type": "command_execution", "command": "/bin/bash -lc 'pytest -q'"}
        done = await drive(
            event("started", **run, exit_code=None),
            event("completed", **run, exit_code=1, aggregated_output="..F\n2 failed, 4 passed"),
            event("started", type="file_change", changes=[{"path": str(place / "src/app.py"), "kind": "update"}]),
            event("completed", type="web_search", query="pytest"),
            event("completed", type="agent_message", text="First."),
            event("completed", type="agent_message", text="Last."),
            profile="full",
        )
        assert done.told == [
            "running pytest -q",
            "ran pytest -q, 2 failed",
            "editing src/app.py",
            "searching the web for pytest",
        ]
        assert done.end.text == "Last."

    async def test_the_prompt_goes_in_by_stdin_whatever_is_in_it(self, drive: Drive) -> None:
        prompt = "--help $(id) `id` \"'\\ ü 💡\n" + "x" * 200_000 + "\n[]"
        done = await drive(profile="review", prompt=prompt)
        assert done.notes("prompt") == [prompt]
        assert done.end.outcome == "completed"

    async def test_lines_that_say_nothing_to_us_are_passed_over(self, drive: Drive) -> None:
        done = await drive(
            "no JSON at all",
            '{"type": "item.comp',
            "[1]",
            '"word"',
            '{"type": "tomorrow"}',
            '{"type": "item.completed", "item": {"type": "new", "text": 7, "changes": null}}',
            '{"type": "item.completed"}',
            '{"type": "item.completed", "item": {"type": "file_change", "changes": [1]}}',
            '{"type": "thread.started"}',
            '{"type": "turn.completed", "usage": {"input_tokens": "many"}}',
            event("completed", type="agent_message", text="Done."),
            profile="review",
        )
        assert done.end == End(outcome="completed", text="Done.")
        assert "no JSON at all" in done.shown

    async def test_megabytes_in_one_line(self, drive: Drive) -> None:
        big = {"type": "command_execution", "command": "cat big", "exit_code": 0, "aggregated_output": "x" * 6_000_000}
        done = await drive(
            event("completed", **big), event("completed", type="agent_message", text="Done."), profile="review"
        )
        assert done.told == ["ran cat big"]
        assert done.end.text == "Done."

    async def test_success_is_not_judged_by_the_exit_code(self, drive: Drive) -> None:
        done = await drive(event("completed", type="agent_message", text="Well"), {"exit": 0}, profile="review")
        assert (done.end.outcome, done.end.reason, done.end.may_pass) == ("failed", "no_result", True)

    async def test_what_it_said_on_stderr_is_told_when_it_says_nothing_else(self, drive: Drive) -> None:
        done = await drive({"exit": 3, "stderr": "error: bad configuration"}, profile="review")
        assert "bad configuration" in done.end.text

    async def test_used_tokens_are_those_of_this_attempt(self, drive: Drive) -> None:
        state = {"session": "thread-1", "task": "task-0", "codex_tokens": {"input": 300, "output": 30}}
        done = await drive({"usage": [500, 35]}, profile="review", state=state)
        [usage] = done.of("usage")
        assert (usage["input_tokens"], usage["output_tokens"], usage["cost_usd"]) == (200, 5, None)
        assert done.state["codex_tokens"] == {"input": 500, "output": 35}

    async def test_model_and_turns_come_from_codex_own_notes(self, drive: Drive, tmp_path: Path) -> None:
        folder = tmp_path / "home/.codex/sessions/2026/01/02"
        folder.mkdir(parents=True)
        noted = [
            {"type": "token_usage_record", "payload": {"turn_id": "before"}},
            {"type": "turn_context", "payload": {"model": "model-2"}},
            {"type": "token_usage_record", "payload": {"turn_id": "now"}},
            {"type": "token_usage_record", "payload": {"turn_id": "now"}},
        ]
        (folder / "rollout-x-thread-1.jsonl").write_text("\n".join(map(json.dumps, noted)))
        done = await drive(profile="review")
        [usage] = done.of("usage")
        assert (usage["model"], usage["turns"]) == ("model-2", 2)

    async def test_a_follow_up_goes_on_in_the_conversation(self, drive: Drive) -> None:
        done = await drive(profile="review", state={"session": "thread-1", "task": "task-0"}, earlier=("Before.",))
        assert done.notes("argv")[0][-4:] == ["resume", "--json", "thread-1", "-"]
        assert done.notes("prompt") == ["Do this.\n[]"]

    async def test_a_lost_conversation_is_begun_anew_with_what_was_said(self, drive: Drive) -> None:
        done = await drive(profile="review", state={"session": "gone", "task": "task-0"}, earlier=("Before.",))
        assert done.end.outcome == "completed"
        [prompt] = done.notes("prompt")
        assert "Before." in prompt
        assert done.state["session"] == "thread-1"

    async def test_its_own_program_is_all_that_can_be_missing(self, drive: Drive) -> None:
        with pytest.raises(OSError, match="nowhere"):
            await drive(profile="review", program=("/nowhere/codex",))


class TestSettings:
    """What Codex is started with."""

    async def test_a_repository_s_own_settings_count_for_nothing(self, drive: Drive, place: Path) -> None:
        for profile in ("review", "edit", "full"):
            done = await drive(profile=profile)
            assert done.settings["projects"][str(place)] == {"trust_level": "untrusted"}
            assert done.settings["projects"][str(place.parent)] == {"trust_level": "untrusted"}
        [started] = (await drive(profile="edit")).requested("thread/start")
        assert "cwd" not in started

    async def test_the_user_s_mcp_servers_are_left_out(self, drive: Drive, tmp_path: Path) -> None:
        (tmp_path / "home/.codex/config.toml").write_text(
            '[mcp_servers.one]\ncommand = "x"\n[mcp_servers."two.and \\"a half\\""]\ncommand = "y"\n'
        )
        done = await drive(profile="review")
        assert done.settings["mcp_servers"] == {"one": {"enabled": False}, 'two.and "a half"': {"enabled": False}}

    async def test_settings_that_are_no_toml_are_codex_s_own_matter(self, drive: Drive, tmp_path: Path) -> None:
        (tmp_path / "home/.codex/config.toml").write_text("[mcp_servers")
        assert (await drive(profile="review")).end.outcome == "completed"

    async def test_commands_do_not_get_the_keys(self, drive: Drive) -> None:
        done = await drive(profile="full")
        assert done.settings["shell_environment_policy"]["exclude"] == ["CODEX_API_KEY", "OPENAI_API_KEY"]

    @pytest.mark.parametrize("profile", ["review", "edit"])
    async def test_the_model_and_the_user_s_arguments_are_passed_on(self, drive: Drive, profile: str) -> None:
        done = await drive(profile=profile, model='o"9', arguments=("--enable", "goals"))
        assert done.settings["model"] == 'o"9'
        assert "--enable goals" in " ".join(done.notes("argv")[0])


class TestAppServer:
    """Where something may be asked."""

    async def test_an_edit_runs_in_codex_own_sandbox_which_it_asks_to_leave(self, drive: Drive) -> None:
        done = await drive(
            notified("started", **shell("make test", None)),
            notified("completed", **shell("make test", 1, "2 failed")),
            notified("completed", type="agentMessage", id="m", text="Done."),
            {"usage": [100, 7]},
        )
        assert done.end == End(outcome="completed", text="Done.")
        assert done.told == ["running make test", "ran make test, 2 failed"]
        [started] = done.requested("thread/start")
        assert (started["sandbox"], started["approvalPolicy"]) == ("workspace-write", "on-request")
        [usage] = done.of("usage")
        assert (usage["model"], usage["turns"], usage["input_tokens"]) == ("model-1", 1, 100)
        assert done.notes("stdin") == ["closed"]

    async def test_what_leaves_the_sandbox_is_asked_and_let_through_once_allowed(
        self, drive: Drive, place: Path
    ) -> None:
        first = await drive(TOUCH)
        assert first.end.outcome == "asks"
        ask = first.end.ask
        assert ask is not None
        assert ask.say == "Codex wants to run touch /outside outside of its sandbox."
        assert ask.action == {
            "agent": "codex",
            "tool": "command",
            "input": {"command": "touch /outside"},
            "cwd": str(place),
            "argv": ["touch", "/outside"],
        }
        assert first.notes("answer")[0]["result"] == {"decision": "cancel"}
        assert not first.of("denied")

        granted = (fingerprint(ask.action),)
        again = await drive(TOUCH, state=first.state, granted=granted)
        assert again.state["asked"] is None, "a later attempt is not told to do it again"
        assert again.notes("answer")[0]["result"] == {"decision": "accept"}
        assert again.end.outcome == "completed"
        [prompt] = again.notes("prompt")
        assert "allowed what you asked for: run touch /outside" in prompt

    @pytest.mark.parametrize(
        "other",
        [
            asked("touch /outside/else"),
            asked("touch /outside; id"),
            asked("touch /outside", cwd="/"),
            asked("touch /outside", kind="writeStdin"),
            asked("touch /outside", networkApprovalContext={"host": "example.org", "protocol": "https"}),
            asked("touch /outside", additionalPermissions={"network": {"enabled": True}}),
            {"ask": COMMAND, "params": {"itemId": "c"}},
            {"ask": "item/permissions/requestApproval", "params": {"permissions": {"network": {"enabled": True}}}},
        ],
    )
    async def test_what_was_allowed_is_nothing_else(self, drive: Drive, other: dict[str, Any]) -> None:
        first = await drive(TOUCH)
        assert first.end.ask is not None
        state = first.state | {"task": "another, so that this script is sent"}
        again = await drive(other, state=state, granted=(fingerprint(first.end.ask.action),))
        assert again.end.outcome == "asks"
        assert again.end.ask is not None
        assert again.end.ask.action != first.end.ask.action

    async def test_nothing_more_is_allowed_once_the_user_is_asked(self, drive: Drive, place: Path) -> None:
        done = await drive(TOUCH, asked("ls"))
        assert done.end.outcome == "asks"
        assert [answer["result"]["decision"] for answer in done.notes("answer")] == ["cancel"]

    async def test_a_change_outside_is_asked_with_its_diff(self, drive: Drive, tmp_path: Path) -> None:
        outside = tmp_path / "other.txt"
        done = await drive(changes(outside), ASKED_EDIT)
        assert done.end.outcome == "asks"
        assert done.end.ask is not None
        assert done.end.ask.diff == f"--- /dev/null\n+++ {outside}\n+hello"
        assert str(outside) in done.end.ask.say
        other = await drive(changes(outside, diff="bye\n"), ASKED_EDIT)
        assert other.end.ask is not None
        assert fingerprint(other.end.ask.action) != fingerprint(done.end.ask.action)

    async def test_a_change_inside_is_allowed(self, drive: Drive, place: Path) -> None:
        done = await drive(changes(place / "new.txt"), ASKED_EDIT, rules=RULES)
        assert done.notes("answer")[0]["result"] == {"decision": "accept"}
        assert done.told == ["editing new.txt"]

    async def test_a_link_that_leads_outside_is_outside(self, drive: Drive, place: Path, tmp_path: Path) -> None:
        (place / "link").symlink_to(tmp_path)
        assert (await drive(changes(place / "link/x.txt"), ASKED_EDIT)).end.outcome == "asks"
        assert (await drive(changes(place / "sub/../../x.txt"), ASKED_EDIT)).end.outcome == "asks"

    async def test_a_file_is_not_moved_outside_unasked(self, drive: Drive, place: Path, tmp_path: Path) -> None:
        kind = {"type": "update", "move_path": str(tmp_path / "away.txt")}
        moved = notified(
            "started", type="fileChange", id="f", changes=[{"path": str(place / "a"), "kind": kind, "diff": ""}]
        )
        assert (await drive(moved, ASKED_EDIT)).end.outcome == "asks"

    async def test_a_change_that_nobody_described_is_asked(self, drive: Drive) -> None:
        assert (await drive(ASKED_EDIT)).end.outcome == "asks"

    async def test_with_rules_of_the_user_every_command_is_judged(self, drive: Drive) -> None:
        done = await drive(
            asked("touch here"),
            notified("completed", **shell("touch here", None) | {"status": "declined"}),
            asked("make test"),
            rules=RULES,
        )
        [started] = done.requested("thread/start")
        assert started["approvalPolicy"] == "untrusted"
        assert [answer["result"]["decision"] for answer in done.notes("answer")] == ["decline", "accept"]
        [denied] = done.of("denied")
        assert (denied["tool"], json.loads(denied["input"])) == ("command", {"command": "touch here"})
        assert done.told == []
        assert done.end.outcome == "completed"
        asks = await drive(asked("rm x"), rules=RULES)
        assert asks.end.ask is not None
        assert asks.end.ask.say == "Codex wants to run rm x."

    @pytest.mark.parametrize(("profile", "decision"), [("review", "decline"), ("full", "accept")])
    async def test_rules_hold_for_the_other_profiles_too(self, drive: Drive, profile: str, decision: str) -> None:
        done = await drive(asked("touch x"), asked("frobnicate"), profile=profile, rules=RULES)
        assert [answer["result"]["decision"] for answer in done.notes("answer")] == ["decline", decision]

    async def test_a_rule_that_allows_lets_it_leave_the_sandbox(self, drive: Drive) -> None:
        done = await drive(TOUCH, rules=(CommandRule(("touch", "*"), "allow"),))
        [started] = done.requested("thread/start")
        assert started["approvalPolicy"] == "on-request"
        assert done.notes("answer")[0]["result"] == {"decision": "accept"}

    async def test_what_else_it_asks_is_answered(self, drive: Drive) -> None:
        done = await drive(
            {"ask": "item/tool/requestUserInput", "params": {"questions": [{"id": "q", "question": "Which?"}]}},
            {"ask": "mcpServer/elicitation/request", "params": {}},
            {"ask": "tomorrow/request", "params": {}},
        )
        answers = done.notes("answer")
        assert list(answers[0]["result"]["answers"]) == ["q"]
        assert answers[1]["result"] == {"action": "decline"}
        assert answers[2]["error"]["code"] == -32601
        assert done.end.outcome == "completed"

    async def test_turns_that_are_used_up_are_asked_about(self, drive: Drive) -> None:
        more = [notified("completed", **shell("make", 0)), {"usage": [100, 7]}]
        done = await drive(*more, *more, {"until interrupted": True}, max_turns=2)
        assert done.end.outcome == "asks"
        assert done.end.ask is not None
        assert done.end.ask.about == "budget"
        assert done.end.ask.action["budget"] == {"max_turns": 2}
        again = await drive(state=done.state, granted=(fingerprint(done.end.ask.action),), max_turns=2)
        assert again.notes("prompt") == ["You may go on with the task where you were."]

    async def test_the_last_turn_may_be_the_answer(self, drive: Drive) -> None:
        done = await drive(
            notified("completed", **shell("make", 0)),
            {"usage": [100, 7]},
            notified("completed", type="agentMessage", id="m", text="Done."),
            {"usage": [200, 14]},
            max_turns=2,
        )
        assert done.end == End(outcome="completed", text="Done.")

    async def test_an_interrupted_task_goes_on_where_it_was(self, drive: Drive, place: Path) -> None:
        done = await drive(state={"session": "thread-1", "task": "task-1"}, interrupted=True, model="m")
        [resumed] = done.requested("thread/resume")
        assert (resumed["threadId"], resumed["cwd"]) == ("thread-1", str(place))
        assert (resumed["sandbox"], resumed["model"]) == ("workspace-write", "m")
        assert done.notes("prompt")[0].startswith("You were interrupted.")

    async def test_a_lost_conversation_is_begun_anew_with_what_was_said(self, drive: Drive) -> None:
        done = await drive(state={"session": "gone", "task": "task-0"}, earlier=("Before.",))
        assert done.end.outcome == "completed"
        assert "Before." in done.notes("prompt")[0]
        assert done.state["session"] == "thread-1"

    async def test_messages_that_say_nothing_to_us_are_passed_over(self, drive: Drive) -> None:
        done = await drive(
            "no JSON at all",
            '{"method": "item/star',
            "[1]",
            "7",
            "{}",
            '{"id": 77, "result": {}}',
            '{"method": 7}',
            '{"method": "item/completed", "params": {"item": 1}}',
            '{"method": "item/completed"}',
            '{"method": "thread/tokenUsage/updated", "params": {"turnId": "turn-1", "tokenUsage": null}}',
            '{"method": "account/rateLimits/updated", "params": {"rateLimits": {"primary": 1}}}',
            '{"method": "turn/completed", "params": {}}',
            '{"method": "turn/completed", "params": {"turn": {"id": "another", "status": "failed"}}}',
            {"ask": "item/tool/requestUserInput", "params": {"questions": [7]}},
            notified("completed", type="agentMessage", id="m", text="Done."),
        )
        assert done.end == End(outcome="completed", text="Done.")
        assert done.notes("answer")[0]["error"]["code"] == -32601

    async def test_what_its_helpers_say_is_not_its_answer(self, drive: Drive) -> None:
        theirs = notified("completed", type="agentMessage", id="n", text="I am the helper.")
        theirs["params"]["threadId"] = "thread-2"
        started = {"method": "turn/started", "params": {"threadId": "thread-2", "turn": {"id": "turn-2"}}}
        done = await drive(notified("completed", type="agentMessage", id="m", text="Done."), started, theirs)
        assert done.end.text == "Done."

    async def test_it_may_end_at_any_time(self, drive: Drive) -> None:
        done = await drive({"exit": 1, "stderr": "thread panicked"})
        assert (done.end.outcome, done.end.reason, done.end.may_pass) == ("failed", "no_result", True)
        assert "thread panicked" in done.end.text

    @pytest.mark.parametrize("profile", ["edit", "full"])
    async def test_a_cancel_ends_it(self, drive: Drive, tmp_path: Path, profile: str) -> None:
        begun = asyncio.Event()
        run = {"type": "command_execution", "command": "make", "exit_code": None}
        first = event("started", **run) if profile == "full" else notified("started", **run)
        working = asyncio.create_task(drive(first, {"hang": True}, profile=profile, begun=begun))
        async with asyncio.timeout(20):
            await begun.wait()
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
        pid = json.loads((tmp_path / "home/noted.jsonl").read_text().splitlines()[0])["pid"]
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class TestTrouble:
    """What an error means."""

    @pytest.mark.parametrize(
        ("message", "reason", "may_pass"),
        [
            ("unexpected status 401 Unauthorized: Missing bearer", "not_signed_in", False),
            ("We’re currently experiencing high demand, which may cause temporary errors.", "agent_error", True),
            ("unexpected status 503 Service Unavailable: x", "agent_error", True),
            ("stream disconnected before completion: x", "agent_error", True),
            ('{"type": "error", "error": {"message": "no such model", "code": 400}}', "agent_error", False),
        ],
    )
    async def test_both_ways_tell_it_alike(self, drive: Drive, message: str, reason: str, may_pass: bool) -> None:
        failed = {"type": "turn.failed", "error": {"message": message}}
        by_exec = await drive(failed, {"exit": 1}, profile="review")
        by_server = await drive({"fail": message})
        assert by_exec.end == by_server.end
        assert (by_exec.end.outcome, by_exec.end.reason, by_exec.end.may_pass) == ("failed", reason, may_pass)
        assert not by_exec.end.text.startswith("{")

    async def test_a_quota_names_its_time(self, drive: Drive) -> None:
        again = (datetime.now().astimezone() + timedelta(days=2)).replace(second=0, microsecond=0)
        said = f"You’ve hit your usage limit. Upgrade or try again at {again:%b} {again.day}th, {again:%Y %-I:%M %p}."
        done = await drive({"type": "turn.failed", "error": {"message": said}}, {"exit": 1}, profile="review")
        assert (done.end.outcome, done.end.until) == ("quota", again.timestamp() + 60)

    async def test_a_quota_of_today_is_never_in_the_past(self, drive: Drive) -> None:
        said = f"You’ve hit your usage limit. Try again at {datetime.now():%-I:%M %p}."
        done = await drive({"type": "turn.failed", "error": {"message": said}}, {"exit": 1}, profile="review")
        assert done.end.until is not None
        assert done.end.until > time.time()

    async def test_the_app_server_tells_the_very_second(self, drive: Drive) -> None:
        until = int(time.time()) + 5000
        limits = {
            "primary": {"usedPercent": 100, "resetsAt": until},
            "secondary": {"usedPercent": 40, "resetsAt": until + 100_000},
        }
        updated = {"method": "account/rateLimits/updated", "params": {"rateLimits": limits}}
        done = await drive(updated, {"fail": "You’ve hit your usage limit. Try again at 3:28 PM."})
        assert (done.end.outcome, done.end.until) == ("quota", until)

    async def test_a_quota_without_a_time(self, drive: Drive) -> None:
        done = await drive({"fail": "exceeded retry limit, last status: 429 Too Many Requests"})
        assert (done.end.outcome, done.end.until) == ("quota", None)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("/bin/bash -lc 'echo \"a b\"; id'", 'echo "a b"; id'),
        ("/usr/bin/zsh -c ls", "ls"),
        ("git status", "git status"),
        ("/bin/bash -lc", "/bin/bash -lc"),
        ("echo 'unclosed", "echo 'unclosed"),
        ("/bin/bash -lc ls extra", "/bin/bash -lc ls extra"),
    ],
)
def test_the_command_line_is_what_the_shell_is_told(command: str, line: str) -> None:
    assert command_line(command) == line


def test_many_files_are_not_all_named(tmp_path: Path) -> None:
    told = {"type": "fileChange", "changes": [{"path": str(tmp_path / f"{number}.py")} for number in range(5)]}
    assert Item.read(told).telling(tmp_path) == "editing 0.py, 1.py, 2.py and 2 more"


@pytest.mark.parametrize("profile", ["edit", "full"])
async def test_while_a_tool_works_it_is_known_and_not_while_the_model_does(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    at_work = watched(monkeypatch)
    told, running = (notified, "inProgress") if profile == "edit" else (event, "in_progress")
    await drive(
        told("started", type="command_execution", id="1", command="make", status=running),
        told("completed", type="command_execution", id="1", command="make", status="completed"),
        told("started", type="reasoning", id="2", status=running),
        profile=profile,
    )
    assert at_work == [{"1": "running make"}, {}, {}]


async def test_the_app_server_tells_its_version(drive: Drive) -> None:
    assert [record["version"] for record in (await drive()).of("agent")] == ["0.169.0"]
