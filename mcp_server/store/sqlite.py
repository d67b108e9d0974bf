"""The store in one SQLite file: one writer thread that commits what is waiting together, and read-only readers.

WAL with `synchronous=FULL`: what `write` returned for survives a power cut. Only the writer writes
and checkpoints, which also keeps clear of the WAL-reset bug of SQLite before 3.51.3.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite

from mcp_server.errors import AlreadyServingError, OffhandError, StoreError, StoreFullError
from mcp_server.store.database import Event, Row, Transaction
from mcp_server.store.migrate import foreign_store, migrate, migrations
from mcp_server.store.queries import statements

GROUP_LIMIT = 256
"""How many waiting transactions share one commit."""

FILE_HEAD = b"SQLite format 3\0"

FULL_CODES = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
}

T = TypeVar("T")
logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_sqlite(path: Path, listener: Callable[[Event], None] | None = None) -> AsyncGenerator[SqliteDatabase]:
    """Open the store at `path`, made and migrated where needed, as its one owner.

    `listener` hears of each event on the event loop, after its transaction is on disk.

    Raises:
        AlreadyServingError: another process owns the store.
        ForeignStoreError, NewerStoreError: the file is not ours to open.
    """
    async with AsyncExitStack() as stack:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyServingError(f"Another process owns {path}.") from None
        writer = _Writer(path, asyncio.get_running_loop(), listener)
        await asyncio.to_thread(writer.open)
        stack.push_async_callback(asyncio.to_thread, writer.stop)
        writer.start()
        readers = [await stack.enter_async_context(_reader(path)) for _ in range(2)]
        yield SqliteDatabase(writer, *readers)


class SqliteDatabase:
    """The `Database` of a SQLite file."""

    def __init__(self, writer: _Writer, reader: aiosqlite.Connection, searcher: aiosqlite.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._searcher = searcher

    async def one(self, query: str, /, **values: Any) -> Row | None:
        rows = await _read(self._reader, query, values)
        return rows[0] if rows else None

    async def all(self, query: str, /, **values: Any) -> list[Row]:
        return await _read(self._reader, query, values)

    async def search(self, query: str, /, **values: Any) -> list[Row]:
        return await _read(self._searcher, query, values)

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        future = self._writer.submit(body)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # What was submitted is done all the same; nobody is left to hear how it went.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise


@asynccontextmanager
async def _reader(path: Path) -> AsyncGenerator[aiosqlite.Connection]:
    connection = await aiosqlite.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.row_factory = cast("type[sqlite3.Row]", _as_dict)
    try:
        await connection.execute_fetchall("PRAGMA wal_autocheckpoint = 0")
        yield connection
    finally:
        await connection.close()


def _as_dict(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}


async def _read(connection: aiosqlite.Connection, query: str, values: dict[str, Any]) -> list[Row]:
    try:
        return cast("list[Row]", await connection.execute_fetchall(statements()[query], values))
    except sqlite3.Error as error:
        raise _translated(error) from error


def _translated(error: sqlite3.Error) -> OffhandError:
    if getattr(error, "sqlite_errorcode", None) in FULL_CODES:
        return StoreFullError(say="The disk of your machine is full, so nothing was stored.")
    return StoreError(f"The store failed: {error}")


class _Transaction:
    """One caller's part of a commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.events: list[Event] = []

    async def one(self, query: str, /, **values: Any) -> Row | None:
        rows = self._execute(query, values).fetchall()
        return rows[0] if rows else None

    async def all(self, query: str, /, **values: Any) -> list[Row]:
        return self._execute(query, values).fetchall()

    async def run(self, query: str, /, **values: Any) -> int:
        return self._execute(query, values).rowcount

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def _execute(self, query: str, values: dict[str, Any]) -> sqlite3.Cursor:
        return self._connection.execute(statements()[query], values)


@dataclass(slots=True)
class _Work:
    body: Callable[[Transaction], Awaitable[Any]]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    events: tuple[Event, ...] = ()


class _Writer:
    """The thread that owns the one connection which writes."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, listener: Callable[[Event], None] | None) -> None:
        self._path = path
        self._loop = loop
        self._listener = listener
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._connection: sqlite3.Connection | None = None
        self._stopped = False

    def open(self) -> None:
        """Open and migrate, in the calling thread. The file is private to the user."""
        _claim(self._path)
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=512)
        try:
            if connection.execute("PRAGMA page_count").fetchone() == (0,):
                # Lets a store shrink in small steps. Only to be had before the first table.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            migrate(connection, self._path, migrations())
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.DatabaseError as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise _translated(error) from error
            raise foreign_store(self._path, f"is damaged or not an Offhand store: {error}") from error
        except BaseException:
            connection.close()
            raise
        connection.row_factory = _as_dict
        self._connection = connection

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Commit what was submitted, then close."""
        self._stopped = True
        self._queue.put(None)
        self._thread.join()
        while not self._queue.empty():  # submitted in the moment between
            work = self._queue.get()
            if work is not None:
                work.error = StoreError("The store is closed.")
                self._loop.call_soon_threadsafe(self._deliver, [work])

    def submit(self, body: Callable[[Transaction], Awaitable[T]]) -> asyncio.Future[T]:
        if self._stopped:
            raise StoreError("The store is closed.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Work(body, future))
        return future

    def _work(self) -> None:
        assert self._connection is not None
        stopping = False
        while not stopping:
            group = [self._queue.get()]
            while len(group) < GROUP_LIMIT:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            stopping = None in group
            works = [work for work in group if work is not None]
            if works:
                self._commit(self._connection, works)
                self._loop.call_soon_threadsafe(self._deliver, works)
        self._connection.close()

    def _commit(self, connection: sqlite3.Connection, works: list[_Work]) -> None:
        """Run all of `works` in one transaction, each in a savepoint, so that one failure undoes only itself."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work in works:
                self._run(connection, work)
                if not connection.in_transaction:  # SQLite gave the whole transaction up, as on a full disk
                    raise work.error or StoreError()
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  # handed to every caller; the writer must live on
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            failure = _translated(error) if isinstance(error, sqlite3.Error) else error
            logger.error("a commit of %d transactions failed: %s", len(works), failure)
            for work in works:
                work.error, work.events = work.error or failure, ()

    def _run(self, connection: sqlite3.Connection, work: _Work) -> None:
        transaction = _Transaction(connection)
        connection.execute("SAVEPOINT caller")
        try:
            work.result = _drive(work.body(transaction))
            connection.execute("RELEASE caller")
            work.events = tuple(transaction.events)
        except BaseException as error:  # noqa: BLE001  # handed to its caller
            work.error = _translated(error) if isinstance(error, sqlite3.Error) else error
            if connection.in_transaction:
                connection.execute("ROLLBACK TO caller")
                connection.execute("RELEASE caller")

    def _deliver(self, works: list[_Work]) -> None:
        for work in works:
            if not work.future.done():
                if work.error is not None:
                    work.future.set_exception(work.error)
                else:
                    work.future.set_result(work.result)
            if self._listener is not None:
                for event in work.events:
                    self._listener(event)


def _claim(path: Path) -> None:
    """Make the file if there is none. SQLite itself would write over any file of less than a page."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            head = os.read(descriptor, len(FILE_HEAD))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise foreign_store(path, f"cannot be opened: {error.strerror}") from error
    if head.strip(b"\0") and head != FILE_HEAD:
        raise foreign_store(path)


def _drive(body: Awaitable[T]) -> T:
    """Run a transaction's body to its end. It has nothing to wait for: every statement answers at once."""
    coroutine = cast("Coroutine[Any, Any, T]", body)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("A transaction awaited something other than its store.")
