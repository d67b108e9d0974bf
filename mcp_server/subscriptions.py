"""Telling clients that something changed: `subscriptions/listen`, and `resources/subscribe` of the older era.

What is told is only that something changed. Whoever is told later, because it reads slowly, is told once of all that
happened in between; nothing is kept for who is not connected.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import anyio
from mcp.server import MCPServer
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver import require_client_extension
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    EmptyResult,
    Notification,
    NotificationParams,
    RequestId,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    ResourceUpdatedNotificationParams,
    ServerNotification,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from mcp_server.callers import Caller, current_caller
from mcp_server.errors import InvalidError, NotFoundError, OffhandError, TooLargeError, UnavailableError
from mcp_server.live import RESOURCE_LIST, Live, Subscription
from mcp_server.policy import require_scope
from mcp_server.protocol import Context, can_reach, connection, handle, lowlevel
from mcp_server.resources.serve import Resources
from mcp_server.task_extension import TASKS

FOLLOWED_LIMIT = 1_000
"""Addresses and tasks that one stream, or one connection of the older era, may follow."""

STREAMS_PER_CALLER_LIMIT = 1_000
"""Open at once with one key, or from the desk."""

SUBSCRIPTIONS_LIMIT = 5_000
"""Streams and connections of the older era that are told of changes at once."""

REACH_PAUSES_SECONDS = (0.05, 5.0)
"""The shortest and the longest between two looks whether a client that is to be told something can be reached."""

logger = logging.getLogger(__name__)

TaskView = Callable[[str], Awaitable[dict[str, Any]]]


class _TaskNotification(Notification[dict[str, Any], Literal["notifications/tasks"]]):
    """A task changed. The SDK does not know this one."""

    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a client asked for and can have: addresses as it wrote them, by what they are about."""

    lists: frozenset[str] = frozenset()
    uris: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    task_ids: tuple[str, ...] = ()

    @property
    def subjects(self) -> set[str]:
        """What is followed for it."""
        lists = {RESOURCE_LIST} if "resources_list_changed" in self.lists else set[str]()
        return lists | {*self.uris} | {f"task://{name}" for name in self.task_ids}


