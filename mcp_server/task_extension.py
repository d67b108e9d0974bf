"""The Tasks extension (SEP-2663) of protocol version 2026-07-28: a handle to follow instead of a call that waits."""

from __future__ import annotations

from typing import Any

from mcp.server.extension import Extension

from mcp_server.runtime import Runtime
from mcp_server.tools.tasks import TaskTools

TASKS = "io.modelcontextprotocol/tasks"


class TaskExtension(Extension):
    """Our tasks, as the extension sees them."""

    identifier = TASKS

    def __init__(self, runtime: Runtime, tools: TaskTools) -> None:
        self._runtime = runtime
        self._tools = tools

    async def detailed(self, task_id: str) -> dict[str, Any]:
        """The task as `tasks/get` and `notifications/tasks` show it. Raises NotFoundError, InvalidError."""
        raise NotImplementedError
