"""Handing work over: what must hold before a task is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_server.agent import Availability, Checked, Exit, Invocation, Outcome, WorkOrder
from mcp_server.agents.registry import AgentRegistry
from mcp_server.attempts import Ending, RecordsRead
from mcp_server.callers import Caller, calling_as
from mcp_server.clock import iso
from mcp_server.delegation import Delegation, Order
from mcp_server.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, TooLargeError
from mcp_server.fingerprint import fingerprint
from mcp_server.policy import Policy
from mcp_server.settings import PolicyRule
from mcp_server.workspaces import Workspaces
from tests.store.house import House

PHONE = Caller("phone", "my phone", frozenset({"read", "submit"}), key_id="key_1")


class ProbeAgent:
    """An agent that remembers what it was asked to check, and never runs."""

    description = "for tests"
    default_timeout_seconds = 60.0
    default_limit: int | None = None

    def __init__(self, name: str, *, needs_workspace: bool = False, continues: bool = True, installed: bool = True):
        self.name = self.title = name
        self.needs_workspace = needs_workspace
        self.continues = continues
        self.installed = installed
        self.checked: list[WorkOrder] = []

    def availability(self) -> Availability:
        return Availability(installed=self.installed)

    def look(self) -> None:
        raise NotImplementedError

    def check(self, order: WorkOrder) -> Checked:
        self.checked.append(order)
        if "refuse" in order.params:
            raise InvalidError("The agent cannot take this.", field="params.refuse", fix="Leave it out.")
        return Checked(
            argv=tuple(order.params.get("command", ())),
            reads_only=bool(order.params.get("reads")),
            contained=self.name == "claude_code" and order.params.get("profile") != "full",
        )

    def invocation(self, order: WorkOrder) -> Invocation:
        raise NotImplementedError

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        raise NotImplementedError


@pytest.fixture
def agents() -> Mapping[str, ProbeAgent]:
    """One of each sort."""
    sorts = (
        ProbeAgent("echo"),
        ProbeAgent("shell", needs_workspace=True, continues=False),
        ProbeAgent("claude_code", installed=False),
    )
    return {agent.name: agent for agent in sorts}


@pytest.fixture
def delegation(house: House, workspace: Path, agents: Mapping[str, ProbeAgent]) -> Delegation:
    """With one workspace, `work`, and one rule: on the phone, shell may run pytest and nothing in `rm`."""
    rules = (
        PolicyRule(decision="allow", level="phone", agent="shell", command=("pytest", "*")),
        PolicyRule(decision="deny", agent="shell", command=("rm", "*")),
    )
    registry = AgentRegistry(agents.values())
    return Delegation(
        registry, Workspaces({"work": workspace}), Policy(rules), house.tasks, house.approvals, house.clock
    )


def order(agent: str = "echo", **fields: Any) -> Order:
    return Order(**{"agent": agent, "description": "do it", "params": {}} | fields)


async def test_an_order_becomes_a_task(delegation: Delegation, house: House):
    await house.sessions.create(id="s1")
    task, created = await delegation.delegate(
        order(
            params={"a": [1, "é"]},
            task_id="task_001",
            session_id="s1",
            task_type="code",
            priority=1,
            lane="slow",
            timeout_seconds=5,
            max_attempts=2,
        )
    )
    assert created
    record = task.record()
    expected = {
        "id": "task_001",
        "status": "queued",
        "reason": None,
        "session_id": "s1",
        "task_type": "code",
        "description": "do it",
        "params": {"a": [1, "é"]},
        "priority": 1,
        "lane": "slow",
        "timeout_seconds": 5,
        "max_attempts": 2,
        "workspace": None,
        "working_dir": None,
    }
    assert {name: record[name] for name in expected} == expected


async def test_what_is_left_out_has_the_defaults_of_the_contract(delegation: Delegation):
    task, _ = await delegation.delegate(order())
    assert (task.timeout_seconds, task.max_attempts, task.priority, task.lane) == (60.0, 3, 0, None)
    assert task.id == "task_made1"


async def test_an_agent_that_needs_a_workspace_gets_the_only_one(
    delegation: Delegation, workspace: Path, agents: Mapping[str, ProbeAgent]
):
    (workspace / "sub").mkdir()
    task, _ = await delegation.delegate(order("shell", params={"command": ["ls"]}))
    assert (task.workspace, task.cwd) == ("work", str(workspace))
    task, _ = await delegation.delegate(order("shell", params={"command": ["ls"]}, working_dir="sub"))
    assert (task.workspace, task.cwd) == ("work", str(workspace / "sub"))
    assert agents["shell"].checked[-1] == WorkOrder(
        "do it", {"command": ["ls"]}, workspace=workspace, cwd=workspace / "sub"
    )
    task, _ = await delegation.delegate(order(workspace="work"))
    assert task.workspace == "work", "also for one that needs none, if it is named"


async def test_a_task_for_an_agent_that_is_not_installed_is_accepted_and_says_so(
    delegation: Delegation, agents: Mapping[str, ProbeAgent]
):
    task, created = await delegation.delegate(order("claude_code"))
    assert (task.status, task.reason, task.settled, created) == ("queued", "agent_not_installed", True, True)
    await delegation._tasks.cancel(task.id)
    assert (await delegation.retry(task.id)).reason == "agent_not_installed"
    await delegation._tasks.cancel(task.id)
    agents["claude_code"].installed = True
    assert (await delegation.retry(task.id)).reason is None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown agent": ({"agent": "nobody"}, "agent"),
    "no agent": ({"agent": ""}, "agent"),
    "an agent of 10,000 letters": ({"agent": "x" * 10_000}, "agent"),
    "a description with U+0000": ({"description": "a\x00"}, "description"),
    "a description with a lone surrogate": ({"description": "\ud800"}, "description"),
    "parameters with U+0000": ({"params": {"a": ["\x00"]}}, "params.a[0]"),
    "parameters without end": ({"params": {"a": float("nan")}}, "params"),
    "what the agent refuses": ({"params": {"refuse": 1}}, "params.refuse"),
    "a workspace that is none": ({"workspace": "nowhere"}, "workspace"),
    "a folder that is none": ({"working_dir": "nowhere"}, "working_dir"),
    "an id with a space": ({"task_id": "a b"}, "task_id"),
    "an id of digits": ({"task_id": "7"}, "task_id"),
    "an id of 10,000 letters": ({"task_id": "x" * 10_000}, "task_id"),
    "a session id with a slash": ({"session_id": "a/b"}, "session_id"),
    "an empty type": ({"task_type": ""}, "task_type"),
    "an empty lane": ({"lane": " "}, "lane"),
    "a lane with U+0000": ({"lane": "\x00"}, "lane"),
    "too high a priority": ({"priority": 1001}, "priority"),
    "too low a priority": ({"priority": -1001}, "priority"),
    "no timeout": ({"timeout_seconds": 0}, "timeout_seconds"),
    "a negative timeout": ({"timeout_seconds": -1}, "timeout_seconds"),
    "an endless timeout": ({"timeout_seconds": float("inf")}, "timeout_seconds"),
    "a timeout that is no number": ({"timeout_seconds": float("nan")}, "timeout_seconds"),
    "no attempts": ({"max_attempts": 0}, "max_attempts"),
    "too many attempts": ({"max_attempts": 21}, "max_attempts"),
    "a time that is none": ({"run_after": "tomorrow"}, "run_after"),
    "a time without end": ({"run_after": float("inf")}, "run_after"),
    "a time that is no number": ({"run_after": float("nan")}, "run_after"),
    "a delay into the past": ({"run_after": -1}, "run_after"),
    "more than a year away": ({"run_after": 367 * 86400}, "run_after"),
    "the end of time": ({"run_after": "9999-12-31T23:59:59Z"}, "run_after"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_bad_input_is_refused_and_nothing_is_stored(kind: str, delegation: Delegation, house: House):
    given, field = BAD[kind]
    with pytest.raises(InvalidError) as caught:
        await delegation.delegate(order(**given))
    assert caught.value.issues[0].field == field
    assert caught.value.issues[0].fix
    assert await house.tasks.list() == ([], None)
    assert house.told == []


async def test_what_is_too_large_is_refused(delegation: Delegation, house: House):
    limit = 1024 * 1024
    task, _ = await delegation.delegate(order(description="é" * (limit // 2)))
    assert len(task.description) == limit // 2
    for given in ({"description": "x" * (limit + 1)}, {"params": {"a": "x" * limit}}, {"lane": "x" * 513}):
        with pytest.raises(TooLargeError):
            await delegation.delegate(order(**given))
    assert len((await house.tasks.list())[0]) == 1


async def test_an_unknown_session_is_not_found(delegation: Delegation, house: House):
    with pytest.raises(NotFoundError) as caught:
        await delegation.delegate(order(session_id="nobody"))
    assert caught.value.issues[0].field == "session_id"
    assert house.told == []


@pytest.mark.parametrize("working_dir", ["..", "/", "escape", "../work-evil"])
async def test_work_outside_the_workspaces_is_forbidden(
    working_dir: str, delegation: Delegation, workspace: Path, house: House
):
    (workspace / "escape").symlink_to(workspace.parent)
    (workspace.parent / "work-evil").mkdir()
    with pytest.raises(ForbiddenError) as caught:
        await delegation.delegate(order("shell", params={"command": ["ls"]}, working_dir=working_dir))
    assert caught.value.issues[0].field == "working_dir"
    assert house.told == []


async def test_the_policy_decides_by_caller_and_command(delegation: Delegation, house: House):
    def shell(*command: str) -> Order:
        return order("shell", params={"command": list(command)})

    with calling_as(PHONE):
        with pytest.raises(ForbiddenError) as caught:
            await delegation.delegate(shell("rm", "x"))
        assert caught.value.issues[0].field == "agent"
        assert house.told == []
        task, _ = await delegation.delegate(shell("pytest", "-q"))
        assert task.caller == {"level": "phone", "name": "my phone", "key_id": "key_1"}
        assert task.status == "queued"
        waiting, _ = await delegation.delegate(shell("ls"))
        assert waiting.status == "waiting_approval"
    task, _ = await delegation.delegate(shell("ls"))
    assert task.status == "queued"
    with pytest.raises(ForbiddenError):
        await delegation.delegate(shell("rm", "x"))


async def test_a_retry_needs_the_same_leave_as_a_new_order(delegation: Delegation, house: House):
    task, _ = await delegation.delegate(order("shell", params={"command": ["ls"]}))
    await house.tasks.cancel(task.id)
    with calling_as(PHONE):
        assert (await delegation.retry(task.id)).status == "waiting_approval"
    await house.tasks.cancel(task.id)
    assert (await delegation.retry(task.id)).status == "queued"


@pytest.mark.parametrize("agent", ["shell", "claude_code"])
async def test_what_is_asked_names_everything_that_will_be_done(
    agent: str, delegation: Delegation, house: House, workspace: Path
):
    (workspace / "sub").mkdir()
    given: dict[str, Any] = {"command": ["pip", "install", "x y"]} if agent == "shell" else {"profile": "full"}
    asked = order(agent, params=given, workspace="work", working_dir="sub", run_after=60, task_id="t1")
    with calling_as(PHONE):
        task, created = await delegation.delegate(asked)
        again, repeated = await delegation.delegate(asked)
    assert (task.status, task.reason, task.settled, created, repeated) == ("waiting_approval", None, True, True, False)
    assert task == again
    (approval,), _ = await house.approvals.list(decided=True)
    assert approval.action == {
        "task": "t1",
        "agent": agent,
        "argv": given.get("command"),
        "description": "do it",
        "params": given,
        "workspace": "work",
        "cwd": str(workspace / "sub"),
        "continues": None,
        "run_after": iso(task.run_after),
    }
    assert approval.hash == fingerprint(approval.action)
    assert approval.asked_by == PHONE.record()
    expected = {"shell": "shell is to run pip install 'x y' in work.", "claude_code": "to do this in work: do it."}
    assert expected[agent] in approval.say


async def test_a_waiting_task_under_the_same_id_takes_no_other_order(delegation: Delegation, house: House):
    """Else what was looked at would not be what is approved."""
    with calling_as(PHONE):
        await delegation.delegate(order("shell", params={"command": ["ls"]}, task_id="t1"))
        for command in (["rm", "x"], ["ls", "-l"], ["pytest"]):
            with pytest.raises((ConflictError, ForbiddenError)):
                await delegation.delegate(order("shell", params={"command": command}, task_id="t1"))
    (approval,), _ = await house.approvals.list(decided=True)
    assert approval.action["argv"] == ["ls"]


async def test_a_denied_order_is_asked_about_again_when_the_phone_retries_it(delegation: Delegation, house: House):
    asked = order("shell", params={"command": ["ls"]}, task_id="t1")
    with calling_as(PHONE):
        task, _ = await delegation.delegate(asked)
    (first,), _ = await house.approvals.list()
    await house.approvals.decide(first.id, "deny", first.hash)
    with calling_as(PHONE):
        assert (await delegation.delegate(asked))[0].status == "cancelled", "the same order is the same task"
        assert (await delegation.retry(task.id, priority=5)).status == "waiting_approval"
        assert (await delegation.retry(task.id)).status == "waiting_approval"
    (second,), _ = await house.approvals.list()
    assert second.id != first.id
    assert second.action == first.action


async def test_an_approved_order_that_ran_is_asked_about_again_when_the_phone_retries_it(
    delegation: Delegation, house: House
):
    with calling_as(PHONE):
        task, _ = await delegation.delegate(order("shell", params={"command": ["ls"]}))
    (approval,), _ = await house.approvals.list()
    await house.approvals.decide(approval.id, "approve", approval.hash)
    await finish(house, "shell", Ending(status="failed", reason="exit_code", result={"text": ""}))
    with calling_as(PHONE):
        assert (await delegation.retry(task.id)).status == "waiting_approval"


async def test_a_follow_up_may_do_what_its_task_might_and_is_asked_about_alike(delegation: Delegation, house: House):
    await delegation.delegate(order("claude_code", task_id="t1", params={"profile": "full", "command": ["x"]}))
    with calling_as(PHONE):
        second, _ = await delegation.follow_up("t1", "and more", "t2")
        await delegation.follow_up("t1", "and more", "t2")
    assert (second.status, second.params) == ("waiting_approval", {"profile": "full"})
    (approval,), _ = await house.approvals.list(decided=True)
    expected = {"description": "and more", "continues": "t1", "params": {"profile": "full"}}
    assert {name: approval.action[name] for name in expected} == expected
    with calling_as(PHONE):
        await delegation.delegate(order("claude_code", task_id="t3", params={"profile": "review"}))
        fourth, _ = await delegation.follow_up("t3", "and more")
    assert (fourth.status, fourth.params) == ("queued", {"profile": "review"})


async def test_work_from_a_hook_is_denied(delegation: Delegation, house: House):
    hook = Caller("hook", "github", frozenset({"read", "submit"}))
    for asked in (order(), order("claude_code"), order("shell", params={"command": ["ls"], "reads": True})):
        with calling_as(hook), pytest.raises(ForbiddenError):
            await delegation.delegate(asked)
    assert house.told == []


async def test_bad_input_is_refused_before_anybody_is_asked(delegation: Delegation, house: House):
    with calling_as(PHONE):
        for wrong in ({"session_id": "nobody"}, {"priority": 9999}, {"task_id": "a b"}, {"lane": " "}):
            with pytest.raises((InvalidError, NotFoundError)):
                await delegation.delegate(order("shell", params={"command": ["ls"]}, **wrong))
    assert house.told == []
    assert await house.approvals.list(decided=True) == ([], None)


async def test_a_conversation_that_an_agent_remembers_goes_on_after_a_failure(delegation: Delegation, house: House):
    await delegation.delegate(order(task_id="t1"))
    claimed = await house.attempts.claim(["echo"])
    assert claimed is not None
    await house.attempts.keep_records(claimed, RecordsRead(0, 10, state={"conversation": "c1"}))
    await house.attempts.finish(claimed, Ending(status="failed", reason="x", result={"text": ""}))
    second, _ = await delegation.follow_up("t1", "and more")
    assert (second.status, second.conversation_id) == ("queued", "t1")


async def test_the_same_order_again_is_the_same_task(delegation: Delegation, house: House):
    asked = order("shell", params={"command": ["ls"], "b": {"x": 1, "y": 2}}, task_id="t1", run_after=60)
    first, created = await delegation.delegate(asked)
    house.clock.advance(30)
    again, repeated = await delegation.delegate(asked)
    reordered = replace(asked, params={"b": {"y": 2, "x": 1}, "command": ["ls"]})
    also, third = await delegation.delegate(reordered)
    assert (created, repeated, third) == (True, False, False)
    assert first == again == also


@pytest.mark.parametrize(
    "other",
    [
        {"description": "other"},
        {"params": {"a": True}},
        {"agent": "claude_code"},
        {"priority": 2},
        {"lane": "slow"},
        {"run_after": 60},
        {"timeout_seconds": 9},
        {"max_attempts": 1},
        {"task_type": "x"},
        {"workspace": "work"},
    ],
    ids=str,
)
async def test_the_same_id_with_another_order_is_a_conflict(other: dict[str, Any], delegation: Delegation):
    first, _ = await delegation.delegate(order(task_id="t1", params={"a": 1}))
    with pytest.raises(ConflictError) as caught:
        await delegation.delegate(order(**{"task_id": "t1", "params": {"a": 1}} | other))
    assert caught.value.existing == first.record()


async def test_the_same_order_five_times_at_once_is_one_task(delegation: Delegation, house: House):
    answers = await asyncio.gather(*(delegation.delegate(order(task_id="t1")) for _ in range(5)))
    assert [created for _, created in answers].count(True) == 1
    assert house.kinds() == ["task.queued"]


@pytest.mark.parametrize(
    ("run_after", "status"),
    [
        (60, "scheduled"),
        (0.5, "scheduled"),
        (0, "queued"),
        ("2026-11-21T08:01:00Z", "scheduled"),
        ("2026-11-21T08:00:00Z", "queued"),
        ("2020-01-01", "queued"),
        ("2026-11-21T09:00:01+01:00", "scheduled"),
    ],
)
async def test_work_for_later_is_scheduled(run_after: str | float, status: str, delegation: Delegation, house: House):
    task, _ = await delegation.delegate(order(run_after=run_after))
    assert task.status == status
    if isinstance(run_after, int | float):
        assert task.run_after == house.clock() + run_after * 1_000_000


async def finish(house: House, agent: str, ending: Ending) -> None:
    claimed = await house.attempts.claim([agent])
    assert claimed is not None
    await house.attempts.finish(claimed, ending)


async def test_a_follow_up_goes_on_with_its_conversation(delegation: Delegation, house: House):
    await house.sessions.create(id="s1")
    first, _ = await delegation.delegate(order(session_id="s1", lane="slow", task_type="code", task_id="t1"))
    await finish(house, "echo", Ending(status="completed", reason=None, result={"text": "done it"}))
    second, created = await delegation.follow_up("t1", "and more", "t2")
    assert created
    expected = ("t2", "echo", "s1", "slow", "code", "and more", "t1", "t1")
    assert (
        second.id,
        second.agent,
        second.session_id,
        second.lane,
        second.task_type,
        second.description,
        second.parent_id,
        second.conversation_id,
    ) == expected
    assert await house.attempts.conversation(second) == ("do it", "done it")
    third, _ = await delegation.follow_up(str(second.number), "still more")
    assert (third.parent_id, third.conversation_id) == ("t2", "t1"), "a follow-up may wait behind one that has not run"
    again, repeated = await delegation.follow_up("t1", "and more", "t2")
    assert (again, repeated) == (second, False)
    with pytest.raises(ConflictError):
        await delegation.follow_up("t1", "something else", "t2")
    assert first.conversation_id == "t1"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_there_is_nothing_to_go_on_with_after_a_failure(status: str, delegation: Delegation, house: House):
    await delegation.delegate(order(task_id="t1"))
    if status == "failed":
        await finish(house, "echo", Ending(status="failed", reason="exit_code", result={"text": ""}))
    else:
        await house.tasks.cancel("t1")
    with pytest.raises(ConflictError) as caught:
        await delegation.follow_up("t1", "and more")
    assert caught.value.existing is not None
    assert "update_task" in caught.value.issues[0].fix


async def test_an_agent_without_conversations_takes_no_follow_up(delegation: Delegation):
    await delegation.delegate(order("shell", params={"command": ["ls"]}, task_id="t1"))
    with pytest.raises(InvalidError) as caught:
        await delegation.follow_up("t1", "and more")
    assert "delegate_task" in caught.value.issues[0].fix


@pytest.mark.parametrize(
    ("task_id", "message", "new_id", "error", "field"),
    [
        ("nobody", "x", None, NotFoundError, "task_id"),
        ("a b", "x", None, InvalidError, "task_id"),
        ("t1", "", None, InvalidError, "message"),
        ("t1", "\x00", None, InvalidError, "message"),
        ("t1", "x", "a b", InvalidError, "task_id"),
        ("t1", "x" * (1024 * 1024 + 1), None, TooLargeError, "message"),
    ],
)
async def test_a_bad_follow_up_is_refused(
    task_id: str, message: str, new_id: str | None, error: type[Exception], field: str, delegation: Delegation
):
    await delegation.delegate(order(task_id="t1"))
    with pytest.raises(error) as caught:
        await delegation.follow_up(task_id, message, new_id)
    assert caught.value.issues[0].field == field  # type: ignore[attr-defined]


async def test_a_follow_up_of_a_workspace_that_is_gone_is_refused(delegation: Delegation, workspace: Path):
    await delegation.delegate(order(task_id="t1", workspace="work"))
    workspace.rmdir()
    with pytest.raises(InvalidError) as caught:
        await delegation.follow_up("t1", "and more")
    assert caught.value.issues[0].fix


def test_two_agents_of_one_name_are_refused(agents: Mapping[str, ProbeAgent]):
    with pytest.raises(ValueError, match="echo"):
        AgentRegistry([*agents.values(), ProbeAgent("echo")])


def test_an_unknown_agent_is_named_with_those_that_exist(agents: Mapping[str, ProbeAgent]):
    with pytest.raises(InvalidError) as caught:
        AgentRegistry(agents.values()).get("claude-code")
    (issue,) = caught.value.issues
    assert issue.field == "agent"
    assert "claude_code" in issue.fix
