"""One client on a socket: its lines in, the SDK's loop, its lines out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel
import mcp_types
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop
from mcp.shared.message import SessionMessage

from mcp_server.transports.intake import DuplicateIdError, Inbound, Intake
from mcp_server.transports.lines import LineCutter, TooLong
from mcp_server.transports.messages import MAX_LINE_BYTES, UnreadableError, encode, error_answer, parse

READ_BYTES = 256 * 1024

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""An answer that would be a longer line is replaced by an error."""

HOLD_ANSWERS_AT_BYTES = 16 * 1024 * 1024
"""While a client leaves this much unread, its answers wait, and nothing more is read from it."""

HOLD_NOTIFICATIONS_AT_BYTES = 256 * 1024
"""While a client leaves this much unread, what it is told of its own waits: it gets fresher news afterwards."""


class Connection:
    """Serves one client until it goes, or until cancelled."""

    def __init__(
        self, lowlevel: Server[Any], state: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.transport.set_write_buffer_limits(high=HOLD_NOTIFICATIONS_AT_BYTES)
        self._reader = reader
        self._writer = writer
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
            intake = Intake(inbound, tasks)
            outbox = _Outbox(self._writer, intake.settle)
            tasks.start_soon(self._read, inbound, intake, outbox)
            await self._loop(messages, outbox)
            tasks.cancel_scope.cancel()

    async def _read(self, inbound: Inbound, intake: Intake, outbox: _Outbox) -> None:
        cutter = LineCutter(MAX_LINE_BYTES)
        async with inbound:
            # A client that is gone shows as an error here or there; the loop sees the end of its stream.
            with suppress(ConnectionError, anyio.BrokenResourceError):
                while data := await self._reader.read(READ_BYTES):
                    # First of all: who leaves too much unread is not served any further.
                    await outbox.wait_for_room(HOLD_ANSWERS_AT_BYTES)
                    for line in cutter.feed(data):
                        await self._take(line, intake, outbox)

    async def _take(self, line: bytes | TooLong, intake: Intake, outbox: _Outbox) -> None:
        try:
            message = parse(line)
        except UnreadableError as error:
            outbox.put(encode(error.answer))
            return
        if message is None:
            return
        if not self._era_is_decided and isinstance(message, mcp_types.JSONRPCRequest):
            if message.method == "server/discover":
                await self._answer_alone(message)
                return
            self._era_is_decided = True
        try:
            await intake.take(message, len(line) if isinstance(line, bytes) else 0)
        except DuplicateIdError:
            assert isinstance(message, mcp_types.JSONRPCRequest)
            text = "A request with this id has not been answered yet. This one was not looked at."
            outbox.put(encode(error_answer(message.id, mcp_types.INVALID_REQUEST, text)))

    async def _answer_alone(self, request: mcp_types.JSONRPCRequest) -> None:
        """Answer on a loop of its own: a client may ask what we speak and then speak the other era."""
        inbound, messages = anyio.create_memory_object_stream[SessionMessage | Exception](1)
        answered = anyio.Event()
        async with anyio.create_task_group() as tasks, inbound:
            tasks.start_soon(self._loop, messages, _Outbox(self._writer, lambda _: answered.set()))
            await inbound.send(SessionMessage(request))
            await answered.wait()


class _Outbox:
    """The SDK's way to the client. Whoever sends to one that does not read waits until it does, and nobody else.

    `settle` is told the id of every request that is answered here, after its answer.
    """

    def __init__(self, writer: asyncio.StreamWriter, settle: Callable[[mcp_types.RequestId], None]) -> None:
        self._writer = writer
        self._transport = writer.transport
        self._settle = settle

    def put(self, line: bytes) -> None:
        if self._transport.is_closing():
            raise anyio.BrokenResourceError
        self._transport.write(line)

    async def send(self, item: SessionMessage, /) -> None:
        message = item.message
        if not isinstance(message, mcp_types.JSONRPCResponse | mcp_types.JSONRPCError):
            await self.wait_for_room(HOLD_NOTIFICATIONS_AT_BYTES)
            self.put(encode(message))
            # A tool that does nothing but report progress must let others run.
            await anyio.lowlevel.checkpoint()
            return
        try:
            await self.wait_for_room(HOLD_ANSWERS_AT_BYTES)
            self.put(_answer_line(message))
            await anyio.lowlevel.checkpoint()
        finally:
            if message.id is not None:
                self._settle(message.id)

    async def wait_for_room(self, unsent_bytes: int) -> None:
        """Until no more than `unsent_bytes`, which are no fewer than those that notifications wait for, are unsent."""
        try:
            # Again and again: all who wait are woken together, and the first ones may fill it up.
            while self._transport.get_write_buffer_size() > unsent_bytes:
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


def _answer_line(answer: mcp_types.JSONRPCResponse | mcp_types.JSONRPCError) -> bytes:
    line = encode(answer)
    if len(line) <= MAX_ANSWER_BYTES:
        return line
    text = f"The answer has {len(line)} bytes, more than the {MAX_ANSWER_BYTES} that one message may have."
    return encode(error_answer(answer.id, mcp_types.INTERNAL_ERROR, text))
