"""200 clients at once for a minute: whether anything fails, what is left of them, and how much gets done.

Half of them over the unix socket and half over HTTP, each half in both protocol eras. Each works in a session of its
own: it stores, reads, searches, changes the session and waits to be told of that change, and after some turns goes
away (half of those over the socket without a goodbye) and comes back. Four of them have tasks done instead. Growth is
the server's memory from the second quarter to the end, and its open files from before to after. Beside it, as
many clients of the bare SDK's HTTP server that call a trivial tool. Needs Linux's /proc.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, script, statistic
from benchmarks.idle import resident_mb
from benchmarks.processes import Offhand, bare_http, serving, temporary_folder
from benchmarks.wire import Connection, Era, connect_to_http, connect_to_socket

CLIENTS = 200
SECONDS = 60.0
TURNS_PER_VISIT = 20
EVERY_NTH_HAS_TASKS_DONE = 50
FILES_SECONDS = 10.0
LOOK_SECONDS = 0.25
GROWTH_MB = 10.0
FIRST_CLIENTS = 8
FIRST_SECONDS = 1.0
"""Before anything is counted, so that the server has opened what it opens once."""

ERRORS_SHOWN = 3


def measure(quick: bool) -> list[Figure]:
    """Figures of a crowd."""
    if not Path("/proc/self/fd").exists():
        return []
    count, seconds = (40, 4.0) if quick else (CLIENTS, SECONDS)
    with temporary_folder() as home, serving(home) as server:
        ours = _crowd(server.process.pid, count, seconds, lambda number, crowd: _Visitor(number, server, crowd).live())
    with temporary_folder() as folder, bare_http(folder) as (process, port):
        bare = _crowd(process.pid, count, seconds / 4, lambda number, crowd: _add(number, port, crowd))
    if not (ours.told and bare.calls):
        raise RuntimeError(f"nothing worked: {Counter(ours.errors or bare.errors).most_common(ERRORS_SHOWN)}")
    return _figures(count, seconds, ours, bare)


@dataclass(slots=True)
class Crowd:
    """What all of them saw. `until` is the clock of time.monotonic()."""

    until: float
    calls: list[float] = field(default_factory=list[float])
    """Milliseconds each."""
    told: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    growth_mb: float = 0.0
    files_left: int = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until


Live = Callable[[int, Crowd], None]


def _crowd(pid: int, count: int, seconds: float, live: Live) -> Crowd:
    with _living(FIRST_CLIENTS, FIRST_SECONDS, live):
        pass
    time.sleep(FIRST_SECONDS)
    files = open_files(pid)
    early: list[float] = []
    late: list[float] = []
    with _living(count, seconds, live) as crowd:
        while not crowd.is_over:
            passed = 1 - (crowd.until - time.monotonic()) / seconds
            if 0.25 <= passed < 0.5:
                early.append(resident_mb(pid))
            elif passed >= 0.75:
                late.append(resident_mb(pid))
            time.sleep(LOOK_SECONDS)
    crowd.growth_mb = statistic(late, "median") - statistic(early, "median")
    crowd.files_left = files_left(pid, files)
    return crowd


@contextmanager
def _living(count: int, seconds: float, live: Live) -> Generator[Crowd]:
    """So many clients, each in a thread of its own; all have gone afterwards."""
    begin = time.monotonic()
    crowd = Crowd(begin + seconds)
    clients = [threading.Thread(target=live, args=(number, crowd), daemon=True) for number in range(count)]
    for client in clients:
        client.start()
    yield crowd
    for client in clients:
        client.join()
    crowd.seconds = time.monotonic() - begin


def files_left(pid: int, before: int) -> int:
    """How many more are open than `before`, once it is none or the server has had its time to close them."""
    deadline = time.monotonic() + FILES_SECONDS
    while (left := open_files(pid) - before) > 0 and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return left


def open_files(pid: int) -> int:
    """How many files a process has open (Linux)."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class _Visitor:
    """One client of ours."""

    def __init__(self, number: int, server: Offhand, crowd: Crowd) -> None:
        self._server = server
        self._crowd = crowd
        self._number = number
        self._session = f"s{number}"
        self._over_http = number % 2 == 1
        self._era: Era = "modern" if number // 2 % 2 else "handshake"
        self._is_polite = self._over_http or number // 4 % 2 == 0
        self._turns = 0

    def live(self) -> None:
        while not self._crowd.is_over:
            try:
                self._visit()
            except Exception as error:
                self._crowd.errors.append(f"{type(error).__name__}: {error}"[:200])

    def _visit(self) -> None:
        client = self._connected()
        # Over HTTP a stream of the later era has its connection to itself, and the earlier era's is not read here.
        listening = self._connected() if self._over_http and self._era == "modern" else client
        follows = listening is not client or not self._over_http
        try:
            if not self._turns:
                self._called(client, "create_session", session_id=self._session, title="In the crowd")
            if follows:
                listening.follow(f"session://{self._session}")
            for _ in range(TURNS_PER_VISIT):
                if self._crowd.is_over:
                    break
                if self._number % EVERY_NTH_HAS_TASKS_DONE == 0:
                    self._has_a_task_done(client)
                else:
                    self._turn(client, listening if follows else None)
        finally:
            for connection in {client, listening}:
                with suppress(OSError):
                    connection.close(politely=self._is_polite)

    def _connected(self) -> Connection:
        if self._over_http:
            return connect_to_http(self._server.port, self._server.key, self._era)
        return connect_to_socket(self._server.mcp_socket, self._era)

    def _turn(self, client: Connection, listening: Connection | None) -> None:
        self._turns += 1
        name, text = f"visitor{self._number}", f"Turn {self._turns} of visitor{self._number}."
        self._called(client, "get_session", session_id=self._session)
        # Not of the session, which would tell its followers.
        self._called(client, "store_memory", type="idea", key=name, content=text)
        self._called(client, "search", query=name, limit=5)
        self._called(client, "list_sessions", limit=5)
        begin = time.perf_counter()
        self._called(client, "update_session", session_id=self._session, title=text)
        if listening is not None:
            listening.told()
            self._crowd.told.append((time.perf_counter() - begin) * MILLISECONDS)

    def _has_a_task_done(self, client: Connection) -> None:
        self._turns += 1
        task = self._called(client, "delegate_task", agent="echo", description="Say something.", wait=30)
        if task["status"] != "completed":
            raise RuntimeError(str(task))

    def _called(self, client: Connection, tool: str, /, **arguments: object) -> dict[str, object]:
        answer = client.call(tool, **arguments)
        self._crowd.calls.append(client.milliseconds)
        return answer


