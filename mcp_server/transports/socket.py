"""MCP in stdio framing (one JSON-RPC message per line) on a unix socket: the door that `offhand mcp` knocks at.

Each connection is served in the protocol era that its client opens with. All share one lifespan. The SDK's
private low-level server is touched in one line of this module, and else only by the adapter of the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import anyio
import anyio.lowlevel
import mcp_types
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server import MCPServer
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from mcp_server.callers import Caller, calling_as
from mcp_server.errors import AlreadyServingError
from mcp_server.transports.lines import LineCutter, TooLong

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is skipped and answered with an error."""

READ_BYTES = 256 * 1024

PAUSE_AT_UNSENT_BYTES = 16 * 1024 * 1024
"""While a client leaves this much unread, nothing more is read from it, and its answers wait."""

CUT_OFF_AT_UNSENT_BYTES = 64 * 1024 * 1024
"""A client that leaves this much unread, of what it did not ask for, is cut off."""

FLUSH_SECONDS = 0.5
CLOSE_SECONDS = 0.9
"""After the server was cancelled, a connection that is still open is cut off."""

ACCEPT_PAUSE_SECONDS = 0.2

REFUSED = -32003
"""Error code of the one line that a refused connection gets. In the band that MCP leaves to implementations."""

Admit = Callable[[socket.socket], Caller | None]

_Inbound = MemoryObjectSendStream[SessionMessage | Exception]

