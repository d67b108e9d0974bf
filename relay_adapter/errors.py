"""Every error that the relay raises on purpose. They do not know HTTP: `answers.py` maps them once.

The docstring of a class is its default message. `say` is the sentence to be spoken: no markup, at most 40 words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SAY_LIMIT_WORDS = 40
SAY_LIMIT_CHARACTERS = 300
NAME_LIMIT_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class FieldIssue:
    """One thing that is wrong with one field, and what would be right. `field` is the full path in the body."""

    field: str
    message: str
    fix: str


class RelayError(Exception):
    """Something went wrong."""

    def __init__(
        self, message: str | None = None, *, issues: Sequence[FieldIssue] = (), say: str | None = None
    ) -> None:
        self.message = message or (self.__doc__ or "").strip()
        super().__init__(self.message)
        self.issues = tuple(issues)
        self.say = spoken(say or self.message)


class MalformedError(RelayError):
    """The body could not be read."""


class UnauthenticatedError(RelayError):
    """An API key is needed."""


class MethodError(RelayError):
    """This address does not take that method."""

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class NotFoundError(RelayError):
    """There is nothing at this address."""


class ConflictError(RelayError):
    """This delivery id came before with another body. Use a new id for a new request."""


class TooLargeError(RelayError):
    """The body is larger than the limit."""


class InvalidError(RelayError):
    """A field has a value that cannot be used."""

    def __init__(self, issues: Sequence[FieldIssue]) -> None:
        first = issues[0]
        more = f" ({len(issues) - 1} more below.)" if len(issues) > 1 else ""
        super().__init__(
            f"{first.field}: {first.message} {first.fix}".strip() + more,
            issues=issues,
            say=first.message.replace("_", " "),
        )


class UnavailableError(RelayError):
    """This cannot be done right now. Please try again."""


class InternalError(RelayError):
    """Something went wrong on the server. Its log says what."""


def invalid(field: str, message: str, fix: str) -> InvalidError:
    """The common case: one field is wrong."""
    return InvalidError((FieldIssue(field, message, fix),))


def spoken(text: str) -> str:
    """At most 40 words of `text`, ready to be spoken."""
    words = text.split()
    cut = " ".join(words[:SAY_LIMIT_WORDS])
    shortened = cut[:SAY_LIMIT_CHARACTERS].rstrip()
    return shortened if len(words) <= SAY_LIMIT_WORDS and shortened == cut else shortened + " …"


def shown(name: str) -> str:
    """A name that a caller chose, safe to show: printable and of bounded length."""
    clipped = name if len(name) <= NAME_LIMIT_CHARACTERS else name[: NAME_LIMIT_CHARACTERS - 1] + "…"
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in clipped)
