"""Memories and their versions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcp_server.errors import ConflictError, InvalidError, NotFoundError, TooLargeError
from mcp_server.memories import VERSIONS_SHOWN
from mcp_server.values import CONTENT_LIMIT_BYTES
from tests.store.house import House, StillClock

IDEA: dict[str, Any] = {
    "type": "idea",
    "key": "carbon_tracking",
    "content": {"description": "…", "priority": "high"},
    "tags": ["sustainability", "feature"],
    "session_id": "test_001",
}


@pytest.fixture(autouse=True)
async def session(house: House) -> None:
    await house.sessions.create(id="test_001")


async def test_a_memory_is_kept_as_it_is(house: House, clock: StillClock):
    clock.advance(60)
    record, created = await house.memories.store(**IDEA, id="m1")
    assert created
    assert record == IDEA | {
        "id": "m1",
        "version": 1,
        "created_by": {"level": "desk", "name": "desk"},
        "created_at": "2026-11-21T08:01:00.000Z",
        "updated_at": "2026-11-21T08:01:00.000Z",
    }
    assert await house.memories.get("m1") == record | {"earlier_versions": []}
    assert (await house.sessions.get("test_001"))["updated_at"] == "2026-11-21T08:01:00.000Z"
    assert (house.told[-1].kind, house.told[-1].subject) == ("memory.stored", "memory://m1")
    assert house.told[-1].data == {"version": 1}


@pytest.mark.parametrize(
    "type", ["idea", "decision", "question", "action_item", "insight", "fact", "preference", "其他"]
)
async def test_every_type_is_taken(type: str, house: House):
    record, _ = await house.memories.store(type=type, content="x")
    assert (record["type"], record["key"], record["session_id"], record["tags"]) == (type, None, None, [])


@pytest.mark.parametrize(
    "content", ["text", "{}", '"quoted"', "a\nb", {}, {"a": [1, 2.5, None, True, {"é": "\u2028"}]}]
)
async def test_content_comes_back_as_it_went_in(content: Any, house: House):
    record, _ = await house.memories.store(type="fact", content=content, id="m1")
    assert record["content"] == content
    assert (await house.memories.get("m1"))["content"] == content


async def test_a_key_makes_it_a_new_version_and_keeps_the_old_one(house: House, clock: StillClock):
    first, _ = await house.memories.store(type="decision", key="db", content="PostgreSQL", tags=["a"])
    clock.advance(60)
    second, stored = await house.memories.store(type="idea", key="db", content={"engine": "SQLite"}, tags=["b"])
    assert stored
    assert (second["id"], second["version"], second["type"]) == (first["id"], 2, "idea")
    assert (second["created_at"], second["updated_at"]) == ("2026-11-21T08:00:00.000Z", "2026-11-21T08:01:00.000Z")
    full = await house.memories.get(first["id"])
    assert full["content"] == {"engine": "SQLite"}
    assert full["earlier_versions"] == [
        {
            "version": 1,
            "type": "decision",
            "content": "PostgreSQL",
            "tags": ["a"],
            "created_at": "2026-11-21T08:00:00.000Z",
        }
    ]
    assert [event.data for event in house.told if event.kind == "memory.stored"] == [{"version": 1}, {"version": 2}]


async def test_the_same_content_makes_no_new_version(house: House, clock: StillClock):
    first, created = await house.memories.store(**IDEA)
    clock.advance(60)
    again, repeated = await house.memories.store(**IDEA)
    reordered = IDEA | {"content": {"priority": "high", "description": "…"}}
    also, restored = await house.memories.store(**reordered)
    assert (created, repeated, restored) == (True, False, False)
    assert first == again == also
    assert house.kinds().count("memory.stored") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"content": "x"},
        {"content": {"description": "…"}},
        {"content": {"description": "…", "priority": True}},
        {"type": "fact"},
        {"tags": []},
        {"tags": ["feature", "sustainability", "more"]},
    ],
)
async def test_any_other_content_makes_one(change: dict[str, Any], house: House):
    await house.memories.store(**IDEA)
    record, stored = await house.memories.store(**IDEA | change)
    assert (record["version"], stored) == (2, True)


async def test_true_is_not_one(house: House):
    await house.memories.store(type="fact", key="k", content={"a": 1})
    record, stored = await house.memories.store(type="fact", key="k", content={"a": True})
    assert (record["version"], stored, record["content"]["a"]) == (2, True, True)


async def test_a_key_is_unique_in_its_session_or_outside_of_all(house: House):
    await house.sessions.create(id="s2")
    ids = [
        (await house.memories.store(type="fact", key="k", content="x", session_id=session_id))[0]["id"]
        for session_id in ("test_001", "s2", None)
    ]
    assert len(set(ids)) == 3
    record, _ = await house.memories.store(type="fact", key="k", content="y")
    assert (record["id"], record["version"]) == (ids[2], 2)
    assert (await house.memories.get(ids[0]))["version"] == 1


async def test_without_a_key_each_is_its_own(house: House):
    ids = {(await house.memories.store(type="fact", content="x"))[0]["id"] for _ in range(2)}
    assert len(ids) == 2


async def test_the_same_id_again_is_the_same_memory(house: House):
    first, created = await house.memories.store(type="fact", content="x", id="m1")
    again, repeated = await house.memories.store(type="fact", content="x", id="m1")
    assert (created, repeated) == (True, False)
    assert first == again


CONFLICTS: dict[str, tuple[dict[str, Any], str]] = {
    "the id with other content and no key": ({"id": "m1", "content": "other"}, "memory_id"),
    "the id with a key that it has not": ({"id": "m1", "key": "new"}, "memory_id"),
    "the id in another session": ({"id": "m1", "session_id": "test_001"}, "memory_id"),
    "the id of a keyed memory without its key": ({"id": "m2"}, "memory_id"),
    "a key that belongs to another id": ({"id": "m3", "key": "k"}, "key"),
    "an id and a key of two memories": ({"id": "m1", "key": "k"}, "memory_id"),
}


@pytest.mark.parametrize("kind", CONFLICTS)
async def test_a_conflict_shows_the_existing_memory_and_how_to_change_it(kind: str, house: House):
    given, field = CONFLICTS[kind]
    records = [
        (await house.memories.store(type="fact", content="x", id="m1"))[0],
        (await house.memories.store(type="fact", content="x", id="m2", key="k"))[0],
    ]
    with pytest.raises(ConflictError) as caught:
        await house.memories.store(**{"type": "fact", "content": "x"} | given)
    assert caught.value.existing in records
    assert caught.value.issues[0].field == field
    assert caught.value.issues[0].fix
    for record in records:
        assert await house.memories.get(record["id"]) == record | {"earlier_versions": []}


async def test_twenty_at_once_make_twenty_versions_without_a_gap(house: House):
    answers = await asyncio.gather(
        *(house.memories.store(type="fact", key="k", content=f"fact {number}") for number in range(20))
    )
    assert sorted(record["version"] for record, _ in answers) == list(range(1, 21))
    assert len({record["id"] for record, _ in answers}) == 1


async def test_the_latest_versions_are_shown_newest_first(house: House):
    for number in range(VERSIONS_SHOWN + 3):
        record, _ = await house.memories.store(type="fact", key="k", content=f"fact {number}")
    full = await house.memories.get(record["id"])
    assert [version["version"] for version in full["earlier_versions"]] == list(range(VERSIONS_SHOWN + 2, 2, -1))


async def test_content_has_a_limit_of_a_mebibyte_of_utf_8(house: House):
    for number, letter in enumerate(("x", "é", "\n", '"', "\x01", "𝄞")):
        full = letter * (CONTENT_LIMIT_BYTES // len(letter.encode()))
        if not full.strip():
            full = full[:-1] + "x"
        record, _ = await house.memories.store(type="fact", content=full, id=f"full{number}")
        assert record["content"] == full
        with pytest.raises(TooLargeError) as caught:
            await house.memories.store(type="fact", content=full + "x", id="over")
        assert caught.value.issues[0].field == "content"
    with pytest.raises(TooLargeError):
        await house.memories.store(type="fact", content={"a": "x" * CONTENT_LIMIT_BYTES}, id="over")
    with pytest.raises(NotFoundError):
        await house.memories.get("over")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"type": ""}, "type"),
        ({"type": "a\x00"}, "type"),
        ({"content": ""}, "content"),
        ({"content": "a\ud800"}, "content"),
        ({"content": {"a": ["\x00"]}}, "content.a[0]"),
        ({"content": {"a": float("nan")}}, "content"),
        ({"key": ""}, "key"),
        ({"key": "\ud800"}, "key"),
        ({"tags": ["a", ""]}, "tags[1]"),
        ({"tags": ["x"] * 101}, "tags"),
        ({"id": "a b"}, "memory_id"),
        ({"id": "1"}, "memory_id"),
        ({"session_id": "a b"}, "session_id"),
    ],
)
async def test_bad_input_is_refused(given: dict[str, Any], field: str, house: House):
    with pytest.raises(InvalidError) as caught:
        await house.memories.store(**{"type": "fact", "content": "x"} | given)
    assert caught.value.issues[0].field == field
    assert house.kinds() == ["session.created"]


async def test_an_unknown_session_is_not_found_and_nothing_is_stored(house: House):
    with pytest.raises(NotFoundError) as caught:
        await house.memories.store(type="fact", content="x", session_id="nobody", id="m1")
    assert caught.value.issues[0].field == "session_id"
    with pytest.raises(NotFoundError):
        await house.memories.get("m1")


async def test_deleting_a_memory_takes_its_versions_and_its_words_with_it(house: House):
    await house.memories.store(type="fact", key="k", content="carbon", id="m1")
    await house.memories.store(type="fact", key="k", content="methane", id="m1")
    deleted = await house.memories.delete("m1")
    assert deleted["version"] == 2
    assert house.kinds()[-1] == "memory.deleted"
    assert (await house.search.find(query="methane"))[0] == []
    record, stored = await house.memories.store(type="fact", key="k", content="carbon", id="m1")
    assert (record["version"], stored) == (1, True)
    assert (await house.memories.get("m1"))["earlier_versions"] == []


@pytest.mark.parametrize("operation", ["get", "delete"])
async def test_an_unknown_memory_is_not_found_and_a_bad_id_is_refused(operation: str, house: House):
    with pytest.raises(NotFoundError) as caught:
        await getattr(house.memories, operation)("nobody")
    assert caught.value.issues[0].field == "memory_id"
    with pytest.raises(InvalidError):
        await getattr(house.memories, operation)("a/b")