_ID_AT_HEAD = re.compile(rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(-?\d+|"[^"\\]*")\s*,')
_ID_AT_TAIL = re.compile(rb'"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(-?\d+|"[^"\\]*")\s*\}\s*\Z')


async def serve_mcp_socket(
    server: MCPServer[Any],
    path: Path,
    *,
    admit: Admit,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `server` on a unix socket of mode 0600 until cancelled; then every connection closes within a second.

    `admit` says who is calling, from the accepted socket; it must be quick. None refuses the connection.
    A connection whose client closes its end, or its sending half, ends: calls still running are cancelled.

    Raises:
        AlreadyServingError: somebody listens at `path`.
        OSError: no socket can be made there (the path is too long, or a file is in the way).
    """
    lowlevel = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]
    with _listening_at(path) as listener:
        async with lowlevel.lifespan(lowlevel) as state, anyio.create_task_group() as connections:
            door = _Door(lowlevel, state, admit)
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

    def __init__(self, lowlevel: Server[Any], state: Any, admit: Admit) -> None:
        self._lowlevel = lowlevel
        self._state = state
        self._admit = admit
        self._writers: set[asyncio.StreamWriter] = set()

    def close_soon(self) -> None:
        """Cut off, in a moment, what a stubborn handler or client would keep open."""
        for writer in self._writers:
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, writer.transport.abort)

    async def receive(self, accepted: socket.socket) -> None:
        """Serve one connection to its end. Whatever goes wrong stays in it."""
        with accepted:
            try:
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
        writer.transport.set_write_buffer_limits(high=PAUSE_AT_UNSENT_BYTES)
        self._writers.add(writer)
        try:
            await _Connection(self._lowlevel, self._state, reader, writer).run()
        finally:
            writer.close()
            with anyio.move_on_after(FLUSH_SECONDS, shield=True), suppress(OSError):
                await writer.wait_closed()
            writer.transport.abort()
            self._writers.discard(writer)


def _refuse(accepted: socket.socket) -> None:
    refusal = _error(None, REFUSED, "This process may not use Offhand here: tasks and other users are refused.")
    with suppress(OSError):
        accepted.send(_encode(refusal))
        accepted.shutdown(socket.SHUT_WR)


class _Outbox:
    """The SDK's way to the client.

    A slow reader delays nobody but itself: its own answers wait for it, but a notification never does, since
    whoever publishes one waits until it has been sent to all.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._transport = writer.transport

    def put(self, message: mcp_types.JSONRPCMessage) -> None:
        if self._transport.is_closing():
            raise anyio.BrokenResourceError
        self._transport.write(_encode(message))
        if self._transport.get_write_buffer_size() > CUT_OFF_AT_UNSENT_BYTES:
            logger.warning("a client that does not read was cut off")
            self._transport.abort()

    async def send(self, item: SessionMessage, /) -> None:
        if isinstance(item.message, mcp_types.JSONRPCResponse | mcp_types.JSONRPCError):
            await self._wait_for_room()
        self.put(item.message)
        # A tool that does nothing but report progress must let others run.
        await anyio.lowlevel.checkpoint()

    async def _wait_for_room(self) -> None:
        try:
            # Again and again: all who wait are woken together, and the first ones may fill it up.
            while self._transport.get_write_buffer_size() > PAUSE_AT_UNSENT_BYTES:
                await self._writer.drain()
        except ConnectionError as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        """The connection closes its socket itself, when all has been said."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()


class _OneAnswer(_Outbox):
    """Tells when an answer has gone out."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer)
        self.sent = anyio.Event()

    async def send(self, item: SessionMessage, /) -> None:
        self.sent.set()
        await super().send(item)


class _Connection:
    """One client: its lines in, the SDK's loop, its lines out."""

    def __init__(
        self, lowlevel: Server[Any], state: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._lowlevel = lowlevel
        self._reader = reader
        self._writer = writer
        self._outbox = _Outbox(writer)
        self._loop = partial(
            serve_dual_era_loop,
            lowlevel,
            lifespan_state=state,
            init_options=lowlevel.create_initialization_options(),
        )
        self._era_is_decided = False

    async def run(self) -> None:
        inbound, messages = anyio.create_memory_object_stream[SessionMessage | Exception]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, inbound)
            await self._loop(messages, self._outbox)
            tasks.cancel_scope.cancel()

    async def _read(self, inbound: _Inbound) -> None:
        cutter = LineCutter(MAX_LINE_BYTES)
        async with inbound:
            # A client that is gone shows as an error here or there; the loop sees the end of its stream.
            with suppress(ConnectionError, anyio.BrokenResourceError):
                while data := await self._reader.read(READ_BYTES):
                    # First of all: who leaves too much unread is not served any further.
                    await self._writer.drain()
                    for line in cutter.feed(data):
                        await self._take(line, inbound)

    async def _take(self, line: bytes | TooLong, inbound: _Inbound) -> None:
        try:
            message = _parse(line)
        except _UnreadableError as error:
            self._outbox.put(error.answer)
            return
        if message is not None:
            await self._pass_on(message, inbound)

    async def _pass_on(self, message: mcp_types.JSONRPCMessage, inbound: _Inbound) -> None:
        if not self._era_is_decided and isinstance(message, mcp_types.JSONRPCRequest):
            if message.method == "server/discover":
                await self._answer_alone(message)
                return
            self._era_is_decided = True
        await inbound.send(SessionMessage(message))

    async def _answer_alone(self, request: mcp_types.JSONRPCRequest) -> None:
        """Answer on a loop of its own: a client may ask what we speak and then speak the other era."""
        inbound, messages = anyio.create_memory_object_stream[SessionMessage | Exception](1)
        outbox = _OneAnswer(self._writer)
        async with anyio.create_task_group() as tasks, inbound:
            tasks.start_soon(self._loop, messages, outbox)
            await inbound.send(SessionMessage(request))
            await outbox.sent.wait()


class _UnreadableError(Exception):
    """A line that is no message; `answer` tells its sender."""

    def __init__(self, request_id: mcp_types.RequestId | None, code: int, message: str) -> None:
        super().__init__(message)
        self.answer = _error(request_id, code, message)


def _parse(line: bytes | TooLong) -> mcp_types.JSONRPCMessage | None:
    """The message of a line; None for an empty one.

    Raises:
        _UnreadableError: it is none. Its answer has the id of the request wherever that can be told, since a
            client waits for ever for an answer without it.
    """
    if isinstance(line, TooLong):
        text = f"The message has more than {MAX_LINE_BYTES} bytes and was not read."
        raise _UnreadableError(_id_of_long(line), mcp_types.INVALID_REQUEST, text)
    if not line.strip():
        return None
    try:
        message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise _UnreadableError(_id_of(line), mcp_types.PARSE_ERROR, first["msg"]) from error
        text = "This is no JSON-RPC 2.0 request, notification or response."
        raise _UnreadableError(_id_of(line), mcp_types.INVALID_REQUEST, text) from error
    if isinstance(message, mcp_types.JSONRPCNotification) and b'"id"' in line and "id" in json.loads(line):
        # The SDK takes a request with a bad id for a notification, and would not answer it.
        raise _UnreadableError(None, mcp_types.INVALID_REQUEST, "An id must be a string or an integer.")
    return message


def _id_of(line: bytes) -> mcp_types.RequestId | None:
    try:
        loaded = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(loaded, dict):
        return None
    fields = cast("dict[str, Any]", loaded)
    # Only a request has an id that may be answered: our answer to a bad response would look like one to the
    # client's own request of that id.
    return _usable_id(fields.get("id")) if isinstance(fields.get("method"), str) else None


def _id_of_long(line: TooLong) -> mcp_types.RequestId | None:
    found = _ID_AT_HEAD.match(line.head) or _ID_AT_TAIL.search(line.tail)
    try:
        return None if found is None else _usable_id(json.loads(found[1]))
    except ValueError:
        return None


def _usable_id(value: object) -> mcp_types.RequestId | None:
    if isinstance(value, str):
        return None if any("\ud800" <= character <= "\udfff" for character in value) else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _error(request_id: mcp_types.RequestId | None, code: int, message: str) -> mcp_types.JSONRPCError:
    error = mcp_types.ErrorData(code=code, message=message)
    return mcp_types.JSONRPCError(jsonrpc="2.0", id=request_id, error=error)


def _encode(message: mcp_types.JSONRPCMessage) -> bytes:
    return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
