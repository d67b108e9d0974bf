"""A server under mixed load for `--minutes`: whether anything fails, grows or is left over. An hour is `--minutes 60`.

Clients by every way in, in both protocol eras, have tasks done that succeed, fail, fail at first, write much, wait in a
lane, come later, are continued, or are cancelled with all that they started; between them they work with sessions,
memories and search, and go away and come back. Growth is the server's memory (RSS) from the second quarter to the last.
Afterwards every task must have ended as it should, and no process, folder or open file of theirs be left. Needs Linux's
/proc.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.crowd import files_left, open_files
from benchmarks.figures import Figure, Goal, script_of_minutes, statistic
from benchmarks.idle import resident_mb
from benchmarks.processes import WORKSPACE, Offhand, repository, serving, temporary_folder
from benchmarks.wire import Connection, Era, connect_to_http, connect_to_socket
from mcp_server.runtime import STORE_FILE
from mcp_server.settings import SETTINGS_FILE

MINUTES = 2.0
QUICK_MINUTES = 0.2
CLIENTS = 6
SETTINGS = """
limit = 6
[[policy]]
level = "phone"
agent = "shell"
decision = "allow"
"""
TURNS_PER_VISIT = 20
LINES = 5_000
TREE = ["sh", "-c", "sleep 600 & setsid sleep 600 & (setsid sleep 600 &); wait"]
GIT_STATUS = {
    "type": "task_command",
    "data": {"action_type": "git", "workspace": WORKSPACE, "params": {"command": ["git", "status"]}},
}
GROWTH_MB = 10.0
PARTS = 8
"""Of the time, in each of which the memory is told."""

LOOK_SECONDS = 0.5
FIRST_SECONDS = 3.0
"""Before anything is counted, so that the server has opened what it opens once."""

TASK_SECONDS = 120.0
ERRORS_SHOWN = 3
SEED = 4


def measure(minutes: float) -> list[Figure]:
    """Figures of some minutes."""
    if not Path("/proc/self/fd").exists():
        return []
    with temporary_folder() as home, repository() as place:
        (home / SETTINGS_FILE).write_text(SETTINGS)
        with serving(home, place) as server:
            _live(server, Load(time.monotonic() + FIRST_SECONDS))
            load = Load(time.monotonic() + minutes * 60)
            files = open_files(server.process.pid)
            seen = _live(server, load)
            left = files_left(server.process.pid, files)
        return _figures(minutes, load, seen, left, folders_left(home), processes_left(home, place))


@dataclass(slots=True)
class Load:
    """What all clients saw. `until` is the clock of time.monotonic()."""

    until: float
    calls: list[float] = field(default_factory=list[float])
    """Milliseconds each."""
    tasks: Counter[str] = field(default_factory=Counter[str])
    """By how they ended."""
    errors: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the server: `passed` of its time, 0 to 1."""

    passed: float
    memory_mb: float
    log_mb: float


def _live(server: Offhand, load: Load) -> list[Look]:
    begin = time.monotonic()
    threads = [threading.Thread(target=Client(n, server, load).live, daemon=True) for n in range(CLIENTS)]
    threads.append(threading.Thread(target=_send_webhooks, args=(server, load), daemon=True))
    for thread in threads:
        thread.start()
    looks: list[Look] = []
    wal = server.home / f"{STORE_FILE}-wal"
    while any(thread.is_alive() for thread in threads):
        passed = (time.monotonic() - begin) / (load.until - begin)
        looks.append(Look(passed, resident_mb(server.process.pid), wal.stat().st_size / 1e6))
        time.sleep(LOOK_SECONDS)
    load.seconds = time.monotonic() - begin
    return looks


