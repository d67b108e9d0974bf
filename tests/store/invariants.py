"""What must hold of every store at every moment, whatever was going on: read from the file itself."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from mcp_server.fingerprint import fingerprint
from mcp_server.tasks import FINAL, TRANSITIONS

RECORDS = {
    "session": "SELECT seq FROM session",
    "conversation": "SELECT seq FROM chunk",
    "memory": "SELECT seq FROM memory",
    "artifact": "SELECT seq FROM artifact",
    "task": "SELECT number FROM task",
}
"""Every kind of document, and the records that must have one each."""


def broken_invariants(path: Path) -> list[str]:
    """What is wrong with a store that nobody has open. Empty where all is well."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        return [
            *_file(connection),
            *_index(connection),
            *_events(connection),
            *_records(connection),
            *_memories(connection),
            *_tasks(connection),
            *_approvals(connection),
            *broken_queue(connection),
            *_output(connection),
        ]
    finally:
        connection.close()


def _all(connection: sqlite3.Connection, query: str, *values: Any) -> list[sqlite3.Row]:
    return connection.execute(query, values).fetchall()


def _file(connection: sqlite3.Connection) -> list[str]:
    found = [row[0] for row in _all(connection, "PRAGMA integrity_check") if row[0] != "ok"]
    return found + [f"dangling reference {tuple(row)}" for row in _all(connection, "PRAGMA foreign_key_check")]


def _index(connection: sqlite3.Connection) -> list[str]:
    """The index holds the words of every record's text as it is now, and no others."""
    wrong: list[str] = []
    for kind, query in RECORDS.items():
        records = {row[0] for row in _all(connection, query)}
        documents = {row[0] for row in _all(connection, "SELECT ref FROM document WHERE kind = ?", kind)}
        if records != documents:
            wrong.append(f"{kind}: records {records} but documents {documents}")
    # FTS5's own check cannot compare with our view, whose json_each it refuses: so an index is made
    # anew from the texts, and the two are compared word by word.
    connection.executescript(
        """
        INSERT INTO main.search_text (search_text) VALUES ('integrity-check');
        CREATE VIRTUAL TABLE temp.anew USING fts5 (
            title, body, facets, content = '', tokenize = 'unicode61 remove_diacritics 2');
        INSERT INTO temp.anew (rowid, title, body, facets) SELECT rowid, title, body, facets FROM main.document_text;
        CREATE VIRTUAL TABLE temp.words USING fts5vocab (main, search_text, col);
        CREATE VIRTUAL TABLE temp.words_anew USING fts5vocab (temp, anew, col);
        """
    )
    for title, one, other in (("stale", "words", "words_anew"), ("missing", "words_anew", "words")):
        differing = _all(connection, f"SELECT * FROM temp.{one} EXCEPT SELECT * FROM temp.{other}")
        wrong += [f"{title} in the index: {tuple(row)}" for row in differing]
    return wrong


def _events(connection: sqlite3.Connection) -> list[str]:
    sequences = [row[0] for row in _all(connection, "SELECT sequence FROM event ORDER BY sequence")]
    return [] if sequences == list(range(1, len(sequences) + 1)) else [f"the log has gaps: {sequences}"]


def _records(connection: sqlite3.Connection) -> list[str]:
    """Each record has the one event of its creation."""
    made = {
        "session": ("SELECT id FROM session", "session.created", "session://{}"),
        "artifact": ("SELECT id FROM artifact", "artifact.added", "artifact://{}"),
        "api_key": ("SELECT id FROM api_key", "key.created", "key://{}"),
    }
    wrong: list[str] = []
    for noun, (query, kind, subject) in made.items():
        for (record_id,) in _all(connection, query):
            name = subject.format(record_id)
            known = _all(connection, "SELECT kind FROM event WHERE subject = ? ORDER BY sequence", name)
            if kind not in [row[0] for row in known]:
                wrong.append(f"{noun} {record_id} has no {kind}")
    for chunk in _all(connection, "SELECT * FROM chunk"):
        query = "SELECT count(*) FROM event WHERE kind = 'chunk.added' AND session_id = ? AND data ->> 'chunk_id' = ?"
        if _all(connection, query, chunk["session_id"], chunk["id"])[0][0] == 0:
            wrong.append(f"chunk {chunk['id']} has no event")
    for row in _all(connection, "SELECT * FROM api_key WHERE revoked_at IS NOT NULL"):
        if not _all(connection, "SELECT 1 FROM event WHERE kind = 'key.revoked' AND subject = ?", f"key://{row['id']}"):
            wrong.append(f"key {row['id']} was revoked without an event")
    return wrong


def _memories(connection: sqlite3.Connection) -> list[str]:
    """Versions have no gaps, and each has its event."""
    wrong: list[str] = []
    for memory in _all(connection, "SELECT * FROM memory"):
        query = "SELECT version FROM memory_version WHERE memory_id = ? ORDER BY version"
        versions = [row[0] for row in _all(connection, query, memory["id"])]
        if versions != list(range(1, memory["version"])):
            wrong.append(f"memory {memory['id']} is version {memory['version']} after {versions}")
        query = "SELECT kind, data FROM event WHERE subject = ? ORDER BY sequence"
        stored: list[int] = []
        for kind, data in _all(connection, query, f"memory://{memory['id']}"):
            stored = [] if kind == "memory.deleted" else [*stored, json.loads(data)["version"]]
        if stored != list(range(1, memory["version"] + 1)):
            wrong.append(f"memory {memory['id']} is version {memory['version']}, its events say {stored}")
    return wrong


