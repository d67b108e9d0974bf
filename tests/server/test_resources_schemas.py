"""The schemas of records: real records of every noun are valid, and have nothing that is not declared."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from mcp import Client

from mcp_server.resources.schemas import DIALECT, SCHEMAS
from mcp_server.settings import PolicyRule, Settings
from tests.server.doors import ask, in_memory, refused
from tests.server.resource_client import read_json, read_text

BESIDE = {"say", "link", "created", "kind", "deleted"}


def closed(schema: Any) -> Any:
    """`schema`, allowing in no object what it does not declare."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    return made | ({"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {})


def assert_is(noun: str, record: dict[str, Any]) -> None:
    own = {name: value for name, value in record.items() if name not in BESIDE}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(closed(SCHEMAS[noun]), format_checker=checker).validate(own)


async def fill(client: Client) -> None:
    await ask(client, "create_session", session_id="s", title="Walks", participants=["a"], metadata={"b": {"c": 1}})
    await ask(client, "add_conversation", session_id="s", chunk_id="c", content="word", format="dialogue")
    for content in ("old", {"a": "new"}):
        await ask(
            client, "store_memory", type="fact", content=content, key="k", tags=["t"], session_id="s", memory_id="m"
        )
    await ask(client, "add_artifact", name="notes", content="x", session_id="s", artifact_id="a")


async def test_sessions_chunks_and_memories_are_as_declared(settings: Settings):
    async with in_memory(settings) as client:
        await fill(client)
        for record in (
            await read_json(client, "session://s"),
            await ask(client, "update_session", session_id="s", status="paused"),
            *(await ask(client, "list_sessions"))["items"],
        ):
            assert_is("session", record)
        assert_is("chunk", (await read_json(client, "session://s/conversation"))["items"][0])
        assert_is("chunk", await ask(client, "add_conversation", session_id="s", content="x"))
        assert_is("memory", await read_json(client, "memory://m"))
        assert_is("memory", await ask(client, "store_memory", type="idea", content="x"))
        assert_is("artifact", await ask(client, "search", id="a"))
        assert_is("artifact", await ask(client, "add_artifact", name="b", content="eA==", encoding="base64"))


@pytest.mark.parametrize(
    "order",
    [
        {"agent": "echo", "description": "hello"},
        {"agent": "echo", "params": {"ask": "really?"}},
        {"agent": "echo", "params": {"fail": "no"}, "max_attempts": 1},
        {"agent": "echo", "description": "x", "run_after": 600, "lane": "l", "priority": 3},
        {"agent": "shell", "params": {"command": ["false"]}, "task_type": "check"},
        {"agent": "codex", "description": "x"},
    ],
)
async def test_tasks_are_as_declared_whatever_became_of_them(settings: Settings, order: dict[str, Any]):
    async with in_memory(settings) as client:
        await fill(client)
        made = await ask(client, "delegate_task", session_id="s", task_id="t", **order)
        for record in (
            made,
            await read_json(client, "task://t"),
            await ask(client, "get_task", task_id="t", output_offset=0),
            await ask(client, "update_task", task_id="t", action="cancel"),
            await read_json(client, "task://t"),
        ):
            assert_is("task", record)
        assert_is("session", await read_json(client, "session://s"))


async def test_a_task_that_waits_for_approval_is_as_declared_with_its_question(settings: Settings):
    asking = settings.model_copy(update={"policy": (PolicyRule(decision="ask", agent="echo"),)})
    async with in_memory(asking) as client:
        made = await ask(client, "delegate_task", agent="echo", description="hello", task_id="t")
        shown = await read_json(client, "task://t")
        for record in (made, shown, await ask(client, "get_task", task_id="t")):
            assert record["status"] == "waiting_approval"
            assert_is("task", record)
        ended = await ask(client, "update_task", task_id="t", action="cancel")
    assert shown["approval"]["action"]["description"] == "hello"
    assert {name: shown["approval"][name] for name in made["approval"]} == made["approval"]
    assert "approval" not in ended


async def test_agents_and_errors_are_as_declared(settings: Settings):
    async with in_memory(settings) as client:
        await fill(client)
        for agent in (await ask(client, "list_agents"))["items"]:
            assert_is("agent", agent)
        for problem in (
            await refused(client, "get_task", task_id="nobody"),
            await refused(client, "create_session", session_id="s", title="Other"),
            await refused(client, "store_memory", type="fact", content="x" * 1_100_000),
        ):
            jsonschema.Draft202012Validator(closed(SCHEMAS["error"])).validate(problem)


@pytest.mark.parametrize("noun", SCHEMAS)
async def test_a_schema_is_a_valid_one_and_is_read_at_its_address(settings: Settings, noun: str):
    async with in_memory(settings) as client:
        contents = await read_text(client, f"schema://{noun}")

    assert contents.mime_type == "application/schema+json"
    schema = json.loads(contents.text)
    assert schema == SCHEMAS[noun]
    assert schema["$schema"] == DIALECT
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("noun", SCHEMAS)
def test_what_is_not_declared_would_be_seen(noun: str):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(closed(SCHEMAS[noun])).validate({"surprise": 1})
