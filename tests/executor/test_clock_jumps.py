"""A clock that jumps, as on a laptop that slept or was set right: nothing is forgotten, ended early or run twice."""

from __future__ import annotations

import pytest

from mcp_server.executor import worker as worker_module
from mcp_server.settings import Settings
from tests.executor.test_worker import Clock, finished, shell
from tests.server.doors import ask, in_memory, served_in_memory
from tests.server.gate import Gate

HOUR = 3600.0


async def test_a_task_is_begun_at_its_time_though_the_machine_slept_until_then(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """The timer of the worker stood still meanwhile, and nothing else wakes it."""
    monkeypatch.setattr(worker_module, "CLOCK_LOOK_SECONDS", 0.02)
    clock = Clock()
    async with in_memory(settings, now=clock) as client:
        await ask(client, "delegate_task", agent="echo", description="late", task_id="t", run_after=HOUR, wait=0)
        before = await ask(client, "get_task", task_id="t")
        clock.forward(2 * HOUR)
        done = await finished(client, "t")

    assert before["status"] == "scheduled"
    assert done["status"] == "completed"


@pytest.mark.parametrize("seconds", [-HOUR, 30 * 24 * HOUR])
async def test_a_jump_neither_ends_what_runs_nor_starts_it_again(settings: Settings, gate: Gate, seconds: float):
    clock = Clock()
    async with in_memory(settings, now=clock) as client:
        await shell(client, f"{gate.snippet}; echo result", task_id="t", wait=0, timeout_seconds=100)
        await gate.reached()
        clock.forward(seconds)
        await ask(client, "delegate_task", agent="echo", description="stir", wait=10)
        meanwhile = await ask(client, "get_task", task_id="t")
        gate.go_on()
        done = await finished(client, "t")

    assert (meanwhile["status"], meanwhile["attempt"]) == ("running", 1)
    assert (done["status"], done["attempt"], done["result"]["stdout"]) == ("completed", 1, "result\n")


async def test_a_clock_that_goes_back_delays_what_is_scheduled_and_nothing_else(settings: Settings):
    clock = Clock()
    async with in_memory(settings, now=clock) as client:
        await ask(client, "delegate_task", agent="echo", description="later", task_id="task-2", run_after=60, wait=0)
        clock.forward(-HOUR)
        done = await ask(client, "delegate_task", agent="echo", description="now", task_id="task-3", wait=10)
        later = await ask(client, "get_task", task_id="task-2")
        clock.forward(HOUR + 61)
        await ask(client, "delegate_task", agent="echo", description="stir", wait=10)
        in_the_end = await finished(client, "task-2")

    assert done["status"] == "completed"
    assert later["status"] == "scheduled"
    assert in_the_end["status"] == "completed"


async def test_events_keep_their_order_and_the_next_server_its_tasks_though_the_clock_goes_back(settings: Settings):
    clock = Clock()
    async with in_memory(settings, now=clock) as client:
        for name in ("first", "second"):
            await ask(client, "delegate_task", agent="echo", description=name, wait=10)
            clock.forward(-HOUR)
        await ask(client, "delegate_task", agent="echo", description="third", task_id="task-3", run_after=5, wait=0)
    clock.forward(-HOUR)
    async with served_in_memory(settings, now=clock) as (client, _):
        clock.forward(2 * HOUR)
        await ask(client, "delegate_task", agent="echo", description="stir", wait=10)
        done = await finished(client, "task-3")
        listed = await ask(client, "list_tasks")

    assert done["status"] == "completed"
    assert [item["number"] for item in listed["items"]] == [4, 3, 2, 1]
