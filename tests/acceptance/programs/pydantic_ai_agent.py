"""The tour with Pydantic AI: an agent whose model is a script makes the calls. See tour.py."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from fastmcp.client import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


async def main(door: dict[str, Any], era: str, session_id: str) -> dict[str, Any]:
    target = StreamableHttpTransport(**door) if "url" in door else StdioTransport(**door)
    client = Client(target, mode="auto" if era == "modern" else "legacy")
    toolset = MCPToolset(client, tool_error_behavior="error")
    seen: dict[str, Any] = {}
    calls = [
        ToolCallPart("create_session", {"session_id": session_id, "title": "From an agent"}),
        ToolCallPart("delegate_task", {"agent": "echo", "description": "hello", "session_id": session_id, "wait": 20}),
    ]
    answers: list[Any] = []

    def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen["tools"] = [tool.name for tool in info.function_tools]
        answers.extend(part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart))
        return ModelResponse(parts=[calls.pop(0) if calls else TextPart("done")])

    async with toolset:
        seen["protocol"] = client.protocol_version
        await Agent(FunctionModel(script), toolsets=[toolset]).run("Go.")
        seen["created"], seen["task"] = answers
        try:
            await toolset.direct_call_tool("get_task", {"task_id": "no_such_task"})
        except ToolError:
            seen["is_error"] = True
        seen["resources"] = [resource.uri for resource in await toolset.list_resources()]
        seen["templates"] = [template.uri_template for template in await toolset.list_resource_templates()]
        seen["read"] = json.loads(await toolset.read_resource(f"session://{session_id}"))
        seen["prompts"] = [prompt.name for prompt in await toolset.list_prompts()]
        recap = await toolset.get_prompt("recap", {"session_id": session_id})
        seen["recap"] = str(recap)
    return seen


print(json.dumps(asyncio.run(main(**json.loads(sys.argv[1])))))
