"""An agent whose tool is silent for long is not taken for one that hangs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mcp_server.settings import Settings
from tests.server.doors import ask, served_in_memory

AGENT = Path(__file__).parent.parent / "drivers" / "fake_acp_agent.py"
DEADLINE_SECONDS = 60
IDLE_SECONDS = 6.0
SEEN = 4
"""So often a tool is told of, a third of the idle time apart: longer than that time together."""


@pytest.fixture
def with_builder(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    builder: dict[str, Any] = {
        "kind": "acp",
        "title": "Builder",
        "program": "python3",
        "args": ["-I", "-S", str(AGENT)],
    }
    changed = {"agents": {"builder": builder}, "sandbox": "off", "idle_seconds": IDLE_SECONDS}
    return Settings.model_validate(settings.model_dump(exclude={"agents"}) | changed)


async def test_a_silent_build_goes_on_and_a_silent_model_does_not(with_builder: Settings, tmp_path: Path):
    release = tmp_path / "release"
    os.mkfifo(release)
    script = json.dumps([["work", "make", "execute", str(release)], ["say", "built"], ["wait", str(release)]])
    async with served_in_memory(with_builder) as (client, runtime):
        given = {"description": f"Build.\n{script}", "params": {"in_place": True}}
        task = await ask(client, "delegate_task", agent="builder", wait=0, **given)
        offset = seen = 0
        while seen < SEEN:
            found = await ask(client, "get_task", task_id=task["id"], output_offset=offset, wait=30)
            assert found["status"] in ("queued", "running"), found
            seen += found["output"]["text"].count("still running make\n")
            offset = found["output"]["next_offset"]
        release.write_text("")
        ended = await runtime.tasks.wait(await runtime.tasks.get(task["id"]), DEADLINE_SECONDS, lambda now: now.final)
    assert (ended.status, ended.reason) == ("failed", "idle_timeout")
