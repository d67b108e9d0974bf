"""Turning text into something that can be spoken: no markup, no ids, no addresses, and not too long.

Every `say` that is made from what a program or a person wrote goes through here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

WORDS = 40
"""How long a `say` may be."""
WORD_CHARACTERS = 60
"""Nobody speaks a longer word: it is cut. (A sentence without spaces, as in Chinese, is cut there too.)"""
UNSPEAKABLE = "There is an answer, but it cannot be spoken."
"""Said where there is text, but nothing in it that can be spoken."""

_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor movement
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and links
    r"|\x1b[@-_]?"
)
_CODE_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)")
_TAG = re.compile(  # by name: "<file>" may be a word that is meant
    r"</?(?:a|b|blockquote|br|code|dd|del|details|div|dl|dt|em|h[1-6]|hr|i|img|ins|kbd|li|mark|ol|p|pre|s|small|span"
    r"|strong|sub|summary|sup|t(?:able|body|d|h|head|r)|u|ul)\b[^<>\n]*>|<!--.*?-->",
    re.DOTALL | re.IGNORECASE,
)
_ADDRESS = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s<>\"'`]*|\bmailto:\S+|\bwww\.[^\s<>\"'`]+")
_UUID = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?[0-9a-fA-F]{7,}(?![0-9A-Za-z])")
_BULLET = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)]|#{1,6}|>+)[ \t]+")
_MARKUP = str.maketrans({**dict.fromkeys("*#`"), **dict.fromkeys("_|<>[]{}~\\", " ")})
_EMPTY_PAIR = re.compile(r"\(\s*\)|\"\s*\"|'\s*'(?!\w)")
_SPACE_BEFORE_STOP = re.compile(r"\s+([,;:.!?])(?=\s|$)")
_SENTENCE_END = re.compile(r"[.!?…]['\")’”]*$")


def spoken(text: str, words: int = WORDS) -> str:
    """`text` as one line of at most `words` words that ends like a sentence. Empty only where `text` shows nothing."""
    if words < 1:
        raise ValueError("words must be at least 1")
    seen = visible(text)
    said = _cut(_without_markup(seen).split(), words)
    if any(character.isalnum() for character in said):
        return said
    return _cut(UNSPEAKABLE.split(), words) if seen.strip() else ""


def ago(seconds: float) -> str:
    """How long ago something was, roughly: "3 hours ago". The future counts as now."""
    if seconds < 5:
        return "just now"
    name, size = next(((name, size) for name, size in _UNITS if seconds >= size), _UNITS[-1])
    count = int(seconds // size)
    return f"{count} {name}{'' if count == 1 else 's'} ago"


_UNITS = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("week", 7 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)


def visible(text: str) -> str:
    """`text` without terminal escapes, control and format characters, in composed form; lines are kept."""
    text = _ESCAPE.sub("", text)
    kept = (
        "\n" if character in "\n\r\v\f\x85\u2028\u2029" else " " if character.isspace() else character
        for character in text
        if character.isspace() or not unicodedata.category(character).startswith("C")
    )
    return unicodedata.normalize("NFC", "".join(kept))


def _without_markup(text: str) -> str:
    text = _CODE_FENCE.sub("", text)
    text = _LINK.sub(r"\1", text)
    text = _ADDRESS.sub("a link", _TAG.sub(" ", text))
    text = _HEX.sub(_unless_a_number_or_word, _UUID.sub(" ", text))
    text = _as_sentences(text).translate(_MARKUP)
    text = _EMPTY_PAIR.sub(" ", text)
    return _SPACE_BEFORE_STOP.sub(r"\1", text)


def _unless_a_number_or_word(found: re.Match[str]) -> str:
    """Counts such as 1234567 and words such as "defaced" are spelled in hex digits too, and are meant to be heard."""
    digits = found.group()
    is_number = digits.isdigit() and len(digits) < 16
    is_word = digits.isalpha() and len(digits) == 7
    return digits if is_number or is_word else " "


def _as_sentences(text: str) -> str:
    """The lines as one: a bullet, a heading and an empty line end a sentence, a wrapped line does not."""
    said = ""
    after_break = False
    for line in text.split("\n"):
        bare = _BULLET.sub("", line).strip()
        if not any(character.isalnum() for character in bare):
            after_break = True
            continue
        starts_anew = after_break or bare != line.strip()
        stop = "." if said and starts_anew and said[-1] not in ".!?…:;," else ""
        said += f"{stop} {bare}" if said else bare
        after_break = line.lstrip().startswith("#")
    return said


def _cut(words: Sequence[str], limit: int) -> str:
    """At most `limit` words, cut after a sentence where one ends in the second half, closed by a full stop."""
    words = [word if len(word) <= WORD_CHARACTERS else word[: WORD_CHARACTERS - 1] + "…" for word in words]
    if len(words) > limit:
        words = words[:limit]
        ends = [count for count, word in enumerate(words, 1) if _SENTENCE_END.search(word)]
        if ends and ends[-1] * 2 >= limit:
            words = words[: ends[-1]]
    line = " ".join(words).rstrip(" ,;:-–—…")
    return line if not line or line.endswith((".", "!", "?")) else line + "."
