"""The driver's process: a place to work, the agent at work in it, its work kept. Always ends with an `end` record."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol

from mcp_server.drivers import clone
from mcp_server.drivers.clone import WorkPlace
from mcp_server.drivers.job import Job
from mcp_server.drivers.records import RECORDS_VARIABLE, End, Records

COOKIE_VARIABLE = "OFFHAND_ATTEMPT"
"""By it the supervisor knows what belongs to the attempt, so the agent carries it too."""

logger = logging.getLogger(__name__)

INTERNAL = "Something went wrong in Offhand itself; the error output of the task says what."


class Driver(Protocol):
    """One way of talking to an agent."""

    async def __call__(self, job: Job, place: Path, records: Records) -> End:
        """Have the agent do the job in `place`; what it does is recorded. Cancelled: end the agent and leave.

        Raises:
            OSError: the agent cannot be started.
        """
        ...


DRIVERS = ("acp", "claude_code", "codex", "command")
"""The modules beside this one that have a `drive`."""


def driver_of(name: str) -> Driver:
    """The driver of that name.

    It is imported only now: the library of one protocol takes half a second, for which the others need not wait.

    Raises:
        ValueError: there is none.
    """
    if name not in DRIVERS:
        raise ValueError(f"there is no driver {name!r}")
    return import_module(f"mcp_server.drivers.{name}").drive


def main() -> None:
    """Read the job, do it, leave. The exit code says nothing: the records do."""
    records = Records(Path(os.environ.pop(RECORDS_VARIABLE)))
    try:
        job = Job.from_json(sys.stdin.buffer.read())
    except (ValueError, TypeError, KeyError):
        logger.exception("the job cannot be read")
        records.end(End(outcome="failed", text=INTERNAL, reason="internal"))
        return
    cookie = os.environ.get(COOKIE_VARIABLE)
    if cookie is not None:
        job = replace(job, env={**job.env, COOKIE_VARIABLE: cookie})
    asyncio.run(_main(job, records))


async def _main(job: Job, records: Records) -> None:
    working = asyncio.create_task(do(job, records))
    told = False

    def stop() -> None:
        nonlocal told
        # Once: a second signal would cut short how the agent is ended.
        if not told:
            told = True
            working.cancel()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.wait([working])
    if working.cancelled():
        records.end(End(outcome="failed", text="It was told to stop.", reason="signal", may_pass=True))
    else:
        records.end(working.result())


async def do(job: Job, records: Records) -> End:
    """One attempt from place to work. Every failure becomes an `End`; only a cancel is raised.

    What the agent did is kept however it ended; after a cancel or a pause it is still in the clone.
    """
    try:
        place = await clone.prepare(job, records)
    except (clone.PlaceError, OSError) as error:
        return End(outcome="failed", text=f"There is no place to work in: {error}", say=str(error), reason="workspace")
    except Exception:
        logger.exception("the place to work could not be made")
        return End(outcome="failed", text=INTERNAL, reason="internal")
    return await _kept(job, place, records, await _worked(job, place, records))


async def _worked(job: Job, place: WorkPlace, records: Records) -> End:
    telling = asyncio.create_task(_tell_of_tools(records, job.still_seconds))
    try:
        return await driver_of(job.driver)(job, place.folder, records)
    except OSError as error:
        logger.exception("the agent could not be run")
        return End(outcome="failed", text=f"{job.title} could not be run: {error}", reason="spawn_failed")
    except Exception:
        logger.exception("the driver failed")
        return End(outcome="failed", text=INTERNAL, reason="internal")
    finally:
        telling.cancel()
        await asyncio.wait([telling])


async def _tell_of_tools(records: Records, seconds: float) -> None:
    """A tool may be silent for long, as a build is, and its agent with it."""
    while True:
        await asyncio.sleep(seconds)
        records.still()


async def _kept(job: Job, place: WorkPlace, records: Records, end: End) -> End:
    """`end`, once the work is kept; where it cannot be, work that was completed is none.

    What only pauses is no work of which the user's repository should have a part: all of it is kept at the end.
    """
    pauses = end.outcome == "quota" or (end.outcome == "asks" and end.ask is not None)
    try:
        await (clone.note if pauses else clone.keep)(job, place, records)
    except (clone.PlaceError, OSError) as error:
        trouble = str(error) if pauses else f"The work could not be brought back: {error}"
    except Exception:
        logger.exception("the work could not be kept")
        trouble = INTERNAL
    else:
        return end
    if pauses:  # nothing is lost: it is in the clone
        records.line(trouble)
        return end
    records.progress(trouble)
    text = f"{end.text}\n\n{trouble}" if end.text else trouble
    if end.outcome == "completed":
        return replace(end, outcome="failed", text=text, say=trouble, reason="work_not_kept")
    return replace(end, text=text)
