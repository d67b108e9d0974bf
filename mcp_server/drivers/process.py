"""The agent's own process, as its driver sees it: lines of any length come out, lines go in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

LINE_LIMIT_BYTES = 64 * 1024 * 1024
"""Agents put megabytes into one line; what is longer than this is dropped with a note."""

STDERR_KEPT_BYTES = 16 * 1024
CHUNK_BYTES = 256 * 1024
EXIT_SECONDS = 5.0
STDERR_SECONDS = 1.0


class AgentProcess:
    """A running agent. Made by `agent_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stderr = bytearray()
        self._stderr_ended = asyncio.Event()
        self.dropped_lines = 0

    @property
    def returncode(self) -> int | None:
        """Negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def stderr(self) -> str:
        """The end of what it wrote there."""
        return self._stderr.decode(errors="replace")

    async def lines(self) -> AsyncGenerator[bytes]:
        """Each line of stdout without its end, empty ones left out; half a line at the end counts as one."""
        assert self._process.stdout is not None
        buffer = bytearray()
        too_long = False
        while chunk := await self._process.stdout.read(CHUNK_BYTES):
            *ended, rest = chunk.split(b"\n")
            for part in ended:
                buffer += part
                if buffer.strip() and not too_long:
                    yield bytes(buffer)
                buffer, too_long = bytearray(), False
            buffer += rest
            if len(buffer) > LINE_LIMIT_BYTES:
                self.dropped_lines += not too_long
                buffer, too_long = bytearray(), True
        if buffer.strip() and not too_long:
            yield bytes(buffer)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """stdout as it comes; instead of `lines`."""
        assert self._process.stdout is not None
        while chunk := await self._process.stdout.read(CHUNK_BYTES):
            yield chunk

    async def send(self, text: str) -> None:
        """Write to its stdin. One that has closed it is not told, and will end by itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(text.encode())
            await self._process.stdin.drain()

    def close_stdin(self) -> None:
        """Tell it that nothing more comes."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def wait(self) -> int:
        """Its exit code, when it has ended and its stderr was read. What it left behind may hold that open for long."""
        code = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stderr_ended.wait(), STDERR_SECONDS)
        return code

    async def keep_stderr(self) -> None:
        """Read stderr to its end; run beside everything else."""
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(CHUNK_BYTES):
            self._stderr += chunk
            del self._stderr[:-STDERR_KEPT_BYTES]
        self._stderr_ended.set()

    async def stop(self) -> None:
        """TERM, and KILL after some seconds. What it leaves behind is the supervisor's."""
        for end in (self._process.terminate, self._process.kill):
            if self._process.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), EXIT_SECONDS)


@asynccontextmanager
async def agent_process(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> AsyncGenerator[AgentProcess]:
    """Start an agent; it is stopped when the block is left. `argv` comes from `sandbox.wrapped`.

    Raises:
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=dict(env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    agent = AgentProcess(process)
    keeping = asyncio.create_task(agent.keep_stderr())
    try:
        yield agent
    finally:
        await agent.stop()
        keeping.cancel()
        await asyncio.wait([keeping])
