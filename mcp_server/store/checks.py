"""Whether a store is sound, and mending what can be mended without losing anything. The server must be stopped."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_server.errors import AlreadyServingError, NotFoundError, StoreError
from mcp_server.store.migrate import APPLICATION_ID, foreign_store
from mcp_server.store.queries import statements

SQLITE_VERSION = sqlite3.sqlite_version

LISTED = 20
"""Of the complaints of SQLite, so many are shown."""

SPACE_FACTOR = 3
"""A repair needs so many times the size of the store: the copy, and what it writes anew."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `remedy` says what a repair does, or what else helps; `repaired` whether it was done."""

    check: str
    message: str
    remedy: str
    safe: bool
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a look at a store found. `backup` is the copy that was made before anything was changed."""

    findings: tuple[Finding, ...]
    size_bytes: int
    free_bytes: int
    backup: Path | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong (any more)."""
        return all(finding.repaired for finding in self.findings)


def check_store(path: Path, *, repair: bool = False) -> Report:
    """Look the whole store through; with `repair` mend what is safe to mend, after a copy was made beside it.

    Raises:
        AlreadyServingError: a server owns the store.
        NotFoundError, ForeignStoreError: there is no store of ours at `path`.
        StoreError: there is not enough room for the copy.
    """
    with _owned(path), closing(_opened(path)) as connection:
        findings = _look(connection)
        backup = None
        if repair and any(finding.safe for finding in findings):
            backup = _copied(connection, path)
            findings = _mend(connection, findings)
        return Report(tuple(findings), path.stat().st_size, _free_bytes(connection), backup)


def compact_store(path: Path) -> tuple[int, int]:
    """Write the store anew without its holes, and so that it can shrink by itself from now on.

    Returns its size before and after, in bytes. Needs as much room again while it works. Raises as `check_store`.
    """
    with _owned(path), closing(_opened(path)) as connection:
        before = path.stat().st_size
        _need_room(path, before)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, path.stat().st_size


