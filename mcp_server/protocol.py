"""What every MCP message passes on its way in, and the one way to the SDK's private low-level server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server import MCPServer
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import GET_STREAM_KEY
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST
from pydantic import BaseModel

from mcp_server.callers import CALLER_KEY, calling_as
from mcp_server.errors import InvalidError, NotFoundError, OffhandError, TooLargeError
from mcp_server.problems import problem

logger = logging.getLogger(__name__)

Context = ServerRequestContext[Any, Any]
"""Of one message."""

Handler = Callable[[Context, Any], Awaitable[HandlerResult]]


def lowlevel(server: MCPServer[Any]) -> Server[Any]:
    """The server under `server`: what MCPServer cannot express (paged lists, subscriptions) is added to this one."""
    return server._lowlevel_server  # pyright: ignore[reportPrivateUsage]


def handle(server: MCPServer[Any], method: str, params: type[BaseModel], handler: Handler) -> None:
    """Answer `method` by `handler`, in every protocol version that has it, instead of what the SDK would do."""
    lowlevel(server).add_request_handler(method, params, handler)


async def admitted(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Middleware: whoever calls is known to all that runs inside, and our errors become those of the protocol.

    Over HTTP the request says who is calling; elsewhere the door has said so already.
    """
    scope: dict[str, Any] = getattr(ctx.request, "scope", None) or {}
    try:
        if CALLER_KEY not in scope:
            return await call_next(ctx)
        with calling_as(scope[CALLER_KEY]):
            return await call_next(ctx)
    except OffhandError as error:
        raise protocol_error(error) from error


def protocol_error(error: OffhandError) -> MCPError:
    """`error` as JSON-RPC says it; `data` has the problem details, as every other door shows them."""
    if isinstance(error, InvalidError | NotFoundError | TooLargeError):
        code = INVALID_PARAMS
    else:
        code = INTERNAL_ERROR if type(error) is OffhandError else INVALID_REQUEST
    details = problem(error)
    return MCPError(code=code, message=details["say"], data=details)


def connection(ctx: Context) -> Connection:
    """Of the client that sent this message: in the older era it lasts, in the newer one there is one per request."""
    return ctx.session._connection  # pyright: ignore[reportPrivateUsage]


def can_reach(server: MCPServer[Any], client: Connection) -> bool:
    """Whether what is sent to `client` unasked reaches it now: over HTTP it is lost while no stream is open for it."""
    if client.session_id is None:
        return True
    session = server.session_manager._server_instances.get(client.session_id)  # pyright: ignore[reportPrivateUsage]
    return session is not None and GET_STREAM_KEY in session._request_streams  # pyright: ignore[reportPrivateUsage]


def wants_progress(ctx: Context) -> bool:
    """Whether the client asked to be told how its request goes on."""
    if "progress_token" in (ctx.meta or {}):
        return True
    # In memory there is no token: the client's own function is called.
    asked = ctx.session._request_outbound  # pyright: ignore[reportPrivateUsage]
    return getattr(getattr(asked, "_inner", asked), "_on_progress", None) is not None
