"""What an idle connection costs the server in memory: by every way in, and with a subscription open.

RSS of a fresh server before and after so many clients have connected, listed tools and prompts, and gone silent; per
client, in kilobytes of 1,000 bytes. Beside the bare SDK's HTTP server. Then what runs beside the server for each
desktop client: a shim, where the bare SDK has a whole server. Needs Linux's /proc.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, Series, script
from benchmarks.idle import resident_mb
from benchmarks.processes import (
    bare_http,
    bare_stdio,
    ended,
    serving,
    shim_command,
    spawned,
    temporary_folder,
)
from benchmarks.wire import Connection, Conversation, connect_to_http, connect_to_socket, over_pipes

CLIENTS = 200
WARM_UP = 10
"""Clients that stay connected from before the count begins: the first ones load what the others share."""

SETTLE_SECONDS = 0.5
KILOBYTES = 1000.0
SESSION = "session://s"

Connect = Callable[[], Connection]


def measure(quick: bool) -> list[Figure]:
    """Figures of idle connections."""
    if not Path("/proc/self/status").exists():
        return []
    count, rounds = (50, 1) if quick else (CLIENTS, 3)
    sessions = [_of_bare(count, follow=False) for _ in range(rounds)]
    listening = [_of_bare(count, follow=True) for _ in range(rounds)]
    bare, followed = Series("bare SDK, HTTP, session", sessions), Series("bare SDK, HTTP, listening", listening)
    cases = {
        "socket, handshake": (_socket_handshake, False, bare),
        "socket, handshake, subscribed": (_socket_handshake, True, followed),
        "socket, modern": (_socket_modern, False, bare),
        "socket, modern, listening": (_socket_modern, True, followed),
        "HTTP, handshake, session": (_http_handshake, False, bare),
        "HTTP, modern, listening": (_http_modern, True, followed),
    }
    figures = [
        Figure(
            f"memory of a connection, {way}", "kB", [_of_ours(count, way_in, follow) for _ in range(rounds)], beside=[b]
        )
        for way, (way_in, follow, b) in cases.items()
    ]
    return [*figures, *_processes(rounds)]


def _socket_handshake(path: str, port: int, key: str) -> Connection:
    return connect_to_socket(path, "handshake")


def _socket_modern(path: str, port: int, key: str) -> Connection:
    return connect_to_socket(path, "modern")


def _http_handshake(path: str, port: int, key: str) -> Connection:
    return connect_to_http(port, key, "handshake")


def _http_modern(path: str, port: int, key: str) -> Connection:
    return connect_to_http(port, key, "modern")


def _of_ours(count: int, way_in: Callable[[str, int, str], Connection], follow: bool) -> float:
    with temporary_folder() as home, serving(home) as server:
        first = connect_to_socket(server.mcp_socket)
        first.call("create_session", session_id="s", title="Followed")
        first.close()
        followed = SESSION if follow else None
        return _per_client(
            server.process.pid, count, lambda: way_in(server.mcp_socket, server.port, server.key), followed
        )


def _of_bare(count: int, *, follow: bool) -> float:
    with temporary_folder() as folder, bare_http(folder) as (process, port):
        era = "modern" if follow else "handshake"
        return _per_client(process.pid, count, lambda: connect_to_http(port, None, era), "note://1" if follow else None)


def _per_client(pid: int, count: int, connect: Connect, followed: str | None) -> float:
    with ExitStack() as stack:
        for _ in range(WARM_UP):
            stack.callback(_opened(connect, followed).close, politely=False)
        before = _settled_mb(pid)
        for _ in range(count):
            stack.callback(_opened(connect, followed).close, politely=False)
        return (_settled_mb(pid) - before) * KILOBYTES / count


def _opened(connect: Connect, followed: str | None) -> Connection:
    client = connect()
    client.request("tools/list")
    client.request("prompts/list")  # a connection of HTTP holds on to its last answer, and that one was long
    if followed is not None:
        client.follow(followed)
    return client


def _settled_mb(pid: int) -> float:
    time.sleep(SETTLE_SECONDS)
    return resident_mb(pid)


def _processes(rounds: int) -> list[Figure]:
    """What a desktop client starts for itself."""
    ours: list[float] = []
    theirs: list[float] = []
    with temporary_folder() as home, serving(home) as server:
        for _ in range(rounds):
            with ended(spawned(shim_command(), server.environment, home, pipes=True)) as shim:
                ours.append(_in_use_mb(shim.pid, over_pipes(shim)))
            with ended(bare_stdio(home)) as bare:
                theirs.append(_in_use_mb(bare.pid, over_pipes(bare)))
    return [Figure("memory of a shim (RSS)", "MB", ours, beside=[Series("bare SDK stdio server", theirs)])]


def _in_use_mb(pid: int, client: Conversation) -> float:
    client.request("tools/list")
    return resident_mb(pid)


if __name__ == "__main__":
    script(measure)
