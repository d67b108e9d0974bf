"""The tour with the client of fastmcp; see tour.py for what is asked."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from mcp_types import PromptReference


async def main(door: dict[str, Any], era: str, session_id: str) -> dict[str, Any]:
    target = StreamableHttpTransport(**door) if "url" in door else StdioTransport(**door)
    seen: dict[str, Any] = {}
    async with Client(target, mode="auto" if era == "modern" else "legacy") as client:
        seen["protocol"] = client.protocol_version
        seen["server"] = client.server_info.name

        async def call(name: str, **arguments: Any) -> Any:
            return (await client.call_tool(name, arguments)).structured_content

        seen["tools"] = [tool.name for tool in await client.list_tools()]
        seen["created"] = await call("create_session", session_id=session_id, title="From fastmcp")
        seen["task"] = await call("delegate_task", agent="echo", description="hello", session_id=session_id, wait=20)
        missing = await client.call_tool("get_task", {"task_id": "no_such_task"}, raise_on_error=False)
        seen["is_error"] = missing.is_error

        # It follows every cursor: the whole list.
        seen["resources"] = [str(resource.uri) for resource in await client.list_resources()]
        seen["templates"] = [template.uri_template for template in await client.list_resource_templates()]
        seen["read"] = json.loads((await client.read_resource(f"session://{session_id}"))[0].text)
        seen["prompts"] = [prompt.name for prompt in await client.list_prompts()]
        recap = await client.get_prompt("recap", {"session_id": session_id})
        seen["recap"] = recap.messages[0].content.text
        argument = {"name": "session_id", "value": session_id[:-1]}
        seen["completion"] = (await client.complete(PromptReference(type="ref/prompt", name="recap"), argument)).values
    return seen


print(json.dumps(asyncio.run(main(**json.loads(sys.argv[1])))))
