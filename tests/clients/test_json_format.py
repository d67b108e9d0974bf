"""Changing JSON as text: what is set is what is read afterwards, and nothing else moves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.clients.format import UnreadableError
from mcp_server.clients.formats.json_format import JSON

KEYS = ("servers", "offhand")
ENTRY = {"command": "/opt/offhand-mcp", "args": [], "env": {"PATH": "/usr/bin:/bin"}}

COMMENTED = """\
// mine, all of it
{
\t"inputs": [ /* none yet */ ],
\t/* the servers,
\t   by name */
\t"servers": {
\t\t"other": {
\t\t\t"url": "http://other//x" // not a comment: "//x"
\t\t}, // the last one
\t},
\t"after": [1, 2.50, 1e3,], // numbers as they were
}
// the end
"""


def members(depth: int) -> st.SearchStrategy[Any]:
    leaf = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    )
    names = st.one_of(st.text(max_size=6), st.sampled_from(KEYS))
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=depth
    )


documents = st.dictionaries(st.one_of(st.text(max_size=6), st.just("other")), members(8), max_size=4).flatmap(
    lambda rest: st.dictionaries(st.text(max_size=6), members(4), max_size=3).map(
        lambda servers: {**rest, **({"servers": servers} if len(rest) % 2 else {})}
    )
)
layouts = st.sampled_from([None, 1, 2, 4, "\t"])


@given(documents, layouts, st.booleans(), st.booleans())
def test_what_is_set_is_read_and_everything_else_is_as_it_was(
    values: dict[str, Any], indent: int | str | None, crlf: bool, escaped: bool
):
    if "servers" in values and not isinstance(values["servers"], dict):
        return
    text = json.dumps(values, indent=indent, ensure_ascii=escaped)
    text = text.replace("\n", "\r\n") if crlf else text
    changed = JSON.set(text, KEYS, ENTRY)
    expected = {**values, "servers": {**values.get("servers", {}), "offhand": ENTRY}}

    assert JSON.read(changed) == json.loads(changed) == expected
    assert JSON.set(changed, KEYS, ENTRY) == changed or indent is None
    if "\r\n" in text:
        assert "\n" not in changed.replace("\r\n", "")


@given(documents, layouts)
def test_to_set_and_to_remove_gives_the_same_text_where_the_section_had_something_in_it(
    values: dict[str, Any], indent: int | str | None
):
    values = {**values, "servers": {"other": {"url": "x"}}}
    text = json.dumps(values, indent=indent)

    assert JSON.remove(JSON.set(text, KEYS, ENTRY), KEYS) == text


def test_comments_trailing_commas_tabs_and_the_spelling_of_numbers_stay():
    changed = JSON.set(COMMENTED, KEYS, ENTRY)

    assert JSON.read(changed)["servers"]["offhand"] == ENTRY
    assert [line for line in changed.splitlines() if line in COMMENTED.splitlines()] == COMMENTED.splitlines()
    assert '\n\t\t"offhand": {\n\t\t\t"command"' in changed
    assert JSON.remove(changed, KEYS) == COMMENTED


def test_a_comment_behind_the_last_member_stays_behind_it():
    text = '{\n  "servers": {\n    "other": {} // keep\n  }\n}\n'
    changed = JSON.set(text, KEYS, 1)

    assert changed == '{\n  "servers": {\n    "other": {}, // keep\n    "offhand": 1\n  }\n}\n'
    assert JSON.remove(changed, KEYS) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", '{\n  "servers": {\n    "offhand": 1\n  }\n}\n'),
        ("{}", '{\n  "servers": {\n    "offhand": 1\n  }\n}'),
        ('{"servers": {}}', '{"servers": {\n  "offhand": 1\n}}'),
        ('{"servers":{"a":1}}', '{"servers":{"a":1, "offhand": 1}}'),
        ('{\n  "servers": { }\n}', '{\n  "servers": {\n    "offhand": 1\n  }\n}'),
        ("{\n  // none yet\n}\n", '{\n  // none yet\n  "servers": {\n    "offhand": 1\n  }\n}\n'),
        ('\ufeff{"servers": {"offhand": 2}}', '\ufeff{"servers": {"offhand": 1}}'),
    ],
)
def test_small_files_become(text: str, wanted: str):
    assert JSON.set(text, KEYS, 1) == wanted


def test_a_value_deep_in_the_entry_is_changed_and_its_comments_stay():
    text = '{"servers": {"offhand": {\n  // mine\n  "command": "a", "env": {"PATH": "b" /* old */}\n}}}'
    changed = JSON.set(JSON.set(text, (*KEYS, "command"), "c"), (*KEYS, "env", "PATH"), "d")

    assert changed == text.replace('"a"', '"c"').replace('"b"', '"d"')


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "7",
        "{} {}",
        '{"a" 1}',
        '{"a": }',
        '{"a": 1 "b": 2}',
        "{a: 1}",
        '{"a": NaN}',
        "{'a': 1}",
        '{"a": "\x01"}',
        "/* open",
        '{"a": [1 2]}',
        '{"a": [}',
        '{"a": 1,,}',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_what_is_not_json_is_refused_with_a_reason(text: str):
    with pytest.raises(UnreadableError) as refused:
        JSON.read(text)

    assert str(refused.value)
    with pytest.raises(UnreadableError):
        JSON.set(text, KEYS, 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"servers": []}', "servers is no object"),
        ('{"servers": null}', "servers is no object"),
        ('{"servers": {"offhand": 1, "offhand": 2}}', "more than once"),
        ('{"servers": {}, "servers": {}}', "more than once"),
    ],
)
def test_a_place_that_cannot_be_changed_is_refused(text: str, why: str):
    with pytest.raises(UnreadableError, match=why):
        JSON.set(text, KEYS, 1)
    with pytest.raises(UnreadableError, match=why):
        JSON.remove(text, KEYS)


def test_a_line_and_a_column_are_named():
    with pytest.raises(UnreadableError, match="line 2, column 8"):
        JSON.read('{\n  "a": ?\n}')


@pytest.mark.parametrize("text", ["", "{}", '{"servers": {"a": 1}}'])
def test_to_remove_what_is_not_there_changes_nothing(text: str):
    assert JSON.remove(text, KEYS) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"servers": {"offhand": 1, "b": 2}}', '{"servers": {"b": 2}}'),
        ('{"servers": {"a": 1, "offhand": 1, "b": 2}}', '{"servers": {"a": 1, "b": 2}}'),
        ('{"servers": {"offhand": 1 } }', '{"servers": { } }'),
        ('{"servers": {\n"a": 1,\n"offhand": {\n}\n}}', '{"servers": {\n"a": 1\n}}'),
        ('{"servers": {\n"offhand": {\n},\n"b": 1\n}}', '{"servers": {\n"b": 1\n}}'),
        ('{"servers": {\n"offhand": 1, // mine\n"b": 1\n}}', '{"servers": {\n// mine\n"b": 1\n}}'),
    ],
)
def test_a_member_is_removed_with_its_one_comma(text: str, wanted: str):
    assert JSON.remove(text, KEYS) == wanted
