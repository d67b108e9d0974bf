"""What was allowed or approved when a task was stored must still hold when it begins."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_server import runtime
from mcp_server.agent import Checked, WorkOrder
from mcp_server.agents.registry import all_agents
from mcp_server.agents.shell import ShellAgent
from mcp_server.callers import DESK, Caller, calling_as
from mcp_server.settings import PolicyRule, Settings
from tests.executor.recorder import Recorder, asks, end
from tests.executor.test_worker import DEADLINE_SECONDS, Clock, finished, stir
from tests.server.doors import ask, in_memory, served_in_memory
from tests.server.processes import Place

PHONE = Caller("phone", "phone", frozenset({"read", "submit"}), key_id="key_1")
TOUCH = {"agent": "shell", "params": {"command": ["touch", "made"]}}


class Kept(ShellAgent):
    """Runs commands in a place of their own, as long as there is one."""

    place_of_its_own = True

    def check(self, order: WorkOrder) -> Checked:
        checked = super().check(order)
        return Checked(checked.argv, reads_only=False, contained=self.place_of_its_own)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Kept:
    """Every server of the test has it, under the name of a shell."""
    made = Kept((), settings.workspaces.values)

    def agents(*given: Any) -> list[Any]:
        return [made if agent.name == "shell" else agent for agent in all_agents(*given)]

    monkeypatch.setattr(runtime, "all_agents", agents)
    return made


async def test_what_was_allowed_because_it_is_kept_apart_begins_nowhere_else(
    settings: Settings, place: Place, kept: Kept
):
    clock = Clock()
    async with in_memory(settings, caller=PHONE, now=clock) as client:
        allowed = await ask(client, "delegate_task", **TOUCH, task_id="t1", run_after=60, wait=0)
        kept.place_of_its_own = False
        clock.forward(61)
        await stir(client)
        ended = await finished(client, "t1")
        again = await ask(client, "update_task", task_id="t1", action="retry")
    assert allowed["status"] == "scheduled"
    assert (ended["status"], ended["reason"]) == ("failed", "invalid")
    assert "kept apart" in ended["result"]["text"]
    assert again["status"] == "waiting_approval", "now the user is asked"
    assert not (place.workspace / "made").exists()


async def test_what_the_user_approved_needs_no_place_of_its_own(settings: Settings, place: Place, kept: Kept):
    kept.place_of_its_own = False
    async with served_in_memory(settings, caller=PHONE) as (client, opened):
        waiting = await ask(client, "delegate_task", **TOUCH)
        with calling_as(DESK):
            (approval,), _ = await opened.approvals.list()
            await opened.approvals.decide(approval.id, "approve", approval.hash)
        ended = await finished(client, waiting["id"])
    assert (waiting["status"], ended["status"]) == ("waiting_approval", "completed")
    assert (place.workspace / "made").exists()


async def test_a_rule_of_the_users_allows_it_also_without_a_place_of_its_own(
    settings: Settings, place: Place, kept: Kept
):
    clock = Clock()
    ruled = settings.model_copy(update={"policy": (PolicyRule(decision="allow", level="phone", agent="shell"),)})
    async with in_memory(ruled, caller=PHONE, now=clock) as client:
        await ask(client, "delegate_task", **TOUCH, task_id="t1", run_after=60, wait=0)
        kept.place_of_its_own = False
        clock.forward(61)
        await stir(client)
        assert (await finished(client, "t1"))["status"] == "completed"


async def test_a_folder_that_became_a_link_is_not_worked_in(settings: Settings, place: Place):
    """What is approved is approved for one folder, not for whatever somebody puts in its place."""
    clock = Clock()
    asked, other = place.workspace / "asked", place.workspace / "other"
    asked.mkdir()
    other.mkdir()
    async with in_memory(settings, now=clock) as client:
        await ask(client, "delegate_task", **TOUCH, working_dir="asked", task_id="t1", run_after=60, wait=0)
        asked.rmdir()
        asked.symlink_to(other)
        clock.forward(61)
        await stir(client)
        ended = await finished(client, "t1")
    assert (ended["status"], ended["reason"]) == ("failed", "invalid")
    assert "leads elsewhere" in ended["result"]["text"]
    assert not (other / "made").exists()


async def test_what_an_agent_asked_in_mid_run_goes_on_with_the_answer(settings: Settings, recorder: Recorder):
    recorder.scripts = [asks("May I run make?"), asks("May I push?", action={"tool": "push"}), end()]
    async with served_in_memory(settings) as (client, opened):
        begun = await ask(client, "delegate_task", agent="recorder", description="build", task_id="t1")
        assert (begun["status"], begun["approval"]["about"]) == ("waiting_approval", "tool")
        assert "May I run make?" in begun["say"]
        hashes: list[str] = []
        for _ in range(2):
            with calling_as(DESK):
                (approval,), _ = await opened.approvals.list()
                await opened.approvals.decide(approval.id, "approve", approval.hash)
            hashes.append(approval.hash)
            await opened.tasks.wait(await opened.tasks.get("t1"), DEADLINE_SECONDS, lambda task: task.settled)
        now = await ask(client, "get_task", task_id="t1")
    assert now["status"] == "completed"
    assert [order.granted for order in recorder.orders] == [(), (hashes[0],), tuple(hashes)]


async def test_what_an_agent_asked_in_mid_run_and_was_denied_ends_there(settings: Settings, recorder: Recorder):
    recorder.scripts = [asks("May I push?"), end()]
    async with served_in_memory(settings) as (client, opened):
        await ask(client, "delegate_task", agent="recorder", description="build", task_id="t1")
        with calling_as(DESK):
            (approval,), _ = await opened.approvals.list()
            await opened.approvals.decide(approval.id, "deny", approval.hash)
        now = await ask(client, "get_task", task_id="t1")
    assert (now["status"], now["reason"], len(recorder.orders)) == ("cancelled", "denied", 1)
    assert "was not approved" in now["say"]


async def test_what_an_agent_asks_in_unprintable_words_can_be_denied(settings: Settings, recorder: Recorder):
    odd = "\ud800\x00\x1b[2J"
    recorder.scripts = [asks(say=odd, about="budget", action={"input": odd}, diff=odd)]
    async with served_in_memory(settings) as (client, opened):
        begun = await ask(client, "delegate_task", agent="recorder", description="build", task_id="t1")
        with calling_as(DESK):
            (approval,), _ = await opened.approvals.list()
            await opened.approvals.decide(approval.id, "deny", approval.hash)
        assert (await ask(client, "get_task", task_id="t1"))["reason"] == "denied"
    assert "does not say" in begun["say"]
