"""What `get_task` costs by every way in, beside a trivial tool of the bare SDK's server by the same way.

First as bytes, with a client that costs next to nothing: the unix socket, the shim, HTTP with a key. Then as a client
with the SDK sees it, in its own process too: the shim, HTTP, in memory. Each in both protocol eras. The SDK has no
unix socket, so that its pipes stand beside ours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from benchmarks import bare
from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, alternate, script
from benchmarks.processes import (
    BARE,
    Offhand,
    bare_environment,
    bare_http,
    bare_stdio,
    ended,
    serving,
    shim_command,
    spawned,
    temporary_folder,
)
from benchmarks.wire import ERAS, Conversation, Era, over_http, over_pipes, over_socket
from mcp_server.callers import DESK, calling_as
from mcp_server.runtime import open_runtime
from mcp_server.server import build_server
from mcp_server.settings import Settings

MODES: dict[Era, Literal["legacy", "auto"]] = {"handshake": "legacy", "modern": "auto"}
ORDER: dict[str, Any] = {"agent": "echo", "description": "Say something.", "wait": 30}
GOAL = (Goal("median", 1.5),)


def measure(quick: bool) -> list[Figure]:
    """Figures of one round trip."""
    with ExitStack() as stack:
        home, folder = stack.enter_context(temporary_folder()), stack.enter_context(temporary_folder())
        server = stack.enter_context(serving(home))
        _, port = stack.enter_context(bare_http(folder))
        with over_socket(server.mcp_socket) as lines:
            task = lines.call("delegate_task", **ORDER)["id"]
        figures = [figure for era in ERAS for figure in _raw(50 if quick else 1000, era, server, folder, port, task)]
        for era in ERAS:
            figures += anyio.run(_with_sdk, 20 if quick else 300, era, server, folder, port, task)
    return figures


def _raw(rounds: int, era: Era, server: Offhand, folder: Path, port: int, task: str) -> list[Figure]:
    with ExitStack() as stack:
        shim = stack.enter_context(ended(spawned(shim_command(), server.environment, folder, pipes=True)))
        pipes = over_pipes(stack.enter_context(ended(bare_stdio(folder))), era)
        ours: dict[str, Conversation] = {
            "socket": stack.enter_context(over_socket(server.mcp_socket, era)),
            "shim": over_pipes(shim, era),
            "HTTP with key": stack.enter_context(over_http(server.port, server.key, era)),
        }
        http = stack.enter_context(over_http(port, era=era))
        samples = alternate(
            rounds,
            *(lambda way=way: way.time_call("get_task", task_id=task) for way in ours.values()),
            lambda: pipes.time_call("add", a=1, b=2),
            lambda: http.time_call("add", a=1, b=2),
            warm_up=20,
        )
    by_pipes, by_http = (
        Series("bare SDK, add(1, 2), pipes", samples[3]),
        Series("bare SDK, add(1, 2), HTTP", samples[4]),
    )
    return [
        Figure(f"get_task, bytes, {way}, {era}", "ms", taken, GOAL if way == "socket" else (), [beside])
        for way, taken, beside in zip(ours, samples, (by_pipes, by_pipes, by_http), strict=False)
    ]


async def _with_sdk(rounds: int, era: Era, server: Offhand, folder: Path, port: int, task: str) -> list[Figure]:
    name, *arguments = shim_command()
    shim = Client(StdioServerParameters(command=name, args=arguments, env=server.environment), mode=MODES[era])
    stdio = StdioServerParameters(command=sys.executable, args=[str(BARE), "stdio"], env=bare_environment(folder))
    http = Client(f"http://127.0.0.1:{port}/mcp", mode=MODES[era])
    pairs: dict[str, tuple[AbstractAsyncContextManager[tuple[Client, str]], Client]] = {
        "shim": (_knowing(shim, task), Client(stdio, mode=MODES[era])),
        "HTTP with key": (_over_http(server, era, task), http),
        "in memory": (_in_memory(era), Client(bare.server, mode=MODES[era])),
    }
    figures: list[Figure] = []
    for way, (ours, theirs) in pairs.items():
        async with ours as (client, known), theirs:
            taken, beside = await _taken_in_turns(rounds, client, known, theirs)
        series = Series(f"bare SDK, add(1, 2), {'stdio' if way == 'shim' else way.removesuffix(' with key')}", beside)
        figures.append(Figure(f"get_task, SDK client, {way}, {era}", "ms", taken, beside=[series]))
    return figures


@asynccontextmanager
async def _knowing(client: Client, task: str) -> AsyncGenerator[tuple[Client, str]]:
    async with client:
        yield client, task


@asynccontextmanager
async def _over_http(server: Offhand, era: Era, task: str) -> AsyncGenerator[tuple[Client, str]]:
    headers = {"Authorization": f"Bearer {server.key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"http://127.0.0.1:{server.port}/mcp", http_client=http)
        async with Client(transport, mode=MODES[era]) as client:
            yield client, task


@asynccontextmanager
async def _in_memory(era: Era) -> AsyncGenerator[tuple[Client, str]]:
    """As the relay calls: a whole server in this process, with a store on disk."""
    with temporary_folder() as home, calling_as(DESK):
        async with (
            open_runtime(Settings(home=home)) as runtime,
            Client(build_server(runtime), mode=MODES[era]) as client,
        ):
            order = (await client.call_tool("delegate_task", ORDER)).structured_content
            yield client, cast("dict[str, str]", order)["id"]


async def _taken_in_turns(rounds: int, ours: Client, task: str, theirs: Client) -> tuple[list[float], list[float]]:
    await ours.list_tools()  # else the first call would ask for the list in between
    await theirs.list_tools()
    taken: list[float] = []
    beside: list[float] = []
    for number in range(-5, rounds):
        pair = [(taken, await _timed(ours, "get_task", task_id=task)), (beside, await _timed(theirs, "add", a=1, b=2))]
        for kept, milliseconds in pair:
            if number >= 0:
                kept.append(milliseconds)
    return taken, beside


async def _timed(client: Client, tool: str, **arguments: Any) -> float:
    begin = time.perf_counter()
    result = await client.call_tool(tool, arguments)
    milliseconds = (time.perf_counter() - begin) * MILLISECONDS
    if result.is_error:
        raise RuntimeError(str(result))
    return milliseconds


if __name__ == "__main__":
    script(measure)
