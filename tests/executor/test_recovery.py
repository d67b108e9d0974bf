"""What is left of the work when a server, a supervisor, or both are killed: nothing lost, nothing run twice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from mcp_server.agents.registry import all_agents
from mcp_server.attempts import Attempts
from mcp_server.errors import ConflictError, StoreFullError
from mcp_server.executor import attempt as attempt_module
from mcp_server.executor.attempt import AttemptRun
from mcp_server.executor.attempt_folder import AttemptFolder, can_contain, compiled_supervisor
from mcp_server.release import release
from mcp_server.settings import Settings
from tests.executor.test_worker import finished, processes_of_tasks, shell
from tests.server.doors import ask, in_memory, over_socket, refused, served_in_memory
from tests.server.gate import Gate
from tests.server.processes import Place, ServerProcess, wait_for_exit

MOMENTS = (5,)
"""After how many answers the server is killed; more of them take more time."""


@pytest.fixture
def servers(place: Place) -> Generator[list[ServerProcess]]:
    """Whatever is put in is ended after the test."""
    started: list[ServerProcess] = []
    yield started
    for server in started:
        server.close()


def supervisors(place: Place) -> list[int]:
    return sorted(pid for pid, line in place.task_processes().items() if "/attempts/" in line)


def runs(place: Place) -> Counter[str]:
    """How often each program wrote that it ran."""
    path = place.workspace / "runs"
    return Counter(path.read_text().split()) if path.exists() else Counter()


# Real processes


async def test_killing_the_server_loses_nothing_and_runs_nothing_twice(
    place: Place, servers: list[ServerProcess], gate: Gate, second_gate: Gate
):
    """One task goes on, one ends while nobody serves, two wait in the queue, one is done, one is cancelled."""
    first = ServerProcess.start(place, OFFHAND_LIMIT="2")
    servers.append(first)
    async with over_socket(first.facts["mcp_socket"]) as client:
        await shell(client, "echo done >> runs; echo result", task_id="done")
        goes_on = f"echo goes_on >> runs; seq 1 5000; {gate.snippet}; seq 5001 30000"
        await shell(client, goes_on, task_id="goes_on", wait=0)
        await shell(client, f"echo ends >> runs; {second_gate.snippet}; echo late", task_id="ends", wait=0)
        await gate.reached()
        await second_gate.reached()
        for name in ("third", "fourth", "dropped"):
            await shell(client, f"echo {name} >> runs", task_id=name, wait=0)
        await ask(client, "update_task", task_id="dropped", action="cancel")
        ending = next(pid for pid in supervisors(place) if "/3-1 " in f"{place.task_processes()[pid].rstrip()} ")
        first.kill()
    second_gate.go_on()
    assert wait_for_exit(ending, 10)

    second = ServerProcess.start(place, OFFHAND_LIMIT="2")
    servers.append(second)
    async with over_socket(second.facts["mcp_socket"]) as client:
        collected = await finished(client, "ends")
        adopted = await ask(client, "get_task", task_id="goes_on")
        gate.go_on()
        ended = {name: await finished(client, name) for name in ("goes_on", "third", "fourth", "done", "dropped")}
        output = await whole_output(client, "goes_on")

    assert "Found after the restart: 1 still running, 1 finished meanwhile; none lost." in second.said
    assert (collected["status"], collected["result"]["stdout"], collected["attempt"]) == ("completed", "late\n", 1)
    assert (adopted["status"], adopted["attempt"]) == ("running", 1)
    assert {name: task["status"] for name, task in ended.items()} == dict.fromkeys(ended, "completed") | {
        "dropped": "cancelled"
    }
    assert ended["done"]["result"]["stdout"] == "result\n"
    assert output == "".join(f"{number}\n" for number in range(1, 30001))
    assert runs(place) == Counter(["done", "goes_on", "ends", "third", "fourth"])
    assert {task["attempt"] for name, task in ended.items() if name != "dropped"} == {1}


async def whole_output(client: Any, task_id: str) -> str:
    text, offset = "", 0
    while True:
        part = (await ask(client, "get_task", task_id=task_id, output_offset=offset))["output"]
        text += part["text"]
        offset = part["next_offset"]
        if part["complete"]:
            return text


@pytest.mark.parametrize("moment", MOMENTS)
async def test_whatever_was_acknowledged_before_a_kill_is_done_once(
    place: Place, servers: list[ServerProcess], moment: int
):
    first = ServerProcess.start(place)
    servers.append(first)
    acknowledged: list[str] = []

    async def submit(client: Any, name: str) -> None:
        await shell(client, f"echo {name} >> runs", task_id=name, wait=0)
        acknowledged.append(name)
        if len(acknowledged) == moment:
            first.process.kill()

    async with over_socket(first.facts["mcp_socket"]) as client, asyncio.timeout(10):
        outcomes = await asyncio.gather(*(submit(client, f"t{number}") for number in range(12)), return_exceptions=True)
    assert first.process.wait(5) == -signal.SIGKILL
    assert len(acknowledged) >= moment
    assert {type(outcome) for outcome in outcomes} <= {type(None), MCPError}

    second = ServerProcess.start(place)
    servers.append(second)
    async with over_socket(second.facts["mcp_socket"]) as client:
        ended = {name: await finished(client, name) for name in acknowledged}
        everything = (await ask(client, "list_tasks", limit=100))["items"]
        for item in everything:
            await finished(client, item["id"])

    assert {task["status"] for task in ended.values()} == {"completed"}
    assert runs(place) == Counter(item["id"] for item in everything)


async def test_killing_the_server_and_a_supervisor_interrupts_the_attempt_and_the_next_server_tries_again(
    place: Place, servers: list[ServerProcess], gate: Gate
):
    first = ServerProcess.start(place, OFFHAND_PID_NAMESPACE="off")
    servers.append(first)
    async with over_socket(first.facts["mcp_socket"]) as client:
        await shell(client, f"echo t >> runs; {gate.snippet}", task_id="t", wait=0)
        await gate.reached()
        (supervisor,) = supervisors(place)
        first.kill()
    os.kill(supervisor, signal.SIGKILL)
    orphans = processes_of_tasks(place)

    second = ServerProcess.start(place, OFFHAND_PID_NAMESPACE="off")
    servers.append(second)
    await gate.reached()
    alive = processes_of_tasks(place)
    gate.go_on()
    async with over_socket(second.facts["mcp_socket"]) as client:
        done = await finished(client, "t")

    assert orphans
    assert len(alive) == 1, "what the first attempt left is ended before the second begins"
    assert "1 interrupted" in second.said
    assert done["status"] == "completed"
    assert [each["status"] for each in done["attempts"]] == ["interrupted", "completed"]


def without_namespaces(settings: Settings) -> Settings:
    """As on a system that gives none."""
    return settings.model_copy(update={"pid_namespace": "off"})


# The same process: a server that ends is a runtime that is left


async def test_a_killed_supervisor_is_an_interrupted_attempt_and_its_leftovers_are_ended_before_the_next(
    settings: Settings, place: Place, gate: Gate
):
    child = f"echo child >> runs; {gate.snippet}"
    async with served_in_memory(without_namespaces(settings)) as (client, runtime):
        await shell(client, f"setsid sh -c {shlex.quote(child)} & wait", task_id="t", wait=0)
        await gate.reached()
        before = place.task_processes()
        (supervisor,) = runtime.worker.supervisor_pids()
        assert not runtime.worker.has_orphans()
        os.kill(supervisor, signal.SIGKILL)
        assert wait_for_exit(supervisor, 10)
        assert runtime.worker.has_orphans(), "nobody comes in at the desk until they are ended"
        await gate.reached()
        assert not runtime.worker.has_orphans()
        after = place.task_processes()
        gate.go_on()
        done = await finished(client, "t")

    assert len(before) == len(after) == 3
    assert not set(before) & set(after)
    assert done["status"] == "completed"
    assert done["attempt"] == 2
    assert [(each["status"], each["reason"]) for each in done["attempts"]] == [
        ("interrupted", "interrupted"),
        ("completed", None),
    ]
    assert runs(place) == Counter({"child": 2})


async def test_an_interrupted_attempt_that_was_the_last_one_fails_the_task_and_says_so(settings: Settings, gate: Gate):
    async with served_in_memory(settings) as (client, runtime):
        await shell(client, gate.snippet, task_id="t", wait=0, max_attempts=1)
        await gate.reached()
        (supervisor,) = runtime.worker.supervisor_pids()
        os.kill(supervisor, signal.SIGKILL)
        failed = await finished(client, "t")

    assert (failed["status"], failed["reason"]) == ("failed", "interrupted")
    assert "interrupted" in failed["say"]


async def test_a_task_that_was_being_cancelled_is_cancelled_by_the_next_server(
    settings: Settings, place: Place, gate: Gate
):
    stubborn = (
        f"trap '{gate.tell('asked')}; {gate.wait}; exit 0' TERM; {gate.tell('here')}; while :; do {gate.wait}; done"
    )
    async with in_memory(settings) as client:
        await shell(client, stubborn, task_id="t", wait=0)
        await gate.reached()
        await ask(client, "update_task", task_id="t", action="cancel", wait=0)
        await gate.reached("asked")
    alive = processes_of_tasks(place)
    async with in_memory(settings) as client:
        cancelling = await ask(client, "get_task", task_id="t")
        gate.go_on()
        cancelled = await finished(client, "t")

    assert alive
    assert cancelling["status"] == "cancelling"
    assert cancelled["status"] == "cancelled"


async def test_a_cancel_that_nobody_carried_out_before_the_end_is_carried_out_by_the_next_server(
    settings: Settings, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(AttemptRun, "request_cancel", lambda _: None)
        async with in_memory(settings) as client:
            await shell(client, gate.snippet, task_id="t", wait=0)
            await gate.reached()
            await ask(client, "update_task", task_id="t", action="cancel", wait=0)
    async with in_memory(settings) as client:
        cancelled = await finished(client, "t")

    assert cancelled["status"] == "cancelled"


@pytest.mark.parametrize("namespaced", [False, True])
async def test_a_cancel_whose_supervisor_is_killed_says_whether_its_end_is_proven(
    settings: Settings, place: Place, gate: Gate, namespaced: bool
):
    stubborn = (
        f"trap '{gate.tell('asked')}; {gate.wait}; exit 0' TERM; {gate.tell('here')}; while :; do {gate.wait}; done"
    )
    async with served_in_memory(settings if namespaced else without_namespaces(settings)) as (client, runtime):
        if namespaced and not can_contain(compiled_supervisor(place.base)):
            pytest.skip("this system gives no pid namespaces")
        await shell(client, stubborn, task_id="t", wait=0)
        await gate.reached()
        await ask(client, "update_task", task_id="t", action="cancel", wait=0)
        await gate.reached("asked")
        (supervisor,) = runtime.worker.supervisor_pids()
        os.kill(supervisor, signal.SIGKILL)
        cancelled = await finished(client, "t")

    assert cancelled["status"] == "cancelled"
    assert ("unverified" in cancelled["result"]) is not namespaced
    assert ("could not be proven" in cancelled["say"]) is not namespaced


async def test_a_damaged_record_of_an_end_is_an_interruption_and_keeps_no_server_from_starting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Attempts, "finish", never)
        async with served_in_memory(settings) as (client, _):
            await shell(client, "true", task_id="t", wait=0.5, max_attempts=1)
    (status,) = settings.home.glob("attempts/*/status.json")
    status.write_text("{")
    async with served_in_memory(settings) as (client, _):
        damaged = await finished(client, "t")

    assert (damaged["status"], damaged["reason"]) == ("failed", "interrupted")


async def test_a_running_task_of_an_agent_that_is_not_known_any_more_fails_and_keeps_no_server_from_starting(
    settings: Settings, place: Place, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    async with served_in_memory(settings) as (client, _):
        await shell(client, gate.snippet, task_id="t", wait=0)
        await gate.reached()
    with monkeypatch.context() as patch:
        agents = tuple(agent for agent in all_agents(Settings(), list) if agent.name != "shell")
        patch.setattr("mcp_server.runtime.all_agents", lambda *_: agents)
        async with served_in_memory(settings) as (client, _):
            failed = await finished(client, "t")
    gone = [await asyncio.to_thread(wait_for_exit, pid, 20) for pid in place.task_processes()]

    assert (failed["status"], failed["reason"]) == ("failed", "agent_unknown")
    assert all(gone)


async def test_a_task_that_was_claimed_and_not_begun_runs_as_its_first_attempt(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(AttemptRun, "start", never)
        async with in_memory(settings) as client:
            before = await shell(client, "echo t >> runs", task_id="t", wait=0.2)
    async with in_memory(settings) as client:
        done = await finished(client, "t")

    assert before["status"] == "running"
    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert len(done["attempts"]) == 1
    assert runs(place) == Counter("t")


@pytest.mark.parametrize("spec", ['{"attempt": "1-1", "arg', ""], ids=["half", "empty"])
async def test_an_attempt_whose_folder_was_only_half_written_is_tried_again(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch, spec: str
):
    with monkeypatch.context() as patch:
        patch.setattr(AttemptRun, "start", never)
        async with in_memory(settings) as client:
            await shell(client, "echo t >> runs", task_id="t", wait=0.2)
    folder = place.home / "attempts" / "1-1"
    folder.mkdir()
    (folder / "spec.json").write_text(spec)
    async with in_memory(settings) as client:
        done = await finished(client, "t")

    assert done["status"] == "completed"
    assert runs(place) == Counter("t")
    assert not folder.exists()


async def test_an_end_that_was_not_written_down_yet_is_collected_by_the_next_server(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Attempts, "finish", never)
        async with served_in_memory(settings) as (client, _):
            before = await shell(client, "echo t >> runs; echo result; exit 4", task_id="t", wait=0.5)
    async with served_in_memory(settings) as (client, runtime):
        done = await finished(client, "t")

    assert before["status"] == "running"
    assert (runtime.adopted.running, runtime.adopted.finished, runtime.adopted.interrupted) == (0, 1, 0)
    assert (done["status"], done["reason"], done["result"]["stdout"]) == ("failed", "exit_code", "result\n")
    assert runs(place) == Counter("t")


async def test_a_folder_that_outlived_its_task_is_removed_by_the_next_server(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(AttemptFolder, "remove", lambda _: None)
        async with in_memory(settings) as client:
            done = await shell(client, "echo result", task_id="t")
    kept = (place.home / "attempts" / "1-1").exists()
    async with in_memory(settings) as client:
        after = await ask(client, "get_task", task_id="t")

    assert kept
    assert not (place.home / "attempts" / "1-1").exists()
    assert after["result"] == done["result"]


async def test_the_end_of_an_attempt_that_another_server_took_over_changes_nothing(settings: Settings, gate: Gate):
    """Fencing: the adopter carries a new number, so what the one before still writes comes late."""
    from mcp_server.attempts import Ending

    async with served_in_memory(settings) as (client, runtime):
        await shell(client, gate.snippet, task_id="t", wait=0)
        await gate.reached()
        (mine,) = await runtime.worker.attempts.running()
        await runtime.worker.attempts.adopt(mine.number)
        with pytest.raises(ConflictError):
            await runtime.worker.attempts.finish(mine, Ending("completed", None, {"text": "late"}))
        await runtime.worker.attempts.append_output(mine, [("stdout", 0, b"late")])
        task = await ask(client, "get_task", task_id="t", output_offset=0)
    gate.go_on()

    assert task["status"] == "running"
    assert task["result"] is None
    assert task["output"]["size"] == 0


async def test_what_waits_for_its_time_waits_for_it_after_a_restart_too(settings: Settings, place: Place):
    async with in_memory(settings) as client:
        await shell(client, "echo later >> runs", task_id="later", run_after=0.3, wait=0)
        await shell(client, "echo tomorrow >> runs", task_id="tomorrow", run_after=86400, wait=0)
    async with in_memory(settings) as client:
        done = await finished(client, "later")
        waiting = await ask(client, "get_task", task_id="tomorrow")

    assert done["status"] == "completed"
    assert waiting["status"] == "scheduled"
    assert runs(place) == Counter(["later"])


async def test_a_queued_task_whose_workspace_was_removed_meanwhile_does_not_run(
    settings: Settings, place: Place, monkeypatch: pytest.MonkeyPatch
):
    async with in_memory(settings) as client:
        await shell(client, "echo t >> runs", task_id="t", run_after=0.1, wait=0)
    without = settings.model_copy(update={"workspaces": {}})
    async with in_memory(without) as client:
        failed = await finished(client, "t")

    assert (failed["status"], failed["reason"]) == ("failed", "invalid")
    assert runs(place) == Counter()


async def test_a_folder_that_became_a_link_out_of_the_workspace_while_the_task_waited_is_not_worked_in(
    settings: Settings, place: Place, gate: Gate, tmp_path: Path
):
    one = settings.model_copy(update={"limit": 1})
    folder = place.workspace / "sub"
    folder.mkdir()
    async with in_memory(one) as client:
        await shell(client, gate.snippet, wait=0)
        await gate.reached()
        await shell(client, "touch was_here", task_id="t", working_dir="sub", wait=0)
        folder.rmdir()
        folder.symlink_to(tmp_path)
        gate.go_on()
        failed = await finished(client, "t")

    assert (failed["status"], failed["reason"]) == ("failed", "invalid")
    assert not (tmp_path / "was_here").exists()


# A full disk


@pytest.mark.parametrize("write", ["append_output", "finish"])
async def test_output_or_an_end_that_the_disk_had_no_room_for_is_written_once_it_has(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, write: str
):
    """The output is stored before the end: else its file would be removed, and it with it."""
    monkeypatch.setattr(attempt_module, "FINISH_RETRY_SECONDS", 0.01)
    refusals = iter(range(20))
    written = getattr(Attempts, write)

    async def full_at_first(self: Attempts, *arguments: Any) -> Any:
        if next(refusals, None) is not None:
            raise StoreFullError
        return await written(self, *arguments)

    monkeypatch.setattr(Attempts, write, full_at_first)
    async with in_memory(settings) as client:
        done = await shell(client, "echo result", task_id="t")
        output = await ask(client, "get_task", task_id="t", output_offset=0)

    assert next(refusals, None) is None
    assert done["status"] == "completed"
    assert output["output"]["text"] == "result\n"


@pytest.fixture
def small_disk(place: Place) -> Generator[Path]:
    """A disk of 4 MB where the home will be. Only root can make one."""
    place.home.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(place.home)]
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("only root can mount a small disk here")
    try:
        yield place.home
    finally:
        place.end_all()
        subprocess.run(["umount", "--lazy", str(place.home)], check=True)


async def test_on_a_full_disk_everything_is_refused_or_waits_and_afterwards_nothing_is_lost(
    place: Place, servers: list[ServerProcess], small_disk: Path, gate: Gate
):
    server = ServerProcess.start(place)
    servers.append(server)
    memory = {"type": "fact", "content": "needle " + "x" * 900_000}
    async with over_socket(server.facts["mcp_socket"]) as client:
        await shell(client, f"echo t >> runs; {gate.snippet}; echo result", task_id="t", wait=0)
        await gate.reached()
        fill(small_disk / "filler")
        refusals = [
            await refused(client, "store_memory", **memory),
            await refused(client, "delegate_task", agent="echo", description="x" * 900_000, task_id="never"),
        ]
        gate.go_on()
        meanwhile = await ask(client, "list_tasks")
        (small_disk / "filler").unlink()
        done = await finished(client, "t")
        kept = await ask(client, "store_memory", **memory)
        found = await ask(client, "search", query="needle")
        missing = await refused(client, "get_task", task_id="never")

    for refusal in refusals:
        assert refusal["status"] == 503
        assert "full" in refusal["say"]
    assert [item["id"] for item in meanwhile["items"]] == ["t"]
    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert done["result"]["stdout"] == "result\n" or done["result"]["dropped_bytes"] == len("result\n")
    assert kept["created"] is True
    assert [item["id"] for item in found["items"]] == [kept["id"]]
    assert missing["status"] == 404
    assert runs(place) == Counter("t")


def fill(path: Path) -> None:
    """Leave not a byte of the disk."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass


