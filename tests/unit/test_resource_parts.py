"""Parts of what is long: put together again they are the whole, whatever the lengths."""

from __future__ import annotations

import random

import pytest

from mcp_server.errors import InvalidError
from mcp_server.resources.parts import PART_LIMIT_BYTES, Part, Span, part_of

TEXT = "a\u00e9\u20ac\U0001f600 \u0000end" * 7


def read_all(whole: bytes, length: int) -> list[str]:
    texts: list[str] = []
    offset: int | None = 0
    while offset is not None:
        span = Span(offset, length)
        text, facts = part_of(whole, span, span.text_length).text()
        texts.append(text)
        assert facts["size"] == len(whole)
        assert facts["complete"] == ("nextOffset" not in facts)
        assert facts["complete"] or facts["nextOffset"] > offset
        offset = facts.get("nextOffset")
    return texts


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 64, 1000])
def test_the_parts_of_a_text_are_the_text(length: int):
    parts = read_all(TEXT.encode(), length)

    assert "".join(parts) == TEXT
    assert all(len(part.encode()) <= max(length, 4) for part in parts)


def test_bad_bytes_never_stop_who_reads_on():
    dice = random.Random(7)
    for _ in range(300):
        whole = bytes(dice.choice(b"\x80\xbf\xe2\x82\xac\xf0\x9f\xff\xc3a\n") for _ in range(dice.randrange(40)))
        for length in (1, 4, 5, 9):
            assert "".join(read_all(whole, length)) == whole.decode(errors="replace")


def test_a_part_that_begins_within_a_character_says_so_by_a_replacement():
    text, facts = part_of("€uro".encode(), Span(1), PART_LIMIT_BYTES).text()

    assert text == "\ufffd\ufffduro"
    assert facts == {"offset": 1, "size": 6, "complete": True}


def test_a_character_that_is_not_written_yet_is_left_for_the_next_part():
    whole = "ab€".encode()
    text, facts = Part(Span(), whole[:4], 4, goes_on=True).text()

    assert text == "ab"
    assert facts == {"offset": 0, "nextOffset": 2, "size": 4, "complete": False}


def test_beyond_the_end_there_is_nothing_more():
    text, facts = part_of(b"abc", Span(10), 5).text()

    assert text == ""
    assert facts == {"offset": 10, "size": 3, "complete": True}


@pytest.mark.parametrize(
    "query",
    [
        {"offset": "-1"},
        {"offset": ""},
        {"offset": "1.5"},
        {"offset": "0x10"},
        {"offset": "1e3"},
        {"offset": "٣"},
        {"offset": " 1"},
        {"offset": "9" * 19},
        {"length": "0"},
        {"length": "-5"},
    ],
)
def test_what_is_no_number_of_bytes_is_refused_by_name(query: dict[str, str]):
    with pytest.raises(InvalidError) as caught:
        Span.of(query)
    assert caught.value.issues[0].field in query


def test_a_longer_part_than_the_limit_is_cut_to_it():
    assert Span.of({"length": "9" * 18}) == Span(0, PART_LIMIT_BYTES)
    assert Span.of({"offset": "5", "length": "7"}) == Span(5, 7)
