"""docs/resources.md says what the server says."""

from __future__ import annotations

import json
import re

from mcp_types import TextResourceContents

from mcp_server.catalogue import CHOICES_LIMIT, WINDOW
from mcp_server.resources.completion import RECORD_ARGUMENTS
from mcp_server.resources.parts import PART_LIMIT_BYTES, Part, Span
from mcp_server.resources.schemas import SCHEMAS
from mcp_server.resources.templates import TEMPLATES
from mcp_server.values import PAGE_LIMIT
from tests.docs.pages import blocks_in, names, page, section, table

PAGE = page("docs/resources.md")


def test_the_page_has_every_template_with_its_type_and_query() -> None:
    rows = [(names(row[0])[0], names(row[2]), names(row[3])) for row in table(PAGE, "address")]
    templates = [(each.uri_template.rstrip("}").partition("{?"), each.mime_type) for each in TEMPLATES]
    assert rows == [
        (path if query else f"{path}}}", [mime_type] if mime_type else [], query.split(",") if query else [])
        for (path, _, query), mime_type in templates
    ]


def test_the_page_names_every_schema() -> None:
    (sentence,) = re.findall(r"The schemas are ([^.]+)\.", PAGE)
    assert names(sentence) == list(SCHEMAS)


def test_the_part_on_the_page_is_one_that_is_sent() -> None:
    (block,) = blocks_in(section(PAGE, "## Reading in parts"))
    shown = json.loads(block.text)
    contents = TextResourceContents.model_validate(shown)
    text, facts = Part(Span(shown["_meta"]["offset"]), contents.text.encode(), shown["_meta"]["size"]).text()
    assert (text, facts) == (contents.text, shown["_meta"])
    described = [names(row[0])[0] for row in table(PAGE, "name")]
    assert described == ["offset", "nextOffset", "size", "complete"]
    assert set(Part(Span(), b"", 1).facts()) == set(described)


def test_the_page_has_every_argument_that_is_completed() -> None:
    shown = [name for row in table(PAGE, "argument") for name in names(row[0])]
    assert shown == [*RECORD_ARGUMENTS, "agent", "workspace", "schema", "stream"]


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    assert PART_LIMIT_BYTES == 1024 * 1024
    assert "One read answers at most 1 MiB" in PAGE
    assert f"A page has at most {PAGE_LIMIT};" in PAGE
    assert f"At most {CHOICES_LIMIT} values" in PAGE
    assert f"the newest {WINDOW:,} of a kind" in PAGE
