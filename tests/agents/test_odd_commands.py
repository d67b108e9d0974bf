"""What an agent asks for can hold what no store keeps; what the user allows is that, and it is asked about once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_server.callers import DESK, calling_as
from mcp_server.drivers.job import Job
from mcp_server.drivers.permissions import ToolRequest
from mcp_server.fingerprint import DEPTH_LIMIT, fingerprint
from mcp_server.settings import Settings
from tests.server.doors import ask, served_in_memory

AGENT = Path(__file__).parent.parent / "drivers" / "fake_acp_agent.py"
DEADLINE_SECONDS = 45


@pytest.fixture
def with_asker(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings with an agent that asks for each command that it is told."""
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    asker: dict[str, Any] = {"kind": "acp", "title": "Asker", "program": "python3", "args": ["-I", "-S", str(AGENT)]}
    given = settings.model_dump(exclude={"agents"}) | {"agents": {"asker": asker}, "sandbox": "off"}
    return Settings.model_validate(given)


@pytest.mark.parametrize("command", ["push \ud800", "push \0 \x1b[2J", "push ?"])
async def test_what_was_allowed_is_not_asked_about_again(with_asker: Settings, workspace: Path, command: str):
    script = json.dumps([["run", command, ""], ["say", "done"]])
    async with served_in_memory(with_asker) as (client, runtime):
        task = await ask(
            client,
            "delegate_task",
            agent="asker",
            description=f"Do this.\n{script}",
            params={"in_place": True},
            wait=45,
        )
        assert task["status"] == "waiting_approval", task
        approval = await runtime.approvals.get(task["approval"]["id"])
        assert approval.hash == fingerprint(approval.action)
        with calling_as(DESK):
            await runtime.approvals.decide(approval.id, "approve", approval.hash)
        done = await runtime.tasks.wait(
            await runtime.tasks.get(task["id"]),
            DEADLINE_SECONDS,
            lambda now: now.final or (now.status, now.attempt) == ("waiting_approval", 2),
        )
    assert (done.status, done.result and done.result["text"]) == ("completed", "done"), done


def action(given: dict[str, Any]) -> dict[str, Any]:
    job = Job(
        driver="x",
        agent="probe",
        title="Probe",
        program=("/bin/probe",),
        prompt="x",
        task_id="t",
        task_number=1,
        folder="/",
    )
    return ToolRequest("Bash", "command", given, "/").action(job)


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


def test_commands_that_are_kept_alike_are_not_the_same():
    kept = [action({"command": f"rm {name}"}) for name in ("?", "\ud800", "\ud801", "\ufffd", "\0")]
    assert len({fingerprint(each) for each in kept}) == len(kept)
    assert [each["input"]["command"] for each in kept] == ["rm ?", "rm ?", "rm ?", "rm \ufffd", "rm \ufffd"]
    assert "exact" not in kept[0]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), nested(DEPTH_LIMIT), nested(400), {"\0": ["\ud800"]}])
def test_any_input_can_be_written_down_and_recognised(value: Any):
    first, second = action({"command": value}), action({"command": value})
    assert fingerprint(first) == fingerprint(json.loads(json.dumps(second)))
    assert first["exact"]
