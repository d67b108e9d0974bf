"""`say`, for every tool and every kind of end: `ask` and `refused` check its form, here we make it hard for it."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_server.callers import DESK, calling_as
from mcp_server.settings import PolicyRule, Settings
from tests.server.doors import ask, in_memory, refused, served_in_memory

HARD = (
    "# Title\n* one `two` **three** [four](https://five.example/x) <b>six</b> \x1b[31mred\x1b[0m "
    "123e4567-e89b-12d3-a456-426614174000 deadbeefcafe4711 {} | ~ " + "word " * 60
)
"""Everything that cannot be spoken, in one text."""


@pytest.mark.parametrize("text", [HARD, "x" * 5000, "语" * 3000, "...", "\n\n\n", "🙂" * 50], ids=lambda text: text[:4])
async def test_whatever_is_kept_or_done_can_be_spoken(settings: Settings, text: str):
    short = text[:120].replace("\n", " ") or "x"
    async with in_memory(settings) as client:
        for tool, arguments in every_call(text, short):
            await ask(client, tool, **arguments)


def every_call(text: str, short: str) -> list[tuple[str, dict[str, Any]]]:
    blank = not text.strip()
    label = "x" if blank else short
    content = "x" if blank else text
    return [
        ("create_session", {"session_id": "s_1", "title": label, "participants": [label]}),
        ("create_session", {"session_id": "s_1", "title": label, "participants": [label]}),
        ("add_conversation", {"session_id": "s_1", "content": content, "chunk_id": "c_1"}),
        ("store_memory", {"type": label, "content": content, "key": label, "session_id": "s_1"}),
        ("store_memory", {"type": label, "content": f"{content}!", "key": label, "session_id": "s_1"}),
        ("add_artifact", {"name": label, "content": content, "session_id": "s_1", "artifact_id": "a_1"}),
        ("delegate_task", {"agent": "echo", "description": text, "session_id": "s_1", "task_id": "t_1"}),
        ("delegate_task", {"agent": "echo", "description": "f", "params": {"fail": content}, "task_id": "t_2"}),
        ("delegate_task", {"agent": "echo", "description": "f", "params": {"ask": content}, "task_id": "t_3"}),
        ("delegate_task", {"agent": "codex", "description": content, "task_id": "t_4"}),
        ("delegate_task", {"agent": "echo", "description": content, "run_after": 3600, "task_id": "t_5"}),
        ("get_task", {"task_id": "t_1"}),
        ("get_task", {"task_id": "t_5"}),
        ("list_tasks", {}),
        ("search", {}),
        ("search", {"id": "a_1"}),
        ("list_sessions", {}),
        ("get_session", {"session_id": "s_1"}),
        ("update_session", {"session_id": "s_1", "status": "paused"}),
        ("continue_task", {"task_id": "t_1", "message": content}),
        ("list_agents", {}),
        ("update_task", {"task_id": "t_4", "priority": 3}),
        ("update_task", {"task_id": "t_4", "action": "cancel"}),
        ("update_task", {"task_id": "t_5", "action": "cancel"}),
        ("delete", {"session_id": "s_1"}),
    ]


async def test_every_refusal_can_be_spoken(settings: Settings):
    hard = HARD.replace("\0", "")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("create_session", {hard: 1}),
        ("create_session", {"session_id": hard}),
        ("create_session", {"session_id": "s", "title": "x" * 600}),
        ("delegate_task", {"agent": hard}),
        ("delegate_task", {"agent": "git", "params": {"command": [hard]}}),
        ("delegate_task", {"agent": "git", "params": {"command": ["git", "log", f"--output={hard}"]}}),
        ("delegate_task", {"agent": "shell", "params": {"command": [hard]}}),
        ("delegate_task", {"agent": "shell", "params": {hard: 1}}),
        ("delegate_task", {"agent": "shell", "params": {"command": ["ls"]}, "workspace": hard}),
        ("delegate_task", {"agent": "shell", "params": {"command": ["ls"]}, "working_dir": "/" + hard}),
        ("delegate_task", {"agent": "echo", "params": {"sleep": hard}}),
        ("get_task", {"task_id": hard}),
        ("search", {"cursor": hard}),
        ("store_memory", {"type": hard + "x" * 600, "content": "x"}),
        ("add_artifact", {"name": "x", "content": hard, "encoding": "base64"}),
    ]
    async with in_memory(settings) as client:
        for tool, arguments in calls:
            await refused(client, tool, **arguments)


@pytest.mark.parametrize("text", [HARD, "x" * 5000, "语" * 3000, "...", "🙂" * 50], ids=lambda text: text[:4])
async def test_whatever_waits_for_approval_can_be_spoken(settings: Settings, text: str):
    asking = settings.model_copy(update={"policy": (PolicyRule(decision="ask"),)})
    async with in_memory(asking) as client:
        for arguments in (
            {"agent": "echo", "description": text},
            {"agent": "shell", "params": {"command": ["echo", text]}},
        ):
            waiting = await ask(client, "delegate_task", **arguments)
            assert waiting["say"].startswith(f"Task {waiting['number']} waits for your approval.")


@pytest.mark.parametrize(
    ("decision", "said"), [("deny", "was not approved"), (None, "was not approved in time")], ids=["denied", "expired"]
)
async def test_what_was_not_approved_is_told_so(settings: Settings, decision: Any, said: str):
    asking = settings.model_copy(update={"policy": (PolicyRule(decision="ask"),)})
    clock = [1_800_000_000_000_000]
    async with served_in_memory(asking, now=lambda: clock[0]) as (client, opened):
        await ask(client, "delegate_task", agent="echo", description="x", task_id="t")
        (approval,), _ = await opened.approvals.list()
        if decision is None:
            clock[0] = approval.expires_at
            await opened.approvals.expire_due()
        else:
            with calling_as(DESK):
                await opened.approvals.decide(approval.id, decision, approval.hash)
        told = await ask(client, "get_task", task_id="t")
    assert said in told["say"]
    assert told["say"].endswith("so it is cancelled.")


async def test_what_waits_for_its_time_is_told_with_it(settings: Settings):
    clock = [1_800_000_000_000_000]
    async with in_memory(settings, now=lambda: clock[0]) as client:
        later = await ask(client, "delegate_task", agent="echo", description="x", run_after=7200, wait=0, task_id="t")
        clock[0] += 7_199_000_000
        soon = await ask(client, "get_task", task_id="t")
    assert later["say"] == "Task 1 begins in 2 hours."
    assert soon["say"] == "Task 1 begins in a moment."


async def test_an_old_answer_is_told_with_its_age(settings: Settings):
    clock = [1_800_000_000_000_000]

    async with in_memory(settings, now=lambda: clock[0]) as client:
        await ask(client, "delegate_task", agent="echo", description="all clean", task_id="t")
        clock[0] += 86_400_000_000
        old = await ask(client, "delegate_task", agent="echo", description="all clean", task_id="t")

    assert old["created"] is False
    assert old["say"] == "From 1 day ago: all clean."
