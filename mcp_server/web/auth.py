"""Who is calling over HTTP: an API key over TCP, the user at the desk over the unix socket."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server.callers import CALLER_KEY, DESK, Caller
from mcp_server.errors import UnauthenticatedError
from mcp_server.keys import DEFAULT_SCOPES, Keys
from mcp_server.settings import is_loopback
from mcp_server.web.hosts import read_host, read_origin
from mcp_server.web.responses import problem_response

TOKEN_LIMIT_CHARACTERS = 512
LOOPBACK = Caller("phone", "loopback", frozenset(DEFAULT_SCOPES))
"""Who comes without a key while `mcp_auth` is off: anybody on this machine, so no more than a phone."""

_FORWARDED = frozenset(
    {
        "cdn-loop",
        "client-ip",
        "fastly-client-ip",
        "forwarded",
        "forwarded-for",
        "proxy-connection",
        "true-client-ip",
        "via",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-host",
        "x-real-ip",
    }
)
_FORWARDED_PREFIXES = (
    "cf-",
    "fly-",
    "ngrok-",
    "tailscale-",
    "x-amz",
    "x-azure-",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    "x-proxy",
)


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
            headers = Headers(scope=scope)
            caller = await self._known(headers)
            if caller is None:
                await _unauthenticated("This needs an API key.", headers)(scope, receive, send)
                return
            scope[CALLER_KEY] = caller
        await self._app(scope, receive, send)

    async def _known(self, headers: Headers) -> Caller | None:
        tokens = {value.strip() for value in headers.getlist("x-api-key")}
        for value in headers.getlist("authorization"):
            scheme, _, token = value.strip().partition(" ")
            if scheme.lower() == "bearer":
                tokens.add(token.strip())
        if len(tokens) != 1:
            return None
        (token,) = tokens
        return await self._keys.authenticate(token) if 0 < len(token) <= TOKEN_LIMIT_CHARACTERS else None


class LoopbackDoor:
    """Around a KeyDoor while `mcp_auth` is off: who calls directly from this machine, and gives no key, is let in.

    A key that is given is looked at all the same. A request that anything passed on is not direct.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and CALLER_KEY not in scope:
            headers = Headers(scope=scope)
            if not _gives_key(headers):
                if not _is_direct(scope, headers):
                    message = "Without an API key only direct callers on this machine are let in."
                    await _unauthenticated(message, headers)(scope, receive, send)
                    return
                scope[CALLER_KEY] = LOOPBACK
        await self._app(scope, receive, send)


def _is_direct(scope: Scope, headers: Headers) -> bool:
    """Whether the other end of the connection is on this machine, and nothing says that it speaks for another."""
    # uvicorn puts a forwarded address there, but only out of a header that is refused here.
    client: tuple[str, int] | None = scope.get("client")
    hosts = [read_host(value) for value in headers.getlist("host")]
    origins = [read_origin(value) for value in headers.getlist("origin")]
    return (
        client is not None
        and is_loopback(client[0])
        and not any(name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES) for name in headers)
        and len(hosts) == 1
        and all(host is not None and is_loopback(host[0]) for host in hosts)
        and all(origin is not None and is_loopback(origin[1]) for origin in origins)
    )


def _gives_key(headers: Headers) -> bool:
    return "authorization" in headers or "x-api-key" in headers


def _unauthenticated(message: str, headers: Headers) -> Response:
    error = UnauthenticatedError(
        message,
        field="Authorization",
        fix="Send Authorization: Bearer KEY. Make a key on the machine: offhand key create NAME.",
    )
    response = problem_response(error)
    wrong = ', error="invalid_token"' if _gives_key(headers) else ""
    response.headers["WWW-Authenticate"] = f'Bearer realm="offhand"{wrong}'
    return response
