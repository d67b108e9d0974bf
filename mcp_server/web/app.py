"""One ASGI app for every HTTP door: `/mcp`, `/webhook`, `/tasks/…`, `/api`, health, and the docs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from sse_starlette import sse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_server.errors import NotFoundError
from mcp_server.release import release
from mcp_server.runtime import Runtime
from mcp_server.server import build_server
from mcp_server.web.api import api_routes
from mcp_server.web.approvals import approval_routes
from mcp_server.web.auth import KeyDoor, LoopbackDoor
from mcp_server.web.control import control_routes
from mcp_server.web.hosts import HostDoor
from mcp_server.web.ledger import StoreLedger
from mcp_server.web.mcp_endpoint import BODY_LIMIT_BYTES, McpEndpoint
from mcp_server.web.responses import json_response, problem_response, refusal
from relay_adapter.inflight import InFlight
from relay_adapter.relay import build_routes
from relay_adapter.settings import RelaySettings

SESSION_IDLE_SECONDS = 30 * 60.0
"""After so long without a request and without an open stream, a session of the older era is forgotten."""


@asynccontextmanager
async def open_app(
    runtime: Runtime, *, session_idle_seconds: float = SESSION_IDLE_SECONDS
) -> AsyncGenerator[tuple[ASGIApp, MCPServer[None]]]:
    """The app and the MCP server behind it, ready to be served; both end with the context."""
    server = build_server(runtime)
    server.streamable_http_app(  # makes the session manager; its routes are ours to lay
        max_request_body_size=BODY_LIMIT_BYTES,
        session_idle_timeout=session_idle_seconds,
        # HostDoor does it: it knows the address of the connection, and its refusals say what to set.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    _keep_sse_quiet()
    async with server.session_manager.run(), Client(server) as client:
        await client.list_tools()  # else the first call of a tool would ask for the list in between
        in_flight = InFlight()
        try:
            yield _build(runtime, server, client, in_flight), server
        finally:
            await in_flight.aclose()


def _keep_sse_quiet() -> None:
    """sse-starlette would look twice a second, for good, whether a server is stopping. Ours ends its streams itself."""
    sse._get_shutdown_state().watcher_started = True  # pyright: ignore[reportPrivateUsage]


def _build(runtime: Runtime, server: MCPServer[None], client: Client, in_flight: InFlight) -> ASGIApp:
    settings = runtime.settings
    relay = RelaySettings(
        public_url=str(settings.public_url).rstrip("/") if settings.public_url else None,
        default_agent=settings.default_agent,
    )
    mcp: ASGIApp = KeyDoor(McpEndpoint(StreamableHTTPASGIApp(server.session_manager)), runtime.keys)
    if settings.mcp_auth == "off":
        mcp = LoopbackDoor(mcp)
    unknown: Any = {"exception_handlers": {404: _not_found, 405: _wrong_method}}
    routes = [*api_routes(runtime.keys), *approval_routes(runtime.approvals), *control_routes(runtime)]
    api = Starlette(routes=routes, **unknown)
    app = Starlette(
        routes=[
            Route("/healthz", _alive),
            Route("/readyz", _alive),
            Route("/mcp", HostDoor(mcp, settings)),
            Mount("/api", HostDoor(KeyDoor(api, runtime.keys), settings)),
            *build_routes(client, StoreLedger(runtime), relay, in_flight=in_flight),
        ],
        **unknown,
    )
    prefix = (settings.public_url.path or "").rstrip("/") if settings.public_url else ""
    return _Prefixed(app, prefix) if prefix else app


class _Prefixed:
    """Around the app where the public address has a path: a proxy takes it away, or passes it on."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{self._prefix}/"):
            scope["root_path"] = self._prefix
        await self._app(scope, receive, send)


async def _alive(request: Request) -> Response:
    """The server is made ready before it listens, so that both questions have one answer."""
    return json_response({"status": "ok", "version": release()})


async def _not_found(request: Request, error: Exception) -> Response:
    return problem_response(
        NotFoundError("There is nothing at this address.", field="path", fix="See /docs for what there is.")
    )


async def _wrong_method(request: Request, error: Exception) -> Response:
    message = f"This address does not take {request.method}."
    response = refusal(405, message, field="method", fix="See the Allow header.")
    response.headers.update(getattr(error, "headers", None) or {})
    return response
