"""The supervisor and its folder, with real processes. Every test ends with a look that nothing of it is alive."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest

from mcp_server.errors import ConflictError, StoreError
from mcp_server.executor import attempt_folder
from mcp_server.executor.attempt_folder import AttemptFolder, compiled_supervisor
from tests.executor.bench import (
    DEADLINE_SECONDS,
    Bench,
    kill_supervisor,
    python,
    wait_until,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc and waits on pidfds")

REPOSITORY = Path(__file__).parents[2]
LONG = "1000"

DAEMON = """
import os, signal, time
is_ready, tell = os.pipe()
if os.fork():
    os.read(is_ready, 1)
    os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"ready")
os.write(tell, b"x")
time.sleep(1000)
"""
RUNAWAY = """
import os, time
end = time.monotonic() + 30
os.write(1, b"ready")
while time.monotonic() < end:
    if os.fork(): os._exit(0)
    os.setsid()
"""
GROWING = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
take, give = os.pipe()
os.write(give, b"x" * 300)
os.set_blocking(take, False)
os.write(1, b"ready")
while True:
    try:
        os.read(take, 1)
    except BlockingIOError:
        time.sleep(1000)
    if os.fork() == 0: os.setsid()
"""
WATCHDOGS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
os.write(1, b"ready")
end = time.monotonic() + 30
while time.monotonic() < end:
    other = os.fork()
    if other == 0:
        os.setsid()
        watched = os.getppid()
        while os.getppid() == watched:
            time.sleep(0.001)
        continue
    os.waitpid(other, 0)
