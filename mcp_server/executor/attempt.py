"""One attempt of one task, followed from its start, or from where the last server left it, to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mcp_server.agent import Agent, Invocation, WorkOrder
from mcp_server.approvals import Approvals
from mcp_server.attempts import AGENT_NOT_INSTALLED, Attempts, Ending
from mcp_server.clock import Clock
from mcp_server.drivers.records import RECORDS_NAME, RECORDS_VARIABLE
from mcp_server.errors import ConflictError, ForbiddenError, NotFoundError, OffhandError, StoreError, UnavailableError
from mcp_server.executor.attempt_folder import AttemptFolder, OutputName, Spec, Status
from mcp_server.executor.diffs import Diffs
from mcp_server.executor.records import RecordReader
from mcp_server.executor.results import ending_of, failed, interrupted, reported
from mcp_server.executor.retry import quota_at, retry_at
from mcp_server.settings import MIB, Settings
from mcp_server.store.database import Transaction
from mcp_server.tasks import Task
from mcp_server.workspaces import Workspaces

STREAMS: tuple[OutputName, ...] = ("stdout", "stderr")
BATCH_BYTES = 1024 * 1024
"""Of output, in one transaction."""

LOOK_SECONDS = 1.0
"""A running attempt is looked at this often, should a ring of its bell be lost."""

FINISH_RETRY_SECONDS = 5.0
"""Between tries to write an end down, while the disk is full."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every attempt needs."""

    attempts: Attempts
    approvals: Approvals
    diffs: Diffs
    settings: Settings
    workspaces: Workspaces
    folder: Path
    clones: Path
    supervisor: Path
    bell: Path
    now: Clock
    pid_namespaces: asyncio.Future[bool]
    """Whether the system gives us any; known some milliseconds after the start."""


