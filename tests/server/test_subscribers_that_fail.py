"""Subscribers that vanish, or do not read: nothing is left of them, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.callers import DESK, calling_as
from mcp_server.settings import Settings
from mcp_server.store.database import Event
from tests.hosting import hosted
from tests.server.wires import DEADLINE_SECONDS, WIRES, Served, Wire, serving, short_home

CLIENTS = 200
IDLE_SECONDS = 4.0
POOL = 40
"""Connections that the test's own HTTP client may keep, which the clients of the older era share: fewer than they."""
SESSIONS = 100
ROUNDS = 100
"""So many changes of each session that no buffer on the way holds them all."""


@pytest.fixture
async def served(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Served]:
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        async with hosted(serving(short_home(settings, Path(folder)), monkeypatch, IDLE_SECONDS)) as running:
            with calling_as(DESK):
                await running.runtime.sessions.create(id="s")
            yield running


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> type[Wire]:
    return WIRES[request.param]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks() -> set[asyncio.Task[Any]]:
    """All that run: after streams of the older era, also none that looks now and then whether the server stops."""
    return asyncio.all_tasks()


async def test_nothing_is_left_of_two_hundred_clients_that_vanish(served: Served, wire: type[Wire]):
    live, before, files = served.runtime.live, tasks(), open_files()
    clients = [wire(served) for _ in range(CLIENTS)]
    for some in (clients[start : start + 20] for start in range(0, CLIENTS, 20)):
        await asyncio.gather(*(client.follow("session://s") for client in some))
    assert live.subscriptions == CLIENTS

    for client in clients:
        client.vanish()
    await live.ended(DEADLINE_SECONDS)
    if left := tasks() - before:
        await asyncio.wait(left, timeout=DEADLINE_SECONDS)

    assert (live.subscriptions, live.followed) == (0, 0)
    assert tasks() - before == set()
    assert open_files() <= files + POOL, "more than the connections that the clients of the older era share"


async def test_who_does_not_read_delays_nobody_and_is_told_once_of_all_that_it_missed(
    served: Served, wire: type[Wire], at_desk: None
):
    ids = [f"s{number}" for number in range(SESSIONS)]
    for name in [*ids, "last"]:
        await served.runtime.sessions.create(id=name)
    uris = [f"session://{name}" for name in ids]
    stuck, quick = wire(served), wire(served)
    for client in (stuck, quick):
        await client.follow(*uris, "session://last")
    stuck.stop_reading()

    for _ in range(ROUNDS):
        change(served, *ids)
        await quick.told_all(*uris)
    change(served, "last")
    await quick.told_all("session://last")
    stuck.go_on_reading()
    told = await stuck.told_all("session://last")

    assert {*uris} <= {*told}
    assert len(told) < ROUNDS * SESSIONS * 0.9, "what it was told last replaced what it had not read"
    for client in (stuck, quick):
        client.vanish()


def change(served: Served, *sessions: str) -> None:
    """As if they had been changed in the store, which would take a thousand times as long."""
    for name in sessions:
        served.runtime.events.publish(Event(1, 1, "session.updated", f"session://{name}", name))
