"""What the tools do, through every door and in both protocol eras: one vocabulary, one record."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from uuid import uuid4

import pytest

from mcp_server import retention
from mcp_server.clock import now_us
from mcp_server.settings import Settings
from tests.server.doors import Door, ask, in_memory, refused, through_shim
from tests.server.processes import ServerProcess


def fresh(noun: str) -> str:
    """An id of our own: the live server is shared by all tests."""
    return f"{noun}_{uuid4().hex[:12]}"


def made_by(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record["created_by"].items() if name in ("level", "name")}


async def test_a_session_is_created_found_changed_and_deleted(connect: Door):
    session = fresh("ses")
    async with connect.open() as client:
        created = await ask(
            client,
            "create_session",
            session_id=session,
            title="Carbon tracking",
            participants=["claude", "user"],
            metadata={"topic": "carbon", "old": 1},
        )
        again = await ask(
            client,
            "create_session",
            session_id=session,
            title="Carbon tracking",
            participants=["claude", "user"],
            metadata={"topic": "carbon", "old": 1},
        )
        conflict = await refused(client, "create_session", session_id=session, title="Another")
        changed = await ask(
            client, "update_session", session_id=session, status="paused", metadata={"old": None, "new": [1]}
        )
        listed = await ask(client, "list_sessions", status="paused", query="carbon")
        deleted = await ask(client, "delete", session_id=session)
        gone = await refused(client, "get_session", session_id=session)

    assert created["created"] is True
    assert created["id"] == session
    assert created["status"] == "active"
    assert created["participants"] == ["claude", "user"]
    assert made_by(created) == connect.caller
    assert again["created"] is False
    assert again["created_at"] == created["created_at"]
    assert conflict["status"] == 409
    assert conflict["existing"]["title"] == "Carbon tracking"
    assert conflict["errors"][0]["field"] == "session_id"
    assert changed["status"] == "paused"
    assert changed["metadata"] == {"topic": "carbon", "new": [1]}
    assert session in [item["id"] for item in listed["items"]]
    assert deleted["deleted"] is True
    assert gone["status"] == 404
    assert gone["errors"][0]["field"] == "session_id"


async def test_a_session_sums_up_what_is_kept_in_it(connect: Door):
    session = fresh("ses")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session, title="Sum")
        await ask(client, "add_conversation", session_id=session, chunk_id="chunk_001", content="We talked. Ω")
        await ask(client, "store_memory", type="idea", key="k", content={"priority": "high"}, session_id=session)
        await ask(client, "add_artifact", name="notes.md", content="# Notes", session_id=session)
        await ask(client, "delegate_task", agent="echo", description="hello", session_id=session)
        summary = await ask(client, "get_session", session_id=session)

    assert summary["counts"] == {"chunks": 1, "memories": 1, "tasks": 1, "artifacts": 1, "open_tasks": 0}
    assert summary["latest_chunks"][0]["content"] == "We talked. Ω"
    assert summary["latest_memories"][0]["content"] == {"priority": "high"}
    assert summary["latest_artifacts"][0]["name"] == "notes.md"
    assert summary["latest_tasks"][0]["status"] == "completed"


async def test_a_memory_with_a_key_is_superseded_and_keeps_its_versions(connect: Door):
    key = fresh("key")
    async with connect.open() as client:
        first = await ask(client, "store_memory", type="decision", key=key, content="SQLite", tags=["db", "db"])
        same = await ask(client, "store_memory", type="decision", key=key, content="SQLite", tags=["db"])
        second = await ask(client, "store_memory", type="decision", key=key, content={"engine": "SQLite"})
        whole = await ask(client, "search", id=first["id"])

    assert (first["created"], first["version"], first["tags"]) == (True, 1, ["db"])
    assert (same["created"], same["version"]) == (False, 1)
    assert (second["id"], second["version"], second["content"]) == (first["id"], 2, {"engine": "SQLite"})
    assert whole["kind"] == "memory"
    assert [version["content"] for version in whole["earlier_versions"]] == ["SQLite"]


async def test_artifacts_come_back_byte_for_byte(connect: Door):
    data = bytes(range(256))
    async with connect.open() as client:
        kept = await ask(
            client, "add_artifact", name="all.bin", content=base64.b64encode(data).decode(), encoding="base64"
        )
        whole = await ask(client, "search", id=kept["id"], kind="artifact")
        deleted = await ask(client, "delete", artifact_id=kept["id"])
        gone = await refused(client, "search", id=kept["id"])

    assert kept["size"] == 256
    assert base64.b64decode(whole["content"]) == data
    assert deleted["deleted"] is True
    assert gone["status"] == 404


async def test_search_finds_every_kind_and_pages_through_all(connect: Door):
    word = f"w{uuid4().hex[:10]}"
    session = fresh("ses")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session)
        await ask(client, "add_conversation", session_id=session, content=f"{word} chunk")
        await ask(client, "store_memory", type="fact", content=f"{word} memory", session_id=session)
        await ask(client, "add_artifact", name="a.txt", content=f"{word} artifact", session_id=session)
        await ask(client, "delegate_task", agent="echo", description=f"{word} task", session_id=session)
        found: list[str] = []
        cursor = None
        for _ in range(10):
            page = await ask(client, "search", query=word, limit=1, **({"cursor": cursor} if cursor else {}))
            found += [item["kind"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break

    assert sorted(found) == ["artifact", "conversation", "memory", "task"]


async def test_a_task_is_done_within_the_call_and_found_by_id_and_number(connect: Door):
    task = fresh("task")
    async with connect.open() as client:
        done = await ask(client, "delegate_task", agent="echo", description="Good morning", task_id=task)
        by_id = await ask(client, "get_task", task_id=task)
        by_number = await ask(client, "get_task", task_id=done["number"])
        by_spoken_number = await ask(client, "get_task", task_id=str(done["number"]))
        listed = await ask(client, "list_tasks", status="completed", agent="echo", limit=100)
        same = await ask(client, "delegate_task", agent="echo", description="Good morning", task_id=task)
        other = await refused(client, "delegate_task", agent="echo", description="Good night", task_id=task)

    assert done["created"] is True
    assert done["status"] == "completed"
    assert done["result"]["text"] == "Good morning"
    assert done["result"]["stdout"] == "Good morning\n"
    assert done["result"]["stderr"] == ""
    assert done["result"]["returncode"] == 0
    assert done["result"]["truncated"] is False
    assert done["say"] == "Good morning."
    assert made_by(done) == connect.caller
    assert done["attempt"] == 1
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert by_id["id"] == by_number["id"] == by_spoken_number["id"] == task
    assert "created" not in by_id
    assert by_id["attempts"][0]["status"] == "completed"
    assert task in [item["id"] for item in listed["items"]]
    assert same["created"] is False
    assert same["number"] == done["number"]
    assert same["finished_at"] == done["finished_at"]
    assert other["status"] == 409
    assert other["existing"]["id"] == task
    assert other["errors"][0]["field"] == "task_id"


async def test_a_question_is_answered_with_continue_task(connect: Door):
    async with connect.open() as client:
        asked = await ask(client, "delegate_task", agent="echo", description="Deploy", params={"ask": "Which stage?"})
        answered = await ask(client, "continue_task", task_id=asked["id"], message="Production")

    assert asked["result"]["question"] == "Which stage?"
    assert "Which stage" in asked["say"]
    assert answered["created"] is True
    assert answered["continues"] == asked["id"]
    assert answered["status"] == "completed"
    assert answered["result"]["text"].startswith("Production")
    assert "Deploy" in answered["result"]["text"]


async def test_a_task_that_failed_is_an_answer_and_can_be_retried(connect: Door):
    async with connect.open() as client:
        failed = await ask(client, "delegate_task", agent="echo", description="x", params={"fail": "the disk is full"})
        retried = await ask(client, "update_task", task_id=failed["id"], action="retry")

    assert failed["status"] == "failed"
    assert failed["reason"] == "exit_code"
    assert failed["result"]["returncode"] == 1
    assert "the disk is full" in failed["result"]["stderr"]
    assert "disk is full" in failed["say"]
    assert retried["status"] == "failed"
    assert retried["attempt"] == 2


async def test_an_agent_that_is_not_installed_takes_the_task_and_says_so(connect: Door):
    async with connect.open() as client:
        async with asyncio.timeout(5):
            waiting = await ask(client, "delegate_task", agent="claude_code", description="Build it", wait=45)
        agents = await ask(client, "list_agents")
        cancelled = await ask(client, "update_task", task_id=waiting["id"], action="cancel")

    assert waiting["status"] == "queued"
    assert waiting["reason"] == "agent_not_installed"
    assert "Claude Code" in waiting["say"]
    assert "not installed" in waiting["say"]
    assert "queue" in waiting["say"]
    known = {item["name"]: item for item in agents["items"]}
    assert {"git", "shell", "echo", "claude_code", "codex", "gemini"} <= set(known)
    assert known["claude_code"]["installed"] is False
    assert known["claude_code"]["missing"]
    assert (known["claude_code"]["limit"], known["codex"]["limit"], known["gemini"]["limit"]) == (2, 3, 1)
    assert "Claude Code" in agents["say"]
    assert cancelled["status"] == "cancelled"


async def test_the_same_id_five_times_at_once_is_one_task(connect: Door):
    task = fresh("task")
    async with connect.open() as client:
        answers = await asyncio.gather(
            *(ask(client, "delegate_task", agent="echo", description="once", task_id=task) for _ in range(5))
        )

    assert sorted(answer["created"] for answer in answers) == [False] * 4 + [True]
    assert {answer["status"] for answer in answers} == {"completed"}
    assert len({answer["number"] for answer in answers}) == 1
    assert {answer["attempt"] for answer in answers} == {1}


async def test_every_character_comes_back_as_it_went_in(connect: Door):
    text = "é e\u0301 𝄞 \u202e שלום \u2028 \x07 \x1b[31m \r\n \ufeff \U0010ffff"
    async with connect.open() as client:
        memory = await ask(client, "store_memory", type="fact", content={text: [text]})
        back = await ask(client, "search", id=memory["id"])

    assert back["content"] == {text: [text]}


async def test_u_0000_is_refused_with_its_position(connect: Door):
    async with connect.open() as client:
        error = await refused(client, "store_memory", type="fact", content="ab\0c")

    assert error["status"] == 422
    assert error["errors"][0]["field"] == "content"
    assert "position 2" in error["errors"][0]["message"]


async def test_content_may_be_one_mebibyte_and_not_a_byte_more(connect: Door):
    session = fresh("ses")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session)
        fits = await ask(client, "add_conversation", session_id=session, content="é" * (512 * 1024))
        error = await refused(client, "add_conversation", session_id=session, content="é" * (512 * 1024) + "x")
        summary = await ask(client, "get_session", session_id=session)

    assert fits["size"] == 1024 * 1024
    assert error["status"] == 413
    assert error["errors"][0]["field"] == "content"
    assert summary["counts"]["chunks"] == 1


BAD_IDS = ["", "with space", "with/slash", "tab\there", "x" * 129, "x" * 10_000, "123", "ü", "../up", "new\nline"]


async def test_an_id_that_is_none_is_named_and_the_rule_told(settings: Settings):
    calls: list[tuple[str, dict[str, Any], str]] = [
        (tool, arguments, field) for bad in BAD_IDS for tool, arguments, field in calls_with(bad)
    ]
    async with in_memory(settings) as client:
        for tool, arguments, field in calls:
            error = await refused(client, tool, **arguments)
            assert (error["status"], error["errors"][0]["field"]) == (422, field), (tool, arguments)
            assert "characters" in error["errors"][0]["fix"], tool
        nothing = await ask(client, "search")

    assert nothing["items"] == []


def calls_with(bad: str) -> list[tuple[str, dict[str, Any], str]]:
    return [
        ("create_session", {"session_id": bad}, "session_id"),
        ("delegate_task", {"agent": "echo", "task_id": bad}, "task_id"),
        ("store_memory", {"type": "fact", "content": "x", "memory_id": bad}, "memory_id"),
        ("add_artifact", {"name": "a", "content": "x", "artifact_id": bad}, "artifact_id"),
        ("get_session", {"session_id": bad}, "session_id"),
    ]


async def test_an_unknown_id_is_404_and_says_where_to_look(settings: Settings):
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_session", {"session_id": "nope"}),
        ("update_session", {"session_id": "nope", "title": "x"}),
        ("delete", {"session_id": "nope"}),
        ("delete", {"memory_id": "nope"}),
        ("delete", {"artifact_id": "nope"}),
        ("add_conversation", {"session_id": "nope", "content": "x"}),
        ("store_memory", {"type": "idea", "content": "x", "session_id": "nope"}),
        ("add_artifact", {"name": "a", "content": "x", "session_id": "nope"}),
        ("add_artifact", {"name": "a", "content": "x", "task_id": "nope"}),
        ("delegate_task", {"agent": "echo", "description": "x", "session_id": "nope"}),
        ("get_task", {"task_id": "nope"}),
        ("get_task", {"task_id": 4711}),
        ("update_task", {"task_id": "nope", "action": "cancel"}),
        ("update_task", {"task_id": "nope", "priority": 1}),
        ("continue_task", {"task_id": "nope", "message": "x"}),
        ("search", {"id": "nope"}),
    ]
    async with in_memory(settings) as client:
        for tool, arguments in calls:
            error = await refused(client, tool, **arguments)
            assert error["status"] == 404, (tool, error)
            assert error["errors"], tool
        tasks = await ask(client, "list_tasks")

    assert tasks["items"] == []


async def test_delete_takes_exactly_one_thing(settings: Settings):
    async with in_memory(settings) as client:
        none = await refused(client, "delete")
        two = await refused(client, "delete", session_id="a", memory_id="b")

    assert none["status"] == two["status"] == 422


async def test_a_session_whose_tasks_are_open_is_not_deleted(settings: Settings):
    async with in_memory(settings) as client:
        await ask(client, "create_session", session_id="s")
        await ask(client, "delegate_task", agent="gemini", description="x", session_id="s", task_id="t")
        refusal = await refused(client, "delete", session_id="s")
        await ask(client, "update_task", task_id="t", action="cancel")
        deleted = await ask(client, "delete", session_id="s")
        gone = await refused(client, "get_task", task_id="t")

    assert refusal["status"] == 409
    assert deleted["deleted"] is True
    assert gone["status"] == 404


async def test_archived_sessions_are_listed_only_on_request(settings: Settings):
    async with in_memory(settings) as client:
        await ask(client, "create_session", session_id="s", title="Old")
        await ask(client, "update_session", session_id="s", status="archived")
        usual = await ask(client, "list_sessions")
        asked = await ask(client, "list_sessions", include_archived=True)

    assert usual["items"] == []
    assert [item["id"] for item in asked["items"]] == ["s"]


async def test_without_a_public_url_no_answer_carries_a_link_that_nobody_can_open(settings: Settings):
    async with in_memory(settings) as client:
        here = await ask(client, "delegate_task", agent="echo", description="x")
    outside = settings.model_copy(update={"public_url": "https://me.example/"})
    async with in_memory(outside) as client:
        there = await ask(client, "delegate_task", agent="echo", description="y", task_id="t")

    assert here["link"] is None
    assert there["link"] == "https://me.example/tasks/t"


async def test_a_fault_of_ours_tells_nothing_of_the_inside(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    from mcp_server.sessions import Sessions

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(Sessions, "list", broken)
    async with in_memory(settings) as client:
        result = await client.call_tool("list_sessions", {})

    assert result.is_error
    assert result.structured_content is not None
    assert result.structured_content["status"] == 500
    assert "secret" not in str(result)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_desktop_host_reaches_everything_through_the_shim(server: ServerProcess, mode: str):
    async with through_shim(server, mode) as client:
        tools = await client.list_tools()
        done = await ask(client, "delegate_task", agent="echo", description="hello shim")
        git = await refused(client, "delegate_task", agent="git", params={"command": "git status"})

    assert len(tools.tools) == 15
    assert done["result"]["text"] == "hello shim"
    assert made_by(done) == {"level": "desk", "name": "desk"}
    assert git["errors"][0]["field"] == "params.command"


async def test_output_that_was_deleted_for_its_age_is_said_to_be(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "FIRST_SWEEP_SECONDS", 0)
    async with in_memory(settings) as client:
        await ask(client, "delegate_task", agent="echo", description="hello", task_id="t")
        fresh_part = (await ask(client, "get_task", task_id="t", output_offset=0))["output"]
    much_later = now_us() + 1000 * 86400 * 1_000_000
    async with in_memory(settings, now=lambda: much_later) as client, asyncio.timeout(10):
        while "expired" not in (task := await ask(client, "get_task", task_id="t", output_offset=0))["output"]:
            await asyncio.sleep(0)
        read = await client.read_resource("task://t/output")

    assert "expired" not in fresh_part
    assert (task["output"]["text"], task["output"]["size"]) == ("", 0)
    assert task["result"]["stdout"] == fresh_part["text"]
    assert read.contents[0].meta["expired"] is True
