"""The life of a task, as a client sees it through the tools: started, followed, ended, tried again."""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from mcp_server.attempts import Attempts
from mcp_server.callers import DESK, calling_as
from mcp_server.clock import MICROSECONDS, from_iso
from mcp_server.executor.attempt_folder import AttemptFolder
from mcp_server.settings import Settings
from mcp_server.tasks import Task
from tests.server.doors import ask, in_memory, refused, served_in_memory
from tests.server.gate import Gate
from tests.server.processes import Place

FINAL = {"completed", "failed", "cancelled"}
DEADLINE_SECONDS = 20.0


async def shell(client: Client, program: str, **more: Any) -> dict[str, Any]:
    """Delegate a small shell program."""
    return await ask(client, "delegate_task", agent="shell", params={"command": ["sh", "-c", program]}, **more)


async def finished(client: Client, task_id: str) -> dict[str, Any]:
    """The task once it is at its end."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            task = await ask(client, "get_task", task_id=task_id, wait=10)
            if task["status"] in FINAL:
                return task


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * MICROSECONDS

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += round(seconds * MICROSECONDS)


async def stir(client: Client) -> None:
    """Have the worker look at its queue, as every change does."""
    await ask(client, "delegate_task", agent="echo", description="stir", wait=0)


async def test_what_was_being_claimed_when_draining_began_goes_back_to_the_queue(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    claim = Attempts.claim

    async with served_in_memory(settings) as (client, runtime):

        async def claim_late(self: Attempts, agents: Iterable[str]) -> Task | None:
            task = await claim(self, agents)
            runtime.worker.drain()
            return task

        monkeypatch.setattr(Attempts, "claim", claim_late)
        before = await shell(client, "echo t >> runs", task_id="t", wait=0.5)
        await asyncio.wait_for(runtime.worker.drained(), DEADLINE_SECONDS)
    monkeypatch.setattr(Attempts, "claim", claim)
    async with in_memory(settings) as client:
        done = await finished(client, "t")

    assert (before["status"], before["attempt"]) == ("queued", 0)
    assert (done["status"], done["attempt"]) == ("completed", 1)


# Ends


async def test_a_program_that_ends_well_is_completed(settings: Settings):
    async with in_memory(settings) as client:
        done = await shell(client, "echo out; echo err >&2")

    assert done["status"] == "completed"
    assert done["reason"] is None
    assert done["result"]["stdout"] == "out\n"
    assert done["result"]["stderr"] == "err\n"
    assert done["result"]["returncode"] == 0
    assert done["workspace"] == "work"


async def test_a_program_works_in_its_workspace_and_has_only_the_environment_that_is_due(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECRET_OF_MINE", "hunter2")
    monkeypatch.setenv("PASSED_ON", "yes")
    passing = settings.model_copy(update={"pass_env": ("PASSED_ON",)})
    async with in_memory(passing) as client:
        done = await shell(client, "pwd; env")

    lines = done["result"]["stdout"].splitlines()
    assert lines[0] == str(place.workspace)
    assert "PASSED_ON=yes" in lines
    assert "hunter2" not in done["result"]["stdout"]
    assert not any(line.startswith("OFFHAND_HOME=") for line in lines)


async def test_a_program_gets_nothing_on_stdin(settings: Settings):
    async with in_memory(settings) as client:
        done = await shell(client, "cat; echo end")

    assert done["result"]["stdout"] == "end\n"


async def test_a_program_that_fails_is_failed_at_once_and_not_tried_again(settings: Settings, place: Place):
    async with in_memory(settings) as client:
        failed = await shell(client, "echo x >> tries; echo broken >&2; exit 3")
        found = await ask(client, "get_task", task_id=failed["id"])

    assert failed["status"] == "failed"
    assert failed["reason"] == "exit_code"
    assert failed["result"]["returncode"] == 3
    assert failed["attempt"] == 1
    assert "broken" in failed["say"]
    assert [(each["status"], each["returncode"]) for each in found["attempts"]] == [("failed", 3)]
    assert (place.workspace / "tries").read_text() == "x\n"


async def test_a_program_that_is_killed_is_failed_with_the_reason(settings: Settings):
    async with in_memory(settings) as client:
        failed = await shell(client, "kill -9 $$")

    assert (failed["status"], failed["reason"], failed["result"]["returncode"]) == ("failed", "signal", -9)


async def test_a_program_that_cannot_be_started_is_failed_and_said(settings: Settings, tmp_path: Path):
    program = tmp_path / "broken"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    async with in_memory(settings) as client:
        failed = await ask(client, "delegate_task", agent="shell", params={"command": [str(program)]})

    assert (failed["status"], failed["reason"]) == ("failed", "spawn_failed")
    assert failed["say"] == "The program could not be started."


async def test_a_program_that_takes_too_long_is_ended_with_all_its_children(
    settings: Settings, gate: Gate, place: Place
):
    async with in_memory(settings) as client:
        failed = await shell(client, f"({gate.snippet}) & {gate.wait}", timeout_seconds=0.3)
        left = processes_of_tasks(place)

    assert (failed["status"], failed["reason"]) == ("failed", "timeout")
    assert "0.3 seconds" in failed["say"]
    assert failed["attempt"] == 1
    assert not left


async def test_a_program_that_says_nothing_for_too_long_is_ended(settings: Settings, gate: Gate):
    quiet = settings.model_copy(update={"idle_seconds": 0.3})
    async with in_memory(quiet) as client:
        failed = await shell(client, gate.snippet)

    assert (failed["status"], failed["reason"]) == ("failed", "idle_timeout")


async def test_a_workspace_that_vanished_in_the_queue_is_a_failure_and_no_hang(
    settings: Settings, gate: Gate, place: Place
):
    one = settings.model_copy(update={"limit": 1})
    folder = place.workspace / "sub"
    folder.mkdir()
    async with in_memory(one) as client:
        await shell(client, gate.snippet, wait=0)
        await gate.reached()
        queued = await shell(client, "echo never", working_dir="sub", wait=0)
        folder.rmdir()
        gate.go_on()
        failed = await finished(client, queued["id"])

    assert failed["status"] == "failed"
    assert failed["reason"] in ("spawn_failed", "invalid")
    assert failed["say"]


async def test_a_fault_in_an_agent_ends_its_task_and_does_not_leave_it_running(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from mcp_server.agents.echo import EchoAgent

    def broken(*_: object) -> None:
        raise RuntimeError("a fault in the agent")

    monkeypatch.setattr(EchoAgent, "judge", broken)
    async with in_memory(settings) as client:
        async with asyncio.timeout(DEADLINE_SECONDS):
            failed = await ask(client, "delegate_task", agent="echo", description="x", wait=10)

    assert failed["status"] == "failed"
    assert failed["reason"] == "internal"
    assert "a fault in the agent" in caplog.text


# Cancelling


def processes_of_tasks(place: Place) -> list[str]:
    """What lives of tasks, their supervisors not counted: those leave a moment after the end is written."""
    return [line for line in place.task_processes().values() if "/attempts/" not in line]


async def test_cancelled_is_said_only_when_nothing_of_the_tree_is_alive(settings: Settings, gate: Gate, place: Place):
    """The program is asked to end, says that it heard, and takes its time: until then it is `cancelling`."""
    stubborn = (
        f"trap '{gate.tell('asked')}; {gate.wait}; exit 0' TERM; {gate.tell('here')}; while :; do {gate.wait}; done"
    )
    async with in_memory(settings) as client:
        task = await shell(client, stubborn, wait=0)
        await gate.reached()
        asked = await ask(client, "update_task", task_id=task["id"], action="cancel", wait=0)
        await gate.reached("asked")
        meanwhile = await ask(client, "get_task", task_id=task["id"])
        alive = processes_of_tasks(place)
        gate.go_on()
        cancelled = await finished(client, task["id"])
        left = processes_of_tasks(place)

    assert asked["status"] == meanwhile["status"] == "cancelling"
    assert "being cancelled" in asked["say"]
    assert alive
    assert cancelled["status"] == "cancelled"
    assert cancelled["reason"] == "cancelled_by_user"
    assert "Nothing of it is running" in cancelled["say"]
    assert not left


async def test_cancel_ends_children_that_left_the_group_and_forked_twice(settings: Settings, gate: Gate, place: Place):
    forks_again = f"(setsid sh -c {shlex.quote(gate.snippet)} &)"
    hidden = f"setsid sh -c {shlex.quote(forks_again)}; {gate.wait}"
    async with in_memory(settings) as client:
        task = await shell(client, hidden, wait=0)
        await gate.reached()
        before = processes_of_tasks(place)
        cancelled = await ask(client, "update_task", task_id=task["id"], action="cancel", wait=20)
        left = processes_of_tasks(place)

    assert len(before) >= 2
    assert cancelled["status"] == "cancelled"
    assert not left


async def test_cancel_of_a_queued_task_is_at_once_and_it_never_runs(settings: Settings, gate: Gate, place: Place):
    one = settings.model_copy(update={"limit": 1})
    async with in_memory(one) as client:
        first = await shell(client, gate.snippet, wait=0)
        await gate.reached()
        second = await shell(client, "echo ran > second", wait=0)
        cancelled = await ask(client, "update_task", task_id=second["id"], action="cancel", wait=0)
        gate.go_on()
        await finished(client, first["id"])
        await shell(client, "true")
        after = await ask(client, "get_task", task_id=second["id"])

    assert second["status"] == "queued"
    assert cancelled["status"] == after["status"] == "cancelled"
    assert after["attempt"] == 0
    assert not (place.workspace / "second").exists()


async def test_cancel_of_a_finished_task_leaves_it_as_it_is(settings: Settings):
    async with in_memory(settings) as client:
        done = await shell(client, "true")
        again = await ask(client, "update_task", task_id=done["id"], action="cancel")

    assert again["status"] == "completed"


async def test_a_cancel_in_the_moment_of_the_start_is_not_lost(settings: Settings, place: Place, gate: Gate):
    async with in_memory(settings) as client:
        tasks = [await shell(client, gate.wait, wait=0) for _ in range(4)]
        ended = await asyncio.gather(
            *(ask(client, "update_task", task_id=task["id"], action="cancel", wait=20) for task in tasks)
        )
        left = processes_of_tasks(place)

    assert {task["status"] for task in ended} == {"cancelled"}
    assert not left


async def test_a_cancel_between_the_commit_of_a_claim_and_its_return_is_not_lost(
    settings: Settings, place: Place, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    claim = Attempts.claim

    async with served_in_memory(settings) as (client, runtime):

        async def claim_late(self: Attempts, agents: Iterable[str]) -> Task | None:
            task = await claim(self, agents)
            if task is not None and task.attempt == 1:
                with calling_as(DESK):
                    await runtime.tasks.cancel(task.id)
            return task

        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "claim", claim_late)
            cancelled = await shell(client, gate.wait, task_id="t", wait=10)
        left = processes_of_tasks(place)
        await ask(client, "update_task", task_id="t", action="retry", wait=0)
        gate.go_on()
        done = await finished(client, "t")

    assert cancelled["status"] == "cancelled"
    assert not left
    assert (done["status"], done["attempt"]) == ("completed", 2)


async def test_what_is_cancelled_can_be_retried_and_then_runs(settings: Settings, gate: Gate):
    async with in_memory(settings) as client:
        task = await shell(client, gate.snippet, wait=0)
        await gate.reached()
        await ask(client, "update_task", task_id=task["id"], action="cancel", wait=20)
        again = await ask(client, "update_task", task_id=task["id"], action="retry", wait=0)
        await gate.reached()
        gate.go_on()
        done = await finished(client, task["id"])

    assert again["status"] in ("queued", "running")
    assert done["status"] == "completed"
    assert [each["status"] for each in done["attempts"]] == ["cancelled", "completed"]


# Output


async def test_output_is_read_from_an_offset_while_it_grows(settings: Settings, gate: Gate):
    async with in_memory(settings) as client:
        task = await shell(client, f"printf 'one \\303'; {gate.snippet}; printf '\\251\\ntwo\\n'", wait=0)
        await gate.reached()
        first = (await ask(client, "get_task", task_id=task["id"], output_offset=0, wait=10))["output"]
        following = asyncio.create_task(
            ask(client, "get_task", task_id=task["id"], output_offset=first["size"], wait=20)
        )
        gate.go_on()
        second = (await following)["output"]
        await finished(client, task["id"])
        rest = (await ask(client, "get_task", task_id=task["id"], output_offset=first["next_offset"]))["output"]

    assert (first["text"], first["next_offset"], first["size"], first["complete"]) == ("one ", 4, 5, False)
    assert second["size"] > first["size"]
    assert rest["text"] == "é\ntwo\n"
    assert rest["complete"] is True
    assert rest["next_offset"] == rest["size"] == 11


async def test_stderr_is_read_by_its_name_and_an_offset_beyond_the_end_gives_nothing(settings: Settings):
    async with in_memory(settings) as client:
        task = await shell(client, "echo out; echo err >&2")
        err = await ask(client, "get_task", task_id=task["id"], output_offset=1, stream="stderr")
        beyond = await ask(client, "get_task", task_id=task["id"], output_offset=1_000_000)

    assert err["output"]["text"] == "rr\n"
    assert (beyond["output"]["text"], beyond["output"]["size"]) == ("", 4)


async def test_output_that_is_longer_than_an_answer_is_read_in_parts_to_the_last_byte(settings: Settings):
    async with in_memory(settings) as client:
        done = await shell(client, "seq 1 30000")
        text = ""
        offset = 0
        for _ in range(20):
            part = (await ask(client, "get_task", task_id=done["id"], output_offset=offset))["output"]
            text += part["text"]
            offset = part["next_offset"]
            if part["complete"]:
                break

    assert text == "".join(f"{number}\n" for number in range(1, 30001))
    assert done["result"]["truncated"] is True
    assert done["result"]["stdout"] == text[done["result"]["stdout_offset"] :]
    assert done["result"]["stdout_bytes"] == len(text)


async def test_binary_output_is_shown_with_its_bad_bytes_replaced(settings: Settings):
    async with in_memory(settings) as client:
        done = await shell(client, r"printf 'a\000\377\376b\303'; printf '\200' >&2")

    assert done["status"] == "completed"
    assert done["result"]["stdout"] == "a\x00\ufffd\ufffdb\ufffd"
    assert done["result"]["stdout_bytes"] == 6
    assert done["result"]["stderr"] == "\ufffd"


async def test_output_beyond_the_limit_is_counted_and_dropped_and_that_is_told(settings: Settings):
    small = settings.model_copy(update={"output_limit_bytes": 4096})
    async with in_memory(small) as client:
        done = await shell(client, "yes 0123456 | head -n 100000")
        part = (await ask(client, "get_task", task_id=done["id"], output_offset=0))["output"]

    assert done["status"] == "completed"
    assert done["result"]["truncated"] is True
    assert done["result"]["stdout_bytes"] == part["size"] == 4096
    assert done["result"]["dropped_bytes"] == 800_000 - 4096


async def test_a_program_that_writes_without_end_is_ended_by_its_timeout(settings: Settings):
    small = settings.model_copy(update={"output_limit_bytes": 4096})
    async with in_memory(small) as client:
        failed = await shell(client, "exec yes", timeout_seconds=0.3)

    assert (failed["status"], failed["reason"]) == ("failed", "timeout")
    assert failed["result"]["dropped_bytes"] > 0
    assert failed["result"]["truncated"] is True


# The queue


async def test_larger_priority_runs_first_and_equals_by_age(settings: Settings, gate: Gate, place: Place):
    one = settings.model_copy(update={"limit": 1})
    async with in_memory(one) as client:
        await shell(client, gate.snippet, wait=0)
        await gate.reached()
        tasks = [
            await shell(client, f"echo {name} >> order", priority=priority, wait=0)
            for name, priority in (("old", 0), ("low", -5), ("high", 7), ("new", 0), ("moved", -9))
        ]
        await ask(client, "update_task", task_id=tasks[-1]["id"], priority=9)
        gate.go_on()
        for task in tasks:
            await finished(client, task["id"])

    assert (place.workspace / "order").read_text().split() == ["moved", "high", "old", "new", "low"]


async def test_tasks_of_one_lane_run_one_after_another_and_others_beside_them(settings: Settings, gate: Gate):
    async with in_memory(settings) as client:
        first = await shell(client, gate.snippet, lane="release", wait=0)
        await gate.reached()
        second = await shell(client, "true", lane="release", wait=0.2)
        beside = await shell(client, "true")
        held = await ask(client, "get_task", task_id=second["id"])
        gate.go_on()
        ended = [await finished(client, task["id"]) for task in (first, second)]

    assert beside["status"] == "completed"
    assert (held["status"], held["lane"]) == ("queued", "release")
    assert ended[0]["finished_at"] <= ended[1]["started_at"]


async def test_a_task_that_leaves_its_lane_runs_at_once(settings: Settings, gate: Gate):
    async with in_memory(settings) as client:
        first = await shell(client, gate.snippet, lane="release", wait=0)
        await gate.reached()
        second = await shell(client, "true", lane="release", wait=0)
        moved = await ask(client, "update_task", task_id=second["id"], lane="")
        done = await finished(client, second["id"])
        gate.go_on()
        await finished(client, first["id"])

    assert moved["lane"] is None
    assert done["status"] == "completed"


@pytest.mark.parametrize("limits", [{"limit": 2}, {"limits": {"shell": 2}}], ids=["overall", "agent"])
async def test_no_more_run_at_once_than_the_limit_allows(
    settings: Settings, gate: Gate, second_gate: Gate, place: Place, limits: dict[str, Any]
):
    tight = settings.model_copy(update=limits)
    async with in_memory(tight) as client:
        running = [await shell(client, each.snippet, wait=0) for each in (gate, second_gate)]
        await gate.reached()
        await second_gate.reached()
        third = await shell(client, "echo ran > third", wait=0.2)
        held = await ask(client, "get_task", task_id=third["id"])
        never_yet = not (place.workspace / "third").exists()
        agents = {item["name"]: item for item in (await ask(client, "list_agents"))["items"]}
        gate.go_on()
        done = await finished(client, third["id"])
        second_gate.go_on()
        for task in running:
            await finished(client, task["id"])

    assert held["status"] == "queued"
    assert never_yet
    assert (agents["shell"]["running"], agents["shell"]["queued"], agents["shell"]["limit"]) == (2, 1, 2)
    assert done["status"] == "completed"


async def test_the_overall_limit_counts_the_tasks_of_all_agents(settings: Settings, gate: Gate):
    one = settings.model_copy(update={"limit": 1})
    async with in_memory(one) as client:
        first = await shell(client, gate.snippet, wait=0)
        await gate.reached()
        second = await ask(client, "delegate_task", agent="echo", description="x", wait=0.2)
        gate.go_on()
        ended = [await finished(client, task["id"]) for task in (first, second)]

    assert second["status"] == "queued"
    assert ended[0]["finished_at"] <= ended[1]["started_at"]


async def test_an_agent_at_its_limit_does_not_hold_up_the_others(settings: Settings, gate: Gate):
    tight = settings.model_copy(update={"limits": {"shell": 1}})
    async with in_memory(tight) as client:
        first = await shell(client, gate.snippet, wait=0)
        await gate.reached()
        second = await shell(client, "true", priority=100, wait=0)
        other = await ask(client, "delegate_task", agent="echo", description="x")
        gate.go_on()
        for task in (first, second):
            await finished(client, task["id"])

    assert other["status"] == "completed"


async def test_a_task_for_later_waits_for_its_time_and_then_runs(settings: Settings, place: Place):
    clock = Clock()
    async with in_memory(settings, now=clock) as client:
        later = await shell(client, "echo ran > later", run_after=3600, wait=45)
        clock.forward(3599)
        await stir(client)
        early = await ask(client, "get_task", task_id=later["id"])
        clock.forward(2)
        await stir(client)
        done = await finished(client, later["id"])

    assert later["status"] == early["status"] == "scheduled"
    assert later["say"].endswith("begins in 1 hour.")
    assert from_iso(later["run_after"]) == Clock().now + 3600 * MICROSECONDS
    assert done["status"] == "completed"
    assert (place.workspace / "later").exists()


async def test_a_moment_in_the_past_is_now(settings: Settings):
    async with in_memory(settings) as client:
        done = await shell(client, "true", run_after="2020-01-01T00:00:00Z")

    assert done["status"] == "completed"


async def test_the_worker_wakes_by_itself_when_a_task_is_due(settings: Settings):
    async with in_memory(settings) as client:
        later = await shell(client, "true", run_after=0.2, wait=0)
        done = await finished(client, later["id"])

    assert later["status"] == "scheduled"
    assert done["status"] == "completed"
    assert from_iso(done["started_at"]) >= from_iso(later["run_after"])


# Trying again


async def test_a_failure_that_may_pass_is_tried_again_after_a_growing_pause(settings: Settings):
    clock = Clock()
    async with in_memory(settings, now=clock) as client:
        task = await ask(client, "delegate_task", agent="echo", description="x", params={"flaky": 2}, wait=20)
        pauses = [(from_iso(task["run_after"]) - clock.now) / MICROSECONDS]
        clock.forward(pauses[0] - 0.01)
        await stir(client)
        still = await ask(client, "get_task", task_id=task["id"])
        clock.forward(0.02)
        await stir(client)
        task = await retried(client, task["id"], 2)
        pauses.append((from_iso(task["run_after"]) - clock.now) / MICROSECONDS)
        clock.forward(pauses[1] + 0.01)
        await stir(client)
        done = await finished(client, task["id"])

    assert (still["status"], still["attempt"]) == ("scheduled", 1)
    assert "tried again" in still["say"]
    assert 1.5 <= pauses[0] <= 2.5
    assert 3.0 <= pauses[1] <= 5.0
    assert (done["status"], done["attempt"]) == ("completed", 3)
    assert [each["status"] for each in done["attempts"]] == ["failed", "failed", "completed"]


async def retried(client: Client, task_id: str, attempt: int) -> dict[str, Any]:
    """The task once its attempt of that number has failed."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            task = await ask(client, "get_task", task_id=task_id)
            if (task["status"], task["attempt"]) == ("scheduled", attempt):
                return task
            await ask(client, "get_task", task_id=task_id, wait=0.5)


