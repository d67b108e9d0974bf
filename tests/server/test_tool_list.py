"""What a client sees before it calls anything: the tools, their cost, and the instructions."""

from __future__ import annotations

import json
from typing import Any

from mcp_server.settings import Settings
from tests.server.doors import Door, ask, in_memory, refused

NAMES = [
    "create_session",
    "get_session",
    "list_sessions",
    "update_session",
    "delete",
    "add_conversation",
    "store_memory",
    "search",
    "add_artifact",
    "delegate_task",
    "get_task",
    "list_tasks",
    "update_task",
    "continue_task",
    "list_agents",
]
"""Of DESIGN §4."""

READING = {"get_session", "list_sessions", "search", "get_task", "list_tasks", "list_agents"}
DESTRUCTIVE = {"delete", "delegate_task", "update_task", "continue_task"}
IDEMPOTENT = READING | {
    "create_session",
    "update_session",
    "add_conversation",
    "store_memory",
    "add_artifact",
    "update_task",
}
LIST_LIMIT_CHARACTERS = 16_000
INSTRUCTIONS_LIMIT_CHARACTERS = 2_000


async def listed(client: Any) -> list[dict[str, Any]]:
    answer = await client.list_tools()
    assert answer.next_cursor is None
    return [tool.model_dump(by_alias=True, exclude_none=True) for tool in answer.tools]


async def test_every_door_lists_the_fifteen_tools_of_the_contract(connect: Door):
    async with connect.open() as client:
        tools = await listed(client)

    assert sorted(tool["name"] for tool in tools) == sorted(NAMES)


async def test_the_whole_tool_list_costs_at_most_its_budget(connect: Door):
    async with connect.open() as client:
        answer = await client.list_tools()

    wire = answer.model_dump_json(by_alias=True, exclude_none=True)
    assert len(wire) <= LIST_LIMIT_CHARACTERS
    assert len(wire) > 1000


async def test_every_tool_has_a_title_and_says_what_it_may_change(settings: Settings):
    async with in_memory(settings) as client:
        tools = {tool["name"]: tool for tool in await listed(client)}

    for name, tool in tools.items():
        hints = tool["annotations"]
        assert tool["title"], name
        assert len(tool["description"]) > 15, name
        assert hints["readOnlyHint"] is (name in READING), name
        assert hints["destructiveHint"] is (name in DESTRUCTIVE), name
        assert hints["idempotentHint"] is (name in IDEMPOTENT), name


async def test_every_tool_has_typed_input_that_closes_and_the_one_output_schema(settings: Settings):
    async with in_memory(settings) as client:
        tools = await listed(client)

    for tool in tools:
        schema = tool["inputSchema"]
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False, tool["name"]
        for name, field in schema["properties"].items():
            assert {"type", "enum", "anyOf"} & set(field), f"{tool['name']}.{name}: {field}"
    assert {json.dumps(tool["outputSchema"], sort_keys=True) for tool in tools} == {
        json.dumps(tools[0]["outputSchema"], sort_keys=True)
    }
    assert set(tools[0]["outputSchema"]["properties"]) == {"say", "link"}
    assert tools[0]["outputSchema"].get("additionalProperties", True) is True


async def test_the_arguments_are_called_as_in_the_contract(settings: Settings):
    async with in_memory(settings) as client:
        tools = {tool["name"]: set(tool["inputSchema"]["properties"]) for tool in await listed(client)}

    assert tools == {
        "create_session": {"session_id", "title", "participants", "metadata"},
        "get_session": {"session_id"},
        "list_sessions": {"status", "query", "include_archived", "limit", "cursor"},
        "update_session": {"session_id", "title", "participants", "metadata", "status"},
        "delete": {"session_id", "memory_id", "artifact_id"},
        "add_conversation": {"session_id", "content", "chunk_id", "format"},
        "store_memory": {"type", "content", "key", "tags", "session_id", "memory_id"},
        "search": {"query", "kind", "type", "tag", "session_id", "id", "limit", "cursor"},
        "add_artifact": {"name", "content", "type", "encoding", "session_id", "task_id", "artifact_id"},
        "delegate_task": {
            "agent",
            "description",
            "params",
            "workspace",
            "working_dir",
            "session_id",
            "task_id",
            "task_type",
            "priority",
            "lane",
            "run_after",
            "timeout_seconds",
            "max_attempts",
            "wait",
        },
        "get_task": {"task_id", "wait", "output_offset", "stream"},
        "list_tasks": {"status", "agent", "session_id", "lane", "query", "limit", "cursor"},
        "update_task": {"task_id", "action", "priority", "lane", "wait"},
        "continue_task": {"task_id", "message", "new_task_id", "wait"},
        "list_agents": set(),
    }


async def test_no_tool_can_approve_anything(settings: Settings):
    async with in_memory(settings) as client:
        text = json.dumps(await listed(client)).lower()

    assert "approve" not in text.replace("waiting_approval", "")


async def test_the_instructions_fit_and_speak_of_every_tool(connect: Door):
    async with connect.open() as client:
        instructions = client.instructions
        name = client.server_info.name

    assert name == "offhand"
    assert instructions is not None
    assert len(instructions) <= INSTRUCTIONS_LIMIT_CHARACTERS
    missing = [tool for tool in NAMES if tool not in instructions]
    assert not missing


