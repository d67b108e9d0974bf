"""The worker: takes what is queued within the limits, and follows it to its end. Woken by events; it does not poll."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio.abc

from mcp_server.agent import Agent
from mcp_server.agents.registry import AgentRegistry
from mcp_server.approvals import Approvals
from mcp_server.artifacts import Artifacts
from mcp_server.attempts import Attempts
from mcp_server.callers import current_caller
from mcp_server.clock import MICROSECONDS, Clock
from mcp_server.errors import ConflictError, InvalidError, NotFoundError, OffhandError
from mcp_server.events import Events
from mcp_server.executor.attempt import AttemptRun, Workshop
from mcp_server.executor.attempt_folder import AttemptFolder, can_contain, compiled_supervisor
from mcp_server.executor.availability import watch
from mcp_server.executor.diffs import Diffs
from mcp_server.executor.limits import Limits, check_limit
from mcp_server.executor.results import failed
from mcp_server.release import release
from mcp_server.settings import Settings
from mcp_server.store.database import Event
from mcp_server.tasks import Task
from mcp_server.workspaces import Workspaces

WAKING = frozenset(
    {
        "task.queued",
        "task.scheduled",
        "task.changed",
        "task.cancelling",
        "task.completed",
        "task.failed",
        "task.cancelled",
    }
)
TROUBLE_SECONDS = 5.0
"""Before the queue is looked at again when the store failed."""

FOLLOW_TRIES = 20

CLOCK_LOOK_SECONDS = 30.0
"""While something is scheduled, the clock is looked at this often: no timer hears of a machine that slept, or of a
clock that was set."""

SWEEP_LOOK_SECONDS = 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adopted:
    """What a new server found of the last one's work."""

    running: int = 0
    finished: int = 0
    interrupted: int = 0
    not_begun: int = 0

    @property
    def say(self) -> str:
        """One sentence about it; empty where there was nothing."""
        if self == Adopted():
            return ""
        parts = [
            f"{self.running} still running" if self.running else "",
            f"{self.finished} finished meanwhile" if self.finished else "",
            f"{self.interrupted} interrupted" if self.interrupted else "",
            f"{self.not_begun} not begun yet" if self.not_begun else "",
        ]
        return f"Found after the restart: {', '.join(part for part in parts if part)}; none lost."


