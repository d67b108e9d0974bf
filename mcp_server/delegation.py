"""Handing work over: what must hold before a task is stored. The agent checks the order, the policy the caller.

What the policy asks about is stored all the same, and waits until the user has approved it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mcp_server.agent import Agent, WorkOrder
from mcp_server.agents.coding_params import PARAMS
from mcp_server.agents.registry import AgentRegistry
from mcp_server.approvals import Approvals
from mcp_server.callers import current_caller
from mcp_server.clock import MICROSECONDS, Clock, from_iso, iso, now_us
from mcp_server.errors import ConflictError, InvalidError
from mcp_server.policy import Action, Policy
from mcp_server.spoken import spoken
from mcp_server.store.database import Transaction
from mcp_server.tasks import Asking, NewTask, Task, Tasks, check_priority
from mcp_server.values import CONTENT_LIMIT_BYTES, check_json, check_text
from mcp_server.workspaces import Place, Workspaces

MAX_ATTEMPTS = 3
ATTEMPTS_LIMIT = 20
TIMEOUT_LIMIT_SECONDS = 7 * 86400
DELAY_LIMIT_SECONDS = 366 * 86400
NOT_INSTALLED = "agent_not_installed"
KEPT_PARAMS = frozenset(PARAMS)
"""What a follow-up has in common with the task that it goes on with: how far its agent may go, and where it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a caller asks for, in the caller's words."""

    agent: str
    description: str = ""
    params: Mapping[str, Any]
    workspace: str | None = None
    working_dir: str | None = None
    session_id: str | None = None
    task_id: str | None = None
    task_type: str | None = None
    priority: int = 0
    lane: str | None = None
    run_after: str | float | None = None
    timeout_seconds: float | None = None
    max_attempts: int | None = None


class Delegation:
    """Turns orders into tasks."""

    def __init__(
        self,
        registry: AgentRegistry,
        workspaces: Workspaces,
        policy: Policy,
        tasks: Tasks,
        approvals: Approvals,
        now: Clock = now_us,
    ) -> None:
        self._registry = registry
        self._workspaces = workspaces
        self._policy = policy
        self._tasks = tasks
        self._approvals = approvals
        self._now = now

    async def delegate(self, order: Order) -> tuple[Task, bool]:
        """A new task, or the one that exists already under this id with this content (then False).

        Raises:
            InvalidError: a field cannot be used, the agent is unknown, or it cannot take this order.
            ForbiddenError: the policy does not allow it to this caller, or it lies outside the workspaces.
            ConflictError: the id is taken by another task.
        """
        agent = self._registry.get(order.agent)
        description = check_text(order.description, "description", limit=CONTENT_LIMIT_BYTES, blank=True)
        params = check_json(dict(order.params), "params", limit=CONTENT_LIMIT_BYTES)
        place = self._place(agent, order)
        leave = self._leave(agent, WorkOrder(description, order.params, *_folders(place)), place)
        new = NewTask(
            request=_request(asdict(order) | {"task_id": None}),
            agent=agent.name,
            description=description,
            params=params,
            workspace=place.workspace if place else None,
            cwd=str(place.cwd) if place else None,
            timeout_seconds=_timeout(order.timeout_seconds, agent),
            max_attempts=_attempts(order.max_attempts),
            reason=_waiting_reason(agent) if leave.asking is None else None,
            session_id=order.session_id,
            task_type=check_text(order.task_type, "task_type") if order.task_type is not None else None,
            priority=check_priority(order.priority),
            lane=check_text(order.lane, "lane") if order.lane is not None else None,
            run_after=self._run_after(order.run_after),
            contained=leave.contained,
        )
        return await self._tasks.create(new, order.task_id, leave.asking)

    async def follow_up(self, task_id: str, message: str, new_task_id: str | None = None) -> tuple[Task, bool]:
        """A further message in a task's conversation with its agent, as a new task behind it.

        Raises:
            InvalidError: the agent keeps no conversation.
            ForbiddenError: the policy does not allow it to this caller.
            ConflictError: the task was not completed and left nothing to go on with.
        """
        parent = await self._tasks.get(task_id)
        agent = self._registry.get(parent.agent)
        description = check_text(message, "message", limit=CONTENT_LIMIT_BYTES)
        if not agent.continues:
            raise InvalidError(
                f"{agent.title} keeps no conversation to go on with.",
                field="task_id",
                fix="Use delegate_task for a new task.",
            )
        if parent.status in ("failed", "cancelled") and not await self._tasks.has_state(parent.conversation_id):
            raise ConflictError(
                f"The task {parent.status}; there is no answer to go on from.",
                existing=parent.record(),
                field="task_id",
                fix="Retry it with update_task, or delegate a new task.",
            )
        place = self._place_of(parent)
        params = {name: value for name, value in parent.params.items() if name in KEPT_PARAMS}
        leave = self._leave(agent, WorkOrder(description, params, *_folders(place)), place, continues=parent.id)
        new = NewTask(
            request=_request({"continues": parent.id, "message": description}),
            agent=agent.name,
            description=description,
            params=json.dumps(params, ensure_ascii=False),
            workspace=parent.workspace,
            cwd=parent.cwd,
            timeout_seconds=agent.default_timeout_seconds,
            max_attempts=parent.max_attempts,
            reason=_waiting_reason(agent) if leave.asking is None else None,
            session_id=parent.session_id,
            task_type=parent.task_type,
            lane=parent.lane,
            parent_id=parent.id,
            conversation_id=parent.conversation_id,
            contained=leave.contained,
        )
        return await self._tasks.create(new, new_task_id, leave.asking)

    async def retry(self, task_id: str, *, priority: int | None = None, lane: str | None = None) -> Task:
        """Queue a failed or cancelled task again, if this caller might delegate it; else the user is asked anew.

        Raises:
            ForbiddenError: the policy does not allow it to this caller.
            ConflictError: it is completed.
        """
        task = await self._tasks.get(task_id)
        agent = self._registry.get(task.agent)
        place = self._place_of(task)
        order = WorkOrder(task.description, task.params, *_folders(place))
        leave = self._leave(agent, order, place, continues=task.parent_id)
        return await self._tasks.retry(
            task_id,
            priority=priority,
            lane=lane,
            reason=_waiting_reason(agent),
            contained=leave.contained,
            asking=leave.asking,
        )

    def _place_of(self, task: Task) -> Place | None:
        return self._workspaces.resolve(task.workspace, task.cwd) if task.workspace is not None else None

    def _place(self, agent: Agent, order: Order) -> Place | None:
        if not agent.needs_workspace and order.workspace is None and order.working_dir is None:
            return None
        return self._workspaces.resolve(order.workspace, order.working_dir)

    def _leave(self, agent: Agent, order: WorkOrder, place: Place | None, *, continues: str | None = None) -> _Leave:
        """Whether this order may be carried out, and what has to happen first.

        Raises:
            InvalidError, ForbiddenError: the agent cannot take it, or the policy does not allow it to this caller.
        """
        checked = agent.check(order)
        workspace = place.workspace if place else None
        action = Action(agent.name, checked.argv, workspace, checked.reads_only, checked.contained)
        caller = current_caller()
        if not self._policy.asks(caller, action):
            return _Leave(None, contained=self._policy.leans_on_containment(caller, action))
        say = _wish(agent, order, checked.argv, workspace)
        wanted = {
            "agent": agent.name,
            "argv": list(checked.argv) or None,
            "description": order.description,
            "params": dict(order.params),
            "workspace": workspace,
            "cwd": str(order.cwd) if order.cwd else None,
            "continues": continues,
        }

        async def ask(transaction: Transaction, task: Task) -> None:
            exactly = {"task": task.id, **wanted, "run_after": iso(task.run_after)}
            await self._approvals.ask(transaction, task, "task", exactly, say, None, self._now())

        return _Leave(ask, contained=False)

    def _run_after(self, value: str | float | None) -> int | None:
        if value is None:
            return None
        now = self._now()
        rule = "Give seconds from now, or a time such as 2026-11-21T08:00:00Z."
        try:
            moment = from_iso(value) if isinstance(value, str) else now + round(value * MICROSECONDS)
        except (ValueError, OverflowError):
            raise InvalidError("run_after is no time.", field="run_after", fix=rule) from None
        if moment - now > DELAY_LIMIT_SECONDS * MICROSECONDS:
            raise InvalidError("run_after is more than a year away.", field="run_after", fix=rule)
        if not isinstance(value, str) and value < 0:
            raise InvalidError("run_after lies in the past.", field="run_after", fix=rule)
        return moment


