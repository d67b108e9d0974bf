"""Which requests of one connection are being answered, and which wait for their turn.

A client may ask as much as it likes without waiting. What it has asked costs us a task each, so only so many
run at once; the others wait in order, and when there are too many of those, nothing more is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import mcp_types
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream
from mcp.shared.message import ServerMessageMetadata, SessionMessage

MAX_IN_FLIGHT = 256
"""Requests of one connection that run at once, subscriptions aside: those stay open for as long as the client."""

MAX_WAITING_BYTES = 1024 * 1024
"""While more than this waits for its turn, nothing is read. A cancellation that has been read never waits."""

LISTEN = "subscriptions/listen"

Inbound = MemoryObjectSendStream[SessionMessage | Exception]


class DuplicateIdError(Exception):
    """A request has the id of one that has not been answered yet."""


@dataclass(eq=False, slots=True)
class _Waiting:
    message: mcp_types.JSONRPCMessage
    size: int
    withdrawn: bool = False


class Intake:
    """Hands the messages of one connection to the SDK's loop at `inbound`. `group` ends with the connection."""

    def __init__(self, inbound: Inbound, group: TaskGroup) -> None:
        self._inbound = inbound
        self._group = group
        self._open: dict[mcp_types.RequestId, str] = {}
        self._in_flight = 0
        self._queue: deque[_Waiting] = deque()
        self._withdrawable: dict[mcp_types.RequestId, _Waiting] = {}
        self._waiting_bytes = 0
        self._is_feeding = False
        self._fewer_in_flight = asyncio.Event()
        self._fewer_waiting = asyncio.Event()

    async def take(self, message: mcp_types.JSONRPCMessage, size: int) -> None:
        """Pass a message of `size` bytes on, now or in its turn. Returns when the next one may be read.

        Raises:
            DuplicateIdError: and the message is dropped.
        """
        if isinstance(message, mcp_types.JSONRPCRequest):
            if message.id in self._open:
                raise DuplicateIdError
            self._open[message.id] = message.method
        cancelled = _cancelled_by(message)
        if cancelled is not None and cancelled in self._withdrawable:
            self._withdraw(cancelled)
        elif cancelled is not None or (not self._queue and self._may_start(message)):
            await self._start(message)
        else:
            self._enqueue(message, size)
            while self._waiting_bytes > MAX_WAITING_BYTES:
                self._fewer_waiting.clear()
                await self._fewer_waiting.wait()

    def settle(self, request_id: mcp_types.RequestId) -> None:
        """The request has been answered, or never will be."""
        method = self._open.pop(request_id, LISTEN)
        if method != LISTEN:
            self._in_flight -= 1
            self._fewer_in_flight.set()

    def _may_start(self, message: mcp_types.JSONRPCMessage) -> bool:
        return self._in_flight < MAX_IN_FLIGHT or not _counts(message)

    async def _start(self, message: mcp_types.JSONRPCMessage) -> None:
        self._in_flight += _counts(message)
        if isinstance(message, mcp_types.JSONRPCRequest):
            # The SDK says it here when it leaves a request unanswered, because it was cancelled.
            unanswered = ServerMessageMetadata(on_request_unanswered=partial(self._settle_unanswered, message.id))
            await self._inbound.send(SessionMessage(message, unanswered))
        else:
            await self._inbound.send(SessionMessage(message))

    async def _settle_unanswered(self, request_id: mcp_types.RequestId) -> None:
        self.settle(request_id)

    def _enqueue(self, message: mcp_types.JSONRPCMessage, size: int) -> None:
        waiting = _Waiting(message, size)
        self._queue.append(waiting)
        self._waiting_bytes += size
        if isinstance(message, mcp_types.JSONRPCRequest):
            self._withdrawable[message.id] = waiting
        if not self._is_feeding:
            self._is_feeding = True
            self._group.start_soon(self._feed)

    def _withdraw(self, request_id: mcp_types.RequestId) -> None:
        # It is dropped in its turn: looking for it in the queue would take the longer the more there is.
        self._withdrawable.pop(request_id).withdrawn = True
        del self._open[request_id]

    async def _feed(self) -> None:
        """Start what waits, in order, for as long as something does."""
        while self._queue:
            waiting = self._queue[0]
            while not waiting.withdrawn and not self._may_start(waiting.message):
                self._fewer_in_flight.clear()
                await self._fewer_in_flight.wait()
            self._queue.popleft()
            self._waiting_bytes -= waiting.size
            self._fewer_waiting.set()
            if not waiting.withdrawn:
                if isinstance(waiting.message, mcp_types.JSONRPCRequest):
                    del self._withdrawable[waiting.message.id]
                await self._start(waiting.message)
        self._is_feeding = False


def _counts(message: mcp_types.JSONRPCMessage) -> bool:
    return isinstance(message, mcp_types.JSONRPCRequest) and message.method != LISTEN


def _cancelled_by(message: mcp_types.JSONRPCMessage) -> mcp_types.RequestId | None:
    if not isinstance(message, mcp_types.JSONRPCNotification) or message.method != "notifications/cancelled":
        return None
    request_id: Any = (message.params or {}).get("requestId")
    return request_id if isinstance(request_id, int | str) else None
