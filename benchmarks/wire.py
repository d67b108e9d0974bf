"""A client that costs next to nothing: JSON-RPC lines over a unix socket or pipes, one request at a time.

Only the exchange of bytes is timed; what is written is made before, and what came is read afterwards.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any

from benchmarks.figures import MILLISECONDS

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}
ANSWER_SECONDS = 60.0


def line(method: str, params: dict[str, Any] | None = None, request_id: int | None = None) -> bytes:
    """One message."""
    message: dict[str, Any] = {"jsonrpc": "2.0"}
    if request_id is not None:
        message["id"] = request_id
    return json.dumps(message | {"method": method, "params": params or {}}).encode() + b"\n"


FIRST_LINE = line("initialize", INITIALIZE, 1)


class Lines:
    """One conversation in the handshake era, opened."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        self._reading = reading
        self._writing = writing
        self._last = 1
        self.milliseconds = 0.0
        """How long the last exchange took."""
        self.welcome: dict[str, Any] = json.loads(self._exchange(FIRST_LINE))["result"]
        """What the server said to `initialize`."""
        self._writing.write(line("notifications/initialized"))
        self._writing.flush()

    def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of a request. Raises RuntimeError where it is an error."""
        self._last += 1
        answer = json.loads(self._exchange(line(method, params, self._last)))
        if "result" not in answer or answer.get("id") != self._last:
            raise RuntimeError(str(answer))
        return answer["result"]

    def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """What a tool answers. Raises RuntimeError where it is an error."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RuntimeError(str(result))
        return result["structuredContent"]

    def time_call(self, tool: str, /, **arguments: Any) -> float:
        """Milliseconds of a call that succeeded."""
        self.call(tool, **arguments)
        return self.milliseconds

    def _exchange(self, message: bytes) -> bytes:
        begin = time.perf_counter()
        self._writing.write(message)
        self._writing.flush()
        answer = self._reading.readline()
        self.milliseconds = (time.perf_counter() - begin) * MILLISECONDS
        if not answer:
            raise ConnectionError("the server closed the connection")
        return answer


@contextmanager
def over_socket(path: str) -> Generator[Lines]:
    """Over our unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(path)
        with connection.makefile("rwb") as stream:
            yield Lines(stream, stream)


def over_pipes(process: subprocess.Popen[bytes]) -> Lines:
    """Over the pipes of a process."""
    assert process.stdin is not None
    assert process.stdout is not None
    return Lines(process.stdout, process.stdin)
