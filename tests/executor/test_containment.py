"""Pid namespaces: what is in one cannot leave it, sees nothing outside of it, and dies with its supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mcp_server.executor.attempt_folder import AttemptFolder, compiled_supervisor
from mcp_server.executor.supervisor import start_ticks
from tests.executor.bench import Bench, is_zombie, kill_supervisor, wait_until

REPOSITORY = Path(__file__).parents[2]
ORDINARY_USER = 65534
ESCAPES = """
(setsid sh -c 'trap "" TERM HUP; exec sleep 1000' &)
(setsid sh -c '(env -i sleep 1000 &)' &)
env -i setsid sh -c 'trap "" TERM; cd /; exec sleep 1000' &
echo ready; wait
"""
AS_AN_ORDINARY_USER = """
import json, os, sys, time
from dataclasses import asdict
from pathlib import Path
from mcp_server.executor.attempt_folder import AttemptFolder, Spec, can_contain
supervisor, folder, script = Path(sys.argv[1]), AttemptFolder(Path(sys.argv[2])), sys.argv[3]
if not can_contain(supervisor):
    sys.exit("no namespaces")
spec = Spec("7-1", ("/bin/sh", "-c", script), "/", {"PATH": os.defpath}, 60.0, 1 << 20, "c-ordinary",
            kill_grace_seconds=0.2, pid_namespace=True)
folder.start(spec, supervisor=supervisor)
while b"ready" not in folder.read("stdout", 0, 1000) and folder.is_alive():
    time.sleep(0.01)
folder.terminate()
while folder.is_alive():
    time.sleep(0.01)
print(json.dumps(asdict(folder.status()) | {"said": folder.read("stdout", 0, 1000).decode()}))
"""


namespaced = pytest.mark.parametrize("bench", ["namespace"], indirect=True)


def namespaces() -> dict[int, int]:
    """The pid namespace of each process that lives; zombies do not."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and not is_zombie(int(name)):
            try:
                found[int(name)] = os.stat(f"/proc/{name}/ns/pid").st_ino
            except OSError:
                continue
    return found


def members(folder: AttemptFolder) -> list[int]:
    """Who lives in the namespace of the attempt; nobody where its number was given to another one meanwhile."""
    facts = json.loads((folder.path / "supervisor.json").read_bytes())
    found = [pid for pid, number in namespaces().items() if number == facts["pid_namespace"]]
    firsts = [pid for pid in found if is_first(pid)]
    return [] if firsts and facts["init_started"] not in map(start_ticks, firsts) else found


def is_first(pid: int) -> bool:
    """Whether the process is number 1 of its namespace."""
    status = Path(f"/proc/{pid}/status")
    try:
        return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in status.read_text().splitlines())
    except OSError:
        return False


@namespaced
def test_who_cleared_its_environment_and_left_its_folder_and_session_is_ended_too(bench: Bench) -> None:
    folder = bench.start_ready("/bin/sh", "-c", ESCAPES, kill_grace_seconds=0.2)
    wait_until(lambda: len(members(folder)) >= 5)
    folder.terminate()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.verified, status.contained) == ("cancelled", True, "pid_namespace")
    assert members(folder) == []


@namespaced
def test_what_a_program_leaves_behind_ends_with_it(bench: Bench) -> None:
    script = "(env -i setsid sh -c 'trap \"\" TERM; cd /; exec sleep 1000' &); echo ready; exit 4"
    folder, status = bench.shell(script)
    assert (status.outcome, status.returncode, status.verified) == ("exited", 4, True)
    assert members(folder) == []


@namespaced
def test_everything_dies_at_once_with_a_supervisor_that_is_killed(bench: Bench) -> None:
    folder = bench.start_ready("/bin/sh", "-c", ESCAPES)
    kill_supervisor(bench, folder)
    wait_until(lambda: members(folder) == [])
    folder.start_sweep(supervisor=bench.supervisor)
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.verified, status.contained) == ("lost", True, "pid_namespace")


@namespaced
def test_a_program_sees_and_reaches_no_process_outside(bench: Bench) -> None:
    script = f"ls /proc | grep -c '^[0-9]'; kill -0 {os.getpid()} && echo reached; kill -9 -1; echo here"
    folder, status = bench.shell(script)
    seen, _, rest = folder.read("stdout", 0, 100).decode().partition("\n")
    assert status.outcome == "exited"
    assert int(seen) <= 5
    assert rest == "here\n"


@namespaced
def test_the_first_process_of_the_namespace_collects_orphans(bench: Bench) -> None:
    orphans = "for i in 1 2 3 4 5; do (sh -c 'true' &); done"
    script = f"{orphans}; while grep -q '^State:.Z' /proc/[0-9]*/status; do :; done; echo end"
    folder, status = bench.shell(script)
    assert status.outcome == "exited"
    assert folder.read("stdout", 0, 100) == b"end\n"


def ordinary_python() -> str | None:
    """A Python like ours that another user may start."""
    for each in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            done = subprocess.run(
                [each, "-c", "import sys; print(sys.implementation.cache_tag)"],
                user=ORDINARY_USER,
                group=ORDINARY_USER,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:
            continue
        if done.stdout.strip() == sys.implementation.cache_tag:
            return each
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="all other tests run as an ordinary user already")
def test_an_ordinary_user_has_the_same_containment() -> None:
    python = ordinary_python()
    if python is None:
        pytest.skip("no Python of this version here that another user may start")
    with tempfile.TemporaryDirectory() as base:
        compiled = compiled_supervisor(Path(base) / "compiled")
        for path in (Path(base), compiled.parent, compiled):
            os.chown(path, ORDINARY_USER, ORDINARY_USER)
        done = subprocess.run(
            [python, "-c", AS_AN_ORDINARY_USER, str(compiled), f"{base}/attempt", f"id -u; {ESCAPES}"],
            user=ORDINARY_USER,
            group=ORDINARY_USER,
            extra_groups=[],
            env={"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if "no namespaces" in done.stderr:
            pytest.skip("this system gives ordinary users no pid namespaces")
        assert done.returncode == 0, done.stderr
        ended = json.loads(done.stdout)
        left = members(AttemptFolder(Path(base) / "attempt"))
    assert (ended["outcome"], ended["verified"], ended["contained"]) == ("cancelled", True, "pid_namespace")
    assert ended["said"] == f"{ORDINARY_USER}\nready\n"
    assert left == []
