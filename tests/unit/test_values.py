"""What a value may be: ids, texts, JSON, cursors."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.errors import InvalidError, TooLargeError
from mcp_server.values import (
    CONTENT_LIMIT_BYTES,
    LABEL_LIMIT_BYTES,
    METADATA_LIMIT_BYTES,
    check_json,
    check_known_id,
    check_labels,
    check_new_id,
    check_text,
    make_cursor,
    read_cursor,
)

GOOD_IDS = ["a", "test_001", "A-b.c:d_9", "x" * 128, "1a", "-", "1.5", "::"]
BAD_IDS = {
    "empty": "",
    "129 letters": "x" * 129,
    "10,000 letters": "x" * 10_000,
    "a space": "a b",
    "a space around": " a",
    "a slash": "a/b",
    "a backslash": "a\\b",
    "a control character": "a\x07b",
    "U+0000": "a\x00",
    "a newline at the end": "a\n",
    "a letter beyond ASCII": "aé",
    "a digit beyond ASCII": "a٣",
    "a lone surrogate": "a\ud800",
    "a percent sign": "a%2Fb",
    "only digits": "42",
    "one digit": "7",
    "nineteen digits": "1" * 19,
}


@pytest.mark.parametrize("value", GOOD_IDS)
def test_an_id_of_allowed_characters_is_taken_as_it_is(value: str):
    assert check_new_id(value, "session_id") == value
    assert check_known_id(value, "session_id", "session") == value


@pytest.mark.parametrize("kind", BAD_IDS)
def test_any_other_id_is_refused_with_field_and_remedy(kind: str):
    for check in (
        lambda: check_new_id(BAD_IDS[kind], "task_id"),
        lambda: check_known_id(BAD_IDS[kind], "task_id", "x"),
    ):
        with pytest.raises(InvalidError) as caught:
            check()
        (issue,) = caught.value.issues
        assert issue.field == "task_id"
        assert "1 to 128 of the characters" in issue.fix
        assert len(issue.message) < 200, "an error does not repeat 10,000 letters"


@given(st.text())
def test_every_id_is_either_taken_or_refused(value: str):
    wanted = 1 <= len(value) <= 128 and all(
        letter.isascii() and (letter.isalnum() or letter in "._:-") for letter in value
    )
    try:
        assert check_new_id(value, "id") == value
        taken = True
    except InvalidError:
        taken = False
    assert taken == (wanted and not value.isdigit())


@pytest.mark.parametrize(
    ("text", "position", "name"),
    [("a\x00b", 1, "U+0000"), ("\ud800", 0, "U+D800"), ("né\udfff!", 2, "U+DFFF"), ("𝄞\x00", 1, "U+0000")],
)
def test_a_forbidden_character_is_refused_with_its_position(text: str, position: int, name: str):
    with pytest.raises(InvalidError) as caught:
        check_text(text, "content")
    (issue,) = caught.value.issues
    assert issue.field == "content"
    assert f"{name} at position {position}," in issue.message
    assert "base64" in issue.fix


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
def test_every_other_character_comes_back_as_it_went_in(text: str):
    assert check_text(text, "content", limit=CONTENT_LIMIT_BYTES, blank=True) == text
    assert json.loads(check_json({text: [text]}, "content", limit=CONTENT_LIMIT_BYTES)) == {text: [text]}


def test_limits_are_in_bytes_of_utf_8():
    assert check_text("é" * (LABEL_LIMIT_BYTES // 2), "title")
    for text in ("é" * (LABEL_LIMIT_BYTES // 2) + "x", "x" * (LABEL_LIMIT_BYTES + 1), "𝄞" * 129):
        with pytest.raises(TooLargeError) as caught:
            check_text(text, "title")
        assert caught.value.issues[0].field == "title"
        assert f"{len(text.encode())} bytes; the limit is 512" in caught.value.message
    assert check_text("x" * CONTENT_LIMIT_BYTES, "content", limit=CONTENT_LIMIT_BYTES)
    with pytest.raises(TooLargeError):
        check_text("x" * (CONTENT_LIMIT_BYTES + 1), "content", limit=CONTENT_LIMIT_BYTES)


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u2003"])
def test_an_empty_text_is_refused_where_one_is_due(text: str):
    with pytest.raises(InvalidError, match="title is empty"):
        check_text(text, "title")
    assert check_text(text, "title", blank=True) == text


def test_labels_keep_their_order_and_lose_their_doubles():
    assert check_labels(["b", "a", "b"], "tags") == ["b", "a"]
    assert check_labels([], "tags") == []


def test_a_bad_label_is_named_by_its_place():
    with pytest.raises(InvalidError) as caught:
        check_labels(["good", "b\x00d"], "tags")
    assert caught.value.issues[0].field == "tags[1]"
    with pytest.raises(InvalidError, match="tags has 101 items"):
        check_labels([str(number) for number in range(101)], "tags")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"a": {"b": ["x", "y\x00"]}}, "metadata.a.b[1]"),
        ({"a": [{"b": "\ud800"}]}, "metadata.a[0].b"),
        ({"k\x00": 1}, "metadata (a key)"),
    ],
)
def test_a_forbidden_character_deep_in_json_is_found(value: dict[str, object], field: str):
    with pytest.raises(InvalidError) as caught:
        check_json(value, "metadata")
    assert caught.value.issues[0].field == field
    assert "at position 1" in caught.value.message or "at position 0" in caught.value.message


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused(number: float):
    with pytest.raises(InvalidError, match="number that JSON does not have"):
        check_json({"a": number}, "metadata")


def test_json_has_a_limit_in_bytes():
    room = METADATA_LIMIT_BYTES - len('{"a":""}')
    assert len(check_json({"a": "x" * room}, "metadata")) == METADATA_LIMIT_BYTES
    with pytest.raises(TooLargeError):
        check_json({"a": "x" * (room + 1)}, "metadata")
    with pytest.raises(TooLargeError):
        check_json({"a": "é" * (room // 2 + 1)}, "metadata")


def test_json_that_is_nested_too_deeply_is_refused():
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidError) as caught:
        check_json({"a": value}, "metadata")
    assert caught.value.issues[0].field == "metadata"
    while value:
        value = value.pop()  # type: ignore[assignment]  # so that freeing it does not recurse


@given(st.integers(0, 2**62 - 1))
def test_a_cursor_is_read_back(position: int):
    assert read_cursor(make_cursor(position)) == position


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "é",
        "\ud800",
        "x" * 10_000,
        encoded("{}"),
        encoded("[]"),
        encoded("[1, 2]"),
        encoded("[-1]"),
        encoded('["1"]'),
        encoded("[1.5]"),
        encoded("[null]"),
        encoded(f"[{2**62}]"),
        encoded("[" + "9" * 5000 + "]"),
        encoded("[" * 5000),
        make_cursor(7) + " ",
        "\x00",
    ],
)
def test_an_unknown_cursor_is_refused(cursor: str):
    with pytest.raises(InvalidError) as caught:
        read_cursor(cursor)
    assert caught.value.issues[0].field == "cursor"
    assert "next_cursor" in caught.value.issues[0].fix


@given(st.text())
def test_no_cursor_makes_it_stumble(cursor: str):
    try:
        position = read_cursor(cursor)
    except InvalidError:
        return
    assert position is not None
    assert 0 <= position < 2**62


def test_no_cursor_means_the_beginning():
    assert read_cursor(None) is None