"""


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kibibytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("no tmpfs can be mounted here")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


# What runs


def test_a_program_that_ends_well_is_recorded(bench: Bench) -> None:
    before = time.time_ns() // 1000
    folder, status = bench.run("/bin/echo", "hello")
    assert (status.outcome, status.returncode, status.error) == ("exited", 0, "")
    assert folder.read("stdout", 0, 100) == b"hello\n"
    assert (status.stdout_bytes, status.stderr_bytes, status.stdout_dropped, status.stderr_dropped) == (6, 0, 0, 0)
    assert status.started_at is not None
    assert before <= status.started_at <= status.finished_at <= time.time_ns() // 1000
    assert (status.verified, status.survivors) == (True, ())
    assert status.max_rss_kb > 0


@pytest.mark.parametrize("code", [1, 3, 127, 255])
def test_the_exit_code_is_kept(bench: Bench, code: int) -> None:
    _, status = bench.shell(f"exit {code}")
    assert (status.outcome, status.returncode) == ("exited", code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE])
def test_a_program_that_dies_of_a_signal_is_signaled(bench: Bench, number: signal.Signals) -> None:
    _, status = bench.shell(f"ulimit -c 0; kill -{int(number)} $$")
    assert (status.outcome, status.returncode) == ("signaled", -number)


def test_the_times_count_what_the_whole_tree_used(bench: Bench) -> None:
    busy = "import time\nwhile time.process_time() < 0.1: pass"
    _, status = bench.run("/bin/sh", "-c", '"$@" & "$@" & wait', "sh", *python(busy))
    assert status.user_seconds + status.system_seconds >= 0.2


def test_a_missing_program_is_a_failed_spawn(bench: Bench) -> None:
    folder, status = bench.run(str(bench.root / "nothing"))
    assert (status.outcome, status.returncode, status.verified) == ("spawn_failed", None, True)
    assert status.error.startswith("program: ")
    assert "ENOENT" in status.error
    assert f"errno {errno.ENOENT}" in status.error
    assert folder.started() is None


def test_a_file_that_is_not_executable_is_a_failed_spawn(bench: Bench) -> None:
    (bench.root / "text").write_text("#!/bin/sh\n")
    _, status = bench.run(str(bench.root / "text"))
    assert status.outcome == "spawn_failed"
    assert "EACCES" in status.error


def test_a_working_folder_that_is_gone_is_a_failed_spawn(bench: Bench) -> None:
    gone = bench.root / "gone"
    _, status = bench.run("/bin/true", cwd=str(gone))
    assert status.outcome == "spawn_failed"
    assert status.error.startswith("cwd: ")
    assert "ENOENT" in status.error


def test_an_argument_that_no_program_can_be_given_is_a_failed_spawn(bench: Bench) -> None:
    _, status = bench.run("/bin/echo", "a\0b")
    assert status.outcome == "spawn_failed"
    assert "null" in status.error


def test_the_program_works_in_the_folder_that_was_named(bench: Bench) -> None:
    place = bench.root / "with space é"
    place.mkdir()
    folder, _ = bench.run("/bin/pwd", cwd=str(place))
    assert folder.read("stdout", 0, 1000).decode() == f"{place}\n"


def test_the_environment_is_the_given_one_and_the_cookie(bench: Bench) -> None:
    env = {"A": "1 é 😀 \n 2", "OFFHAND_ATTEMPT": "of an outer attempt"}
    folder, _ = bench.run("/usr/bin/env", "-0", env=env, cookie="c-1")
    assert set(folder.read("stdout", 0, 1000).decode().split("\0")) == {
        "A=1 é 😀 \n 2",
        "OFFHAND_ATTEMPT=c-1",
        "",
    }


def test_arguments_keep_bytes_that_are_not_utf8(bench: Bench) -> None:
    folder, _ = bench.run("/usr/bin/printf", "%s", os.fsdecode(b'\xff\xfe \\ " \x01'))
    assert folder.read("stdout", 0, 100) == b'\xff\xfe \\ " \x01'


def test_stdin_is_what_was_given(bench: Bench) -> None:
    text = bytes(range(256)) * 4000
    folder, status = bench.run("/bin/cat", stdin=text, output_limit_bytes=len(text))
    assert folder.read("stdout", 0, 2 * len(text)) == text
    assert status.stdout_dropped == 0


def test_stdin_is_empty_where_none_was_given(bench: Bench) -> None:
    _, status = bench.run("/bin/cat")
    assert (status.outcome, status.returncode, status.stdout_bytes) == ("exited", 0, 0)


def test_the_streams_are_kept_apart(bench: Bench) -> None:
    folder, status = bench.shell("echo to-out; echo to-err >&2")
    assert (folder.read("stdout", 0, 100), folder.read("stderr", 0, 100)) == (b"to-out\n", b"to-err\n")
    assert (status.stdout_bytes, status.stderr_bytes) == (7, 7)


def test_signals_are_as_new_in_the_program(bench: Bench) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
    ignored = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        folder, _ = bench.run("/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGQUIT, ignored)
    masks = [line.split()[1] for line in folder.read("stdout", 0, 1000).splitlines()]
    # The C library always ignores 32 and 33 in what it spawns: they are its own.
    assert [int(mask, 16) & 0x7FFF_FFFF for mask in masks] == [0, 0]


def test_the_program_inherits_no_files_of_ours(bench: Bench) -> None:
    leak = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        folder, _ = bench.run(*python("import os; print(*sorted(os.listdir('/proc/self/fd')))"))
    finally:
        os.close(leak)
    # The fourth is the listing itself.
    assert folder.read("stdout", 0, 100).split() == [b"0", b"1", b"2", b"3"]


def test_the_program_leads_a_session_of_its_own(bench: Bench) -> None:
    folder, _ = bench.run(*python("import os; print(os.getpid(), os.getsid(0), os.getppid())"))
    pid, session, parent = map(int, folder.read("stdout", 0, 100).split())
    started = folder.started()
    assert started is not None
    if bench.pid_namespace:
        assert (pid, session, parent) == (2, 2, 1)
    else:
        assert (started.child_pid, started.child_pid, started.pid) == (pid, session, parent)


# Output


def test_output_above_the_limit_is_counted_and_dropped(bench: Bench) -> None:
    folder, status = bench.shell("printf 0123456789; printf abc >&2", output_limit_bytes=4)
    assert (folder.read("stdout", 0, 100), folder.read("stderr", 0, 100)) == (b"0123", b"abc")
    assert (status.stdout_bytes, status.stdout_dropped) == (4, 6)
    assert (status.stderr_bytes, status.stderr_dropped) == (3, 0)


def test_a_flood_of_output_neither_blocks_nor_grows(bench: Bench) -> None:
    size = 100_000_000
    folder, status = bench.shell(f"head -c {size} /dev/zero; echo done >&2")
    assert (status.returncode, status.stdout_bytes, status.stdout_dropped) == (0, 1 << 20, size - (1 << 20))
    assert folder.size("stdout") == 1 << 20
    assert folder.read("stderr", 0, 100) == b"done\n"


def test_output_can_be_read_from_an_offset_while_it_grows(bench: Bench) -> None:
    folder = bench.start("/bin/sh", "-c", f"echo ready; exec sleep {LONG}")
    assert folder.read("stderr", 0, 10) == b""
    bench.wait_for_output(folder, b"ready")
    assert (folder.read("stdout", 2, 3), folder.read("stdout", 6, 10), folder.size("stdout")) == (b"ady", b"", 6)
    folder.terminate()
    bench.wait_for_status(folder)


def test_a_full_disk_loses_output_but_not_the_result(bench: Bench, tiny_disk: Callable[[int], Path]) -> None:
    folder, status = bench.shell("head -c 1000000 /dev/zero; exit 7", within=tiny_disk(100))
    assert (status.outcome, status.returncode, status.verified) == ("exited", 7, True)
    assert "stdout could not be written: No space left" in status.error
    assert 0 < status.stdout_bytes < 100_000
    assert status.stdout_bytes + status.stdout_dropped == 1_000_000
    assert folder.size("stdout") == status.stdout_bytes


def test_output_after_a_failed_write_is_dropped_so_that_the_file_has_no_gap(
    bench: Bench, tiny_disk: Callable[[int], Path]
) -> None:
    disk = tiny_disk(200)
    filler = disk / "filler"
    filler.write_bytes(b"x" * 100_000)
    # More than a pipe holds, so the write has failed before the filler goes.
    folder, status = bench.shell(
        f"head -c 3000000 /dev/zero; rm {filler}; echo later", within=disk, output_limit_bytes=10**7
    )
    assert status.stdout_bytes + status.stdout_dropped == 3_000_006
    assert folder.read("stdout", 0, 10**7) == bytes(status.stdout_bytes)


def test_a_disk_without_room_for_the_result_runs_nothing(bench: Bench, tiny_disk: Callable[[int], Path]) -> None:
    folder = bench.start("/usr/bin/touch", "ran", within=tiny_disk(16))
    assert bench.wait_for_exit(folder) == 1
    assert (folder.status(), folder.started()) == (None, None)
    assert not (bench.root / "ran").exists()


def test_a_limit_on_the_size_of_files_loses_output_but_not_the_result(bench: Bench) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        folder = bench.start("/bin/sh", "-c", "head -c 50000 /dev/zero; exit 7")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode) == ("exited", 7)
    assert (status.stdout_bytes, status.stdout_dropped) == (20_000, 30_000)
    assert "File too large" in status.error


# The bell


def test_the_bell_rings_for_output_and_for_the_end(bench: Bench) -> None:
    bench.run("/bin/echo", "hello")
    assert bench.rings() == [b"out 7-1", b"end 7-1"]


def test_the_bell_does_not_ring_for_silence(bench: Bench) -> None:
    bench.run("/bin/true")
    assert bench.rings() == [b"end 7-1"]


def test_many_writes_are_few_rings(bench: Bench) -> None:
    writer = "import os, time\nfor _ in range(400): os.write(1, b'x'); time.sleep(0.0005)"
    folder = bench.start(*python(writer))
    bench.hear_the_end()
    status = bench.wait_for_status(folder)
    assert status.started_at is not None
    assert folder.size("stdout") == 400
    rings = bench.heard.count(b"out 7-1")
    assert 2 <= rings <= (status.finished_at - status.started_at) / 20_000 + 1


def test_a_write_soon_after_a_ring_rings_too_before_the_program_ends(bench: Bench) -> None:
    """`start_ready` and every reader of growing output rely on it: no write stays untold."""
    folder = bench.start(*python("import os, time\nfor _ in range(100): os.write(1, b'x')\ntime.sleep(1000)"))
    bench.wait_for_output(folder, b"x" * 100)
    folder.terminate()
    bench.wait_for_status(folder)


@pytest.mark.parametrize("bell", [None, "/nowhere/bell", "/" + "long" * 100])
def test_nobody_needs_to_hear_the_bell(bench: Bench, bell: str | None) -> None:
    _, status = bench.run("/bin/echo", "hello", bell=bell)
    assert (status.outcome, status.error) == ("exited", "")


# Clocks


def test_the_time_limit_ends_the_program(bench: Bench) -> None:
    _, status = bench.run("/bin/sleep", LONG, timeout_seconds=0.1)
    assert (status.outcome, status.returncode, status.verified) == ("timeout", -signal.SIGTERM, True)
    assert status.started_at is not None
    assert status.finished_at - status.started_at >= 100_000


def test_the_time_limit_kills_what_ignores_the_request(bench: Bench) -> None:
    script = 'trap "" TERM; while :; do sleep 1; done'
    _, status = bench.shell(script, timeout_seconds=0.1, kill_grace_seconds=0.1)
    assert (status.outcome, status.returncode, status.verified) == ("timeout", -signal.SIGKILL, True)


def test_the_grace_lets_a_program_end_in_its_own_way(bench: Bench) -> None:
    script = 'trap "echo tidied; exit 5" TERM; echo ready; while :; do sleep 0.01; done'
    folder, status = bench.shell(script, timeout_seconds=0.3, kill_grace_seconds=DEADLINE_SECONDS)
    assert (status.outcome, status.returncode) == ("timeout", 5)
    assert folder.read("stdout", 0, 100) == b"ready\ntidied\n"


def test_silence_ends_the_program(bench: Bench) -> None:
    folder, status = bench.shell(f"echo once; exec sleep {LONG}", idle_seconds=0.1)
    assert (status.outcome, status.returncode) == ("idle_timeout", -signal.SIGTERM)
    assert folder.read("stdout", 0, 100) == b"once\n"


def test_output_of_either_stream_keeps_the_idle_clock_from_ending_the_program(bench: Bench) -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 0.2; echo $i; sleep 0.2; echo $i >&2; done"
    _, status = bench.shell(script, idle_seconds=2.0)
    assert (status.outcome, status.returncode) == ("exited", 0)


# Cancel


def test_cancel_ends_the_program(bench: Bench) -> None:
    folder = bench.start_ready("/bin/sh", "-c", f"echo ready; exec sleep {LONG}")
    assert folder.terminate()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode, status.verified) == ("cancelled", -signal.SIGTERM, True)
    assert not folder.terminate()


def test_a_cancel_is_never_lost_however_early_it_comes(bench: Bench) -> None:
    folders: list[AttemptFolder] = []
    for _ in range(8):
        folders.append(bench.start("/bin/sleep", LONG))
        assert folders[-1].terminate()
    ends = [bench.wait_for_status(folder) for folder in folders]
    assert {end.outcome for end in ends} == {"cancelled"}
    assert any(end.returncode is None for end in ends), "none of them came before the spawn"
    assert [folder.started() is None for folder in folders] == [end.returncode is None for end in ends]


def test_a_stopped_program_hears_the_request_to_end(bench: Bench) -> None:
    folder = bench.start_ready("/bin/sh", "-c", "echo ready; kill -STOP $$", kill_grace_seconds=DEADLINE_SECONDS)
    folder.terminate()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode) == ("cancelled", -signal.SIGTERM)


def test_a_second_cancel_changes_nothing(bench: Bench) -> None:
    script = 'trap "" TERM; echo ready; while :; do sleep 1; done'
    folder = bench.start_ready("/bin/sh", "-c", script, kill_grace_seconds=0.3)
    for _ in range(3):
        assert folder.terminate()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode) == ("cancelled", -signal.SIGKILL)
    assert status.error == ""


def test_a_hangup_is_no_cancel(bench: Bench) -> None:
    folder = bench.start_ready("/bin/sh", "-c", "echo ready; read line < go; exit 4", **with_gate(bench))
    os.kill(cast(int, folder.supervisor_pid()), signal.SIGHUP)
    open_gate(bench)
    assert bench.wait_for_status(folder).returncode == 4


STUBBORN = f'trap "" TERM; echo ready; exec sleep {LONG}'


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(("/bin/sh", "-c", f"setsid sleep {LONG} & setsid sh -c '{STUBBORN}'"), id="a-session-of-its-own"),
        pytest.param((*python(DAEMON + "\n"),), id="a-daemon-alone"),
        pytest.param(("/bin/sh", "-c", f'"$@" & exec sleep {LONG}', "sh", *python(DAEMON)), id="a-daemon-beside"),
        pytest.param(("/bin/sh", "-c", f"env -i setsid sh -c '{STUBBORN}' & sleep {LONG}"), id="no-environment"),
        pytest.param(
            ("/bin/sh", "-c", f"(trap '' TERM; sleep {LONG}) & echo ready; exec sleep {LONG}"), id="pipe-held"
        ),
        pytest.param(("/bin/sh", "-c", "echo ready; kill -STOP $$"), id="stopped"),
        pytest.param(("/bin/sh", "-c", "setsid sh -c 'echo ready; kill -STOP $$' & wait"), id="stopped-child"),
        pytest.param(python(GROWING), id="grows-while-it-is-ended"),
        pytest.param(python(WATCHDOGS), id="watchdogs"),
    ],
)
def test_cancel_leaves_nothing(bench: Bench, argv: tuple[str, ...]) -> None:
    folder = bench.start_ready(*argv, kill_grace_seconds=0.1)
    folder.terminate()
    status = bench.wait_for_status(folder)
    assert status.outcome in ("cancelled", "exited")
    assert (status.verified, status.survivors) == (True, ())
    assert not bench.processes()


def test_a_loop_that_forks_and_exits_is_caught(bench: Bench) -> None:
    folder = bench.start_ready(*python(RUNAWAY))
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode, status.verified) == ("exited", 0, True)
    assert status.started_at is not None
    assert status.finished_at - status.started_at < 20_000_000, "it ended by itself"


def test_the_output_during_the_grace_is_kept(bench: Bench) -> None:
    script = 'trap "head -c 3000000 /dev/zero; exit 0" TERM; echo ready; while :; do sleep 0.01; done'
    folder = bench.start_ready("/bin/sh", "-c", script, kill_grace_seconds=DEADLINE_SECONDS)
    folder.terminate()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode) == ("cancelled", 0)
    assert status.stdout_bytes + status.stdout_dropped == 3_000_006


# What is left after an ordinary end


def with_gate(bench: Bench) -> dict[str, Any]:
    """A program that does `read line < go` waits until `open_gate`."""
    os.mkfifo(bench.root / "go")
    return {}


def open_gate(bench: Bench) -> None:
    (bench.root / "go").write_text("go\n")


@pytest.mark.parametrize(
    "script",
    [
        f"sleep {LONG} & exit 3",
        f"setsid sleep {LONG} >/dev/null 2>&1 & exit 3",
        "(trap '' TERM; setsid sh -c 'while :; do sleep 1; done') & exit 3",
        f"env -i setsid sleep {LONG} & exit 3",
    ],
)
def test_leftovers_of_a_program_that_ended_are_ended(bench: Bench, script: str) -> None:
    _, status = bench.shell(script)
    assert (status.outcome, status.returncode, status.verified, status.survivors) == ("exited", 3, True, ())


def test_a_cancel_after_the_program_ended_does_not_change_how_it_ended(bench: Bench) -> None:
    # What is left holds off its end for half a second, so the cancel comes between the two.
    left = 'trap "" TERM; echo > go; while :; do sleep 1; done'
    script = f"setsid sh -c '{left}' & read line < go; echo ready; exit 6"
    folder = bench.start_ready("/bin/sh", "-c", script, **with_gate(bench))
    started = folder.started()
    assert started is not None
    wait_until(lambda: not os.path.exists(f"/proc/{started.child_pid}"))
    folder.terminate()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode, status.verified) == ("exited", 6, True)


def test_a_pipe_that_is_open_elsewhere_does_not_keep_the_attempt(bench: Bench) -> None:
    """Somebody else, no part of the attempt, may have got hold of the pipe."""
    folder = bench.start_ready("/bin/sh", "-c", "echo ready; read line < go; echo last", **with_gate(bench))
    started = folder.started()
    assert started is not None
    pipe = os.open(f"/proc/{started.child_pid}/fd/1", os.O_WRONLY)
    try:
        open_gate(bench)
        status = bench.wait_for_status(folder)
    finally:
        os.close(pipe)
    assert (status.outcome, status.verified) == ("exited", True)
    assert folder.read("stdout", 0, 100) == b"ready\nlast\n"


@pytest.mark.parametrize("age_seconds", [0.0, 1.2])
def test_what_another_process_started_with_the_cookie_is_ended_too(bench: Bench, age_seconds: float) -> None:
    script = f"echo ready; read line < go; sleep {age_seconds}"
    folder = bench.start_ready("/bin/sh", "-c", script, cookie="c-outside", **with_gate(bench))
    env = {"OFFHAND_ATTEMPT": "c-outside"}
    with (
        subprocess.Popen(["/bin/sleep", LONG], env=env, cwd=bench.root) as ours,
        subprocess.Popen(["/bin/sleep", LONG], env={"OFFHAND_ATTEMPT": "c-outside-2"}) as other,
    ):
        open_gate(bench)
        try:
            assert bench.wait_for_status(folder).outcome == "exited"
            assert ours.wait(DEADLINE_SECONDS) == -signal.SIGTERM
            assert other.poll() is None
        finally:
            ours.kill()
            other.kill()


# Limits


def test_a_program_steps_back_and_leaves_no_core_dump(bench: Bench) -> None:
    folder, _ = bench.run(*python("import os, resource; print(os.nice(0), resource.getrlimit(4)[0])"), nice=7)
    assert folder.read("stdout", 0, 100) == b"%d 0\n" % (os.nice(0) + 7)


def test_a_program_has_no_more_open_files_than_it_may(bench: Bench) -> None:
    folder, status = bench.shell("ulimit -n; ulimit -Hn; exec 99>/dev/null && echo more", open_files=80)
    assert folder.read("stdout", 0, 100).startswith(b"80\n80\n")
    assert (b"more" in folder.read("stdout", 0, 100), status.returncode == 0) == (False, False)


HOARDERS = """
import os
for _ in range(3):
    if os.fork() == 0:
        hoard = bytearray(os.urandom(1) * (40 << 20))
        print("ready", flush=True)
        break