async def test_no_more_attempts_are_made_than_allowed(settings: Settings):
    async with in_memory(settings) as client:
        once = await ask(client, "delegate_task", agent="echo", description="x", params={"flaky": 9}, max_attempts=1)
        again = await ask(client, "update_task", task_id=once["id"], action="retry")

    assert (once["status"], once["attempt"]) == ("failed", 1)
    assert (again["status"], again["attempt"]) == ("failed", 2)


async def test_what_waits_for_its_next_attempt_can_be_cancelled(settings: Settings):
    async with in_memory(settings) as client:
        task = await ask(client, "delegate_task", agent="echo", description="x", params={"flaky": 1})
        cancelled = await ask(client, "update_task", task_id=task["id"], action="cancel")

    assert task["status"] == "scheduled"
    assert cancelled["status"] == "cancelled"


async def test_what_is_completed_is_not_retried(settings: Settings):
    async with in_memory(settings) as client:
        done = await shell(client, "true")
        error = await refused(client, "update_task", task_id=done["id"], action="retry")

    assert error["status"] == 409
    assert error["existing"]["id"] == done["id"]


# Conversations


async def test_a_follow_up_waits_for_the_answer_that_it_follows(settings: Settings):
    one = settings.model_copy(update={"limit": 4})
    async with in_memory(one) as client:
        first = await ask(client, "delegate_task", agent="echo", description="first", params={"sleep": 0.3}, wait=0)
        second = await ask(client, "continue_task", task_id=first["id"], message="second", new_task_id="next", wait=10)
        same = await ask(client, "continue_task", task_id=first["id"], message="second", new_task_id="next")
        other = await refused(client, "continue_task", task_id=first["id"], message="other", new_task_id="next")
        ended = await ask(client, "get_task", task_id=first["id"])

    assert ended["finished_at"] <= second["started_at"]
    assert second["result"]["text"].startswith("second")
    assert "first" in second["result"]["text"]
    assert same["created"] is False
    assert other["status"] == 409


