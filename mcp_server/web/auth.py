"""Who is calling over HTTP: an API key over TCP, the user at the desk over the unix socket."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server.callers import CALLER_KEY, DESK, Caller
from mcp_server.errors import UnauthenticatedError
from mcp_server.keys import Keys
from mcp_server.web.responses import problem_response

TOKEN_LIMIT_CHARACTERS = 512


class DeskDoor:
    """Around the app of the unix socket: its peer was checked when it connected, so this is the user."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALLER_KEY] = DESK
        await self._app(scope, receive, send)


class KeyDoor:
    """Around what needs a caller: lets the desk pass, and over TCP whoever has a living key."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and CALLER_KEY not in scope:
            caller = await self._known(Headers(scope=scope))
            if caller is None:
                error = UnauthenticatedError(
                    "This needs an API key.",
                    field="Authorization",
                    fix="Send Authorization: Bearer KEY. Make a key on the machine: offhand key create NAME.",
                )
                response = problem_response(error)
                response.headers["WWW-Authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
            scope[CALLER_KEY] = caller
        await self._app(scope, receive, send)

    async def _known(self, headers: Headers) -> Caller | None:
        scheme, _, token = headers.get("authorization", "").strip().partition(" ")
        tokens = {token.strip()} if scheme.lower() == "bearer" else set[str]()
        if "x-api-key" in headers:
            tokens.add(headers["x-api-key"].strip())
        if len(tokens) != 1:
            return None
        (token,) = tokens
        return await self._keys.authenticate(token) if 0 < len(token) <= TOKEN_LIMIT_CHARACTERS else None
