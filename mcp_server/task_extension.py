"""The Tasks extension (SEP-2663) of protocol version 2026-07-28: a handle to follow instead of a call that waits.

`TaskWire` is what goes over the wire, whoever does the work; `TaskExtension` is that for our tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import HEADER_MISMATCH, CallToolRequestParams, CallToolResult, EmptyResult, RequestParams
from pydantic import Field

from mcp_server.callers import Scope, current_caller
from mcp_server.clock import iso
from mcp_server.policy import require_scope
from mcp_server.protocol import Context
from mcp_server.runtime import Runtime
from mcp_server.tasks import Status, Task, task_number
from mcp_server.tools.door import call_result
from mcp_server.tools.tasks import TaskTools
from mcp_server.values import WAIT_LIMIT_SECONDS, missing

TASKS: Final = "io.modelcontextprotocol/tasks"
VERSIONS = frozenset({"2026-07-28"})

GRACE_SECONDS = 0.5
"""What is done within it needs no handle: the call answers as it does for everybody."""

POLL_MILLISECONDS = 1000

WireStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]

WIRE_STATUS: Mapping[Status, WireStatus] = {
    "scheduled": "working",
    "waiting_approval": "working",
    "queued": "working",
    "running": "working",
    "cancelling": "working",
    "completed": "completed",
    "failed": "completed",
    "cancelled": "cancelled",
}
"""`failed` of the extension is an error of the protocol; ours is a result that says so, with isError."""


class TaskParams(RequestParams):
    """Of `tasks/get` and `tasks/cancel`."""

    task_id: Annotated[str, Field(alias="taskId")]


class TaskUpdateParams(TaskParams):
    """Of `tasks/update`."""

    input_responses: Annotated[dict[str, Any], Field(alias="inputResponses")]


@dataclass(frozen=True, slots=True)
class TaskHandle:
    """A task without its result. Times are microseconds."""

    task_id: str
    status: WireStatus
    message: str
    created_at: int
    updated_at: int

    def wire(self) -> dict[str, Any]:
        """As clients get it. `ttlMs` null: it is kept for as long as nobody deletes its session."""
        return {
            "taskId": self.task_id,
            "status": self.status,
            "statusMessage": self.message,
            "createdAt": iso(self.created_at),
            "lastUpdatedAt": iso(self.updated_at),
            "ttlMs": None,
            "pollIntervalMs": POLL_MILLISECONDS,
        }


class TaskWire(Extension, ABC):
    """What clients of the extension send and get: who may use it, and in which form it answers."""

    identifier = TASKS
    task_backed: frozenset[str]
    """The tools that may answer with a handle."""

    @abstractmethod
    async def begin(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> TaskHandle | HandlerResult:
        """Make a call of a task-backed tool. A handle: the task is stored, and goes on without this request."""

    @abstractmethod
    async def detailed(self, task_id: str) -> dict[str, Any]:
        """The task as `tasks/get` and `notifications/tasks` show it."""

    @abstractmethod
    async def cancel(self, task_id: str) -> None:
        """Ask for the end of a task; one that has ended stays as it is."""

    @abstractmethod
    async def update(self, task_id: str, input_responses: Mapping[str, Any]) -> None:
        """Take what the client answers to a task that asked; what was not asked for is ignored."""

    @abstractmethod
    def check(self, scope: Scope) -> None:
        """Pass, or raise an error: the caller may not do this."""

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        """A handle, where the client can follow one; the plain answer for all others."""
        if params.name not in self.task_backed or not declares_tasks(ctx):
            return await call_next(ctx)
        begun = await self.begin(params, ctx, call_next)
        return {"resultType": "task", **begun.wire()} if isinstance(begun, TaskHandle) else begun

    def methods(self) -> Sequence[MethodBinding]:
        """`tasks/get`, `tasks/cancel` and `tasks/update`; other protocol versions do not have them."""
        return [
            MethodBinding("tasks/get", TaskParams, self._on_get, VERSIONS),
            MethodBinding("tasks/cancel", TaskParams, self._on_cancel, VERSIONS),
            MethodBinding("tasks/update", TaskUpdateParams, self._on_update, VERSIONS),
        ]

    async def _on_get(self, ctx: Context, params: TaskParams) -> HandlerResult:
        self._admit(ctx, params, "read")
        return {"resultType": "complete", **await self.detailed(params.task_id)}

    async def _on_cancel(self, ctx: Context, params: TaskParams) -> HandlerResult:
        self._admit(ctx, params, "submit")
        await self.cancel(params.task_id)
        return EmptyResult(result_type="complete")

    async def _on_update(self, ctx: Context, params: TaskUpdateParams) -> HandlerResult:
        self._admit(ctx, params, "submit")
        await self.update(params.task_id, params.input_responses)
        return EmptyResult(result_type="complete")

    def _admit(self, ctx: Context, params: TaskParams, scope: Scope) -> None:
        _check_name_header(ctx, params.task_id)
        require_client_extension(ctx, TASKS)
        self.check(scope)


class TaskExtension(TaskWire):
    """Our tasks, as the extension sees them."""

    task_backed = frozenset({"delegate_task", "continue_task"})

    def __init__(self, runtime: Runtime, tools: TaskTools) -> None:
        self._runtime = runtime
        self._tools = tools

    async def begin(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> TaskHandle | HandlerResult:
        """A handle for work that is under way; else the answer, an error of the call included.

        What waits for tomorrow, for the user or for an agent to be installed, is no work to follow: it would be
        `working` for days.
        """
        params.arguments = _with_short_wait(params.arguments or {})  # the tool is called with this very object
        result = await call_next(ctx)
        if not isinstance(result, CallToolResult) or result.is_error or not result.structured_content:
            return result
        answered: dict[str, Any] = result.structured_content
        task = await self._task(answered["id"])
        if task.settled:
            return await self._result(task, created=answered["created"])
        return await self._handle(task)

    async def detailed(self, task_id: str) -> dict[str, Any]:
        """The task as `tasks/get` and `notifications/tasks` show it. Raises NotFoundError, InvalidError."""
        task = await self._task(task_id)
        handle = await self._handle(task)
        if handle.status != "completed":
            return handle.wire()
        result = await self._result(task)
        return handle.wire() | {"result": result.model_dump(by_alias=True, mode="json", exclude_none=True)}

    async def cancel(self, task_id: str) -> None:
        """As `update_task` cancels: the task is `working` until no process of it is alive."""
        task = await self._task(task_id)
        await self._runtime.tasks.cancel(task.id)

    async def update(self, task_id: str, input_responses: Mapping[str, Any]) -> None:
        """Our tasks never ask by this way, so there is nothing to take: above all, no approval."""
        await self._task(task_id)

    def check(self, scope: Scope) -> None:
        """Raises ForbiddenError, UnauthenticatedError."""
        require_scope(current_caller(), scope)

    async def _task(self, task_id: str) -> Task:
        """By the id of a handle only: the numbers that people say are for tools."""
        if task_number(task_id) is not None:
            raise missing("task", "taskId", "Use the taskId of the handle.")
        return await self._runtime.tasks.get(task_id, "taskId")

    async def _handle(self, task: Task) -> TaskHandle:
        said = (await self._tools.answer(task)).content["say"]
        return TaskHandle(task.id, WIRE_STATUS[task.status], said, task.created_at, task.updated_at)

    async def _result(self, task: Task, *, created: bool | None = None) -> CallToolResult:
        answer = await self._tools.answer(task, created=created)
        return call_result(answer.content, is_error=task.status == "failed")


def declares_tasks(ctx: Context) -> bool:
    """Whether this request may be answered with a handle. Some clients declare it where it does not exist yet."""
    capabilities = ctx.session.client_capabilities
    return ctx.protocol_version in VERSIONS and capabilities is not None and TASKS in (capabilities.extensions or {})


def _check_name_header(ctx: Context, task_id: str) -> None:
    """Over HTTP the id stands in a header too, for routers; the SDK checks it for its own methods only."""
    if ctx.request is None:
        return
    given = ctx.request.headers.get(MCP_NAME_HEADER, "").strip(" \t")  # blanks around it are not part of the value
    if decode_header_value(given) != task_id:
        raise MCPError(
            code=HEADER_MISMATCH,
            message=f"{MCP_NAME_HEADER} header does not match the request body's 'taskId' parameter",
        )


def _with_short_wait(arguments: dict[str, Any]) -> dict[str, Any]:
    """What cannot be waited for is left for the tool to refuse."""
    wait = arguments.get("wait", WAIT_LIMIT_SECONDS)
    usable = isinstance(wait, int | float) and not isinstance(wait, bool) and 0 <= wait <= WAIT_LIMIT_SECONDS
    return arguments | {"wait": min(wait, GRACE_SECONDS)} if usable else arguments
