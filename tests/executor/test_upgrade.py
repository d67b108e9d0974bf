"""A new server over what a released one left: its store, its running supervisors, the folders of its attempts."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from mcp_server.executor.attempt_folder import AttemptFolder
from mcp_server.store.migrate import migrations
from tests.executor.test_recovery import runs, whole_output
from tests.executor.test_worker import finished, shell
from tests.server.doors import ask, over_socket
from tests.server.gate import Gate
from tests.server.processes import ROOT, Place, ServerProcess, is_alive, wait_for_exit

RELEASES = ("7d99fb8",)
"""The commits that were released."""

LINES = "".join(f"{number}\n" for number in range(1, 30001))


@pytest.fixture(params=RELEASES)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A released Offhand, to be put on PYTHONPATH."""
    command = ["git", "-C", str(ROOT), "archive", request.param, "mcp_server", "relay_adapter"]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"the history of this checkout does not go back to {request.param}")
    folder = tmp_path / "released"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def gates(tmp_path: Path) -> Generator[Callable[[str], Gate]]:
    """Gates by name."""
    made: dict[str, Gate] = {}

    def gate(name: str) -> Gate:
        if name not in made:
            made[name] = Gate(tmp_path, name)
        return made[name]

    yield gate
    for each in made.values():
        each.close()


@pytest.fixture
def servers(place: Place) -> Generator[list[ServerProcess]]:
    """Whatever is put in is ended after the test."""
    started: list[ServerProcess] = []
    yield started
    for server in started:
        server.close()


def supervisor_of(place: Place, attempt: str) -> int:
    """The supervisor of a running attempt."""
    pid = AttemptFolder(place.home / "attempts" / attempt).supervisor_pid()
    assert pid is not None
    return pid


async def test_a_new_server_over_an_old_store_and_old_supervisors_loses_nothing(
    place: Place, servers: list[ServerProcess], released: Path, gates: Callable[[str], Gate]
):
    """Of each kind one: done, failed, cancelled, scheduled, queued, running in four ways, and records of all nouns."""
    old = ServerProcess.start(place, PYTHONPATH=str(released), OFFHAND_LIMIT="4")
    servers.append(old)
    async with over_socket(old.facts["mcp_socket"]) as client:
        await ask(client, "create_session", session_id="s", title="Upgrade")
        await ask(client, "add_conversation", session_id="s", chunk_id="c", content="we spoke of a heron")
        await ask(client, "store_memory", session_id="s", type="fact", key="bird", content="a kingfisher")
        await shell(client, f"echo does >> runs; printf '{LINES[:60]}'", task_id="does", session_id="s")
        await shell(client, "echo fails >> runs; exit 3", task_id="fails")
        await shell(client, "true", task_id="later", run_after=3600, wait=0)
        programs = {
            "goes_on": f"echo goes_on >> runs; seq 1 5000; {gates('goes_on').snippet}; seq 5001 30000",
            "ends": f"echo ends >> runs; {gates('ends').snippet}; echo late",
            "orphan": f"echo orphan >> runs; {gates('orphan').snippet}",
            "unwanted": f"setsid sh -c '{gates('unwanted').snippet}' & wait",
        }
        for name, program in programs.items():
            await shell(client, program, task_id=name, wait=0)
            await gates(name).reached()
        for name in ("in_line", "dropped"):
            await shell(client, f"echo {name} >> runs", task_id=name, wait=0)
        await ask(client, "update_task", task_id="dropped", action="cancel")
        numbers = {name: (await ask(client, "get_task", task_id=name))["number"] for name in programs}
        old.kill()
    spec = json.loads((place.home / "attempts" / f"{numbers['goes_on']}-1" / "spec.json").read_text())
    assert "pid_namespace" not in spec, "it was the released one that ran"
    supervisors = {name: supervisor_of(place, f"{number}-1") for name, number in numbers.items()}
    gates("ends").go_on()
    assert wait_for_exit(supervisors["ends"], 10)
    os.kill(supervisors["orphan"], signal.SIGKILL)

    new = ServerProcess.start(place, OFFHAND_LIMIT="4")
    servers.append(new)
    async with over_socket(new.facts["mcp_socket"]) as client:
        adopted = await ask(client, "get_task", task_id="goes_on")
        cancelled = await ask(client, "update_task", task_id="unwanted", action="cancel", wait=30)
        await gates("orphan").reached()
        for name in ("goes_on", "orphan"):
            gates(name).go_on()
        ended = {name: await finished(client, name) for name in ("does", "fails", *programs, "in_line", "dropped")}
        later = await ask(client, "get_task", task_id="later")
        output = await whole_output(client, "goes_on")
        session = await ask(client, "get_session", session_id="s")
        found = [(await ask(client, "search", query=word))["items"][0]["id"] for word in ("heron", "kingfisher")]
        fresh = await shell(client, "echo fresh >> runs")

    assert "Found after the restart: 2 still running, 1 finished meanwhile, 1 interrupted; none lost." in new.said
    assert (adopted["status"], adopted["attempt"]) == ("running", 1)
    assert {name: task["status"] for name, task in ended.items()} == dict.fromkeys(ended, "completed") | {
        "fails": "failed",
        "dropped": "cancelled",
        "unwanted": "cancelled",
    }
    assert "unverified" not in cancelled["result"]
    assert not any(is_alive(pid) for pid in supervisors.values())
    assert ended["does"]["result"]["stdout"] == LINES[:60]
    assert ended["ends"]["result"]["stdout"] == "late\n"
    assert output == LINES
    assert [each["status"] for each in ended["orphan"]["attempts"]] == ["interrupted", "completed"]
    assert later["status"] == "scheduled"
    assert (session["title"], len(found)) == ("Upgrade", 2)
    assert fresh["status"] == "completed"
    assert fresh["number"] > max(numbers.values())
    once = ("does", "fails", "goes_on", "ends", "in_line", "fresh")
    assert runs(place) == Counter([*once, "orphan", "orphan"])
    assert_sound(place)


def assert_sound(place: Place) -> None:
    """The store has every step of the schema, and a copy of what it was before if there was more than the first."""
    store = sqlite3.connect(f"file:{place.home / 'offhand.db'}?mode=ro", uri=True)
    try:
        steps = [version for (version,) in store.execute("SELECT version FROM migration ORDER BY version")]
        (integrity,) = store.execute("PRAGMA integrity_check").fetchone()
        foreign = store.execute("PRAGMA foreign_key_check").fetchall()
    finally:
        store.close()
    assert steps == [step.version for step in migrations()]
    assert (integrity, foreign) == ("ok", [])
    assert bool(list(place.home.glob("offhand.db.before-*"))) == (len(steps) > 1)
