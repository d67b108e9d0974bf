"""What a client that asked for progress is told of a task while a call waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

import anyio

from mcp_server.attempts import Attempts
from mcp_server.errors import NotFoundError
from mcp_server.live import Live, Subscription
from mcp_server.spoken import visible
from mcp_server.tasks import Task, Tasks

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.25
"""Between two notifications of one call."""

LINE_CHARACTERS = 120
"""Of the output's last line; the rest of it is cut."""

TAIL_BYTES = 2048
"""Of the output that are looked at for its last line."""

Report = Callable[[float, float | None, str | None], Awaitable[None]]
"""Progress, a total if there is one, and a message."""

_report: ContextVar[Report | None] = ContextVar("offhand_progress", default=None)


@contextmanager
def reporting_to(report: Report | None) -> Generator[None]:
    """The client of the call that runs inside asked for progress: `report` tells it. None: it did not ask."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


class Progress:
    """Tells of tasks that are waited for."""

    def __init__(self, live: Live, tasks: Tasks, attempts: Attempts) -> None:
        self._live = live
        self._tasks = tasks
        self._attempts = attempts

    @asynccontextmanager
    async def of(self, task: Task, wait_seconds: float) -> AsyncGenerator[None]:
        """While the block inside waits for `task`, its client is told, if it asked: the state, and what the agent says
        that it does, else the output's last line; as they are and whenever they change, at most four times a second,
        each time counting one further."""
        report = _report.get()
        if report is None or wait_seconds <= 0:
            yield
            return
        with self._live.subscribe(f"task://{task.id}", f"task://{task.id}/output") as subscription:
            # No task group: it would wrap the errors that the block raises.
            telling = asyncio.create_task(self._tell_while_possible(task, report, subscription))
            try:
                yield
            finally:
                telling.cancel()
                await asyncio.wait([telling])

    async def _tell_while_possible(self, task: Task, report: Report, subscription: Subscription) -> None:
        try:
            await self._tell(task, report, subscription)
        except NotFoundError:
            return  # deleted meanwhile: the call itself says so
        except Exception:
            logger.exception("a client is told of progress no more")

    async def _tell(self, task: Task, report: Report, subscription: Subscription) -> None:
        output = _LastLine(self._attempts)
        count, told = 0, ""
        while True:
            task = await self._tasks.get(task.id)
            state = task.status.replace("_", " ")
            line = visible(task.progress) if task.progress else await output.of(task)
            message = f"{state}: {line}" if line else state
            if message != told:
                count += 1
                await report(count, None, message)
                told = message
                await anyio.sleep(PAUSE_SECONDS)
            if await subscription.changed() is None:
                return


class _LastLine:
    """The last line of whichever stream grew last."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._ends: dict[str, int] = {}
        self._line = ""

    async def of(self, task: Task) -> str:
        for stream in ("stderr", "stdout"):
            end = await self._attempts.output_end(task, stream)
            if end != self._ends.get(stream, 0):
                tail = await self._attempts.read_output(task, stream, max(0, end - TAIL_BYTES), TAIL_BYTES)
                self._line = _last_line(tail) or self._line
            self._ends[stream] = end
        return self._line


def _last_line(output: bytes) -> str:
    lines = [" ".join(line.split()) for line in visible(output.decode("utf-8", "replace")).split("\n")]
    line = next((line for line in reversed(lines) if line), "")
    return line if len(line) <= LINE_CHARACTERS else line[: LINE_CHARACTERS - 1] + "…"
