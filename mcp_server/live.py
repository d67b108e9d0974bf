"""Who is told in this process that something changed, over whichever protocol they hear it.

Told is that a thing changed, not what happened: a subscription holds each changed thing once, however often it
changed since its owner last looked. So a slow reader is told later, costs bounded memory, and delays nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import anyio.abc

from mcp_server.events import Events
from mcp_server.store.database import Event

RESOURCE_LIST = "list:resources"
"""The subject of whoever wants to know that there are other resources than before."""

_LIST_CHANGES = frozenset(
    {
        "session.created",
        "session.updated",
        "session.deleted",
        "task.queued",
        "task.scheduled",
        "memory.stored",
        "memory.deleted",
        "artifact.added",
        "artifact.deleted",
    }
)


class Subscription:
    """What one subscriber follows, and what of it has changed since it was last told.

    A subject is the address of a record (`task://task_1`, never by number) or of a part of one
    (`task://task_1/output`, `session://s/conversation`), or `RESOURCE_LIST`.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._changed: dict[str, None] = {}
        self._awake = asyncio.Event()
        self.subjects: set[str] = set()

    def follow(self, subject: str) -> None:
        """Hear of `subject` from now on."""
        self.subjects.add(subject)
        self._live._followers.setdefault(subject, {})[self] = None  # pyright: ignore[reportPrivateUsage]

    def unfollow(self, subject: str) -> None:
        """Hear of it no more, also not of what has not been told yet."""
        self.subjects.discard(subject)
        self._changed.pop(subject, None)
        followers = self._live._followers.get(subject, {})  # pyright: ignore[reportPrivateUsage]
        followers.pop(self, None)
        if not followers:
            self._live._followers.pop(subject, None)  # pyright: ignore[reportPrivateUsage]

    def tell(self, subject: str) -> None:
        """It changed."""
        self._changed[subject] = None
        self._awake.set()

    async def changed(self) -> str | None:
        """The subject that changed first of those not told yet; waits for one. None: the server is closing."""
        while not self._changed:
            if self._live.closing:
                return None
            self._awake.clear()
            await self._awake.wait()
        subject = next(iter(self._changed))
        del self._changed[subject]
        return subject

    def wake(self) -> None:
        """Look again whether the server is closing."""
        self._awake.set()


class Live:
    """Turns what happened into who is told. `group` is where senders may run that outlive their request."""

    def __init__(self, events: Events, group: anyio.abc.TaskGroup) -> None:
        self.group = group
        self.closing = False
        self._followers: dict[str, dict[Subscription, None]] = {}
        self._open: set[Subscription] = set()
        events.listen(self._hear)
        events.listen_to_output(lambda subject: self._tell((f"{subject}/output",)))

    @property
    def subscriptions(self) -> int:
        """How many are open."""
        return len(self._open)

    @contextmanager
    def subscribe(self, *subjects: str) -> Generator[Subscription]:
        """A subscription, for as long as the context lasts."""
        subscription = Subscription(self)
        self._open.add(subscription)
        try:
            for subject in subjects:
                subscription.follow(subject)
            yield subscription
        finally:
            self._open.discard(subscription)
            for subject in list(subscription.subjects):
                subscription.unfollow(subject)

    def close(self) -> None:
        """End every subscription, once it has told what it still holds."""
        self.closing = True
        for subscription in self._open:
            subscription.wake()

    def _hear(self, event: Event) -> None:
        self._tell(_affected(event))
        if event.kind == "session.deleted":
            # What it held is gone with it; whoever follows a record looks for himself whether it was one of those.
            self._tell(subject for subject in self._followers if subject != RESOURCE_LIST)

    def _tell(self, subjects: Iterable[str]) -> None:
        for subject in subjects:
            for subscription in self._followers.get(subject, ()):
                subscription.tell(subject)


def _affected(event: Event) -> Iterable[str]:
    """The addresses that read otherwise after `event`."""
    yield event.subject
    if event.subject.startswith("task://"):
        yield f"{event.subject}/output"  # complete, or begun anew
        yield f"agent://{event.data['agent']}"
    if event.session_id is not None and event.subject != f"session://{event.session_id}":
        yield f"session://{event.session_id}"
    if event.kind in _LIST_CHANGES:
        yield RESOURCE_LIST
