"""Reading a git configuration file as git reads it: sections, quotes, escapes, comments, joined lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SIZE_LIMIT_BYTES = 1024 * 1024

_SPACE = re.compile(r"[ \t\v\f\n]*")
_SECTION = re.compile(r'\[([-.A-Za-z0-9]*)(?:[ \t\v\f]+"((?:\\[^\n]|[^"\\\n])*)")?\]')
_KEY = re.compile(r"([A-Za-z][-A-Za-z0-9]*)[ \t]*")
_ESCAPED = {"t": "\t", "b": "\b", "n": "\n", '"': '"', "\\": "\\", "\n": ""}


class ConfigError(Exception):
    """This is no git configuration that we can read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One variable. Section and key are in lower case; a section without variables has one entry with no key."""

    section: str
    subsection: str
    key: str
    value: str


def read_config(path: Path) -> list[Entry]:
    """The entries of one file; includes are not followed.

    Raises:
        OSError: it cannot be read.
        ConfigError: git would refuse it, or it names what cannot be passed on.
    """
    with path.open("rb") as file:
        content = file.read(SIZE_LIMIT_BYTES + 1)
    if len(content) > SIZE_LIMIT_BYTES:
        raise ConfigError("it is too large")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ConfigError("it is not UTF-8") from None
    if "\0" in text:
        raise ConfigError("it has U+0000")
    return _parse(text)


def _parse(text: str) -> list[Entry]:
    entries: list[Entry] = []
    section, subsection = "", ""
    at = 0
    while True:
        at = _end(_SPACE.match(text, at))
        if at == len(text):
            return entries
        if text[at] in "#;":
            at = _line_end(text, at)
        elif text[at] == "[":
            found = _SECTION.match(text, at)
            if found is None:
                raise ConfigError("a section is malformed")
            section, subsection = _names(found)
            entries.append(Entry(section, subsection, "", ""))
            at = found.end()
        else:
            found = _KEY.match(text, at)
            if found is None:
                raise ConfigError("a variable is malformed")
            value, at = _value(text, found.end())
            entries.append(Entry(section, subsection, found[1].lower(), value))


def _names(found: re.Match[str]) -> tuple[str, str]:
    """`[a.b "c"]` is section a with subsection b.c; only what stands in quotes keeps its case."""
    section, _, dotted = found[1].lower().partition(".")
    quoted = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else None
    return section, ".".join(part for part in (dotted or None, quoted) if part is not None)


def _value(text: str, at: int) -> tuple[str, int]:
    """The value after a key, and where the next line starts. A key alone has an empty value here."""
    if at == len(text) or text[at] == "\n":
        return "", at
    if text[at] != "=":
        raise ConfigError("a variable is malformed")
    at += 1
    value, kept, quoted = "", 0, False
    while at < len(text):
        character = text[at]
        if character == "\n":
            break
        if character in "#;" and not quoted:
            at = _line_end(text, at)
            break
        if character == "\\":
            at += 1
            if text[at : at + 1] not in _ESCAPED:
                raise ConfigError("a value has an unknown escape")
            value += _ESCAPED[text[at]]
            kept = len(value)
        elif character == '"':
            quoted = not quoted
            kept = len(value)
        elif quoted or not character.isspace():
            value += character
            kept = len(value)
        elif value:
            value += character
        at += 1
    if quoted:
        raise ConfigError("a quote is not closed")
    return value[:kept], at


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _end(found: re.Match[str] | None) -> int:
    assert found is not None
    return found.end()
