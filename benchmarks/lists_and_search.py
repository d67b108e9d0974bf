"""Lists and search with 100,000 sessions, 100,000 chunks and 100,000 tasks in the store, as tool calls over the socket.

The store is filled in bulk through the nouns' own statements, in their order, a thousand records to a commit: every
event, index entry and attempt is there, as in a store that was used for years. Nine tasks of ten have ended. Beside
what a plain table would do: the same page by `ORDER BY … LIMIT` in this process, and text found by LIKE.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Goal, Series, alternate, script, timed
from benchmarks.processes import serving, temporary_folder
from benchmarks.wire import Conversation, over_socket
from mcp_server.callers import DESK
from mcp_server.clock import now_us
from mcp_server.events import Events
from mcp_server.runtime import STORE_FILE
from mcp_server.search import index_document, reindexed
from mcp_server.store.database import Transaction
from mcp_server.store.sqlite import open_sqlite
from mcp_server.tasks import NewTask, Task, move, record_event

TOGETHER = 1000
CALLER = json.dumps(DESK.record())
GOAL = (Goal("p95", 20),)
COMMON = "report"
"""In every third record."""
RARE = "zeppelin"
"""In every ten-thousandth."""
CHUNK_WORDS = 30
SEED = 2


def measure(quick: bool) -> list[Figure]:
    """Figures of lists and of search."""
    count, rounds = (5_000, 10) if quick else (100_000, 100)
    with temporary_folder() as home:
        begin = time.monotonic()
        asyncio.run(fill(home / STORE_FILE, count))
        filled = time.monotonic() - begin
        size = (home / STORE_FILE).stat().st_size / 1e6
        print(f"filled with {count:,} of each in {filled:.0f} s, {size:.0f} MB", file=sys.stderr)
        with serving(home) as server, over_socket(server.mcp_socket) as ours, _plain(home / STORE_FILE) as plain:
            return [_figure(rounds, ours, plain, *case) for case in _cases(count)]


def _cases(count: int) -> Iterable[tuple[str, str, dict[str, Any], str]]:
    """What it is called, the tool, its arguments, and the plain statement beside it."""
    page = "ORDER BY {} DESC LIMIT 20"
    sessions, tasks = f"SELECT * FROM session {page.format('seq')}", f"SELECT * FROM task {page.format('number')}"
    one = f"s{count // 2}"
    like = f"SELECT * FROM chunk WHERE content LIKE '%' || '{{}}' || '%' {page.format('seq')}"
    yield "list_sessions", "list_sessions", {}, sessions
    yield "list_sessions, status archived", "list_sessions", {"status": "archived"}, sessions
    yield "list_sessions, rare word", "list_sessions", {"query": RARE}, _like("session", "title", RARE, "seq")
    yield "list_sessions, common word", "list_sessions", {"query": COMMON}, _like("session", "title", COMMON, "seq")
    yield "list_tasks", "list_tasks", {}, tasks
    yield "list_tasks, status completed", "list_tasks", {"status": "completed"}, tasks
    yield "list_tasks, status and agent", "list_tasks", {"status": "queued", "agent": "codex"}, tasks
    yield "list_tasks, agent that has none", "list_tasks", {"status": "completed", "agent": "git"}, tasks
    yield "list_tasks, one session", "list_tasks", {"session_id": one}, tasks
    yield "list_tasks, rare word", "list_tasks", {"query": RARE}, _like("task", "description", RARE, "number")
    yield "list_tasks, common word", "list_tasks", {"query": COMMON}, _like("task", "description", COMMON, "number")
    yield "search, rare word", "search", {"query": RARE}, like.format(RARE)
    yield "search, common word", "search", {"query": COMMON}, like.format(COMMON)
    yield "search, two words", "search", {"query": f"{COMMON} w17"}, like.format("w17")
    yield (
        "search, common word, kind conversation",
        "search",
        {"query": COMMON, "kind": "conversation"},
        like.format(COMMON),
    )
    yield "search, common word, one session", "search", {"query": COMMON, "session_id": one}, like.format(COMMON)
    yield "search, nothing found", "search", {"query": "unheardof"}, like.format("unheardof")
    yield "search, beginning of a rare word", "search", {"query": RARE[:4]}, like.format(RARE[:4])
    yield "search, beginning of a common word", "search", {"query": COMMON[:4]}, like.format(COMMON[:4])
    yield "search, a word in nearly every record", "search", {"query": "w1"}, like.format("w1")
    yield "search without query, newest", "search", {}, f"SELECT * FROM chunk {page.format('seq')}"
    yield "get_session", "get_session", {"session_id": one}, f"SELECT * FROM session WHERE id = '{one}'"


def _like(table: str, column: str, word: str, order: str) -> str:
    return f"SELECT * FROM {table} WHERE {column} LIKE '%{word}%' ORDER BY {order} DESC LIMIT 20"


def _figure(
    rounds: int,
    ours: Conversation,
    plain: sqlite3.Connection,
    name: str,
    tool: str,
    arguments: dict[str, Any],
    statement: str,
) -> Figure:
    call, bare = alternate(
        rounds,
        lambda: ours.time_call(tool, **arguments),
        timed(lambda: plain.execute(statement).fetchall()),
        warm_up=3,
    )
    return Figure(name, "ms", call, GOAL, [Series("LIKE" if "LIKE" in statement else "one plain SELECT", bare)])


def _plain(path: Path) -> closing[sqlite3.Connection]:
    """A reader that never writes or checkpoints."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return closing(connection)


