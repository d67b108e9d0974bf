"""The end of the time to answer: what nobody approved is cancelled, also where no server was there at that moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from mcp_server.approvals import Approvals
from mcp_server.clock import MICROSECONDS, Clock, now_us
from mcp_server.errors import OffhandError
from mcp_server.events import Events
from mcp_server.store.database import Event

TROUBLE_SECONDS = 5.0
"""Before it is tried again when the store failed."""

CLOCK_LOOK_SECONDS = 30.0
"""While something waits, the clock is looked at this often: no timer hears of a machine that slept, or of a clock that
was set."""

logger = logging.getLogger(__name__)


class Expiry:
    """Waits for the next approval to expire. Woken by events; it does not poll while nothing waits for an answer."""

    def __init__(self, approvals: Approvals, events: Events, now: Clock = now_us) -> None:
        self._approvals = approvals
        self._now = now
        self._wake = asyncio.Event()
        events.listen(self._hear)

    async def run(self) -> None:
        """Expire what is due at once, and then whenever something is, until cancelled."""
        while True:
            self._wake.clear()
            try:
                due = await self._approvals.expire_due()
                pause = None if due is None else min(max(0.0, (due - self._now()) / MICROSECONDS), CLOCK_LOOK_SECONDS)
            except OffhandError:
                logger.exception("what expired could not be written down")
                pause = TROUBLE_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    def _hear(self, event: Event) -> None:
        if event.kind == "approval.asked":
            self._wake.set()
