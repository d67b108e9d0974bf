"""The server that runs now, as the commands of the desk see it: asked over its socket, watched until it is gone."""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click
import httpx2

from mcp_server.errors import OffhandError, UnavailableError
from mcp_server.executor.attempt_folder import AttemptFolder
from mcp_server.paths import home_folder, read_server_file
from mcp_server.runtime import STORE_FILE

ANSWER_SECONDS = 10.0
LOOK_SECONDS = 0.05
"""Where the system does not tell of the end of another's process (macOS)."""

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def ask_server(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """What the running server answers; None where none runs.

    Raises:
        OffhandError: it refused; the message and the remedy are its own.
        UnavailableError: it runs, and does not answer.
    """
    running = read_server_file(home_folder())
    if running is None:
        return None
    try:
        with httpx2.Client(
            transport=httpx2.HTTPTransport(uds=running["http_socket"]), timeout=ANSWER_SECONDS
        ) as client:
            response = client.request(method, f"http://offhand{path}", json=body)
    except (httpx2.ConnectError, KeyError):
        return None  # a server that was killed left its file behind
    except httpx2.HTTPError as error:
        raise UnavailableError(f"The server does not answer: {error}.") from None
    answer = response.json()
    if response.is_error:
        fix = next((issue["fix"] for issue in answer.get("errors", [])), "")
        raise OffhandError(answer["detail"], field="server", fix=fix)
    return answer


class Watched:
    """A server process whose end is waited for."""

    def __init__(self, pidfd: int | None) -> None:
        self._pidfd = pidfd

    def gone(self, seconds: float) -> bool:
        """Whether it ends within `seconds`."""
        if self._pidfd is not None:
            return bool(select.select([self._pidfd], [], [], seconds)[0])
        deadline = time.monotonic() + seconds
        while not _lock_is_free():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True


@contextmanager
def watched(pid: int) -> Generator[Watched]:
    """Watch the server `pid`, which has just answered us. Of one that is gone already, `gone` is true at once."""
    try:
        pidfd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        pidfd = None
    try:
        yield Watched(pidfd)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def surviving_tasks() -> int:
    """How many supervisors are alive in this home, with or without a server."""
    folders = (path for path in (home_folder() / "attempts").glob("*-*") if path.is_dir())
    return sum(AttemptFolder(path).is_alive() for path in folders)


def _lock_is_free() -> bool:
    try:
        lock = os.open(home_folder() / f"{STORE_FILE}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)
