"""One chaos run from its seed: users with tasks of mixed kinds, a storm over server and supervisors, the account."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.account import Account
from tests.chaos.orders import Order, Orders
from tests.chaos.storm import Storm
from tests.chaos.users import User
from tests.chaos.world import UnansweredError, World
from tests.leftovers import collect, descendants, end, keep_orphans
from tests.server.processes import Place

OPEN_TASKS = 40
"""Users at once, so that servers always die with work queued, running and ending."""

CALM_SECONDS = 180.0
"""From the last stroke until everything must have come to its end."""

COLLECT_SECONDS = 0.05
SETTLE_SECONDS = 5.0
DESCRIPTORS = 100
"""What a server that has nothing to do may have open at most."""


@dataclass
class Report:
    """What a run did and found."""

    seed: int
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    endings: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        def listed(counter: Counter[str]) -> str:
            return "; ".join(f"{name} {number:,}" for name, number in sorted(counter.items()))

        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s",
            f"  done to it   {listed(self.kills)}",
            f"  accounted    {listed(self.counts)}",
            f"  ends         {listed(self.endings)}",
            f"  wrong        {len(self.wrong)}",
        ]
        return "\n".join([*lines, *(f"    {each}" for each in self.wrong[:50])])


async def run(base: Path, *, seed: int, tasks: int, kills: int, namespaces: bool) -> Report:
    """A run with at least so many tasks and kills of server and supervisors."""
    began = time.monotonic()
    before = descendants() if keep_orphans() else {}
    world = World(_furnished(Place.make(base)), namespaces)
    world.ledger.mkdir()
    orders: list[Order] = []
    complaints: list[str] = []
    report = Report(seed)
    collecting = asyncio.create_task(_collect(world))
    try:
        world.start()
        await world.ready()
        async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as group:
            group.create_task(_populate(world, orders, complaints, seed, tasks, kills))
            await Storm(world, seed).blow(lambda: len(orders) >= tasks and _killed(world) >= kills)
            deadline.reschedule(asyncio.get_running_loop().time() + CALM_SECONDS)
        await _come_to_rest(world, complaints)
        complaints += [f"alive at rest: {pid} {line!r}" for pid, line in outsiders(world, before).items()]
        code = await world.stop_server()
        if code != 0:
            complaints.append(f"the server ended with {code}")
        account = Account(world, orders)
        report.wrong = complaints + account.settle()
        report.counts, report.endings = account.counts, account.endings
    except (TimeoutError, AssertionError, ExceptionGroup) as error:
        report.wrong = [*complaints, f"the run broke off: {error!r}", *await _still_open(world)]
    finally:
        collecting.cancel()
        if world.server is not None:
            world.server.kill()
            world.server.wait()
        end(before)
    report.kills = world.kills
    report.seconds = time.monotonic() - began
    return report


async def _collect(world: World) -> None:
    """Orphans are given to us while they would be given to init elsewhere, so we collect them as it would."""
    while True:
        collect(spared=world.server.pid if world.server is not None else None)
        await asyncio.sleep(COLLECT_SECONDS)


def _killed(world: World) -> int:
    return world.kills["server"] + world.kills["supervisor"]


async def _populate(
    world: World, orders: list[Order], complaints: list[str], seed: int, tasks: int, kills: int
) -> None:
    """Keep OPEN_TASKS users busy until there were enough tasks and kills."""
    drawn = Orders(seed, world.ledger, namespaces=world.namespaces)
    room = asyncio.Semaphore(OPEN_TASKS)

    async def live(order: Order) -> None:
        try:
            await User(world, order, seed, complaints).live()
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        while len(orders) < tasks or _killed(world) < kills:
            await room.acquire()
            order = drawn.draw()
            orders.append(order)
            group.create_task(live(order))


async def _come_to_rest(world: World, complaints: list[str]) -> None:
    """Wait for what users gave up on, too; then the server has let go of everything."""
    async with asyncio.timeout(CALM_SECONDS):
        while await _still_open(world):
            await asyncio.sleep(0.2)
    assert world.server is not None
    found = len(os.listdir(f"/proc/{world.server.pid}/fd"))
    if found > DESCRIPTORS:
        complaints.append(f"a server at rest has {found} files open")


def outsiders(world: World, before: dict[int, bytes]) -> dict[int, bytes]:
    """Whatever lives below us, the server left out: nothing, when every task is at its end."""
    assert world.server is not None
    deadline = time.monotonic() + SETTLE_SECONDS
    while found := {pid: line for pid, line in descendants().items() if pid not in before and pid != world.server.pid}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


async def _still_open(world: World) -> list[str]:
    """The tasks that are not at their end."""
    found: list[str] = []
    if world.server is None or world.server.poll() is not None:
        return found
    for status in ("scheduled", "queued", "running", "cancelling"):
        with suppress(UnansweredError):
            answer = await world.ask("list_tasks", status=status, limit=100)
            found += [f"{item['id']} is {item['status']}, attempt {item['attempt']}" for item in answer["items"]]
    return found


def _furnished(place: Place) -> Place:
    """With something for git to look at."""

    def git(*arguments: str) -> None:
        command = ["git", "-c", "user.name=chaos", "-c", "user.email=chaos@example.org", *arguments]
        subprocess.run(command, cwd=place.workspace, env=place.environment(), check=True, capture_output=True)

    git("init", "--quiet")
    for number in range(5):
        (place.workspace / f"file{number}").write_text(f"{number}\n" * 50)
        git("add", ".")
        git("commit", "--quiet", "-m", f"the {number}. step")
    return place
