"""`resources/list` and the templates: all that can be read, in order, page by page, while things go on."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from datetime import datetime
from urllib.parse import unquote

import pytest
from mcp import Client, MCPError
from mcp_types import PaginatedRequestParams

from mcp_server.callers import DESK, calling_as
from mcp_server.runtime import Runtime
from mcp_server.server import build_server
from mcp_server.settings import Settings
from tests.hosting import hosted
from tests.server.doors import Door, ask, in_memory
from tests.server.resource_client import pages, read, uris
from tests.server.test_tools import fresh
from tests.store.house import new_task

AGENTS = ["git", "shell", "files", "echo", "claude_code", "codex", "gemini"]
SCHEMAS = ["session", "chunk", "memory", "task", "artifact", "agent", "error"]


@pytest.fixture
async def client(runtime: Runtime) -> AsyncGenerator[Client]:
    with calling_as(DESK):
        async with hosted(Client(build_server(runtime))) as opened:
            yield opened


async def test_the_list_goes_kind_by_kind_and_newest_first(settings: Settings):
    async with in_memory(settings) as client:
        for number in (1, 2):
            await ask(client, "create_session", session_id=f"ses_{number}", title="Walk")
            await ask(client, "delegate_task", agent="echo", description="Walk", task_id=f"task_{number}")
            await ask(client, "store_memory", type="fact", content=f"walk {number}", memory_id=f"mem_{number}")
            await ask(client, "add_artifact", name="walk.txt", content="x", artifact_id=f"art_{number}")
        listed = await uris(client)

    assert listed == [
        *(f"agent://{name}" for name in AGENTS),
        "session://ses_2",
        "session://ses_1",
        "task://task_2",
        "task://task_2/output",
        "task://task_1",
        "task://task_1/output",
        "memory://mem_2",
        "memory://mem_1",
        "artifact://art_2",
        "artifact://art_1",
        *(f"schema://{name}" for name in SCHEMAS),
    ]


async def test_what_is_put_away_or_superseded_or_deleted_is_not_listed(settings: Settings):
    async with in_memory(settings) as client:
        for name in ("ses_kept", "ses_archived", "ses_deleted"):
            await ask(client, "create_session", session_id=name, title="Walk")
        await ask(client, "update_session", session_id="ses_archived", status="archived")
        await ask(client, "delete", session_id="ses_deleted")
        for content in ("old", "new"):
            await ask(client, "store_memory", type="fact", content=content, key="k", memory_id="mem_kept")
        listed = [uri for uri in await uris(client) if uri.startswith(("session:", "memory:"))]
        await read(client, "session://ses_archived")

    assert listed == ["session://ses_kept", "memory://mem_kept"]


async def test_every_listed_resource_can_be_read_and_is_what_the_list_says(connect: Door):
    session, artifact = fresh("ses"), fresh("art")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session, title="A walk\nalong   the river")
        await ask(client, "add_artifact", name="é.md", content="# é", type="text/markdown", artifact_id=artifact)
        task = await ask(client, "delegate_task", agent="echo", description="x" * 500)
        found = {str(each.uri): each for page in await pages(client) for each in page}
        ours = [f"session://{session}", f"artifact://{artifact}", f"task://{task['id']}", f"task://{task['id']}/output"]
        ours += ["agent://echo", "schema://memory"]
        contents = {uri: await read(client, uri) for uri in ours}

    for uri in ours:
        listed = found[uri]
        assert listed.mime_type == contents[uri].mime_type
        assert listed.title is not None
        assert re.fullmatch(r"[^\n\t]{1,130}", listed.title)
        assert listed.description
        assert listed.name
        if uri.startswith(("session", "artifact", "task")):
            assert listed.annotations is not None
            assert listed.annotations.last_modified is not None
            datetime.fromisoformat(listed.annotations.last_modified)
        if listed.size is not None:
            assert contents[uri].meta is not None
            assert listed.size == contents[uri].meta["size"], uri
    assert found[f"session://{session}"].title == "A walk along the river"
    assert found[f"artifact://{artifact}"].size == 4
    assert found[f"task://{task['id']}/output"].size == task["result"]["stdout_bytes"] > 0


async def test_the_size_of_an_output_is_told_when_it_will_not_change(settings: Settings):
    async with in_memory(settings) as client:
        await ask(client, "delegate_task", agent="echo", description="x", task_id="later", run_after=600)
        sizes = {each.uri: each.size for page in await pages(client) for each in page}

    assert sizes["task://later/output"] is None


async def fill(runtime: Runtime, count: int) -> None:
    with calling_as(DESK):
        for number in range(count):
            await runtime.sessions.create(id=f"s{number:04}", title="Walk")
            await runtime.tasks.create(new_task(f"walk {number}", agent="git", run_after=2**60), id=f"t{number:04}")
            await runtime.memories.store(type="fact", content="x", id=f"m{number:04}")


async def test_pages_hold_at_most_a_hundred_and_nothing_is_lost_between_them(runtime: Runtime, client: Client):
    await fill(runtime, 150)
    sizes = [len(page) for page in await pages(client)]
    listed = await uris(client)

    assert max(sizes) == 100
    assert min(sizes[:-1]) >= 99  # a task and its output stay on one page
    assert len(set(listed)) == len(listed) == len(AGENTS) + 4 * 150 + len(SCHEMAS)
    assert [uri for uri in listed if uri.startswith("session")] == [f"session://s{n:04}" for n in reversed(range(150))]


@pytest.mark.parametrize("count", [31, 32, 94, 95, 100])
async def test_a_page_may_end_where_a_kind_does(runtime: Runtime, client: Client, count: int):
    await fill(runtime, count)
    found = await pages(client)
    listed = [each.uri for page in found for each in page]

    assert all(found)
    assert len(set(listed)) == len(listed) == len(AGENTS) + 4 * count + len(SCHEMAS)


async def test_what_comes_and_goes_between_two_pages_moves_nothing(runtime: Runtime, client: Client):
    await fill(runtime, 60)
    first = await client.session.list_resources(params=PaginatedRequestParams())
    await fill_more(runtime)
    listed = [each.uri for each in first.resources]
    cursor = first.next_cursor
    while cursor is not None:
        page = await client.session.list_resources(params=PaginatedRequestParams(cursor=cursor))
        listed += [each.uri for each in page.resources]
        cursor = page.next_cursor

    assert len(set(listed)) == len(listed)
    assert [uri for uri in listed if uri.startswith("session")] == [f"session://s{n:04}" for n in reversed(range(60))]
    assert "memory://m0000" not in listed
    assert "memory://m0001" in listed


async def fill_more(runtime: Runtime) -> None:
    with calling_as(DESK):
        for number in range(20):
            await runtime.sessions.create(id=f"new{number}", title="Walk")
            await runtime.tasks.create(new_task(f"new {number}", agent="git", run_after=2**60), id=f"newt{number}")
        await runtime.memories.delete("m0000")


@pytest.mark.parametrize(
    "cursor", ["", "nonsense", "W10", "WzEsMl0", "Wy0xXQ", "WyJhIl0", "WzFlOTld", "x" * 10_000, "\x00", "W251bGxd"]
)
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_cursor_that_is_none_of_ours_is_refused(settings: Settings, cursor: str, mode: str):
    async with in_memory(settings, mode) as client:
        for listing in (client.session.list_resources, client.session.list_resource_templates):
            with pytest.raises(MCPError) as caught:
                await listing(params=PaginatedRequestParams(cursor=cursor))
            assert caught.value.code == -32602
            assert caught.value.data["errors"][0]["field"] == "cursor"


async def test_the_list_is_never_taken_for_fresh(settings: Settings):
    async with in_memory(settings) as client:
        listed = await client.session.list_resources(params=PaginatedRequestParams())

    assert (listed.ttl_ms, listed.cache_scope) == (0, "private")


async def test_each_template_makes_an_address_that_can_be_read(connect: Door):
    session, memory, artifact, task = fresh("ses"), fresh("mem"), fresh("art"), fresh("task")
    given = {"agent": "git", "schema": "chunk", "session_id": session, "memory_id": memory, "artifact_id": artifact,
             "task_id": task}  # fmt: skip
    query = {"offset": "0", "length": "10", "stream": "stdout", "cursor": None, "limit": "1"}
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session, title="Walk")
        await ask(client, "store_memory", type="fact", content="x", memory_id=memory)
        await ask(client, "add_artifact", name="x", content="x", artifact_id=artifact)
        await ask(client, "delegate_task", agent="echo", description="x", task_id=task)
        templates = (await client.list_resource_templates()).resource_templates
        for template in templates:
            path, _, names = template.uri_template.rstrip("}").partition("{?")
            bare = path.format(**given)
            asked = "&".join(f"{name}={query[name]}" for name in names.split(",") if query[name] is not None)
            for uri in (bare, f"{bare}?{asked}"):
                contents = await read(client, uri)
                assert template.mime_type in (None, contents.mime_type)
            assert template.title
            assert template.description

    assert [template.name for template in templates] == [
        "session", "conversation", "task", "output", "memory", "artifact", "agent", "schema",
    ]  # fmt: skip


async def test_an_id_that_a_uri_cannot_hold_is_quoted_in_the_list(settings: Settings):
    async with in_memory(settings) as client:
        await ask(client, "create_session", session_id="a:b", title="Walk")
        (uri,) = [uri for uri in await uris(client) if uri.startswith("session")]
        await read(client, uri)

    assert uri == "session://a%3Ab"
    assert unquote(uri) == "session://a:b"