class Subscriptions:
    """The subscriptions of one server. `view` gives a task as `notifications/tasks` shows it."""

    def __init__(self, live: Live, resources: Resources, view: TaskView) -> None:
        self._live = live
        self._resources = resources
        self._view = view
        self._streams: Counter[tuple[str, str]] = Counter()
        self._can_reach: Callable[[Connection], bool] = lambda client: True

    def add_to(self, server: MCPServer[Any]) -> None:
        """Serve every way of subscribing."""
        handle(server, "subscriptions/listen", SubscriptionsListenRequestParams, self._on_listen)
        handle(server, "resources/subscribe", SubscribeRequestParams, self._on_subscribe)
        handle(server, "resources/unsubscribe", UnsubscribeRequestParams, self._on_unsubscribe)
        lowlevel(server).add_notification_handler("notifications/initialized", NotificationParams, self._on_initialized)
        lowlevel(server).middleware.append(_announced)
        self._can_reach = partial(can_reach, server)

    async def _on_listen(self, ctx: Context, params: SubscriptionsListenRequestParams) -> HandlerResult:
        require_scope(current_caller(), "read")
        assert ctx.request_id is not None  # else it would not have come here
        stream = _Stream(ctx, ctx.request_id)
        with self._place_for(current_caller()):
            wanted = await self._wanted(ctx, params.notifications)
            with self._live.subscribe(*wanted.subjects, *_key(current_caller())) as subscription:
                await stream.acknowledge(wanted)
                for task_id in wanted.task_ids:
                    await self._tell_of_task(stream, task_id)  # it may have ended before it was followed
                await self._tell(stream, wanted, subscription)
        return SubscriptionsListenResult(_meta=stream.meta)

    async def _tell(self, stream: _Stream, wanted: _Wanted, subscription: Subscription) -> None:
        tasks = {f"task://{task_id}": task_id for task_id in wanted.task_ids}
        while (subject := await subscription.changed()) is not None:
            if subject == RESOURCE_LIST:
                await stream.tell_of_list()
            if subject.startswith("key://"):
                return
            for uri in wanted.uris.get(subject, ()):
                await stream.tell_of_resource(uri)
            if subject in tasks:
                await self._tell_of_task(stream, tasks[subject])

    async def _tell_of_task(self, stream: _Stream, task_id: str) -> None:
        with suppress(NotFoundError):  # deleted with its session: there is no state of it to be shown
            await stream.tell_of_task(await self._view(task_id))

    @contextmanager
    def _place_for(self, caller: Caller) -> Generator[None]:
        """One of the streams that may be open. Raises UnavailableError: there are too many."""
        owner = (caller.level, caller.key_id or caller.name)
        if self._live.subscriptions >= SUBSCRIPTIONS_LIMIT:
            raise _too_many(SUBSCRIPTIONS_LIMIT, "in all")
        if self._streams[owner] >= STREAMS_PER_CALLER_LIMIT:
            raise _too_many(STREAMS_PER_CALLER_LIMIT, "for one key")
        self._streams[owner] += 1
        try:
            yield
        finally:
            self._streams[owner] -= 1
            if not self._streams[owner]:
                del self._streams[owner]

    async def _wanted(self, ctx: Context, asked: SubscriptionFilter) -> _Wanted:
        """What of `asked` can be followed.

        Raises:
            InvalidError, NotFoundError: nothing of it.
            TooLargeError: it is too much.
        """
        names = [name for name in _LISTS if getattr(asked, name)]
        uris = list(dict.fromkeys(asked.resource_subscriptions or ()))
        task_ids = _task_ids(asked)
        if len(uris) + len(task_ids) > FOLLOWED_LIMIT:
            raise _too_much()
        if task_ids:
            require_client_extension(ctx, TASKS)
        refusals: list[OffhandError] = []
        by_subject: dict[str, list[str]] = {}
        for uri in uris:
            try:
                by_subject.setdefault(await self._resources.subject(uri), []).append(uri)
            except OffhandError as error:
                refusals.append(error)
        known: list[str] = []
        for task_id in task_ids:
            try:
                await self._view(task_id)
                known.append(task_id)
            except OffhandError as error:
                refusals.append(error)
        if refusals and not (names or by_subject or known):
            raise refusals[0]
        return _Wanted(frozenset(names), by_subject, tuple(known))

    async def _on_subscribe(self, ctx: Context, params: SubscribeRequestParams) -> HandlerResult:
        require_scope(current_caller(), "read")
        subject = await self._resources.subject(params.uri)
        self._follower(ctx).add(params.uri, subject)
        return EmptyResult()

    async def _on_unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> HandlerResult:
        follower: _Follower | None = connection(ctx).state.get(_FOLLOWER)
        if follower is not None:
            follower.remove(params.uri)
        return EmptyResult()

    async def _on_initialized(self, ctx: Context, params: NotificationParams | None) -> None:
        # Nobody asked for it, so that there is nobody to whom it could be refused.
        if "read" in current_caller().scopes:
            with suppress(UnavailableError):
                self._follower(ctx).subscription.follow(RESOURCE_LIST)

    def _follower(self, ctx: Context) -> _Follower:
        """Of this connection, for as long as it lasts. Raises UnavailableError: it has none yet and can have none."""
        client = connection(ctx)
        if _FOLLOWER in client.state:
            return client.state[_FOLLOWER]
        if self._live.closing:
            raise UnavailableError("The server is stopping.", field="uri", fix="Try again when it is back.")
        if self._live.subscriptions >= SUBSCRIPTIONS_LIMIT:
            raise _too_many(SUBSCRIPTIONS_LIMIT, "in all")
        subscription = client.exit_stack.enter_context(self._live.subscribe(*_key(current_caller())))
        follower = client.state[_FOLLOWER] = _Follower(client, subscription, partial(self._can_reach, client))
        scope = anyio.CancelScope()
        client.exit_stack.callback(scope.cancel)
        self._live.group.start_soon(follower.run, scope)
        return follower


