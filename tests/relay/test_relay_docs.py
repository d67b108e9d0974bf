"""Every JSON block of the users' page is valid: requests are understood, answers have the form of answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay_adapter.answers import TRANSIENT_STATUSES
from relay_adapter.commands import COMMANDS
from relay_adapter.envelope import MAX_BATCH_COMMANDS, read_order
from relay_adapter.settings import RelaySettings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "webhooks.md").read_text("utf-8")
EXAMPLES = {path.stem: path.read_text("utf-8").strip() for path in (DOCS / "examples").glob("*.json")}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def documents(block: str) -> list[Any]:
    """A block may show several, one after another."""
    decoder, found, position = json.JSONDecoder(), list[Any](), 0
    while block[position:].strip():
        position += len(block[position:]) - len(block[position:].lstrip())
        document, position = decoder.raw_decode(block, position)
        found.append(document)
    return found


JSON_BLOCKS = [document for block in blocks("json") for document in documents(block)]


@pytest.mark.parametrize("document", JSON_BLOCKS, ids=lambda document: str(sorted(document))[:60])
def test_every_json_block_is_a_request_that_is_understood_or_an_answer(document: Any) -> None:
    if "ok" in document:
        assert document["say"]
        if document["ok"]:
            assert "result" in document or "results" in document
        elif "results" not in document:
            assert {"type", "title", "status", "detail", "errors"} <= set(document)
    else:
        assert read_order(document, "claude_code").calls


def test_the_page_shows_requests_and_answers() -> None:
    answers = [document for document in JSON_BLOCKS if "ok" in document]
    assert len(answers) >= 4
    assert len(JSON_BLOCKS) - len(answers) >= 9


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_is_shown_or_named(name: str) -> None:
    assert EXAMPLES[name] in PAGE or f"examples/{name}.json" in PAGE


@pytest.mark.parametrize(
    "name",
    [
        "create_session", "conversation_chunk", "store_memory", "delegate_task", "batch", "voice_delegate_task",
        "task_command", "webhook", "text",
    ],
)  # fmt: skip
def test_every_form_of_the_design_is_shown_as_it_is(name: str) -> None:
    assert EXAMPLES[name] in PAGE


def test_every_command_has_its_row() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)`", PAGE, re.MULTILINE))
    assert rows == {name: command.tool for name, command in COMMANDS.items()}


def test_every_row_names_the_fields_of_its_command() -> None:
    for name, command in COMMANDS.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        cell = row.split("|")[3]
        assert set(re.findall(r"`(\w+)`", cell)) == set(command.names()), name
        assert set(re.findall(r"\*\*`(\w+)`\*\*", cell)) == {each.name for each in command.fields if each.required}, (
            name
        )


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    settings = RelaySettings(public_url=None, default_agent="claude_code")
    assert f"{settings.body_limit_bytes // 2**20} MiB" in PAGE
    assert f"`?wait=` takes 0 to {settings.max_wait_seconds:g} seconds" in PAGE
    assert f"{settings.wait_seconds:g} seconds" in PAGE
    assert f"{MAX_BATCH_COMMANDS} commands" in PAGE
    assert all(status >= 400 for status in TRANSIENT_STATUSES)


def test_the_bodies_of_the_curl_commands_are_understood() -> None:
    bodies = re.findall(r"-d '(\{.*?\})'", "\n".join(blocks("sh")), re.DOTALL)
    assert bodies
    for body in bodies:
        assert read_order(json.loads(body), "claude_code").calls


def test_the_page_holds_no_absolute_path_of_a_machine() -> None:
    assert not re.search(r"/(?:home|work|root|Users)/", PAGE)
