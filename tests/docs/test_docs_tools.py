"""docs/tools.md is in step with the tools: arguments, answers, records, states, errors, limits."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from mcp_server import problems, values
from mcp_server.agents import echo
from mcp_server.agents.registry import all_agents
from mcp_server.callers import DESK, calling_as
from mcp_server.delegation import ATTEMPTS_LIMIT, DELAY_LIMIT_SECONDS, MAX_ATTEMPTS, TIMEOUT_LIMIT_SECONDS
from mcp_server.errors import NotFoundError
from mcp_server.executor.results import TAIL_LIMIT_BYTES
from mcp_server.executor.retry import DELAY_LIMIT_SECONDS as BACKOFF_LIMIT_SECONDS
from mcp_server.executor.retry import FIRST_DELAY_SECONDS
from mcp_server.runtime import Runtime
from mcp_server.server import tool_specs
from mcp_server.settings import Settings
from mcp_server.tasks import PRIORITY_LIMIT, TRANSITIONS
from mcp_server.tools.door import ToolSpec, compact_schema
from mcp_server.tools.output import PART_LIMIT_BYTES
from mcp_server.transports.connection import MAX_ANSWER_BYTES
from mcp_server.transports.intake import MAX_IN_FLIGHT
from mcp_server.transports.messages import MAX_LINE_BYTES
from mcp_server.web.mcp_endpoint import BODY_LIMIT_BYTES as MCP_BODY_LIMIT_BYTES
from tests.docs.pages import ROOT, blocks_in, documents, names, page, section, table

PAGE = page("docs/tools.md")
TOOLS = re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)
BESIDE = {"say", "link", "created"}


@pytest.fixture
def specs(runtime: Runtime) -> dict[str, ToolSpec]:
    return {spec.name: spec for spec in tool_specs(runtime)}


@pytest.fixture
async def answers(specs: dict[str, ToolSpec]) -> dict[str, dict[str, Any]]:
    """What the tools answer to the examples of the page, called one after another in its order."""
    with calling_as(DESK):
        return {name: await specs[name].call(examples(name)[0]) for name in TOOLS}


def examples(name: str) -> list[dict[str, Any]]:
    text = section(PAGE, f"### `{name}`")
    return [document for block in blocks_in(text) if block.language == "json" for document in documents(block.text)]


async def test_the_page_has_exactly_the_tools_of_the_server(specs: dict[str, ToolSpec]) -> None:
    assert sorted(TOOLS) == sorted(specs)
    assert len(TOOLS) == 15


@pytest.mark.parametrize("name", TOOLS)
async def test_a_tool_has_exactly_the_arguments_scope_and_limits_of_its_table(
    name: str, specs: dict[str, ToolSpec]
) -> None:
    text = section(PAGE, f"### `{name}`")
    schema = compact_schema(specs[name].arguments)
    rows = table(text, "argument") if "| argument |" in text else []
    assert {names(row[0])[0] for row in rows} == set(schema["properties"])
    assert {names(row[0])[0] for row in rows if row[0].startswith("**")} == set(schema.get("required", []))
    assert re.search(r"[Ss]cope\s+`(\w+)`", text).group(1) == specs[name].scope  # type: ignore[union-attr]
    for row in rows:
        field = schema["properties"][names(row[0])[0]]
        if "enum" in field and len(field["enum"]) < 6:
            assert names(row[1]) == field["enum"], row
        if "maximum" in field:
            assert row[1] == f"{field.get('minimum', 0)} to {field['maximum']}", row
        if (default := field.get("default")) is not None:
            assert re.search(rf"; `?{default:g}`?$" if not isinstance(default, str) else f"; `{default}`$", row[2]), row


async def test_the_examples_work_and_their_answers_have_the_shape_that_is_shown(
    answers: dict[str, dict[str, Any]],
) -> None:
    shown = {name: examples(name)[1] for name in TOOLS if len(examples(name)) > 1}
    assert set(shown) == {"create_session", "delegate_task"}
    for name, answer in shown.items():
        assert shape(answers[name]) == shape(answer), name
        assert answers[name]["say"] == answer["say"]
    assert answers["search"]["items"][0]["key"] == "map"
    assert answers["list_tasks"]["items"][0]["id"] == "praise"
    assert answers["continue_task"]["continues"] == "praise"


def shape(value: Any) -> Any:
    """The names of every object in `value`, and what kinds of values they have."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return None if value is None else type(value).__name__


