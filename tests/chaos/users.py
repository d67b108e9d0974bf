"""The users of a chaos run: each delegates one task, follows it to its end, and believes nothing unseen."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from typing import Any

from mcp_server.tasks import FINAL
from tests.chaos.orders import Order
from tests.chaos.world import UnansweredError, World

WAIT_SECONDS = 20
RETRIES = 2


class User:
    """Lives through one order. What is wrong goes to `complaints`."""

    def __init__(self, world: World, order: Order, seed: int, complaints: list[str]) -> None:
        self._world = world
        self._order = order
        self._chance = random.Random(f"user {seed} {order.name}")
        self._complaints = complaints

    async def live(self) -> None:
        """From the order to its end; a user who gave up does not know of any."""
        order = self._order
        await self._delegate()
        if not order.acknowledged:
            return
        if order.cancel_after is not None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._cancel(order.cancel_after))
                group.create_task(self._follow())
        else:
            await self._follow()
        while order.retry and order.retried < RETRIES and order.seen[-1] == "failed":
            if not await self._retry():
                return
            await self._follow()

    async def _delegate(self) -> None:
        order, asked_before = self._order, False
        while True:
            try:
                answer = await self._world.ask("delegate_task", task_id=order.name, wait=0, **order.arguments)
            except UnansweredError:
                if not order.stubborn:
                    return
                asked_before = True
                continue
            if answer.get("id") != order.name:
                self._complain(f"was answered {answer}")
                return
            if not answer["created"] and not asked_before:
                self._complain("was there before it was asked for")
            order.acknowledged = True
            return

    async def _follow(self) -> None:
        """Until it is final; then nothing of it may be alive."""
        while True:
            try:
                answer = await self._world.ask("get_task", task_id=self._order.name, wait=WAIT_SECONDS)
            except UnansweredError:
                continue
            if answer.get("id") != self._order.name:
                self._complain(f"is lost: {answer}")
                self._order.seen.append("lost")
                return
            if answer["status"] in FINAL:
                self._order.seen.append(answer["status"])
                self._look_for_the_living(answer)
                return

    def _look_for_the_living(self, answer: dict[str, Any]) -> None:
        if not self._order.has_program:
            return
        try:
            fd = os.open(self._world.ledger / f"{self._order.name}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # it never began
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._complain(f"is {answer['status']} ({answer['reason']}), and something of it is alive")
        finally:
            os.close(fd)

    async def _cancel(self, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        while True:
            self._order.cancel_sent = True
            try:
                await self._world.ask("update_task", task_id=self._order.name, action="cancel", wait=0)
                return
            except UnansweredError:
                if self._order.kind != "deaf_program" and self._chance.random() < 0.3:
                    return

    async def _retry(self) -> bool:
        try:
            await self._world.ask("update_task", task_id=self._order.name, action="retry", wait=0)
        except UnansweredError:
            self._order.retried = RETRIES  # it may have come through
            return False
        self._order.retried += 1
        return True

    def _complain(self, what: str) -> None:
        self._complaints.append(f"{self._order.name} ({self._order.kind}) {what}")
