"""The tools that the conformance suite wants of a server with the Tasks extension, over our own wire code.

What our tasks never do is done here, so that the suite can see all of the wire: ask for input, and fail as a protocol
error. `python -m tests.acceptance.tasks_fixture_server PORT` serves on 127.0.0.1 without keys.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Any

from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver import Elicit, MCPServer, Resolve, require_client_extension
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, CallToolRequestParams, CallToolResult
from pydantic import BaseModel

from mcp_server.callers import Scope
from mcp_server.clock import now_us
from mcp_server.errors import NotFoundError
from mcp_server.protocol import Context, admitted
from mcp_server.task_extension import TASKS, TaskHandle, TaskWire, WireStatus, declares_tasks

NEEDS_TASKS = frozenset({"failing_job", "test_tool_with_task"})
"""Tools that cannot be called without the extension."""


@dataclass(eq=False)
class Job:
    """One call that goes on by itself."""

    id: str
    status: WireStatus = "working"
    created_at: int = field(default_factory=now_us)
    updated_at: int = field(default_factory=now_us)
    end: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    running: asyncio.Task[None] | None = None

    def move(self, status: WireStatus, **end: Any) -> None:
        self.status, self.updated_at, self.end = status, now_us(), end

    @property
    def handle(self) -> TaskHandle:
        return TaskHandle(self.id, self.status, f"It is {self.status}.", self.created_at, self.updated_at)

    async def ask(self, *questions: dict[str, Any]) -> list[Any]:
        """Put `questions` to the client; the answers in their order, when all of them are there."""
        keys = [secrets.token_urlsafe(8) for _ in questions]
        self.asked = dict(zip(keys, questions, strict=True))
        self.move("input_required")
        await self.answered.wait()
        self.move("working")
        return [self.answers[key] for key in keys]


_current: ContextVar[Job] = ContextVar("job")


class FixtureTasks(TaskWire):
    """Our wire code over calls in this process."""

    task_backed = frozenset({"slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input"})
    task_backed |= frozenset({"test_tool_with_task"})

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        if params.name in NEEDS_TASKS and not declares_tasks(ctx):
            require_client_extension(ctx, TASKS)
        return await super().intercept_tool_call(params, ctx, call_next)

    async def begin(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> TaskHandle | HandlerResult:
        if params.name == "test_tool_with_task" and not params.input_responses:
            return await call_next(ctx)  # asks before there is a task
        job = Job(secrets.token_urlsafe(16))
        self._jobs[job.id] = job
        job.running = asyncio.create_task(self._run(job, ctx, call_next))
        return job.handle

    async def detailed(self, task_id: str) -> dict[str, Any]:
        job = self._job(task_id)
        questions = {"inputRequests": job.asked} if job.status == "input_required" else {}
        return job.handle.wire() | questions | job.end

    async def cancel(self, task_id: str) -> None:
        job = self._job(task_id)
        assert job.running is not None
        if job.running.cancel():
            await asyncio.wait([job.running])
            job.move("cancelled")

    async def update(self, task_id: str, input_responses: Mapping[str, Any]) -> None:
        job = self._job(task_id)
        for key in input_responses.keys() & job.asked.keys():
            del job.asked[key]
            job.answers[key] = input_responses[key]
            if not job.asked:
                job.answered.set()

    def check(self, scope: Scope) -> None:
        pass

    def _job(self, task_id: str) -> Job:
        if task_id not in self._jobs:
            raise NotFoundError("There is no such task.", field="taskId")
        return self._jobs[task_id]

    async def _run(self, job: Job, ctx: Context, call_next: CallNext) -> None:
        _current.set(job)
        try:
            result = await call_next(ctx)
        except MCPError as error:
            job.move("failed", error=error.error.model_dump(mode="json", exclude_none=True))
        else:
            assert isinstance(result, CallToolResult)
            job.move("completed", result=result.model_dump(by_alias=True, mode="json", exclude_none=True))


class Name(BaseModel):
    name: str


async def ask_name() -> Elicit[Name]:
    return Elicit("What is your name?", Name)


def question(message: str, name: str, kind: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    parameters = {"mode": "form", "message": message, "requestedSchema": schema}
    return {"method": "elicitation/create", "params": parameters}


def build() -> MCPServer[None]:
    """The server, with tools whose names and answers the suite knows."""
    server = MCPServer[None]("tasks-fixture", version="1", extensions=[FixtureTasks()], middleware=[admitted])

    @server.tool(structured_output=False)
    async def greet(name: str) -> str:
        return f"Hello, {name}!"

    @server.tool(structured_output=False)
    async def slow_compute(seconds: float = 1, label: str = "") -> str:
        await asyncio.sleep(seconds)
        return f"Computed {label}."

    @server.tool(structured_output=False)
    async def failing_job() -> str:
        await asyncio.sleep(0.5)
        raise ValueError("This job always fails.")

    @server.tool(structured_output=False)
    async def protocol_error_job() -> str:
        raise MCPError(INTERNAL_ERROR, "This job breaks the protocol.")

    @server.tool(structured_output=False)
    async def confirm_delete(filename: str) -> str:
        (answer,) = await _current.get().ask(question(f"Delete {filename}?", "confirm", "boolean"))
        return f"{filename}: {answer['action']}"

    @server.tool(structured_output=False)
    async def multi_input() -> str:
        answers = await _current.get().ask(question("Name?", "name", "string"), question("Sure?", "confirm", "boolean"))
        return " and ".join(answer["action"] for answer in answers)

    @server.tool(structured_output=False)
    async def test_tool_with_task(given: Annotated[Name, Resolve(ask_name)]) -> str:
        return f"Hello, {given.name}!"

    return server


def main() -> None:
    build().run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))


if __name__ == "__main__":
    main()
