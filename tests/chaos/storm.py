"""What befalls a chaos run: one thing after another, drawn from a seed."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable

from mcp_server.executor.attempt_folder import AttemptFolder
from tests.chaos.world import World

PAUSE_SECONDS = (0.01, 0.6)
"""Between two strokes."""

DOWN_SECONDS = 1.0
START_SECONDS = 1.2
"""Within this time of its start a server may be killed before it serves."""


class Storm:
    """Strikes until it is told to stop. What it does comes from the seed; whom it hits, also from who is there."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._chance = random.Random(f"storm {seed}")
        self._strokes: tuple[tuple[int, Callable[[], Awaitable[None]]], ...] = (
            (46, self._kill_a_supervisor),
            (16, self._kill_the_server),
            (8, self._kill_the_server_and_supervisors),
            (4, self._kill_the_server_in_its_start),
            (6, self._kill_a_program),
            (3, self._terminate_a_supervisor),
            (6, self._stop_a_supervisor_for_a_while),
            (5, self._stop_the_server_for_a_while),
            (6, self._restart_the_server),
        )
        self.strokes: list[str] = []

    async def blow(self, over: Callable[[], bool]) -> None:
        """One stroke after another until it is over."""
        weights = [weight for weight, _ in self._strokes]
        while not over():
            await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
            (stroke,) = self._chance.choices([stroke for _, stroke in self._strokes], weights)
            self.strokes.append(stroke.__name__.strip("_"))
            await stroke()

    def _one_alive(self) -> AttemptFolder | None:
        share = self._chance.random()
        alive = self._world.alive()
        return alive[int(share * len(alive))] if alive else None

    async def _kill_a_supervisor(self) -> None:
        if (folder := self._one_alive()) is not None:
            self._world.kill_supervisor(folder)

    async def _kill_a_program(self) -> None:
        if (folder := self._one_alive()) is not None:
            self._world.kill_program(folder)

    async def _terminate_a_supervisor(self) -> None:
        if (folder := self._one_alive()) is not None and self._world.signal_supervisor(folder, signal.SIGTERM):
            self._world.kills["supervisor terminated"] += 1

    async def _kill_the_server(self) -> None:
        self._world.kill_server()
        await self._come_back()

    async def _kill_the_server_and_supervisors(self) -> None:
        self._world.kill_server()
        for _ in range(self._chance.randint(1, 3)):
            await self._kill_a_supervisor()
        await self._come_back()

    async def _kill_the_server_in_its_start(self) -> None:
        self._world.kill_server()
        self._world.start()
        await asyncio.sleep(self._chance.uniform(0.1, START_SECONDS))
        self._world.kill_server()
        await self._come_back()

    async def _restart_the_server(self) -> None:
        code = await self._world.stop_server()
        self._world.kills["server stopped"] += 1
        assert code == 0, f"the server ended with {code}: {self._world.said()}"
        await self._come_back()

    async def _come_back(self) -> None:
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.uniform(0.0, DOWN_SECONDS))
        self._world.start()
        await self._world.ready()

    async def _stop_a_supervisor_for_a_while(self) -> None:
        seconds = self._chance.uniform(0.05, 0.8)
        folder = self._one_alive()
        if folder is None or not self._world.signal_supervisor(folder, signal.SIGSTOP):
            return
        self._world.kills["supervisor paused"] += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._world.signal_supervisor(folder, signal.SIGCONT)

    async def _stop_the_server_for_a_while(self) -> None:
        server = self._world.server
        assert server is not None
        self._world.kills["server paused"] += 1
        server.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self._chance.uniform(0.05, 0.6))
        finally:
            server.send_signal(signal.SIGCONT)
