"""The contract of the store: named statements, in transactions that are durable when they return.

A transaction's body is a coroutine, so that one text serves every database. On SQLite it never
suspends (the writer's thread drives it); it must therefore await nothing but its transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `sequence` orders all events of a store."""

    sequence: int
    at: int
    kind: str
    subject: str
    session_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Transaction(Protocol):
    """What a transaction's body may do. All of it is kept, or nothing."""

    async def one(self, query: str, /, **values: Any) -> Row | None:
        """The first row of a named statement."""
        ...

    async def all(self, query: str, /, **values: Any) -> list[Row]:
        """All rows of a named statement."""
        ...

    async def run(self, query: str, /, **values: Any) -> int:
        """Run a named statement; returns how many rows it changed."""
        ...

    def emit(self, event: Event) -> None:
        """Tell the listeners of `event` once the transaction is on disk."""
        ...


class Database(Protocol):
    """One store. Reads see what was committed; writes return when it is on disk."""

    async def one(self, query: str, /, **values: Any) -> Row | None: ...

    async def all(self, query: str, /, **values: Any) -> list[Row]: ...

    async def search(self, query: str, /, **values: Any) -> list[Row]:
        """Like `all`, on a reader of its own: a slow search holds nobody up."""
        ...

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `body` in a transaction.

        Raises:
            StoreFullError: the disk is full. Nothing was stored.
            StoreError: the store failed. Nothing was stored.
        """
        ...
