"""`/mcp` before the SDK has it: the whole body is read here, a session belongs to who opened it, refusals are clear."""

from __future__ import annotations

import json
from typing import Any, cast

import anyio
import pydantic_core
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_server.callers import CALLER_KEY, Caller
from mcp_server.errors import TooLargeError
from mcp_server.web.responses import problem_response, refusal

BODY_LIMIT_BYTES = 8 * 1024 * 1024
SILENCE_SECONDS = 30.0
"""How long a sender may pause in the middle of a body."""

_ANSWERS = "application/json, text/event-stream"


class McpEndpoint:
    """Around the SDK's app. Whoever is not known does not come here."""

    def __init__(
        self, app: ASGIApp, *, limit_bytes: int = BODY_LIMIT_BYTES, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._silence_seconds = silence_seconds
        self._open: set[tuple[str, str, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # httptools keeps the blanks after a value, which are no part of it (RFC 9110, 5.5).
        scope = {**scope, "headers": [(name, value.strip(b" \t")) for name, value in scope["headers"]]}
        body = await self._read(scope, receive)
        if body is None:
            return  # nobody is there to be answered
        if isinstance(body, Response):
            await body(scope, receive, send)
            return
        owner = _owner(scope[CALLER_KEY])
        checked = self._check(scope, body, owner)
        if isinstance(checked, Response):
            await checked(scope, receive, send)
            return
        if checked is not None:
            self._open.add(checked)
        try:
            await self._app({**scope, "user": owner}, _replay(body, receive), _explaining(scope, send))
        finally:
            if checked is not None:
                self._open.discard(checked)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Response | None:
        """The body, or why it is refused; None where the caller has gone."""
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > self._limit_bytes):
            return self._too_large()
        body = bytearray()
        while True:
            try:
                with anyio.fail_after(self._silence_seconds):
                    message = await receive()
            except TimeoutError:
                late = refusal(408, "The rest of the body did not come.", field="body", fix="Send all of it at once.")
                late.headers["Connection"] = "close"
                return late
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._limit_bytes:
                return self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> Response:
        message = f"The body is larger than {self._limit_bytes} bytes."
        return problem_response(TooLargeError(message, field="body", fix="Send less at once."))

    def _check(self, scope: Scope, body: bytes, owner: AuthenticatedUser) -> Response | tuple[str, str, str] | None:
        """What the SDK would refuse without a clear word, or not at all; else the request that this opens in a session.

        Only in the handshake era, which has sessions: of the newer one the SDK reads and checks all of this itself.
        """
        if scope["method"] != "POST":
            return None
        headers = Headers(scope=scope)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            fix = "Send Content-Type: application/json."
            return refusal(415, "The body must be JSON.", field="Content-Type", fix=fix)
        version = headers.get("mcp-protocol-version")
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return None
        try:
            message: Any = pydantic_core.from_json(body)
        except ValueError as error:
            return _json_rpc_refusal(-32700, f"The body is not JSON: {error}.")
        if (wrong := _what_is_wrong(message)) is not None:
            return _json_rpc_refusal(-32600, wrong)
        session = headers.get("mcp-session-id")
        if session is None or "id" not in message or "method" not in message:
            return None
        opened = (owner.username, session, str(message["id"]))
        if opened in self._open:
            # The SDK would take it for the first one, which would wait for its answer for ever.
            return _json_rpc_refusal(-32600, "A request with this id is open in this session; choose another id.")
        return opened


def _what_is_wrong(message: object) -> str | None:
    """With a message of the handshake era, beyond what the method itself will say."""
    if isinstance(message, list):
        return "Send one JSON-RPC message at a time; batches are not part of MCP."
    if not isinstance(message, dict):
        return "The body must be one JSON-RPC message: an object."
    given = cast("dict[str, Any]", message)
    if given.get("jsonrpc") != "2.0":
        return 'The body must be one JSON-RPC message, with "jsonrpc": "2.0".'
    if "method" in given and not isinstance(given["method"], str):
        return "The method must be a string."
    if (
        "method" in given
        and "id" in given
        and (isinstance(given["id"], bool) or not isinstance(given["id"], str | int))
    ):
        return "The id of a request must be a string or a whole number."
    if not isinstance(given.get("params", {}), dict):
        return "The params must be an object."
    if not given.keys() & {"method", "result", "error"}:
        return "A request needs a method."
    return None


def _json_rpc_refusal(code: int, message: str) -> Response:
    content = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return Response(json.dumps(content), 400, media_type="application/json")


def _owner(caller: Caller) -> AuthenticatedUser:
    """Whom a session of the handshake era belongs to: for any other key there is no such session."""
    return AuthenticatedUser(AccessToken(token="", client_id=caller.key_id or caller.name, scopes=[]))


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def _explaining(scope: Scope, send: Send) -> Send:
    """The SDK gives some refusals as a status alone; this adds the words."""
    replaced = False

    async def explain(message: Message) -> None:
        nonlocal replaced
        if message["type"] == "http.response.start" and (refused := _in_words(scope, message)) is not None:
            replaced = True
            await refused(scope, _nothing_more, send)
        elif not replaced:
            await send(message)

    return explain


def _in_words(scope: Scope, start: Message) -> Response | None:
    headers = Headers(raw=start["headers"])
    if start["status"] not in (405, 406) or "content-type" in headers:
        return None
    if start["status"] == 406:
        return refusal(406, f"Answers come as {_ANSWERS}.", field="Accept", fix=f"Send Accept: {_ANSWERS}.")
    message = f"In this protocol version /mcp does not take {scope['method']}."
    response = refusal(405, message, field="method", fix="Send a POST.")
    response.headers["Allow"] = headers.get("allow", "POST")
    return response


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}