def _add(number: int, port: int, crowd: Crowd) -> None:
    era: Era = "modern" if number % 2 else "handshake"
    while not crowd.is_over:
        try:
            client = connect_to_http(port, None, era)
            try:
                for _ in range(TURNS_PER_VISIT * 5):
                    if crowd.is_over:
                        break
                    crowd.calls.append(client.time_call("add", a=1, b=2))
            finally:
                client.close()
        except Exception as error:
            crowd.errors.append(f"{type(error).__name__}: {error}"[:200])


def _figures(count: int, seconds: float, ours: Crowd, bare: Crowd) -> list[Figure]:
    crowd, name = f"{count} clients, {seconds:.0f} s", "bare SDK, HTTP, add(1, 2)"
    seen = "; ".join(f"{times} x {error}" for error, times in Counter(ours.errors).most_common(ERRORS_SHOWN))
    note = f"{len(ours.calls):,} calls. {seen}".strip()

    def beside(value: float) -> list[Series]:
        return [Series(name, [value])]

    return [
        Figure(
            f"{crowd}: errors",
            "errors",
            [len(ours.errors)],
            [Goal("max", 0)],
            beside(len(bare.errors)),
            note=note,
        ),
        Figure(f"{crowd}: memory growth", "MB", [ours.growth_mb], [Goal("max", GROWTH_MB)], beside(bare.growth_mb)),
        Figure(f"{crowd}: files left open", "files", [ours.files_left], [Goal("max", 0)], beside(bare.files_left)),
        Figure(
            f"{crowd}: calls",
            "/s",
            [len(ours.calls) / ours.seconds],
            beside=beside(len(bare.calls) / bare.seconds),
            larger_is_better=True,
        ),
        Figure(f"{crowd}: a call", "ms", ours.calls, beside=[Series(name, bare.calls)]),
        Figure(f"{crowd}: change until told", "ms", ours.told),
    ]


if __name__ == "__main__":
    script(measure)
