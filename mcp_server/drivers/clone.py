"""The agent's own clone of the user's repository: made before the agent starts, read by git of ours after it ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcp_server.drivers.job import Job
from mcp_server.drivers.records import Records


class PlaceError(Exception):
    """There is no place to work in: the message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class WorkPlace:
    """Where the agent works, and what its work is compared with. `clone` is None for work in the user's own folder."""

    folder: Path
    clone: Path | None = None
    branch: str | None = None
    base: str | None = None


async def prepare(job: Job, records: Records) -> WorkPlace:
    """The place of work, made or found again. Records `state` with what is needed to find it again.

    Raises:
        PlaceError: the repository cannot be cloned, or the branch or pull request is not there.
    """
    del records
    return WorkPlace(Path(job.folder))


async def keep(job: Job, place: WorkPlace, records: Records) -> None:
    """Commit what the agent changed, bring the branch into the user's repository, and record `work` with the diff.

    Raises:
        PlaceError: the work could not be kept; it is still in the clone, and the message says where.
    """
    del job, place, records
