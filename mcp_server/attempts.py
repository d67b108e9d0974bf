"""The executor's side of a task: claiming it, keeping its output, and writing down how an attempt ended.

Every write carries the fencing number of its attempt; one that comes late changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
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

AGENT_NOT_INSTALLED = "agent_not_installed"
QUEUE_BATCH_ROWS = 500
STATE_LIMIT_BYTES = 256 * 1024
"""Of what an agent remembers of one conversation."""

Asks = Callable[[Transaction, Task, int], Awaitable[None]]
"""Puts the question that a task waits for, at a time (microseconds), in the transaction that makes the task wait."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended. `retry_at`: when to try again (microseconds), None for not.

    `pause`: the task goes on later where it was, and this attempt counts for none: once the user has answered what it
    `asks` (then `ask` says what, as `drivers.records.Ask` has it), or at `retry_at`, when the `quota` is there again.
    """

    status: AttemptStatus
    reason: str | None
    result: Mapping[str, Any]
    returncode: int | None = None
    retry_at: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pause: Literal["asks", "quota"] | None = None
    ask: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class RecordsRead:
    """Records of an attempt from byte `start` to byte `end` of their file: what is to be told and remembered of them.

    `progress`: what the agent did, one after another. `state`: what was added to its memory of the conversation.
    """

    start: int
    end: int
    progress: Sequence[str] = ()
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])


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
                reason = None if task.agent in installed else AGENT_NOT_INSTALLED
                await move(self._events, transaction, task, "queued", reason, self._now())
            following = await transaction.one("task_next_due")
            return following["run_after"] if following else None

        return await self._database.write(body)

    async def set_installed(self, agent: str, installed: bool) -> None:
        """Have the queued tasks of an agent say whether they wait for it to be installed."""
        reason, after = None if installed else AGENT_NOT_INSTALLED, 0
        while found := await self._database.all(
            "task_queued_of", agent=agent, reason=reason, after=after, limit=QUEUE_BATCH_ROWS
        ):
            numbers = [row["number"] for row in found]
            after = numbers[-1]
            await self._set_reason(numbers, reason)

    async def _set_reason(self, numbers: Iterable[int], reason: str | None) -> None:
        async def body(transaction: Transaction) -> None:
            for number in numbers:
                row = await transaction.one("task_set_reason", number=number, reason=reason, now=self._now())
                if row is not None:
                    await record_event(self._events, transaction, Task.of(row), None, kind="task.changed")

        await self._database.write(body)

    async def keep_records(self, task: Task, read: RecordsRead) -> None:
        """Tell of what the agent did and remember its state, and that these records are dealt with, all at once.

        Raises:
            ConflictError: the attempt belongs to somebody else by now, has ended, or is not at `read.start`.
            NotFoundError: the task was deleted.
        """

        async def body(transaction: Transaction) -> None:
            current = await _held(transaction, task)
            now, at = self._now(), {"task_number": task.number, "attempt": task.attempt, "fence": task.fence}
            if not await transaction.run("attempt_records_read", **at, start=read.start, end=read.end):
                raise ConflictError(f"The records of task {task.number} are read by somebody else.")
            shown = current.progress
            for say in read.progress:
                if say != shown:
                    await record_event(self._events, transaction, current, None, kind="task.progress", progress=say)
                shown = say
            if shown != current.progress:
                await transaction.run("task_progress", number=task.number, progress=shown, now=now, fence=task.fence)
            if read.state:
                await self._remember(transaction, current, read.state, now)

        await self._database.write(body)

    async def _remember(self, transaction: Transaction, task: Task, state: Mapping[str, Any], now: int) -> None:
        row = await transaction.one("conversation_state", conversation_id=task.conversation_id)
        text = json.dumps((json.loads(row["state"]) if row else {}) | dict(state))
        if len(text) > STATE_LIMIT_BYTES:
            logger.warning("task %d wants more remembered than there is room for; it is left out", task.number)
            return
        await transaction.run(
            "conversation_remember", conversation_id=task.conversation_id, agent=task.agent, state=text, now=now
        )

    async def records_read(self, task: Task) -> int:
        """Up to which byte the records of the attempt are dealt with."""
        row = await self._database.one("attempt_records", task_number=task.number, attempt=task.attempt)
        return row["records_read"] if row else 0

    async def state(self, task: Task) -> dict[str, Any]:
        """What the agent remembers of the task's conversation."""
        row = await self._database.one("conversation_state", conversation_id=task.conversation_id)
        return json.loads(row["state"]) if row else {}

    async def had_begun(self, task: Task) -> bool:
        """Whether an earlier attempt of this very task had begun to work, by its records."""
        found = await self._database.one("attempt_before", task_number=task.number, attempt=task.attempt)
        return found is not None

    async def reports_before(self, task: Task) -> list[dict[str, Any]]:
        """What the agent reported of the earlier attempts of this task, where it did, oldest first."""
        rows = await self._database.all("attempt_list", task_number=task.number)
        details = [json.loads(row["details"]) for row in rows if row["attempt"] < task.attempt]
        return [found["report"] for found in details if "report" in found]

    async def quota_pauses(self, task: Task) -> int:
        """How many attempts before this one, without another between them, found the quota used up."""
        row = await self._database.one("attempt_quota_pauses", task_number=task.number, attempt=task.attempt)
        return row["count"] if row else 0

    async def first_of_conversation(self, task: Task) -> int:
        """The number of the first task of the task's conversation."""
        row = await self._database.one("task_by_id", id=task.conversation_id)
        return row["number"] if row else task.number

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

    async def finish(self, task: Task, ending: Ending, asks: Asks | None = None) -> Task:
        """Write an attempt's end and what becomes of its task, in one transaction. `asks`: with a pause that asks.

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
            if status in ("queued", "scheduled", "waiting_approval"):
                if ending.pause is not None:
                    await transaction.run("task_allow_pause", number=task.number, fence=task.fence)
                moved = await move(
                    self._events, transaction, current, status, reason, now, run_after=run_after, fence=task.fence
                )
                if status == "waiting_approval":
                    assert asks is not None
                    await asks(transaction, moved, now)
                return moved
            async with reindexed(transaction, "task", task.number):
                await self._write_result(transaction, task, ending.result)
            return await move(self._events, transaction, current, status, reason, now, fence=task.fence)

        return await self._database.write(body)

    async def forget(self, task: Task, reason: str | None = None) -> Task:
        """An attempt that never began costs none: the task goes back to the queue. `reason`: why it waits there."""

        async def body(transaction: Transaction) -> Task:
            current = await _held(transaction, task)
            await transaction.run("attempt_delete", task_number=task.number, attempt=task.attempt)
            await transaction.run("task_refund_attempt", number=task.number, fence=task.fence)
            cancelling = current.status == "cancelling"
            status, why = ("cancelled", current.reason) if cancelling else ("queued", reason)
            return await move(self._events, transaction, current, status, why, self._now(), fence=task.fence)

        return await self._database.write(body)

    async def conversation(self, task: Task) -> tuple[str, ...]:
        """Messages and answers of the conversation before this task, oldest first; also of what began and failed."""
        rows = await self._database.all("task_conversation", conversation_id=task.conversation_id, number=task.number)
        return tuple(text for row in rows for text in (row["description"], row["summary"]) if text)

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
    if ending.pause == "asks":
        return "waiting_approval", ending.reason, None
    if ending.retry_at is not None and ending.retry_at <= now:
        return "queued", ending.reason, None
    if ending.retry_at is not None:
        return "scheduled", ending.reason, ending.retry_at
    if ending.status == "completed":
        return "completed", ending.reason, None
    return "failed", ending.reason, None
