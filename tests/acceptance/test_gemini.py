"""The real Gemini CLI at work for a real server, over the Agent Client Protocol, against a scripted model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acceptance.clients import GEMINI, node_path, npm_packages, npm_version
from tests.acceptance.coding import Desk, Record, coding_desk
from tests.acceptance.conftest import SignIn
from tests.acceptance.model import Model

pytestmark = pytest.mark.acceptance

SETTINGS = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "privacy": {"usageStatisticsEnabled": False},
    "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
}
EXPIRES_SECONDS = "10"
MUCH = "python3 -c \"print('ab' * 600000)\""
WAIT = "until [ -e offhand-go ]; do sleep 0.2; done"
IDLE_SECONDS = "30"
"""More than a turn takes under load, and no more than a hang may cost."""


def gemini_settings(model: Model, home: Path) -> str:
    """Its part of offhand.toml; its own settings in the agents' HOME."""
    (home / ".gemini").mkdir(exist_ok=True)
    (home / ".gemini" / "settings.json").write_text(json.dumps(SETTINGS))
    packages = npm_packages(GEMINI)
    return f"""
[agents.gemini]
program = {json.dumps(str(packages / "node_modules" / ".bin" / "gemini"))}
[agents.gemini.env]
PATH = {json.dumps(node_path(packages) + ":/usr/bin:/bin")}
GEMINI_API_KEY = "fake"
GOOGLE_GEMINI_BASE_URL = {json.dumps(model.url)}
"""


@pytest.fixture(scope="module")
def desk() -> Generator[Desk]:
    with coding_desk(gemini_settings, OFFHAND_IDLE_SECONDS=IDLE_SECONDS) as desk:
        yield desk


@pytest.fixture
def own_desk() -> Generator[Desk]:
    """One for a test that ends its server."""
    with coding_desk(gemini_settings, OFFHAND_APPROVAL_SECONDS=EXPIRES_SECONDS) as desk:
        yield desk


def test_it_is_found_with_its_version(desk: Desk, sign_in: SignIn) -> None:
    version = npm_version(npm_packages(GEMINI), GEMINI)
    desk.done("gemini", "Say it. [[say: Here.]]")  # it has been looked at by then
    agents = {agent["name"]: agent for agent in desk.call("list_agents")["items"]}
    assert (agents["gemini"]["installed"], agents["gemini"]["version"]) == (True, version)
    sign_in("Gemini CLI", version, "tasks over the Agent Client Protocol")


def test_a_file_is_written_and_comes_back_as_a_branch_and_a_diff(desk: Desk) -> None:
    write = json.dumps({"file_path": "hello.txt", "content": "hello\n"})
    task = desk.done("gemini", f"Write it. [[tool: write_file {write}]][[sh: make test]][[say: Written.]]")
    result = task["result"]
    assert (task["status"], result["text"]) == ("completed", "Written.")
    assert [changed["path"] for changed in result["files"]] == ["hello.txt"]
    assert desk.git("show", f"{result['branch']}:hello.txt") == "hello"
    assert desk.git("status", "--porcelain") == ""
    assert result["input_tokens"] > 0
    assert result["agent_conversation_id"]
    assert result["agent_version"] == npm_version(npm_packages(GEMINI), GEMINI)


def test_a_review_is_refused_what_changes_things(desk: Desk) -> None:
    write = json.dumps({"file_path": "hello.txt", "content": "hello\n"})
    task = desk.done("gemini", f"Look. [[tool: write_file {write}]][[say: I looked.]]", params={"profile": "review"})
    assert task["status"] == "completed"
    assert [denial["tool"] for denial in task["result"]["denials"]] == ["edit"]
    assert "branch" not in task["result"]


def test_an_error_of_the_model_is_no_success(desk: Desk) -> None:
    task = desk.done("gemini", "Try. [[fail: 400]]")
    assert (task["status"], task["reason"]) == ("failed", "agent_error")
    assert "scripted failure 400" in task["result"]["text"]


def test_a_rate_limit_parks_the_task_until_the_time_that_is_named(desk: Desk) -> None:
    task = desk.done("gemini", "Try. [[limit: 3600]][[say: Done.]]")
    assert (task["status"], task["reason"]) == ("scheduled", "quota"), task["result"]["text"]
    again = datetime.fromisoformat(task["run_after"]) - datetime.now(UTC)
    assert 3000 < again.total_seconds() <= 3600
    desk.call("update_task", task_id=task["id"], action="cancel")


def test_a_hang_is_ended_for_its_silence(desk: Desk) -> None:
    task = desk.done("gemini", "Think. [[hang]]", max_attempts=1)
    assert (task["status"], task["reason"]) == ("failed", "idle_timeout")


def test_a_tool_that_is_silent_for_longer_is_not_taken_for_that() -> None:
    with coding_desk(gemini_settings, OFFHAND_IDLE_SECONDS="20") as desk:
        silent = "timeout 45 tail -f /dev/null"
        task = desk.done(
            "gemini", f"Build. [[sh: {silent}]][[say: Built.]]", params={"profile": "full"}, max_attempts=1
        )
        assert (task["status"], task["result"]["text"]) == ("completed", "Built.")
        assert f"still running {silent}" in desk.progress(task)


