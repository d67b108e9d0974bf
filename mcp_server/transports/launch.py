"""Starts the server in the background: one starter at a time, all others wait for it. Standard library only.

Where a service is installed, systemd or launchd starts it for us.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

from mcp_server.paths import make_private, read_server_file
from mcp_server.transports.service_file import manager_environment, start_command

START_SECONDS = 30.0
SERVICE_SECONDS = 10.0
"""Of these, for the service. After a crash systemd waits for one, and a busy machine needs some for the start."""

RESTART_SECONDS = 1.5
"""For systemd to restart a service that was killed, which it does after one."""

ASK_AGAIN_SECONDS = 0.5
ALONE_SECONDS = 1.0
LOOK_SECONDS = 0.02
TRY_AGAIN_SECONDS = 0.2
LAST_LINES = 20
LAST_BYTES = 16 * 1024

STORE_LOCK = "offhand.db.lock"
"""Whoever serves holds it, from before its doors are open until after they are closed."""

STOP_IS_PENDING = "is destructive"
"""`systemctl` says so of a start while a stop is under way."""

COOKIE = "OFFHAND_ATTEMPT"
"""In the environment of every process of a task."""

Connection = TypeVar("Connection")


class LaunchError(Exception):
    """There is no server and none can be started. The message says why, and what to do."""


def start_server(home: str, connect: Callable[[], Connection | None]) -> Connection:
    """Start the service of `home`, else `mcp_server serve --background`, unless somebody else does; connect to it.

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
    # First of all: the one who held the lock before us may have succeeded just now.
    connection = connect() or _start_service(home, log, connect, deadline)
    while connection is None and time.monotonic() < deadline:
        # Whoever has the store is ending, or has not yet said where it listens.
        connection = _await(connect, deadline, lambda: not _is_held(home / STORE_LOCK), TRY_AGAIN_SECONDS)
        if connection is None and time.monotonic() < deadline:
            connection = _start_own(home, log, connect, deadline)
    if connection is None:
        raise LaunchError(_too_slow(log))
    return connection


def _start_own(home: Path, log: Path, connect: Callable[[], Connection | None], deadline: float) -> Connection | None:
    """The connection to our own server, or to one that was faster; None: ours lost to another.

    Raises:
        LaunchError: ours ended, and there is no other.
    """
    begin = _size(log)
    process = _spawn(home, log)
    connection = _await(connect, deadline, process.poll)
    if connection is None and process.poll() and not _has_rival(home):
        raise LaunchError(_epitaph(log, begin, process.returncode))
    return connection


def _start_service(
    home: Path, log: Path, connect: Callable[[], Connection | None], deadline: float
) -> Connection | None:
    """Have systemd or launchd start the server, where a service for `home` is installed; None: we have to.

    A server that we start in the second after a crash would take the service's place for good.
    """
    if start_command(str(home)) is None:
        return None
    deadline = min(deadline, time.monotonic() + SERVICE_SECONDS)
    connection = None
    if (home / "server.json").exists():
        # Killed: the system has seen it too. Asked before it restarts the service, systemd counts two starts for one.
        connection = _await(connect, min(deadline, time.monotonic() + RESTART_SECONDS))
    while connection is None and time.monotonic() < deadline:
        command = start_command(str(home))
        if command is None or not _is_granted(command, home, log, deadline):
            return None
        # A service that is just ending still counts as started, so ask again.
        connection = _await(connect, min(deadline, time.monotonic() + ASK_AGAIN_SECONDS))
    return connection


def _is_granted(command: Sequence[str], home: Path, log: Path, deadline: float) -> bool:
    """Run the command that starts the service. False: it will not be started."""
    begin = _size(log)
    try:
        process = _popen(command, home, log, manager_environment())
    except OSError:
        return False
    try:
        return process.wait(max(0.0, deadline - time.monotonic())) == 0 or STOP_IS_PENDING in _said(log, begin)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def _await(
    connect: Callable[[], Connection | None],
    deadline: float,
    is_over: Callable[[], object] = lambda: False,
    look_seconds: float = LOOK_SECONDS,
) -> Connection | None:
    """The connection; None once `is_over` says something, or at the deadline."""
    while (connection := connect()) is None:
        if is_over() or time.monotonic() >= deadline:
            return None
        time.sleep(look_seconds)
    return connection


def _has_rival(home: Path) -> bool:
    """Whether another server has the store, or is seen to take it a moment later: the port comes first."""
    alone_at = time.monotonic() + ALONE_SECONDS
    while time.monotonic() < alone_at:
        time.sleep(TRY_AGAIN_SECONDS)
        if _is_held(home / STORE_LOCK) or _is_named(home):
            return True
    return False


def _spawn(home: Path, log: Path) -> subprocess.Popen[bytes]:
    # -P: the folder that we start it in is no place to import from.
    command = (sys.executable, "-P", "-m", "mcp_server", "serve", "--background")
    return _popen(command, home, log, os.environ | {"OFFHAND_HOME": str(home)})


def _popen(command: Sequence[str], home: Path, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that it outlives us."""
    with open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
        return subprocess.Popen(
            command,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _is_held(path: Path) -> bool:
    """Whether a process holds the lock. To look is to hold it for a moment, so look rarely."""
    try:
        with open(path, "r+b") as lock:
            return not _is_ours(lock)
    except FileNotFoundError:
        return False


def _is_named(home: Path) -> bool:
    """Whether the process lives that calls itself the server."""
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


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _said(log: Path, begin: int) -> str:
    """The last lines that were written into the log since."""
    with open(log, "rb") as file:
        file.seek(max(begin, log.stat().st_size - LAST_BYTES))
        lines = file.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join(line for line in lines if line.strip())


def _epitaph(log: Path, begin: int, returncode: int) -> str:
    said = _said(log, begin)
    return (
        f"Offhand's server ended at once (exit status {returncode}). Run `offhand serve` in a terminal to see why; "
        f"its log is {log}." + (f" Its last lines:\n{said}" if said else " It wrote nothing there.")
    )


def _too_slow(log: Path) -> str:
    return f"Offhand's server did not come up within {START_SECONDS:.0f} seconds. Try again, or look at its log, {log}."
