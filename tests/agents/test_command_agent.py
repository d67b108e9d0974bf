"""A command of the settings as a coding agent, from the order to the branch in the user's repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_server.settings import Settings
from tests.server.doors import ask, in_memory, refused

SCRIPT = """
import json, os, sys
told = sys.stdin.read()
resumed = sys.argv[1:2] == ["resume"]
print(json.dumps({"doing": "writing a line", "session": sys.argv[2] if resumed else "s-1"}), flush=True)
if "break" in told:
    print(json.dumps({"error": "It broke."}))
    sys.exit()
with open("lines.txt", "a") as file:
    file.write(told + "\\n")
print(json.dumps({"answer": f"Wrote: {told}", "ok": True, "cost": 0.25, "model": "m"}))
"""


@pytest.fixture
def repository(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The workspace is a repository with one commit; git in it."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "user"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n")
    monkeypatch.setenv("HOME", str(home))

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=workspace, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q", "-b", "main")
    (workspace / "lines.txt").write_text("first\n")
    git("add", ".")
    git("commit", "-qm", "Begin")
    return git


@pytest.fixture
def with_helper(settings: Settings, tmp_path: Path) -> Settings:
    """The settings with an agent `helper`, that writes what it is told into a file."""
    script = tmp_path / "helper.py"
    script.write_text(SCRIPT)
    helper: dict[str, Any] = {
        "kind": "command",
        "title": "Helper",
        "program": "python3",
        "args": [str(script)],
        "continue_args": [str(script), "resume", "{conversation}"],
        "output": "jsonl",
        "fields": {"answer": "answer", "conversation": "session", "success": "ok", "error": "error"}
        | {"progress": "doing", "cost_usd": "cost", "model": "model"},
    }
    given = settings.model_dump(exclude={"agents"}) | {"agents": {"helper": helper}, "sandbox": "off"}
    return Settings.model_validate(given)


async def test_it_works_in_a_clone_and_its_branch_comes_back(
    with_helper: Settings, repository: Callable[..., str], workspace: Path
):
    (workspace / "lines.txt").write_text("not committed\n")
    async with in_memory(with_helper) as client:
        done = await ask(
            client,
            "delegate_task",
            agent="helper",
            description="-- 'two' \"$(id)\"",
            params={"profile": "edit"},
            wait=45,
        )
    result = done["result"]
    assert (done["status"], result["text"]) == ("completed", "Wrote: -- 'two' \"$(id)\""), done
    assert (result["agent_conversation_id"], result["cost_usd"], result["model"]) == ("s-1", 0.25, "m")
    assert result["branch"] == "offhand/task-1-two-id"
    assert repository("show", f"{result['branch']}:lines.txt") == "first\n-- 'two' \"$(id)\""
    assert [file["path"] for file in result["files"]] == ["lines.txt"]
    assert result["dirty"]
    assert (workspace / "lines.txt").read_text() == "not committed\n"
    assert repository("branch", "--show-current") == "main"
    assert "unverified" not in result


async def test_a_follow_up_goes_on_in_its_conversation_and_on_its_branch(
    with_helper: Settings, repository: Callable[..., str]
):
    async with in_memory(with_helper) as client:
        await ask(client, "delegate_task", agent="helper", description="two", task_id="t", wait=45)
    async with in_memory(with_helper) as client:
        more = await ask(client, "continue_task", task_id="t", message="three", wait=45)
        failed = await ask(client, "continue_task", task_id=more["id"], message="break", wait=45)
        again = await ask(client, "continue_task", task_id=failed["id"], message="four", wait=45)
    assert (more["result"]["agent_conversation_id"], more["status"]) == ("s-1", "completed")
    assert (failed["status"], failed["reason"]) == ("failed", "agent_error")
    assert repository("show", f"{again['result']['branch']}:lines.txt") == "first\ntwo\nthree\nfour"


async def test_without_a_sandbox_a_review_is_refused(
    with_helper: Settings, repository: Callable[..., str], workspace: Path
):
    helper = with_helper.agents["helper"].model_copy(update={"profile": "review"})
    reviewing = with_helper.model_copy(update={"agents": {"helper": helper}})
    for settings, params in ((with_helper, {"profile": "review"}), (reviewing, {})):
        async with in_memory(settings) as client:
            error = await refused(client, "delegate_task", agent="helper", description="x", params=params)
            assert error["errors"][0]["field"] == "params.profile"
            assert "without a sandbox" in error["detail"]
            assert "bubblewrap" in error["errors"][0]["fix"]
            assert (await ask(client, "list_tasks"))["items"] == []


async def test_what_it_cannot_be_held_to_is_refused(with_helper: Settings, repository: Callable[..., str]):
    async with in_memory(with_helper) as client:
        for params in ({"max_turns": 1}, {"max_cost_usd": 1}, {"model": "big"}):
            error = await refused(client, "delegate_task", agent="helper", description="x", params=params)
            assert error["errors"][0]["field"] == f"params.{next(iter(params))}"
