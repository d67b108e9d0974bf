"""Telling clients that something changed: `subscriptions/listen`, and `resources/subscribe` of the older era."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server import MCPServer

from mcp_server.live import Live
from mcp_server.resources.serve import Resources

TaskView = Callable[[str], Awaitable[dict[str, Any]]]


class Subscriptions:
    """The subscriptions of one server. `view` gives a task as `notifications/tasks` shows it."""

    def __init__(self, live: Live, resources: Resources, view: TaskView) -> None:
        self._live = live
        self._resources = resources
        self._view = view

    def add_to(self, server: MCPServer[Any]) -> None:
        """Serve every way of subscribing."""
