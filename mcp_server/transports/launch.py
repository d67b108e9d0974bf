"""Starts the server in the background: one starter at a time, all others wait for it. Standard library only."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from mcp_server.paths import make_private, read_server_file

START_SECONDS = 30.0
LOOK_SECONDS = 0.02
TRY_AGAIN_SECONDS = 0.2
LAST_LINES = 20
LAST_BYTES = 16 * 1024

COOKIE = "OFFHAND_ATTEMPT"
"""In the environment of every process of a task."""

Connection = TypeVar("Connection")


class LaunchError(Exception):
    """There is no server and none can be started. The message says why, and what to do."""


def start_server(home: str, connect: Callable[[], Connection | None]) -> Connection:
    """Start `mcp_server serve --background` for `home`, unless somebody else does, and connect to it.

    `connect` gives None for as long as nobody listens. Takes at most 30 s.

    Raises:
        LaunchError: the server ended at once, or did not come up in time, or we are part of a task.
    """
    if os.environ.get(COOKIE):
        # It would be killed with the task, and hold the store until then.
        raise LaunchError("Offhand's server is not running, and a task may not start it.")
    deadline = time.monotonic() + START_SECONDS
    try:
        logs = make_private(make_private(Path(home)) / "logs")
        with open(Path(home) / "start.lock", "ab") as lock:
            while time.monotonic() < deadline:
                if (connection := connect()) is not None:
                    return connection
                if _is_ours(lock):
                    return _start(Path(home), logs / "server.log", connect, deadline)
                time.sleep(LOOK_SECONDS)
    except OSError as error:
        raise LaunchError(f"Offhand's server could not be started: {error}.") from error
    raise LaunchError(_too_slow(logs / "server.log"))


def _is_ours(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(home: Path, log: Path, connect: Callable[[], Connection | None], deadline: float) -> Connection:
    """Called with the lock held."""
    process: subprocess.Popen[bytes] | None = None
    begin = 0
    while time.monotonic() < deadline:
        # First of all: the one who held the lock before us may have succeeded just now.
        if (connection := connect()) is not None:
            return connection
        if process is None:
            begin = log.stat().st_size if log.exists() else 0
            process = _spawn(home, log)
        elif process.poll():
            if not _another_lives(home):
                raise LaunchError(_epitaph(log, begin, process.returncode))
            # The old server has not quite ended yet, or a new one is being started by hand.
            process = None
            time.sleep(TRY_AGAIN_SECONDS)
        time.sleep(LOOK_SECONDS)
    raise LaunchError(_too_slow(log))


def _spawn(home: Path, log: Path) -> subprocess.Popen[bytes]:
    with open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
        return subprocess.Popen(
            # -P: the folder that we start it in is no place to import from.
            [sys.executable, "-P", "-m", "mcp_server", "serve", "--background"],
            cwd=home,
            env=os.environ | {"OFFHAND_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _another_lives(home: Path) -> bool:
    pid = (read_server_file(home) or {}).get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _epitaph(log: Path, begin: int, returncode: int) -> str:
    with open(log, "rb") as file:
        file.seek(max(begin, log.stat().st_size - LAST_BYTES))
        lines = file.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    said = "\n".join(line for line in lines if line.strip())
    return (
        f"Offhand's server ended at once (exit status {returncode}). Run `offhand serve` in a terminal to see why; "
        f"its log is {log}." + (f" Its last lines:\n{said}" if said else " It wrote nothing there.")
    )


def _too_slow(log: Path) -> str:
    return f"Offhand's server did not come up within {START_SECONDS:.0f} seconds. Try again, or look at its log, {log}."
