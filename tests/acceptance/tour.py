"""The tour: what every SDK's client is asked to do against a server as it ships, and what it must have seen.

A program in `programs/` gets one argument, JSON with `door` (`command`, `args`, `env`, or `url`, `headers`), `era`
(`legacy` or `modern`) and `session_id`, and prints what it saw as one JSON object. Every program connects, lists the
tools and calls some; the rest it does where its library can.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.acceptance.servers import Offhand

PROGRAMS = Path(__file__).with_name("programs")
PROTOCOLS = {"legacy": "2025-11-25", "modern": "2026-07-28"}
TOOLS = 15
TOUR_SECONDS = 90

CALLS = ("tools", "created", "task", "is_error")
"""What every client must have seen."""
RESOURCES = ("resources", "templates", "read")
PROMPTS = ("prompts", "recap")
EVERYTHING = (*CALLS, *RESOURCES, *PROMPTS, "completion", "told")


def take_tour(
    command: Sequence[str], server: Offhand, door: str, era: str, session_id: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Run a program; what it saw."""
    asked = json.dumps({"door": server.door(door), "era": era, "session_id": session_id})
    done = subprocess.run(
        [*command, asked], env=environment, capture_output=True, text=True, timeout=TOUR_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_tour(seen: Mapping[str, Any], session_id: str, sights: Sequence[str]) -> None:
    """Assert that the tour went as it must. `sights` are what this client can do."""
    assert seen.keys() >= {*sights}
    assert len(seen["tools"]) == TOOLS
    assert seen["created"]["id"] == session_id
    assert seen["created"]["created"] is True
    assert seen["task"]["status"] == "completed"
    assert seen["task"]["result"]["text"] == "hello"
    assert seen["is_error"] is True
    uri = f"session://{session_id}"
    expected = {
        "resources": lambda uris: uri in uris,
        "templates": lambda templates: len(templates) >= 8,
        "read": lambda record: record["id"] == session_id,
        "prompts": lambda names: {*names} == {"start_session", "delegate_work", "recap", "guide"},
        "recap": lambda text: session_id in text,
        "completion": lambda values: session_id in values,
        "told": lambda told: told == uri,
    }
    for sight in sights:
        assert sight in CALLS or expected[sight](seen[sight]), (sight, seen[sight])
