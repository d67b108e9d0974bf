"""Search: one query over everything, with whatever people type."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.attempts import Ending
from mcp_server.errors import InvalidError, TooLargeError
from mcp_server.search import EXCERPT_CHARACTERS, TERMS_LIMIT, index_document, match_terms
from mcp_server.store.database import Transaction
from tests.store.house import House, new_task, open_house

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=300)


@pytest.fixture
async def library(house: House) -> House:
    """One record of each kind about carbon in `s1`, and one of each about solar in `s2`."""
    for session_id, word in (("s1", "carbon"), ("s2", "solar")):
        await house.sessions.create(id=session_id, title=f"about {word}")
        await house.conversations.add(session_id, f"we talked about {word}", id=f"c-{word}", format="dialogue")
        await house.memories.store(
            type="idea", key=f"{word}_tracking", content={"text": word}, tags=[word, "both"], session_id=session_id
        )
        await house.artifacts.add(name=f"{word}.md", content=f"# {word}", type="text/markdown", session_id=session_id)
        await house.tasks.create(new_task(f"review {word}", session_id=session_id, task_type="code"), id=f"t-{word}")
    return house


async def kinds(house: House, **asked: Any) -> list[str]:
    """The kinds of what is found, in order of the alphabet."""
    return sorted(record["kind"] for record in (await house.search.find(**asked))[0])


ALL = ["artifact", "conversation", "memory", "task"]


async def test_one_query_finds_every_kind_of_record(library: House):
    assert await kinds(library, query="carbon") == ALL
    assert await kinds(library, query="CARBON") == ALL
    assert await kinds(library, query="carb") == ALL, "the last word may go on"
    assert await kinds(library, query="arbon") == []
    assert await kinds(library, query="about carbon") == ["conversation"], "every word must occur"
    assert await kinds(library, query="carb about") == [], "only the last word may go on"


async def test_sessions_are_not_among_what_is_found(library: House):
    assert "session" not in await kinds(library, query="about")


async def test_without_a_query_everything_is_listed_newest_first(library: House):
    found, cursor = await library.search.find()
    assert cursor is None
    order = ["task", "artifact", "memory", "conversation"]
    assert [record["kind"] for record in found] == order * 2
    assert [record["session_id"] for record in found] == ["s2"] * 4 + ["s1"] * 4


@pytest.mark.parametrize("query", [None, "carbon"])
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"kind": "memory"}, ["memory"]),
        ({"kind": "conversation"}, ["conversation"]),
        ({"type": "idea"}, ["memory"]),
        ({"type": "code"}, ["task"]),
        ({"type": "text/markdown"}, ["artifact"]),
        ({"type": "dialogue"}, ["conversation"]),
        ({"type": "ide"}, []),
        ({"tag": "carbon"}, ["memory"]),
        ({"tag": "both"}, ["memory"]),
        ({"tag": "bot"}, []),
        ({"session_id": "s1"}, ALL),
        ({"session_id": "s1", "kind": "task"}, ["task"]),
        ({"session_id": "nobody"}, []),
        ({"session_id": "s1", "kind": "memory", "type": "idea", "tag": "both"}, ["memory"]),
        ({"kind": "task", "type": "idea"}, []),
    ],
    ids=str,
)
async def test_filters_narrow_what_is_found(
    filters: dict[str, str], expected: list[str], query: str | None, library: House
):
    in_s1 = filters if "session_id" in filters else filters | {"session_id": "s1"}
    assert await kinds(library, query=query, **in_s1) == expected


async def test_a_filter_is_never_taken_for_a_word(library: House):
    for nonsense in ("kmemory", "k", "facets", "s7331", "t626F7468"):
        assert await kinds(library, query=nonsense) == []


@pytest.mark.parametrize("value", ['"', "'", "a b", "é", "*", "k OR", "日本", "x" * 512, "-", ")"])
async def test_tags_and_types_of_any_kind_are_filters(value: str, house: House):
    await house.memories.store(type=value, content="x", tags=[value, "other"])
    await house.memories.store(type="fact", content="x", tags=["other"])
    for filters in ({"tag": value}, {"type": value}):
        assert len((await house.search.find(**filters))[0]) == 1


@pytest.mark.parametrize(
    "query",
    [
        '"', '""', '"a', "*", "a*b", "^a", "a^", "(", ")", "()", "AND", "OR", "NOT", "NEAR", "NEAR(a b)", "a AND", "-a",
        "+", "title:a", "{title}:a", "a:b", "'; DROP TABLE task; --", "%", "_", "__", "\\", "!?", "🙂", "🙂 a",
        "a" * 4096, "a " * 2000, "١٢٣", "\u200b", "\u0301", "e\u0301", "\ufffd", "[a]", "a-b", "{}", "null", "²",
    ],
)  # fmt: skip
async def test_nothing_that_is_typed_is_a_syntax_error(query: str, library: House):
    found, cursor = await library.search.find(query=query)
    assert isinstance(found, list)
    assert cursor is None
    await library.sessions.list(query=query[:500])
    await library.tasks.list(query=query)


@pytest.mark.parametrize("query", ["", " ", "\n", "\u2028"])
async def test_an_empty_query_is_refused(query: str, house: House):
    with pytest.raises(InvalidError) as caught:
        await house.search.find(query=query)
    assert caught.value.issues[0].field == "query"


@pytest.mark.parametrize("query", ["NOT carbon", "carbon OR solar", 'carbon" OR "solar', "carbon NEAR solar"])
async def test_operators_are_words(query: str, library: House):
    assert await kinds(library, query=query) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(query=TEXTS)
async def test_any_text_can_be_searched_for(house: House, query: str):
    if query.strip():
        await house.search.find(query=query)


WORDS = st.text(st.sampled_from("aZé\u00dfЖ日9_e\u0301"), min_size=1, max_size=8)
BETWEEN = st.text(st.sampled_from(" \n\t.,-\"'*()/:{}[]+^"), min_size=1, max_size=4)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(words=st.lists(st.tuples(WORDS, BETWEEN), min_size=1, max_size=6))
async def test_a_text_is_found_by_each_of_its_words_and_by_itself(house: House, words: list[tuple[str, str]]):
    text = "q" + "".join(word + between for word, between in words)
    await house.sessions.create(id="s1")
    record, _ = await house.conversations.add("s1", text)
    for query in (text, *("q" * (not index) + word for index, (word, _) in enumerate(words))):
        if not any(letter.isalnum() for letter in query):
            continue
        found, _ = await house.search.find(query=query, limit=100)
        assert record["id"] in [each["id"] for each in found], query


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Zoë's café", "zoe cafe"),
        ("cafe\u0301s", "caf\u00e9s"),
        ("caf\u00e9s", "cafe\u0301s"),
        ("die Straße", "Straße"),
        ("Привет мир", "привет"),
        ("日本語 テキスト", "日本語"),
        ("carbon_tracking", "carbon_tracking"),
        ("carbon_tracking", "tracking"),
        ("a/b-c.d", "b-c"),
        ("version 2.10", "2.10"),
        ("carbon _ and more", "carbon _ more"),
        ("carbon", "carbon \u0301 __"),
    ],
)
async def test_words_are_found_in_any_script_and_without_their_accents(text: str, query: str, house: House):
    await house.sessions.create(id="s1")
    await house.conversations.add("s1", text)
    assert await kinds(house, query=query) == ["conversation"]


@pytest.mark.parametrize(
    "content",
    ["first line\ncarbon", "tab\tcarbon", 'a "carbon"', {"note": "first\ncarbon"}, {"deep": [{"x": "carbon"}]}],
)
async def test_a_word_of_a_memory_is_found_wherever_it_stands(content: Any, house: House):
    await house.memories.store(type="fact", content=content)
    assert await kinds(house, query="carbon") == ["memory"]


async def test_a_memory_is_found_by_key_value_name_and_tag(house: House):
    await house.memories.store(type="fact", key="the_key", content={"colour": "green", "n": 42}, tags=["eco"])
    for query in ("the_key", "colour", "green", "eco", "42"):
        assert await kinds(house, query=query) == ["memory"], query
    (hit,), _ = await house.search.find(query="green")
    assert "{" not in hit["excerpt"]


async def test_only_the_current_version_of_a_memory_is_found(house: House):
    await house.memories.store(type="fact", key="db", content="PostgreSQL", tags=["old"])
    await house.memories.store(type="decision", key="db", content="SQLite", tags=["new"])
    assert (
        await kinds(house, query="postgresql") == await kinds(house, tag="old") == await kinds(house, type="fact") == []
    )
    assert await kinds(house, query="sqlite") == await kinds(house, tag="new") == ["memory"]


async def test_a_task_is_found_by_its_result_once_it_has_one(house: House):
    await house.tasks.create(new_task("review"), id="t1")
    claimed = await house.attempts.claim(["echo"])
    assert claimed is not None
    assert await kinds(house, query="seventeen") == []
    await house.attempts.finish(claimed, Ending(status="completed", reason=None, result={"text": "seventeen files"}))
    assert await kinds(house, query="seventeen") == ["task"]
    assert [task.id for task in (await house.tasks.list(query="seventeen"))[0]] == ["t1"]


async def test_bytes_are_not_searched_but_listed(house: House):
    await house.artifacts.add(name="picture.png", content="Y2FyYm9u", encoding="base64")
    assert await kinds(house, query="carbon") == []
    assert await kinds(house, query="picture") == await kinds(house) == ["artifact"]


async def test_a_hit_shows_its_record_and_an_excerpt_around_the_word(library: House):
    text = "before " * 200 + "here is methane " + "after " * 200
    await library.conversations.add("s1", text, id="long")
    (hit,), _ = await library.search.find(query="methane")
    assert {name: hit[name] for name in ("kind", "id", "session_id", "size")} == {
        "kind": "conversation",
        "id": "long",
        "session_id": "s1",
        "size": len(text),
    }
    assert hit["created_at"] == "2026-11-21T08:00:00.000Z"
    assert "methane" in hit["excerpt"]
    assert hit["excerpt"].startswith("…")
    assert hit["excerpt"].endswith("…")
    assert len(hit["excerpt"]) <= EXCERPT_CHARACTERS + 2
    (memory,), _ = await library.search.find(query="solar", kind="memory")
    assert memory["tags"] == ["solar", "both"]
    assert memory["title"] == "solar_tracking"
    json.dumps([hit, memory])


async def test_a_word_in_the_title_counts_for_more(house: House):
    await house.artifacts.add(name="plain", content="carbon " * 3 + "and more words beside it")
    await house.artifacts.add(name="carbon", content="something else that is as long as the other one")
    found, _ = await house.search.find(query="carbon")
    assert [record["name"] for record in found] == ["carbon", "plain"]


@pytest.mark.parametrize("query", [None, "number"])
async def test_pages_hold_everything_once(query: str | None, house: House):
    await house.sessions.create(id="s1")
    for number in range(7):
        await house.conversations.add("s1", f"number {number}", id=f"c{number}")
    seen: list[str] = []
    cursor = None
    for expected in (3, 3, 1):
        page, cursor = await house.search.find(query=query, limit=3, cursor=cursor)
        assert len(page) == expected
        seen += [record["id"] for record in page]
    assert cursor is None
    assert sorted(seen) == [f"c{number}" for number in range(7)]
    if query is None:
        assert seen == [f"c{number}" for number in range(6, -1, -1)]


@pytest.mark.parametrize("query", [None, "x"])
async def test_an_unknown_cursor_is_refused(query: str | None, house: House):
    with pytest.raises(InvalidError) as caught:
        await house.search.find(query=query, cursor="nonsense")
    assert caught.value.issues[0].field == "cursor"


@pytest.mark.parametrize("field", ["query", "type", "tag", "session_id"])
async def test_forbidden_characters_are_refused_with_their_position(field: str, house: House):
    for letter in ("\x00", "\ud800"):
        with pytest.raises(InvalidError) as caught:
            await house.search.find(**{field: f"ab{letter}"})
        assert caught.value.issues[0].field == field
        assert "at position 2" in caught.value.message
    with pytest.raises(TooLargeError):
        await house.search.find(**{field: "é" * 2049})


def test_at_most_some_words_are_looked_for():
    assert match_terms(" ".join(f"w{number}" for number in range(1000))).count(" AND ") == TERMS_LIMIT - 1
    assert match_terms("?!") == ""


async def test_a_last_word_of_two_letters_is_taken_as_it_is(house: House):
    await house.sessions.create(id="s1")
    await house.conversations.add("s1", "issue 2", id="meant")
    await house.conversations.add("s1", "issue 2026", id="another")
    assert [found["id"] for found in (await house.search.find(query="issue 2"))[0]] == ["meant"]


@asynccontextmanager
async def filled(path: Path, contents: Sequence[str]) -> AsyncGenerator[House]:
    """A house whose session `s1` has these chunks, `c0` and on: put there at once, without their events."""
    async with open_house(path) as house:
        await house.sessions.create(id="s1")

        async def body(transaction: Transaction) -> None:
            for number, content in enumerate(contents):
                values = {"format": None, "content": content, "size": 1, "caller": "{}", "now": 1}
                row = await transaction.one("chunk_insert", session_id="s1", id=f"c{number}", **values)
                assert row is not None
                await index_document(transaction, "conversation", row["seq"])

        await house.database.write(body)
        yield house


async def test_the_candidates_of_a_common_word_are_capped(folder: Path, at_desk: None):
    """The newest 2,000 that match are ranked, so that a word which is everywhere costs no more than that."""
    async with filled(folder / "many.db", [f"common w{number:04}" for number in range(2100)]) as house:
        seen: set[str] = set()
        cursor = None
        while True:
            page, cursor = await house.search.find(query="common", limit=100, cursor=cursor)
            seen |= {record["id"] for record in page}
            if cursor is None:
                break
        assert len(seen) == 2000
        assert "c99" not in seen
        assert "c2099" in seen
        (hit,), _ = await house.search.find(query="w0000", limit=1)
        assert hit["id"] == "c0", "a rare word is found however old"


async def test_a_last_word_that_is_common_by_itself_is_taken_as_it_is(folder: Path, at_desk: None):
    async with filled(folder / "many.db", ["two reports", *(f"report {number}" for number in range(1999))]) as house:
        found, _ = await house.search.find(query="two report")
        assert [record["id"] for record in found] == ["c0"], "1,999 are not yet common"
        await house.conversations.add("s1", "the last report")
        assert await house.search.find(query="two report") == ([], None)
