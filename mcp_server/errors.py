"""Every error that Offhand raises on purpose. They know neither HTTP nor MCP: each door maps them once.

The docstring of a class is its default message. Facts are attributes, so that a door can show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldIssue:
    """One thing that is wrong with one field, and what would be right."""

    field: str
    message: str
    fix: str


class OffhandError(Exception):
    """Something went wrong."""

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        fix: str = "",
        issues: Sequence[FieldIssue] = (),
        say: str | None = None,
    ) -> None:
        self.message = message or (self.__doc__ or "").strip()
        super().__init__(self.message)
        self.issues: tuple[FieldIssue, ...] = tuple(issues)
        if field is not None:
            self.issues = (FieldIssue(field, self.message, fix), *self.issues)
        self._say = say

    @property
    def say(self) -> str:
        """The sentence to be spoken; the remedy is part of it where there is one."""
        if self._say is not None:
            return self._say
        fix = next((issue.fix for issue in self.issues if issue.fix), "")
        return f"{self.message} {fix}".strip()


class MalformedError(OffhandError):
    """The request could not be read."""


class InvalidError(OffhandError):
    """A field has a value that cannot be used."""


class NotFoundError(OffhandError):
    """There is no such record."""


class ConflictError(OffhandError):
    """The record exists already, with other content."""

    def __init__(
        self,
        message: str | None = None,
        *,
        existing: Mapping[str, Any] | None = None,
        field: str | None = None,
        fix: str = "",
        say: str | None = None,
    ) -> None:
        super().__init__(message, field=field, fix=fix, say=say)
        self.existing = existing


class UnauthenticatedError(OffhandError):
    """The caller is unknown."""


class ForbiddenError(OffhandError):
    """This is not allowed."""


class TooLargeError(OffhandError):
    """The content is larger than the limit."""


class UnavailableError(OffhandError):
    """This cannot be done right now."""


class StoreError(OffhandError):
    """The store could not be used."""


class ForeignStoreError(StoreError):
    """The file is not an Offhand store."""


class NewerStoreError(StoreError):
    """The store was written by a newer Offhand."""


class StoreFullError(UnavailableError):
    """The disk is full: nothing was stored."""


class AlreadyServingError(OffhandError):
    """Another server owns this home."""
