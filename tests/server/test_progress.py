"""A client that asked for progress is told how the task goes on that its call waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client

from mcp_server.settings import Settings
from mcp_server.tools.progress import LINE_CHARACTERS, PAUSE_SECONDS
from tests.server.doors import DEADLINE_SECONDS, Door, ask, over_socket, served_in_memory
from tests.server.gate import Gate
from tests.server.processes import ServerProcess


class Heard:
    """What a progress callback got."""

    def __init__(self) -> None:
        self.counts: list[float] = []
        self.messages: list[str] = []
        self.times: list[float] = []
        self._grew = asyncio.Event()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        assert message is not None
        self.counts.append(progress)
        self.messages.append(message)
        self.times.append(asyncio.get_running_loop().time())
        self._grew.set()

    async def until(self, message: str) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while message not in self.messages:
                self._grew.clear()
                await self._grew.wait()


@asynccontextmanager
async def at_desk(connect: Door, client: Client, request: pytest.FixtureRequest) -> AsyncGenerator[Client]:
    """Who may run a shell: a client with a phone's key may not."""
    if connect.caller["level"] == "desk":
        yield client
        return
    server: ServerProcess = request.getfixturevalue("server")
    async with over_socket(server.facts["mcp_socket"]) as desk:
        yield desk


async def run(client: Client, program: str) -> str:
    """The id of a task that runs `program` in a shell."""
    made = await ask(client, "delegate_task", agent="shell", params={"command": ["sh", "-c", program]}, wait=0)
    return made["id"]


async def call(client: Client, tool: str, heard: Heard, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments, progress_callback=heard)
    assert not result.is_error, result.structured_content
    assert result.structured_content is not None
    return result.structured_content


async def test_a_call_that_waits_tells_the_state_and_the_last_line_of_the_output(
    connect: Door, gate: Gate, request: pytest.FixtureRequest
):
    heard = Heard()
    async with connect.open() as client, at_desk(connect, client, request) as desk:
        task = await run(desk, f"echo warming up; echo compiling; {gate.snippet}; echo linking >&2; {gate.snippet}")
        await gate.reached()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(call(client, "get_task", heard, task_id=task, wait=DEADLINE_SECONDS))
            await heard.until("running: compiling")
            gate.go_on()
            await gate.reached()
            await heard.until("running: linking")
            gate.go_on()
        assert waiting.result()["status"] == "completed"
    assert heard.counts == [float(number) for number in range(1, len(heard.counts) + 1)]


async def test_delegating_tells_the_states_of_the_new_task(connect: Door):
    heard = Heard()
    async with connect.open() as client:
        done = await call(client, "delegate_task", heard, agent="echo", description="x", params={"sleep": 0.6}, wait=15)
    assert done["status"] == "completed"
    assert "running" in heard.messages
    assert set(heard.messages) <= {"queued", "running", "running: x", "completed: x"}


async def test_progress_comes_at_most_four_times_a_second_and_a_long_line_is_cut(settings: Settings, gate: Gate):
    heard = Heard()
    async with served_in_memory(settings) as (client, runtime):
        task = await run(
            client,
            f"{gate.snippet}; for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.1; done; "
            "printf '%0500d\\n' 7; " + gate.snippet,
        )
        await gate.reached()
        async with asyncio.TaskGroup() as group:
            group.create_task(call(client, "get_task", heard, task_id=task, wait=DEADLINE_SECONDS))
            gate.go_on()
            await gate.reached()
            await heard.until(f"running: {'0' * (LINE_CHARACTERS - 1)}…")
            gate.go_on()
        assert runtime.live.subscriptions == 0
    between = [later - sooner for sooner, later in zip(heard.times, heard.times[1:], strict=False)]
    assert min(between) >= PAUSE_SECONDS * 0.9


async def test_who_did_not_ask_for_progress_is_not_followed_for_it(settings: Settings, gate: Gate):
    async with served_in_memory(settings) as (client, runtime):
        task = await run(client, gate.snippet)
        await gate.reached()
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(client, "get_task", task_id=task, wait=DEADLINE_SECONDS))
            heard = Heard()
            group.create_task(call(client, "get_task", heard, task_id=task, wait=DEADLINE_SECONDS))
            await heard.until("running")
            assert runtime.live.subscriptions == 1
            gate.go_on()
