"""A model on loopback that speaks the wire protocols of the real ones, and does what the prompt's own script says.

Coding agents are pointed at it: they run as they are, with fake keys, and nothing leaves the machine.
How a script is written is told in `models/script.py`; each wire protocol has a module in `models/`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from tests.acceptance.models import anthropic, gemini, openai
from tests.acceptance.models.script import Asked, Hang, Replies, Reply, Scripts


class Wire(Protocol):
    """One wire protocol, as a module of `models/`."""

    def handles(self, path: str) -> bool:
        """Whether a request to this path (without its query) is of this protocol."""
        ...

    def asked(self, path: str, body: dict[str, Any]) -> Asked:
        """What the agent asks."""
        ...

    def answer(self, path: str, body: dict[str, Any], reply: Reply, out: Replies) -> None:
        """Send the reply."""
        ...


WIRES: tuple[Wire, ...] = (anthropic, openai, gemini)


class Model:
    """The running model. `requests` are all turns that were asked of it, in order; others may be added meanwhile."""

    def __init__(self, url: str, scripts: Scripts) -> None:
        self.url = url
        self._scripts = scripts

    @property
    def requests(self) -> list[Asked]:
        """Every turn that an agent asked for with tools on offer."""
        return list(self._scripts.asked)

    @property
    def named_times(self) -> list[int]:
        """Of each limit, when the quota is there again, in seconds since 1970."""
        return list(self._scripts.named)

    @property
    def tool_results(self) -> list[str]:
        """What the tools gave that the model called, as the agent passed it on; each once."""
        return list(dict.fromkeys(text for asked in self.requests for role, text in asked.turns if role == "tool"))


@contextmanager
def scripted_model() -> Generator[Model]:
    """Serve on a free port of 127.0.0.1 until the block is left."""
    scripts = Scripts()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.scripts = scripts  # pyright: ignore[reportAttributeAccessIssue]
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield Model(f"http://127.0.0.1:{server.server_port}", scripts)
        finally:
            scripts.closing.set()
            server.shutdown()
            serving.join()


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, has its wire answer it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        if self._path.endswith("/models"):
            self._json(200, {"object": "list", "data": [{"id": "stub", "object": "model"}], "models": []})
        else:
            self._json(404, {})

    def do_POST(self) -> None:
        raw = self._body()
        if self._path.endswith(("/count_tokens", ":countTokens")):
            self._json(200, {"input_tokens": 10, "totalTokens": 10})
            return
        wire = next((wire for wire in WIRES if wire.handles(self._path)), None)
        if wire is None:
            self._json(404, {})
            return
        if self.headers.get("content-encoding"):
            self._json(400, {"error": {"message": "compressed bodies are not understood"}})
            return
        scripts: Scripts = self.server.scripts  # pyright: ignore[reportAttributeAccessIssue]
        body = json.loads(raw)
        reply = scripts.reply(wire.asked(self._path, body))
        with suppress(BrokenPipeError, ConnectionResetError):  # the agent has left
            if reply.status != 200:
                error = {"type": reply.error_type, "message": reply.text, "code": reply.status}
                error |= openai.limit(reply) if wire is openai else {}
                self._json(reply.status, {"type": "error", "error": error}, reply.headers)
            else:
                wire.answer(self._path, body, reply, _Replies(self, scripts))

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Replies:
    """The sending half of one request."""

    def __init__(self, handler: _Handler, scripts: Scripts) -> None:
        self._handler = handler
        self._scripts = scripts
        self._open = False

    def json(self, content: Any) -> None:
        self._handler._json(200, content)

    def event(self, data: Any, name: str | None = None) -> None:
        if not self._open:
            self._open = True
            self._handler.send_response(200)
            for header in (
                ("content-type", "text/event-stream"),
                ("cache-control", "no-cache"),
                ("connection", "close"),
            ):
                self._handler.send_header(*header)
            self._handler.end_headers()
            self._handler.close_connection = True
        text = data if isinstance(data, str) else json.dumps(data)
        prefix = f"event: {name}\n" if name else ""
        self._handler.wfile.write(f"{prefix}data: {text}\n\n".encode())
        self._handler.wfile.flush()

    def hang(self, hang: Hang) -> None:
        if hang:
            self._scripts.closing.wait()
