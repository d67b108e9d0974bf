"""The short form of the chaos run, with and without pid namespaces. `make chaos` is the long one."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import pytest

from tests.chaos.driver import run

pytestmark = pytest.mark.acceptance

TASKS = 60
KILLS = 14


@pytest.mark.parametrize("namespaces", [True, False], ids=["namespaces", "tree"])
async def test_after_kills_of_server_and_supervisors_every_task_and_byte_and_process_is_accounted_for(
    namespaces: bool,
):
    seed = secrets.randbelow(10**6)
    # Not in tmp_path: its name is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="oh-", ignore_cleanup_errors=True) as base:
        report = await run(Path(base), seed=seed, tasks=TASKS, kills=KILLS, namespaces=namespaces)
    print(report)
    assert not report.wrong, str(report)
    assert report.counts["tasks"] >= TASKS // 2
    assert report.kills["server"] + report.kills["supervisor"] >= KILLS
