"""Artifacts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

import pytest

from mcp_server.errors import ConflictError, InvalidError, NotFoundError, TooLargeError
from mcp_server.values import CONTENT_LIMIT_BYTES
from tests.store.house import House, new_task

BYTES = bytes(range(256))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_a_text_is_kept_as_it_is(house: House):
    await house.sessions.create(id="s1")
    await house.tasks.create(new_task(), id="t1")
    record, created = await house.artifacts.add(
        name="notes.md", content="# grüße\r\n", type="text/markdown", session_id="s1", task_id="t1", id="a1"
    )
    assert created
    assert record == {
        "id": "a1",
        "session_id": "s1",
        "task_id": "t1",
        "name": "notes.md",
        "type": "text/markdown",
        "encoding": "text",
        "size": 11,
        "sha256": hashlib.sha256("# grüße\r\n".encode()).hexdigest(),
        "created_by": {"level": "desk", "name": "desk"},
        "created_at": "2026-11-21T08:00:00.000Z",
    }
    assert await house.artifacts.get("a1") == record | {"content": "# grüße\r\n"}
    assert (house.told[-1].kind, house.told[-1].subject) == ("artifact.added", "artifact://a1")


async def test_bytes_come_back_as_they_went_in(house: House):
    record, _ = await house.artifacts.add(name="bytes", content=base64_of(BYTES), encoding="base64")
    assert (record["size"], record["type"]) == (256, "application/octet-stream")
    kept = await house.artifacts.get(record["id"])
    assert base64.b64decode(kept["content"]) == BYTES
    assert kept["sha256"] == hashlib.sha256(BYTES).hexdigest()


@pytest.mark.parametrize("encoding", ["text", "base64"])
async def test_an_empty_file_is_a_file(encoding: Any, house: House):
    record, _ = await house.artifacts.add(name="empty", content="", encoding=encoding)
    assert record["size"] == 0
    assert (await house.artifacts.get(record["id"]))["content"] == ""


async def test_a_task_can_be_named_by_its_number(house: House):
    task, _ = await house.tasks.create(new_task(), id="t1")
    record, _ = await house.artifacts.add(name="n", content="x", task_id=str(task.number))
    assert record["task_id"] == "t1"


async def test_the_same_again_is_the_same_record(house: House):
    asked: dict[str, Any] = {"name": "n", "content": "x", "id": "a1"}
    first, created = await house.artifacts.add(**asked)
    again, repeated = await house.artifacts.add(**asked)
    assert (created, repeated) == (True, False)
    assert first == again
    answers = await asyncio.gather(*(house.artifacts.add(**asked | {"id": "a2"}) for _ in range(5)))
    assert [made for _, made in answers].count(True) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"content": "y"},
        {"name": "m"},
        {"type": "text/html"},
        {"content": base64_of(b"x"), "encoding": "base64"},
        {"session_id": "s1"},
        {"task_id": "t1"},
    ],
)
async def test_the_same_id_with_other_content_is_a_conflict(other: dict[str, Any], house: House):
    await house.sessions.create(id="s1")
    await house.tasks.create(new_task(), id="t1")
    record, _ = await house.artifacts.add(name="n", content="x", id="a1")
    with pytest.raises(ConflictError) as caught:
        await house.artifacts.add(**{"name": "n", "content": "x", "id": "a1"} | other)
    assert caught.value.existing == record
    assert caught.value.issues[0].field == "artifact_id"
    assert "another id" in caught.value.issues[0].fix
    assert (await house.artifacts.get("a1"))["content"] == "x"


async def test_content_has_a_limit_of_a_mebibyte(house: House):
    full = b"x" * CONTENT_LIMIT_BYTES
    assert (await house.artifacts.add(name="n", content=full.decode()))[0]["size"] == CONTENT_LIMIT_BYTES
    in_base64 = await house.artifacts.add(name="n", content=base64_of(full), encoding="base64")
    assert in_base64[0]["size"] == CONTENT_LIMIT_BYTES, "the limit is on what it decodes to"
    for content, encoding in (
        (full.decode() + "x", "text"),
        (base64_of(full + b"x"), "base64"),
        ("é" * 600_000, "text"),
    ):
        with pytest.raises(TooLargeError) as caught:
            await house.artifacts.add(name="n", content=content, encoding=encoding, id="over")  # type: ignore[arg-type]
        assert caught.value.issues[0].field == "content"
    with pytest.raises(NotFoundError):
        await house.artifacts.get("over")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"type": "\ud800"}, "type"),
        ({"content": "a\x00"}, "content"),
        ({"content": "a\ud800"}, "content"),
        ({"encoding": "base64", "content": "%%%"}, "content"),
        ({"encoding": "base64", "content": "YQ"}, "content"),
        ({"encoding": "base64", "content": "YQ==\n"}, "content"),
        ({"encoding": "base64", "content": "é"}, "content"),
        ({"id": "a b"}, "artifact_id"),
        ({"session_id": "a b"}, "session_id"),
        ({"task_id": "a b"}, "task_id"),
    ],
)
async def test_bad_input_is_refused(given: dict[str, Any], field: str, house: House):
    with pytest.raises(InvalidError) as caught:
        await house.artifacts.add(**{"name": "n", "content": "x"} | given)
    assert caught.value.issues[0].field == field
    assert house.told == []


@pytest.mark.parametrize("owner", [{"session_id": "nobody"}, {"task_id": "nobody"}, {"task_id": "99"}])
async def test_an_unknown_owner_is_not_found(owner: dict[str, str], house: House):
    with pytest.raises(NotFoundError) as caught:
        await house.artifacts.add(name="n", content="x", id="a1", **owner)
    assert caught.value.issues[0].field == next(iter(owner))
    with pytest.raises(NotFoundError):
        await house.artifacts.get("a1")


async def test_deleting_an_artifact_takes_its_words_with_it(house: House):
    await house.artifacts.add(name="carbon", content="methane", id="a1")
    deleted = await house.artifacts.delete("a1")
    assert (deleted["id"], "content" in deleted) == ("a1", False)
    assert house.kinds()[-1] == "artifact.deleted"
    assert (await house.search.find(query="methane"))[0] == []
    for operation in (house.artifacts.get, house.artifacts.delete):
        with pytest.raises(NotFoundError) as caught:
            await operation("a1")
        assert caught.value.issues[0].field == "artifact_id"
        with pytest.raises(InvalidError):
            await operation("a/b")