import time
time.sleep(1000)
"""


def test_processes_that_hold_too_much_memory_together_are_ended(bench: Bench) -> None:
    _, status = bench.run(*python(HOARDERS), memory_limit_bytes=100 << 20, kill_grace_seconds=0.2)
    assert (status.outcome, status.verified, status.survivors) == ("memory_limit", True, ())


def test_memory_that_forks_share_counts_once(bench: Bench) -> None:
    shared = """
import os, time
hoard = bytearray(os.urandom(1) * (60 << 20))
for _ in range(4):
    if os.fork() == 0: time.sleep(1000)
print("ready", flush=True)
time.sleep(1000)
"""
    folder = bench.start_ready(*python(shared), memory_limit_bytes=100 << 20, kill_grace_seconds=0.2)
    pidfd = cast(int, folder.open_pidfd())
    assert not select.select([pidfd], [], [], 2.5)[0], "it was ended within two looks"
    os.close(pidfd)
    folder.terminate()
    assert bench.wait_for_status(folder).outcome == "cancelled"


# The supervisor itself


def test_the_supervisor_outlives_the_server(bench: Bench) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from mcp_server.executor.attempt_folder import AttemptFolder, Spec
spec = Spec("7-1", ("/bin/sh", "-c", "echo ready; read line < go; echo after; exit 9"), {str(bench.root)!r},
            {{"PATH": os.defpath}}, 60.0, 1000, "c-outlives", bell={bench.bell_path!r})
AttemptFolder(Path({str(bench.root / "attempt")!r})).start(spec, supervisor=Path({str(bench.supervisor)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    with_gate(bench)
    server = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(REPOSITORY)}, check=False)
    assert server.returncode == -signal.SIGKILL
    folder = AttemptFolder(bench.root / "attempt")
    bench.folders.append(folder)
    assert folder.is_alive()
    bench.wait_for_output(folder, b"ready")
    open_gate(bench)
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode) == ("exited", 9)
    assert folder.read("stdout", 0, 100) == b"ready\nafter\n"
    assert folder.reap() is None


def supervise(bench: Bench, folder: AttemptFolder, *arguments: str) -> int:
    """Run another supervisor by hand; its exit code."""
    command = [sys.executable, "-I", "-S", str(bench.supervisor), str(folder.path), *arguments]
    return subprocess.run(command, check=False, timeout=DEADLINE_SECONDS).returncode


def test_a_second_supervisor_refuses(bench: Bench) -> None:
    folder = bench.start_ready("/bin/sh", "-c", f"echo ready; exec sleep {LONG}")
    assert supervise(bench, folder) == 3
    with pytest.raises(ConflictError):
        folder.start_sweep(supervisor=bench.supervisor)
    folder.terminate()
    bench.wait_for_status(folder)
    assert supervise(bench, folder) == 4
    assert supervise(bench, folder, "sweep") == 4
    with pytest.raises(ConflictError):
        folder.start_sweep(supervisor=bench.supervisor)
    with pytest.raises(ConflictError):
        folder.start(bench.spec("/bin/true"), supervisor=bench.supervisor)


def test_a_supervisor_without_a_spec_refuses(bench: Bench) -> None:
    assert supervise(bench, AttemptFolder(bench.root)) == 2
    (bench.root / "spec.json").write_text("{broken")
    assert supervise(bench, AttemptFolder(bench.root)) == 2


def test_a_short_look_at_the_lock_is_not_taken_for_another_supervisor(bench: Bench) -> None:
    folder = AttemptFolder(bench.root / "by-hand")
    folder.path.mkdir()
    spec = asdict(bench.spec("/bin/true"))
    (folder.path / "spec.json").write_text(json.dumps(spec))
    lock = folder.path / "lock"
    with lock.open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        assert not folder.is_alive(), "two who look took each other for a supervisor"
        command = [sys.executable, "-I", "-S", str(bench.supervisor), str(folder.path)]
        with subprocess.Popen(command) as supervisor:
            wait_until(lambda: str(lock) in open_files(supervisor.pid))
            fcntl.flock(look, fcntl.LOCK_UN)
            assert supervisor.wait(DEADLINE_SECONDS) == 0


def open_files(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    try:
        return [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
    except OSError:
        return []


def test_a_supervisor_that_was_killed_leaves_no_status_and_no_lock(bench: Bench) -> None:
    folder = bench.start_ready("/bin/sh", "-c", f"echo ready; exec sleep {LONG}")
    started = folder.started()
    assert started is not None
    kill_supervisor(bench, folder)
    assert (folder.is_alive(), folder.supervisor_pid(), folder.open_pidfd()) == (False, None, None)
    assert not folder.terminate()
    assert folder.status() is None
    with suppress(ProcessLookupError):  # a namespace has taken it along
        os.kill(started.child_pid, signal.SIGKILL)
    wait_until(lambda: not bench.processes())


def test_a_sweep_ends_what_a_killed_supervisor_left(bench: Bench) -> None:
    """In a pid namespace nothing is left, and that is proven."""
    script = f"setsid sh -c '{STUBBORN}' & env -i sleep {LONG} & wait"
    folder = bench.start_ready("/bin/sh", "-c", script)
    kill_supervisor(bench, folder)
    if bench.pid_namespace:
        wait_until(lambda: not bench.processes())
    else:
        assert bench.processes()
    folder.start_sweep(supervisor=bench.supervisor)
    assert folder.is_alive()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode, status.survivors) == ("lost", None, ())
    assert status.verified is bench.pid_namespace
    assert (status.stdout_bytes, folder.read("stdout", 0, 100)) == (6, b"ready\n")
    wait_until(lambda: not bench.processes())
    assert bench.rings()[-1] == b"end 7-1"


def test_a_supervisor_that_fails_ends_the_tree_and_says_so(bench: Bench) -> None:
    _, status = bench.shell(f"setsid sleep {LONG} & sleep {LONG}", timeout_seconds="soon")
    assert (status.outcome, status.returncode, status.verified) == ("signaled", -signal.SIGKILL, True)
    assert "the supervisor failed: TypeError" in status.error
    assert "Traceback" in (bench.folders[0].path / "supervisor.log").read_text()


def test_a_system_without_subreaper_and_proc_ends_the_tree_but_vouches_for_nothing(bench: Bench) -> None:
    """How macOS fares: with ps, process groups and no proof."""
    bench.pid_namespace = False
    source = attempt_folder.SUPERVISOR_SOURCE
    end = 'if __name__ == "__main__":'
    patch = "become_subreaper = proc_is_ours = lambda: False\n"
    bench.supervisor = bench.root / "mac.py"
    bench.supervisor.write_text(source.read_text().replace(end, patch + end))
    folder = bench.start_ready("/bin/sh", "-c", f"setsid sh -c '{STUBBORN}' & sleep {LONG}", kill_grace_seconds=0.1)
    folder.terminate()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.verified, status.survivors) == ("cancelled", False, ())


def test_survivors_are_named_and_nothing_is_vouched_for(bench: Bench) -> None:
    source = attempt_folder.SUPERVISOR_SOURCE
    end = 'if __name__ == "__main__":'
    patch = "KILL_SECONDS = 0.1\nTree.kill = lambda self: None\n"
    bench.supervisor = bench.root / "powerless.py"
    bench.supervisor.write_text(source.read_text().replace(end, patch + end))
    folder = bench.start_ready("/bin/sh", "-c", f"setsid sh -c '{STUBBORN}' & wait", kill_grace_seconds=0.1)
    folder.terminate()
    status = bench.wait_for_status(folder)
    assert (status.outcome, status.returncode, status.verified) == ("cancelled", -signal.SIGTERM, False)
    # Those of a pid namespace die with the supervisor after all, once it has said what it saw.
    assert set(status.survivors) >= set(bench.processes())
    assert status.survivors
    for pid in bench.processes():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not bench.processes())


# The folder


def test_the_pid_is_known_from_the_start_and_until_the_end(bench: Bench) -> None:
    folder = AttemptFolder(bench.root / "attempt")
    bench.folders.append(folder)
    assert (folder.is_alive(), folder.supervisor_pid(), folder.status(), folder.started()) == (False, None, None, None)
    pid = folder.start(bench.spec("/bin/sh", "-c", f"echo ready; exec sleep {LONG}"), supervisor=bench.supervisor)
    seen_by_others = AttemptFolder(folder.path)
    assert (folder.is_alive(), folder.supervisor_pid(), seen_by_others.supervisor_pid()) == (True, pid, pid)
    assert folder.reap() is None
    assert os.getsid(pid) == pid
    bench.wait_for_output(folder, b"ready")
    started = seen_by_others.started()
    assert started is not None
    assert started.pid == pid
    seen_by_others.terminate()
    bench.wait_for_status(folder)
    assert (folder.is_alive(), seen_by_others.supervisor_pid(), folder.open_pidfd()) == (False, None, None)


def test_a_pid_that_was_given_to_another_process_is_never_signalled(bench: Bench) -> None:
    folder, _ = bench.run("/bin/true")
    with subprocess.Popen(["/bin/sleep", LONG]) as stranger:
        try:
            (folder.path / "lock").write_bytes(b"%d\n" % stranger.pid)
            assert (folder.supervisor_pid(), folder.open_pidfd(), folder.terminate()) == (None, None, False)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_the_files_are_for_their_owner_only(bench: Bench) -> None:
    before = os.umask(0)
    try:
        folder, _ = bench.run("/bin/cat", stdin=b"hello")
    finally:
        os.umask(before)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o077 for file in folder.path.iterdir()}
    assert modes == dict.fromkeys(
        ("spec.json", "stdin", "lock", "supervisor.log", "supervisor.json", "stdout", "stderr", "status.json"), 0
    )


def test_a_running_attempt_cannot_be_removed(bench: Bench) -> None:
    folder = bench.start_ready("/bin/sh", "-c", f"echo ready; exec sleep {LONG}")
    with pytest.raises(ConflictError):
        folder.remove()
    folder.terminate()
    bench.wait_for_status(folder)
    folder.remove()
    assert not folder.path.exists()
    folder.remove()


def test_a_start_that_fails_leaves_no_folder(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(bench.root / "no-python"))
    with pytest.raises(FileNotFoundError):
        bench.start("/bin/true")
    assert not bench.folders[0].path.exists()


def test_a_sweep_of_nothing_is_refused(bench: Bench) -> None:
    folder = AttemptFolder(bench.root / "never")
    with pytest.raises(FileNotFoundError):
        folder.start_sweep(supervisor=bench.supervisor)
    assert not folder.path.exists()


@pytest.mark.parametrize("damaged", ["{", "[]", "{}", '{"survivors": [], "new": 1}'])
def test_a_damaged_record_is_an_error_and_not_an_end(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "status.json").write_text(damaged)
    with pytest.raises(StoreError):
        AttemptFolder(tmp_path).status()


def test_the_supervisor_is_compiled_once_also_by_many_at_once(tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(compiled_supervisor(tmp_path / "c"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert set(found) == set((tmp_path / "c").iterdir())
    before = found[0].stat()
    assert compiled_supervisor(tmp_path / "c").stat() == before


def test_another_source_is_compiled_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled_supervisor(tmp_path)
    changed = tmp_path / "supervisor.py"
    changed.write_text(attempt_folder.SUPERVISOR_SOURCE.read_text() + "\n")
    monkeypatch.setattr(attempt_folder, "SUPERVISOR_SOURCE", changed)
    assert compiled_supervisor(tmp_path) != first
