"""What a user can pick from a menu to begin with."""

from __future__ import annotations

from typing import Any

from mcp.server import MCPServer

from mcp_server.runtime import Runtime


class Prompts:
    """Made from what the store holds."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def add_to(self, server: MCPServer[Any]) -> None:
        """Serve `prompts/list` and `prompts/get`."""
