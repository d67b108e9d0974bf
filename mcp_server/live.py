"""Who is told in this process that something changed, over whichever protocol they hear it.

Told is that a thing changed, not what happened: a subscription holds each changed thing once, however often it
changed since its owner last looked. So a slow reader is told later, costs bounded memory, and delays nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import anyio
import anyio.abc

from mcp_server.events import Events
from mcp_server.store.database import Event

RESOURCE_LIST = "list:resources"
"""The subject of whoever wants to know that there are other resources than before."""

LIST_PAUSE_SECONDS = 1.0
"""From telling one subscriber that the list changed until it is told so again. The first time it is told at once."""

OUTPUT_PAUSE_SECONDS = 0.05
"""The same for the output of one task. All else is told whenever it changes."""

_LIST_CHANGES = frozenset(
    {
        "session.created",
        "session.deleted",
        "task.queued",
        "task.scheduled",
        "task.waiting_approval",
        "memory.stored",
        "memory.deleted",
        "artifact.added",
        "artifact.deleted",
    }
)

_IN_SESSIONS = ("session://", "task://", "memory://", "artifact://")


class Subscription:
    """What one subscriber follows, and what of it has changed since it was last told.

    A subject is the address of a record (`task://task_1`, never by number) or of a part of one
    (`task://task_1/output`, `session://s/conversation`), or `RESOURCE_LIST`.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._changed: dict[str, None] = {}
        self._rests_until: dict[str, float] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}
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
        self._rests_until.pop(subject, None)
        if (timer := self._later.pop(subject, None)) is not None:
            timer.cancel()
        followers = self._live._followers.get(subject, {})  # pyright: ignore[reportPrivateUsage]
        followers.pop(self, None)
        if not followers:
            self._live._followers.pop(subject, None)  # pyright: ignore[reportPrivateUsage]

    def tell(self, subject: str) -> None:
        """It changed."""
        if subject in self._changed or subject in self._later:
            return
        loop = asyncio.get_running_loop()
        rests_until = self._rests_until.get(subject, 0.0)
        if rests_until > loop.time():
            self._later[subject] = loop.call_at(rests_until, self._tell_now, subject)
        else:
            self._tell_now(subject)

    async def changed(self) -> str | None:
        """The subject that changed first of those not told yet; waits for one. None: the server is closing."""
        while not self._changed:
            if self._live.closing:
                return None
            self._awake.clear()
            await self._awake.wait()
        subject = next(iter(self._changed))
        del self._changed[subject]
        if pause := _pause_seconds(subject):
            self._rests_until[subject] = asyncio.get_running_loop().time() + pause
        return subject

    def close(self) -> None:
        """Let `changed` give what there is without a pause, and then end."""
        for subject, timer in list(self._later.items()):
            timer.cancel()
            self._tell_now(subject)
        self._awake.set()

    def _tell_now(self, subject: str) -> None:
        self._later.pop(subject, None)
        self._changed[subject] = None
        self._awake.set()


class Live:
    """Turns what happened into who is told. `group` is where senders may run that outlive their request."""

    def __init__(self, events: Events, group: anyio.abc.TaskGroup) -> None:
        self.group = group
        self.closing = False
        self._followers: dict[str, dict[Subscription, None]] = {}
        self._open: set[Subscription] = set()
        self._all_ended = asyncio.Event()
        events.listen(self._hear)
        events.listen_to_output(lambda subject: self._tell((f"{subject}/output",)))

    @property
    def subscriptions(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def followed(self) -> int:
        """How many different subjects somebody follows."""
        return len(self._followers)

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
            if not self._open:
                self._all_ended.set()

    def close(self) -> None:
        """End every subscription, once it has told what it still holds."""
        self.closing = True
        for subscription in self._open:
            subscription.close()

    async def ended(self, seconds: float) -> None:
        """After `close`: until no subscription is open, but no longer than `seconds`."""
        with anyio.move_on_after(seconds):
            while self._open:
                self._all_ended.clear()
                await self._all_ended.wait()

    def _hear(self, event: Event) -> None:
        self._tell(_affected(event))
        if event.kind == "session.deleted":
            # What it held is gone with it; whoever follows a record looks for himself whether it was one of those.
            self._tell([subject for subject in self._followers if subject.startswith(_IN_SESSIONS)])
        elif event.kind == "limit.changed":  # no agent may do more than all together
            self._tell([subject for subject in self._followers if subject.startswith("agent://")])

    def _tell(self, subjects: Iterable[str]) -> None:
        for subject in subjects:
            for subscription in self._followers.get(subject, ()):
                subscription.tell(subject)


def _pause_seconds(subject: str) -> float:
    if subject == RESOURCE_LIST:
        return LIST_PAUSE_SECONDS
    return OUTPUT_PAUSE_SECONDS if subject.startswith("task://") and subject.endswith("/output") else 0.0


def _affected(event: Event) -> Iterable[str]:
    """The addresses that read otherwise after `event`."""
    yield event.subject
    if event.subject.startswith("task://"):
        yield f"{event.subject}/output"  # complete, or begun anew
        yield f"agent://{event.data['agent']}"
    if event.session_id is not None and event.subject != f"session://{event.session_id}":
        yield f"session://{event.session_id}"
    if event.kind in _LIST_CHANGES or (event.kind == "session.updated" and "status" in event.data["changed"]):
        yield RESOURCE_LIST  # archived ones are not in it
