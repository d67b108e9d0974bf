"""Reading resources: every kind, in parts, in both protocol eras; and what cannot be read."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from mcp import MCPError
from mcp_types import BlobResourceContents

from mcp_server.callers import DESK
from mcp_server.settings import Settings
from tests.server.doors import Door, ask, in_memory
from tests.server.resource_client import read, read_json, read_refused, read_text
from tests.server.test_tools import fresh

MIB = 1024 * 1024
WHOLE = {"offset": 0, "complete": True}
RECORD = {"say", "link", "created", "kind", "output"}


async def test_a_record_reads_as_the_tools_answer_it(connect: Door):
    session, memory, task = fresh("ses"), fresh("mem"), fresh("task")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session, title="Größe", metadata={"a": [1, None]})
        await ask(
            client, "store_memory", type="fact", content={"b": "ü"}, memory_id=memory, key="k", session_id=session
        )
        await ask(client, "store_memory", type="fact", content="new", key="k", session_id=session)
        await ask(client, "delegate_task", agent="echo", description="hello", task_id=task, session_id=session)
        answers = {
            f"session://{session}": await ask(client, "get_session", session_id=session),
            f"memory://{memory}": await ask(client, "search", id=memory),
            f"task://{task}": await ask(client, "get_task", task_id=task),
            "agent://echo": {each["name"]: each for each in (await ask(client, "list_agents"))["items"]}["echo"],
        }
        records = {uri: await read_json(client, uri) for uri in answers}
        number = await read_json(client, f"task://{answers[f'task://{task}']['number']}")

    for uri, answer in answers.items():
        assert records[uri] == {name: value for name, value in answer.items() if name not in RECORD}, uri
    assert number == records[f"task://{task}"]
    assert records[f"task://{task}"]["result"]["text"] == "hello"
    assert records[f"memory://{memory}"]["earlier_versions"][0]["content"] == {"b": "ü"}
    assert records["agent://echo"]["name"] == "echo"


async def test_an_artifact_reads_as_what_it_is(connect: Door):
    page, picture, note = fresh("art"), fresh("art"), fresh("art")
    data = bytes(range(256))
    async with connect.open() as client:
        await ask(
            client, "add_artifact", artifact_id=page, name="p", content="<p>ü</p>", type="text/html; charset=utf-8"
        )
        encoded = base64.b64encode(data).decode()
        await ask(
            client, "add_artifact", artifact_id=picture, name="p", content=encoded, encoding="base64", type="image/png"
        )
        await ask(client, "add_artifact", artifact_id=note, name="n", content="", type="a note of mine")
        read_page = await read_text(client, f"artifact://{page}")
        rest_of_page = await read_text(client, f"artifact://{page}?offset=3&length=4")
        read_picture = await read(client, f"artifact://{picture}")
        read_note = await read_text(client, f"artifact://{note}")

    assert (read_page.mime_type, read_page.text) == ("text/html; charset=utf-8", "<p>ü</p>")
    assert read_page.meta == WHOLE | {"size": 9}
    assert rest_of_page.text == "ü</"
    assert rest_of_page.meta == {"offset": 3, "nextOffset": 7, "size": 9, "complete": False}
    assert isinstance(read_picture, BlobResourceContents)
    assert (read_picture.mime_type, base64.b64decode(read_picture.blob)) == ("image/png", data)
    assert read_picture.meta == WHOLE | {"size": 256}
    assert (read_note.mime_type, read_note.text) == ("text/plain", "")


@pytest.mark.parametrize("length", [1000, MIB])
async def test_the_parts_of_a_binary_artifact_are_its_bytes(settings: Settings, length: int):
    data = bytes(range(256)) * 20 + b"end"
    async with in_memory(settings) as client:
        encoded = base64.b64encode(data).decode()
        await ask(client, "add_artifact", artifact_id="a", name="notes", content=encoded, encoding="base64")
        found, offset = b"", 0
        while offset is not None:
            part = await read(client, f"artifact://a?offset={offset}&length={length}")
            assert isinstance(part, BlobResourceContents)
            assert part.meta is not None
            assert part.meta["size"] == len(data)
            found += base64.b64decode(part.blob)
            offset = part.meta.get("nextOffset")

    assert found == data


async def test_a_record_of_more_than_a_mebibyte_is_read_in_parts(settings: Settings):
    content = {"text": "€" * 200_000, "controls": "\x1f" * 60_000}
    async with in_memory(settings) as client:
        await ask(client, "store_memory", type="fact", content="x" * 300_000, key="k", memory_id="m")
        await ask(client, "store_memory", type="fact", content=content, key="k")
        first = await read_text(client, "memory://m")
        assert first.meta is not None
        assert MIB - 4 < len(first.text.encode()) <= MIB
        assert first.meta["nextOffset"] == len(first.text.encode())
        rest = await read_text(client, f"memory://m?offset={first.meta['nextOffset']}")

    assert rest.meta == {
        "offset": first.meta["nextOffset"],
        "size": len((first.text + rest.text).encode()),
        "complete": True,
    }
    assert json.loads(first.text + rest.text)["content"] == content


async def test_output_is_read_by_stream_and_part(connect: Door):
    task = fresh("task")
    async with connect.open() as client:
        await ask(client, "delegate_task", agent="echo", description="größer", task_id=task)
        whole = await read_text(client, f"task://{task}/output")
        begin = await read_text(client, f"task://{task}/output?offset=0&length=4&stream=stdout")
        assert begin.meta is not None
        rest = await read_text(client, f"task://{task}/output?offset={begin.meta['nextOffset']}")
        errors = await read_text(client, f"task://{task}/output?stream=stderr")
        beyond = await read_text(client, f"task://{task}/output?offset=999999")

    assert whole.mime_type == "text/plain"
    assert whole.text.strip() == "größer"
    assert whole.meta == WHOLE | {"size": len(whole.text.encode())}
    assert (begin.text, begin.meta["nextOffset"], begin.meta["complete"]) == ("gr\u00f6", 4, False)
    assert begin.text + rest.text == whole.text
    assert (errors.text, errors.meta) == ("", WHOLE | {"size": 0})
    assert (beyond.text, beyond.meta) == ("", {**WHOLE, "offset": 999_999, "size": len(whole.text.encode())})


async def test_the_output_of_a_task_that_is_not_done_is_never_complete(settings: Settings):
    async with in_memory(settings) as client:
        await ask(client, "delegate_task", agent="echo", description="later", task_id="t", run_after=600)
        contents = await read_text(client, "task://t/output")

    assert (contents.text, contents.meta) == ("", {"offset": 0, "nextOffset": 0, "size": 0, "complete": False})


async def test_a_conversation_is_read_page_by_page_from_its_beginning(connect: Door):
    session = fresh("ses")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session, title="Walk")
        for number in range(5):
            await ask(client, "add_conversation", session_id=session, chunk_id=f"c{number}", content=f"word {number}")
        address = f"session://{session}/conversation"
        whole = await read_json(client, address)
        first = await read_json(client, f"{address}?limit=2")
        await ask(client, "add_conversation", session_id=session, chunk_id="c5", content="word 5")
        rest = await read_json(client, f"{address}?limit=100&cursor={first['next_cursor']}")
        chunk = await ask(client, "search", kind="conversation", id="c0", session_id=session)

    assert [item["id"] for item in whole["items"]] == ["c0", "c1", "c2", "c3", "c4"]
    assert whole["next_cursor"] is None
    assert whole["items"][0] == {name: value for name, value in chunk.items() if name not in RECORD}
    assert [item["content"] for item in first["items"]] == ["word 0", "word 1"]
    assert [item["id"] for item in rest["items"]] == ["c2", "c3", "c4", "c5"]


async def test_a_page_of_conversation_holds_what_fits_and_never_less_than_one(settings: Settings):
    sizes = [MIB, 600_000, 400_000, 100_000, 5]
    async with in_memory(settings) as client:
        await ask(client, "create_session", session_id="s", title="Long")
        for number, size in enumerate(sizes):
            await ask(client, "add_conversation", session_id="s", chunk_id=f"c{number}", content="x" * size)
        found, cursor = [], ""
        while cursor is not None:
            page = await read_json(client, f"session://s/conversation{f'?cursor={cursor}' if cursor else ''}")
            found.append([item["size"] for item in page["items"]])
            cursor = page["next_cursor"]

    assert found == [[MIB], [600_000, 400_000], [100_000, 5]]


@pytest.mark.parametrize(
    "uri",
    [
        "session://nobody",
        "session://nobody/conversation",
        "memory://nobody",
        "task://nobody",
        "task://nobody/output",
        "task://99999999",
        "artifact://nobody",
        "agent://nobody",
        "schema://nobody",
        "nothing://here",
        "file:///etc/passwd",
        "session://../../etc/passwd",
        "session://" + "a" * 10_000,
        "session://walks#top",
    ],
)
async def test_what_is_not_there_is_not_found_in_the_words_of_each_era(uri: str, settings: Settings):
    codes = {}
    for mode in ("auto", "legacy"):
        async with in_memory(settings, mode) as client:
            error = await read_refused(client, uri)
        codes[mode] = error.code
        assert error.data["uri"] == uri
        assert error.data["status"] == 404

    assert codes == {"auto": -32602, "legacy": -32002}


async def test_not_found_is_the_same_through_every_door(connect: Door):
    async with connect.open() as client:
        error = await read_refused(client, "memory://nobody")

    assert error.code == (-32002 if connect.name.endswith("legacy") else -32602)
    assert error.data["errors"]


@pytest.mark.parametrize(
    ("uri", "field"),
    [
        ("session://a%00b", "uri"),
        ("session://..%2F..%2Fetc", "uri"),
        ("session://user@walks", "uri"),
        ("session://%2541", "uri"),
        ("session://%ff", "uri"),
        ("task://999999999999999999999999", "uri"),
        ("session://s?offset=1&offset=2", "uri"),
        ("session://s?limit=3", "limit"),
        ("session://s?" + "x" * 500 + "=1", "x" * 100),
        ("session://s?offset=-1", "offset"),
        ("session://s?offset=one", "offset"),
        ("session://s?length=0", "length"),
        ("session://s/conversation?limit=0", "limit"),
        ("session://s/conversation?cursor=nonsense", "cursor"),
        ("session://s/conversation?cursor=", "cursor"),
        ("session://s/conversation?offset=1", "offset"),
        ("task://t/output?stream=stdin", "stream"),
        ("task://t/output?offset=99999999999999999999", "offset"),
        ("artifact://a?stream=stdout", "stream"),
    ],
)
async def test_a_query_that_cannot_be_is_refused_and_named(uri: str, field: str, settings: Settings):
    async with in_memory(settings) as client:
        await ask(client, "create_session", session_id="s", title="Walks")
        await ask(client, "delegate_task", agent="echo", description="x", task_id="t")
        await ask(client, "add_artifact", artifact_id="a", name="notes", content="a")
        error = await read_refused(client, uri)

    assert error.code == -32602
    assert error.data["status"] == 422
    assert error.data["errors"][0]["field"] == field


async def test_an_id_with_a_colon_may_be_quoted_or_not(connect: Door):
    name = fresh("ses:with:colons")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=name, title="Colons")
        raw = await read_json(client, f"session://{name}")
        quoted = await read_json(client, f"session://{name.replace(':', '%3A')}")
        upper = await read_json(client, f"SESSION://{name}")

    assert raw["id"] == name
    assert raw == quoted == upper


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_resources_are_for_keys_that_may_read(settings: Settings, mode: str):
    approver = replace(DESK, scopes=frozenset({"submit"}))
    async with in_memory(settings, mode, caller=approver) as client:
        for refused in (
            lambda: client.read_resource("agent://echo"),
            lambda: client.list_resources(),
            lambda: client.list_resource_templates(),
        ):
            with pytest.raises(MCPError) as caught:
                await refused()
            assert caught.value.data["status"] == 403


async def test_whoever_follows_an_address_is_told_which_subject_it_is(settings: Settings):
    from mcp_server.errors import OffhandError
    from mcp_server.resources.serve import Resources
    from tests.server.doors import served_in_memory

    async with served_in_memory(settings) as (client, runtime):
        await ask(client, "create_session", session_id="s:1", title="Walks")
        await ask(client, "add_artifact", artifact_id="a", name="notes", content="a")
        memory = await ask(client, "store_memory", type="fact", content="m")
        task = await ask(client, "delegate_task", agent="echo", description="x")
        subject = Resources(runtime).subject
        expected = {
            "session://s%3A1": "session://s:1",
            "session://s:1/conversation?limit=5": "session://s:1/conversation",
            f"task://{task['number']}": f"task://{task['id']}",
            f"TASK://{task['number']}/output?offset=7": f"task://{task['id']}/output",
            f"memory://{memory['id']}": f"memory://{memory['id']}",
            "artifact://a": "artifact://a",
            "agent://git": "agent://git",
            "schema://task": "schema://task",
        }
        assert {uri: await subject(uri) for uri in expected} == expected
        for uri in ("session://no", "session://no/conversation", "task://no", "memory://no", "artifact://no",
                    "agent://no", "schema://no", "task://999", "nothing"):  # fmt: skip
            with pytest.raises(OffhandError):
                await subject(uri)