async def test_an_unknown_argument_is_an_error_of_every_tool_that_names_it(settings: Settings):
    async with in_memory(settings) as client:
        for tool in NAMES:
            error = await refused(client, tool, sesion_id="s")

            assert error["status"] == 422, tool
            issue = next(issue for issue in error["errors"] if issue["field"] == "sesion_id")
            assert "no such argument" in issue["message"], tool
            assert ("takes none" if tool == "list_agents" else "Known are: ") in issue["fix"], tool


async def test_a_misspelt_argument_is_told_the_right_spelling(connect: Door):
    async with connect.open() as client:
        error = await refused(client, "create_session", titel="x")

    assert error["errors"][0]["field"] == "titel"
    assert "title" in error["errors"][0]["fix"]


async def test_agent_name_is_another_word_for_agent(connect: Door):
    async with connect.open() as client:
        made = await ask(client, "delegate_task", agent_name="echo", description="hello")
        found = await ask(client, "list_tasks", agent_name="echo", limit=1)

    assert made["agent"] == "echo"
    assert found["items"][0]["id"] == made["id"]


WRONG_TYPES = [
    ("create_session", {"title": 7}, "title"),
    ("create_session", {"participants": "me"}, "participants"),
    ("create_session", {"participants": [1]}, "participants.0"),
    ("create_session", {"metadata": []}, "metadata"),
    ("get_session", {}, "session_id"),
    ("get_session", {"session_id": None}, "session_id"),
    ("list_sessions", {"limit": "7"}, "limit"),
    ("list_sessions", {"limit": 0}, "limit"),
    ("list_sessions", {"limit": 101}, "limit"),
    ("list_sessions", {"status": "gone"}, "status"),
    ("list_sessions", {"include_archived": 1}, "include_archived"),
    ("list_sessions", {"cursor": "???"}, "cursor"),
    ("delegate_task", {}, "agent"),
    ("delegate_task", {"agent": "echo", "params": []}, "params"),
    ("delegate_task", {"agent": "echo", "priority": 1.5}, "priority"),
    ("delegate_task", {"agent": "echo", "priority": 10**30}, "priority"),
    ("delegate_task", {"agent": "echo", "wait": 46}, "wait"),
    ("delegate_task", {"agent": "echo", "wait": -1}, "wait"),
    ("delegate_task", {"agent": "echo", "wait": "10"}, "wait"),
    ("delegate_task", {"agent": "echo", "timeout_seconds": 0}, "timeout_seconds"),
    ("delegate_task", {"agent": "echo", "timeout_seconds": -1}, "timeout_seconds"),
    ("delegate_task", {"agent": "echo", "timeout_seconds": 1e9}, "timeout_seconds"),
    ("delegate_task", {"agent": "echo", "max_attempts": 0}, "max_attempts"),
    ("delegate_task", {"agent": "echo", "max_attempts": 21}, "max_attempts"),
    ("delegate_task", {"agent": "echo", "run_after": "tomorrow"}, "run_after"),
    ("delegate_task", {"agent": "echo", "run_after": -1}, "run_after"),
    ("delegate_task", {"agent": "echo", "run_after": 1e12}, "run_after"),
    ("delegate_task", {"agent": "echo", "run_after": "9999-12-31T23:59:59Z"}, "run_after"),
    ("delegate_task", {"agent": "echo", "lane": ""}, "lane"),
    ("delegate_task", {"agent": "nobody"}, "agent"),
    ("delegate_task", {"agent": ""}, "agent"),
    ("get_task", {"task_id": True}, "task_id"),
    ("get_task", {"task_id": "1", "wait": 45.5}, "wait"),
    ("get_task", {"task_id": "1", "output_offset": -1}, "output_offset"),
    ("get_task", {"task_id": "1", "stream": "stdin"}, "stream"),
    ("update_task", {"task_id": "1"}, "action"),
    ("update_task", {"task_id": "1", "action": "stop"}, "action"),
    ("update_task", {"task_id": "1", "wait": 46}, "wait"),
    ("continue_task", {"task_id": "1"}, "message"),
    ("continue_task", {"task_id": "1", "message": "x", "wait": 46}, "wait"),
    ("store_memory", {"type": "idea", "content": 5}, "content"),
    ("store_memory", {"content": "x"}, "type"),
    ("search", {"kind": "everything"}, "kind"),
    ("add_artifact", {"name": "a", "content": "x", "encoding": "gzip"}, "encoding"),
]


async def test_a_value_that_cannot_be_used_is_an_error_that_names_its_field(settings: Settings):
    async with in_memory(settings) as client:
        for tool, arguments, field in WRONG_TYPES:
            error = await refused(client, tool, **arguments)

            assert (error["status"], error["errors"][0]["field"]) == (422, field), (tool, arguments, error)
        tasks = await ask(client, "list_tasks")

    assert tasks["items"] == []


async def test_several_wrong_arguments_are_all_named_at_once(settings: Settings):
    async with in_memory(settings) as client:
        error = await refused(client, "delegate_task", agnt="git", priority="high", wait=100)

    assert {issue["field"] for issue in error["errors"]} >= {"agnt", "priority", "wait", "agent"}


async def test_an_unknown_tool_is_an_error_of_the_protocol_or_the_tool_but_no_answer(connect: Door):
    from mcp import MCPError

    async with connect.open() as client:
        try:
            result = await client.call_tool("approve", {})
        except MCPError:
            return

    assert result.is_error
