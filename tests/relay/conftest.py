"""The one fixture of the relay's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from relay_adapter.settings import RelaySettings
from tests.relay.harness import RelayClient, served

DEADLINE_SECONDS = 10


@pytest.fixture
def relay_settings() -> RelaySettings:
    """No public URL: links are built from the request."""
    return RelaySettings(public_url=None, default_agent="claude_code")


@pytest_asyncio.fixture
async def relay_client(relay_settings: RelaySettings) -> AsyncIterator[RelayClient]:
    """A phone with a key, before a relay over a real MCP server in memory.

    The client lives in a task of its own: a cancel scope must be left by the task that entered it, and fixtures are
    set up and torn down by different ones.
    """
    ready: asyncio.Future[RelayClient] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def host() -> None:
        async with served(relay_settings) as client:
            ready.set_result(client)
            await done.wait()

    task = asyncio.create_task(host())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    yield ready.result()
    done.set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await task
