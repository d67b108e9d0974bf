"""What a client follows: it is subscribed to again at the next server, and told of what it may have missed.

In the older era that are URIs (`resources/subscribe`) and the lists that the server said would be told of; in
the newer one the streams of `subscriptions/listen`, which stay open. Standard library only.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Id = int | str

LISTEN = "subscriptions/listen"
SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"

ACKNOWLEDGED = b'{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"'
"""How the first line begins that a server sends on a stream."""

CLOSING = -32000
"""Error code of a server that ends and leaves a request unanswered."""

_SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
_OURS = "offhand-mcp:"
_LISTS = {
    "resourcesListChanged": "notifications/resources/list_changed",
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
}


class _Stream:
    """An open `subscriptions/listen`: its request word for word, and what the first server promised to tell."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.promised: dict[str, Any] | None = None


class Following:
    """`tell` is called with what the user should know and the client cannot be told."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._streams: dict[Id, _Stream] = {}
        self._uris: dict[str, None] = {}
        self._asked: dict[Id, str] = {}
        self._lists: list[str] = []
        self._replayed: dict[Id, str] = {}

    def __bool__(self) -> bool:
        return bool(self._streams or self._uris or self._lists)

    def note_initialized(self, result: dict[str, Any]) -> None:
        """Note what a server said of itself in the handshake."""
        told = fields(result.get("capabilities"))
        self._lists = [
            method for method in _LISTS.values() if fields(told.get(method.split("/")[1])).get("listChanged") is True
        ]

    def note_request(self, request_id: Id, method: str, params: dict[str, Any], line: bytes) -> None:
        """Note a request of the client."""
        uri = params.get("uri")
        if method == LISTEN:
            self._streams[request_id] = _Stream(line)
        elif method == SUBSCRIBE and isinstance(uri, str):
            self._asked[request_id] = uri
        elif method == UNSUBSCRIBE and isinstance(uri, str):
            self._uris.pop(uri, None)

    def close(self, request_id: Id) -> None:
        """The client has cancelled the request, or was told that it is over."""
        self._streams.pop(request_id, None)
        self._asked.pop(request_id, None)

    def is_stream(self, request_id: Id) -> bool:
        return request_id in self._streams

    def awaits(self, request_id: Id) -> bool:
        """Whether an answer of that id was asked for by us, or tells whether the client follows something."""
        return request_id in self._replayed or request_id in self._streams or request_id in self._asked

    def answered(self, request_id: Id, answer: dict[str, Any]) -> bytes | None:
        """Note the answer to a request that is awaited. The lines for the client; None: the answer as it is."""
        if request_id in self._replayed:
            return self._replay_answered(self._replayed.pop(request_id), answer)
        refused = "error" in answer
        if (uri := self._asked.pop(request_id, None)) is not None:
            if not refused:
                self._uris[uri] = None
            return None
        if refused and fields(answer["error"]).get("code") != CLOSING:
            del self._streams[request_id]
            return None
        # The server ends, which is no reason for the stream to end: the next server goes on with it.
        return b""

    def acknowledged(self, message: dict[str, Any]) -> bytes | None:
        """Note that a server follows for a stream. The lines for the client; None: this one as it is."""
        params = fields(message.get("params"))
        stream_id = fields(params.get("_meta")).get(_SUBSCRIPTION_ID)
        promised = fields(params.get("notifications"))
        stream = self._streams.get(stream_id) if isinstance(stream_id, int | str) else None
        if stream is None or stream_id is None:
            return None
        if stream.promised is None:
            stream.promised = promised
            return None
        for uri in set(_strings(stream.promised, "resourceSubscriptions")) - set(
            _strings(promised, "resourceSubscriptions")
        ):
            self._tell(f"The restarted server cannot follow {uri} any more.")
        return _may_have_changed(stream.promised, stream_id)

    def replay(self) -> list[bytes]:
        """The requests that ask another server for all of it. Their answers are kept from the client."""
        # Tasks that a stream follows are shown by the server at once, as they are now.
        self._replayed = {f"{_OURS}{number}": uri for number, uri in enumerate(self._uris)}
        subscribed = [
            _line({"jsonrpc": "2.0", "id": request_id, "method": SUBSCRIBE, "params": {"uri": uri}})
            for request_id, uri in self._replayed.items()
        ]
        return subscribed + [stream.line for stream in self._streams.values()]

    def lists_may_have_changed(self) -> bytes:
        """The lines that tell a client of the older era so."""
        return b"".join(_notification(method, {}) for method in self._lists)

    def _replay_answered(self, uri: str, answer: dict[str, Any]) -> bytes:
        if uri not in self._uris:
            return b""
        if error := fields(answer.get("error")):
            self._tell(f"The restarted server does not follow {uri}: {error.get('message')}")
            if error.get("code") != CLOSING:
                del self._uris[uri]
        # Also where it was refused: then there is nothing to read any more, and the client finds out.
        return _notification("notifications/resources/updated", {"uri": uri})


def _may_have_changed(promised: dict[str, Any], stream_id: Id) -> bytes:
    meta = {"_meta": {_SUBSCRIPTION_ID: stream_id}}
    lists = [_notification(method, meta) for name, method in _LISTS.items() if promised.get(name) is True]
    return b"".join(lists) + b"".join(
        _notification("notifications/resources/updated", {"uri": uri} | meta)
        for uri in _strings(promised, "resourceSubscriptions")
    )


def _notification(method: str, params: dict[str, Any]) -> bytes:
    return _line({"jsonrpc": "2.0", "method": method} | ({"params": params} if params else {}))


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def fields(value: Any) -> dict[str, Any]:
    """`value`, where it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _strings(fields: dict[str, Any], name: str) -> list[str]:
    value: Any = fields.get(name)
    return [str(item) for item in value] if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