async def test_there_is_nothing_to_go_on_from_after_a_failure_and_with_a_shell(settings: Settings):
    async with in_memory(settings) as client:
        failed = await ask(client, "delegate_task", agent="echo", description="x", params={"fail": True})
        after_failure = await refused(client, "continue_task", task_id=failed["id"], message="go on")
        command = await shell(client, "true")
        with_shell = await refused(client, "continue_task", task_id=command["id"], message="go on")

    assert (after_failure["status"], with_shell["status"]) == (409, 422)
    assert with_shell["errors"][0]["field"] == "task_id"


# Waiting


async def test_a_call_waits_no_longer_than_asked_and_the_task_goes_on(settings: Settings, gate: Gate):
    async with in_memory(settings) as client:
        async with asyncio.timeout(5):
            task = await shell(client, gate.snippet, wait=0.1)
        await gate.reached()
        unchanged = await ask(client, "get_task", task_id=task["id"], wait=0.1)
        gate.go_on()
        done = await finished(client, task["id"])

    assert task["status"] in ("queued", "running")
    assert unchanged["status"] == "running"
    assert "still working" in unchanged["say"]
    assert done["status"] == "completed"


async def test_a_call_that_waits_is_answered_as_soon_as_the_task_is_done(settings: Settings, gate: Gate):
    async with in_memory(settings) as client:
        waiting = asyncio.create_task(shell(client, gate.snippet, wait=45))
        await gate.reached()
        gate.go_on()
        async with asyncio.timeout(5):
            done = await waiting

    assert done["status"] == "completed"


