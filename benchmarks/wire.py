"""A client that costs next to nothing: JSON-RPC over a unix socket, pipes or HTTP, one request at a time.

Only the exchange of bytes is timed; what is written is made before, and what came is read afterwards.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY

from benchmarks.figures import MILLISECONDS
from benchmarks.http_framing import HttpFraming

Era = Literal["handshake", "modern"]
ERAS: tuple[Era, ...] = ("handshake", "modern")
VERSIONS: dict[Era, str] = {"handshake": "2025-11-25", "modern": "2026-07-28"}
CLIENT = {"name": "benchmark", "version": "1"}
INITIALIZE = {"protocolVersion": VERSIONS["handshake"], "capabilities": {}, "clientInfo": CLIENT}
ENVELOPE = {
    PROTOCOL_VERSION_META_KEY: VERSIONS["modern"],
    CLIENT_INFO_META_KEY: CLIENT,
    CLIENT_CAPABILITIES_META_KEY: {},
}
"""What each request of the modern era carries."""

UPDATED = "notifications/resources/updated"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
ANSWER_SECONDS = 60.0
READ_BYTES = 256 * 1024


def line(method: str, params: dict[str, Any] | None = None, request_id: int | None = None) -> bytes:
    """One message."""
    message: dict[str, Any] = {"jsonrpc": "2.0"}
    if request_id is not None:
        message["id"] = request_id
    return json.dumps(message | {"method": method, "params": params or {}}).encode() + b"\n"


FIRST_LINE = line("initialize", INITIALIZE, 1)


class Framing(Protocol):
    """How messages become bytes, and bytes messages."""

    acknowledges: bool
    """Whether a notification is answered, by an empty message."""

    def encode(self, message: bytes) -> bytes: ...

    def feed(self, data: bytes) -> list[bytes]:
        """Every message that `data` completes."""
        ...


class LineFraming:
    """One message a line."""

    acknowledges = False

    def __init__(self) -> None:
        self._rest = b""

    def encode(self, message: bytes) -> bytes:
        return message

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


class Conversation:
    """One conversation, opened: by the handshake, or by asking what the server is."""

    def __init__(
        self, write: Callable[[bytes], object], read: Callable[[], bytes], framing: Framing, era: Era = "handshake"
    ) -> None:
        self._write = write
        self._read = read
        self.framing = framing
        self.era: Era = era
        self._last = 0
        self._unread: deque[bytes] = deque()
        self._told: deque[dict[str, Any]] = deque()
        self.milliseconds = 0.0
        """How long the last exchange took."""
        self.welcome: dict[str, Any] = self._open()
        """What the server said of itself."""

    def _open(self) -> dict[str, Any]:
        if self.era == "modern":
            return self.request("server/discover")
        welcome = self.request("initialize", INITIALIZE)
        self._write(self.framing.encode(line("notifications/initialized")))
        if self.framing.acknowledges:
            self._next()
        return welcome

    def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of a request. Raises RuntimeError where it is an error."""
        message = self.prepared(method, params)
        begin = time.perf_counter()
        self._write(message)
        answer = self._next()
        self.milliseconds = (time.perf_counter() - begin) * MILLISECONDS
        while "method" in (read := json.loads(answer)):
            self._told.append(read)
            answer = self._next()
            self.milliseconds = (time.perf_counter() - begin) * MILLISECONDS
        if "result" not in read or read.get("id") != self._last:
            raise RuntimeError(str(read))
        return read["result"]

    def prepared(self, method: str, params: dict[str, Any] | None = None) -> bytes:
        """The bytes of a request, for who sends them by other means."""
        self._last += 1
        if self.era == "modern":
            params = (params or {}) | {"_meta": ENVELOPE}
        return self.framing.encode(line(method, params, self._last))

    def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """What a tool answers. Raises RuntimeError where it is an error."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RuntimeError(str(result))
        return result.get("structuredContent", result)

    def time_call(self, tool: str, /, **arguments: Any) -> float:
        """Milliseconds of a call that succeeded."""
        self.call(tool, **arguments)
        return self.milliseconds

    def follow(self, uri: str) -> None:
        """Be told when the resource changes. Over HTTP the conversation is good for nothing else afterwards."""
        if self.era == "handshake":
            self.request("resources/subscribe", {"uri": uri})
            return
        self._write(self.prepared("subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}}))
        said = json.loads(self._next())
        if said.get("method") != ACKNOWLEDGED or said["params"]["notifications"].get("resourceSubscriptions") != [uri]:
            raise RuntimeError(str(said))

    def told(self) -> dict[str, Any]:
        """The next notification that a resource changed; waits for one. Others are skipped."""
        while True:
            read = self._told.popleft() if self._told else json.loads(self._next())
            if "method" not in read:
                raise RuntimeError(str(read))
            if read["method"] == UPDATED:
                return read["params"]

    def _next(self) -> bytes:
        while not self._unread:
            data = self._read()
            if not data:
                raise ConnectionError("the server closed the connection")
            self._unread.extend(self.framing.feed(data))
        return self._unread.popleft()


class Connection(Conversation):
    """A conversation over a socket of its own."""

    def __init__(self, connected: socket.socket, framing: Framing, era: Era) -> None:
        connected.settimeout(ANSWER_SECONDS)
        self.socket = connected
        super().__init__(connected.sendall, lambda: connected.recv(READ_BYTES), framing, era)

    def close(self, *, politely: bool = True) -> None:
        """End it; politely, a session of HTTP is ended too."""
        try:
            if politely and isinstance(self.framing, HttpFraming) and (goodbye := self.framing.goodbye()):
                self._write(goodbye)
                self._next()
        finally:
            self.socket.close()


def connect_to_socket(path: str, era: Era = "handshake") -> Connection:
    """A conversation over our unix socket."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(ANSWER_SECONDS)
    connected.connect(path)
    return Connection(connected, LineFraming(), era)


def connect_to_http(port: int, key: str | None = None, era: Era = "modern") -> Connection:
    """A conversation over one kept connection to `/mcp`."""
    connected = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(connected, HttpFraming(port, key, VERSIONS[era]), era)


@contextmanager
def over_socket(path: str, era: Era = "handshake") -> Generator[Connection]:
    """Over our unix socket."""
    conversation = connect_to_socket(path, era)
    try:
        yield conversation
    finally:
        conversation.close()


@contextmanager
def over_http(port: int, key: str | None = None, era: Era = "modern") -> Generator[Connection]:
    """Over HTTP; `key` where the server wants one."""
    conversation = connect_to_http(port, key, era)
    try:
        yield conversation
    finally:
        conversation.close()


def over_pipes(process: subprocess.Popen[bytes], era: Era = "handshake") -> Conversation:
    """Over the pipes of a process."""
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin.fileno(), process.stdout.fileno()

    def write(message: bytes) -> None:
        while message:
            message = message[os.write(into, message) :]

    return Conversation(write, lambda: os.read(out, READ_BYTES), LineFraming(), era)
