"""The append-only log of what happened, and who is told of it in this process.

An event is written in the transaction of the change it tells of, and told once that is on disk.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from mcp_server.callers import Caller
from mcp_server.clock import Clock, now_us
from mcp_server.store.database import Event, Transaction

logger = logging.getLogger(__name__)


class Events:
    """Appends events, and tells watchers of a subject and listeners of all."""

    def __init__(self, now: Clock = now_us) -> None:
        self._now = now
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._output_listeners: list[Callable[[str], None]] = []
        self.closing = False
        """The server is going: whoever waits for a change takes what there is."""

    async def append(
        self,
        transaction: Transaction,
        kind: str,
        subject: str,
        *,
        session_id: str | None = None,
        caller: Caller | None = None,
        **data: Any,
    ) -> None:
        """Write an event into the running transaction. `subject` is a resource, such as `task://ID`."""
        at = self._now()
        row = await transaction.one(
            "event_insert",
            at=at,
            kind=kind,
            subject=subject,
            session_id=session_id,
            data=json.dumps(data, ensure_ascii=False),
            caller=json.dumps(caller.record(), ensure_ascii=False) if caller else None,
        )
        assert row is not None
        transaction.emit(Event(row["sequence"], at, kind, subject, session_id, data))

    def publish(self, event: Event) -> None:
        """Tell of an event that is on disk. One listener's failure is not another's."""
        self._wake(event.subject)
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("a listener failed on %s", event.kind)

    def grew(self, subject: str) -> None:
        """Tell that the output of `subject` grew, of which there is no event."""
        self._wake(subject)
        for listener in self._output_listeners:
            listener(subject)

    def _wake(self, subject: str) -> None:
        for watcher in self._watchers.get(subject, ()):
            watcher.set()

    def close(self) -> None:
        """Wake every watcher, for the last time."""
        self.closing = True
        for subject in list(self._watchers):
            self._wake(subject)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Hear of every event from now on. Called on the event loop; must be quick."""
        self._listeners.append(listener)

    def listen_to_output(self, listener: Callable[[str], None]) -> None:
        """Hear whose output grew, from now on. Called on the event loop; must be quick, and not raise."""
        self._output_listeners.append(listener)

    @contextmanager
    def watch(self, subject: str) -> Generator[asyncio.Event]:
        """An `asyncio.Event` that is set whenever `subject` changes. Watch first, then read: nothing is missed."""
        watcher = asyncio.Event()
        self._watchers.setdefault(subject, set()).add(watcher)
        try:
            yield watcher
        finally:
            watchers = self._watchers[subject]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[subject]