def _tasks(connection: sqlite3.Connection) -> list[str]:
    """The log of a task is a walk through the table that ends in its state, and its attempts agree."""
    wrong: list[str] = []
    for task in _all(connection, "SELECT * FROM task"):
        query = "SELECT kind FROM event WHERE subject = ? AND data ->> 'number' = ? ORDER BY sequence"
        kinds = [row[0] for row in _all(connection, query, f"task://{task['id']}", task["number"])]
        states: list[Any] = [
            kind.removeprefix("task.")
            for kind in kinds
            if kind not in ("task.adopted", "task.changed", "task.progress")
        ]
        name = f"task {task['number']}"
        if not states or states[0] not in ("queued", "scheduled", "waiting_approval") or states[-1] != task["status"]:
            wrong.append(f"{name} is {task['status']}, its events say {states}")
        wrong += [f"{name} went {a} to {b}" for a, b in pairwise(states) if b not in TRANSITIONS[a]]
        if (task["status"] in FINAL) != (task["finished_at"] is not None):
            wrong.append(f"{name} is {task['status']} with finished_at {task['finished_at']}")
        query = "SELECT * FROM attempt WHERE task_number = ? ORDER BY attempt"
        attempts = _all(connection, query, task["number"])
        if [row["attempt"] for row in attempts] != list(range(1, task["attempt"] + 1)):
            wrong.append(f"{name} is at attempt {task['attempt']} of {[row['attempt'] for row in attempts]}")
        running = [row["attempt"] for row in attempts if row["status"] == "running"]
        if task["status"] in ("running", "cancelling") and running != [task["attempt"]]:
            wrong.append(f"{name} is {task['status']} with running attempts {running}")
        if task["status"] not in ("running", "cancelling") and running:
            wrong.append(f"{name} is {task['status']} with running attempts {running}")
        fences = [row["fence"] for row in attempts]
        if fences != sorted(set(fences)) or (fences and task["fence"] < fences[-1]):
            wrong.append(f"{name} has fence {task['fence']} after {fences}")
        if task["status"] == "completed" and task["result"] is None:
            wrong.append(f"{name} is completed without a result")
    return wrong


def broken_queue(connection: sqlite3.Connection) -> list[str]:
    """The marks of what waits, and the number of it, are what the tasks themselves say. Needs rows by name."""
    tasks = _all(connection, "SELECT * FROM task ORDER BY number")
    wrong: list[str] = []
    unfinished: set[str] = set()
    lines: dict[tuple[str, str], list[sqlite3.Row]] = {}
    marks: dict[int, tuple[int, int]] = {}
    for task in tasks:
        queued = task["status"] == "queued"
        waits = queued and task["parent_id"] is not None and task["conversation_id"] in unfinished
        marks[task["number"]] = (int(waits), 0)
        if task["status"] not in FINAL:
            unfinished.add(task["conversation_id"])
        if queued and not waits and task["lane"] is not None:
            lines.setdefault((task["lane"], task["agent"]), []).append(task)
    for line in lines.values():
        _, *others = sorted(line, key=lambda task: (-task["priority"], task["number"]))
        marks |= {task["number"]: (0, 1) for task in others}
    for task in tasks:
        found = (task["behind_conversation"], task["behind_lane"])
        if found != marks[task["number"]]:
            wrong.append(f"task {task['number']} has the marks {found} instead of {marks[task['number']]}")
    lengths = Counter(task["agent"] for task in tasks if task["status"] == "queued")
    counted = dict(_all(connection, "SELECT agent, count FROM queue_length WHERE count <> 0"))
    return wrong if counted == lengths else [*wrong, f"{dict(lengths)} are queued, counted are {counted}"]


def _approvals(connection: sqlite3.Connection) -> list[str]:
    """A task waits for exactly one answer, or for none; what is decided says when, and was asked and told of."""
    wrong: list[str] = []
    for task in _all(connection, "SELECT * FROM task"):
        query = "SELECT count(*) FROM approval WHERE task_number = ? AND status = 'pending'"
        ((pending,),) = _all(connection, query, task["number"])
        if pending != (task["status"] == "waiting_approval"):
            wrong.append(f"task {task['number']} is {task['status']} with {pending} pending approvals")
    ended = {"approved": "approval.decided", "denied": "approval.decided", "expired": "approval.expired"}
    for approval in _all(connection, "SELECT * FROM approval"):
        name, status = f"approval {approval['id']}", approval["status"]
        if (status == "pending") != (approval["decided_at"] is None):
            wrong.append(f"{name} is {status}, decided at {approval['decided_at']}")
        if (status in ("approved", "denied")) != (approval["decided_by"] is not None):
            wrong.append(f"{name} is {status}, decided by {approval['decided_by']}")
        if fingerprint(json.loads(approval["action"])) != approval["hash"]:
            wrong.append(f"{name} has the hash of another action")
        query = "SELECT kind FROM event WHERE subject = ? ORDER BY sequence"
        told = [row[0] for row in _all(connection, query, f"approval://{approval['id']}")]
        if told != ["approval.asked"] + ([ended[status]] if status in ended else []):
            wrong.append(f"{name} is {status}, its events say {told}")
    return wrong


def _output(connection: sqlite3.Connection) -> list[str]:
    wrong: list[str] = []
    ends: dict[tuple[Any, ...], int] = {}
    for row in _all(connection, "SELECT * FROM output ORDER BY task_number, attempt, stream, position"):
        stream = (row["task_number"], row["attempt"], row["stream"])
        if row["position"] != ends.get(stream, 0):
            wrong.append(f"output {stream} has a hole before {row['position']}")
        ends[stream] = row["position"] + len(row["data"])
    return wrong