async def test_many_wait_for_one_task_and_all_are_answered(settings: Settings, gate: Gate):
    async with in_memory(settings) as client:
        task = await shell(client, gate.snippet, wait=0)
        await gate.reached()
        waiting = [asyncio.create_task(ask(client, "get_task", task_id=task["id"], wait=45)) for _ in range(20)]
        await ask(client, "list_tasks")
        gate.go_on()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*waiting)

    assert {answer["status"] for answer in answers} == {"completed"}


async def test_a_client_that_hangs_up_in_the_middle_of_a_call_does_not_end_the_task(settings: Settings, gate: Gate):
    async with served_in_memory(settings) as (client, _):
        calling = asyncio.create_task(shell(client, gate.snippet, task_id="mine", wait=45))
        await gate.reached()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        running = await ask(client, "get_task", task_id="mine")
        gate.go_on()
        done = await finished(client, "mine")

    assert running["status"] == "running"
    assert done["status"] == "completed"


async def test_the_same_id_five_times_at_once_runs_once(settings: Settings, place: Place):
    async with in_memory(settings) as client:
        answers = await asyncio.gather(*(shell(client, "echo x >> runs", task_id="mine") for _ in range(5)))
        other = await refused(
            client, "delegate_task", agent="shell", params={"command": ["sh", "-c", "other"]}, task_id="mine"
        )

    assert sorted(answer["created"] for answer in answers) == [False] * 4 + [True]
    assert (place.workspace / "runs").read_text() == "x\n"
    assert other["status"] == 409