@dataclass(frozen=True, slots=True)
class _Leave:
    """`asking`: how the user is asked first; None where nobody needs to be. `contained`: as in a task."""

    asking: Asking | None
    contained: bool


def waiting_reason(registry: AgentRegistry, name: str) -> str | None:
    """Why tasks of an agent wait in the queue, if that is known."""
    return next((_waiting_reason(agent) for agent in registry if agent.name == name), None)


def _waiting_reason(agent: Agent) -> str | None:
    return None if agent.availability().ready else NOT_INSTALLED


def _wish(agent: Agent, order: WorkOrder, argv: Sequence[str], workspace: str | None) -> str:
    """What the user is asked, to be spoken."""
    where = f" in {workspace}" if workspace else ""
    if argv:
        return spoken(f"{agent.title} is to run {shlex.join(argv)}{where}.")
    return spoken(f"{agent.title} is to do this{where}: {order.description}")


def _request(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, ensure_ascii=False, sort_keys=True)


def _folders(place: Place | None) -> tuple[Any, Any]:
    return (place.root, place.cwd) if place else (None, None)


def _timeout(seconds: float | None, agent: Agent) -> float:
    if seconds is None:
        return agent.default_timeout_seconds
    if not 0 < seconds <= TIMEOUT_LIMIT_SECONDS:
        raise InvalidError(
            "timeout_seconds is out of range.",
            field="timeout_seconds",
            fix=f"Give seconds above 0 and up to {TIMEOUT_LIMIT_SECONDS}.",
        )
    return seconds


def _attempts(count: int | None) -> int:
    if count is None:
        return MAX_ATTEMPTS
    if not 1 <= count <= ATTEMPTS_LIMIT:
        raise InvalidError("max_attempts is out of range.", field="max_attempts", fix=f"Give 1 to {ATTEMPTS_LIMIT}.")
    return count
