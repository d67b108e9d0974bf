"""An ACP agent of the settings at work for a whole server: from the order to the branch in the user's repository."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from mcp_server.callers import DESK, calling_as
from mcp_server.clock import MICROSECONDS
from mcp_server.executor import availability
from mcp_server.runtime import Runtime
from mcp_server.settings import Settings
from mcp_server.store.database import Event
from mcp_server.tasks import Task
from tests.agents.conftest import become_user, git_as_the_user, make_repository
from tests.drivers import repositories
from tests.executor.test_worker import Clock, stir
from tests.server.doors import ask, served_in_memory
from tests.server.gate import Gate

FAKE = Path(repositories.__file__).with_name("fake_acp_agent.py")
DEADLINE_SECONDS = 40.0
HARD = "--help; $(id) `x` \"quoted\" 'single' \\ %s {cwd} \u2028 é 💡\n"

Git = Callable[..., str]


@pytest.fixture
def git(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """git in the workspace, which is a repository with two commits."""
    become_user(tmp_path / "user", monkeypatch)
    make_repository(workspace)
    return lambda *words: git_as_the_user(workspace, *words).strip()


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


Made = Callable[..., Settings]


@pytest.fixture
def make(settings: Settings, git: Git) -> Made:
    """Settings with an agent `tester`; what is given is its own, but for what goes into `settings`."""

    def made(more: dict[str, Any] | None = None, **own: Any) -> Settings:
        args = ["-I", "-S", str(FAKE)]
        tester = {"kind": "acp", "title": "Tester", "program": sys.executable, "args": args} | own
        given = settings.model_dump(exclude={"agents"}) | {"agents": {"tester": tester}, "sandbox": "off"}
        return Settings.model_validate(given | (more or {}))

    return made


def words(*script: list[Any], before: str = "Do this.") -> str:
    return f"{before}\n{json.dumps(script)}"


async def delegate(client: Client, *script: list[Any], **more: Any) -> dict[str, Any]:
    return await ask(client, "delegate_task", agent="tester", description=words(*script), **more)


async def settled(runtime: Runtime, task_id: str, attempt: int = 0) -> Task:
    """The task once it has ended or waits for somebody, at this attempt or later."""
    task = await runtime.tasks.wait(
        await runtime.tasks.get(task_id),
        DEADLINE_SECONDS,
        lambda now: now.attempt >= attempt and (now.final or now.status in ("waiting_approval", "scheduled")),
    )
    assert task.final or task.status in ("waiting_approval", "scheduled"), task
    return task


async def editing(runtime: Runtime, task_id: str) -> None:
    """Until it says that it edits a.txt."""
    task = await runtime.tasks.get(task_id)
    task = await runtime.tasks.wait(task, DEADLINE_SECONDS, lambda now: now.progress == "editing a.txt")
    assert task.progress == "editing a.txt"


async def approve(runtime: Runtime, task: Task) -> dict[str, Any]:
    """Say yes to what it asks. The action."""
    pending = await runtime.approvals.pending_of(task)
    assert pending is not None, task
    with calling_as(DESK):
        await runtime.approvals.decide(pending.id, "approve", pending.hash)
    return dict(pending.action)


async def test_what_it_asks_in_mid_work_is_approved_and_its_work_comes_back_as_a_branch(
    make: Made, git: Git, workspace: Path
):
    script = (["edit", "new.txt", "hello\n"], ["run", "git push origin main", "pushed"], ["say", "All done."])
    async with served_in_memory(make()) as (client, runtime):
        task = await delegate(client, *script, wait=0)
        waiting = await settled(runtime, task["id"])
        told = await ask(client, "get_task", task_id=task["id"])
        running = runtime.worker.running
        action = await approve(runtime, waiting)
        await settled(runtime, task["id"], 2)
        done = await ask(client, "get_task", task_id=task["id"])
        diff = await ask(client, "search", id=done["result"]["diff"])
    assert (waiting.status, waiting.reason, running) == ("waiting_approval", "asks", 0)
    assert told["say"] == "Task 1 waits for your approval. Tester wants to run git push origin main."
    assert (action["agent"], action["argv"]) == ("tester", ["git", "push", "origin", "main"])
    assert action["cwd"] != str(workspace)
    result = done["result"]
    assert (done["status"], result["text"]) == ("completed", "All done.")
    assert git("show", f"{result['branch']}:new.txt") == "hello"
    assert git("log", "-1", "--format=%an <%ae>", result["branch"]) == "Ada <ada@example.org>"
    assert "+hello" in diff["content"]
    assert git("status", "--porcelain") == ""
    assert result["branch"].startswith("offhand/task-1-")
    assert "ran git push origin main" in result["stdout"]


async def test_a_follow_up_goes_on_in_its_conversation_and_on_its_branch_also_after_a_restart(make: Made, git: Git):
    async with served_in_memory(make()) as (client, _):
        first = await delegate(client, ["edit", "a.txt", "a\n"], ["say", "One."], task_id="first", wait=40)
    async with served_in_memory(make()) as (client, _):
        more = words(["edit", "b.txt", "b\n"], ["say", "Two."])
        second = await ask(client, "continue_task", task_id="first", message=more, wait=40)
    assert (first["status"], second["status"]) == ("completed", "completed"), second
    assert second["id"] != "first"
    same = ("agent_conversation_id", "branch")
    assert [first["result"][name] for name in same] == [second["result"][name] for name in same]
    assert git("ls-tree", "--name-only", second["result"]["branch"]).split() == ["a.txt", "b.txt", "one.txt", "two.txt"]


async def test_follow_ups_of_one_conversation_wait_for_one_another(make: Made, gate: Gate):
    async with served_in_memory(make()) as (client, runtime):
        await delegate(client, ["edit", "a.txt", ""], ["sh", gate.snippet], ["say", "One."], task_id="t1", wait=0)
        for name, said in (("t2", "Two."), ("t3", "Three.")):
            await ask(client, "continue_task", task_id="t1", message=words(["say", said]), new_task_id=name, wait=0)
        await gate.reached()
        await editing(runtime, "t1")
        agents = {item["name"]: item for item in (await ask(client, "list_agents"))["items"]}
        working = await ask(client, "get_task", task_id="t1")
        gate.go_on()
        tasks = [await settled(runtime, name) for name in ("t1", "t2", "t3")]
    assert (agents["tester"]["running"], agents["tester"]["queued"]) == (1, 2)
    assert working["say"] == "Tester is still working on task 1: editing a.txt."
    assert [(task.result or {})["text"] for task in tasks] == ["One.", "Two.", "Three."]
    assert len({(task.result or {})["agent_conversation_id"] for task in tasks}) == 1
    ends = [(task.started_at or 0, task.finished_at or 0) for task in tasks]
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(ends))


async def test_what_was_cancelled_in_mid_work_can_be_gone_on_with(make: Made, git: Git, gate: Gate):
    async with served_in_memory(make()) as (client, _):
        await delegate(client, ["edit", "a.txt", "a\n"], ["sh", gate.snippet], task_id="t", wait=0)
        await gate.reached()
        cancelled = await ask(client, "update_task", task_id="t", action="cancel", wait=30)
        more = await ask(client, "continue_task", task_id="t", message=words(["say", "Again."]), wait=40)
    assert cancelled["status"] == "cancelled"
    assert more["status"] == "completed"
    assert more["result"]["agent_conversation_id"] == cancelled["result"]["agent_conversation_id"]
    assert git("show", f"{more['result']['branch']}:a.txt") == "a"


async def test_it_gets_a_prompt_of_any_kind_what_the_user_passes_on_and_nothing_else(
    make: Made, monkeypatch: pytest.MonkeyPatch
):
    for name in ("GH_TOKEN", "FOR_TESTER", "NOT_NAMED"):
        monkeypatch.setenv(name, f"value of {name}")
    async with served_in_memory(make({"pass_env": ["GH_TOKEN"]}, pass_env=["FOR_TESTER"])) as (client, _):
        prompt = words(["env"], before=HARD * 4000)
        done = await ask(client, "delegate_task", agent="tester", description=prompt, wait=40)
    [conversation] = (Path(os.environ["HOME"]) / "sessions").iterdir()
    assert json.loads(conversation.read_text()) == [prompt]
    seen = json.loads(done["result"]["text"])
    assert (seen["GH_TOKEN"], seen["FOR_TESTER"]) == ("value of GH_TOKEN", "value of FOR_TESTER")
    assert [name for name in seen if name.startswith("OFFHAND_") or name == "NOT_NAMED"] == ["OFFHAND_ATTEMPT"]


async def test_a_pull_request_by_number_and_a_branch_by_name(make: Made, git: Git, tmp_path: Path):
    there = tmp_path / "there.git"
    git("init", "-q", "--bare", str(there))
    git("remote", "add", "origin", str(there))
    for name in ("requested", "feature"):
        git("checkout", "-q", "-b", name, "main")
        git("commit", "-q", "--allow-empty", "-m", name)
    git("push", "-q", "origin", "requested:refs/pull/7/head")
    git("checkout", "-q", "main")
    git("branch", "-q", "-D", "requested")
    starts: list[str] = []
    async with served_in_memory(make()) as (client, _):
        for params in ({"pull_request": 7}, {"branch": "feature"}):
            done = await delegate(client, ["edit", "a.txt", "a\n"], params=params, wait=40)
            starts.append(git("log", "-1", "--skip=1", "--format=%s", done["result"]["branch"]))
        missing = await delegate(client, ["say", "x"], params={"pull_request": 8}, wait=40)
    assert starts == ["requested", "feature"]
    assert (missing["status"], git("branch", "--show-current")) == ("failed", "main")
    assert "8" in missing["result"]["text"]


async def test_a_review_says_that_it_did_not_see_what_is_not_committed(make: Made, workspace: Path):
    (workspace / "one.txt").write_text("not committed\n")
    async with served_in_memory(make()) as (client, _):
        done = await delegate(client, ["say", "Looked."], params={"profile": "review"}, wait=40)
    assert done["result"]["dirty"] is True
    assert "It did not see your uncommitted changes." in done["say"]
    assert (workspace / "one.txt").read_text() == "not committed\n"


async def test_a_quota_parks_the_task_and_it_goes_on_in_its_conversation(make: Made, git: Git):
    clock = Clock()
    clock.now = round(time.time() * MICROSECONDS)
    script = (["edit", "a.txt", "a\n"], ["first", ["fail", 429, "Try again in 2h"]], ["say", "Done."])
    async with served_in_memory(make(), now=clock) as (client, runtime):
        task = await delegate(client, *script, task_id="t", max_attempts=1, wait=0)
        parked = await settled(runtime, task["id"])
        told = await ask(client, "get_task", task_id="t")
        clock.forward(2 * 3600 + DEADLINE_SECONDS)
        await stir(client)
        done = await settled(runtime, "t", 2)
    assert (parked.status, parked.reason) == ("scheduled", "quota")
    assert abs((parked.run_after or 0) / MICROSECONDS - time.time() - 2 * 3600) < 2 * DEADLINE_SECONDS
    assert told["say"].startswith("Tester has used up its quota. Task 1 goes on in ")
    result = done.result or {}
    assert (done.status, result["text"]) == ("completed", "Done."), done
    [conversation] = (Path(os.environ["HOME"]) / "sessions").iterdir()
    assert conversation.stem == result["agent_conversation_id"]
    assert "Go on with this task where you were" in json.loads(conversation.read_text())[-1]


async def test_a_budget_that_is_used_up_is_asked_about_and_goes_on(make: Made, git: Git):
    script = (["edit", "a.txt", "a\n"], ["cost", 1.5], ["first", ["await_cancel"]], ["say", "Done."])
    async with served_in_memory(make()) as (client, runtime):
        task = await delegate(client, *script, params={"max_cost_usd": 1}, wait=0)
        waiting = await settled(runtime, task["id"])
        action = await approve(runtime, waiting)
        done = await settled(runtime, task["id"], 2)
    assert (action["budget"], action["spent"]) == ({"max_cost_usd": 1.0}, "1.50 of 1.00 dollars")
    result = done.result or {}
    assert (done.status, result["text"], git("show", f"{result['branch']}:a.txt")) == ("completed", "Done.", "a")


async def test_a_follow_up_to_a_task_without_a_conversation_is_told_what_was_said(make: Made, git: Git):
    args = ["-I", "-S", str(FAKE), "--exit-at-once"]
    async with served_in_memory(make(args=args)) as (client, _):
        failed = await delegate(client, ["say", "x"], task_id="t", max_attempts=1, wait=40)
    async with served_in_memory(make()) as (client, _):
        more = await ask(client, "continue_task", task_id="t", message=words(["say", "Now."], before="Go on."), wait=40)
    assert (failed["status"], failed["reason"]) == ("failed", "agent_ended")
    assert "no such model" in failed["result"]["text"]
    assert (more["status"], more["result"]["text"]) == ("completed", "Now.")
    [conversation] = (Path(os.environ["HOME"]) / "sessions").iterdir()
    [told] = json.loads(conversation.read_text())
    assert words(["say", "x"]) in told.partition("Go on.")[0]


# Whether it is there


@asynccontextmanager
async def looked_for_often(settings: Settings) -> AsyncGenerator[tuple[Client, Runtime, list[Event]]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(availability, "AGENT_LOOK_SECONDS", 0.05)
        async with served_in_memory(settings) as (client, runtime):
            told: list[Event] = []
            runtime.events.listen(told.append)
            yield client, runtime, told


async def test_a_program_that_is_installed_starts_what_is_queued_and_one_that_goes_is_an_event(
    make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    command = shlex.join([sys.executable, "-I", "-S", str(FAKE)])
    async with looked_for_often(make(program="tester-agent", args=[])) as (client, runtime, told):
        waiting = await delegate(client, ["say", "Hello."], wait=0)
        without = await ask(client, "list_agents")
        (bin_ / "new").write_text(f"#!/bin/sh\nexec {command}\n")
        (bin_ / "new").chmod(0o755)
        (bin_ / "new").rename(bin_ / "tester-agent")
        done = await settled(runtime, waiting["id"])
        with_it = await ask(client, "list_agents")
        with runtime.events.watch("agent://tester") as changed:
            (bin_ / "tester-agent").unlink()
            await asyncio.wait_for(changed.wait(), DEADLINE_SECONDS)
        after = await ask(client, "list_agents")
    assert waiting["say"] == "Tester is not installed on your machine, so task 1 waits in the queue."
    assert (done.status, (done.result or {})["text"]) == ("completed", "Hello.")
    assert [event.kind for event in told if event.kind.startswith("agent.")] == ["agent.appeared", "agent.disappeared"]
    for answer, ready in ((without, False), (with_it, True), (after, False)):
        (shown,) = [item for item in answer["items"] if item["name"] == "tester"]
        assert (shown["installed"], shown["ready"]) == (ready, ready)
        assert ready or "tester-agent" in shown["missing"]
        assert ("Tester" in answer["say"].partition("Not installed")[0]) == ready


async def test_one_that_is_installed_and_lacks_its_sandbox_is_not_called_ready(
    make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    async with looked_for_often(make({"sandbox": "strict"})) as (client, runtime, _):
        await runtime.tasks.wait(
            await runtime.tasks.get((await delegate(client, ["say", "x"], task_id="t", wait=0))["id"]),
            DEADLINE_SECONDS,
            lambda now: now.reason is not None,
        )
        waiting = await ask(client, "get_task", task_id="t")
        listed = await ask(client, "list_agents")
        guide = await client.get_prompt("guide")
        resources = await client.list_resources()
    assert waiting["say"] == "Tester is not ready on your machine, so task 1 waits in the queue."
    assert "Installed, but not ready: Tester." in listed["say"]
    (block,) = guide.messages
    assert "- tester (not ready): " in str(block.content)
    (tester,) = [each for each in resources.resources if str(each.uri) == "agent://tester"]
    assert tester.description == "Agent, not ready."
