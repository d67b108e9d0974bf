"""A client that can follow tasks: it declares the Tasks extension, and speaks its methods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Literal

from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from mcp_types import CallToolResult, NotificationParams, Request, Result
from pydantic import ConfigDict, Field

from mcp_server.task_extension import TASKS
from mcp_server.tasks import FINAL
from tests.server.doors import DEADLINE_SECONDS, ask


class Handle(Result):
    """What a task-backed call answers."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    result_type: Literal["task"] = Field(default="task", alias="resultType")
    task_id: str = Field(alias="taskId")

    @property
    def wire(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, mode="json")


class Answer(Result):
    """Any result."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


class TaskRequest(Request[dict[str, Any], str]):
    """One of `tasks/*`. Over HTTP the client mirrors the id in a header."""

    name_param: ClassVar[str | None] = "taskId"
    method: str
    params: dict[str, Any]


class UnnamedTaskRequest(TaskRequest):
    """The same, without the header."""

    name_param: ClassVar[str | None] = None


class TaskNotice(NotificationParams):
    """`notifications/tasks`."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


async def _unresolved(handle: Handle, context: ClaimContext) -> CallToolResult:
    raise AssertionError("The test follows the task itself.")


class FollowsTasks(ClientExtension):
    """Declares the extension. `seen` gets every `notifications/tasks`."""

    identifier = TASKS

    def __init__(self, seen: Callable[[TaskNotice], Awaitable[None]] | None = None) -> None:
        self._seen = seen

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Handle, resolve=_unresolved)]

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        if self._seen is None:
            return []
        return [NotificationBinding(method="notifications/tasks", params_type=TaskNotice, handler=self._seen)]


async def call(client: Client, tool: str, /, **arguments: Any) -> Handle | CallToolResult:
    """Call a tool that may answer with a handle."""
    result = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(result, Handle | CallToolResult)
    return result


async def begin(client: Client, **arguments: Any) -> Handle:
    """Delegate work that is not done in a moment."""
    result = await call(client, "delegate_task", **arguments)
    assert isinstance(result, Handle), result
    return result


async def send(client: Client, method: str, request: type[TaskRequest] = TaskRequest, **params: Any) -> dict[str, Any]:
    """The result of one of `tasks/*`."""
    answer = await client.session.send_request(request(method=method, params=params), Answer)
    return answer.model_dump(by_alias=True, mode="json", exclude_unset=True)


async def end_of(client: Client, task_id: str) -> dict[str, Any]:
    """The task as `tasks/get` shows it when it is done."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not FINAL & {(await ask(client, "get_task", task_id=task_id, wait=DEADLINE_SECONDS))["status"]}:
            pass
    return await send(client, "tasks/get", taskId=task_id)
