"""The ways into a server for an MCP client, in both protocol eras, and what every answer must be like."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from mcp_server.callers import DESK, Caller, calling_as
from mcp_server.clock import Clock, now_us
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.server import build_server
from mcp_server.settings import Settings
from tests.server.processes import ServerProcess

DEADLINE_SECONDS = 15.0
WORDS = 40
LINE_LIMIT_BYTES = 64 * 1024 * 1024

Opener = Callable[..., AbstractAsyncContextManager[Client]]
"""Takes options of the client, such as `extensions`."""


@dataclass(frozen=True, slots=True)
class Door:
    """One way in. `caller` is what records made through it must say of their maker, the key's id left out."""

    name: str
    caller: dict[str, Any]
    open: Opener


@asynccontextmanager
async def in_memory(
    settings: Settings, mode: str = "auto", caller: Caller = DESK, now: Clock = now_us, **options: Any
) -> AsyncGenerator[Client]:
    """A client of a whole server in this process."""
    async with served_in_memory(settings, mode, caller, now, **options) as (client, _):
        yield client


@asynccontextmanager
async def served_in_memory(
    settings: Settings, mode: str = "auto", caller: Caller = DESK, now: Clock = now_us, **options: Any
) -> AsyncGenerator[tuple[Client, Runtime]]:
    """The same, with the runtime behind it."""
    async with open_runtime(settings, now) as runtime:
        with calling_as(caller):
            async with Client(build_server(runtime), mode=mode, **options) as client:
                yield client, runtime


@asynccontextmanager
async def over_socket(path: Path | str, mode: str = "auto", **options: Any) -> AsyncGenerator[Client]:
    """A client at the desk."""
    async with Client(_lines(path), mode=mode, **options) as client:
        yield client


@asynccontextmanager
async def over_http(url: str, key: str, mode: str = "auto", **options: Any) -> AsyncGenerator[Client]:
    """A client with an API key."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, verify=False) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode, **options) as client,
    ):
        yield client


@asynccontextmanager
async def through_shim(server: ServerProcess, mode: str = "auto", **options: Any) -> AsyncGenerator[Client]:
    """A client as a desktop host starts it."""
    shim = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server", "mcp"], env=server.place.environment()
    )
    async with Client(shim, mode=mode, **options) as client:
        yield client


@asynccontextmanager
async def _lines(path: Path | str) -> AsyncGenerator[Any]:
    """The streams that an MCP client wants, over one JSON-RPC message a line."""
    reader, writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT_BYTES)
    heard, inbound = anyio.create_memory_object_stream[SessionMessage | Exception](100)
    outbound, spoken = anyio.create_memory_object_stream[SessionMessage](100)

    async def read() -> None:
        async with heard:
            while line := await reader.readline():
                message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                await heard.send(SessionMessage(message))

    async def write() -> None:
        async with spoken:
            async for message in spoken:
                writer.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await writer.drain()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(write)
        try:
            yield inbound, outbound
        finally:
            group.cancel_scope.cancel()
            writer.close()


async def ask(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The answer of a tool, which is no error and is in the shape of every answer."""
    content, is_error = await _call(client, tool, arguments)
    assert not is_error, content
    assert content["link"] is None or content["link"].startswith("http")
    return content


async def refused(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The error of a tool, which is one that its caller can do something about."""
    content, is_error = await _call(client, tool, arguments)
    assert is_error, content
    assert content["ok"] is False
    assert content["type"].startswith("urn:offhand:problem:")
    assert all(content[name] for name in ("title", "detail"))
    for issue in content["errors"]:
        assert all(issue[name] for name in ("field", "message", "fix")), content
    return content


async def _call(client: Client, tool: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    async with asyncio.timeout(DEADLINE_SECONDS + arguments.get("wait", 0) if _is_number(arguments) else None):
        result = await client.call_tool(tool, arguments)
    content = result.structured_content
    assert isinstance(content, dict)
    (block,) = result.content
    assert isinstance(block, mcp_types.TextContent)
    assert json.loads(block.text) == content
    assert_spoken(content)
    return content, bool(result.is_error)


def _is_number(arguments: dict[str, Any]) -> bool:
    return isinstance(arguments.get("wait", 0), int | float)


def assert_spoken(content: dict[str, Any]) -> None:
    """`say` can be spoken: at most 40 words on one line, a sentence, no markup, no ids of the answer."""
    said = content["say"]
    assert isinstance(said, str)
    assert said.strip()
    assert len(said.split()) <= WORDS, said
    assert not re.search(r"[`*#<>\[\]{}|\n\r\t\x1b]|https?://", said), said
    assert said[-1] in ".!?", said
    for name in _ids(content):
        assert not re.search(rf"(?<![\w.:-]){re.escape(name)}(?![\w:-])", said), f"the id {name} in: {said}"


def _ids(value: Any) -> set[str]:
    """Every id in an answer that nobody would say aloud."""
    if isinstance(value, list):
        return {name for item in value for name in _ids(item)}
    if not isinstance(value, dict):
        return set()
    own = {item for key, item in value.items() if (key == "id" or key.endswith("_id")) and isinstance(item, str)}
    return own | {name for item in value.values() for name in _ids(item)}
