"""What a coding agent's driver writes down, followed while it works: told, remembered, judged; and how it pauses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError

from mcp_server.agent import Availability
from mcp_server.attempts import Attempts, RecordsRead
from mcp_server.callers import DESK, calling_as
from mcp_server.clock import MICROSECONDS
from mcp_server.drivers.records import DIFF_NAME
from mcp_server.errors import StoreFullError, UnavailableError
from mcp_server.executor import attempt as attempt_module
from mcp_server.executor import availability
from mcp_server.executor import records as records_module
from mcp_server.runtime import Runtime
from mcp_server.settings import Settings
from mcp_server.store.database import Event
from mcp_server.tasks import Status, Task
from mcp_server.values import CONTENT_LIMIT_BYTES
from tests.executor.recorder import BESIDE, Recorder, asks, diff, end, raw, record
from tests.executor.test_worker import Clock, finished
from tests.server.doors import ask, over_socket, served_in_memory
from tests.server.gate import Gate
from tests.server.processes import Place, ServerProcess
from tests.server.test_progress import Heard, call

DEADLINE_SECONDS = 20.0
CHANGES = "--- a\n+++ b\n"


@asynccontextmanager
async def served(settings: Settings, **options: Any) -> AsyncGenerator[tuple[Client, Runtime, list[Event]]]:
    """A client, the runtime, and every event from then on."""
    async with served_in_memory(settings, **options) as (client, runtime):
        told: list[Event] = []
        runtime.events.listen(told.append)
        yield client, runtime, told


async def run(client: Client, script: str, **more: Any) -> dict[str, Any]:
    return await ask(client, "delegate_task", agent="recorder", params={"script": script}, **more)


async def until(runtime: Runtime, task_id: str, *statuses: Status, attempt: int = 0) -> Task:
    """The task once it is in one of these states."""
    task = await runtime.tasks.wait(
        await runtime.tasks.get(task_id),
        DEADLINE_SECONDS,
        lambda now: now.status in statuses and now.attempt >= attempt,
    )
    assert task.status in statuses, task
    return task


def said(told: list[Event]) -> list[str]:
    return [event.data["progress"] for event in told if event.kind == "task.progress"]


def written_down(place: Place) -> list[str]:
    """All progress in the log of a store that nobody has open."""
    connection = sqlite3.connect(place.home / "offhand.db")
    query = "SELECT data ->> 'progress' FROM event WHERE kind = 'task.progress' ORDER BY sequence"
    found = [row[0] for row in connection.execute(query)]
    connection.close()
    return found


def progress(say: str) -> str:
    return record("progress", say=say)


async def decide(runtime: Runtime, task_id: str, decision: Any) -> None:
    pending = await runtime.approvals.pending_of(await runtime.tasks.get(task_id))
    assert pending is not None
    with calling_as(DESK):
        await runtime.approvals.decide(pending.id, decision, pending.hash)


# Following


async def test_progress_is_seen_while_the_agent_works_and_each_piece_is_told_once(
    settings: Settings, recorder: Recorder, gate: Gate
):
    script = (
        f"{progress('reading')}; {progress('editing app.py')}; echo x; {gate.snippet}; {progress('testing')}; {end()}"
    )
    async with served(settings) as (client, runtime, told):
        task = await run(client, script, wait=0)
        await gate.reached()
        working = await runtime.tasks.wait(
            await runtime.tasks.get(task["id"]), DEADLINE_SECONDS, lambda now: now.progress == "editing app.py"
        )
        gate.go_on()
        done = await finished(client, task["id"])
    assert (working.status, working.progress) == ("running", "editing app.py")
    assert said(told) == ["reading", "editing app.py", "testing"]
    assert (done["status"], done["progress"], done["result"]["text"]) == ("completed", None, "All done.")


async def test_a_call_that_waits_is_told_what_the_agent_does_rather_than_its_output(
    settings: Settings, recorder: Recorder, gate: Gate
):
    heard = Heard()
    async with served(settings) as (client, _, _):
        task = await run(client, f"echo a line; {progress('editing app.py')}; {gate.snippet}; {end()}", wait=0)
        await gate.reached()
        async with asyncio.TaskGroup() as group:
            group.create_task(call(client, "get_task", heard, task_id=task["id"], wait=DEADLINE_SECONDS))
            await heard.until("running: editing app.py")
            gate.go_on()


async def test_the_agent_judges_by_all_of_its_records_but_progress(settings: Settings, recorder: Recorder):
    usage = record("usage", model="m-1", turns=3, input_tokens=10, output_tokens=5, cost_usd=0.25)
    denied = record("denied", tool="Bash", input="{}", why="not allowed")
    script = f"{progress('x')}; {record('state', state={'session': 's-1'})}; {usage}; {denied}; {end()}"
    async with served(settings) as (client, _, _):
        done = await run(client, script, wait=20)
    assert [each["type"] for each in recorder.ended[0].records] == ["state", "usage", "denied", "end"]
    shown = {name: done["result"].get(name) for name in ("agent_conversation_id", "model", "turns", "cost_usd")}
    assert shown == {"agent_conversation_id": "s-1", "model": "m-1", "turns": 3, "cost_usd": 0.25}
    assert done["result"]["denials"] == [{"tool": "Bash", "input": "{}", "why": "not allowed"}]


async def test_a_damaged_file_ends_the_task_by_what_can_be_read(settings: Settings, recorder: Recorder):
    async with served(settings) as (client, _, told):
        rubbish = raw("}{\n[1]\n\n")
        done = await run(client, f"{rubbish}; {progress('x')}; {rubbish}; {end()}; {raw('{half')}", wait=20)
        none = await run(client, f"{rubbish}; echo what it said", wait=20, max_attempts=1)
    assert done["status"] == "completed"
    assert said(told) == ["x"]
    assert (none["status"], none["reason"]) == ("failed", "no_result")
    assert "what it said" in none["result"]["text"]


async def test_a_server_that_comes_later_tells_and_remembers_the_rest_and_nothing_twice(
    settings: Settings, recorder: Recorder, gate: Gate, place: Place
):
    state = record("state", state={"session": "s-1", "n": 1})
    half = raw('{"type": "progress", "s')
    rest = raw('ay": "three"}\n')
    script = (
        f"{progress('one')}; {state}; {record('usage', turns=1)}; {half}; echo x; {gate.snippet}; "
        f"{rest}; {progress('four')}; {record('state', state={'n': 2})}; {end()}"
    )
    async with served(settings) as (client, runtime, told):
        task = await run(client, script, wait=0)
        await gate.reached()
        await runtime.tasks.wait(
            await runtime.tasks.get(task["id"]), DEADLINE_SECONDS, lambda now: now.progress == "one"
        )
    gate.go_on()
    async with served(settings) as (client, runtime, _):
        done = await finished(client, task["id"])
        found = await runtime.tasks.get(task["id"])
        kept = await runtime.worker.attempts.state(found)
    assert said(told) == ["one"]
    assert written_down(place) == ["one", "three", "four"]
    assert (done["status"], done["attempt"], done["result"]["turns"]) == ("completed", 1, 1)
    assert kept == {"session": "s-1", "n": 2}
    assert [each["type"] for each in recorder.ended[0].records] == ["state", "usage", "state", "end"]


async def test_records_wait_for_a_full_disk_and_are_told_once(
    settings: Settings, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
):
    keep, failures = Attempts.keep_records, 0

    async def full(self: Attempts, task: Task, read: RecordsRead) -> None:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise StoreFullError("The disk is full.")
        await keep(self, task, read)

    monkeypatch.setattr(Attempts, "keep_records", full)
    monkeypatch.setattr(attempt_module, "FINISH_RETRY_SECONDS", 0.01)
    async with served(settings) as (client, _, told):
        done = await run(client, f"{progress('one')}; {progress('two')}; {end()}", wait=20)
    assert done["status"] == "completed"
    assert said(told) == ["one", "two"]
    assert failures >= 3


async def test_an_order_has_what_the_conversation_remembers(settings: Settings, recorder: Recorder, place: Place):
    async with served(settings) as (client, runtime, _):
        first = await run(client, f"{record('state', state={'session': 's-1'})}; {end()}", wait=20, task_id="first")
        recorder.scripts = [f"{record('state', state={'branch': 'b'})}; {end()}", end()]
        second = await ask(client, "continue_task", task_id="first", message="And then?", wait=20)
        third = await ask(client, "continue_task", task_id=second["id"], message="And then?", wait=20)
        assert await runtime.tasks.has_state("first")
    assert third["status"] == "completed"
    assert [order.state for order in recorder.orders] == [{}, {"session": "s-1"}, {"session": "s-1", "branch": "b"}]
    assert {order.clone for order in recorder.orders} == {place.home / "clones" / str(first["number"])}
    assert [order.task_id for order in recorder.orders] == ["first", second["id"], third["id"]]
    assert [order.number for order in recorder.orders] == [first["number"], second["number"], third["number"]]
    assert not any(order.resumed for order in recorder.orders)


async def test_what_is_no_driver_is_told_of_no_file(settings: Settings, recorder: Recorder):
    async with served(settings) as (client, _, _):
        done = await ask(client, "delegate_task", agent="shell", params={"command": ["env"]}, wait=20)
    assert "OFFHAND_RECORDS" not in done["result"]["stdout"]


async def test_how_it_ended_counts_also_after_more_records_than_are_read(
    settings: Settings, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records_module, "FILE_LIMIT_BYTES", 100)
    script = f"{progress('one ' * 30)}; {progress('two')}; {end()}"
    async with served(settings) as (client, _, told):
        done = await run(client, script, wait=20)
    assert (done["status"], said(told)) == ("completed", [])


# Pauses


async def test_a_question_waits_for_the_user_and_then_the_task_goes_on_with_what_was_granted(
    settings: Settings, recorder: Recorder
):
    used = record("usage", turns=1, cost_usd=0.5)
    recorder.scripts = [
        f"{progress('looking')}; {used}; {asks()}",
        f"{record('usage', turns=2, cost_usd=0.25)}; {end()}",
    ]
    async with served(settings) as (client, runtime, told):
        task = await run(client, "unused", wait=0, max_attempts=1)
        waiting = await until(runtime, task["id"], "waiting_approval")
        approval = await runtime.approvals.pending_of(waiting)
        assert approval is not None
        assert (approval.about, approval.action["argv"], approval.say) == ("tool", ["make"], "May I run make?")
        running = runtime.worker.running
        await decide(runtime, task["id"], "approve")
        done = await finished(client, task["id"])
    assert (waiting.reason, waiting.progress, waiting.result) == ("asks", None, None)
    assert running == 0
    assert (done["status"], done["attempt"], done["result"]["turns"]) == ("completed", 2, 3)
    assert done["result"]["cost_usd"] == 0.75, "of both attempts"
    used_each = [each["usage"] for each in done["attempts"]]
    assert used_each == [{"turns": 1, "cost_usd": 0.5}, {"turns": 2, "cost_usd": 0.25}]
    assert [order.granted for order in recorder.orders] == [(), (approval.hash,)]
    assert [order.resumed for order in recorder.orders] == [False, True]
    assert [event.kind for event in told if event.kind.startswith("approval")] == ["approval.asked", "approval.decided"]


async def test_a_question_that_is_denied_cancels_the_task(settings: Settings, recorder: Recorder):
    async with served(settings) as (client, runtime, _):
        task = await run(client, f"{record('work', clone='/clones/1/work', files=[])}; {asks()}", wait=0)
        await until(runtime, task["id"], "waiting_approval")
        await decide(runtime, task["id"], "deny")
        denied = await finished(client, task["id"])
    (attempt,) = denied["attempts"]
    assert attempt["clone"] == "/clones/1/work"
    assert "usage" not in attempt
    assert (denied["status"], denied["reason"], len(recorder.orders)) == ("cancelled", "denied", 1)


async def test_a_question_outlives_the_server(settings: Settings, recorder: Recorder):
    recorder.scripts = [asks(), end()]
    async with served(settings) as (client, runtime, _):
        task = await run(client, "unused", wait=0)
        await until(runtime, task["id"], "waiting_approval")
    async with served(settings) as (client, runtime, _):
        await decide(runtime, task["id"], "approve")
        done = await finished(client, task["id"])
    assert (done["status"], done["attempt"]) == ("completed", 2)


async def test_a_question_without_a_shape_is_no_question(settings: Settings, recorder: Recorder):
    async with served(settings) as (client, _, _):
        for broken in (asks(action="rm -rf /"), asks(about="task"), end("asks")):
            failed = await run(client, broken, wait=20, max_attempts=1)
            assert failed["status"] == "failed"


async def test_a_quota_parks_the_task_until_the_named_time(settings: Settings, recorder: Recorder):
    clock = Clock()
    until_then = clock.now / MICROSECONDS + 3600
    recorder.scripts = [f"{progress('x')}; {end('quota', 'Come back later.', until=until_then)}", end()]
    async with served(settings, now=clock) as (client, runtime, _):
        task = await run(client, "unused", wait=0, max_attempts=1)
        parked = await until(runtime, task["id"], "scheduled")
        clock.forward(3600)
        await ask(client, "delegate_task", agent="echo", description="stir", wait=0)
        done = await finished(client, task["id"])
    assert (parked.reason, parked.run_after) == ("quota", round(until_then * MICROSECONDS))
    assert (done["status"], done["attempt"]) == ("completed", 2)
    assert [order.resumed for order in recorder.orders] == [False, True]


async def test_a_quota_without_a_time_is_waited_for_longer_each_time(settings: Settings, recorder: Recorder):
    clock = Clock()
    delays: list[float] = []
    async with served(settings, now=clock) as (client, runtime, _):
        task = await run(client, end("quota", "Later."), wait=0)
        for attempt in (1, 2, 3):
            parked = await until(runtime, task["id"], "scheduled", attempt=attempt)
            assert parked.run_after is not None
            delays.append((parked.run_after - clock.now) / MICROSECONDS)
            clock.forward(delays[-1] + 1)
            await ask(client, "delegate_task", agent="echo", description="stir", wait=0)
        await ask(client, "update_task", task_id=task["id"], action="cancel", wait=20)
    assert [900 * 0.75 <= delays[0] <= 900 * 1.25, 1800 * 0.75 <= delays[1] <= 1800 * 1.25] == [True, True]
    assert 3600 * 0.75 <= delays[2] <= 3600 * 1.25


# What is known of work that did not come to its end


async def test_what_was_reported_before_a_timeout_is_in_the_result(settings: Settings, recorder: Recorder, gate: Gate):
    known = f"{record('state', state={'session': 's-1'})}; {record('usage', turns=2, model='m')}; {diff('+a')}"
    async with served(settings) as (client, runtime, _):
        task = await run(client, f"{known}; {gate.snippet}", timeout_seconds=1, wait=20, session_id=None)
        kept = await runtime.artifacts.get(task["result"]["diff"])
    assert (task["status"], task["reason"]) == ("failed", "timeout")
    assert "longer than 1 seconds" in task["result"]["text"]
    shown = {name: task["result"][name] for name in ("agent_conversation_id", "turns", "model", "branch")}
    assert shown == {"agent_conversation_id": "s-1", "turns": 2, "model": "m", "branch": "offhand/x"}
    assert kept["content"] == "+a"


async def test_what_was_reported_before_a_cancel_is_in_the_result(settings: Settings, recorder: Recorder, gate: Gate):
    async with served(settings) as (client, _, _):
        task = await run(client, f"{record('usage', turns=2)}; {diff('+a')}; {gate.snippet}", wait=0)
        await gate.reached()
        cancelled = await ask(client, "update_task", task_id=task["id"], action="cancel", wait=20)
    assert (cancelled["status"], cancelled["result"]["turns"]) == ("cancelled", 2)
    assert cancelled["result"]["diff"] == f"task-{cancelled['number']}-1-diff"


async def test_what_was_reported_before_an_interruption_is_in_the_result(
    settings: Settings, recorder: Recorder, gate: Gate
):
    async with served(settings) as (client, runtime, _):
        task = await run(client, f"{record('usage', turns=2)}; {gate.snippet}", wait=0, max_attempts=1)
        await gate.reached()
        (pid,) = runtime.worker.supervisor_pids()
        os.kill(pid, signal.SIGKILL)
        lost = await finished(client, task["id"])
    assert (lost["status"], lost["reason"], lost["result"]["turns"]) == ("failed", "interrupted", 2)


async def test_what_was_used_counts_over_all_attempts(settings: Settings, recorder: Recorder):
    failing = f"{record('usage', turns=1, input_tokens=10)}; {end('failed', 'Busy.', may_pass=True)}"
    recorder.scripts = [failing, f"{record('usage', turns=2, input_tokens=5)}; {end()}"]
    clock = Clock()
    async with served(settings, now=clock) as (client, runtime, _):
        task = await run(client, "unused", wait=0)
        await until(runtime, task["id"], "scheduled")
        clock.forward(60)
        await ask(client, "delegate_task", agent="echo", description="stir", wait=0)
        done = await finished(client, task["id"])
    assert (done["result"]["turns"], done["result"]["input_tokens"]) == (3, 15)
    assert "cost_usd" not in done["result"]


# The diff


async def test_the_diff_becomes_an_artifact_of_the_task_in_its_session(settings: Settings, recorder: Recorder):
    async with served(settings) as (client, runtime, _):
        await ask(client, "create_session", session_id="walks")
        done = await run(client, f"{diff(CHANGES)}; {end()}", session_id="walks", wait=20)
        found = await runtime.artifacts.get(done["result"]["diff"])
    assert (found["task_id"], found["session_id"], found["type"]) == (done["id"], "walks", "text/x-diff")
    assert found["content"] == CHANGES
    assert found["created_by"]["level"] == "desk"


async def test_a_diff_that_is_too_long_is_cut_and_it_is_said(settings: Settings, recorder: Recorder):
    size = CONTENT_LIMIT_BYTES + 1000
    long = f"head -c {size} /dev/zero | tr '\\0' x > {BESIDE}/{DIFF_NAME}"
    async with served(settings) as (client, runtime, _):
        done = await run(client, f"{long}; {end()}", wait=20)
        found = await runtime.artifacts.get(done["result"]["diff"])
    assert found["size"] <= CONTENT_LIMIT_BYTES
    assert found["content"].endswith(f"[cut: {done['result']['diff_bytes_cut']} bytes more]\n")


async def test_an_id_that_somebody_took_does_not_lose_the_diff(settings: Settings, recorder: Recorder):
    async with served(settings) as (client, runtime, _):
        await ask(client, "add_artifact", artifact_id="task-1-1-diff", name="mine", content="mine")
        done = await run(client, f"{diff('+a')}; {end()}", wait=20)
        found = await runtime.artifacts.get(done["result"]["diff"])
        mine = await runtime.artifacts.get("task-1-1-diff")
    assert (found["content"], found["task_id"], mine["content"]) == ("+a", done["id"], "mine")


async def test_a_link_in_place_of_the_diff_is_not_followed(settings: Settings, recorder: Recorder, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    async with served(settings) as (client, _, _):
        done = await run(client, f"ln -s {secret} {BESIDE}/{DIFF_NAME}; {end()}", wait=20)
    assert done["status"] == "completed"
    assert "diff" not in done["result"]


# Agents that come and go


async def test_an_agent_that_appears_starts_what_is_queued_for_it_and_one_that_disappears_is_told_of(
    settings: Settings, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(availability, "AGENT_LOOK_SECONDS", 0.01)
    missing = Availability(installed=False, missing="recorder is not on PATH")
    recorder.available = missing
    async with served(settings) as (client, runtime, told):
        task = await run(client, end(), wait=0)
        assert (task["status"], task["reason"]) == ("queued", "agent_not_installed")
        recorder.found = Availability(installed=True, version="1.2", notes=("runs without a sandbox",))
        done = await finished(client, task["id"])
        (shown,) = [item for item in (await ask(client, "list_agents"))["items"] if item["name"] == "recorder"]
        runtime.worker.limits.change(recorder, 0)
        held = await run(client, end(), wait=0)
        with runtime.events.watch("agent://recorder") as changed:
            recorder.found = missing
            await asyncio.wait_for(changed.wait(), DEADLINE_SECONDS)
        waiting = await runtime.tasks.wait(
            await runtime.tasks.get(held["id"]), DEADLINE_SECONDS, lambda now: now.reason is not None
        )
    assert done["status"] == "completed"
    assert (shown["ready"], shown["version"], shown["notes"]) == (True, "1.2", ["runs without a sandbox"])
    kinds = [event.kind for event in told if event.kind.startswith("agent.")]
    assert kinds == ["agent.appeared", "agent.disappeared"]
    assert (held["reason"], waiting.reason) == (None, "agent_not_installed")


async def test_an_agent_that_is_installed_but_lacks_something_begins_nothing_and_says_what(
    settings: Settings, recorder: Recorder
):
    recorder.available = Availability(installed=True, missing="bubblewrap is not installed")
    async with served(settings) as (client, _, _):
        task = await run(client, end(), wait=0)
        (shown,) = [item for item in (await ask(client, "list_agents"))["items"] if item["name"] == "recorder"]
        after = await ask(client, "get_task", task_id=task["id"], wait=0)
    assert (shown["installed"], shown["ready"], shown["missing"]) == (True, False, "bubblewrap is not installed")
    assert after["status"] == "queued"
    assert recorder.orders == []


async def test_an_agent_whose_look_fails_or_takes_long_harms_nobody(
    settings: Settings, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(_: Recorder) -> None:
        raise RuntimeError("a fault in look")

    monkeypatch.setattr(Recorder, "look", broken)
    async with served(settings) as (client, _, _):
        done = await run(client, end(), wait=20)
    assert done["status"] == "completed"
    assert "a fault in look" in caplog.text


async def test_an_agent_that_went_between_claim_and_start_costs_no_attempt(settings: Settings, recorder: Recorder):
    invocation = recorder.invocation

    def gone(order: Any) -> Any:
        recorder.available = Availability(installed=False, missing="gone")
        recorder.invocation = invocation  # type: ignore[method-assign]
        raise UnavailableError("recorder is gone")

    recorder.invocation = gone  # type: ignore[method-assign]
    async with served(settings) as (client, runtime, _):
        task = await run(client, end(), wait=0)
        waiting = await runtime.tasks.wait(
            await runtime.tasks.get(task["id"]), DEADLINE_SECONDS, lambda now: now.reason == "agent_not_installed"
        )
    assert (waiting.status, waiting.attempt) == ("queued", 0)


# A server that is killed


def command_agent(folder: Path, program: str) -> dict[str, str]:
    """The variables by which a server knows `scribe`, which runs this shell program and prints lines of JSON."""
    script = folder / "scribe"
    script.write_text(f"#!/bin/sh\n{program}\n")
    script.chmod(0o755)
    fields = {"progress": "say", "conversation": "id", "answer": "answer", "success": "ok", "turns": "turns"}
    scribe = {"kind": "command", "program": str(script), "output": "jsonl", "fields": fields, "continue_args": []}
    return {"OFFHAND_AGENTS": json.dumps({"scribe": scribe}), "OFFHAND_SANDBOX": "off"}


async def test_killing_the_server_while_a_coding_agent_works_loses_no_record_and_tells_none_twice(
    place: Place, tmp_path: Path, gate: Gate
):
    told = [{"say": f"step {number}"} for number in range(4)]
    words = [
        f"echo '{json.dumps(each)}'" for each in [{"id": "c-1", "turns": 1}, *told, {"answer": "Done.", "ok": True}]
    ]
    variables = command_agent(tmp_path, "\n".join([*words[:3], gate.snippet, words[3], gate.snippet, *words[4:]]))
    servers: list[ServerProcess] = []

    async def serve(client_does: Callable[[Client], Awaitable[None]]) -> None:
        server = ServerProcess.start(place, **variables)
        servers.append(server)
        async with over_socket(server.facts["mcp_socket"]) as client:
            await client_does(client)
            server.kill()

    async def begin(client: Client) -> None:
        await ask(
            client,
            "delegate_task",
            agent="scribe",
            description="Write.",
            params={"in_place": True},
            workspace="work",
            task_id="t",
            wait=0,
        )
        await gate.reached()

    async def go_on(client: Client) -> None:
        gate.go_on()
        await gate.reached()

    async def collect(client: Client) -> None:
        gate.go_on()
        ended.append(await finished(client, "t"))

    ended: list[dict[str, Any]] = []
    try:
        for step in (begin, go_on, collect):
            with suppress(MCPError):
                await serve(step)
    finally:
        for server in servers:
            server.close()
    (done,) = ended
    assert (done["status"], done["attempt"], done["result"]["text"]) == ("completed", 1, "Done.")
    assert (done["result"]["agent_conversation_id"], done["result"]["turns"]) == ("c-1", 1)
    assert [each for each in written_down(place) if each.startswith("step")] == [each["say"] for each in told]