def test_a_cancel_in_mid_tool_leaves_no_process(desk: Desk) -> None:
    task_id = desk.delegate("gemini", f"Wait. [[sh: {WAIT}]]", params={"profile": "full"})
    at_work(desk, task_id)
    assert "offhand-go" in processes()
    cancelled = desk.call("update_task", task_id=task_id, action="cancel", wait=45)
    assert cancelled["status"] == "cancelled"
    assert "offhand-go" not in processes()


def test_a_task_outlives_a_killed_server_in_mid_tool_and_goes_on_in_its_conversation(own_desk: Desk) -> None:
    task_id = own_desk.delegate("gemini", f"Work. [[sh: {WAIT}]][[say: One.]]", params={"profile": "full"})
    number = at_work(own_desk, task_id)
    own_desk.kill()
    (own_desk.home / "clones" / str(number) / "work" / "offhand-go").touch()
    own_desk.start()
    task = own_desk.settled(task_id)
    assert (task["status"], task["attempt"], task["result"]["text"]) == ("completed", 1, "One.")
    follow = own_desk.call("continue_task", task_id=task_id, message="And now? [[say: Two.]]")
    second = own_desk.settled(follow["id"])
    assert second["result"]["text"] == "Two."
    assert second["result"]["agent_conversation_id"] == task["result"]["agent_conversation_id"]


def test_what_is_approved_is_done_and_nothing_before(desk: Desk) -> None:
    task = desk.done("gemini", "Fetch. [[sh: mkfifo pipe]][[say: Fetched.]]")
    approval = desk.approval(task)
    assert approval["action"]["argv"] == ["mkfifo", "pipe"]
    assert "mkfifo pipe" in approval["say"]
    desk.decide(approval, "approve")
    done = desk.until(task["id"], lambda now: now["status"] in ("completed", "failed", "cancelled"))
    assert (done["status"], done["result"]["text"]) == ("completed", "Fetched.")


def test_what_is_denied_is_not_done(desk: Desk) -> None:
    task = desk.done("gemini", "Fetch. [[sh: mkfifo pipe]][[say: Fetched.]]")
    desk.decide(desk.approval(task), "deny")
    denied = desk.call("get_task", task_id=task["id"])
    assert (denied["status"], denied["reason"]) == ("cancelled", "denied")


def test_no_answer_means_no(own_desk: Desk) -> None:
    task = own_desk.done("gemini", "Fetch. [[sh: mkfifo pipe]][[say: Fetched.]]")
    own_desk.approval(task)
    ended = own_desk.until(task["id"], lambda now: now["status"] == "cancelled")
    assert ended["reason"] == "expired"


def test_megabytes_in_one_line_arrive(desk: Desk) -> None:
    task = desk.done("gemini", f"Print. [[sh: {MUCH}]][[say: Printed.]]", params={"profile": "full"})
    assert (task["status"], task["result"]["text"]) == ("completed", "Printed.")
    [printed] = [result for result in desk.model.tool_results if "abab" in result]
    assert len(printed) > 1000


def test_settings_of_the_repository_do_nothing(desk: Desk) -> None:
    mark = desk.base / "evil"
    hostile = {
        "mcpServers": {"evil": {"command": "touch", "args": [str(mark)]}},
        "tools": {"discoveryCommand": f"touch {mark}"},
        "hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": f"touch {mark}"}]}]},
    }
    (desk.repository / ".gemini").mkdir()
    (desk.repository / ".gemini" / "settings.json").write_text(json.dumps(hostile))
    (desk.repository / ".env").write_text("GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:9/\n")
    desk.git("add", "--all", "--force")
    desk.git("commit", "--quiet", "--message=Hostile")
    task = desk.done("gemini", "Look. [[sh: ls]][[say: Looked.]]")
    assert (task["status"], task["result"]["text"]) == ("completed", "Looked.")
    assert not mark.exists()


def test_a_prompt_is_text_whatever_is_in_it(desk: Desk) -> None:
    secret = desk.base / "tmp" / "secret.txt"
    secret.write_text("do-not-tell")
    quoting = "/about --help -p \"'`$(touch x)`' \\ %s {prompt} @" + str(secret) + " ünï\u2028 😀"
    task = desk.done("gemini", f"{quoting}{'y' * 200_000}\n[[say: Read.]]", params={"profile": "review"})
    assert (task["status"], task["result"]["text"]) == ("completed", "Read.")
    said = "".join(text for asked in desk.model.requests for _, text in asked.turns)
    assert quoting in said
    assert "y" * 200_000 in said
    assert "do-not-tell" not in said


def at_work(desk: Desk, task_id: str) -> int:
    """Return once the task's tool runs; the task's number."""

    def runs(task: Record) -> bool:
        return "running until" in (task["progress"] or "")

    task = desk.until(task_id, lambda task: runs(task) or task["status"] not in ("queued", "running"))
    assert runs(task), task
    return task["number"]


def processes() -> str:
    """The command lines of everything that runs."""
    return subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
