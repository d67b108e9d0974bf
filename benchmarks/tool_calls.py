"""What one tool call costs that reads the store, and one that writes and is committed when it answers.

Our part of it by raw lines over the unix socket, beside raw lines to the bare SDK's server over pipes (the SDK has no
unix socket). Then what a client with the SDK sees: through the shim, and over HTTP, beside the bare server's same.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, alternate, script
from benchmarks.processes import (
    BARE,
    WORKSPACE,
    Offhand,
    bare_environment,
    bare_http,
    bare_stdio,
    ended,
    repository,
    serving,
    temporary_folder,
)
from benchmarks.wire import Lines, over_pipes, over_socket

Call = Callable[[], Awaitable[Any]]


def measure(quick: bool) -> list[Figure]:
    """Figures of tool calls."""
    with temporary_folder() as home, temporary_folder() as folder, repository() as workspace, ExitStack() as stack:
        server = stack.enter_context(serving(home, workspace))
        ours = stack.enter_context(over_socket(server.mcp_socket))
        _, port = stack.enter_context(bare_http(folder))
        bare = over_pipes(stack.enter_context(ended(bare_stdio(folder))))
        task = _fill(ours)
        figures = _raw(50 if quick else 1000, ours, bare, task)
        return figures + anyio.run(_with_sdk, 20 if quick else 300, server, port, folder)


def _fill(ours: Lines) -> str:
    ours.call("create_session", session_id="s", title="Measured", participants=["claude", "user"])
    for number in range(10):
        ours.call("add_conversation", session_id="s", content=f"Some words of a chunk, {number}. " * 20)
        ours.call("store_memory", session_id="s", type="idea", key=f"k{number}", content="Something to keep.")
    params = {"command": ["git", "status"]}
    return ours.call("delegate_task", agent="git", params=params, workspace=WORKSPACE, session_id="s")["id"]


def _raw(rounds: int, ours: Lines, bare: Lines, task: str) -> list[Figure]:
    number = itertools.count()
    add, keep, session, known_task, memory, nothing = alternate(
        rounds,
        lambda: bare.time_call("add", a=1, b=2),
        lambda: bare.time_call("keep", text="Something to keep."),
        lambda: ours.time_call("get_session", session_id="s"),
        lambda: ours.time_call("get_task", task_id=task),
        lambda: ours.time_call("store_memory", type="idea", key=f"m{next(number)}", content="Something to keep."),
        lambda: _ping(ours),
        warm_up=20,
    )
    trivial = Series("bare SDK server, add(1, 2), pipes", add)
    empty = Series("our own ping, same socket", nothing)
    committed = Series("bare SDK server, one INSERT committed, pipes", keep)
    return [
        Figure("get_task over the socket, raw lines", "ms", known_task, [Goal("median", 1.5)], [trivial, empty]),
        Figure("get_session (6 queries) over the socket, raw lines", "ms", session, [Goal("median", 1.5)], [trivial]),
        Figure("store_memory over the socket, raw lines", "ms", memory, [Goal("median", 3)], [committed, trivial]),
    ]


def _ping(ours: Lines) -> float:
    ours.request("ping")
    return ours.milliseconds


async def _with_sdk(rounds: int, server: Offhand, port: int, folder: Path) -> list[Figure]:
    shim = StdioServerParameters(command=sys.executable, args=["-m", "mcp_server", "mcp"], env=server.environment)
    bare = StdioServerParameters(command=sys.executable, args=[str(BARE), "stdio"], env=bare_environment(folder))
    key = {"Authorization": f"Bearer {server.key}"}
    figures: list[Figure] = []
    for mode in ("auto", "legacy"):
        name = "modern" if mode == "auto" else "handshake"
        async with Client(shim, mode=mode) as one, Client(bare, mode=mode) as other:
            ours, theirs = await _taken_in_turns(rounds, one, other)
        beside = Series("SDK client, bare stdio server, add(1, 2)", theirs)
        figures.append(Figure(f"get_session, SDK client, shim, {name}", "ms", ours, beside=[beside]))
    async with httpx2.AsyncClient(headers=key, timeout=30) as http:
        near = streamable_http_client(f"http://127.0.0.1:{server.port}/mcp", http_client=http)
        async with Client(near) as one, Client(f"http://127.0.0.1:{port}/mcp") as other:
            ours, theirs = await _taken_in_turns(rounds, one, other)
    beside = Series("SDK client, bare HTTP server, add(1, 2)", theirs)
    return [*figures, Figure("get_session, SDK client, HTTP with key", "ms", ours, beside=[beside])]


async def _taken_in_turns(rounds: int, one: Client, other: Client) -> tuple[list[float], list[float]]:
    await one.list_tools()
    await other.list_tools()
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(-5, rounds):
        pair = [
            (ours, await _timed(one, "get_session", session_id="s")),
            (theirs, await _timed(other, "add", a=1, b=2)),
        ]
        for kept, milliseconds in pair:
            if number >= 0:
                kept.append(milliseconds)
    return ours, theirs


async def _timed(client: Client, tool: str, **arguments: Any) -> float:
    begin = time.perf_counter()
    result = await client.call_tool(tool, arguments)
    milliseconds = (time.perf_counter() - begin) * MILLISECONDS
    if result.is_error:
        raise RuntimeError(str(result))
    return milliseconds


if __name__ == "__main__":
    script(measure)
