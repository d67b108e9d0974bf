"""One ASGI app for every HTTP door: `/mcp`, `/webhook`, `/tasks/…`, `/api`, health, and the docs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from mcp_server.errors import InvalidError, NotFoundError
from mcp_server.problems import problem
from mcp_server.release import release
from mcp_server.runtime import Runtime
from mcp_server.server import build_server
from mcp_server.web.api import api_routes
from mcp_server.web.auth import KeyDoor
from mcp_server.web.ledger import StoreLedger
from mcp_server.web.responses import json_response, problem_response
from relay_adapter.inflight import InFlight
from relay_adapter.relay import build_routes
from relay_adapter.settings import RelaySettings

MCP_BODY_LIMIT_BYTES = 8 * 1024 * 1024


@asynccontextmanager
async def open_app(runtime: Runtime) -> AsyncGenerator[tuple[ASGIApp, MCPServer[None]]]:
    """The app and the MCP server behind it, ready to be served; both end with the context."""
    server = build_server(runtime)
    server.streamable_http_app(  # makes the session manager; its routes are ours to lay
        max_request_body_size=MCP_BODY_LIMIT_BYTES,
        transport_security=_transport_security(runtime),
    )
    async with server.session_manager.run(), Client(server) as client:
        await client.list_tools()  # else the first call of a tool would ask for the list in between
        in_flight = InFlight()
        try:
            yield _build(runtime, server, client, in_flight), server
        finally:
            await in_flight.aclose()


def _build(runtime: Runtime, server: MCPServer[None], client: Client, in_flight: InFlight) -> Starlette:
    settings = runtime.settings
    relay = RelaySettings(
        public_url=str(settings.public_url).rstrip("/") if settings.public_url else None,
        default_agent=settings.default_agent,
    )
    mcp_endpoint = StreamableHTTPASGIApp(server.session_manager)
    unknown: Any = {"exception_handlers": {404: _not_found, 405: _wrong_method}}
    return Starlette(
        routes=[
            Route("/healthz", _alive),
            Route("/readyz", _alive),
            Route("/mcp", KeyDoor(mcp_endpoint, runtime.keys)),
            Mount("/api", KeyDoor(Starlette(routes=api_routes(runtime.keys), **unknown), runtime.keys)),
            *build_routes(client, StoreLedger(runtime), relay, in_flight=in_flight),
        ],
        **unknown,
    )


async def _alive(request: Request) -> Response:
    """The server is made ready before it listens, so that both questions have one answer."""
    return json_response({"status": "ok", "version": release()})


async def _not_found(request: Request, error: Exception) -> Response:
    return problem_response(
        NotFoundError("There is nothing at this address.", field="path", fix="See /docs for what there is.")
    )


async def _wrong_method(request: Request, error: Exception) -> Response:
    refused = InvalidError(f"This address does not take {request.method}.", field="method", fix="See the Allow header.")
    kind = {"status": 405, "type": "urn:offhand:problem:method-not-allowed", "title": "Method not allowed"}
    response = json_response(problem(refused) | kind, 405, "application/problem+json")
    response.headers.update(getattr(error, "headers", None) or {})
    return response


def _transport_security(runtime: Runtime) -> TransportSecuritySettings:
    """Which Host and Origin `/mcp` answers to: this machine by name, and the public address."""
    settings = runtime.settings
    hosts = ["127.0.0.1", "localhost", "[::1]"]
    if settings.host not in ("0.0.0.0", "::", "127.0.0.1", "::1"):
        hosts.append(settings.host)
    names = [each for host in hosts for each in (host, f"{host}:*")]
    origins = [f"http://{name}" for name in names]
    if settings.public_url:
        public = urlsplit(str(settings.public_url))
        names += [public.netloc, public.hostname or ""]
        origins.append(f"{public.scheme}://{public.netloc}")
    return TransportSecuritySettings(enable_dns_rebinding_protection=True, allowed_hosts=names, allowed_origins=origins)
