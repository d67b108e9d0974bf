"""The MCP server over a runtime: the same for every transport."""

from __future__ import annotations

from mcp.server.caching import CacheHint
from mcp.server.mcpserver import MCPServer
from mcp_types.methods import CacheableMethod

from mcp_server.instructions import INSTRUCTIONS
from mcp_server.prompts import Prompts
from mcp_server.protocol import admitted
from mcp_server.release import release
from mcp_server.resources.serve import Resources
from mcp_server.runtime import Runtime
from mcp_server.subscriptions import Subscriptions
from mcp_server.task_extension import TaskExtension
from mcp_server.tools.door import ToolSpec
from mcp_server.tools.progress import Progress
from mcp_server.tools.search import SearchTools
from mcp_server.tools.sessions import SessionTools
from mcp_server.tools.tasks import TaskTools

FIXED_LISTS: tuple[CacheableMethod, ...] = ("tools/list", "prompts/list", "resources/templates/list")
"""They do not change while a server lives."""


def tool_specs(runtime: Runtime) -> list[ToolSpec]:
    """Every tool, in the order that clients list them. A name that stands twice raises."""
    specs = [
        *SessionTools(runtime.sessions, runtime.conversations, runtime.memories, runtime.artifacts).specs(),
        *SearchTools(runtime.search, runtime.conversations, runtime.memories, runtime.artifacts, runtime.tasks).specs(),
        *task_tools(runtime).specs(),
    ]
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise ValueError("A tool's name stands twice.")
    return specs


def task_tools(runtime: Runtime) -> TaskTools:
    """The task tools over `runtime`."""
    public_url = str(runtime.settings.public_url).rstrip("/") if runtime.settings.public_url else None
    progress = Progress(runtime.live, runtime.tasks, runtime.worker.attempts)
    return TaskTools(
        runtime.tasks, runtime.delegation, runtime.approvals, runtime.worker, progress, runtime.now, public_url
    )


def build_server(runtime: Runtime) -> MCPServer[None]:
    """The server with all tools, resources and prompts."""
    task_extension = TaskExtension(runtime, task_tools(runtime))
    resources = Resources(runtime)
    server = MCPServer[None](
        name="offhand",
        title="Offhand",
        version=release(),
        instructions=INSTRUCTIONS,
        tools=[spec.tool() for spec in tool_specs(runtime)],
        extensions=[task_extension],
        middleware=[admitted],
        cache_hints=dict.fromkeys(FIXED_LISTS, CacheHint(ttl_ms=60_000, scope="public")),
        log_level="WARNING",
    )
    resources.add_to(server)
    Prompts(runtime).add_to(server)
    Subscriptions(runtime.live, resources, task_extension.detailed).add_to(server)
    return server
