"""The nouns over a real SQLite file, with a clock that a test holds still."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mcp_server.approvals import Approvals
from mcp_server.artifacts import Artifacts
from mcp_server.attempts import Attempts
from mcp_server.catalogue import Catalogue
from mcp_server.clock import MICROSECONDS
from mcp_server.conversations import Conversations
from mcp_server.events import Events
from mcp_server.keys import Deliveries, Keys
from mcp_server.memories import Memories
from mcp_server.search import Search
from mcp_server.sessions import Sessions
from mcp_server.store.database import Database, Event
from mcp_server.store.sqlite import open_sqlite
from mcp_server.tasks import NewTask, Tasks

START = 1_795_248_000_000_000
"""2026-11-21T08:00:00Z, in microseconds."""


APPROVAL_SECONDS = 3600.0


class StillClock:
    """Says the same time until it is told another."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> int:
        """Go on by `seconds`; returns the new time."""
        self.now += round(seconds * MICROSECONDS)
        return self.now


@dataclass(frozen=True, slots=True, repr=False)
class House:
    """One store and its nouns. `told` is what listeners heard, in their order."""

    path: Path
    clock: StillClock
    database: Database
    events: Events
    told: list[Event]
    sessions: Sessions
    conversations: Conversations
    memories: Memories
    artifacts: Artifacts
    search: Search
    catalogue: Catalogue
    tasks: Tasks
    approvals: Approvals
    attempts: Attempts
    keys: Keys
    deliveries: Deliveries

    def kinds(self) -> list[str]:
        """What listeners heard, by kind."""
        return [event.kind for event in self.told]


@asynccontextmanager
async def open_house(path: Path, clock: StillClock | None = None) -> AsyncGenerator[House]:
    """Open the store at `path` and everything over it. Ids are counted, not drawn."""
    now = clock or StillClock()
    numbers = count(1)
    events = Events(now)
    told: list[Event] = []
    events.listen(told.append)

    def make_id(prefix: str) -> str:
        return f"{prefix}_made{next(numbers)}"

    async with open_sqlite(path, events.publish) as database:
        yield House(
            path=path,
            clock=now,
            database=database,
            events=events,
            told=told,
            sessions=Sessions(database, events, now, make_id),
            conversations=Conversations(database, events, now, make_id),
            memories=Memories(database, events, now, make_id),
            artifacts=Artifacts(database, events, now, make_id),
            search=Search(database),
            catalogue=Catalogue(database),
            tasks=Tasks(database, events, now, make_id),
            approvals=Approvals(database, events, APPROVAL_SECONDS, now, make_id),
            attempts=Attempts(database, events, now),
            keys=Keys(database, events, now, make_id),
            deliveries=Deliveries(database, now),
        )


def new_task(description: str = "say hello", **fields: Any) -> NewTask:
    """An order for `echo`, checked already."""
    usual: dict[str, Any] = {
        "request": f"{description} {sorted(fields.items())}",
        "agent": "echo",
        "description": description,
        "params": "{}",
        "workspace": None,
        "cwd": None,
        "timeout_seconds": 60.0,
        "max_attempts": 3,
    }
    return NewTask(**usual | fields)
