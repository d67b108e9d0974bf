"""What the shim remembers of a conversation: just enough to go on with another server. Standard library only."""

from __future__ import annotations

import json
import re

from mcp_server.transports.following import ACKNOWLEDGED, LISTEN, SUBSCRIBE, UNSUBSCRIBE, Following, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
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

_NEVER_ANSWERED = frozenset({LISTEN})
"""Answered only when the server ends: no reason to stay when the client goes."""

_NEEDS_PARAMS = frozenset({LISTEN, SUBSCRIBE, UNSUBSCRIBE})


class Ledger:
    """Which requests are open, how the conversation was opened, and what the client follows.

    `refusal` is what the server said if it turned us away. `tell` is called with what the user should know.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.refusal: str | None = None
        self._tell = tell
        self._open: dict[Id, str] = {}
        self._following = Following(tell)
        self._initialize: bytes | None = None
        self._initialize_id: Id | None = None
        self._initialized: bytes | None = None
        self._replayed = False

    @property
    def owed(self) -> bool:
        """Whether the client may expect another answer."""
        return any(method not in _NEVER_ANSWERED for method in self._open.values())

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open, streams included."""
        return not self._open

    @property
    def awaits_initialize(self) -> bool:
        """Whether the client still waits for the answer to its handshake, which any server can give."""
        return self._initialize_id is not None and self._open.get(self._initialize_id) == "initialize"

    @property
    def follows(self) -> bool:
        """Whether the client wants to be told of changes, and so may never speak again by itself."""
        return bool(self._following)

    def note_from_client(self, line: bytes) -> None:
        """Note a line that the server has been sent."""
        request_id, method, message = _request_in(line)
        if method == "notifications/initialized":
            self._initialized = line
        elif method == "notifications/cancelled":
            # A cancelled request is never answered.
            self._close(_usable_id(fields(message.get("params")).get("requestId")))
        elif request_id is not None and method is not None:
            self._open[request_id] = method
            if method == "initialize":
                self._initialize, self._initialize_id = line, request_id
            elif method in _NEEDS_PARAMS:
                params = fields((message or _parsed(line)).get("params"))
                self._following.note_request(request_id, method, params, line)

    def note_notification(self, line: bytes) -> bool:
        """Note a line that is a notification, where no server is to be told of it. False: it is something else."""
        request_id, method, message = _request_in(line)
        if method is None or request_id is not None or "id" in message:
            return False
        self.note_from_client(line)
        return True

    def note_from_server(self, line: bytes) -> bytes:
        """Note a line of the server. What the client shall see instead of it: most often the line itself."""
        if line.startswith(_SERVER_NOTIFICATION):
            told = self._following.acknowledged(_parsed(line)) if line.startswith(ACKNOWLEDGED) else None
            return line if told is None else told
        found = _HEAD.match(line)
        if found is not None:
            answered = None if found[2] == b"method" else _usable_id(json.loads(found[1]))
        else:
            answered = self._answered_by(_parsed(line))
        if answered == self._initialize_id and (self._replayed or self.awaits_initialize):
            return self._initialize_answered(line)
        if answered is not None and self._following.awaits(answered):
            return self._follow_answered(answered, line)
        self._close(answered)
        return b"" if self.refusal is not None else line

    def _initialize_answered(self, line: bytes) -> bytes:
        answer = _parsed(line)
        self._following.note_initialized(fields(answer.get("result")))
        if not self._replayed:
            self._close(self._initialize_id)
            return line
        self._replayed = False
        if "error" in answer:
            self._tell(f"The restarted server refuses the handshake: {fields(answer['error']).get('message')}")
        return b"" if self._initialized is None else self._following.lists_may_have_changed()

    def _follow_answered(self, request_id: Id, line: bytes) -> bytes:
        told = self._following.answered(request_id, _parsed(line))
        if not self._following.is_stream(request_id):
            self._open.pop(request_id, None)
        return line if told is None else told

    def _close(self, request_id: Id | None) -> None:
        if request_id is not None:
            self._open.pop(request_id, None)
            self._following.close(request_id)

    def _answered_by(self, message: dict[str, Any]) -> Id | None:
        error = fields(message.get("error"))
        if message.get("id") is None and error.get("code") == REFUSED:
            self.refusal = str(error.get("message"))
        return None if "method" in message else _usable_id(message.get("id"))

    def answer_all(self, text: str, *, last: bool = False) -> bytes:
        """The lines that answer every open request with an error, and close them.

        What the next server can go on with stays open, unless this was the `last` one: the handshake and streams.
        """
        closed = [
            request_id for request_id, method in self._open.items() if last or method not in ("initialize", LISTEN)
        ]
        for request_id in closed:
            self._close(request_id)
        return b"".join(_error_line(request_id, text) for request_id in closed)

    def replay(self) -> list[bytes]:
        """The lines that open the conversation with another server. Answers given before will be swallowed."""
        self._replayed = self._initialize is not None and not self.awaits_initialize
        handshake = [line for line in (self._initialize, self._initialized) if line is not None]
        return handshake + self._following.replay()


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
        return fields(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def _usable_id(value: object) -> Id | None:
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _error_line(request_id: Id, text: str) -> bytes:
    error = {"code": RESTARTED, "message": text}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"