async def test_the_records_have_exactly_the_fields_of_their_tables(
    specs: dict[str, ToolSpec], answers: dict[str, dict[str, Any]]
) -> None:
    async def in_full(**arguments: Any) -> dict[str, Any]:
        with calling_as(DESK):
            return await specs["search"].call(arguments)

    added = {"artifact_id": "again", "name": "again.txt", "content": "again"}
    with calling_as(DESK):
        await specs["add_artifact"].call(added)
    memory = await in_full(id=answers["store_memory"]["id"])
    task = answers["get_task"]
    records = {
        "Session": answers["update_session"],
        "Chunk": await in_full(id="monday", kind="conversation", session_id="walks"),
        "Memory": {name: value for name, value in memory.items() if name != "earlier_versions"},
        "Artifact": await in_full(id="again", kind="artifact"),
        "Task": {name: value for name, value in task.items() if name not in ("attempts", "output")},
        "Result": task["result"],
        "Attempt": task["attempts"][0],
        "Agent": answers["list_agents"]["items"][0],
    }
    for title, record in records.items():
        fields = [names(row[0])[0] for row in table(section(PAGE, f"### {title}"), "field")]
        assert set(fields) == set(record) - BESIDE - {"kind"}, title
    assert re.findall(r"^### ([A-Z]\w+)$", section(PAGE, "## Records"), re.MULTILINE) == list(records)


async def test_a_session_and_its_output_have_the_fields_of_their_tables(answers: dict[str, dict[str, Any]]) -> None:
    rows = {names(row[0])[0]: names(row[1]) for row in table(section(PAGE, "### `get_session`"), "field")}
    assert set(answers["get_session"]) - set(answers["create_session"]) == set(rows)
    assert set(rows["counts"]) == set(answers["get_session"]["counts"])
    output = {name for row in table(section(PAGE, "### `get_task`"), "field") for name in names(row[0])}
    assert output == set(answers["get_task"]["output"])


async def test_the_latest_records_of_a_session_have_the_fields_that_are_listed(
    specs: dict[str, ToolSpec], answers: dict[str, dict[str, Any]]
) -> None:
    with calling_as(DESK):
        await specs["add_artifact"].call({"name": "map.txt", "content": "x", "session_id": "walks"})
        summary = await specs["get_session"].call({"session_id": "walks"})
    rows = {names(row[0])[0]: names(row[1]) for row in table(section(PAGE, "### `get_session`"), "field")}
    for name, fields in rows.items():
        if name != "counts":
            assert set(summary[name][0]) == set(fields), name


async def test_the_hits_of_a_search_have_the_fields_that_are_listed(
    specs: dict[str, ToolSpec], answers: dict[str, dict[str, Any]]
) -> None:
    rows = {names(row[0])[0]: names(row[1]) for row in table(section(PAGE, "### `search`"), "kind")}
    with calling_as(DESK):
        await specs["add_artifact"].call({"name": "map.txt", "content": "x"})
        for kind, fields in rows.items():
            hit = (await specs["search"].call({"kind": kind}))["items"][0]
            assert set(hit) - {"kind", "title", "excerpt"} == set(fields), kind


async def test_the_error_that_is_shown_is_the_error_that_comes(specs: dict[str, ToolSpec]) -> None:
    (shown,) = documents(blocks_in(section(PAGE, "## Errors"))[0].text)
    with calling_as(DESK), pytest.raises(NotFoundError) as caught:
        await specs["get_task"].call({"task_id": "nowhere"})
    assert problems.problem(caught.value) == shown


