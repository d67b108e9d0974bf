"""Addresses of resources: what is understood, and that nothing hostile is."""

from __future__ import annotations

import pytest

from mcp_server.errors import InvalidError, NotFoundError
from mcp_server.resources.addresses import ADDRESS_LIMIT_CHARACTERS, Address, parse_address


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("session://walks", Address("session", "walks")),
        ("session://walks/conversation", Address("session", "walks", "conversation")),
        ("session://walks/conversation?cursor=WzFd&limit=3",
         Address("session", "walks", "conversation", {"cursor": "WzFd", "limit": "3"})),
        ("task://7", Address("task", "7")),
        ("task://7/output?offset=", Address("task", "7", "output", {"offset": ""})),
        ("task://a:b", Address("task", "a:b")),
        ("task://a%3Ab", Address("task", "a:b")),
        ("memory://m?", Address("memory", "m")),
        ("ARTIFACT://Notes.txt", Address("artifact", "Notes.txt")),
        ("agent://claude_code", Address("agent", "claude_code")),
        ("schema://task", Address("schema", "task")),
        ("session://..", Address("session", "..")),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart(uri: str, address: Address):
    assert parse_address(uri) == address


@pytest.mark.parametrize("uri", ["task://a:b/output", "task://a%3Ab/output", "TASK://a%3ab/output"])
def test_an_id_is_the_same_however_it_is_quoted(uri: str):
    assert parse_address(uri).uri == "task://a%3Ab/output"
    assert parse_address(uri).subject == "task://a:b/output"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "session",
        "session:walks",
        "session:/walks",
        "://walks",
        "file:///etc/passwd",
        "http://127.0.0.1/session/walks",
        "session://../../etc/passwd",
        "session://walks/../other",
        "session://walks/conversation/more",
        "session://walks/",
        "session://walks/output",
        "session://walks/Conversation",
        "task://7/%6Futput",
        "memory://m/output",
        "schema://task/output",
        "session://walks#top",
        "session://walks?limit=1#top",
        " session://walks",
        "session://" + "a" * 10_000,
        "session://a?" + "b" * ADDRESS_LIMIT_CHARACTERS,
        "sess\x00ion://walks",
        "ſession://walks",
    ],
)
def test_what_is_no_address_of_ours_names_nothing(uri: str):
    with pytest.raises(NotFoundError) as caught:
        parse_address(uri)
    assert caught.value.issues[0].field == "uri"


@pytest.mark.parametrize(
    "uri",
    [
        "session://",
        "session://7",
        "session://a b",
        "session://a%2Fb",
        "session://..%2F..%2Fetc%2Fpasswd",
        "session://%2e%2e%2fetc",
        "session://a%00",
        "session://a\x00",
        "session://walks\n",
        "session://walks%0A",
        "session://user@walks",
        "session://user:password@walks",
        "session://[::1]",
        "session://%2541",
        "session://%zz",
        "session://%ff",
        "session://%ed%a0%80",
        "session://" + "a" * 129,
        "session://größe",
        "task://٧",
        "task://7?offset",
        "task://7?&",
        "task://7?offset=1&offset=2",
        "task://7?" + "&".join(f"a{number}=1" for number in range(9)),
    ],
)
def test_what_no_id_and_no_query_can_be_is_refused(uri: str):
    with pytest.raises(InvalidError) as caught:
        parse_address(uri)
    assert caught.value.issues[0].field == "uri"
