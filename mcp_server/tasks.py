"""Tasks: pieces of work for agents. Their model, the one table of their transitions, and what users do with them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_server.callers import Caller, current_caller
from mcp_server.clock import Clock, NewId, iso, new_id, now_us
from mcp_server.errors import ConflictError, InvalidError
from mcp_server.events import Events
from mcp_server.search import facet, index_document, searched_terms
from mcp_server.sessions import require_session
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.values import ID_RULE, check_new_id, check_text, id_fault, make_cursor, missing, read_cursor

Status = Literal["scheduled", "waiting_approval", "queued", "running", "cancelling", "completed", "failed", "cancelled"]
FINAL: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})

TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    "scheduled": frozenset({"queued", "cancelled"}),
    "waiting_approval": frozenset({"queued", "scheduled", "cancelled"}),
    "queued": frozenset({"running", "cancelled"}),
    "running": frozenset({"completed", "failed", "cancelling", "scheduled", "queued", "waiting_approval"}),
    "cancelling": frozenset({"cancelled", "failed", "completed"}),
    "completed": frozenset(),
    "failed": frozenset({"queued", "waiting_approval"}),
    "cancelled": frozenset({"queued", "waiting_approval"}),
}
"""Every change of state that there is. `failed` and `cancelled` leave only by a retry that the user asks for."""

WAITING_REASONS = frozenset({"agent_not_installed"})
"""Reasons of a queued task for which no answer is to be expected soon."""

Asking = Callable[[Transaction, "Task"], Awaitable[None]]
"""Asks the user about a task, in the transaction that makes it `waiting_approval`."""

USED = ("turns", "input_tokens", "output_tokens", "cost_usd")
"""What coding agents report of what they used."""

NEWEST = 2**62
PRIORITY_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Task:
    """One task as the store has it. Times are microseconds.

    `progress`: what its agent does now, in a few words; None where it does not say, and once it does nothing.
    `contained`: it was allowed because what it changes stays in a place of its own, so only there may it run.
    """

    number: int
    id: str
    session_id: str | None
    agent: str
    task_type: str | None
    description: str
    params: Mapping[str, Any]
    workspace: str | None
    cwd: str | None
    priority: int
    lane: str | None
    status: Status
    reason: str | None
    run_after: int | None
    timeout_seconds: float
    max_attempts: int
    attempts_allowed: int
    attempt: int
    fence: int
    parent_id: str | None
    conversation_id: str
    result: Mapping[str, Any] | None
    progress: str | None
    contained: bool
    caller: Mapping[str, Any]
    created_at: int
    started_at: int | None
    finished_at: int | None
    updated_at: int

    @classmethod
    def of(cls, row: Row) -> Task:
        """From a row of the store."""
        fields: dict[str, Any] = {name: row[name] for name in cls.__slots__}
        fields["params"] = json.loads(row["params"])
        fields["caller"] = json.loads(row["caller"])
        fields["contained"] = bool(row["contained"])
        fields["result"] = json.loads(row["result"]) if row["result"] else None
        return cls(**fields)

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.status in FINAL

    @property
    def settled(self) -> bool:
        """Whether waiting some seconds for it is of no use."""
        return self.final or self.status in ("scheduled", "waiting_approval") or self.reason in WAITING_REASONS

    def lost_its_output(self, stream: str, kept_bytes: int) -> bool:
        """Whether it wrote something of which nothing is kept any more, because it is too old."""
        return self.final and not kept_bytes and bool((self.result or {}).get(f"{stream}_bytes"))

    def record(self) -> Row:
        """As doors show it."""
        names = ("id", "number", "agent", "status", "reason", "session_id", "task_type", "description", "params")
        more = ("workspace", "priority", "lane", "attempt", "max_attempts", "timeout_seconds", "progress")
        return {
            **{name: getattr(self, name) for name in (*names, *more)},
            "working_dir": self.cwd,
            "continues": self.parent_id,
            "created_by": self.caller,
            "run_after": iso(self.run_after),
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "finished_at": iso(self.finished_at),
            "result": {name: value for name, value in self.result.items() if name != "say"} if self.result else None,
        }


@dataclass(frozen=True, slots=True)
class NewTask:
    """What a new task is made of, checked already. `request` is what was asked, to tell the same from another."""

    request: str
    agent: str
    description: str
    params: str
    workspace: str | None
    cwd: str | None
    timeout_seconds: float
    max_attempts: int
    reason: str | None = None
    session_id: str | None = None
    task_type: str | None = None
    priority: int = 0
    lane: str | None = None
    run_after: int | None = None
    parent_id: str | None = None
    conversation_id: str | None = None
    contained: bool = False


class Tasks:
    """What users do with tasks."""

    def __init__(self, database: Database, events: Events, now: Clock = now_us, make_id: NewId = new_id) -> None:
        self._database = database
        self._events = events
        self._now = now
        self._make_id = make_id

    async def create(self, new: NewTask, id: str | None = None, asking: Asking | None = None) -> tuple[Task, bool]:
        """A new task, `queued` or `scheduled`; or the one that has this id and content already (then False).

        With `asking` it is `waiting_approval` and the user is asked; `reason` and `run_after` wait with it.

        Raises:
            NotFoundError: there is no such session.
            ConflictError: the id is taken by another task.
        """
        task_id = check_new_id(id, "task_id") if id is not None else self._make_id("task")
        fields = {name: getattr(new, name) for name in NewTask.__slots__}
        fields["conversation_id"] = new.conversation_id or task_id
        caller = current_caller()

        async def body(transaction: Transaction) -> tuple[Task, bool]:
            await require_session(transaction, new.session_id)
            existing = await transaction.one("task_by_id", id=task_id)
            if existing is not None:
                if existing["request"] != new.request:
                    raise _taken(Task.of(existing))
                return Task.of(existing), False
            now = self._now()
            status: Status = "scheduled" if new.run_after is not None and new.run_after > now else "queued"
            if asking is not None:
                status = "waiting_approval"
            row = await transaction.one(
                "task_insert",
                id=task_id,
                status=status,
                caller=json.dumps(caller.record(), ensure_ascii=False),
                now=now,
                **fields,
            )
            assert row is not None
            await index_document(transaction, "task", row["number"])
            await record_event(self._events, transaction, Task.of(row), caller)
            if asking is not None:
                await asking(transaction, Task.of(row))
            return Task.of(row), True

        return await self._database.write(body)

    async def get(self, task_id: str, field: str = "task_id") -> Task:
        """One task by its id or its number. Raises NotFoundError, InvalidError."""
        number = task_number(task_id)
        if number is not None:
            row = await self._database.one("task_by_number", number=number)
        elif fault := id_fault(task_id):
            raise InvalidError(fault, field=field, fix=f"Name a task by its number or id. {ID_RULE}")
        else:
            row = await self._database.one("task_by_id", id=task_id)
        if row is None:
            raise missing("task", field, "Look in list_tasks.")
        return Task.of(row)

    async def list(
        self,
        *,
        status: Status | None = None,
        agent: str | None = None,
        session_id: str | None = None,
        lane: str | None = None,
        query: str | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> tuple[list[Task], str | None]:
        """Newest first. Returns the page and the cursor of the next."""
        filters = {"status": status, "agent": agent, "session_id": session_id, "lane": lane}
        page = {"before": read_cursor(cursor) or NEWEST, "limit": limit + 1}
        if query is not None:
            terms = await searched_terms(self._database, check_text(query, "query", limit=4096))
            match = f"{facet('k', 'task')} AND {terms}"
            rows = await self._database.search("task_list_found", match=match, **filters, **page) if terms else []
        else:
            # The narrowest index first: each of these walks one index and stops at the limit.
            narrow = next((name for name in ("session_id", "lane", "status", "agent") if filters[name]), None)
            name = {None: "task_list", "session_id": "task_list_session"}.get(narrow, f"task_list_{narrow}")
            rows = await self._database.all(name, **filters, **page)
        following = make_cursor(rows[limit - 1]["number"]) if len(rows) > limit else None
        return [Task.of(row) for row in rows[:limit]], following

    async def attempts(self, task: Task) -> list[Row]:
        """Every attempt of a task, oldest first. With what it used, and where its work lies, as far as it said so."""
        rows = await self._database.all("attempt_list", task_number=task.number)
        return [
            {name: row[name] for name in ("attempt", "status", "reason", "returncode")}
            | {"started_at": iso(row["started_at"]), "finished_at": iso(row["finished_at"])}
            | _brief(json.loads(row["details"]).get("report", {}))
            for row in rows
        ]

    async def has_state(self, conversation_id: str) -> bool:
        """Whether an agent remembers something of this conversation that it could go on with."""
        return await self._database.one("conversation_state", conversation_id=conversation_id) is not None

    async def cancel(self, task_id: str) -> Task:
        """Cancel what waits at once; what runs becomes `cancelling` until its processes are dead.

        A task that is finished stays as it is.
        """
        number = (await self.get(task_id)).number
        caller = current_caller()

        async def body(transaction: Transaction) -> Task:
            task = await require_task(transaction, number)
            if task.final or task.status == "cancelling":
                return task
            to_status: Status = "cancelling" if task.status == "running" else "cancelled"
            return await move(self._events, transaction, task, to_status, "cancelled_by_user", self._now(), caller)

        return await self._database.write(body)

    async def retry(
        self,
        task_id: str,
        *,
        priority: int | None = None,
        lane: str | None = None,
        reason: str | None = None,
        contained: bool = False,
        asking: Asking | None = None,
    ) -> Task:
        """Queue a failed or cancelled task again, as further attempts of the same task; elsewhere in line if given.

        `reason` says why it will wait, if that is known. With `asking` it is `waiting_approval` and the user is asked.

        Raises:
            ConflictError: it is completed. One that waits or runs stays as it is.
        """
        number = (await self.get(task_id)).number
        caller = current_caller()

        async def body(transaction: Transaction) -> Task:
            task = await require_task(transaction, number)
            if task.status == "completed":
                raise ConflictError(
                    "The task is completed; there is nothing to retry.",
                    existing=task.record(),
                    field="action",
                    fix="Delegate it again as a new task, or go on with continue_task.",
                )
            if not task.final:
                return task
            await transaction.run("task_allow_attempts", number=number, contained=contained)
            await self._set_queue(transaction, task, priority, lane)
            if asking is None:
                return await move(self._events, transaction, task, "queued", reason, self._now(), caller)
            waiting = await move(self._events, transaction, task, "waiting_approval", None, self._now(), caller)
            await asking(transaction, waiting)
            return waiting

        return await self._database.write(body)

    async def requeue(self, task_id: str, *, priority: int | None, lane: str | None) -> Task:
        """Another priority or lane; an empty lane takes it out of its lane.

        Raises:
            ConflictError: the task has begun already.
        """
        number = (await self.get(task_id)).number
        caller = current_caller()

        async def body(transaction: Transaction) -> Task:
            task = await require_task(transaction, number)
            if task.status not in ("queued", "scheduled", "waiting_approval"):
                raise ConflictError(
                    f"The task is {task.status}; its priority and lane matter only while it waits.",
                    existing=task.record(),
                    field="priority" if priority is not None else "lane",
                    fix="Leave it, or cancel it and delegate it again.",
                )
            changed = await self._set_queue(transaction, task, priority, lane)
            await record_event(self._events, transaction, changed, caller, kind="task.changed")
            return changed

        return await self._database.write(body)

    async def _set_queue(self, transaction: Transaction, task: Task, priority: int | None, lane: str | None) -> Task:
        if lane:
            check_text(lane, "lane")
        row = await transaction.one(
            "task_set_queue",
            number=task.number,
            priority=task.priority if priority is None else check_priority(priority),
            lane=task.lane if lane is None else (lane or None),
            now=self._now(),
        )
        assert row is not None
        return Task.of(row)

    async def wait(self, task: Task, seconds: float, until: Callable[[Task], bool]) -> Task:
        """The task as soon as `until` holds for it, or as it is after `seconds`."""
        if seconds <= 0 or until(task):
            return task
        deadline = time.monotonic() + seconds
        with self._events.watch(f"task://{task.id}") as changed:
            while True:
                changed.clear()
                task = await self.get(task.id)
                remaining = deadline - time.monotonic()
                if until(task) or remaining <= 0 or self._events.closing:
                    return task
                try:
                    await asyncio.wait_for(changed.wait(), remaining)
                except TimeoutError:
                    return await self.get(task.id)


def check_priority(priority: int) -> int:
    """Larger runs first."""
    if abs(priority) > PRIORITY_LIMIT:
        raise InvalidError(
            "priority is out of range.",
            field="priority",
            fix=f"Give -{PRIORITY_LIMIT} to {PRIORITY_LIMIT}; larger runs first, 0 is usual.",
        )
    return priority


async def require_task(transaction: Transaction, number: int) -> Task:
    """A task as the running transaction sees it. Raises NotFoundError."""
    row = await transaction.one("task_by_number", number=number)
    if row is None:
        raise missing("task", "task_id", "It was deleted with its session.")
    return Task.of(row)


async def move(
    events: Events,
    transaction: Transaction,
    task: Task,
    to_status: Status,
    reason: str | None,
    now: int,
    caller: Caller | None = None,
    *,
    run_after: int | None = None,
    fence: int | None = None,
) -> Task:
    """The one way from state to state: one statement with the old state in its WHERE, and its event.

    A question to the user ends with the wait for its answer, and what was approved holds until a retry by hand.

    Raises:
        ConflictError: the table has no such transition, or the task moved on meanwhile (a late write).
    """
    row = None
    if to_status in TRANSITIONS[task.status]:
        row = await transaction.one(
            "task_move",
            number=task.number,
            from_status=task.status,
            to_status=to_status,
            reason=reason,
            run_after=run_after,
            final=to_status in FINAL,
            fence=fence,
            now=now,
        )
    if row is None:
        raise ConflictError(f"Task {task.number} cannot go from {task.status} to {to_status}.", existing=task.record())
    moved = Task.of(row)
    if task.status == "waiting_approval":
        await transaction.run("approval_withdraw", task_number=task.number, now=now)
    elif task.final:
        await transaction.run("approval_lapse", task_number=task.number, now=now)
    await record_event(events, transaction, moved, caller)
    return moved


async def record_event(
    events: Events,
    transaction: Transaction,
    task: Task,
    caller: Caller | None,
    kind: str | None = None,
    **more: Any,
) -> None:
    """Tell of a task's state, in the transaction that changed it. `more` becomes part of the event."""
    await events.append(
        transaction,
        kind or f"task.{task.status}",
        f"task://{task.id}",
        session_id=task.session_id,
        caller=caller,
        number=task.number,
        agent=task.agent,
        reason=task.reason,
        attempt=task.attempt,
        **more,
    )


def task_number(task_id: str) -> int | None:
    """The number that people say ("task seven"), where the id is one."""
    return int(task_id) if task_id.isascii() and task_id.isdigit() and len(task_id) < 19 else None


def _brief(report: Mapping[str, Any]) -> Row:
    """Of what an agent reported of one attempt: what it used, and where its work lies if the user has not got it."""
    usage = {name: report[name] for name in USED if report.get(name) is not None}
    clone = {"clone": report["clone"]} if report.get("clone") else {}
    return ({"usage": usage} if usage else {}) | clone


def _taken(existing: Task) -> ConflictError:
    return ConflictError(
        f"Task {existing.id} exists already, with other content.",
        existing=existing.record(),
        field="task_id",
        fix="Choose another id; to go on with that task use continue_task, to run it again update_task.",
        say="A task with that id exists already, with other content.",
    )