async def fill(path: Path, count: int) -> None:
    """Fill a new store with `count` sessions, chunks and tasks."""
    chance = random.Random(SEED)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    async with open_sqlite(path) as database:
        for begin in range(0, count, TOGETHER):
            numbers = range(begin, min(begin + TOGETHER, count))
            await database.write(lambda transaction, numbers=numbers: _some(transaction, numbers, chance))


async def _some(transaction: Transaction, numbers: Iterable[int], chance: random.Random) -> None:
    events = Events()
    for number in numbers:
        await _session(transaction, events, number, chance)
        await _chunk(transaction, events, number, chance)
        task = await _task(transaction, events, number, chance)
        if number % 10:
            await _work(transaction, events, task)


async def _session(transaction: Transaction, events: Events, number: int, chance: random.Random) -> None:
    fields = {"title": _words(chance, number, 5), "participants": '["claude", "user"]', "metadata": "{}"}
    name = f"s{number}"
    row = await transaction.one("session_insert", id=name, request="[]", caller=CALLER, now=now_us(), **fields)
    await index_document(transaction, "session", row["seq"])
    await events.append(transaction, "session.created", f"session://{name}", session_id=name, caller=DESK)
    if number % 20 == 0:
        await transaction.one("session_update", id=name, status="archived", now=now_us(), **fields)


async def _chunk(transaction: Transaction, events: Events, number: int, chance: random.Random) -> None:
    content = _words(chance, number, CHUNK_WORDS)
    fields = {"id": f"c{number}", "session_id": f"s{number}", "format": "dialogue", "content": content}
    row = await transaction.one("chunk_insert", size=len(content), caller=CALLER, now=now_us(), **fields)
    await index_document(transaction, "conversation", row["seq"])
    await events.append(transaction, "conversation.added", f"session://s{number}", session_id=f"s{number}", caller=DESK)


async def _task(transaction: Transaction, events: Events, number: int, chance: random.Random) -> Task:
    new = NewTask(
        request="{}",
        agent=("claude_code", "codex")[number % 2],
        description=_words(chance, number, 8),
        params="{}",
        workspace="bench",
        cwd="/",
        timeout_seconds=60,
        max_attempts=3,
        session_id=f"s{number}",
        conversation_id=f"t{number}",
    )
    row = await transaction.one(
        "task_insert", id=f"t{number}", status="queued", caller=CALLER, now=now_us(), **asdict(new)
    )
    await index_document(transaction, "task", row["number"])
    task = Task.of(row)
    await record_event(events, transaction, task, DESK)
    return task


async def _work(transaction: Transaction, events: Events, task: Task) -> None:
    number, now = task.number, now_us()
    running = Task.of(await transaction.one("task_claim", number=number, fence=number, now=now))
    await transaction.run("attempt_insert", task_number=number, attempt=1, fence=number, now=now)
    await record_event(events, transaction, running, None)
    end = {"status": "completed", "reason": None, "returncode": 0, "details": "{}", "now": now_us()}
    await transaction.run("attempt_finish", task_number=number, attempt=1, **end)
    text = f"Done: {task.description}"
    result = json.dumps({"say": "Done.", "text": text, "stdout": text})
    async with reindexed(transaction, "task", number):
        await transaction.one("task_result", number=number, fence=number, result=result, summary=text)
    await move(events, transaction, running, "completed", None, now_us(), fence=number)


def _words(chance: random.Random, number: int, length: int) -> str:
    """Words as text has them: few are frequent, many are rare."""
    words = [f"w{min(20_000, int(chance.paretovariate(0.7)))}" for _ in range(length)]
    if number % 3 == 0:
        words[0] = COMMON
    if number % 10_000 == 7:
        words[-1] = RARE
    return " ".join(words)


if __name__ == "__main__":
    script(measure)
