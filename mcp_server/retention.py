"""What is kept for how long: old events, output, attempts and webhook answers go, a little at a time.

Sessions, memories, artifacts, tasks and the tails in their results stay until somebody deletes them. What is not
finished is never touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mcp_server.clock import MICROSECONDS, Clock, now_us
from mcp_server.errors import OffhandError
from mcp_server.settings import RetentionSettings
from mcp_server.store.database import Database, Transaction

BATCH_ROWS = 500
OUTPUT_BATCH_ROWS = 8
"""A row of output has up to 1 MiB."""

PAUSE_SECONDS = 0.05
"""Between two batches, so that whoever writes meanwhile waits for one batch at most."""

SWEEP_SECONDS = 3600.0
FIRST_SWEEP_SECONDS = 60.0
FREE_PAGES_KEPT = 1024
"""4 MiB: what a store frees it soon uses again."""

DAY = 86400 * MICROSECONDS

logger = logging.getLogger(__name__)


class Retention:
    """Deletes what is too old, in small transactions."""

    def __init__(self, database: Database, settings: RetentionSettings, now: Clock = now_us) -> None:
        self._database = database
        self._settings = settings
        self._now = now

    async def run(self) -> None:
        """Sweep soon after the start and every hour, until cancelled."""
        await asyncio.sleep(FIRST_SWEEP_SECONDS)
        while True:
            try:
                await self.sweep()
            except OffhandError:
                logger.exception("what is too old could not be deleted")
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> dict[str, int]:
        """Delete all that is too old, and give space back. Returns how many rows of each kind went."""
        gone = {
            "events": await self._in_batches(self._settings.events_days, self._events),
            "output": await self._walk(self._settings.output_days, "retention_next_output", self._output),
            "attempts": await self._walk(self._settings.attempts_days, "retention_next_attempts", self._attempts),
            "deliveries": await self._in_batches(self._settings.deliveries_days, self._deliveries),
        }
        await self._release()
        if any(gone.values()):
            logger.info("deleted for their age: %s", ", ".join(f"{count} {name}" for name, count in gone.items()))
        return gone

    async def _in_batches(self, days: int, delete: Callable[[Transaction, int], Awaitable[int]]) -> int:
        if not days:
            return 0
        before, total = self._now() - days * DAY, 0
        while count := await self._database.write(lambda transaction: delete(transaction, before)):
            total += count
            await asyncio.sleep(PAUSE_SECONDS)
        return total

    async def _events(self, transaction: Transaction, before: int) -> int:
        return await transaction.run("retention_events", before=before, limit=BATCH_ROWS)

    async def _deliveries(self, transaction: Transaction, before: int) -> int:
        return await transaction.run("retention_deliveries", before=before, limit=BATCH_ROWS)

    async def _walk(self, days: int, query: str, delete: Callable[[Transaction, int, int], Awaitable[int]]) -> int:
        """Task by task, since only its task says whether something is finished."""
        if not days:
            return 0
        before, total, number = self._now() - days * DAY, 0, 0
        while (number := await self._next(query, number)) is not None:
            ended = await self._database.one("retention_ended", number=number, before=before)
            while ended and (count := await self._delete_of(number, before, delete)):
                total += count
                await asyncio.sleep(PAUSE_SECONDS)
        return total

    async def _next(self, query: str, after: int) -> int | None:
        row = await self._database.one(query, after=after)
        return row["number"] if row else None

    async def _delete_of(
        self, number: int, before: int, delete: Callable[[Transaction, int, int], Awaitable[int]]
    ) -> int:
        async def body(transaction: Transaction) -> int:
            # Looked at again: it may have been retried since.
            task = await transaction.one("retention_ended", number=number, before=before)
            return await delete(transaction, number, task["attempt"]) if task else 0

        return await self._database.write(body)

    async def _output(self, transaction: Transaction, number: int, attempt: int) -> int:
        return await transaction.run("retention_output", number=number, limit=OUTPUT_BATCH_ROWS)

    async def _attempts(self, transaction: Transaction, number: int, attempt: int) -> int:
        return await transaction.run("retention_attempts", number=number, attempt=attempt)

    async def _release(self) -> None:
        """Shrink the file, in steps of 1 MiB. A store that was made without this stays as large as it was."""
        before = None
        while (free := await self._free_pages()) > FREE_PAGES_KEPT and free != before:
            before = free
            await self._database.write(_release_some)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _free_pages(self) -> int:
        row = await self._database.one("store_free_pages")
        return row["freelist_count"] if row else 0


async def _release_some(transaction: Transaction) -> None:
    await transaction.all("store_release_pages")