def test_the_tables_of_states_and_errors_are_those_of_the_code() -> None:
    states = table(section(PAGE, "## States and reasons"), "status")
    assert [names(row[0])[0] for row in states] == list(TRANSITIONS)
    errors = table(section(PAGE, "## Errors"), "status")
    shown = [(int(row[0]), names(row[1])[0]) for row in errors]
    assert shown == sorted((status, name) for _, status, name, _ in problems._KINDS)


def reasons_given() -> set[str]:
    """Every word that the code passes on as `reason`, by name or as the third argument of `failed`."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "mcp_server").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    values = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "reason"]
    values += [call.args[2] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "failed"]
    words = [value for value in values if isinstance(value, ast.Constant)]
    for value in values:
        if isinstance(value, ast.IfExp):
            words += [each for each in (value.body, value.orelse) if isinstance(each, ast.Constant)]
    return {word.value for word in words if isinstance(word.value, str)}


def test_the_table_of_reasons_has_every_reason_that_the_code_gives() -> None:
    documented = {names(row[0])[0] for row in table(section(PAGE, "## States and reasons"), "reason")}
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "mcp_server").rglob("*.py"))
    given = reasons_given() - {"cancelled"}  # of an attempt; its task keeps who asked
    assert len(given) > 5
    assert given <= documented
    assert {reason for reason in documented if f'"{reason}"' not in sources} == set()


def test_the_table_of_the_agents_is_that_of_the_registry() -> None:
    rows = table(section(PAGE, "## What the agents take"), "agent")
    shown = {name: row for row in rows for name in names(row[0])}
    agents = {agent.name: agent for agent in all_agents(Settings(), list[Path])}
    assert list(shown) == list(agents)
    for name, row in shown.items():
        assert row[2] == f"{agents[name].default_timeout_seconds:g} s"
    assert set(names(shown["echo"][1])) == set(echo._READERS)
    assert f"up to {echo.SLEEP_SECONDS:g}" in shown["echo"][1]
    assert f"up to {echo.LINES:,}" in shown["echo"][1]


def test_the_limits_are_those_of_the_code() -> None:
    rows = {row[0]: row[1] for row in table(section(PAGE, "## Limits"), "what")}
    kib, mib = 1024, 1024 * 1024
    assert rows["titles, names, keys, types, tags and other short texts"] == f"{values.LABEL_LIMIT_BYTES} bytes"
    assert rows["a list of tags or participants"] == str(values.LIST_LIMIT)
    assert rows["`metadata`"] == f"{values.METADATA_LIMIT_BYTES // kib} KiB"
    assert rows["`content`, `description`, `params`, `message`"] == f"{values.CONTENT_LIMIT_BYTES // mib} MiB"
    assert rows["a request to `/mcp`"] == f"{MCP_BODY_LIMIT_BYTES // mib} MiB"
    assert rows["a line over the socket"] == f"{MAX_LINE_BYTES // mib} MiB"
    assert rows["an answer over the socket"] == f"{MAX_ANSWER_BYTES // mib} MiB"
    at_once = rows["requests that run at once on one connection to the socket"]
    assert at_once == f"{MAX_IN_FLIGHT}; more wait for their turn"
    for text in (
        f"at most {PART_LIMIT_BYTES // kib} KiB",
        f"the last {TAIL_LIMIT_BYTES // kib} KiB",
        f"up to {TIMEOUT_LIMIT_SECONDS} ({TIMEOUT_LIMIT_SECONDS // 86400} days)",
        f"1 to {ATTEMPTS_LIMIT} | {MAX_ATTEMPTS};",
        f"at most {DELAY_LIMIT_SECONDS // 86400} days ahead",
        f"-{PRIORITY_LIMIT} to {PRIORITY_LIMIT}",
        f"about {FIRST_DELAY_SECONDS:g} seconds, doubled each time, {BACKOFF_LIMIT_SECONDS / 60:g} minutes at most",
    ):
        assert text in PAGE, text
