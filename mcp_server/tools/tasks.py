"""The task tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from mcp_server.approvals import Approval, Approvals
from mcp_server.clock import Clock
from mcp_server.delegation import Delegation, Order
from mcp_server.errors import InvalidError
from mcp_server.executor.worker import Worker
from mcp_server.spoken import spoken
from mcp_server.tasks import Status, Task, Tasks
from mcp_server.tools.door import Answer, Arguments, ToolSpec
from mcp_server.tools.output import read_part
from mcp_server.tools.progress import Progress
from mcp_server.tools.sessions import Limit, count
from mcp_server.tools.speech import describe
from mcp_server.values import WAIT_LIMIT_SECONDS

TaskId = Annotated[str | int, Field(description="id or number")]
Wait = Annotated[float, Field(ge=0, le=WAIT_LIMIT_SECONDS, description="seconds to wait for it, up to 45")]
Agent = Annotated[str, Field(validation_alias=AliasChoices("agent", "agent_name"), description="see list_agents")]


class DelegateTask(Arguments):
    agent: Agent
    description: Annotated[str, Field(description="what is to be done, in words, for agents that understand them")] = ""
    params: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict[str, Any],
            description='git and shell: {"command": ["git", "log", "-5"]}, a list, run without shell',
        ),
    ]
    workspace: Annotated[str | None, Field(description="name; may be left out if there is one")] = None
    working_dir: Annotated[str | None, Field(description="a folder in it")] = None
    session_id: str | None = None
    task_id: Annotated[str | None, Field(description="chosen by you; else made")] = None
    task_type: str | None = None
    priority: Annotated[int, Field(description="larger runs first")] = 0
    lane: Annotated[str | None, Field(description="tasks of one lane run one after another")] = None
    run_after: Annotated[str | float | None, Field(description="ISO time, or seconds from now")] = None
    timeout_seconds: float | None = None
    max_attempts: int | None = None
    wait: Wait = 10.0


class GetTask(Arguments):
    task_id: TaskId
    wait: Wait = 0.0
    output_offset: Annotated[int | None, Field(ge=0, description="read the output from this byte on")] = None
    stream: Literal["stdout", "stderr"] = "stdout"


class ListTasks(Arguments):
    status: Status | None = None
    agent: Annotated[str | None, Field(validation_alias=AliasChoices("agent", "agent_name"))] = None
    session_id: str | None = None
    lane: str | None = None
    query: Annotated[str | None, Field(description="words of the description or result")] = None
    limit: Limit = 20
    cursor: str | None = None


class UpdateTask(Arguments):
    task_id: TaskId
    action: Literal["cancel", "retry"] | None = None
    priority: int | None = None
    lane: Annotated[str | None, Field(description="empty: out of its lane")] = None
    wait: Wait = 10.0


class ContinueTask(Arguments):
    task_id: TaskId
    message: str
    new_task_id: str | None = None
    wait: Wait = 10.0


class ListAgents(Arguments):
    pass


class TaskTools:
    """Calls the nouns and says what came of it."""

    def __init__(
        self,
        tasks: Tasks,
        delegation: Delegation,
        approvals: Approvals,
        worker: Worker,
        progress: Progress,
        now: Clock,
        public_url: str | None = None,
    ) -> None:
        self._tasks = tasks
        self._progress = progress
        self._delegation = delegation
        self._approvals = approvals
        self._worker = worker
        self._now = now
        self._public_url = public_url

    async def delegate_task(self, given: DelegateTask) -> Answer:
        fields = given.model_dump(exclude={"wait"})
        task, created = await self._delegation.delegate(Order(**fields))
        task = await self._wait(task, given.wait, lambda now: now.settled)
        return await self.answer(task, created=created)

    async def continue_task(self, given: ContinueTask) -> Answer:
        task, created = await self._delegation.follow_up(str(given.task_id), given.message, given.new_task_id)
        task = await self._wait(task, given.wait, lambda now: now.settled)
        return await self.answer(task, created=created)

    async def get_task(self, given: GetTask) -> Answer:
        task = await self._tasks.get(str(given.task_id))
        if given.output_offset is None:
            before = (task.status, task.reason, task.attempt)
            changed = await self._wait(
                task, given.wait, lambda now: now.final or (now.status, now.reason, now.attempt) != before
            )
            answer = await self.answer(changed)
            more: dict[str, Any] = {}
        else:
            async with self._progress.of(task, given.wait):
                part = await read_part(
                    self._worker.attempts, self._tasks, task, given.stream, given.output_offset, given.wait
                )
            more = {"output": part}
            answer = await self.answer(await self._tasks.get(task.id))
        attempts = await self._tasks.attempts(task)
        return Answer(answer.record | more | {"attempts": attempts}, answer.say, answer.link)

    async def list_tasks(self, given: ListTasks) -> Answer:
        items, following = await self._tasks.list(
            status=given.status,
            agent=given.agent,
            session_id=given.session_id,
            lane=given.lane,
            query=given.query,
            limit=given.limit,
            cursor=given.cursor,
        )
        say = f"{count(len(items), 'task', more=following)}."
        if items:
            say += f" The latest: {self._describe(items[0])}"
        return Answer({"items": [brief(task) for task in items], "next_cursor": following}, say)

    async def update_task(self, given: UpdateTask) -> Answer:
        task_id = str(given.task_id)
        requeued = given.priority is not None or given.lane is not None
        if not requeued and given.action is None:
            raise InvalidError(
                "Nothing was given to change.", field="action", fix="Give action cancel or retry, a priority or a lane."
            )
        if given.action == "cancel" and requeued:
            raise InvalidError(
                "A task that is cancelled needs no priority or lane.", field="priority", fix="Leave them out."
            )
        if given.action == "cancel":
            task = await self._tasks.cancel(task_id)
            return await self.answer(await self._wait(task, given.wait, lambda now: now.final))
        if given.action is None:
            return await self.answer(await self._tasks.requeue(task_id, priority=given.priority, lane=given.lane))
        task = await self._delegation.retry(task_id, priority=given.priority, lane=given.lane)
        return await self.answer(await self._wait(task, given.wait, lambda now: now.settled))

    async def list_agents(self, given: ListAgents) -> Answer:
        items = await self._worker.agents()
        ready = [item["title"] for item in items if item["ready"]]
        lacking = [item["title"] for item in items if item["installed"] and not item["ready"]]
        missing = [item["title"] for item in items if not item["installed"]]
        told = {"Ready": ready, "Installed, but not ready": lacking, "Not installed": missing}
        say = " ".join(f"{state}: {', '.join(titles)}." for state, titles in told.items() if titles)
        return Answer({"items": items, "next_cursor": None}, spoken(say))

    async def _wait(self, task: Task, seconds: float, until: Callable[[Task], bool]) -> Task:
        async with self._progress.of(task, seconds):
            return await self._tasks.wait(task, seconds, until)

    def _describe(self, task: Task, *, created: bool | None = None, approval: Approval | None = None) -> str:
        title, installed = self._worker.title(task.agent), self._worker.installed(task.agent)
        return describe(task, title, self._now(), installed=installed, again=created is False, approval=approval)

    async def answer(self, task: Task, *, created: bool | None = None) -> Answer:
        """What is answered about one task. `created`: by this call."""
        record = task.record() | ({} if created is None else {"created": created})
        approval = await self._approvals.pending_of(task) if task.status == "waiting_approval" else None
        if approval is not None:
            record["approval"] = approval.brief()
        link = f"{self._public_url}/tasks/{task.id}" if self._public_url else None
        return Answer(record, self._describe(task, created=created, approval=approval), link)

    def specs(self) -> list[ToolSpec]:
        """The tools of this module."""
        return [
            ToolSpec(
                "delegate_task",
                "Delegate task",
                "Hand work to an agent on the user's machine: git, shell, or a coding agent. Answers with the result "
                "if it is done within `wait` seconds, else with a running task to follow with get_task.",
                DelegateTask,
                self.delegate_task,
                "submit",
                destructive=True,
            ),
            ToolSpec(
                "get_task",
                "Get task",
                "A task's state, result and attempts. With `wait`, answers as soon as it changes. Results hold the "
                "tail of the output; with output_offset you read any part, also while it runs.",
                GetTask,
                self.get_task,
                "read",
            ),
            ToolSpec(
                "list_tasks",
                "List tasks",
                "Tasks, newest first.",
                ListTasks,
                self.list_tasks,
                "read",
            ),
            ToolSpec(
                "update_task",
                "Update task",
                "Cancel a task (cancelled means that no process of it is alive), retry a failed or cancelled one, "
                "or change priority or lane of one that waits.",
                UpdateTask,
                self.update_task,
                "submit",
                destructive=True,
                idempotent=True,
            ),
            ToolSpec(
                "continue_task",
                "Continue task",
                "Send a further message in the agent's own conversation, such as the answer to its question. "
                "Makes a new task.",
                ContinueTask,
                self.continue_task,
                "submit",
                destructive=True,
            ),
            ToolSpec(
                "list_agents",
                "List agents",
                "What can do work here: installed or what is missing, limits, running and queued.",
                ListAgents,
                self.list_agents,
                "read",
            ),
        ]


def brief(task: Task) -> dict[str, Any]:
    """A task in a list: everything but long texts, which get_task has."""
    record = task.record()
    result = record.pop("result")
    record.pop("params")
    record["description"] = record["description"][:240]
    if result is not None:
        record["result"] = {"text": str(result.get("text", ""))[:240], "returncode": result.get("returncode")}
    return record
