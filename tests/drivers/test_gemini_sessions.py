"""The Gemini CLI's stored sessions are made loadable before it starts."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest

from mcp_server.drivers import gemini_sessions
from mcp_server.drivers.job import Job
from mcp_server.drivers.records import Records

SESSION = "20466c86-6955-42b7-865a-d1cef9e12625"
LATER = datetime(2026, 11, 21, 15, 30, tzinfo=UTC).timestamp()


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    folder = tmp_path / ".gemini" / "tmp" / "repo" / "chats"
    folder.mkdir(parents=True)
    return folder


async def prepare(home: Path, *clock: float) -> str:
    """What was told; the clock has these times, one after the other."""
    shown = StringIO()
    job = Job(
        driver="acp",
        agent="gemini",
        title="Gemini",
        program=("gemini",),
        env={"HOME": str(home)},
        prompt="",
        task_id="t",
        task_number=1,
        folder="/",
    )
    times = iter(clock)
    await gemini_sessions.prepare(SESSION, job, Records(home / "records.jsonl", shown), lambda: next(times))
    return shown.getvalue()


async def test_only_the_largest_file_of_the_session_is_left(tmp_path: Path, chats: Path) -> None:
    whole = chats / "session-2026-11-21T15-20-20466c86.jsonl"
    whole.write_text("a conversation\n" * 10)
    (chats / "session-2026-11-21T15-24-20466c86.jsonl").write_text("{}\n")
    other = chats / "session-2026-11-21T15-24-9ed2e306.jsonl"
    other.write_text("{}\n")
    assert await prepare(tmp_path, LATER) == ""
    assert sorted(chats.iterdir()) == [whole, other]


async def test_within_the_minute_of_its_file_it_waits_for_the_next(tmp_path: Path, chats: Path) -> None:
    (chats / "session-2026-11-21T15-30-20466c86.jsonl").write_text("a conversation\n")
    almost = LATER + 59.999
    assert "waiting for the next minute" in await prepare(tmp_path, almost, almost, LATER + 60)


async def test_a_session_without_files_is_no_trouble(tmp_path: Path) -> None:
    assert await prepare(tmp_path, LATER) == ""
