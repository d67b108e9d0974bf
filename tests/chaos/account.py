"""After a chaos run: every task, attempt, event, byte of output and process is accounted for, from the files alone."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_server.tasks import FINAL
from tests.chaos.orders import OUTPUT_LIMIT_BYTES, Order
from tests.chaos.world import World
from tests.store.invariants import broken_invariants

INTERRUPTED = ("interrupted", "interrupted")


@dataclass(frozen=True)
class Book:
    """What the store and the ledger say of one order."""

    order: Order
    task: Mapping[str, Any]
    attempts: list[Mapping[str, Any]]
    output: dict[tuple[int, str], bytes]
    ledger: Counter[str]
    """Lines of its programs: `begin COOKIE`, `end COOKIE`, `overlap-LOCK COOKIE`."""

    @property
    def name(self) -> str:
        return f"{self.order.name} ({self.order.kind}, task {self.task['number']})"

    def key(self, attempt: Mapping[str, Any]) -> str:
        """The name of the attempt's folder."""
        return f"{attempt['task_number']}-{attempt['attempt']}"

    def count(self, word: str) -> int:
        return sum(number for line, number in self.ledger.items() if line.startswith(f"{word} "))


class Account:
    """Looks at everything, and says what cannot be explained by what was done to it."""

    def __init__(self, world: World, orders: list[Order]) -> None:
        self._world = world
        self._orders = {order.name: order for order in orders}
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()

    def settle(self) -> list[str]:
        """Everything that is wrong; empty where all is accounted for."""
        store = self._world.place.home / "offhand.db"
        self.wrong += broken_invariants(store)
        connection = sqlite3.connect(store)
        connection.row_factory = sqlite3.Row
        try:
            self._tasks(connection)
            self.counts["events"] = connection.execute("SELECT count(*) FROM event").fetchone()[0]
        finally:
            connection.close()
        self._starts_that_were_cut_off()
        self._what_is_left()
        return self.wrong

    def _tasks(self, connection: sqlite3.Connection) -> None:
        tasks = {row["id"]: row for row in connection.execute("SELECT * FROM task")}
        for name in tasks.keys() - self._orders.keys():
            self.wrong.append(f"nobody asked for {name}")
        for name, order in self._orders.items():
            if name in tasks:
                self._task(self._book(connection, order, tasks[name]))
            elif order.acknowledged:
                self.wrong.append(f"{name} ({order.kind}) was acknowledged and is not in the store")
            else:
                self.counts["orders that nobody heard"] += 1

    def _book(self, connection: sqlite3.Connection, order: Order, task: Mapping[str, Any]) -> Book:
        number = task["number"]
        attempts = connection.execute("SELECT * FROM attempt WHERE task_number = ? ORDER BY attempt", (number,))
        output: dict[tuple[int, str], bytes] = {}
        query = "SELECT attempt, stream, data FROM output WHERE task_number = ? ORDER BY attempt, stream, position"
        for attempt, stream, data in connection.execute(query, (number,)):
            output[attempt, stream] = output.get((attempt, stream), b"") + data
        log = self._world.ledger / f"{order.name}.log"
        ledger = Counter(log.read_text().splitlines()) if log.exists() else Counter[str]()
        return Book(order, task, attempts.fetchall(), output, ledger)

    def _task(self, book: Book) -> None:
        self.counts["tasks"] += 1
        self.counts["attempts"] += len(book.attempts)
        self.counts["output bytes"] += sum(len(data) for data in book.output.values())
        task, order = book.task, book.order
        self.endings[f"{task['status']}, {task['reason'] or 'as asked'}"] += 1
        asked = order.arguments
        if (task["agent"], json.loads(task["params"])) != (asked["agent"], asked.get("params", {})):
            self.wrong.append(f"{book.name} is not what was asked for")
        if task["status"] not in FINAL:
            self.wrong.append(f"{book.name} is {task['status']} at the end")
            return
        if task["attempt"] > task["attempts_allowed"]:
            self.wrong.append(f"{book.name} had {task['attempt']} attempts of {task['attempts_allowed']}")
        for attempt in book.attempts:
            self._attempt(book, attempt)
        self._ending(book)
        if order.has_program:
            self._programs(book)

    def _attempt(self, book: Book, attempt: Mapping[str, Any]) -> None:
        key, how = book.key(attempt), (attempt["status"], attempt["reason"])
        if how == INTERRUPTED and key not in self._world.killed:
            self.counts["attempts cut off in their start"] += 1
        elif how != INTERRUPTED and not self._is_explained(book, attempt):
            self.wrong.append(f"{book.name}, attempt {attempt['attempt']} is {how}, not {book.order.ending}")
        self._output(book, attempt)

    def _is_explained(self, book: Book, attempt: Mapping[str, Any]) -> bool:
        order, how = book.order, (attempt["status"], attempt["reason"])
        if book.key(attempt) in self._world.struck:
            return how[1] in (None, "signal", "cancelled", order.ending[1])
        if order.kind == "flaky_echo" and attempt["attempt"] == 1:
            return how == ("failed", "exit_code") or (order.cancel_sent and how[0] == "cancelled")
        if how[0] == "cancelled":
            return order.cancel_sent
        return how == order.ending

    def _output(self, book: Book, attempt: Mapping[str, Any]) -> None:
        """What is kept is a beginning of what was foretold: all of it, or what there was when it was ended."""
        stdout = book.output.get((attempt["attempt"], "stdout"), b"")
        key = book.key(attempt)
        foretold = book.order.output
        if foretold is not None and not foretold.startswith(stdout):
            self.wrong.append(f"{book.name}, attempt {attempt['attempt']} wrote {stdout[-80:]!r}, which is not its own")
        if foretold is not None and attempt["status"] == "completed" and stdout != foretold[:OUTPUT_LIMIT_BYTES]:
            self.wrong.append(f"{book.name} is completed, with {len(stdout)} of {len(foretold)} bytes")
        if key in self._world.killed:
            for stream, before in zip(("stdout", "stderr"), self._world.killed[key], strict=True):
                kept = len(book.output.get((attempt["attempt"], stream), b""))
                if kept < before:
                    self.wrong.append(f"{book.name}, attempt {attempt['attempt']} kept {kept} of {before} {stream}")

    def _ending(self, book: Book) -> None:
        task, order = book.task, book.order
        last = book.attempts[-1] if book.attempts else None
        result = json.loads(task["result"]) if task["result"] else None
        if task["status"] == "cancelled":
            if not order.cancel_sent:
                self.wrong.append(f"{book.name} was cancelled by nobody")
        elif last is None:
            self.wrong.append(f"{book.name} is {task['status']} without an attempt")
        elif (task["status"], task["reason"]) == ("failed", "interrupted"):
            if task["attempt"] < task["attempts_allowed"]:
                self.wrong.append(f"{book.name} gave up after {task['attempt']} of {task['attempts_allowed']} attempts")
        elif task["status"] == "failed" and order.ending[0] == "completed" and book.key(last) not in self._world.struck:
            flaky_to_the_end = order.kind == "flaky_echo" and task["attempt"] == 1
            if not flaky_to_the_end:
                self.wrong.append(f"{book.name} failed: {task['reason']}")
        if task["status"] == "completed" and last is not None and result is not None and "stdout_bytes" in result:
            kept = len(book.output.get((last["attempt"], "stdout"), b""))
            if kept != result["stdout_bytes"]:
                self.wrong.append(f"{book.name} says {result['stdout_bytes']} bytes, and {kept} are kept")

    def _programs(self, book: Book) -> None:
        """None runs twice, none beside another of its task or its lane; whom nobody disturbed ran exactly once."""
        for line, times in book.ledger.items():
            if times > 1:
                self.wrong.append(f"{book.name}: {line} {times} times")
            if line.startswith("overlap"):
                self.wrong.append(f"{book.name}: {line}")
        begun, ended = book.count("begin"), book.count("end")
        undisturbed = [
            attempt
            for attempt in book.attempts
            if book.key(attempt) not in self._world.killed.keys() | self._world.struck
            and attempt["status"] in ("completed", "failed")
        ]
        if not len(undisturbed) <= begun <= len(book.attempts):
            self.wrong.append(f"{book.name} began {begun} times in {len(book.attempts)} attempts")
        finished = [attempt for attempt in undisturbed if attempt["reason"] in (None, "exit_code")]
        if ended < len(finished):
            self.wrong.append(f"{book.name} came to its end {ended} times, not {len(finished)}")
        self.counts["programs begun"] += begun

    def _starts_that_were_cut_off(self) -> None:
        """A server that is killed between the spec and the supervisor leaves an attempt that nobody saw begin."""
        cut, kills = self.counts["attempts cut off in their start"], self._world.kills["server"]
        if cut > kills:
            self.wrong.append(f"{cut} attempts were interrupted by nobody, with {kills} kills of servers")

    def _what_is_left(self) -> None:
        """No process, no folder, nothing in the log that was not foreseen."""
        place = self._world.place
        self.wrong += [f"alive: {pid} {line}" for pid, line in place.await_silence().items()]
        left = [path.name for path in (place.home / "attempts").iterdir() if path.suffix != ".pyc"]
        if left:
            self.wrong.append(f"left on the disk: {left}")
        self.wrong += [f"in the log: {line}" for line in faults(place.home / "logs")]


def faults(folder: Path) -> list[str]:
    """Errors in the servers' logs, each with the last line of its traceback."""
    found: list[str] = []
    for path in sorted(folder.glob("offhand.log*")):
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            if " ERROR " in line or " CRITICAL " in line:
                rest = [each for each in lines[number + 1 : number + 80] if each]
                trace = [each for each in rest if not each[0].isspace() and not each.startswith("Traceback")]
                found.append(f"{line} {trace[0] if trace and rest[0].startswith('Traceback') else ''}".strip())
    return found
