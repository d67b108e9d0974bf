"""The resources of a server: read, listed page by page, and completed."""

from __future__ import annotations

from typing import Any

from mcp.server import MCPServer

from mcp_server.resources.addresses import parse_address
from mcp_server.runtime import Runtime


class Resources:
    """Reads the nouns for clients that follow addresses."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def subject(self, uri: str) -> str:
        """The subject of events about the resource at `uri`, which exists; a task is named by its id.

        Raises:
            InvalidError, NotFoundError: there is no such resource.
        """
        address = parse_address(uri)
        if address.kind == "task":
            task = await self._runtime.tasks.get(address.id, "uri")
            return f"task://{task.id}{'/output' if address.part else ''}"
        return address.subject

    def add_to(self, server: MCPServer[Any]) -> None:
        """Serve `resources/list`, `resources/templates/list`, `resources/read` and completion of their arguments."""