# What is refused before anything is stored


async def test_orders_that_cannot_be_carried_out_are_refused_and_leave_no_task(settings: Settings, place: Place):
    (place.workspace / "tool").write_text("#!/bin/sh\n")
    (place.workspace / "tool").chmod(0o700)
    (place.workspace / "away").symlink_to("/usr")
    (place.workspace / "file").touch()
    here: dict[str, Any] = {"params": {"command": ["true"]}}
    orders: list[tuple[dict[str, Any], int, str]] = [
        ({"params": {"command": "true"}}, 422, "params.command"),
        ({"params": {"command": []}}, 422, "params.command"),
        ({"params": {"command": [""]}}, 422, "params.command"),
        ({"params": {"command": [7]}}, 422, "params.command"),
        ({"params": {"command": {"0": "true"}}}, 422, "params.command"),
        ({"params": {}}, 422, "params.command"),
        ({"params": {"command": ["true"], "cwd": "/"}}, 422, "params.cwd"),
        ({"params": {"command": ["no-such-program-here"]}}, 422, "params.command"),
        ({"params": {"command": ["./tool"]}}, 403, "params.command"),
        ({"params": {"command": [str(place.workspace / "tool")]}}, 403, "params.command"),
        (here | {"working_dir": "/"}, 403, "working_dir"),
        (here | {"working_dir": "/etc"}, 403, "working_dir"),
        (here | {"working_dir": ".."}, 403, "working_dir"),
        (here | {"working_dir": "away"}, 403, "working_dir"),
        (here | {"working_dir": f"{place.workspace}/away/bin"}, 403, "working_dir"),
        (here | {"working_dir": "nowhere"}, 422, "working_dir"),
        (here | {"working_dir": "file"}, 422, "working_dir"),
        (here | {"working_dir": str(place.home)}, 403, "working_dir"),
        (here | {"working_dir": "a\0b"}, 422, "working_dir"),
        (here | {"working_dir": "x" * 10_000}, 413, "working_dir"),
        (here | {"workspace": "elsewhere"}, 422, "workspace"),
        (here | {"workspace": "/etc"}, 403, "workspace"),
    ]
    async with in_memory(settings) as client:
        for order, status, field in orders:
            error = await refused(client, "delegate_task", agent="shell", **order)
            assert (error["status"], error["errors"][0]["field"]) == (status, field), (order, error)
        tasks = await ask(client, "list_tasks")

    assert tasks["items"] == []


