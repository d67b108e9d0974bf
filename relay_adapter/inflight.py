"""Work that goes on although nobody listens any more: a phone that hangs up takes nothing back.

Each piece of work is an asyncio task of our own, held by a strong reference until it ends. A key makes it one piece
of work for all who ask for the same at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any

from relay_adapter.answers import Answer
from relay_adapter.errors import ConflictError, UnavailableError

MAX_IN_FLIGHT = 1000

Work = Callable[[], Coroutine[Any, Any, Answer]]


@dataclass(frozen=True, slots=True)
class _Keyed:
    fingerprint: str
    task: asyncio.Task[Answer]


class InFlight:
    """What is being done right now, at most `limit` pieces. `aclose` ends it cleanly."""

    def __init__(self, limit: int = MAX_IN_FLIGHT) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._keyed: dict[Hashable, _Keyed] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Work, key: Hashable | None = None, fingerprint: str = "") -> tuple[Answer, bool]:
        """The answer of `work`, and whether somebody else had already asked for it. Cancelling this does not stop it.

        Raises:
            ConflictError: work with this key is going on, for another fingerprint.
            UnavailableError: too much is going on, or the server is stopping.
        """
        going_on = self._keyed.get(key) if key is not None else None
        if going_on is None:
            task = self._start(work, key, fingerprint)
        elif going_on.fingerprint == fingerprint:
            task = going_on.task
        else:
            raise ConflictError
        # Unlike awaiting the task itself, wait() leaves it alone when we are cancelled.
        await asyncio.wait({task})
        if task.cancelled():
            raise UnavailableError("The server is stopping. Please try again.")
        return task.result(), going_on is not None

    async def aclose(self, seconds: float = 5.0) -> None:
        """Take nothing new, give what goes on `seconds` to end, then cancel it."""
        self._closed = True
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=seconds)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)

    def _start(self, work: Work, key: Hashable | None, fingerprint: str) -> asyncio.Task[Answer]:
        if self._closed:
            raise UnavailableError("The server is stopping. Please try again.")
        if len(self._tasks) >= self._limit:
            raise UnavailableError("Too much is going on at once. Please try again.")
        task = asyncio.create_task(work())
        self._tasks.add(task)
        if key is not None:
            self._keyed[key] = _Keyed(fingerprint, task)

        def forget(_: asyncio.Task[Answer]) -> None:
            self._tasks.discard(task)
            if key is not None:
                del self._keyed[key]

        task.add_done_callback(forget)
        return task
