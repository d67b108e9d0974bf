"""The bytes of a request: read strictly, refused with a position, and otherwise unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay_adapter.body import MAX_DEPTH, fingerprint, parse_body
from relay_adapter.errors import InvalidError, MalformedError, RelayError

PATIENT = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def malformed(raw: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_body(raw)
    assert caught.value.issues[0].field == "body"
    assert caught.value.issues[0].fix
    return caught.value.message


def unstorable(text: str) -> tuple[str, str]:
    with pytest.raises(InvalidError) as caught:
        parse_body(text.encode())
    return caught.value.issues[0].field, caught.value.issues[0].message


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b'{"text": }', "line 1, column 10 (character 9)"),
        (b'{"text":\n "a",}', "line 2, column "),  # Pythons differ in what they call wrong: the comma or the brace
        (b'{"text": "a"} x', "line 1, column 15 (character 14)"),
        (b"{'text': 1}", "line 1, column 2"),
        (b'{"text": "never ends', "line 1, column 10"),
        (b'{"text": "raw \x01"}', "line 1, column 15"),
        (b'{"a": NaN}', "line 1, column 7 (character 6)"),
        (b'{"a": 1,\n "b": -Infinity}', "line 2, column 7 (character 15)"),
        (b'{"a": Infinity}', "line 1, column 7"),
        (b'{"a": 1e999}', "line 1, column 7"),
        (b'{"a": "NaN", "b": -1E+400}', "line 1, column 19"),
        (b'{"a": 9223372036854775808}', "line 1, column 7"),
        (b'{"a": -9223372036854775809}', "line 1, column 7"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "line 1, column 7"),
        (b'{"a": ' + b"9" * 400 + b".0}", "line 1, column 7"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "column 106"),
        (b'{"a": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_001, "line 1, column 601"),
    ],
)
def test_what_is_not_json_is_refused_with_its_position(raw: bytes, where: str) -> None:
    assert where in malformed(raw)


@pytest.mark.parametrize("raw", [b"", b"  \n", b"\xef\xbb\xbf"])
def test_an_empty_body_is_refused(raw: bytes) -> None:
    assert "empty" in malformed(raw)


@pytest.mark.parametrize("raw", [b"[]", b'"text"', b"7", b"null", b"true"])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    assert "not an object" in malformed(raw)


@pytest.mark.parametrize("raw", [b'{"a": "\xff"}', '{"a": 1}'.encode("utf-16"), b'{"a": "\xed\xa0\x80"}'])
def test_a_body_that_is_not_utf_8_is_refused_with_its_position(raw: bytes) -> None:
    assert "byte" in malformed(raw)


def test_a_field_given_twice_is_refused() -> None:
    assert "command is given twice" in malformed(b'{"command": "list_tasks", "command": "delete"}')


def test_an_unterminated_string_of_quotes_is_refused_in_linear_time() -> None:
    # 4 million escaped quotes: a scan that starts again at each would take hours.
    assert "JSON" in malformed(b'{"NaN": "' + b'\\"' * 2_000_000)


@pytest.mark.parametrize(
    ("text", "field", "what"),
    [
        (r'{"data": {"content": "ab\u0000c"}}', "data.content", "U+0000 at position 2"),
        (r'{"text": "\ud83d"}', "text", "a lone surrogate (U+D83D) at position 0"),
        (r'{"a": [1, {"b": "x\uDC00"}]}', "a[1].b", "a lone surrogate (U+DC00) at position 1"),
        (r'{"a": {"k\u0000": 1}}', r"a.k\u0000", "U+0000 at position 1"),
        (r'{"\ud800": 1}', r"\ud800", "a lone surrogate (U+D800) at position 0"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_field_and_position(text: str, field: str, what: str) -> None:
    named, message = unstorable(text)
    assert named == field
    assert what in message


EVERYTHING_ELSE: list[dict[str, Any]] = [
    {"text": "NaN and Infinity and 99999999999999999999 and 1e999 are only words here"},
    {"text": "😀 ‮ \u2028 \u0001 \x7f \ufeff \ufffe é e\u0301"},
    {"text": '"\\"\\\\{[' * 300},
    {"a": 2**63 - 1, "b": -(2**63) + 1, "c": 1e308, "d": 0.1, "e": [True, None, {}]},
    {"a": {"b": ["[" * 200]}},
]


@pytest.mark.parametrize("body", EVERYTHING_ELSE)
def test_everything_else_comes_out_as_it_went_in(body: Any) -> None:
    assert parse_body(json.dumps(body).encode()) == body
    assert parse_body(json.dumps(body, ensure_ascii=False).encode()) == body


def test_escaped_pairs_are_one_character() -> None:
    assert parse_body(rb'{"a": "\ud83d\ude00"}') == {"a": "😀"}


def test_nesting_up_to_the_limit_is_read() -> None:
    inner = MAX_DEPTH - 1
    assert parse_body(b'{"a": ' + b"[" * inner + b"]" * inner + b"}")
    assert "levels deep" in malformed(b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}")


def test_many_brackets_side_by_side_are_no_nesting() -> None:
    assert parse_body(json.dumps({"a": [[] for _ in range(1000)]}).encode())


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse_body(b'\xef\xbb\xbf{"text": "hello"}') == {"text": "hello"}


def test_the_fingerprint_is_the_same_for_the_same_meaning() -> None:
    one = fingerprint(parse_body(b'{"a": 1, "b": {"c": "\xc3\xa9", "d": 2}}'))
    assert fingerprint(parse_body(b'{"b":{"d":2,"c":"\\u00e9"},\n"a":1}')) == one


@pytest.mark.parametrize("other", [{"a": 2}, {"a": "1"}, {"a": 1.0}, {"a": True}, {"a": [1]}, {"a": 1, "b": None}])
def test_the_fingerprint_differs_for_another_meaning(other: dict[str, Any]) -> None:
    assert fingerprint(other) != fingerprint({"a": 1})


@PATIENT
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: ('{"a": ' + text).encode("utf-8", "ignore")))
def test_no_bytes_raise_anything_but_an_error_of_ours(raw: bytes) -> None:
    try:
        assert isinstance(parse_body(raw), dict)
    except RelayError as error:
        issues = error.issues
    else:
        return
    assert issues


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@PATIENT
@given(st.dictionaries(st.text("abc"), JSON_VALUES, max_size=4), st.booleans())
def test_every_storable_object_comes_out_as_it_went_in(body: dict[str, Any], ascii_only: bool) -> None:
    assert parse_body(json.dumps(body, ensure_ascii=ascii_only).encode()) == body