async def never(*_: object, **__: object) -> None:
    """As if the server were killed right here."""
    await asyncio.Event().wait()


# What a start tells


def starts(place: Place) -> list[dict[str, Any]]:
    """What the store says of every start, the version left out."""
    store = sqlite3.connect(f"file:{place.home / 'offhand.db'}?mode=ro", uri=True)
    try:
        rows = store.execute("SELECT data FROM event WHERE kind = 'server.started' ORDER BY sequence").fetchall()
    finally:
        store.close()
    told = [json.loads(data) for (data,) in rows]
    assert all(data.pop("version") == release() for data in told)
    return told


async def test_every_start_is_one_event_that_tells_what_was_found(
    settings: Settings, place: Place, gate: Gate, second_gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    async with served_in_memory(without_namespaces(settings)) as (client, runtime):
        for each, task_id in ((gate, "goes_on"), (second_gate, "orphan")):
            await shell(client, each.snippet, task_id=task_id, wait=0)
            await each.reached()
        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "finish", never)
            await shell(client, "true", task_id="ended", wait=0.5)
            patch.setattr(AttemptRun, "start", never)
            await shell(client, "true", task_id="claimed", wait=0.2)
        pids = {run.task.id: run.folder.supervisor_pid() for run in runtime.worker._runs.values()}  # pyright: ignore
    os.kill(pids["orphan"] or 0, signal.SIGKILL)
    wait_for_exit(pids["orphan"] or 0, 10)
    async with served_in_memory(without_namespaces(settings)) as (client, runtime):
        adopted = runtime.adopted
        await second_gate.reached()
        for each in (gate, second_gate):
            each.go_on()
        done = [await finished(client, name) for name in ("goes_on", "orphan", "ended", "claimed")]

    nothing = {"running": 0, "finished": 0, "interrupted": 0, "not_begun": 0, "say": ""}
    found = {"running": 1, "finished": 1, "interrupted": 1, "not_begun": 1, "say": adopted.say}
    assert starts(place) == [nothing, found]
    assert adopted.say.endswith("1 still running, 1 finished meanwhile, 1 interrupted, 1 not begun yet; none lost.")
    assert [task["status"] for task in done] == ["completed"] * 4
    assert [task["attempt"] for task in done] == [1, 2, 1, 1]


async def test_a_start_that_cannot_be_written_down_is_a_start_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    async def full(*_: object, **__: object) -> None:
        raise StoreFullError

    monkeypatch.setattr(Attempts, "tell", full)
    async with in_memory(settings) as client:
        done = await shell(client, "true", task_id="t")

    assert done["status"] == "completed"


def test_the_sentence_about_a_restart_can_be_spoken_and_is_empty_where_there_was_nothing():
    from mcp_server.executor.worker import Adopted

    assert Adopted().say == ""
    said = Adopted(running=1, finished=2, interrupted=3, not_begun=4).say
    assert re.findall(r"\d", said) == ["1", "2", "3", "4"]
    assert said.endswith("none lost.")
