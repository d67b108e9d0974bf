"""The shim as a client sees it: a process with a stdin and a stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.transports.raw_client import DEADLINE_SECONDS, RawClient
from tests.transports.small_server import say_where

ROOT = str(Path(__file__).parents[2])
SHIM = [sys.executable, "-m", "mcp_server.transports.shim"]


def environment(home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "OFFHAND_ATTEMPT"}
    return inherited | {"OFFHAND_HOME": str(home), "PYTHONPATH": ROOT}


class ShimProcess(RawClient):
    """Ends with the block it is opened in, if not before."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        super().__init__(process.stdout, process.stdin)
        self.process = process

    @classmethod
    @asynccontextmanager
    async def run(
        cls, home: Path, command: list[str] = SHIM, unread_bytes: int = 128 * 1024 * 1024
    ) -> AsyncGenerator[ShimProcess]:
        """`unread_bytes`: so much and no longer a line we take in without asking for it."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(home), limit=unread_bytes
        )
        try:
            yield cls(process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    async def end(self) -> tuple[int, bytes, str]:
        """Its exit status, and what it still had to say on stdout and stderr. Closes nothing."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            out, err = await asyncio.gather(self.process.stdout.read(), self.process.stderr.read())
            return await self.process.wait(), out, err.decode()

    def close_stdin(self) -> None:
        self.writer.close()


@asynccontextmanager
async def fake_server(home: Path, serve: Callable[[RawClient], Awaitable[None]]) -> AsyncGenerator[Path]:
    """Something that listens where the server would: `serve` is called with each connection."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        client = RawClient(reader, writer)
        try:
            await serve(client)
        finally:
            await client.close()

    path = say_where(home)
    server = await asyncio.start_unix_server(connected, path, limit=128 * 1024 * 1024)
    try:
        yield path
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        path.unlink(missing_ok=True)
