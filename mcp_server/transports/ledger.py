"""What the shim remembers of a conversation: just enough to go on with another server. Standard library only."""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Id = int | str

REFUSED = -32003
"""As in `socket.py`, which the shim cannot import."""

RESTARTED = -32000

_HEAD = re.compile(
    rb'\{"jsonrpc": ?"2\.0", ?"id": ?(-?\d{1,18}|"[^"\\]*"), ?"(method|result|error)": ?(?:"([^"\\]*)")?',
)
"""How most messages begin. Those need no parsing, however long they are."""

_SERVER_NOTIFICATION = b'{"jsonrpc":"2.0","method":'

_NEVER_ANSWERED = frozenset({"subscriptions/listen"})
"""Answered only when the server ends: no reason to stay when the client goes."""


class Ledger:
    """Which requests are open, and how the conversation was opened.

    `refusal` is what the server said if it turned us away.
    """

    def __init__(self) -> None:
        self.refusal: str | None = None
        self._open: dict[Id, str] = {}
        self._initialize: bytes | None = None
        self._initialize_id: Id | None = None
        self._initialized: bytes | None = None
        self._replayed = False

    @property
    def owed(self) -> bool:
        """Whether the client may expect another answer."""
        return any(method not in _NEVER_ANSWERED for method in self._open.values())

    @property
    def awaits_initialize(self) -> bool:
        """Whether the client still waits for the answer to its handshake, which any server can give."""
        return self._initialize_id is not None and self._initialize_id in self._open

    def note_from_client(self, line: bytes) -> None:
        """Note a line that the server has been sent."""
        request_id, method, message = _request_in(line)
        if method == "notifications/initialized":
            self._initialized = line
        elif method == "notifications/cancelled":
            # A cancelled request is never answered.
            self._close(_usable_id(_fields(message.get("params")).get("requestId")))
        elif request_id is not None and method is not None:
            if self._replayed and request_id == self._initialize_id:
                return
            self._open[request_id] = method
            if method == "initialize":
                self._initialize, self._initialize_id = line, request_id

    def note_from_server(self, line: bytes) -> bool:
        """Note a line of the server. True: it was meant for us, and the client shall not see it."""
        if line.startswith(_SERVER_NOTIFICATION):
            return False
        found = _HEAD.match(line)
        if found is not None:
            answered = None if found[2] == b"method" else _usable_id(json.loads(found[1]))
        else:
            answered = self._answered_by(_parsed(line))
        if self._replayed and answered is not None and answered == self._initialize_id:
            self._replayed = False
            return True
        self._close(answered)
        return self.refusal is not None

    def _close(self, request_id: Id | None) -> None:
        if request_id is not None:
            self._open.pop(request_id, None)

    def _answered_by(self, message: dict[str, Any]) -> Id | None:
        error = _fields(message.get("error"))
        if message.get("id") is None and error.get("code") == REFUSED:
            self.refusal = str(error.get("message"))
        return None if "method" in message else _usable_id(message.get("id"))

    def answer_all(self, text: str, *, also_initialize: bool = False) -> bytes:
        """The lines that answer every open request with an error, and close them.

        The handshake stays open, for the next server to answer, unless `also_initialize`.
        """
        kept = None if also_initialize else self._initialize_id
        closed = [request_id for request_id in self._open if request_id != kept]
        for request_id in closed:
            del self._open[request_id]
        return b"".join(_error_line(request_id, text) for request_id in closed)

    def replay(self) -> list[bytes]:
        """The lines that open the conversation with another server. An answer given before will be swallowed."""
        if self._initialize is None:
            return []
        self._replayed = not self.awaits_initialize
        return [line for line in (self._initialize, self._initialized) if line is not None]


def _request_in(line: bytes) -> tuple[Id | None, str | None, dict[str, Any]]:
    found = _HEAD.match(line)
    if found is not None and found[2] != b"method":
        return None, None, {}
    if found is not None and found[3] is not None:
        return _usable_id(json.loads(found[1])), found[3].decode(errors="replace"), {}
    message = _parsed(line)
    method = message.get("method")
    return _usable_id(message.get("id")), method if isinstance(method, str) else None, message


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return _fields(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _usable_id(value: object) -> Id | None:
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _error_line(request_id: Id, text: str) -> bytes:
    error = {"code": RESTARTED, "message": text}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"
