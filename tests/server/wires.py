"""Raw clients that follow something and can vanish or stop reading: each way in, each protocol era."""

from __future__ import annotations

import asyncio
import json
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import httpx2
import pytest

from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import Settings
from mcp_server.web import app, serve

DEADLINE_SECONDS = 20.0
META: dict[str, Any] = {
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


@dataclass(frozen=True, slots=True)
class Served:
    """A whole server in the test's own process: its doors, and what is behind them."""

    runtime: Runtime
    address: serve.Address
    key: str
    key_name: str
    http: httpx2.AsyncClient


@asynccontextmanager
async def serving(settings: Settings, patch: pytest.MonkeyPatch, session_idle_seconds: float) -> AsyncGenerator[Served]:
    """Serve every door until the context ends."""
    patch.setattr(serve, "open_app", partial(app.open_app, session_idle_seconds=session_idle_seconds))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)  # so that a reader that is slow shows soon
        async with open_runtime(settings) as runtime:
            record, token = await runtime.keys.create("raw", ["read", "submit"])
            async with serve._doors(runtime, listener) as address:  # pyright: ignore[reportPrivateUsage]
                async with httpx2.AsyncClient(base_url=address.url, timeout=DEADLINE_SECONDS, verify=False) as http:
                    yield Served(runtime, address, token, record["name"], http)
                runtime.live.close()


class Wire(ABC):
    """One client on its own connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, served: Served) -> None:
        self.served = served

    @abstractmethod
    async def follow(self, *uris: str, lists: bool = False) -> None:
        """Come, and follow `uris`; returns when the server does."""

    @abstractmethod
    async def read(self) -> dict[str, Any]:
        """The next message, whenever it comes."""

    async def receive(self) -> dict[str, Any]:
        """The next message, which comes soon."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.read()

    async def told(self) -> dict[str, Any]:
        """The next notification's method and params."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while "method" not in (message := await self.receive()):
                pass
        return message

    async def told_all(self, *uris: str) -> list[str]:
        """What it is told of until all of `uris` were told, in order."""
        missing, told = {*uris}, list[str]()
        while missing:
            params = (await self.told()).get("params") or {}
            told.append(params.get("uri", "the list"))
            missing.discard(told[-1])
        return told

    def vanish(self) -> None:
        """Go without a goodbye."""
        self.writer.transport.abort()

    def stop_reading(self) -> None:
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def go_on_reading(self) -> None:
        cast("asyncio.Transport", self.writer.transport).resume_reading()

    async def line(self) -> bytes:
        found = await self.reader.readline()
        assert found, "the connection was closed"
        return found


class SocketModern(Wire):
    async def follow(self, *uris: str, lists: bool = False) -> None:
        await self._open()
        self._send(listen_request(*uris, lists=lists))
        await self.acknowledged()

    async def acknowledged(self) -> None:
        assert (await self.receive())["method"] == "notifications/subscriptions/acknowledged"

    async def read(self) -> dict[str, Any]:
        return json.loads(await self.line())

    async def _open(self) -> None:
        self.reader, self.writer = await asyncio.open_unix_connection(self.served.address.mcp_socket)

    def _send(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")


class SocketLegacy(SocketModern):
    async def follow(self, *uris: str, lists: bool = True) -> None:
        await self._open()
        self._send({"id": 0, "method": "initialize", "params": HANDSHAKE})
        assert (await self.receive())["result"]["capabilities"]["resources"] == {"subscribe": True, "listChanged": True}
        self._send({"method": "notifications/initialized"})
        for number, uri in enumerate(uris, 1):
            self._send({"id": number, "method": "resources/subscribe", "params": {"uri": uri}})
            while "result" not in (answer := await self.receive()):
                assert "error" not in answer, answer


class HttpModern(Wire):
    async def follow(self, *uris: str, lists: bool = False) -> None:
        body = json.dumps({"jsonrpc": "2.0"} | listen_request(*uris, lists=lists)).encode()
        headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
        await self.request("POST", body, headers)
        assert (await self.receive())["method"] == "notifications/subscriptions/acknowledged"

    async def request(self, method: str, body: bytes, headers: dict[str, str]) -> None:
        """Send, and read the head of the answer, which is a stream."""
        port = self.served.address.port
        connecting = socket.socket()
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        connecting.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connecting, ("127.0.0.1", port))
        self.reader, self.writer = await asyncio.open_connection(sock=connecting)
        all_headers = self.headers() | headers | {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
        self.writer.write(f"{method} /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        status = await self.line()
        rest = [status]
        while rest[-1].strip():
            rest.append(await self.line())
        assert b" 200 " in status, rest
        assert any(b"text/event-stream" in line for line in rest), rest

    async def read(self) -> dict[str, Any]:
        while not (line := await self.line()).startswith(b"data: {"):
            pass
        return json.loads(line[6:])

    def headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self.served.key}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
        }


class HttpLegacy(HttpModern):
    session: Mapping[str, str] = MappingProxyType({})

    async def follow(self, *uris: str, lists: bool = True) -> None:
        await self.come()
        await self.open_stream()
        await self.subscribe(*uris)

    async def come(self, *uris: str) -> None:
        """Open a session and follow `uris`, with no stream to be told on."""
        opened = await self._post({"id": 0, "method": "initialize", "params": HANDSHAKE})
        self.session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        await self._post({"method": "notifications/initialized"})
        await self.subscribe(*uris)

    async def open_stream(self) -> None:
        await self.request("GET", b"", dict(self.session))

    async def subscribe(self, *uris: str) -> None:
        messages = [
            {"id": number, "method": "resources/subscribe", "params": {"uri": uri}}
            for number, uri in enumerate(uris, 1)
        ]
        for answer in await asyncio.gather(*map(self._post, messages)):
            assert '"result"' in answer.text, answer.text

    async def _post(self, message: dict[str, Any]) -> httpx2.Response:
        headers = {**self.headers(), **self.session}
        answer = await self.served.http.post("/mcp", json={"jsonrpc": "2.0"} | message, headers=headers)
        assert answer.is_success, answer.text
        return answer


WIRES: dict[str, type[Wire]] = {
    "socket-modern": SocketModern,
    "socket-legacy": SocketLegacy,
    "http-modern": HttpModern,
    "http-legacy": HttpLegacy,
}


def listen_request(*uris: str, lists: bool = False, request_id: int | str = 1, **more: Any) -> dict[str, Any]:
    """`subscriptions/listen`. `more` goes into the filter."""
    wanted: dict[str, Any] = {"resourceSubscriptions": list(uris)} if uris else {}
    wanted |= {"resourcesListChanged": True} if lists else {}
    return {"id": request_id, "method": "subscriptions/listen", "params": META | {"notifications": wanted | more}}


def short_home(settings: Settings, folder: Path) -> Settings:
    """`tmp_path` is too long for a socket."""
    return settings.model_copy(update={"home": folder})