class AttemptRun:
    """Follows one attempt. `changed` is set by the bell and by a request to cancel."""

    def __init__(self, shop: Workshop, task: Task, agent: Agent) -> None:
        self._shop = shop
        self._agent = agent
        self.task = task
        self.folder = AttemptFolder(shop.folder / f"{task.number}-{task.attempt}")
        self.changed = asyncio.Event()
        self.cancel_requested = task.status == "cancelling"
        self._ended = asyncio.Event()
        self._positions: dict[OutputName, int] = dict.fromkeys(STREAMS, 0)
        self._records = RecordReader(self.folder.path / RECORDS_NAME)

    def request_cancel(self) -> None:
        """End the tree. The end comes by itself once it is dead."""
        self.cancel_requested = True
        self.changed.set()

    async def start(self) -> None:
        """Start the supervisor and follow it to the end."""
        try:
            self._still_allowed()
            order = await self._order()
            self._still_contained(order)
            invocation = self._agent.invocation(order)
            spec = self._spec(invocation, pid_namespace=await self._shop.pid_namespaces)
            self.folder.start(spec, supervisor=self._shop.supervisor, stdin=invocation.stdin.encode())
        except UnavailableError as error:
            if not self._agent.availability().ready:  # it went between the claim and now
                await self._shop.attempts.forget(self.task, AGENT_NOT_INSTALLED)
                return
            await self._finish(failed(error.message, error.say, "invalid"))
            return
        except OffhandError as error:
            await self._finish(failed(error.message, error.say, "invalid"))
            return
        except OSError as error:
            again = self._retry_at()
            say = "It could not be started on your machine."
            await self._finish(failed(f"It could not be started: {error}", say, "spawn_failed", again))
            return
        except Exception:
            logger.exception("task %d could not be begun", self.task.number)
            await self._finish(_our_fault())
            return
        await self._follow(order)

    async def adopt(self) -> None:
        """Go on with what an earlier server started."""
        if not self.folder.has_begun():
            self.folder.remove()
            await self._shop.attempts.forget(self.task)
            return
        for stream in STREAMS:
            self._positions[stream] = await self._shop.attempts.output_end(self.task, stream)
        self._records.replay(await self._shop.attempts.records_read(self.task))
        await self._follow(await self._order())

    def _still_allowed(self) -> None:
        """While the task waited, its workspace may have been removed, or its folder become a link to elsewhere."""
        if self.task.workspace is None:
            return
        place = self._shop.workspaces.resolve(self.task.workspace, self.task.cwd)
        if str(place.cwd) != self.task.cwd:
            raise ForbiddenError("The folder of this task leads elsewhere by now, so it was not started.")

    def _still_contained(self, order: WorkOrder) -> None:
        """What was allowed only because it is kept apart from the rest is not begun where it would not be."""
        if self.task.contained and not self._agent.check(order).contained:
            raise ForbiddenError(
                "It was allowed because it would be kept apart from the rest of your machine, and now it would not be.",
                field="agent",
                fix="Have it retried: then you are asked.",
            )

    async def _order(self) -> WorkOrder:
        task, attempts = self.task, self._shop.attempts
        cwd = Path(task.cwd) if task.cwd else None
        first = await attempts.first_of_conversation(task) if task.parent_id else task.number
        return WorkOrder(
            description=task.description,
            params=task.params,
            workspace=self._shop.workspaces.root(task.workspace) or cwd,
            cwd=cwd,
            earlier=await attempts.conversation(task) if task.parent_id else (),
            attempt=task.attempt,
            task_id=task.id,
            number=task.number,
            state=await attempts.state(task),
            granted=await self._shop.approvals.granted(task),
            clone=self._shop.clones / str(first),
            resumed=task.attempt > 1 and await attempts.had_begun(task),
        )

    def _spec(self, invocation: Invocation, *, pid_namespace: bool) -> Spec:
        settings = self._shop.settings
        records = {RECORDS_VARIABLE: str(self._records.path)} if invocation.records else {}
        return Spec(
            attempt=self.folder.path.name,
            argv=invocation.argv,
            cwd=str(invocation.cwd),
            env={**invocation.env, **records},
            timeout_seconds=self.task.timeout_seconds,
            output_limit_bytes=settings.output_limit_bytes,
            cookie=secrets.token_hex(16),
            idle_seconds=settings.idle_seconds,
            bell=str(self._shop.bell),
            pid_namespace=pid_namespace,
            nice=settings.nice,
            open_files=settings.open_files,
            memory_limit_bytes=settings.memory_limit_mb * MIB if settings.memory_limit_mb else None,
        )

    async def _follow(self, order: WorkOrder) -> None:
        status = await self._until_ended()
        self.folder.reap()
        if status is None:  # the supervisor was killed: end what it left behind, then say so
            status = await self._swept()
        while not await self._keep():
            await asyncio.sleep(FINISH_RETRY_SECONDS)
        self._take_the_end_of_records()
        await self._finish(await self._reported(await self._ending(order, status)))
        self.folder.remove()

    async def _swept(self) -> Status | None:
        """Have the rest of the tree ended, however often whoever does it is killed. None: it could not be recorded."""
        while True:
            try:
                self.folder.start_sweep(supervisor=self._shop.supervisor)
            except ConflictError:
                logger.info("task %d has a supervisor, or an end, after all", self.task.number)
            except (StoreError, FileNotFoundError) as error:  # its folder is damaged or gone
                logger.error("what is left of task %d cannot be found: %s", self.task.number, error)
                return None
            except OSError as error:
                logger.error("no process could be started to end what is left of task %d: %s", self.task.number, error)
                await asyncio.sleep(FINISH_RETRY_SECONDS)
                continue
            status = await self._until_ended()
            killed = (self.folder.reap() or 0) < 0
            if status is not None or not killed:
                return status

    async def _ending(self, order: WorkOrder, status: Status | None) -> Ending:
        again = self._retry_at()
        if status is not None and status.outcome != "lost":
            pauses = await self._shop.attempts.quota_pauses(self.task) + 1
            chance = random.random()  # noqa: S311  # jitter
            try:
                return ending_of(
                    self.task,
                    self._agent,
                    order,
                    self.folder,
                    status,
                    again,
                    records=tuple(self._records.records),
                    quota_at=partial(quota_at, pauses=pauses, now=self._shop.now(), chance=chance),
                )
            except Exception:  # a fault in an agent must not leave its task running for ever
                logger.exception("the end of task %d could not be judged", self.task.number)
                return _our_fault()
        at_once = self._shop.now() if again is not None else None
        if survivors := list(status.survivors) if status else []:
            text = f"It was interrupted, and processes of it are still alive: {survivors}."
            return failed(text, "It was interrupted, and processes of it are still alive.", "stop_failed")
        proven = status is not None and status.verified
        if self.cancel_requested:
            return interrupted("Cancelled, but its supervisor was killed meanwhile.", proven=proven)
        return interrupted("It was interrupted, and no attempt is left.", at_once, proven=proven)

    async def _reported(self, ending: Ending) -> Ending:
        """The same with what its driver wrote down, and with the diff, if this is the end of its task."""
        try:
            earlier = await self._shop.attempts.reports_before(self.task)
            goes_on = ending.pause is not None or ending.retry_at is not None
            diff = {} if goes_on and not self.cancel_requested else await self._kept_diff()
            records = self._records.records
            if records:  # what it remembers may be older than this attempt
                records = [{"type": "state", "state": await self._shop.attempts.state(self.task)}, *records]
            return reported(ending, tuple(records), earlier, **diff)
        except Exception:  # as above: the end counts more than what is said of it
            logger.exception("what task %d reported could not be kept", self.task.number)
            return ending

    async def _kept_diff(self) -> dict[str, Any]:
        while True:
            try:
                return await self._shop.diffs.keep(self.task, self.folder.path)
            except StoreError as error:
                logger.error("the diff of task %d waits: %s", self.task.number, error)
                await asyncio.sleep(FINISH_RETRY_SECONDS)

    def _take_the_end_of_records(self) -> None:
        """Of what was too long to be read, how it ended; and say how much was not."""
        if count := self._records.left_over():
            self._records.take_end()
            logger.warning("the last %d bytes of the records of task %d were not followed", count, self.task.number)

    def _retry_at(self) -> int | None:
        return retry_at(self.task.attempt, self.task.attempts_allowed, self._shop.now(), random.random())  # noqa: S311  # jitter

    async def _until_ended(self) -> Status | None:
        """Keep output as it comes, until no supervisor is alive."""
        asked = False
        with self._exit_watched():
            while not self._ended.is_set() and self.folder.is_alive():
                self.changed.clear()
                if self.cancel_requested and not asked:
                    asked = self.folder.terminate()
                await self._keep()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), LOOK_SECONDS)
        try:
            return self.folder.status()
        except StoreError:
            logger.exception("how task %d ended cannot be read", self.task.number)
            return None

    @contextlib.contextmanager
    def _exit_watched(self) -> Generator[None]:
        """Be told at once when the supervisor ends, where the system can tell (Linux); the look finds it elsewhere."""
        self._ended.clear()
        try:
            pidfd = self.folder.open_pidfd()
        except NotImplementedError:
            pidfd = None
        if pidfd is None:
            yield
            return
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(pidfd)
            self._ended.set()
            self.changed.set()

        loop.add_reader(pidfd, ended)
        try:
            yield
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)

    async def _keep(self) -> bool:
        """Move what came into the store. False: some of it has to wait, as on a full disk."""
        return await self._keep_output() and await self._keep_records()

    async def _keep_records(self) -> bool:
        while read := self._records.next():
            try:
                await self._shop.attempts.keep_records(self.task, read)
            except (ConflictError, NotFoundError) as error:
                logger.warning("records of task %d came late: %s", self.task.number, error)
            except OffhandError as error:  # the file has them; the next look tries again
                logger.warning("records of task %d wait: %s", self.task.number, error)
                return False
            self._records.done()
        return True

    async def _keep_output(self) -> bool:
        """Move what the files have grown by into the store. False: some of it has to wait, as on a full disk."""
        while True:
            pieces: list[tuple[OutputName, int, bytes]] = [
                (stream, self._positions[stream], data)
                for stream in STREAMS
                if (data := self.folder.read(stream, self._positions[stream], BATCH_BYTES))
            ]
            if not pieces:
                return True
            try:
                await self._shop.attempts.append_output(self.task, pieces)
            except OffhandError as error:  # the file has it; the next look tries again
                logger.warning("output of task %d waits: %s", self.task.number, error)
                return False
            for stream, position, data in pieces:
                self._positions[stream] = position + len(data)

    async def _finish(self, ending: Ending) -> None:
        """Write the end down, however long the disk stays full. A late one is somebody else's by now."""
        while True:
            try:
                await self._shop.attempts.finish(self.task, ending, partial(self._ask, ending))
                return
            except (ConflictError, NotFoundError) as error:
                logger.warning("the end of task %d came late: %s", self.task.number, error)
                return
            except OffhandError as error:
                logger.error("the end of task %d waits: %s", self.task.number, error)
                await asyncio.sleep(FINISH_RETRY_SECONDS)
                await self._keep_output()

    async def _ask(self, ending: Ending, transaction: Transaction, task: Task, now: int) -> None:
        ask = ending.ask
        await self._shop.approvals.ask(transaction, task, ask["about"], ask["action"], ask["say"], ask.get("diff"), now)


def _our_fault() -> Ending:
    """What went wrong is in the log; nothing of the exception leaves."""
    return failed(
        "Something went wrong in Offhand itself; the log of the server says what.",
        "Something went wrong in Offhand itself, so I do not know what came of it.",
        "internal",
    )
