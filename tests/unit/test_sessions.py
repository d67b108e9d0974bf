"""Sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcp_server.callers import Caller, calling_as
from mcp_server.errors import ConflictError, InvalidError, NotFoundError, TooLargeError, UnauthenticatedError
from mcp_server.values import make_cursor
from tests.store.house import House, StillClock, new_task

EIGHT = "2026-11-21T08:00:00.000Z"


async def test_a_session_is_what_was_asked_for(house: House):
    record, created = await house.sessions.create(
        id="test_001", title="Test Session", participants=["claude", "user"], metadata={"a": [1, None, "é"]}
    )
    assert created
    assert record == {
        "id": "test_001",
        "title": "Test Session",
        "participants": ["claude", "user"],
        "metadata": {"a": [1, None, "é"]},
        "status": "active",
        "created_by": {"level": "desk", "name": "desk"},
        "created_at": EIGHT,
        "updated_at": EIGHT,
    }
    assert await house.sessions.get("test_001") == record
    assert house.kinds() == ["session.created"]
    assert house.told[0].subject == "session://test_001"


async def test_everything_may_be_left_out(house: House):
    record, created = await house.sessions.create()
    assert (record["id"], record["title"], created) == ("ses_made1", "Untitled", True)


async def test_the_callers_identity_is_kept(house: House):
    phone = Caller("phone", "my phone", frozenset({"submit"}), key_id="key_1", delivery_id="d-1")
    with calling_as(phone):
        record, _ = await house.sessions.create(id="s1")
    assert record["created_by"] == {"level": "phone", "name": "my phone", "key_id": "key_1", "delivery_id": "d-1"}


async def test_nobody_may_create_a_session(house: House):
    with calling_as(None), pytest.raises(UnauthenticatedError):  # type: ignore[arg-type]
        await house.sessions.create(id="s1")
    with pytest.raises(NotFoundError):
        await house.sessions.get("s1")


async def test_the_same_again_is_the_same_record(house: House, clock: StillClock):
    asked: dict[str, Any] = {"id": "s1", "title": "T", "participants": ["a"], "metadata": {"x": 1, "y": {"b": 1}}}
    first, created = await house.sessions.create(**asked)
    clock.advance(60)
    again, repeated = await house.sessions.create(**asked)
    reordered, also = await house.sessions.create(**asked | {"metadata": {"y": {"b": 1}, "x": 1}})
    assert (created, repeated, also) == (True, False, False)
    assert first == again == reordered
    assert house.kinds() == ["session.created"]


@pytest.mark.parametrize(
    "other",
    [{"title": "U"}, {"participants": ["b"]}, {"metadata": {"x": 2}}, {"metadata": {}}, {"metadata": {"x": True}}],
)
async def test_the_same_id_with_other_content_is_a_conflict(other: dict[str, Any], house: House):
    asked: dict[str, Any] = {"id": "s1", "title": "T", "participants": ["a"], "metadata": {"x": 1}}
    record, _ = await house.sessions.create(**asked)
    with pytest.raises(ConflictError) as caught:
        await house.sessions.create(**asked | other)
    assert caught.value.existing == record
    assert caught.value.issues[0].field == "session_id"
    assert "update_session" in caught.value.issues[0].fix
    assert "s1" not in caught.value.say
    assert await house.sessions.get("s1") == record


async def test_a_changed_session_is_still_the_same_for_whoever_created_it(house: House):
    await house.sessions.create(id="s1", title="T")
    await house.sessions.update("s1", title="Another")
    record, created = await house.sessions.create(id="s1", title="T")
    assert (record["title"], created) == ("Another", False)


async def test_twenty_at_once_make_one_session(house: House):
    answers = await asyncio.gather(*(house.sessions.create(id="s1", title="T") for _ in range(20)))
    assert [created for _, created in answers].count(True) == 1
    assert house.kinds() == ["session.created"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an id with a space": ({"id": "a b"}, "session_id"),
    "an id of digits": ({"id": "42"}, "session_id"),
    "an empty id": ({"id": ""}, "session_id"),
    "an empty title": ({"title": ""}, "title"),
    "a title with U+0000": ({"title": "a\x00"}, "title"),
    "a participant with a lone surrogate": ({"participants": ["a", "\ud800"]}, "participants[1]"),
    "an empty participant": ({"participants": [" "]}, "participants[0]"),
    "too many participants": ({"participants": [str(number) for number in range(101)]}, "participants"),
    "metadata with U+0000": ({"metadata": {"a": "\x00"}}, "metadata.a"),
    "metadata without end": ({"metadata": {"a": float("inf")}}, "metadata"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_bad_input_is_refused_and_nothing_is_stored(kind: str, house: House):
    given, field = BAD[kind]
    with pytest.raises(InvalidError) as caught:
        await house.sessions.create(**{"id": "s1"} | given)
    assert caught.value.issues[0].field == field
    assert caught.value.issues[0].fix
    assert await house.sessions.list() == ([], None)


async def test_what_is_too_large_is_refused(house: House):
    for given in ({"title": "x" * 513}, {"metadata": {"a": "x" * 65_536}}, {"participants": ["é" * 257]}):
        with pytest.raises(TooLargeError):
            await house.sessions.create(**given)
    assert await house.sessions.list() == ([], None)


@pytest.mark.parametrize("operation", ["get", "summary", "update", "delete"])
async def test_an_unknown_session_is_not_found_and_a_bad_id_is_refused(operation: str, house: House):
    given = {"title": "T"} if operation == "update" else {}
    with pytest.raises(NotFoundError) as caught:
        await getattr(house.sessions, operation)("nobody", **given)
    assert caught.value.issues[0].field == "session_id"
    assert "create_session" in caught.value.issues[0].fix
    for bad in ("a/b", "x" * 10_000, "7"):
        with pytest.raises(InvalidError):
            await getattr(house.sessions, operation)(bad, **given)


async def test_update_changes_what_is_given_and_nothing_else(house: House, clock: StillClock):
    await house.sessions.create(id="s1", title="T", participants=["a"], metadata={"keep": 1, "drop": 2, "change": 3})
    clock.advance(60)
    changed = await house.sessions.update("s1", metadata={"drop": None, "change": 4, "new": 5})
    assert changed["metadata"] == {"keep": 1, "change": 4, "new": 5}
    assert (changed["title"], changed["participants"], changed["status"]) == ("T", ["a"], "active")
    assert (changed["created_at"], changed["updated_at"]) == (EIGHT, "2026-11-21T08:01:00.000Z")
    changed = await house.sessions.update("s1", title="U", participants=["b", "b"], status="paused")
    assert (changed["title"], changed["participants"], changed["status"]) == ("U", ["b"], "paused")
    assert house.told[-1].data == {"changed": ["participants", "status", "title"]}


@pytest.mark.parametrize("status", ["active", "paused", "completed", "archived"])
async def test_every_status_can_be_set_and_left_again(status: Any, house: House):
    await house.sessions.create(id="s1")
    assert (await house.sessions.update("s1", status=status))["status"] == status
    assert (await house.sessions.update("s1", status="active"))["status"] == "active"


async def test_an_update_that_changes_nothing_writes_nothing(house: House, clock: StillClock):
    record, _ = await house.sessions.create(id="s1", title="T")
    clock.advance(60)
    assert await house.sessions.update("s1", title="T", metadata={}, status="active") == record
    assert house.kinds() == ["session.created"]


async def test_an_update_of_nothing_is_refused(house: House):
    await house.sessions.create(id="s1")
    with pytest.raises(InvalidError) as caught:
        await house.sessions.update("s1")
    assert "title, participants, metadata or status" in caught.value.issues[0].fix


async def test_metadata_stays_within_its_limit_when_merged(house: House):
    record, _ = await house.sessions.create(id="s1", metadata={"a": "x" * 40_000})
    with pytest.raises(TooLargeError):
        await house.sessions.update("s1", title="changed?", metadata={"b": "x" * 40_000})
    assert await house.sessions.get("s1") == record


async def test_two_updates_at_once_lose_nothing(house: House):
    await house.sessions.create(id="s1")
    await asyncio.gather(*(house.sessions.update("s1", metadata={f"k{number}": number}) for number in range(20)))
    assert (await house.sessions.get("s1"))["metadata"] == {f"k{number}": number for number in range(20)}


async def test_lists_are_newest_first_and_archived_ones_only_on_request(house: House):
    for name in ("s1", "s2", "s3"):
        await house.sessions.create(id=name)
    await house.sessions.update("s2", status="archived")
    await house.sessions.update("s3", status="paused")

    async def listed(**filters: Any) -> list[str]:
        return [record["id"] for record in (await house.sessions.list(**filters))[0]]

    assert await listed() == ["s3", "s1"]
    assert await listed(include_archived=True) == ["s3", "s2", "s1"]
    assert await listed(status="archived") == ["s2"]
    assert await listed(status="paused") == ["s3"]
    assert await listed(status="completed") == []


async def test_sessions_are_found_by_title_and_participants(house: House):
    await house.sessions.create(id="s1", title="Carbon tracking", participants=["claude"])
    await house.sessions.create(id="s2", title="Solar", participants=["Zoë"])
    await house.sessions.create(id="s3", title="Carbon archive")
    await house.sessions.update("s3", status="archived")

    async def listed(query: str, **filters: Any) -> list[str]:
        return [record["id"] for record in (await house.sessions.list(query=query, **filters))[0]]

    assert await listed("carbon") == ["s1"]
    assert await listed("carb") == ["s1"]
    assert await listed("CARBON tracking") == ["s1"]
    assert await listed("carbon", include_archived=True) == ["s3", "s1"]
    assert await listed("carbon", status="archived") == ["s3"]
    assert await listed("carbon", status="paused") == []
    assert await listed("zoe") == ["s2"]
    assert await listed("title") == []
    assert await listed("!!!") == []
    await house.sessions.update("s1", title="Methane")
    assert await listed("carbon") == []
    assert await listed("methane") == ["s1"]


@pytest.mark.parametrize("filters", [{}, {"status": "active"}, {"query": "every"}], ids=str)
async def test_pages_go_on_where_the_last_one_ended(filters: dict[str, Any], house: House):
    for number in range(7):
        await house.sessions.create(id=f"s{number}", title=f"every {number}")
    seen: list[str] = []
    cursor = None
    for expected in (3, 3, 1):
        page, cursor = await house.sessions.list(limit=3, cursor=cursor, **filters)
        assert len(page) == expected
        seen += [record["id"] for record in page]
        await house.sessions.create(title=f"every newcomer {len(seen)}")  # pages stay what they are
    assert cursor is None
    assert seen == [f"s{number}" for number in range(6, -1, -1)]


async def test_a_full_last_page_has_no_cursor(house: House):
    for number in range(3):
        await house.sessions.create(id=f"s{number}")
    page, cursor = await house.sessions.list(limit=3)
    assert (len(page), cursor) == (3, None)


async def test_an_unknown_cursor_is_refused_and_a_spent_one_is_empty(house: House):
    await house.sessions.create(id="s1")
    with pytest.raises(InvalidError) as caught:
        await house.sessions.list(cursor="nonsense")
    assert caught.value.issues[0].field == "cursor"
    assert await house.sessions.list(cursor=make_cursor(1)) == ([], None)


async def test_the_summary_shows_counts_and_the_latest_of_each_noun(house: House):
    await house.sessions.create(id="s1", title="T")
    for number in range(7):
        await house.conversations.add("s1", f"é {number}", id=f"c{number}", format="dialogue")
    await house.conversations.add("s1", "x" * 1000, id="long")
    await house.memories.store(type="fact", key="k", content={"a": 1}, session_id="s1", id="m1")
    await house.memories.store(type="fact", content="y" * 1000, session_id="s1", id="m2")
    await house.artifacts.add(name="n", content="abc", session_id="s1", id="a1")
    await house.tasks.create(new_task("do it", session_id="s1"), id="t1")
    await house.tasks.create(new_task("elsewhere"), id="t2")
    summary = await house.sessions.summary("s1")
    assert summary["counts"] == {"chunks": 8, "memories": 2, "artifacts": 1, "tasks": 1, "open_tasks": 1}
    assert [chunk["id"] for chunk in summary["latest_chunks"]] == ["long", "c6", "c5", "c4", "c3"]
    assert [chunk["clipped"] for chunk in summary["latest_chunks"]] == [True, False, False, False, False]
    assert summary["latest_chunks"][0]["content"] == "x" * 400
    assert [memory["content"] for memory in summary["latest_memories"]] == ["y" * 400 + "…", {"a": 1}]
    assert [artifact["size"] for artifact in summary["latest_artifacts"]] == [3]
    assert [(task["id"], task["status"]) for task in summary["latest_tasks"]] == [("t1", "queued")]
    assert {name: summary[name] for name in ("id", "title")} == {"id": "s1", "title": "T"}


@pytest.mark.parametrize("status", ["queued", "scheduled", "running", "cancelling"])
async def test_a_session_with_an_open_task_is_not_deleted(status: str, house: House, clock: StillClock):
    await house.sessions.create(id="s1")
    later = clock() + 1_000_000 if status == "scheduled" else None
    await house.tasks.create(new_task(session_id="s1", run_after=later), id="t1")
    if status in ("running", "cancelling"):
        await house.attempts.claim(["echo"])
    if status == "cancelling":
        await house.tasks.cancel("t1")
    assert (await house.tasks.get("t1")).status == status
    with pytest.raises(ConflictError) as caught:
        await house.sessions.delete("s1")
    assert caught.value.existing is not None
    assert caught.value.existing["counts"]["open_tasks"] == 1
    assert "update_task" in caught.value.issues[0].fix
    assert (await house.sessions.get("s1"))["id"] == "s1"
    assert len((await house.search.find(session_id="s1"))[0]) == 1


async def test_deleting_a_session_takes_everything_with_it(house: House):
    for name in ("s1", "s2"):
        await house.sessions.create(id=name, title=f"carbon {name}")
        await house.conversations.add(name, "carbon talk", id="c1")
        await house.memories.store(type="fact", key="k", content="carbon", session_id=name, id=f"m-{name}")
        await house.memories.store(type="fact", key="k", content="carbon 2", session_id=name, id=f"m-{name}")
        await house.artifacts.add(name="carbon", content="carbon", session_id=name, id=f"a-{name}")
        await house.tasks.create(new_task("carbon", session_id=name), id=f"t-{name}")
        await house.tasks.cancel(f"t-{name}")
    deleted = await house.sessions.delete("s1")
    assert deleted["counts"] == {"chunks": 1, "memories": 1, "artifacts": 1, "tasks": 1, "open_tasks": 0}
    assert house.kinds()[-1] == "session.deleted"
    for gone in (
        house.sessions.get("s1"),
        house.conversations.get("s1", "c1"),
        house.memories.get("m-s1"),
        house.artifacts.get("a-s1"),
        house.tasks.get("t-s1"),
    ):
        with pytest.raises(NotFoundError):
            await gone
    assert await house.search.find(session_id="s1") == ([], None)
    found, _ = await house.search.find(query="carbon")
    assert {record["session_id"] for record in found} == {"s2"}
    assert len(found) == 4
    assert [record["id"] for record in (await house.sessions.list(query="carbon"))[0]] == ["s2"]


async def test_an_id_is_free_again_after_its_session_is_deleted(house: House):
    await house.sessions.create(id="s1", title="T")
    await house.sessions.delete("s1")
    record, created = await house.sessions.create(id="s1", title="Another")
    assert (record["title"], created) == ("Another", True)
