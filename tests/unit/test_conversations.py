"""Chunks of conversation."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.errors import ConflictError, InvalidError, NotFoundError, TooLargeError
from mcp_server.values import CONTENT_LIMIT_BYTES
from tests.store.house import House, StillClock

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(str.strip)


@pytest.fixture(autouse=True)
async def session(house: House) -> None:
    await house.sessions.create(id="s1", title="T")


async def test_a_chunk_is_kept_as_it_is(house: House, clock: StillClock):
    clock.advance(60)
    record, created = await house.conversations.add("s1", "user: grüße\r\n", id="chunk_001", format="dialogue")
    assert created
    assert record == {
        "id": "chunk_001",
        "session_id": "s1",
        "format": "dialogue",
        "content": "user: grüße\r\n",
        "size": 15,
        "created_by": {"level": "desk", "name": "desk"},
        "created_at": "2026-11-21T08:01:00.000Z",
    }
    assert await house.conversations.get("s1", "chunk_001") == record
    assert (await house.sessions.get("s1"))["updated_at"] == "2026-11-21T08:01:00.000Z"
    assert (house.told[-1].kind, house.told[-1].subject) == ("chunk.added", "session://s1/conversation")
    assert house.told[-1].data == {"chunk_id": "chunk_001"}


async def test_an_id_is_made_where_none_is_chosen(house: House):
    records = [await house.conversations.add("s1", "the same") for _ in range(2)]
    assert [record["id"] for record, _ in records] == ["chk_made1", "chk_made2"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=TEXTS)
async def test_every_text_comes_back_as_it_went_in(house: House, content: str):
    record, _ = await house.conversations.add("s1", content)
    kept = await house.conversations.get("s1", record["id"])
    assert kept["content"] == content
    assert kept["size"] == len(content.encode())


async def test_the_same_again_is_the_same_record(house: House):
    first, created = await house.conversations.add("s1", "text", id="c1", format="f")
    again, repeated = await house.conversations.add("s1", "text", id="c1", format="f")
    assert (created, repeated) == (True, False)
    assert first == again
    assert house.kinds().count("chunk.added") == 1


@pytest.mark.parametrize(("content", "format"), [("other", "f"), ("text", None), ("text", "g"), ("text ", "f")])
async def test_the_same_id_with_other_content_is_a_conflict(content: str, format: str | None, house: House):
    record, _ = await house.conversations.add("s1", "text", id="c1", format="f")
    with pytest.raises(ConflictError) as caught:
        await house.conversations.add("s1", content, id="c1", format=format)
    assert caught.value.existing == record
    assert caught.value.issues[0].field == "chunk_id"
    assert "another id" in caught.value.issues[0].fix
    assert await house.conversations.get("s1", "c1") == record


async def test_chunk_ids_belong_to_their_session(house: House):
    await house.sessions.create(id="s2")
    for session_id in ("s1", "s2"):
        record, created = await house.conversations.add(session_id, f"of {session_id}", id="c1")
        assert created
        assert record["content"] == f"of {session_id}"
    assert (await house.conversations.get("s1", "c1"))["content"] == "of s1"


async def test_five_times_at_once_makes_one_chunk(house: House):
    answers = await asyncio.gather(*(house.conversations.add("s1", "text", id="c1") for _ in range(5)))
    assert [created for _, created in answers].count(True) == 1


async def test_an_unknown_session_is_not_found_and_nothing_is_stored(house: House):
    with pytest.raises(NotFoundError) as caught:
        await house.conversations.add("nobody", "text", id="c1")
    assert caught.value.issues[0].field == "session_id"
    assert (await house.search.find(query="text"))[0] == []
    with pytest.raises(NotFoundError):
        await house.conversations.get("s1", "c1")
    with pytest.raises(InvalidError):
        await house.conversations.add("a b", "text")
    with pytest.raises(InvalidError):
        await house.conversations.get("s1", "a b")


async def test_content_has_a_limit_of_a_mebibyte_of_utf_8(house: House):
    record, _ = await house.conversations.add("s1", "é" * (CONTENT_LIMIT_BYTES // 2), id="full")
    assert record["size"] == CONTENT_LIMIT_BYTES
    with pytest.raises(TooLargeError) as caught:
        await house.conversations.add("s1", "é" * (CONTENT_LIMIT_BYTES // 2) + "x", id="over")
    assert caught.value.issues[0].field == "content"
    with pytest.raises(NotFoundError):
        await house.conversations.get("s1", "over")


@pytest.mark.parametrize(
    ("content", "id", "format", "field"),
    [
        ("", None, None, "content"),
        (" \n", None, None, "content"),
        ("a\x00", None, None, "content"),
        ("a\ud800", None, None, "content"),
        ("a", "b c", None, "chunk_id"),
        ("a", "12", None, "chunk_id"),
        ("a", None, "", "format"),
        ("a", None, "\x00", "format"),
    ],
)
async def test_bad_input_is_refused(content: str, id: str | None, format: str | None, field: str, house: House):
    with pytest.raises(InvalidError) as caught:
        await house.conversations.add("s1", content, id=id, format=format)
    assert caught.value.issues[0].field == field
    assert house.kinds() == ["session.created"]