@contextmanager
def _owned(path: Path) -> Generator[None]:
    """As its one owner, by the lock that a server holds too."""
    if not path.exists():
        raise NotFoundError(f"There is no store at {path}.", field="OFFHAND_HOME", fix="Name the home that you mean.")
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AlreadyServingError(
            f"A server is using {path}.", field="OFFHAND_HOME", fix="Stop it first; running tasks go on without it."
        ) from None
    finally:
        os.close(lock)


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise foreign_store(path)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise foreign_store(path, f"is damaged or not an Offhand store: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _look(connection: sqlite3.Connection) -> list[Finding]:
    findings: list[Finding] = []
    for check in (_file, _references, _index, _tasks, _queue, _approvals):
        try:
            findings += check(connection)
        except sqlite3.DatabaseError as error:
            findings.append(Finding(check.__name__.strip("_"), str(error), _RESTORE, safe=False))
    return findings


_RESTORE = (
    "Parts of the file cannot be read. Copy it somewhere safe, then go back to a backup, or save what can be read: "
    "sqlite3 offhand.db .recover."
)


def _file(connection: sqlite3.Connection) -> list[Finding]:
    said = [row[0] for row in connection.execute(f"PRAGMA integrity_check({LISTED})") if row[0] != "ok"]
    # An index holds nothing that its table does not: it can be made anew.
    only_indexes = all(" from index " in line or "entries in index" in line for line in said)
    return [
        Finding("file", line, "Make the indexes anew." if only_indexes else _RESTORE, only_indexes) for line in said
    ]


def _references(connection: sqlite3.Connection) -> list[Finding]:
    lost: dict[tuple[str, str], int] = {}
    for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        lost[table, parent] = lost.get((table, parent), 0) + 1
    return [
        Finding(
            "references",
            f"{count} rows of {table} belong to a {parent} that is gone.",
            "Make the session anew, named Recovered." if parent == "session" else "Delete them.",
            safe=True,
        )
        for (table, parent), count in lost.items()
    ]


def _index(connection: sqlite3.Connection) -> list[Finding]:
    found = [
        Finding("search", message, "Make the search index anew.", safe=True)
        for name, message in (
            ("check_not_indexed", "{} records are missing in the search index."),
            ("check_indexed_nothing", "The search index has {} entries without a record."),
            ("check_index_differs", "{} entries of the search index do not fit its table of contents."),
        )
        if (count := connection.execute(statements()[name]).fetchone()[0])
        for message in [message.format(count)]
    ]
    try:
        connection.execute("INSERT INTO search_text (search_text) VALUES ('integrity-check')")
    except sqlite3.DatabaseError as error:
        found.append(
            Finding("search", f"The search index is damaged: {error}", "Make the search index anew.", safe=True)
        )
    return found


def _tasks(connection: sqlite3.Connection) -> list[Finding]:
    return _counted(connection, "tasks", _TASK_CHECKS)


_TASK_CHECKS = (
    ("attempts_open", "{} attempts go on whose task has ended.", "Call them interrupted."),
    ("ends_without_time", "{} finished tasks have no time of their end.", "Take that of their last change."),
    ("scheduled_without_time", "{} scheduled tasks have no time to begin.", "Let them begin now."),
    ("fence_behind", "The fencing number is {} behind.", "Set it to the highest that was given out."),
)


def _queue(connection: sqlite3.Connection) -> list[Finding]:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'task_place'").fetchone():
        return []  # an older store: it has none of this until a server has opened it
    return _counted(connection, "queue", _QUEUE_CHECKS)


_QUEUE_CHECKS = (
    ("behind_conversation", "{} tasks stand in the wrong place of their conversation.", "Mark them anew."),
    ("behind_lane", "{} tasks stand in the wrong place of their lane.", "Mark them anew."),
    ("queue_length", "The queues of {} agents are counted wrong.", "Count them anew."),
)
"""In this order: places in a lane follow from those in the conversations."""


def _approvals(connection: sqlite3.Connection) -> list[Finding]:
    if not _has_approvals(connection):
        return []
    return _counted(connection, "approvals", _APPROVAL_CHECKS)


_APPROVAL_CHECKS = (
    ("asked_for_nothing", "{} approvals are asked for by tasks that do not wait for them.", "Withdraw them."),
    (
        "waits_for_nothing",
        "{} tasks wait for an approval that nobody is asked for.",
        "Cancel them: no answer means no.",
    ),
)


def _has_approvals(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'approval'").fetchone() is not None


def _counted(connection: sqlite3.Connection, check: str, parts: tuple[tuple[str, str, str], ...]) -> list[Finding]:
    return [
        Finding(check, message.format(count), remedy, safe=True)
        for name, message, remedy in parts
        if (count := connection.execute(statements()[f"check_{name}"]).fetchone()[0])
    ]


def _mend(connection: sqlite3.Connection, findings: list[Finding]) -> list[Finding]:
    """Each check's repair in one transaction. What is still found afterwards stays unrepaired."""
    for check in dict.fromkeys(finding.check for finding in findings if finding.safe):
        with suppress(sqlite3.DatabaseError), _transaction(connection):
            _REPAIRS[check](connection)
    left = {(finding.check, finding.message) for finding in _look(connection)}
    return [
        Finding(each.check, each.message, each.remedy, each.safe, repaired=(each.check, each.message) not in left)
        for each in findings
    ]


def _mend_references(connection: sqlite3.Connection) -> None:
    now = time.time_ns() // 1000
    for name in ("chunk", "memory", "task", "artifact"):
        connection.execute(statements()[f"repair_session_of_{name}"], {"now": now})
    names = ("repair_orphan_output", "repair_orphan_attempts", "repair_orphan_versions")
    newer = ("repair_orphan_approvals", "repair_orphan_states") if _has_approvals(connection) else ()
    for name in (*names, *newer):
        connection.execute(statements()[name])


def _mend_index(connection: sqlite3.Connection) -> None:
    """Everything out and in again: FTS5's own 'rebuild' cannot read our view."""
    for name in ("repair_index_empty", "repair_documents_gone", "repair_documents_new", "repair_index_fill"):
        connection.execute(statements()[name])


def _mend_tasks(connection: sqlite3.Connection) -> None:
    now = time.time_ns() // 1000
    for name, *_ in _TASK_CHECKS:
        connection.execute(statements()[f"repair_{name}"], {"now": now})


def _mend_queue(connection: sqlite3.Connection) -> None:
    for name, *_ in _QUEUE_CHECKS:
        connection.execute(statements()[f"repair_{name}"])


def _mend_approvals(connection: sqlite3.Connection) -> None:
    now = time.time_ns() // 1000
    for name, *_ in _APPROVAL_CHECKS:
        connection.execute(statements()[f"repair_{name}"], {"now": now})


def _mend_file(connection: sqlite3.Connection) -> None:
    connection.execute("REINDEX")


_REPAIRS: dict[str, Callable[[sqlite3.Connection], None]] = {
    "file": _mend_file,
    "references": _mend_references,
    "search": _mend_index,
    "tasks": _mend_tasks,
    "queue": _mend_queue,
    "approvals": _mend_approvals,
}


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _copied(connection: sqlite3.Connection, path: Path) -> Path:
    """A copy of the file as it is, damage and all; what the WAL holds is brought into it first."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _need_room(path, SPACE_FACTOR * path.stat().st_size)
    copy = path.with_name(f"{path.name}.before-repair-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    with open(path, "rb") as source, open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        while batch := source.read(1024 * 1024):
            target.write(batch)
        target.flush()
        os.fsync(target.fileno())
    return copy


def _need_room(path: Path, wanted: int) -> None:
    found = os.statvfs(path.parent)
    if found.f_bavail * found.f_frsize < wanted:
        raise StoreError(f"There is not enough room beside {path}: {wanted // 1024 // 1024 + 1} MiB are needed.")


def _free_bytes(connection: sqlite3.Connection) -> int:
    with suppress(sqlite3.DatabaseError):
        (pages,), (size,) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_size")
        )
        return int(pages) * int(size)
    return 0