class Worker:
    """Claims tasks and runs them, as many at once as the settings allow."""

    def __init__(
        self,
        *,
        registry: AgentRegistry,
        attempts: Attempts,
        approvals: Approvals,
        artifacts: Artifacts,
        events: Events,
        settings: Settings,
        workspaces: Workspaces,
        folder: Path,
        clones: Path,
        bell: Path,
        now: Clock,
    ) -> None:
        self.attempts = attempts
        self._approvals = approvals
        self._diffs = Diffs(artifacts)
        self._registry = registry
        self._events = events
        self._settings = settings
        self._workspaces = workspaces
        self._folder = folder
        self._clones = clones
        self._bell = bell
        self._now = now
        self.limits = Limits(settings.limit, settings.limits)
        self.draining = False
        self.started_at = now()
        self._shop: Workshop | None = None
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._runs: dict[int, AttemptRun] = {}
        self._cancelled_in_claim: set[int] = set()
        """Tasks that were cancelled between the commit of their claim and the moment in which we heard of it."""

    async def start(self, group: anyio.abc.TaskGroup) -> Adopted:
        """Adopt what is running, then work in `group` until that is cancelled. Supervisors outlive it."""
        supervisor = await asyncio.to_thread(compiled_supervisor, self._folder)
        namespaces: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._shop = Workshop(
            attempts=self.attempts,
            approvals=self._approvals,
            diffs=self._diffs,
            settings=self._settings,
            workspaces=self._workspaces,
            folder=self._folder,
            clones=self._clones,
            supervisor=supervisor,
            bell=self._bell,
            now=self._now,
            pid_namespaces=namespaces,
        )
        group.start_soon(self._look_for_namespaces, supervisor, namespaces)
        self._events.listen(self._hear)
        ringing = _open_bell(self._bell)
        group.start_soon(self._answer_bell, ringing)
        adopted = await self._adopt(group)
        await self._tell_of_the_start(adopted)
        group.start_soon(self._work, group)
        for agent in self._registry:
            group.start_soon(watch, agent, self.attempts, self._wake.set)
        return adopted

    async def _tell_of_the_start(self, adopted: Adopted) -> None:
        found = asdict(adopted)
        try:
            await self.attempts.tell("server.started", "server", None, version=release(), say=adopted.say, **found)
        except OffhandError as error:  # a server on a full disk can still be asked what there is
            logger.warning("the start could not be written down: %s", error)

    @property
    def running(self) -> int:
        """How many tasks run now; those that are being cancelled are among them."""
        return len(self._runs)

    def drain(self) -> None:
        """Begin nothing more. What is queued waits for the next server."""
        self.draining = True
        if not self._runs:
            self._drained.set()

    async def drained(self) -> None:
        """Return once nothing runs any more after `drain`."""
        await self._drained.wait()

    def check_limit(self, agent: str | None, limit: int | None) -> None:
        """Pass, or raise InvalidError as `change_limit` would."""
        if agent is not None:
            self._registry.get(agent)
        check_limit(agent is not None, limit)

    async def change_limit(self, agent: str | None, limit: int | None) -> None:
        """Another limit from now on, of one agent or without one for all together. What runs above it goes on.

        Raises:
            InvalidError: there is no such agent, or the number is out of range.
        """
        self.check_limit(agent, limit)
        self.limits.change(None if agent is None else self._registry.get(agent), limit)
        self._wake.set()
        subject = "server" if agent is None else f"agent://{agent}"
        await self.attempts.tell("limit.changed", subject, current_caller(), agent=agent, limit=limit)

    async def _look_for_namespaces(self, supervisor: Path, found: asyncio.Future[bool]) -> None:
        """Beside the start of the server, which nobody shall wait for."""
        wanted = self._settings.pid_namespace == "auto"
        found.set_result(wanted and await asyncio.to_thread(can_contain, supervisor))

    def title(self, agent: str) -> str:
        """How an agent is called by people."""
        return next((known.title for known in self._registry if known.name == agent), agent)

    def installed(self, agent: str) -> bool:
        """Whether it is here, as far as is known, though it may lack something."""
        return any(known.availability().installed for known in self._registry if known.name == agent)

    def supervisor_pids(self) -> list[int]:
        """Of the attempts that run now: whoever descends from one of them is part of a task."""
        pids = (run.folder.supervisor_pid() for run in self._runs.values())
        return [pid for pid in pids if pid is not None]

    def has_orphans(self) -> bool:
        """Whether a supervisor was killed, so that processes of a task may live that descend from none."""
        return any(run.folder.is_lost() for run in self._runs.values())

    async def agents(self) -> list[dict[str, Any]]:
        """What can do work here, with what is running and queued."""
        counts: Counter[tuple[str, str]] = Counter()
        for row in await self.attempts.counts():
            counts[row["agent"], "queued" if row["status"] == "queued" else "running"] += row["count"]
        return [self._described(agent, counts) for agent in self._registry]

    def _described(self, agent: Agent, counts: Counter[tuple[str, str]]) -> dict[str, Any]:
        available = agent.availability()
        return {
            "name": agent.name,
            "title": agent.title,
            "description": agent.description,
            "installed": available.installed,
            "ready": available.ready,
            "version": available.version,
            "missing": available.missing or None,
            "notes": list(available.notes),
            "continues": agent.continues,
            "needs_workspace": agent.needs_workspace,
            "limit": self.limits.of(agent),
            "default_timeout_seconds": agent.default_timeout_seconds,
            "running": counts[agent.name, "running"],
            "queued": counts[agent.name, "queued"],
        }

    def limits_set(self) -> dict[str, int | None]:
        """What the user has set for each agent; None where it is left to us."""
        return {agent.name: self.limits.own(agent) for agent in self._registry}

    def _hear(self, event: Event) -> None:
        if event.kind not in WAKING:
            return
        number = event.data["number"]
        if event.kind != "task.cancelling":
            self._cancelled_in_claim.discard(number)
        elif run := self._runs.get(number):
            run.request_cancel()
        else:
            self._cancelled_in_claim.add(number)
        self._wake.set()

    async def _work(self, group: anyio.abc.TaskGroup) -> None:
        """The claim loop."""
        while True:
            self._wake.clear()
            pause: float | None = TROUBLE_SECONDS
            ready = [agent.name for agent in self._registry if agent.availability().ready]
            try:
                due = await self.attempts.promote_due(ready)
                while free := self._free(ready):
                    task = await self.attempts.claim(free)
                    if task is None:
                        break
                    if self.draining:  # asked for while this was being claimed
                        await self.attempts.forget(task)
                        break
                    self._begin(group, task)
                pause = None if due is None else min(max(0.0, (due - self._now()) / MICROSECONDS), CLOCK_LOOK_SECONDS)
            except OffhandError:
                logger.exception("the queue could not be read")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    def _free(self, ready: list[str]) -> list[str]:
        """Those of the agents that may take another task now."""
        if self.draining or len(self._runs) >= self.limits.overall:
            return []
        running = Counter(run.task.agent for run in self._runs.values())
        return [name for name in ready if running[name] < self.limits.of(self._registry.get(name))]

    def _begin(self, group: anyio.abc.TaskGroup, task: Task, *, adopt: bool = False) -> None:
        assert self._shop is not None
        run = AttemptRun(self._shop, task, self._registry.get(task.agent))
        self._runs[task.number] = run
        if task.number in self._cancelled_in_claim:
            self._cancelled_in_claim.discard(task.number)
            run.request_cancel()
        group.start_soon(self._follow, run, adopt)

    async def _follow(self, run: AttemptRun, adopt: bool) -> None:
        try:
            tries = 0
            while not await self._followed(run, adopt) and (tries := tries + 1) < FOLLOW_TRIES:
                await asyncio.sleep(TROUBLE_SECONDS)
                adopt = True
        finally:
            del self._runs[run.task.number]
            self._wake.set()
            if self.draining and not self._runs:
                self._drained.set()

    async def _followed(self, run: AttemptRun, adopt: bool) -> bool:
        """Whether it could be followed to its end. Not to try again would leave the task running for ever."""
        try:
            await (run.adopt() if adopt else run.start())
        except (ConflictError, NotFoundError):
            logger.exception("task %d has ended, or belongs to somebody else", run.task.number)
        except Exception:
            logger.exception("task %d could not be followed", run.task.number)
            return False
        return True

    async def _adopt(self, group: anyio.abc.TaskGroup) -> Adopted:
        """Take over what the last server left `running`. Each is alive, finished meanwhile, or interrupted."""
        found: Counter[str] = Counter()
        for task in await self.attempts.running():
            adopted = await self.attempts.adopt(task.number)
            folder = AttemptFolder(self._folder / f"{task.number}-{task.attempt}")
            found[_state_of(folder)] += 1
            try:
                self._begin(group, adopted, adopt=True)
            except InvalidError as error:  # another release knew this agent
                folder.terminate()
                await self.attempts.finish(adopted, failed(error.message, error.message, "agent_unknown"))
        self._tidy(group)
        result = Adopted(**found)
        if result.say:
            logger.info(result.say)
        return result

    def _tidy(self, group: anyio.abc.TaskGroup) -> None:
        """Remove folders of attempts that are written down as ended; a crash may have come between the two."""
        followed = {run.folder.path for run in self._runs.values()}
        for path in self._folder.glob("*-*"):
            folder = AttemptFolder(path)
            if not path.is_dir() or path in followed or folder.is_alive():
                continue
            if (path / "spec.json").exists() and not (path / "status.json").exists():
                group.start_soon(self._sweep, folder)
            else:
                folder.remove()

    async def _sweep(self, folder: AttemptFolder) -> None:
        """End what an attempt left behind that no task knows of any more; only its folder says how to find it."""
        assert self._shop is not None
        killed = True
        try:
            while killed:
                folder.start_sweep(supervisor=self._shop.supervisor)
                while folder.is_alive():
                    await asyncio.sleep(SWEEP_LOOK_SECONDS)
                killed = (folder.reap() or 0) < 0
            folder.remove()
        except (OSError, OffhandError):  # the next start tries again
            logger.exception("what %s left behind could not be ended", folder.path.name)

    async def _answer_bell(self, ringing: socket.socket) -> None:
        """Supervisors ring when there is output or an end."""
        loop = asyncio.get_running_loop()
        with ringing, _removed(self._bell):
            while True:
                message = await loop.sock_recv(ringing, 256)
                number = message.partition(b" ")[2].partition(b"-")[0]
                run = self._runs.get(int(number)) if number.isdigit() else None
                if run is not None:
                    run.changed.set()


def _state_of(folder: AttemptFolder) -> str:
    """What became of an attempt while no server looked: a field of `Adopted`."""
    if (folder.path / "status.json").exists():
        return "finished"
    if folder.is_alive():
        return "running"
    return "interrupted" if folder.has_begun() else "not_begun"


def _open_bell(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    ringing = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ringing.bind(str(path))
    os.chmod(path, 0o600)
    ringing.setblocking(False)
    return ringing


@contextmanager
def _removed(path: Path) -> Generator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
