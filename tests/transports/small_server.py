"""A server as small as can be behind the real socket: for tests that need one, in the test's loop or as a process.

As a process: `python -m tests.transports.small_server HOME`. It says `ready` on stdout when it listens.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, EmptyResult, SubscribeRequestParams

from mcp_server import protocol
from mcp_server.callers import DESK, current_caller
from mcp_server.transports.socket import Admit, serve_mcp_socket
from tests.transports.raw_client import DEADLINE_SECONDS, RawClient


class Facts:
    """What a test may want to know of the server's inside."""

    def __init__(self) -> None:
        self.lifespans = 0
        self.large_answers = 0
        self.said = 0
        self.running = 0
        self.most_running = 0
        self.bus = InMemorySubscriptionBus()
        self.subscribed: dict[str, ServerSession] = {}
        self.waiting = anyio.Event()
        self.cancelled = anyio.Event()
        self.go_on = anyio.Event()


def build_server(facts: Facts) -> MCPServer[Any]:
    @asynccontextmanager
    async def lifespan(_: MCPServer[Any]) -> AsyncGenerator[int]:
        facts.lifespans += 1
        yield facts.lifespans

    server = MCPServer[Any]("small", version="1", lifespan=lifespan, log_level="ERROR", subscriptions=facts.bus)
    _serve_subscriptions(server, facts)

    @server.tool()
    async def who() -> str:  # pyright: ignore[reportUnusedFunction]
        """Who is calling."""
        return current_caller().name

    @server.tool()
    async def echo(text: str) -> str:  # pyright: ignore[reportUnusedFunction]
        """Say it again."""
        return text

    @server.tool()
    async def large(size: int) -> str:  # pyright: ignore[reportUnusedFunction]
        """Say much."""
        facts.large_answers += 1
        return "x" * size

    @server.tool()
    async def chatter(count: int, ctx: Context[Any]) -> str:  # pyright: ignore[reportUnusedFunction]
        """Report progress, a MiB each time."""
        for done in range(count):
            await ctx.report_progress(done, count, "x" * 1024 * 1024)
            facts.said += 1
        return "done"

    @server.tool()
    async def wait() -> str:  # pyright: ignore[reportUnusedFunction]
        """Until the test says so."""
        facts.waiting.set()
        facts.running += 1
        facts.most_running = max(facts.most_running, facts.running)
        try:
            await facts.go_on.wait()
        except BaseException:
            facts.cancelled.set()
            raise
        finally:
            facts.running -= 1
        return "went on"

    @server.tool()
    async def stubborn() -> str:  # pyright: ignore[reportUnusedFunction]
        """Until the test says so, even when cancelled."""
        facts.waiting.set()
        with anyio.CancelScope(shield=True):
            await facts.go_on.wait()
        return "at last"

    return server


def _serve_subscriptions(server: MCPServer[Any], facts: Facts) -> None:
    """Those of the older era. The test does the telling."""

    async def subscribe(ctx: protocol.Context, params: SubscribeRequestParams) -> EmptyResult:
        if "unknown" in params.uri:
            raise MCPError(INVALID_PARAMS, "There is no such thing.")
        facts.subscribed[params.uri] = ctx.session
        return EmptyResult()

    async def unsubscribe(_: protocol.Context, params: SubscribeRequestParams) -> EmptyResult:
        del facts.subscribed[params.uri]
        return EmptyResult()

    protocol.handle(server, "resources/subscribe", SubscribeRequestParams, subscribe)
    protocol.handle(server, "resources/unsubscribe", SubscribeRequestParams, unsubscribe)


def say_where(home: Path, **more: object) -> Path:
    """Write the `server.json` of `home`, as the real server does, and give the path of the socket."""
    path = home / "mcp.sock"
    facts = {"pid": os.getpid(), "port": 0, "version": "0", "mcp_socket": str(path), "http_socket": None} | more
    (home / "server.json").write_text(json.dumps(facts))
    return path


class _Started(TaskStatus[None]):
    def __init__(self) -> None:
        self.event = asyncio.Event()

    def started(self, value: None = None) -> None:
        self.event.set()


class Small:
    """The small server of tests, in the test's own loop."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "mcp.sock"
        self.facts = Facts()

    @asynccontextmanager
    async def running(self, admit: Admit = lambda _: DESK) -> AsyncGenerator[Small]:
        """Serve while inside, in a task of its own. Leaving is what a server does that is told to end."""
        self.facts = Facts()
        say_where(self.home)
        started = _Started()
        serving = asyncio.create_task(
            serve_mcp_socket(build_server(self.facts), self.path, admit=admit, task_status=started)
        )
        waiting = asyncio.create_task(started.event.wait())
        await asyncio.wait({serving, waiting}, timeout=DEADLINE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        try:
            if serving.done():
                await serving
            yield self
        finally:
            serving.cancel()
            await asyncio.wait({serving}, timeout=DEADLINE_SECONDS)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[RawClient]:
        client = await RawClient.connect(self.path)
        try:
            yield client
        finally:
            await client.close()


async def main(home: Path) -> None:
    async with Small(home).running():
        print("ready", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