class Client:
    """One client: takes turns at random, the same in every run, and comes back after some."""

    def __init__(self, number: int, server: Offhand, load: Load) -> None:
        self._server = server
        self._load = load
        self._session = f"s{number}"
        self._over_http = number % 2 == 1
        self._era: Era = "modern" if number // 2 % 2 else "handshake"
        self._chance = random.Random(SEED + number)
        self._turns: list[Callable[[Connection], None]] = [
            self._succeeds,
            self._fails,
            self._fails_at_first,
            self._writes_much,
            self._waits_in_a_lane,
            self._comes_later,
            self._is_continued,
            self._is_cancelled,
            self._remembers,
            self._remembers,
        ]

    def live(self) -> None:
        """Until the time is over. Whatever fails is noted, and the next visit begins."""
        while not self._load.is_over:
            try:
                self._visit()
            except Exception as error:
                self._load.errors.append(f"{type(error).__name__}: {error}"[:300])

    def _visit(self) -> None:
        client = self._connected()
        try:
            self._called(client, "create_session", session_id=self._session, title="Under load")
            if not self._over_http:
                client.follow(f"session://{self._session}")
            for _ in range(TURNS_PER_VISIT):
                if self._load.is_over:
                    break
                self._chance.choice(self._turns)(client)
        finally:
            with suppress(OSError):
                client.close(politely=self._chance.random() < 0.5)

    def _connected(self) -> Connection:
        if self._over_http:
            return connect_to_http(self._server.port, self._server.key, self._era)
        return connect_to_socket(self._server.mcp_socket, self._era)

    def _succeeds(self, client: Connection) -> None:
        task = self._done(client, "completed", agent="echo", description="Say something.")
        _expect(task["result"]["text"], "Say something.")

    def _fails(self, client: Connection) -> None:
        self._done(client, "failed", agent="echo", params={"fail": "It cannot be done.", "exit_code": 3})

    def _fails_at_first(self, client: Connection) -> None:
        task = self._done(client, "completed", agent="echo", description="At last.", params={"flaky": 1})
        _expect(task["attempt"], 2)

    def _writes_much(self, client: Connection) -> None:
        task = self._done(client, "completed", agent="echo", params={"lines": LINES, "stderr": "and more"})
        written = sum(len(f"{number}\n") for number in range(1, LINES + 1)) + 1
        _expect(task["result"]["stdout_bytes"], written)
        part = self._called(client, "get_task", task_id=task["id"], output_offset=0)
        _expect(part["output"]["text"][:4], "1\n2\n")

    def _waits_in_a_lane(self, client: Connection) -> None:
        self._done(client, "completed", agent="shell", params={"command": ["true"]}, lane="one", workspace=WORKSPACE)

    def _comes_later(self, client: Connection) -> None:
        self._done(client, "completed", agent="echo", description="Later.", run_after=0.5)

    def _is_continued(self, client: Connection) -> None:
        task = self._done(client, "completed", agent="echo", description="First.", session_id=self._session)
        following = self._called(client, "continue_task", task_id=task["id"], message="Second.", wait=0)
        self._ended(client, following, "completed")

    def _is_cancelled(self, client: Connection) -> None:
        task = self._called(
            client, "delegate_task", agent="shell", params={"command": TREE}, workspace=WORKSPACE, wait=0
        )
        deadline = time.monotonic() + TASK_SECONDS
        while task["status"] == "queued" and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS / 10)
            task = self._called(client, "get_task", task_id=task["id"])
        cancelled = self._called(client, "update_task", task_id=task["id"], action="cancel", wait=0)
        self._ended(client, cancelled, "cancelled")

    def _remembers(self, client: Connection) -> None:
        text = f"Thought {self._chance.random()}."
        self._called(client, "add_conversation", session_id=self._session, content=text)
        self._called(client, "store_memory", type="idea", key=self._session, content=text)
        self._called(client, "search", query="thought", limit=5)
        self._called(client, "update_session", session_id=self._session, title=text)
        self._called(client, "list_tasks", limit=5)

    def _done(self, client: Connection, status: str, /, **order: Any) -> dict[str, Any]:
        return self._ended(client, self._called(client, "delegate_task", **order, wait=0), status)

    def _ended(self, client: Connection, task: dict[str, Any], status: str) -> dict[str, Any]:
        deadline = time.monotonic() + TASK_SECONDS
        while task["status"] not in ("completed", "failed", "cancelled") and time.monotonic() < deadline:
            task = self._called(client, "get_task", task_id=task["id"], wait=10)
        self._load.tasks[task["status"]] += 1
        if task["status"] != status:
            raise RuntimeError(f"{status} expected: {task}")
        return task

    def _called(self, client: Connection, tool: str, /, **arguments: object) -> dict[str, Any]:
        answer = client.call(tool, **arguments)
        if not arguments.get("wait"):
            self._load.calls.append(client.milliseconds)
        return answer


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise RuntimeError(f"{expected!r} expected: {found!r}")


