"""The tour with the client of the official Python SDK; see tour.py for what is asked."""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import PromptReference, ResourceUpdatedNotification


async def main(door: dict[str, Any], era: str, session_id: str) -> dict[str, Any]:
    told = asyncio.get_running_loop().create_future()

    async def hear(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification) and not told.done():
            told.set_result(message.params.uri)

    http = httpx2.AsyncClient(headers=door.get("headers"), timeout=60)
    target = streamable_http_client(door["url"], http_client=http) if "url" in door else StdioServerParameters(**door)
    seen: dict[str, Any] = {}
    mode = "auto" if era == "modern" else "legacy"
    async with http, Client(target, mode=mode, message_handler=hear) as client:
        seen["protocol"] = client.protocol_version
        seen["server"] = client.server_info.name if client.server_info else None

        async def call(name: str, **arguments: Any) -> Any:
            return (await client.call_tool(name, arguments)).structured_content

        seen["tools"] = [tool.name for tool in (await client.list_tools()).tools]
        seen["created"] = await call("create_session", session_id=session_id, title="From Python")
        seen["task"] = await call("delegate_task", agent="echo", description="hello", session_id=session_id, wait=20)
        seen["is_error"] = (await client.call_tool("get_task", {"task_id": "no_such_task"})).is_error

        uri = f"session://{session_id}"
        seen["resources"] = [resource.uri for resource in (await client.list_resources()).resources]
        templates = (await client.list_resource_templates()).resource_templates
        seen["templates"] = [template.uri_template for template in templates]
        seen["read"] = json.loads((await client.read_resource(uri)).contents[0].text)
        seen["prompts"] = [prompt.name for prompt in (await client.list_prompts()).prompts]
        recap = await client.get_prompt("recap", {"session_id": session_id})
        seen["recap"] = recap.messages[0].content.text
        argument = {"name": "session_id", "value": session_id[:-1]}
        completed = await client.complete(PromptReference(type="ref/prompt", name="recap"), argument)
        seen["completion"] = completed.completion.values

        if era == "modern":
            async with client.listen(resource_subscriptions=[uri]) as events:
                await call("update_session", session_id=session_id, status="paused")
                seen["told"] = (await anext(aiter(events))).uri
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns that the newer protocol has another way
                await client.subscribe_resource(uri)
            await call("update_session", session_id=session_id, status="paused")
            seen["told"] = await told
    return seen


print(json.dumps(asyncio.run(main(**json.loads(sys.argv[1])))))
