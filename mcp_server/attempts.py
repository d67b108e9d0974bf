"""The executor's side of a task: claiming it, keeping its output, and writing down how an attempt ended.

Every write carries the fencing number of its attempt; one that comes late changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mcp_server.callers import Caller
from mcp_server.clock import Clock, now_us
from mcp_server.errors import ConflictError
from mcp_server.events import Events
from mcp_server.search import reindexed
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.tasks import Status, Task, move, record_event, require_task

AttemptStatus = Literal["completed", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended. `retry_at`: when to try again (microseconds), None for not."""

    status: AttemptStatus
    reason: str | None
    result: Mapping[str, Any]
    returncode: int | None = None
    retry_at: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Attempts:
    """What the executor does with tasks."""

    def __init__(self, database: Database, events: Events, now: Clock = now_us) -> None:
        self._database = database
        self._events = events
        self._now = now

    async def claim(self, agents: Iterable[str]) -> Task | None:
        """The next task of one of `agents` (those with room): the highest priority, then the oldest, lanes kept.

        It is `running` from then on, as a new attempt under a new fencing number.
        """
        names = list(agents)

        async def body(transaction: Transaction) -> Task | None:
            heads = [head for name in names if (head := await transaction.one("task_heads", agent=name))]
            if not heads:
                return None
            number = min(heads, key=lambda head: (-head["priority"], head["number"]))["number"]
            row = await transaction.one(
                "task_claim", number=number, fence=await self._fence(transaction), now=self._now()
            )
            assert row is not None
            task = Task.of(row)
            await transaction.run(
                "attempt_insert", task_number=number, attempt=task.attempt, fence=task.fence, now=self._now()
            )
            await record_event(self._events, transaction, task, None)
            return task

        return await self._database.write(body)

    async def adopt(self, number: int) -> Task:
        """Take a running attempt over, under a new fencing number."""

        async def body(transaction: Transaction) -> Task:
            row = await transaction.one(
                "task_adopt", number=number, fence=await self._fence(transaction), now=self._now()
            )
            assert row is not None
            task = Task.of(row)
            await record_event(self._events, transaction, task, None, kind="task.adopted")
            return task

        return await self._database.write(body)

    async def running(self) -> list[Task]:
        """What is `running` or `cancelling` according to the store."""
        return [Task.of(row) for row in await self._database.all("task_running")]

    async def promote_due(self, installed: Collection[str]) -> int | None:
        """Queue the scheduled tasks whose time has come; returns when the next one is due (microseconds).

        Those of agents that are not `installed` say so.
        """

        async def body(transaction: Transaction) -> int | None:
            for due in await transaction.all("task_due", now=self._now()):
                task = await require_task(transaction, due["number"])
                reason = None if task.agent in installed else "agent_not_installed"
                await move(self._events, transaction, task, "queued", reason, self._now())
            following = await transaction.one("task_next_due")
            return following["run_after"] if following else None

        return await self._database.write(body)

    async def append_output(self, task: Task, pieces: Iterable[tuple[str, int, bytes]]) -> None:
        """Keep bytes of the attempt's streams: (stream, position, data). The same bytes again change nothing."""
        batch = list(pieces)

        async def body(transaction: Transaction) -> None:
            for stream, position, data in batch:
                await transaction.run(
                    "output_insert",
                    task_number=task.number,
                    attempt=task.attempt,
                    stream=stream,
                    position=position,
                    data=data,
                    fence=task.fence,
                )

        await self._database.write(body)
        self._events.grew(f"task://{task.id}")

    async def output_end(self, task: Task, stream: str) -> int:
        """How many bytes of a stream are kept."""
        row = await self._database.one("output_end", task_number=task.number, attempt=task.attempt, stream=stream)
        return row["size"] if row else 0

    async def wait_for_output(self, task: Task, stream: str, offset: int, seconds: float) -> None:
        """Return once the stream goes beyond `offset`, the attempt is over, or after `seconds`."""
        with self._events.watch(f"task://{task.id}") as changed, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self.output_end(task, stream) <= offset and await self._goes_on(task):
                    await changed.wait()
                    changed.clear()

    async def _goes_on(self, task: Task) -> bool:
        row = await self._database.one("task_by_number", number=task.number)
        return (
            not self._events.closing
            and row is not None
            and (row["status"], row["attempt"]) == ("running", task.attempt)
        )

    async def read_output(self, task: Task, stream: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a stream of the latest attempt, from `offset` on."""
        rows = await self._database.all(
            "output_read",
            task_number=task.number,
            attempt=task.attempt,
            stream=stream,
            from_position=offset,
            to_position=offset + limit,
        )
        if not rows or (first := rows[0]["position"]) > offset:
            return b""
        return b"".join(row["data"] for row in rows)[offset - first :][:limit]

    async def finish(self, task: Task, ending: Ending) -> Task:
        """Write an attempt's end and what becomes of its task, in one transaction.

        Raises:
            ConflictError: the attempt belongs to somebody else by now, or has ended. Nothing was written.
        """

        async def body(transaction: Transaction) -> Task:
            current = await _held(transaction, task)
            now = self._now()
            await transaction.run(
                "attempt_finish",
                task_number=task.number,
                attempt=task.attempt,
                status=ending.status,
                reason=ending.reason,
                returncode=ending.returncode,
                details=json.dumps(ending.details),
                now=now,
            )
            status, reason, run_after = _next(current, ending, now)
            if status in ("queued", "scheduled"):
                return await move(
                    self._events, transaction, current, status, reason, now, run_after=run_after, fence=task.fence
                )
            async with reindexed(transaction, "task", task.number):
                await self._write_result(transaction, task, ending.result)
            return await move(self._events, transaction, current, status, reason, now, fence=task.fence)

        return await self._database.write(body)

    async def forget(self, task: Task) -> Task:
        """An attempt that never began costs none: the task goes back to the queue."""

        async def body(transaction: Transaction) -> Task:
            current = await _held(transaction, task)
            await transaction.run("attempt_delete", task_number=task.number, attempt=task.attempt)
            await transaction.run("task_refund_attempt", number=task.number, fence=task.fence)
            cancelling = current.status == "cancelling"
            status, reason = ("cancelled", current.reason) if cancelling else ("queued", None)
            return await move(self._events, transaction, current, status, reason, self._now(), fence=task.fence)

        return await self._database.write(body)

    async def conversation(self, task: Task) -> tuple[str, ...]:
        """Messages and answers of the conversation before this task, oldest first."""
        rows = await self._database.all("task_conversation", conversation_id=task.conversation_id, number=task.number)
        return tuple(text for row in rows for text in (row["description"], row["summary"] or ""))

    async def tell(self, kind: str, subject: str, caller: Caller | None = None, **facts: Any) -> None:
        """Write an event of the executor that belongs to no task."""

        async def body(transaction: Transaction) -> None:
            await self._events.append(transaction, kind, subject, caller=caller, **facts)

        await self._database.write(body)

    async def counts(self) -> list[Row]:
        """How many tasks of each agent are in each open state."""
        return await self._database.all("task_counts")

    async def _fence(self, transaction: Transaction) -> int:
        row = await transaction.one("counter_next", name="fence")
        assert row is not None
        return row["value"]

    async def _write_result(self, transaction: Transaction, task: Task, result: Mapping[str, Any]) -> None:
        await transaction.one(
            "task_result",
            number=task.number,
            fence=task.fence,
            result=json.dumps(result, ensure_ascii=False),
            summary=result.get("text", ""),
        )


async def _held(transaction: Transaction, task: Task) -> Task:
    """The task as it is now, if its attempt still goes on and is the caller's: an attempt ends only once."""
    current = await require_task(transaction, task.number)
    if current.fence != task.fence or current.status not in ("running", "cancelling"):
        raise ConflictError(
            f"Attempt {task.attempt} of task {task.number} has ended, or is somebody else's.", existing=current.record()
        )
    return current


def _next(current: Task, ending: Ending, now: int) -> tuple[Status, str | None, int | None]:
    """What becomes of the task. Whoever asked for a cancel gets no retry, but the truth if the work was done."""
    if current.status == "cancelling":
        if ending.status == "completed":
            return "completed", None, None
        if ending.reason == "stop_failed":
            return "failed", "stop_failed", None
        return "cancelled", current.reason, None
    if ending.retry_at is not None and ending.retry_at <= now:
        return "queued", ending.reason, None
    if ending.retry_at is not None:
        return "scheduled", ending.reason, ending.retry_at
    if ending.status == "completed":
        return "completed", ending.reason, None
    return "failed", ending.reason, None