def _send_webhooks(server: Offhand, load: Load) -> None:
    """One after another, each over a connection of its own."""
    headers = {"Content-Type": "application/json", "X-API-Key": server.key}
    while not load.is_over:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TASK_SECONDS)
        try:
            connection.request("POST", "/webhook?wait=45", json.dumps(GIT_STATUS), headers)
            answer = json.loads(connection.getresponse().read())
            load.tasks[answer["result"]["status"]] += 1
            _expect(answer["result"]["status"], "completed")
        except Exception as error:
            load.errors.append(f"{type(error).__name__}: {error}"[:300])
        finally:
            connection.close()


def folders_left(home: Path) -> int:
    """Folders of attempts; all tasks have ended."""
    return sum(path.is_dir() for path in (home / "attempts").glob("*-*"))


def processes_left(home: Path, place: Path) -> int:
    """Processes that were started with a folder of `home`, or work in `place`. The server has ended."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_of_home = str(home).encode() in (process / "cmdline").read_bytes()
            found += is_of_home or (process / "cwd").readlink().is_relative_to(place)
    return found


def _figures(minutes: float, load: Load, looks: list[Look], files: int, folders: int, processes: int) -> list[Figure]:
    def memory(low: float, high: float) -> float:
        seen = [look.memory_mb for look in looks if low <= look.passed < high]
        return statistic(seen or [looks[-1].memory_mb], "median")

    name = f"mixed load, {minutes:g} min"
    failures = "; ".join(f"{times} x {error}" for error, times in Counter(load.errors).most_common(ERRORS_SHOWN))
    ended = ", ".join(f"{count:,} {status}" for status, count in sorted(load.tasks.items()))
    tasks = load.tasks.total()
    growth = memory(0.75, 1) - memory(0.25, 0.5)
    course = ", ".join(f"{memory(part / PARTS, (part + 1) / PARTS):.1f}" for part in range(PARTS))
    note = f"{ended}; {len(load.calls):,} calls. {failures}".strip()
    return [
        Figure(f"{name}: errors", "errors", [len(load.errors)], [Goal("max", 0)], note=note),
        Figure(
            f"{name}: memory growth", "MB", [growth], [Goal("max", GROWTH_MB)], note=f"{course} MB, eighth by eighth."
        ),
        Figure(f"{name}: memory, last quarter", "MB", [memory(0.75, 1)], [Goal("max", 110)]),
        Figure(f"{name}: files left open", "files", [files], [Goal("max", 0)]),
        Figure(f"{name}: folders of attempts left", "folders", [folders], [Goal("max", 0)]),
        Figure(f"{name}: processes left", "processes", [processes], [Goal("max", 0)]),
        Figure(f"{name}: write-ahead log of the store", "MB", [look.log_mb for look in looks]),
        Figure(f"{name}: tasks that ended", "/s", [tasks / load.seconds], larger_is_better=True),
        Figure(f"{name}: a call that does not wait", "ms", load.calls),
    ]


if __name__ == "__main__":
    script_of_minutes(measure, MINUTES, QUICK_MINUTES)
