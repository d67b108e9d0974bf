"""What our tools cost every client's context: `tools/list` in characters of compact JSON, and the instructions.

Beside the same tools with their schemas as pydantic writes them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from benchmarks.figures import Figure, Goal, Series, script
from benchmarks.processes import serving, temporary_folder
from benchmarks.wire import over_socket
from mcp_server.runtime import open_runtime
from mcp_server.server import tool_specs
from mcp_server.settings import Settings


def measure(quick: bool) -> list[Figure]:
    """Figures of the tool list; the same every time."""
    del quick
    with temporary_folder() as home, serving(home) as server, over_socket(server.mcp_socket) as lines:
        listed = lines.request("tools/list")
        instructions = lines.welcome["instructions"]
    tools = listed["tools"]
    schemas = asyncio.run(_schemas())
    plain = [tool | {"inputSchema": schemas[tool["name"]]} for tool in tools]
    largest = max(tools, key=_characters)
    return [
        Figure(
            f"tools/list, {len(tools)} tools",
            "characters",
            [_characters(listed)],
            [Goal("max", 16_000)],
            [Series("with pydantic's own schemas", [_characters(listed | {"tools": plain})])],
            note=f"the largest tool is {largest['name']} with {_characters(largest):,} characters",
        ),
        Figure("server instructions", "characters", [len(instructions)], [Goal("max", 2_000)]),
    ]


async def _schemas() -> dict[str, Any]:
    with temporary_folder() as home:
        async with open_runtime(Settings(home=home)) as runtime:
            return {spec.name: spec.arguments.model_json_schema() for spec in tool_specs(runtime)}


def _characters(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    script(measure)
