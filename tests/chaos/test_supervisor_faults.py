"""A supervisor that dies, or finds the disk full, at any of its steps: the attempt runs once, and its end is true."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from mcp_server.executor.attempt_folder import AttemptFolder, Status
from tests.chaos.faulty_supervisor import Fault, faulty_supervisor
from tests.executor.bench import Bench, all_pids, is_zombie, kill_supervisor, wait_until, working_folder
from tests.executor.conftest import bench, supervisor

__all__ = ["bench", "supervisor"]

SCRIPT = """
echo ran >> runs
(setsid sh -c 'trap "" TERM; echo left >> runs; exec sleep 1000' &)
while ! grep -q left runs; do :; done
echo hello
"""
OUTPUT = b"hello\n"


def steps_of(bench: Bench) -> list[str]:
    """What a supervisor does that can fail, in its order."""
    log = bench.root / "steps"
    run(bench, faulty_supervisor(bench.root, "slow", 0, log=log))
    (bench.root / "runs").unlink()
    return log.read_text().split()


def run(bench: Bench, supervisor: Path, script: str = SCRIPT) -> AttemptFolder:
    """One attempt, until its supervisor is gone."""
    folder = AttemptFolder(bench.root / f"attempt-{len(bench.folders)}")
    bench.folders.append(folder)
    folder.start(bench.spec("/bin/sh", "-c", script, kill_grace_seconds=0.2), supervisor=supervisor)
    bench.wait_for_exit(folder)
    return folder


def ended(bench: Bench, folder: AttemptFolder) -> Status:
    """The end of the attempt, by a sweep where its supervisor left none: as the server does."""
    if folder.status() is None:
        folder.start_sweep(supervisor=bench.supervisor)
        bench.wait_for_exit(folder)
    status = folder.status()
    assert status is not None
    return status


def runs(bench: Bench) -> int:
    path = bench.root / "runs"
    return path.read_text().split().count("ran") if path.exists() else 0


def alive(bench: Bench) -> list[int]:
    """All that work below our root, and all that were started as a supervisor there: the init of a namespace is one."""
    supervising = [pid for pid in all_pids() if str(bench.root).encode() in command_line(pid) and not is_zombie(pid)]
    return sorted({*bench.processes(), *supervising})


def wait_for(folder: AttemptFolder, word: bytes) -> None:
    """Until the program wrote it. Not by the bell, which still rings of the attempt before."""
    wait_until(lambda: word in folder.read("stdout", 0, 1000))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_true(bench: Bench, folder: AttemptFolder, status: Status) -> None:
    """What the end says is what happened, and nothing is left."""
    assert alive(bench) == []
    assert status.survivors == ()
    if status.outcome == "lost":
        assert runs(bench) <= 1
        assert OUTPUT.startswith(folder.read("stdout", 0, 100))
    elif status.outcome == "spawn_failed":
        assert runs(bench) == 0
        assert status.error
    else:
        assert (status.outcome, status.returncode, status.verified, runs(bench)) == ("exited", 0, True, 1)
        assert folder.read("stdout", 0, 100) == OUTPUT[: status.stdout_bytes]
        assert status.stdout_bytes + status.stdout_dropped == len(OUTPUT)


@pytest.mark.parametrize("fault", ["killed_before", "killed_after"])
def test_a_supervisor_that_is_killed_at_any_step_leaves_nothing_alive_and_no_lie(bench: Bench, fault: Fault) -> None:
    steps = steps_of(bench)
    outcomes: list[str] = []
    for at in range(1, len(steps) + 1):
        folder = run(bench, faulty_supervisor(bench.root, fault, at))
        status = ended(bench, folder)
        is_true(bench, folder, status)
        outcomes.append(status.outcome)
        (bench.root / "runs").unlink(missing_ok=True)
    assert {"open", "write", "fsync", "rename"} < set(steps), "the steps are not seen"
    assert outcomes[0] == "lost"
    assert outcomes[-1] == "exited" or fault == "killed_before"
    assert outcomes == sorted(outcomes, reverse=True), "once the end is written, it is not lost again"


def test_a_disk_that_fills_up_at_any_step_costs_output_or_the_attempt_but_never_the_truth(bench: Bench) -> None:
    steps = steps_of(bench)
    for at in range(1, len(steps) + 1):
        folder = run(bench, faulty_supervisor(bench.root, "no_space", at))
        status = ended(bench, folder)
        is_true(bench, folder, status)
        (bench.root / "runs").unlink(missing_ok=True)


def test_a_slow_disk_only_takes_longer(bench: Bench) -> None:
    folder = run(bench, faulty_supervisor(bench.root, "slow", 0))
    status = ended(bench, folder)
    is_true(bench, folder, status)
    assert status.outcome == "exited"


@pytest.mark.parametrize("fault", ["killed_before", "killed_after", "no_space"])
def test_a_sweep_that_fails_at_any_step_can_be_made_again(bench: Bench, fault: Fault) -> None:
    log = bench.root / "steps"
    for at in range(99):
        folder = bench.start("/bin/sh", "-c", f"{SCRIPT}\necho ready; sleep 1000")
        wait_for(folder, b"ready")
        kill_supervisor(bench, folder)
        sweeper = faulty_supervisor(bench.root, fault, at, log=log if at == 0 else None)
        folder.start_sweep(supervisor=sweeper)
        code = bench.wait_for_exit(folder)
        if fault == "no_space":
            wait_until(lambda: alive(bench) == [])  # also without room for the record
        status = ended(bench, folder)
        assert (status.outcome, alive(bench)) == ("lost", [])
        assert code in ((-signal.SIGKILL, 0) if fault != "no_space" else (0, 1))
        (bench.root / "runs").unlink()
        if at == len(log.read_text().split()):
            break
    else:
        raise AssertionError("the sweep never came to its end")


@pytest.mark.parametrize("bench", ["namespace"], indirect=True)
def test_the_first_process_of_a_namespace_ends_when_its_supervisor_is_killed_before_it_can_be_tied_to_it(
    bench: Bench,
) -> None:
    """Between the fork and the request to die with the supervisor lies a moment in which nobody would tell it."""
    at = steps_of(bench).index("fork") + 1
    folder = run(bench, faulty_supervisor(bench.root, "killed_after", at), "echo ran >> runs; exec sleep 1000")
    wait_until(lambda: alive(bench) == [])
    assert runs(bench) == 0
    assert ended(bench, folder).outcome == "lost"


RELAY = """
import os, time
os.setsid()
print("ready", flush=True)
for fd in (0, 1, 2):
    os.close(fd)
