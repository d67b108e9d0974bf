"""What is kept for how long: old events, answers, output, attempts and clones go, a little at a time.

Sessions, memories, artifacts, tasks and the tails in their results stay until somebody deletes them. What is not
finished is never touched.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

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

GOING = ".going"
"""Ends the name of a folder that is being deleted: nobody works in it any more."""

DAY = 86400 * MICROSECONDS

logger = logging.getLogger(__name__)


class Retention:
    """Deletes what is too old, in small transactions. `clones` holds a folder for each conversation with a clone."""

    def __init__(
        self, database: Database, settings: RetentionSettings, now: Clock = now_us, clones: Path | None = None
    ) -> None:
        self._database = database
        self._settings = settings
        self._now = now
        self._clones_folder = clones

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
            "approvals": await self._in_batches(self._settings.events_days, self._approvals),
            "output": await self._walk(self._settings.output_days, "retention_next_output", self._output),
            "attempts": await self._walk(self._settings.attempts_days, "retention_next_attempts", self._attempts),
            "deliveries": await self._in_batches(self._settings.deliveries_days, self._deliveries),
            "clones": await self._clones(),
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

    async def _approvals(self, transaction: Transaction, before: int) -> int:
        return await transaction.run("retention_approvals", before=before, limit=BATCH_ROWS)

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

    async def _clones(self) -> int:
        """Those that nobody used for long, and those of conversations that were deleted."""
        if self._clones_folder is None:
            return 0
        gone = 0
        for folder in await asyncio.to_thread(_folders, self._clones_folder):
            going = folder.with_suffix(GOING)
            if folder != going and (not folder.name.isdecimal() or await self._uses(int(folder.name))):
                continue
            try:
                folder.rename(going)  # at once: whoever comes now makes another
                await asyncio.to_thread(_delete_folder, going)
                gone += 1
            except OSError as error:
                logger.warning("the clone in %s could not be deleted: %s", folder, error)
        return gone

    async def _uses(self, number: int) -> bool:
        """Whether the conversation that began with this task may still want its clone."""
        found = await self._database.one("retention_conversation", number=number)
        if found is None or found["used_at"] is None:
            return False
        days = self._settings.clones_days
        return not days or bool(found["open"]) or found["used_at"] >= self._now() - days * DAY

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


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.is_symlink()) if path.is_dir() else []


def _delete_folder(path: Path) -> None:
    """Also where a build made folders in it that nobody may change."""
    for folder, names, _ in os.walk(path):
        for name in names:  # before they are walked; links are not
            inner = os.path.join(folder, name)
            if not os.path.islink(inner) and not os.access(inner, os.R_OK | os.W_OK | os.X_OK):
                os.chmod(inner, 0o700)
    shutil.rmtree(path)


async def _release_some(transaction: Transaction) -> None:
    await transaction.all("store_release_pages")