class _Stream:
    """The answer to one `subscriptions/listen`: what goes out on it carries the id of the request."""

    def __init__(self, ctx: Context, request_id: RequestId) -> None:
        self._ctx = ctx
        self._request_id = request_id
        self.meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: request_id}

    async def acknowledge(self, wanted: _Wanted) -> None:
        """The first thing on it: which part of what was asked will be told."""
        honoured: dict[str, Any] = dict.fromkeys(wanted.lists, True)
        if wanted.uris:
            honoured["resource_subscriptions"] = [uri for uris in wanted.uris.values() for uri in uris]
        if wanted.task_ids:
            honoured["taskIds"] = list(wanted.task_ids)
        params = SubscriptionsAcknowledgedNotificationParams(
            notifications=SubscriptionFilter(**honoured), _meta=self.meta
        )
        await self._send(SubscriptionsAcknowledgedNotification(params=params))

    async def tell_of_list(self) -> None:
        """There are other resources than before."""
        await self._send(ResourceListChangedNotification(params=NotificationParams(_meta=self.meta)))

    async def tell_of_resource(self, uri: str) -> None:
        """It reads otherwise than before."""
        params = ResourceUpdatedNotificationParams(uri=uri, _meta=self.meta)
        await self._send(ResourceUpdatedNotification(params=params))

    async def tell_of_task(self, task: Mapping[str, Any]) -> None:
        """All of it, as it is now."""
        # The SDK sends any notification; its type names those that it knows.
        await self._send(cast("ServerNotification", _TaskNotification(params={**task, "_meta": self.meta})))

    async def _send(self, notification: ServerNotification) -> None:
        await self._ctx.session.send_notification(notification, related_request_id=self._request_id)


class _Follower:
    """What one connection of the older era follows, and the one who tells it."""

    def __init__(self, client: Connection, subscription: Subscription, can_reach: Callable[[], bool]) -> None:
        self._client = client
        self._can_reach = can_reach
        self._uris: dict[str, str] = {}
        self.subscription = subscription

    def add(self, uri: str, subject: str) -> None:
        """Tell of `uri` from now on. Raises TooLargeError."""
        if uri not in self._uris and len(self._uris) >= FOLLOWED_LIMIT:
            raise _too_much()
        self._uris[uri] = subject
        self.subscription.follow(subject)

    def remove(self, uri: str) -> None:
        """Tell of it no more; of what was not followed, nothing."""
        subject = self._uris.pop(uri, None)
        if subject is not None and subject not in self._uris.values():
            self.subscription.unfollow(subject)

    async def run(self, scope: anyio.CancelScope) -> None:
        """Tell until the connection ends, the server closes, or the key is revoked."""
        with scope:
            try:
                await self._tell()
            except Exception:  # what goes wrong with one client must not end the server
                logger.exception("a client is told of changes no more")

    async def _tell(self) -> None:
        while (subject := await self.subscription.changed()) is not None:
            if subject.startswith("key://"):
                return
            await self._reachable()
            if subject == RESOURCE_LIST:
                await self._client.notify("notifications/resources/list_changed", None)
            for uri in [uri for uri, about in self._uris.items() if about == subject]:
                await self._client.notify("notifications/resources/updated", {"uri": uri})

    async def _reachable(self) -> None:
        """Over HTTP a client opens the stream for what it did not ask for when it likes, and the SDK tells nobody."""
        pause = REACH_PAUSES_SECONDS[0]
        while not self._can_reach():
            await anyio.sleep(pause)
            pause = min(2 * pause, REACH_PAUSES_SECONDS[1])


_FOLLOWER = "offhand.follower"
_LISTS = ("tools_list_changed", "prompts_list_changed", "resources_list_changed")
"""Of these only the resources ever change while a server lives."""


async def _announced(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Middleware: what the SDK lets nobody set, that the older era is told of changed lists too.

    Tools and prompts are others after an upgrade: then the shim, which outlives the server, tells its client.
    """
    result = await call_next(ctx)
    if ctx.method == "initialize" and isinstance(result, dict):
        for kind in ("resources", "tools", "prompts"):
            result["capabilities"][kind]["listChanged"] = True
    return result


def _task_ids(asked: SubscriptionFilter) -> list[str]:
    """Those that the Tasks extension adds to the filter. Raises InvalidError."""
    given = (asked.model_extra or {}).get("taskIds")
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(item, str) for item in cast("list[object]", given)):
        raise InvalidError("taskIds is no list of ids.", field="taskIds", fix="Give the taskId of every handle.")
    return list(dict.fromkeys(cast("list[str]", given)))


def _key(caller: Caller) -> Iterable[str]:
    """What is followed beside: a stream does not outlive the key that opened it."""
    return () if caller.key_id is None else (f"key://{caller.key_id}",)


def _too_much() -> TooLargeError:
    return TooLargeError(
        f"More than {FOLLOWED_LIMIT} resources cannot be followed together.",
        field="uri",
        fix="Follow their session, or the list of resources.",
    )


def _too_many(limit: int, whose: str) -> UnavailableError:
    return UnavailableError(
        f"There are {limit} subscriptions open {whose}.", field="notifications", fix="Close some, and try again."
    )
