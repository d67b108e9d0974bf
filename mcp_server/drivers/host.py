"""The driver's process: a place to work, the agent at work in it, and its work kept. Always ends with an `end` record."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Protocol

from mcp_server.drivers import acp, claude_code, clone, codex, command
from mcp_server.drivers.job import Job
from mcp_server.drivers.records import RECORDS_VARIABLE, End, Records


class Driver(Protocol):
    """One way of talking to an agent."""

    async def __call__(self, job: Job, place: Path, records: Records) -> End:
        """Have the agent do the job in `place`; what it does is recorded. Cancelled: end the agent and leave.

        Raises:
            OSError: the agent cannot be started.
        """
        ...


DRIVERS: dict[str, Driver] = {
    "claude_code": claude_code.drive,
    "codex": codex.drive,
    "acp": acp.drive,
    "command": command.drive,
}


def main() -> None:
    """Read the job, do it, leave. The exit code says nothing: the records do."""
    records = Records(Path(os.environ.pop(RECORDS_VARIABLE)))
    job = Job.from_json(sys.stdin.buffer.read())
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_main(job, records))


async def _main(job: Job, records: Records) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    records.end(await _end(job, records))


async def _end(job: Job, records: Records) -> End:
    try:
        place = await clone.prepare(job, records)
        end = await DRIVERS[job.driver](job, place.folder, records)
        await clone.keep(job, place, records)
        return end
    except clone.PlaceError as error:
        return End(outcome="failed", text=str(error), reason="workspace")
    except OSError as error:
        return End(outcome="failed", text=f"{job.title} could not be started: {error}", reason="spawn_failed")
    except Exception:
        traceback.print_exc()
        text = "Something went wrong in Offhand itself; the error output of the task says what."
        return End(outcome="failed", text=text, reason="internal")
