"""Serving: every door opened, `server.json` written, and all of it closed within five seconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mcp_server.errors import AlreadyServingError, UnavailableError
from mcp_server.paths import make_private, private, read_server_file, socket_folder
from mcp_server.release import release
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import Settings
from mcp_server.transports.peer import DeskAdmission
from mcp_server.transports.socket import serve_mcp_socket
from mcp_server.web.app import open_app
from mcp_server.web.auth import DeskDoor

BACKLOG = 2048
GRACE_SECONDS = 2.0
"""For answers that are on their way when the server is told to stop."""

STREAM_GRACE_SECONDS = 0.5
"""For subscribers to be told the last changes, and that this is the end; who does not read is not waited for longer."""

STOP_SECONDS = 4.5
"""From the signal to the end, whatever is open."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is reached."""

    host: str
    port: int
    mcp_socket: Path
    http_socket: Path

    @property
    def url(self) -> str:
        """The base URL on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http://{host}:{self.port}"


Ready = Callable[[Runtime, Address], "Any"]


async def serve(settings: Settings, on_ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. `on_ready` is a coroutine function, run beside the serving.

    Raises:
        AlreadyServingError: another server owns this home; the message says which.
        UnavailableError: the address is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with _listener(settings) as tcp:
        try:
            async with open_runtime(settings, stop=stop) as runtime:
                if settings.api_key is not None:
                    await runtime.keys.seed(settings.api_key)
                async with _doors(runtime, tcp) as address, anyio.create_task_group() as group:
                    group.start_soon(on_ready, runtime, address)
                    await stop.wait()
                    loop.call_later(STOP_SECONDS, os._exit, 0)
                    runtime.events.close()
                    runtime.live.close()
                    group.cancel_scope.cancel()
        except AlreadyServingError:
            raise _already(settings.home) from None
        except BaseExceptionGroup as group_error:
            raise _first_cause(group_error) from None


@asynccontextmanager
async def _doors(runtime: Runtime, tcp: socket.socket) -> AsyncGenerator[Address]:
    """Open the sockets, and say in `server.json` where they are."""
    settings = runtime.settings
    folder = make_private(socket_folder(settings.home))
    address = Address(settings.host, tcp.getsockname()[1], folder / "mcp.sock", folder / "http.sock")
    admit = DeskAdmission(runtime.worker.supervisor_pids, runtime.worker.has_orphans)
    async with open_app(runtime) as (app, server):
        with _unix_listener(address.http_socket) as unix:
            async with anyio.create_task_group() as group:
                over_tcp = _Server(app, HttpToolsProtocol)
                over_unix = _Server(DeskDoor(app), partial(_DeskProtocol, admit=admit))
                group.start_soon(over_tcp.serve_on, tcp)
                group.start_soon(over_unix.serve_on, unix)
                serve_mcp = partial(serve_mcp_socket, server, address.mcp_socket, admit=admit, opened=admit.opened)
                mcp_scope = await _start(group, serve_mcp)
                with _server_file(settings.home, address):
                    yield address
                await runtime.live.ended(STREAM_GRACE_SECONDS)
                _close_streams(server)
                mcp_scope.cancel()
                over_tcp.stop()
                over_unix.stop()


def _close_streams(server: MCPServer[None]) -> None:
    """End the streams of the older era, so that nobody waits for them; those of the newer one have ended with Live."""
    for session in server.session_manager._server_instances.values():  # pyright: ignore[reportPrivateUsage]
        session.close_standalone_sse_stream()  # of the older era; what was asked is still answered


async def _start(group: anyio.abc.TaskGroup, serve: Any) -> anyio.CancelScope:
    scope = anyio.CancelScope()

    async def scoped(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with scope:
            await serve(task_status=task_status)

    await group.start(scoped)
    return scope


class _Server(uvicorn.Server):
    """uvicorn inside our own loop: no signal handlers of its own, and no tick ten times a second."""

    def __init__(self, app: ASGIApp, protocol: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                date_header=False,
                server_header=False,
                timeout_graceful_shutdown=int(GRACE_SECONDS),
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        self._stopping = asyncio.Event()
        logging.getLogger("uvicorn.error").addFilter(_is_news)

    async def serve_on(self, listener: socket.socket) -> None:
        """Serve until `stop`."""
        await self._serve([listener])

    def stop(self) -> None:
        """Take no more connections, and end those there are."""
        self._stopping.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _is_news(record: logging.LogRecord) -> bool:
    """uvicorn complains, with tracebacks, of half requests that it cuts off at the end, and calls them tasks."""
    cut_off = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut_off and "graceful shutdown" not in record.getMessage()


class _DeskProtocol(HttpToolsProtocol):
    """HTTP over the unix socket: whoever is not the user, or is part of a task, is sent away before a word is read."""

    def __init__(self, *args: Any, admit: DeskAdmission, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._admit = admit
        self._waiting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._admit.is_open:
            self._look(transport)
        else:
            transport.pause_reading()
            self._waiting = asyncio.get_running_loop().create_task(self._let_in_later(transport))

    async def _let_in_later(self, transport: asyncio.Transport) -> None:
        await self._admit.opened()
        self._look(transport)
        if not transport.is_closing():
            transport.resume_reading()

    def _look(self, transport: asyncio.Transport) -> None:
        if self._admit(transport.get_extra_info("socket")) is None:
            transport.abort()


@contextmanager
def _listener(settings: Settings) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named, since asyncio sets TCP_NODELAY only where it is: without it each answer waits 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(BACKLOG)
        except (OSError, OverflowError) as error:
            running = read_server_file(settings.home)
            if running is not None and running.get("port") == settings.port and _alive(running.get("pid")):
                raise _already(settings.home) from None
            raise UnavailableError(
                f"{settings.host}:{settings.port} cannot be used: {error}.",
                field="port",
                fix="Choose another with --port or OFFHAND_PORT; --port 0 takes a free one.",
            ) from None
        listener.setblocking(False)
        yield listener


@contextmanager
def _unix_listener(path: Path) -> Generator[socket.socket]:
    path.unlink(missing_ok=True)  # the lock beside the store says that no server is alive behind it
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _server_file(home: Path, address: Address) -> Generator[None]:
    path = home / "server.json"
    facts = {
        "pid": os.getpid(),
        "port": address.port,
        "host": address.host,
        "version": release(),
        "mcp_socket": str(address.mcp_socket),
        "http_socket": str(address.http_socket),
        "python": sys.executable,
    }
    temporary = path.with_suffix(".new")
    with open(temporary, "w", encoding="utf-8", opener=private) as file:
        file.write(json.dumps(facts, indent=1) + "\n")
    temporary.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _first_cause(error: BaseException) -> BaseException:
    """Task groups wrap what was raised in them; the user is told the thing itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return error  # pyright: ignore[reportUnknownVariableType]


def _already(home: Path) -> AlreadyServingError:
    running = read_server_file(home) or {}
    who = f"process {running['pid']} on port {running['port']}" if "pid" in running else "another process"
    return AlreadyServingError(f"{home} is served already, by {who}.")


def _alive(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
