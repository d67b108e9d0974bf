"""Any command that prints an answer."""

from __future__ import annotations

from pathlib import Path

from mcp_server.drivers.job import Job
from mcp_server.drivers.records import End, Records


async def drive(job: Job, place: Path, records: Records) -> End:
    """See `host.Driver`."""
    del place, records
    return End(outcome="failed", text=f"{job.title} cannot be driven yet.", reason="agent_not_installed")
