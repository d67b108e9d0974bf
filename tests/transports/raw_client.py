"""Speaks lines, right ones and wrong ones, on a unix socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import anyio

DEADLINE_SECONDS = 10.0

MODERN: dict[str, Any] = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}
HANDSHAKE: dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "1"},
}


def request(request_id: int | str, method: str, params: dict[str, Any] | None = None) -> bytes:
    return line({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}})


def notification(method: str, params: dict[str, Any] | None = None) -> bytes:
    return line({"jsonrpc": "2.0", "method": method, "params": params or {}})


def call(request_id: int | str, tool: str, *, modern: bool = True, **arguments: Any) -> bytes:
    return request(request_id, "tools/call", {"name": tool, "arguments": arguments} | (MODERN if modern else {}))


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def text_of(answer: dict[str, Any]) -> str:
    return answer["result"]["content"][0]["text"]


async def within(event: asyncio.Event | anyio.Event) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        await event.wait()


class RawClient:
    """Each wait has a deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> RawClient:
        return cls(*await asyncio.open_unix_connection(path, limit=128 * 1024 * 1024))

    def stop_reading(self) -> None:
        cast(asyncio.Transport, self.writer.transport).pause_reading()

    def go_on_reading(self) -> None:
        cast(asyncio.Transport, self.writer.transport).resume_reading()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            self.writer.write(data)
            await self.writer.drain()

    async def receive_line(self) -> bytes:
        """The next line; empty at the end."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                return await self.reader.readline()
            except ConnectionError:
                return b""

    async def receive(self) -> dict[str, Any]:
        received = await self.receive_line()
        assert received, "the connection was closed"
        return json.loads(received)

    async def ask(self, data: bytes) -> dict[str, Any]:
        await self.send(data)
        return await self.receive()

    async def shake_hands(self, request_id: int | str = "handshake") -> dict[str, Any]:
        """Open the conversation as clients did until 2025-11-25."""
        answer = await self.ask(request(request_id, "initialize", HANDSHAKE))
        await self.send(notification("notifications/initialized"))
        return answer

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self.writer.wait_closed()
        except ConnectionError:
            pass