async def test_a_workspace_is_named_by_name_or_by_path(settings: Settings, place: Place):
    (place.workspace / "sub").mkdir()
    link = place.base / "link"
    link.symlink_to(place.workspace)
    async with in_memory(settings) as client:
        places = [
            (await shell(client, "pwd -P", **named))["result"]["stdout"].strip()
            for named in (
                {"workspace": "work"},
                {"workspace": str(place.workspace)},
                {"workspace": "work", "working_dir": "sub"},
                {"working_dir": str(place.workspace / "sub")},
                {"working_dir": str(link / "sub")},
            )
        ]

    root = os.path.realpath(place.workspace)
    assert places == [root, root, f"{root}/sub", f"{root}/sub", f"{root}/sub"]


async def test_with_several_workspaces_one_must_be_named_and_with_none_the_way_to_add_one_is_told(
    settings: Settings, tmp_path: Path
):
    several = settings.model_copy(update={"workspaces": settings.workspaces | {"other": tmp_path}})
    async with in_memory(several) as client:
        which = await refused(client, "delegate_task", agent="shell", params={"command": ["true"]})
    none = settings.model_copy(update={"workspaces": {}})
    async with in_memory(none) as client:
        how = await refused(client, "delegate_task", agent="shell", params={"command": ["true"]})

    assert "work" in which["errors"][0]["fix"]
    assert "other" in which["errors"][0]["fix"]
    assert "offhand workspace add" in how["errors"][0]["fix"]


# What is left behind


async def test_nothing_of_an_attempt_stays_on_the_disk_but_its_output_in_the_store(settings: Settings, place: Place):
    async with in_memory(settings) as client:
        done = await shell(client, "echo kept")
        await shell(client, "exit 1")
        output = (await ask(client, "get_task", task_id=done["id"], output_offset=0))["output"]

    assert output["text"] == "kept\n"
    assert [path.name for path in (place.home / "attempts").iterdir() if path.is_dir()] == []
    assert not (place.home / "bell.sock").exists()


async def test_an_attempt_is_followed_though_no_bell_rings(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """The bell is a hint: where it is lost, the end of the supervisor is seen all the same."""
    launched = AttemptFolder.start

    def deaf(self: AttemptFolder, spec: Any, **more: Any) -> int:
        from dataclasses import replace

        return launched(self, replace(spec, bell=None), **more)

    monkeypatch.setattr(AttemptFolder, "start", deaf)
    async with in_memory(settings) as client:
        done = await shell(client, "echo kept", wait=10)

    assert done["result"]["stdout"] == "kept\n"
