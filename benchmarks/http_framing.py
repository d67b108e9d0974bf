"""MCP messages as HTTP requests on one kept connection, and back from answers in JSON or as a stream of events."""

from __future__ import annotations

import json
from typing import Any

from httptools import HttpResponseParser

PLAIN = (200, 202)
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Which argument a request of the modern era also has in a header."""


class HttpFraming:
    """One exchange at a time, unless the last answer is a stream that does not end."""

    acknowledges = True

    def __init__(self, port: int, key: str | None, version: str) -> None:
        self._port = port
        self._key = key
        self._version = version
        self._session: str | None = None
        self._messages: list[bytes] = []
        self._parser: Any = HttpResponseParser(self)
        self._begin()

    def encode(self, message: bytes) -> bytes:
        """A POST of `message`."""
        said = json.loads(message)
        headers = {"Content-Type": "application/json", "Mcp-Method": said["method"]}
        if (named := NAMED.get(said["method"])) is not None:
            headers["Mcp-Name"] = said["params"][named]
        return self._request("POST", headers, message)

    def goodbye(self) -> bytes | None:
        """A DELETE of the session, where there is one."""
        return None if self._session is None else self._request("DELETE", {}, b"")

    def _request(self, verb: str, headers: dict[str, str], body: bytes) -> bytes:
        headers |= {
            "Host": f"127.0.0.1:{self._port}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": self._version,
            "Content-Length": str(len(body)),
        }
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        if self._session is not None:
            headers["Mcp-Session-Id"] = self._session
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{verb} /mcp HTTP/1.1\r\n{head}\r\n".encode() + body

    def feed(self, data: bytes) -> list[bytes]:
        """Every message that `data` completes. An answer without any counts as an empty one."""
        self._parser.feed_data(data)
        messages, self._messages = self._messages, []
        return messages

    def _begin(self) -> None:
        self._body = b""
        self._streams = False
        self._any = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() == b"content-type":
            self._streams = value.startswith(b"text/event-stream")
        elif name.lower() == b"mcp-session-id":
            self._session = value.decode()

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._body += data
        if self._streams:
            *lines, self._body = self._body.split(b"\n")
            for text in lines:
                name, _, value = text.strip().partition(b":")
                if name == b"data" and value.strip():
                    self._complete(value.strip())

    def on_message_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        if status not in PLAIN and not self._body.startswith(b'{"jsonrpc"'):
            raise RuntimeError(f"HTTP {status}: {self._body[:500]!r}")
        if not self._any:
            self._complete(self._body)
        self._begin()

    def _complete(self, message: bytes) -> None:
        self._any = True
        self._messages.append(message)
