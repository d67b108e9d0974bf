"""What a test left running: every process that descends from the tests, however it tried to get away (Linux).

The process of the tests becomes a subreaper, as a supervisor is: an orphan below it becomes its child and not init's.
So nothing that a test started is ever out of sight, whatever its session, its environment and its folder are.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36
SETTLE_SECONDS = 10.0
"""For what ends by itself in a moment, such as a supervisor after the last word of its task."""

QUIET_LOOKS = 20

LASTING = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Helpers of Python itself that stay until the end of the tests."""


SHARED: set[int] = set()
"""Processes that many tests share, and that the first of them may have started: their fixture ends them."""


def keep_orphans() -> bool:
    """Have orphans given to this process. False where the system cannot do that."""
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def descendants() -> dict[int, bytes]:
    """Every process below this one with its command line; zombies do not live and are collected."""
    found: dict[int, bytes] = {}
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop()
        for pid in _children(parent):
            if _is_zombie(pid):
                if parent == os.getpid():
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                continue
            line = _read(f"/proc/{pid}/cmdline")
            if pid not in SHARED and not any(name in line for name in LASTING):
                found[pid] = line.replace(b"\0", b" ")
            waiting.append(pid)
    return found


def collect(spared: int | None) -> None:
    """Collect every child that has ended, but the one whose end somebody else waits for."""
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == spared:
                return
            os.waitpid(ended.si_pid, 0)


def left_since(before: dict[int, bytes]) -> dict[int, bytes]:
    """What lives now and did not then, after a moment to end in. It is ended here."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := {pid: line for pid, line in descendants().items() if pid not in before}:
        if time.monotonic() > deadline:
            end(before)
            return left
        for pid in left:
            _await_exit(pid, deadline - time.monotonic())
    return {}


def end(spared: dict[int, bytes]) -> None:
    """KILL everything below us but what is `spared`, in whole groups: who forks and goes outruns any single kill."""
    ours = os.getpgrp()
    quiet = 0
    while quiet < QUIET_LOOKS:
        left = [pid for pid in descendants() if pid not in spared]
        quiet = 0 if left else quiet + 1
        for pid in left:
            with suppress(ProcessLookupError):
                group = os.getpgid(pid)
                if group == ours or group in spared:
                    os.kill(pid, signal.SIGKILL)
                else:
                    os.killpg(group, signal.SIGKILL)
        for pid in left:
            _await_exit(pid, 0.2)


def _await_exit(pid: int, seconds: float) -> None:
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            select.select([pidfd], [], [], max(0.0, seconds))
        finally:
            os.close(pidfd)


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


def _is_zombie(pid: int) -> bool:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return not fields or (fields[0] in (b"Z", b"X") and int(fields[17]) <= 1)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(65536)
    except OSError:
        return b""