while True:
    time.sleep(0.001)
    if os.fork():
        os._exit(0)
"""


def test_a_sweep_ends_a_chain_in_which_each_process_starts_the_next_one_and_goes(bench: Bench) -> None:
    relay = f"{sys.executable} -I -S -c '{RELAY}' & sleep 1000"
    folder = bench.start("/bin/sh", "-c", relay)
    wait_for(folder, b"ready")
    kill_supervisor(bench, folder)
    folder.start_sweep(supervisor=bench.supervisor)
    bench.wait_for_exit(folder)
    status = folder.status()
    assert status is not None
    assert (status.outcome, status.survivors) == ("lost", ())
    time.sleep(0.2)  # a chain that goes on shows itself by new processes, and at no certain moment
    assert not any(working_folder(pid).startswith(str(bench.root)) for _ in range(50) for pid in all_pids())


@pytest.mark.parametrize("bench", ["namespace"], indirect=True)
def test_a_sweep_spares_a_later_attempt_whose_namespace_got_the_same_number(bench: Bench) -> None:
    """The kernel gives the number of a namespace that is gone to the next one that is made."""
    dead = bench.start("/bin/sh", "-c", "echo ready; exec sleep 1000")
    wait_for(dead, b"ready")
    kill_supervisor(bench, dead)
    wait_until(lambda: alive(bench) == [])
    later = bench.start("/bin/sh", "-c", "echo ready; exec sleep 1000")
    wait_for(later, b"ready")
    path = dead.path / "supervisor.json"
    facts, others = (json.loads(folder.read_text()) for folder in (path, later.path / "supervisor.json"))
    path.write_text(json.dumps(facts | {"pid_namespace": others["pid_namespace"]}))

    dead.start_sweep(supervisor=bench.supervisor)
    bench.wait_for_exit(dead)
    swept = dead.status()
    runs_on = alive(bench)
    later.terminate()
    ended = bench.wait_for_status(later)

    assert swept is not None
    assert (swept.outcome, swept.verified) == ("lost", True)
    assert others["child_pid"] in runs_on
    assert ended.outcome == "cancelled"
