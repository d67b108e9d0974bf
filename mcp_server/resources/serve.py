"""The resources of a server: read, listed page by page, and completed."""

from __future__ import annotations

from typing import Any, Final

from mcp.server import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CompleteRequestParams,
    CompleteResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
)

from mcp_server.callers import current_caller
from mcp_server.errors import InvalidError, NotFoundError
from mcp_server.policy import require_scope
from mcp_server.protocol import Context, handle, protocol_error
from mcp_server.resources.addresses import parse_address
from mcp_server.resources.completion import Completer
from mcp_server.resources.contents import Reader, schema
from mcp_server.resources.listing import Listing
from mcp_server.resources.templates import TEMPLATES
from mcp_server.runtime import Runtime

MODERN = "2026-07-28"

LEGACY_NOT_FOUND: Final = -32002
"""What a resource that is not there was in the older era; since then it is -32602, like every wrong argument."""


class Resources:
    """Reads the nouns for clients that follow addresses."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._reader = Reader(runtime)
        self._listing = Listing(runtime)
        self._completer = Completer(runtime)

    async def subject(self, uri: str) -> str:
        """The subject of events about the resource at `uri`, which exists; a task is named by its id.

        Raises:
            InvalidError, NotFoundError: there is no such resource.
        """
        address = parse_address(uri)
        match address.kind:
            case "task":
                task = await self._runtime.tasks.get(address.id, "uri")
                return f"task://{task.id}{'/output' if address.part else ''}"
            case "session" | "memory" | "artifact":
                if not await self._runtime.catalogue.has(address.kind, address.id):
                    raise NotFoundError(f"There is no such {address.kind}.", field="uri", fix="Look in resources/list.")
            case "agent":
                await self._reader.agent(address.id)
            case "schema":
                schema(address.id)
        return address.subject

    def add_to(self, server: MCPServer[Any]) -> None:
        """Serve `resources/list`, `resources/templates/list`, `resources/read` and completion of their arguments."""
        handle(server, "resources/list", PaginatedRequestParams, self._on_list)
        handle(server, "resources/templates/list", PaginatedRequestParams, self._on_templates)
        handle(server, "resources/read", ReadResourceRequestParams, self._on_read)
        handle(server, "completion/complete", CompleteRequestParams, self._on_complete)

    async def _on_list(self, ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        require_scope(current_caller(), "read")
        return await self._listing.page(params.cursor if params else None)

    async def _on_templates(self, ctx: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
        require_scope(current_caller(), "read")
        if params is not None and params.cursor is not None:
            raise InvalidError("That cursor is unknown.", field="cursor", fix="Leave it out: there is one page.")
        return ListResourceTemplatesResult(resource_templates=list(TEMPLATES))

    async def _on_read(self, ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        require_scope(current_caller(), "read")
        try:
            contents = await self._reader.read(parse_address(params.uri), params.uri)
        except NotFoundError as error:
            raise _not_found(error, params.uri, ctx.protocol_version) from error
        return ReadResourceResult(contents=[contents])

    async def _on_complete(self, ctx: Context, params: CompleteRequestParams) -> CompleteResult:
        require_scope(current_caller(), "read")
        found = await self._completer.complete(params.ref, params.argument.name, params.argument.value)
        return CompleteResult(completion=found)


def _not_found(error: NotFoundError, uri: str, protocol_version: str) -> MCPError:
    told = protocol_error(error)
    code = told.code if protocol_version >= MODERN else LEGACY_NOT_FOUND
    return MCPError(code=code, message=told.message, data={"uri": uri, **(told.data or {})})
