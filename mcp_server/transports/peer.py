"""Who is at the other end of a unix socket, and whether that process may come in at the desk.

The operating system vouches for the user. That is not enough: what a task runs is the same user, and must
not be able to approve itself. Where we cannot tell, we refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcp_server.callers import DESK, Caller

COOKIE = b"OFFHAND_ATTEMPT="
"""In the environment of every process of a task."""

WAIT_SECONDS = 15.0
"""For what a killed supervisor left behind to be ended: TERM, its grace, KILL."""

LOOK_SECONDS = 0.02

# macOS, <sys/un.h>: the standard library has no name for the second.
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
_LOCAL_PEERPID = 2


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, as it was at that moment. A `pid` of 0 lies outside our pid namespace."""

    pid: int
    uid: int


def peer_of(sock: socket.socket) -> Peer | None:
    """The process behind a connected unix socket; None where the system does not say."""
    try:
        if sys.platform == "darwin":
            _, uid = struct.unpack_from("=Ii", sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76))
            return Peer(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID), uid)
        pid, uid, _ = struct.unpack("=iii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except (OSError, AttributeError):
        return None
    # A socket that is not a unix socket has credentials too: nobody's.
    return Peer(pid, uid) if uid >= 0 else None


def same_user(peer: Peer) -> bool:
    """Whether the process belongs to the user that we run as."""
    return peer.uid == os.geteuid()


def descends_from_task(pid: int, task_roots: Collection[int]) -> bool:
    """Whether `pid` is one of `task_roots`, descends from one, or it or an ancestor carries a task's cookie.

    True as well where the process is gone or cannot be looked at. The cookie is only seen on Linux.
    """
    try:
        return any(ancestor in task_roots or _has_cookie(ancestor) for ancestor in _line_of_descent(pid))
    except (OSError, ValueError, subprocess.SubprocessError):
        return True


class DeskAdmission:
    """Says who is at a desk's socket: `DESK` for the same user's processes that are no part of a task, else None.

    `task_roots` gives the pids of the supervisors that run now. `has_orphans` says whether one was killed and its task
    is not ended yet: some of its processes may descend from none, so whoever comes meanwhile has to wait until they are
    ended, and is looked at then.
    """

    def __init__(self, task_roots: Callable[[], Collection[int]], has_orphans: Callable[[], bool]) -> None:
        self._task_roots = task_roots
        self._has_orphans = has_orphans

    @property
    def is_open(self) -> bool:
        """Whether nobody has to wait."""
        return not self._has_orphans()

    async def opened(self) -> None:
        """Return once nobody has to wait, or after some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                while not self.is_open:
                    await asyncio.sleep(LOOK_SECONDS)

    def __call__(self, sock: socket.socket) -> Caller | None:
        """Who is at the other end of an accepted socket. One who is gone by now is nobody."""
        peer = peer_of(sock)
        if peer is None or not same_user(peer) or not self.is_open:
            return None
        if descends_from_task(peer.pid, self._task_roots()):
            return None
        return DESK


def _line_of_descent(pid: int) -> Iterator[int]:
    """`pid`, its parent, and so on up to the first process."""
    if pid <= 0:
        raise ProcessLookupError(pid)
    while pid > 0:
        yield pid
        try:
            pid = _parent_of(pid)
        except FileNotFoundError:
            if not _is_another_users(pid):
                raise
            return  # Hidden from us (hidepid): the end of the user's own processes.


def _parent_of(pid: int) -> int:
    if sys.platform == "linux":
        # The second field is the program's name in brackets, and may itself hold brackets and blanks.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    listed = subprocess.run(["/bin/ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, timeout=1, check=True)
    return int(listed.stdout)


def _is_another_users(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False


def _has_cookie(pid: int) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        # An ancestor that belongs to another user, such as init or sshd: no task of ours.
        return False
    except FileNotFoundError:
        return False
    return any(entry.startswith(COOKIE) for entry in environment.split(b"\0"))
