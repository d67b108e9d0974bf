"""The tour with the OpenAI Agents SDK: an agent whose model is a script makes the calls. See tour.py."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, ModelResponse, RunConfig, Runner, Usage
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
from agents.models.interface import Model
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText


class Script(Model):
    """A model that makes these calls, one after the other, and keeps what it was given."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self._calls = list(calls)
        self.tools: list[str] = []
        self.answers: list[Any] = []

    async def get_response(self, *, input: Any, tools: Any, **named: Any) -> ModelResponse:
        self.tools = [tool.name for tool in tools]
        last = input[-1] if isinstance(input, list) else {}
        if last.get("type") == "function_call_output":
            self.answers.append(last["output"])
        if self._calls:
            name, arguments = self._calls.pop(0)
            call = ResponseFunctionToolCall(
                type="function_call", call_id=name, name=name, arguments=json.dumps(arguments)
            )
            return ModelResponse(output=[call], usage=Usage(), response_id=None)
        text = ResponseOutputText(type="output_text", text="done", annotations=[])
        message = ResponseOutputMessage(id="end", type="message", role="assistant", status="completed", content=[text])
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *given: Any, **named: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


async def main(door: dict[str, Any], era: str, session_id: str) -> dict[str, Any]:
    options: dict[str, Any] = {"params": door, "use_structured_content": True, "client_session_timeout_seconds": 60}
    script = Script(
        ("create_session", {"session_id": session_id, "title": "From an agent"}),
        ("delegate_task", {"agent": "echo", "description": "hello", "session_id": session_id, "wait": 20}),
    )
    seen: dict[str, Any] = {}
    async with MCPServerStreamableHttp(**options) if "url" in door else MCPServerStdio(**options) as server:
        seen["protocol"] = server.session.protocol_version
        agent = Agent(name="Tourist", model=script, mcp_servers=[server])
        await Runner.run(agent, "Go.", run_config=RunConfig(tracing_disabled=True))
        seen["tools"] = script.tools
        seen["created"], seen["task"] = [json.loads(answer) for answer in script.answers]
        seen["is_error"] = (await server.call_tool("get_task", {"task_id": "no_such_task"})).is_error
        seen["resources"] = [str(resource.uri) for resource in (await server.list_resources()).resources]
        templates = (await server.list_resource_templates()).resource_templates
        seen["templates"] = [template.uri_template for template in templates]
        seen["read"] = json.loads((await server.read_resource(f"session://{session_id}")).contents[0].text)
        seen["prompts"] = [prompt.name for prompt in (await server.list_prompts()).prompts]
        recap = await server.get_prompt("recap", {"session_id": session_id})
        seen["recap"] = recap.messages[0].content.text
    return seen


print(json.dumps(asyncio.run(main(**json.loads(sys.argv[1])))))
