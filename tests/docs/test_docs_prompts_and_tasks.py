"""docs/prompts.md and docs/tasks-extension.md say what the server says."""

from __future__ import annotations

import json
import re

from mcp_server.settings import Settings
from mcp_server.task_extension import WIRE_STATUS, TaskExtension
from tests.docs.pages import blocks_in, names, page, table
from tests.server.doors import in_memory
from tests.server.task_client import FollowsTasks, begin

PROMPTS = page("docs/prompts.md")
TASKS = page("docs/tasks-extension.md")


async def test_the_page_of_prompts_has_each_with_its_arguments(settings: Settings) -> None:
    async with in_memory(settings) as client:
        listed = (await client.list_prompts()).prompts

    rows = table(PROMPTS, "prompt")
    assert {names(row[0])[0]: names(row[1]) for row in rows} == {
        prompt.name: [argument.name for argument in prompt.arguments or []] for prompt in listed
    }
    required = [re.findall(r"\*\*`(\w+)`\*\*", row[1]) for row in rows]
    assert required == [
        [argument.name for argument in prompt.arguments or [] if argument.required] for prompt in listed
    ]


async def test_the_handle_on_the_page_has_the_fields_of_a_real_one(settings: Settings) -> None:
    (block,) = (block for block in blocks_in(TASKS) if block.language == "json")
    async with in_memory(settings, extensions=[FollowsTasks()]) as client:
        handle = await begin(client, agent="echo", description="x", params={"sleep": 0.8})

    shown = json.loads(block.text)
    wire = {name: value for name, value in handle.wire.items() if name != "_meta"}
    assert list(shown) == list(wire)
    assert {name: type(value) for name, value in shown.items()} == {name: type(value) for name, value in wire.items()}


def test_the_page_tells_what_each_status_becomes() -> None:
    shown = {ours: names(row[1])[0] for row in table(TASKS, "our status") for ours in names(row[0])}
    assert shown == WIRE_STATUS


def test_the_page_has_every_method() -> None:
    bound = [binding.method for binding in TaskExtension.methods(object.__new__(TaskExtension))]
    assert [names(row[0])[0] for row in table(TASKS, "method")] == bound
