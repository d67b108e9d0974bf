"""Clients that follow something, in either protocol era, and what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import mcp_types
from mcp import Client
from mcp.client import IncomingMessage
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated

from tests.server.doors import DEADLINE_SECONDS, Door

LIST = "the list"
"""Among the addresses that were told: the list of resources changed."""


class Told:
    """What a client was told, in order: addresses, or `LIST`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    async def hear(self, message: IncomingMessage) -> None:
        """The message handler of a client of the older era."""
        if isinstance(message, mcp_types.ResourceUpdatedNotification):
            self.put(message.params.uri)
        if isinstance(message, mcp_types.ResourceListChangedNotification):
            self.put(LIST)

    def put(self, what: str) -> None:
        self._queue.put_nowait(what)

    async def next(self) -> str:
        """What is told next; waits for it."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self._queue.get()

    async def until(self, *these: str) -> None:
        """Wait until all of `these` were told, in any order; whatever else was told meanwhile is forgotten."""
        missing = {*these}
        while missing:
            missing.discard(await self.next())

    def now(self) -> list[str]:
        """All that was told and not looked at yet."""
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


@asynccontextmanager
async def follower(door: Door, **options: Any) -> AsyncGenerator[tuple[Client, Told]]:
    """A client, and what it is told without a stream of the newer era."""
    told = Told()
    async with door.open(message_handler=told.hear, **options) as client:
        yield client, told


async def subscribe(client: Client, uri: str) -> None:
    """Of the older era; the client's own method warns that it is."""
    request = mcp_types.SubscribeRequest(params=mcp_types.SubscribeRequestParams(uri=uri))
    await client.session.send_request(request, mcp_types.EmptyResult)


async def unsubscribe(client: Client, uri: str) -> None:
    request = mcp_types.UnsubscribeRequest(params=mcp_types.UnsubscribeRequestParams(uri=uri))
    await client.session.send_request(request, mcp_types.EmptyResult)


@asynccontextmanager
async def following(client: Client, told: Told, *uris: str, lists: bool = False) -> AsyncGenerator[list[str]]:
    """Follow `uris`, in the way of the client's era, until the context ends. Yields what the server follows of it."""
    if client.protocol_version != "2026-07-28":
        for uri in uris:
            await subscribe(client, uri)
        yield list(uris)
        for uri in uris:
            await unsubscribe(client, uri)
        return
    async with AsyncExitStack() as stack:
        listening = await stack.enter_async_context(
            client.listen(resource_subscriptions=uris, resources_list_changed=lists)
        )

        async def pass_on() -> None:
            async for event in listening:
                if isinstance(event, ResourceUpdated):
                    told.put(event.uri)
                elif isinstance(event, ResourcesListChanged):
                    told.put(LIST)

        passing = asyncio.create_task(pass_on())
        stack.callback(passing.cancel)
        yield list(listening.honored.resource_subscriptions or ())
