"""`offhand stop` and `offhand status`, as real commands against real servers."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable

import httpx2
import pytest

from tests.cli.conftest import Offhand, Start, supervising
from tests.executor.test_recovery import runs
from tests.executor.test_worker import finished, shell
from tests.server.doors import ask, over_socket
from tests.server.gate import Gate
from tests.server.processes import ROOT, START_SECONDS, STOP_SECONDS, Place, ServerProcess, is_alive

MANY = 20
NOT_RUNNING = 3

# httpcore2 drops the socket unclosed on which nobody answered
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Command:
    """`offhand ARGUMENTS` while it runs; what it says is read line by line."""

    def __init__(self, user: Place, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_server", *arguments],
            env=user.environment(),
            cwd=user.base,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        """Its exit code, and the rest of what it said."""
        rest, _ = self.process.communicate(timeout=START_SECONDS)
        return self.process.returncode, rest


async def begun(server: ServerProcess, gate: Gate, name: str) -> None:
    """A task of that name runs, and waits for the gate."""
    async with over_socket(server.facts["mcp_socket"]) as client:
        await shell(client, f"echo {name} >> runs; {gate.snippet}", task_id=name, wait=0)
        await gate.reached()


# Without work


def test_a_server_without_work_ends_and_the_command_returns_when_it_is_gone(
    user: Place, offhand: Offhand, start: Start
):
    server = start()
    serving = offhand("status")
    stopped = offhand("stop")
    gone = not is_alive(server.pid)
    after = offhand("status")

    assert serving.code == 0
    assert f"process {server.pid}" in serving.out
    assert "0 running, 0 queued" in serving.out
    assert (stopped.code, stopped.out, stopped.err) == (0, "Stopped.\n", "")
    assert gone
    assert server.process.wait(1) == 0
    assert (after.code, after.out) == (NOT_RUNNING, "No server runs. Start one: offhand serve\n")


def test_where_no_server_runs_there_is_nothing_to_do(user: Place, offhand: Offhand, start: Start):
    never = offhand("stop")
    server = start()
    server.kill()
    killed = [offhand("stop"), offhand("stop", "--drain")]
    as_json = offhand("stop", "--json")
    status = offhand("status", "--json")

    assert (user.home / "server.json").exists(), "the kill left it behind"
    for ran in (never, *killed):
        assert (ran.code, ran.out, ran.err) == (0, "No server runs.\n", "")
    assert json.loads(as_json.out) == {"stopped": True, "was_running": False, "still_running": 0}
    assert (status.code, json.loads(status.out)) == (NOT_RUNNING, {"status": "stopped", "running": 0})


# With work


async def test_what_runs_goes_on_without_the_server_and_the_next_start_tells_of_it(
    user: Place, offhand: Offhand, start: Start, gates: Callable[[], Gate]
):
    gate = gates()
    await begun(start(), gate, "t")
    stopped = offhand("stop")
    between = offhand("status")
    second = start()
    found = json.loads(offhand("status", "--json").out)
    said = offhand("status").out
    gate.go_on()
    async with over_socket(second.facts["mcp_socket"]) as client:
        done = await finished(client, "t")

    assert stopped.code == 0
    assert "1 task goes on without it" in stopped.out
    assert between.code == NOT_RUNNING
    assert "Going on without it: 1 running" in between.out
    assert found["found"] == {
        "running": 1,
        "finished": 0,
        "interrupted": 0,
        "not_begun": 0,
        "say": "Found after the restart: 1 still running; none lost.",
    }
    assert (found["status"], found["running"], found["queued"], found["pid"]) == ("serving", 1, 0, second.pid)
    assert found["found"]["say"] in said
    assert (done["status"], done["attempt"], runs(user)["t"]) == ("completed", 1, 1)


async def test_draining_begins_nothing_new_waits_for_what_runs_and_loses_nothing(
    user: Place, offhand: Offhand, start: Start, gates: Callable[[], Gate]
):
    gate = gates()
    server = start(OFFHAND_LIMIT="1")
    await begun(server, gate, "runs")
    async with over_socket(server.facts["mcp_socket"]) as client:
        await shell(client, "echo queued >> runs", task_id="queued", wait=0)
        command = Command(user, "stop", "--drain")
        progress = command.line()
        status = offhand("status")
        late = await shell(client, "echo late >> runs", task_id="late", wait=0)
        gate.go_on()
    code, rest = command.end()
    ran = set(runs(user))

    second = start(OFFHAND_LIMIT="1")
    async with over_socket(second.facts["mcp_socket"]) as client:
        done = [await finished(client, name) for name in ("runs", "queued", "late")]

    assert progress == "Waiting for 1 running task."
    assert "1 running, 1 queued" in status.out
    assert "begins nothing more" in status.out
    assert late["status"] == "queued", "what comes in is kept for the next server"
    assert (code, rest) == (0, "Stopped.\n")
    assert server.process.wait(1) == 0
    assert ran == {"runs"}
    assert [task["status"] for task in done] == ["completed"] * 3
    assert [task["attempt"] for task in done] == [1, 1, 1]
    assert set(runs(user).values()) == {1}


async def test_draining_ends_after_the_timeout_whatever_still_runs(
    user: Place, offhand: Offhand, start: Start, gates: Callable[[], Gate]
):
    gate = gates()
    server = start()
    await begun(server, gate, "t")
    stopped = offhand("stop", "--drain", "--timeout", "0.1", "--json")
    alive = supervising(user)
    gate.go_on()

    assert stopped.code == 0, stopped.err
    assert json.loads(stopped.out) == {"stopped": True, "was_running": True, "still_running": 1}
    assert server.process.wait(1) == 0
    assert len(alive) == 1


async def test_a_second_stop_hurries_one_that_drains(
    user: Place, offhand: Offhand, start: Start, gates: Callable[[], Gate]
):
    gate = gates()
    server = start()
    await begun(server, gate, "t")
    drains = Command(user, "stop", "--drain")
    drains.line()
    hurries = offhand("stop")
    code, rest = drains.end()
    gate.go_on()

    for said in (hurries.out, rest):
        assert "Stopped.\n1 task goes on without it" in said
    assert (hurries.code, code, server.process.wait(1)) == (0, 0, 0)


async def test_to_interrupt_the_command_does_not_end_the_draining(
    user: Place, offhand: Offhand, start: Start, gates: Callable[[], Gate]
):
    gate = gates()
    server = start()
    await begun(server, gate, "t")
    command = Command(user, "stop", "--drain")
    command.line()
    command.process.send_signal(signal.SIGINT)
    code, rest = command.end()
    status = json.loads(offhand("status", "--json").out)
    gate.go_on()

    assert code == 130
    assert "To end it now: offhand stop" in rest
    assert "Traceback" not in rest
    assert (status["status"], status["running"]) == ("draining", 1)
    assert server.process.wait(STOP_SECONDS) == 0, "it ends by itself when what ran has ended"


async def test_the_signal_ends_a_server_with_many_running_tasks_in_time_and_no_supervisor(
    user: Place, offhand: Offhand, start: Start, gates: Callable[[], Gate]
):
    gate = gates()
    many = {"OFFHAND_LIMIT": str(MANY)}
    server = start(**many)
    async with over_socket(server.facts["mcp_socket"]) as client:
        for number in range(MANY):
            await shell(client, f"echo t{number} >> runs; {gate.snippet}", task_id=f"t{number}", wait=0)
        for _ in range(MANY):
            await gate.reached()
    before = supervising(user)
    seconds = server.stop(signal.SIGTERM)
    after = supervising(user)

    second = start(**many)
    for _ in range(MANY):
        gate.go_on()
    async with over_socket(second.facts["mcp_socket"]) as client:
        done = [await finished(client, f"t{number}") for number in range(MANY)]

    assert seconds < STOP_SECONDS
    assert server.process.returncode == 0
    assert len(before) == MANY
    assert after == before
    assert f"{MANY} still running; none lost" in second.said
    assert {(task["status"], task["attempt"]) for task in done} == {("completed", 1)}
    assert set(runs(user).values()) == {1}


# Who may


async def test_a_task_may_not_stop_the_server(user: Place, offhand: Offhand, start: Start):
    server = start()
    program = f"{shlex.quote(sys.executable)} -m mcp_server stop"
    environment = f"OFFHAND_HOME={shlex.quote(str(user.home))} PYTHONPATH={shlex.quote(str(ROOT))}"
    async with over_socket(server.facts["mcp_socket"]) as client:
        done = await shell(client, f"{environment} {program} 2>&1", task_id="t", wait=30)
        still = await ask(client, "get_task", task_id="t")

    assert done["status"] == "failed", done
    assert "offhand: The server does not answer" in done["result"]["stdout"]
    assert still["id"] == "t"


def test_over_the_network_it_takes_a_key_for_administration(user: Place, offhand: Offhand, start: Start):
    server = start()
    admin = server.make_key("boss", "admin")
    with httpx2.Client(base_url=server.url, verify=False) as http:
        codes = [
            http.request(method, path, headers=headers, json={}).status_code
            for headers in ({}, {"X-API-Key": server.key})
            for method, path in (("GET", "/api/status"), ("POST", "/api/stop"), ("PUT", "/api/limits"))
        ]
        headers = {"X-API-Key": admin}
        wrong = [
            http.post("/api/stop", headers=headers, json={"drain": "yes"}).json(),
            http.post("/api/stop", headers=headers, json={"drain": True, "timeout_seconds": -1}).json(),
            http.post("/api/stop", headers=headers, json={"force": True}).json(),
        ]
        status = http.get("/api/status", headers=headers).json()
        stopping = http.post("/api/stop", headers=headers)

    assert codes == [401, 401, 401, 403, 403, 403]
    assert [answer["errors"][0]["field"] for answer in wrong] == ["drain", "timeout_seconds", "force"]
    assert status["status"] == "serving"
    assert (stopping.status_code, stopping.json()["status"]) == (202, "stopping")
    assert server.process.wait(STOP_SECONDS) == 0
    assert not os.path.exists(server.place.home / "server.json")
