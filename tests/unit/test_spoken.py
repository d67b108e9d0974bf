"""What is spoken is short, plain and never silent where there was something to say."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_server.spoken import ago, spoken

MARKUP = "*_#|<>[]{}`~\\"
TEXTS = (
    st.text() | st.text(alphabet="ab1 .*_#`[]()<>|-/:\n\t\x1b") | st.lists(st.from_regex(r"\w+[.!?]?")).map(" ".join)
)


@given(TEXTS, st.integers(1, 60))
@example("[a](b) *[a](b)*", 3)
@example("\x1b[31mred\x1b[0m\x1b]0;title\x07", 2)
@example("ﷺ" * 5, 2)
@example(":", 1)
def test_speech_is_one_line_of_few_words_without_markup(text: str, words: int):
    said = spoken(text, words)
    assert len(said.split()) <= words
    assert not set(said) & set(MARKUP)
    assert said.isprintable()
    assert said == " ".join(said.split())
    assert not said or said.endswith((".", "!", "?"))


@given(TEXTS)
@example("***")
@example("deadbeefdeadbeef")
@example("https://example.org/x")
@example("```\n```")
def test_text_that_shows_something_is_never_silent(text: str):
    visible = any(character.isprintable() and not character.isspace() for character in text.replace("\x1b", ""))
    if visible and "\x1b" not in text:
        assert spoken(text)


@given(TEXTS)
def test_speaking_what_was_made_for_speech_shortens_nothing(text: str):
    said = spoken(text)
    assert len(spoken(said).split()) <= len(said.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        (" \n\t", ""),
        ("hello", "hello."),
        ("Is it done?", "Is it done?"),
        ("## Result\n\n- all **12** tests pass\n- `make` is *green*", "Result. all 12 tests pass. make is green."),
        ("a wrapped\nline", "a wrapped line."),
        ("see [the docs](https://x.example/a_b) now", "see the docs now."),
        ("see https://x.example/a?b=c now", "see a link now."),
        ("\x1b[1;31merror\x1b[0m: no", "error: no."),
        ("fixed in 3f2a9bc1 today", "fixed in today."),
        ("commit 3f2a9bc1d0e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8.", "commit."),
        ("task 123e4567-e89b-12d3-a456-426614174000 is done", "task is done."),
        ("1234567 rows, the sign was defaced", "1234567 rows, the sign was defaced."),
        ("my_file.py has <b>bold</b> text", "my file.py has bold text."),
        ("```python\nprint(1)\n```", "print(1)."),
        ("***", "There is an answer, but it cannot be spoken."),
        ("open <file> now", "open file now."),
        ("it went on,", "it went on."),
        ("Größe: 5 µm, naïve café 🎉", "Größe: 5 µm, naïve café 🎉."),
    ],
)
def test_markup_and_ids_are_left_out(text: str, said: str):
    assert spoken(text) == said


def test_a_long_text_is_cut_where_a_sentence_ends():
    assert spoken("One two three. Four five six seven eight nine.", 6) == "One two three."


def test_a_long_sentence_is_cut_at_the_limit():
    assert spoken("One. " + "word " * 50, 10) == "One. " + "word " * 8 + "word."


def test_a_word_that_nobody_could_speak_is_cut():
    assert len(spoken("x" * 10_000)) <= 61


def test_no_words_at_all_is_a_mistake():
    with pytest.raises(ValueError, match="words"):
        spoken("hello", 0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "just now"),
        (0, "just now"),
        (4.9, "just now"),
        (42, "42 seconds ago"),
        (60, "1 minute ago"),
        (3 * 3600 + 59, "3 hours ago"),
        (86400, "1 day ago"),
        (13 * 86400, "1 week ago"),
        (65 * 86400, "2 months ago"),
        (800 * 86400, "2 years ago"),
    ],
)
def test_ages_are_told_in_one_unit(seconds: float, said: str):
    assert ago(seconds) == said
