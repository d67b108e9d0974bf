"""The composition root: everything that one server is made of, opened and closed in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio

from mcp_server.agents.registry import AgentRegistry, all_agents
from mcp_server.approvals import Approvals
from mcp_server.artifacts import Artifacts
from mcp_server.attempts import Attempts
from mcp_server.catalogue import Catalogue
from mcp_server.clock import Clock, now_us
from mcp_server.conversations import Conversations
from mcp_server.delegation import Delegation, waiting_reason
from mcp_server.errors import InvalidError
from mcp_server.events import Events
from mcp_server.executor.expiry import Expiry
from mcp_server.executor.worker import Adopted, Worker
from mcp_server.keys import Deliveries, Keys
from mcp_server.live import Live
from mcp_server.memories import Memories
from mcp_server.paths import make_private, socket_folder
from mcp_server.policy import Policy
from mcp_server.retention import Retention
from mcp_server.search import Search
from mcp_server.sessions import Sessions
from mcp_server.settings import Settings
from mcp_server.store.sqlite import open_sqlite
from mcp_server.tasks import Tasks
from mcp_server.workspaces import Workspaces

STORE_FILE = "offhand.db"


@dataclass(frozen=True, slots=True)
class Runtime:
    """The nouns of one server over one store."""

    settings: Settings
    now: Clock
    events: Events
    live: Live
    keys: Keys
    deliveries: Deliveries
    sessions: Sessions
    conversations: Conversations
    memories: Memories
    artifacts: Artifacts
    search: Search
    catalogue: Catalogue
    tasks: Tasks
    approvals: Approvals
    delegation: Delegation
    worker: Worker
    workspaces: Workspaces
    adopted: Adopted
    stop: asyncio.Event
    """Set by whoever wants the server to end now."""


@asynccontextmanager
async def open_runtime(
    settings: Settings, now: Clock = now_us, stop: asyncio.Event | None = None
) -> AsyncGenerator[Runtime]:
    """Open the store, adopt what is running, and start to work on what is queued.

    Leaving it stops the worker; supervisors go on, and the next server finds them.

    Raises:
        AlreadyServingError: another server owns this home.
        ForeignStoreError, NewerStoreError, StoreError: the store cannot be used.
    """
    home = make_private(settings.home)
    events = Events(now)
    async with open_sqlite(home / STORE_FILE, events.publish) as database:
        workspaces = Workspaces(settings.workspaces)
        registry = AgentRegistry(all_agents(settings, workspaces.roots))
        _check_agent_names(settings, registry)
        tasks = Tasks(database, events, now)
        approvals = Approvals(
            database, events, settings.approval_seconds, now, waiting_reason=partial(waiting_reason, registry)
        )
        artifacts = Artifacts(database, events, now)
        worker = Worker(
            registry=registry,
            attempts=Attempts(database, events, now),
            approvals=approvals,
            artifacts=artifacts,
            events=events,
            settings=settings,
            workspaces=workspaces,
            folder=make_private(home / "attempts"),
            clones=make_private(home / "clones"),
            bell=make_private(socket_folder(home)) / "bell.sock",
            now=now,
        )
        async with anyio.create_task_group() as group:
            adopted = await worker.start(group)
            live = Live(events, group)
            group.start_soon(Expiry(approvals, events, now).run)
            group.start_soon(Retention(database, settings.retention, now, home / "clones").run)
            yield Runtime(
                settings=settings,
                now=now,
                events=events,
                live=live,
                keys=Keys(database, events, now),
                deliveries=Deliveries(database, now),
                sessions=Sessions(database, events, now),
                conversations=Conversations(database, events, now),
                memories=Memories(database, events, now),
                artifacts=artifacts,
                search=Search(database),
                catalogue=Catalogue(database),
                tasks=tasks,
                approvals=approvals,
                delegation=Delegation(registry, workspaces, Policy(settings.policy), tasks, approvals, now),
                worker=worker,
                workspaces=workspaces,
                adopted=adopted,
                stop=stop or asyncio.Event(),
            )
            events.close()
            live.close()
            group.cancel_scope.cancel()


def _check_agent_names(settings: Settings, registry: AgentRegistry) -> None:
    """A rule or a limit for an agent that does not exist would silently do nothing."""
    named = [("default_agent", settings.default_agent), *(("limits", name) for name in settings.limits)]
    named += [("policy", rule.agent) for rule in settings.policy if rule.agent is not None]
    known = [agent.name for agent in registry]
    for field, name in named:
        if name not in known:
            raise InvalidError(
                f"The settings name an agent {name!r}, which is not known.",
                field=field,
                fix=f"Known are: {', '.join(known)}.",
            )
