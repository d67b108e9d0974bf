"""MCP in stdio framing (one JSON-RPC message per line) on a unix socket: the door that `offhand mcp` knocks at.

Each connection is served in the protocol era that its client opens with. All share one lifespan.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus
from mcp.server import MCPServer
from mcp.server.lowlevel import Server

from mcp_server.callers import Caller, calling_as
from mcp_server.errors import AlreadyServingError
from mcp_server.protocol import lowlevel
from mcp_server.transports.connection import READ_BYTES, Connection
from mcp_server.transports.messages import encode, error_answer

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
CLOSE_SECONDS = 0.9
"""After the server was cancelled, a connection that is still open is cut off."""

ACCEPT_PAUSE_SECONDS = 0.2

REFUSED = -32003
"""Error code of the one line that a refused connection gets. In the band that MCP leaves to implementations."""

Admit = Callable[[socket.socket], Caller | None]


async def serve_mcp_socket(
    server: MCPServer[Any],
    path: Path,
    *,
    admit: Admit,
    opened: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `server` on a unix socket of mode 0600 until cancelled; then every connection closes within a second.

    `admit` says who is calling, from the accepted socket; it must be quick. None refuses the connection. `opened` is
    awaited before.
    A connection whose client closes its end, or its sending half, ends: calls still running are cancelled.

    Raises:
        AlreadyServingError: somebody listens at `path`.
        OSError: no socket can be made there (the path is too long, or a file is in the way).
    """
    inner = lowlevel(server)
    with _listening_at(path) as listener:
        async with inner.lifespan(inner) as state, anyio.create_task_group() as connections:
            door = _Door(inner, state, admit, opened)
            task_status.started()
            try:
                while True:
                    if (accepted := await _accept(listener)) is not None:
                        connections.start_soon(door.receive, accepted)
            finally:
                # At once, so that nobody waits at a door that will not open again.
                listener.close()
                door.close_soon()


@contextmanager
def _listening_at(path: Path) -> Generator[socket.socket]:
    _remove_stale_socket(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(os.fspath(path))
        # Nobody can connect before listen(), so the socket is never open to others.
        path.chmod(0o600)
        listener.listen(128)
        ours = path.stat().st_ino
        try:
            yield listener
        finally:
            with suppress(OSError):
                if path.stat().st_ino == ours:
                    path.unlink()


def _remove_stale_socket(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # A full queue: somebody listens, and is busy.
    raise AlreadyServingError(f"A server is listening at {path}.")


async def _accept(listener: socket.socket) -> socket.socket | None:
    try:
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
    except OSError:
        # Out of file descriptors, most likely: those who are connected must go on.
        logger.exception("a connection could not be accepted")
        await anyio.sleep(ACCEPT_PAUSE_SECONDS)
        return None
    return accepted


class _Door:
    """Receives the connections of one socket."""

    def __init__(self, lowlevel: Server[Any], state: Any, admit: Admit, opened: Callable[[], Awaitable[None]]) -> None:
        self._lowlevel = lowlevel
        self._state = state
        self._admit = admit
        self._opened = opened
        self._writers: set[asyncio.StreamWriter] = set()

    def close_soon(self) -> None:
        """Cut off, in a moment, what a stubborn handler or client would keep open."""
        for writer in self._writers:
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, writer.transport.abort)

    async def receive(self, accepted: socket.socket) -> None:
        """Serve one connection to its end. Whatever goes wrong stays in it."""
        with accepted:
            try:
                await self._opened()
                caller = self._admit(accepted)
                if caller is None:
                    _refuse(accepted)
                    return
                with calling_as(caller):
                    await self._serve(accepted)
            except Exception:
                logger.exception("a connection failed")

    async def _serve(self, accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=accepted, limit=READ_BYTES)
        self._writers.add(writer)
        try:
            await Connection(self._lowlevel, self._state, reader, writer).run()
        finally:
            writer.close()
            with anyio.move_on_after(FLUSH_SECONDS, shield=True), suppress(OSError):
                await writer.wait_closed()
            writer.transport.abort()
            self._writers.discard(writer)


def _refuse(accepted: socket.socket) -> None:
    refusal = error_answer(None, REFUSED, "This process may not use Offhand here: tasks and other users are refused.")
    with suppress(OSError):
        accepted.send(encode(refusal))
        accepted.shutdown(socket.SHUT_WR)
