"""The Gemini CLI's stored sessions, kept loadable.

Version 0.61 names a session's file by the minute and the start of its id. Loading makes a second, empty file: in the
same minute it takes the place of the first, and later a clean-up of empty files takes both. So a load waits for another
minute than that of the file, and before it all files of the session but the largest are removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from mcp_server.drivers.job import Job
from mcp_server.drivers.records import Records

TELL_SECONDS = 5.0


async def prepare(session: str, job: Job, records: Records, now: Callable[[], float] = time.time) -> None:
    """Make the next load of `session` work."""
    home = Path(job.env.get("HOME", "~")).expanduser()
    pattern = f"tmp/*/chats/session-*-{session[:8]}.jsonl"
    files = sorted((home / ".gemini").glob(pattern), key=lambda file: file.stat().st_size)
    for smaller in files[:-1]:
        smaller.unlink(missing_ok=True)
    while files and time.strftime("%Y-%m-%dT%H-%M", time.gmtime(now())) in files[-1].name:
        # Again and again, so that nobody takes it for a silence.
        records.progress("waiting for the next minute, since Gemini names its conversations by it")
        await asyncio.sleep(min(TELL_SECONDS, 60 - now() % 60))
