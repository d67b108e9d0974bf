"""The store in one SQLite file: what is promised when disks fill, processes die and callers meet."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_server.errors import AlreadyServingError, ForeignStoreError, NewerStoreError, StoreError, StoreFullError
from mcp_server.store.database import Database, Event, Transaction
from mcp_server.store.sqlite import GROUP_LIMIT, open_sqlite
from tests.store.invariants import broken_invariants

PROJECT = Path(__file__).parents[2]
DEADLINE_SECONDS = 10


def count_up(name: str = "n") -> Callable[[Transaction], Awaitable[int]]:
    """A transaction that takes the next number of a counter."""

    async def body(transaction: Transaction) -> int:
        row = await transaction.one("counter_next", name=name)
        assert row is not None
        return row["value"]

    return body


def keep(size: int, kind: str = "test") -> Callable[[Transaction], Awaitable[int]]:
    """A transaction that writes `size` bytes and tells of it."""

    async def body(transaction: Transaction) -> int:
        values: dict[str, Any] = {"at": 1, "kind": kind, "subject": "s", "session_id": None, "caller": None}
        row = await transaction.one("event_insert", data="x" * size, **values)
        assert row is not None
        transaction.emit(Event(row["sequence"], 1, kind, "s"))
        return row["sequence"]

    return body


def at_once(database: Database, *bodies: Callable[[Transaction], Awaitable[Any]]) -> Awaitable[list[Any]]:
    """Submit all before the writer gets to the first of them, so that they share one commit."""
    begun, held = threading.Event(), threading.Event()

    async def hold(_transaction: Transaction) -> None:
        begun.set()
        assert held.wait(DEADLINE_SECONDS)

    async def submitted() -> list[Any]:
        waiting = [asyncio.ensure_future(database.write(hold))]
        await asyncio.sleep(0)
        assert begun.wait(DEADLINE_SECONDS)
        waiting += [asyncio.ensure_future(database.write(body)) for body in bodies]
        await asyncio.sleep(0)
        held.set()
        return (await asyncio.gather(*waiting, return_exceptions=True))[1:]

    return asyncio.wait_for(submitted(), DEADLINE_SECONDS)


@contextmanager
def files_may_not_grow_beyond(size: int) -> Generator[None]:
    """A real write error: the system refuses what goes beyond `size` bytes of any file of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_what_write_returned_for_is_read_back(database: Database):
    assert await database.write(count_up()) == 1
    assert await database.write(count_up()) == 2
    rows = [await database.write(keep(3)), await database.all("task_counts"), await database.one("key_count")]
    assert rows == [1, [], {"count": 0}]


async def test_the_file_is_private_and_in_wal_mode_with_full_sync(
    database: Database, path: Path, writers: list[sqlite3.Connection]
):
    await database.write(count_up())
    for file in (path, path.with_name("offhand.db-wal"), path.with_name("offhand.db.lock")):
        assert file.stat().st_mode & 0o077 == 0, file.name
    (writer,) = writers
    pragmas = [writer.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert pragmas == [{"journal_mode": "wal"}, {"synchronous": 2}, {"foreign_keys": 1}]


async def test_many_writes_share_few_commits(database: Database, writers: list[sqlite3.Connection]):
    statements: list[str] = []
    writers[0].set_trace_callback(statements.append)
    numbers = await at_once(database, *[count_up() for _ in range(100)])
    writers[0].set_trace_callback(None)
    assert numbers == list(range(1, 101))
    assert statements.count("COMMIT") == 2  # what held the writer up, and all the others


async def test_a_group_has_a_limit(database: Database, writers: list[sqlite3.Connection]):
    statements: list[str] = []
    writers[0].set_trace_callback(statements.append)
    assert len(await at_once(database, *[count_up() for _ in range(GROUP_LIMIT + 1)])) == GROUP_LIMIT + 1
    writers[0].set_trace_callback(None)
    assert statements.count("COMMIT") == 3


async def test_a_failing_transaction_undoes_only_itself(database: Database, told: list[Event]):
    async def fails(transaction: Transaction) -> None:
        await keep(1, "undone")(transaction)
        await count_up()(transaction)
        raise ValueError("on purpose")

    async def breaks_a_rule(transaction: Transaction) -> None:
        await keep(1, "undone")(transaction)
        await transaction.run("attempt_insert", task_number=99, attempt=1, fence=1, now=1)

    first, failed, refused, last = await at_once(database, keep(1, "kept"), fails, breaks_a_rule, keep(1, "kept"))
    assert (first, last) == (1, 2)
    assert isinstance(failed, ValueError)
    assert isinstance(refused, StoreError)
    assert "FOREIGN KEY" in refused.message
    assert await database.write(count_up()) == 1
    assert [(event.sequence, event.kind) for event in told] == [(1, "kept"), (2, "kept")]


async def test_a_transaction_may_wait_for_nothing_else(database: Database):
    async def waits(transaction: Transaction) -> None:
        await keep(1)(transaction)
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="awaited something other"):
        await database.write(waits)
    assert await database.write(keep(1)) == 1


async def test_an_unknown_statement_or_a_missing_value_undoes_the_transaction(database: Database):
    async def unknown(transaction: Transaction) -> None:
        await count_up()(transaction)
        await transaction.run("no_such_statement")

    async def incomplete(transaction: Transaction) -> None:
        await count_up()(transaction)
        await transaction.run("session_touch", id="s1")

    with pytest.raises(KeyError):
        await database.write(unknown)
    with pytest.raises(StoreError, match="binding"):
        await database.write(incomplete)
    assert await database.write(count_up()) == 1


async def test_a_caller_that_goes_away_leaves_its_write_whole(database: Database):
    held = threading.Event()

    async def slow(transaction: Transaction) -> None:
        assert held.wait(DEADLINE_SECONDS)
        await count_up()(transaction)

    caller = asyncio.ensure_future(database.write(slow))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    held.set()
    assert await asyncio.wait_for(database.write(count_up()), DEADLINE_SECONDS) == 2


async def test_a_failure_that_nobody_waits_for_is_no_complaint(database: Database):
    begun, held = threading.Event(), threading.Event()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))

    async def fails(_transaction: Transaction) -> None:
        begun.set()
        assert held.wait(DEADLINE_SECONDS)
        raise ValueError("on purpose")

    caller = asyncio.ensure_future(database.write(fails))
    await asyncio.sleep(0)
    assert begun.wait(DEADLINE_SECONDS)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    held.set()
    assert await asyncio.wait_for(database.write(count_up()), DEADLINE_SECONDS) == 1
    gc.collect()
    assert complaints == []


async def test_a_group_that_sqlite_gives_up_fails_as_a_whole(
    database: Database, told: list[Event], writers: list[sqlite3.Connection]
):
    """As on a full disk, SQLite may roll back by itself, with the savepoints of all that came before."""
    writers[0].execute(
        "CREATE TEMP TRIGGER gives_up BEFORE INSERT ON main.event WHEN new.kind = 'boom' "
        "BEGIN SELECT raise(ROLLBACK, 'given up'); END"
    )
    results = await at_once(database, keep(1), keep(1, "boom"), keep(1))
    assert [type(result) for result in results] == [StoreError] * 3, results
    assert told == []
    assert await database.write(keep(1)) == 1, "nothing of the group was kept"


async def test_events_are_told_only_after_the_commit(path: Path):
    seen: list[list[Any]] = []

    def look(event: Event) -> None:
        reader = sqlite3.connect(path)
        seen.append([event.sequence, reader.execute("SELECT count(*) FROM event").fetchone()[0]])
        reader.close()

    async with open_sqlite(path, look) as database:
        await at_once(database, keep(1), keep(1), keep(1))
    assert seen == [[1, 3], [2, 3], [3, 3]]


async def test_events_of_a_failed_commit_are_never_told(
    database: Database, told: list[Event], writers: list[sqlite3.Connection]
):
    def forbid_commit(action: int, what: str | None, *_: Any) -> int:
        commits = action == sqlite3.SQLITE_TRANSACTION and what == "COMMIT"
        return sqlite3.SQLITE_DENY if commits else sqlite3.SQLITE_OK

    writers[0].set_authorizer(forbid_commit)
    results = await at_once(database, keep(1), keep(1))
    assert all(isinstance(result, StoreError) for result in results), results
    writers[0].set_authorizer(None)
    assert told == []
    assert await database.write(keep(1)) == 1
    assert [event.sequence for event in told] == [1]


async def test_a_full_disk_fails_all_of_the_group_and_the_store_works_again(
    database: Database, path: Path, told: list[Event], writers: list[sqlite3.Connection]
):
    await database.write(keep(1))
    (pages,) = writers[0].execute("PRAGMA page_count").fetchone().values()
    writers[0].execute(f"PRAGMA max_page_count = {pages + 20}")
    results = await at_once(database, count_up(), keep(2_000_000), count_up())
    assert [type(result) for result in results if isinstance(result, Exception)].count(StoreFullError) >= 1, results
    assert isinstance(results[1], StoreFullError)
    assert "full" in results[1].say
    kept = [result for result in results if not isinstance(result, Exception)]
    assert await database.write(count_up()) == len(kept) + 1, "an answer was given for what is not there"
    assert len(told) == 1
    writers[0].execute("PRAGMA max_page_count = 1073741823")
    assert await database.write(keep(2_000_000)) == 2


async def test_a_commit_that_the_disk_refuses_fails_all_of_the_group(database: Database, path: Path, told: list[Event]):
    await database.write(keep(1))
    with files_may_not_grow_beyond(path.with_name("offhand.db-wal").stat().st_size + 4096):
        results = await at_once(database, keep(10_000), count_up(), keep(10_000))
    assert [type(result) for result in results] == [StoreFullError] * 3
    assert await database.write(count_up()) == 1
    assert await database.write(keep(10_000)) == 2
    assert [event.sequence for event in told] == [1, 2]


async def test_a_write_error_leaves_a_sound_file(path: Path):
    async with open_sqlite(path) as database:
        await database.write(keep(1))
        size = path.with_name("offhand.db-wal").stat().st_size
        for more in range(0, 60_000, 7_000):
            with files_may_not_grow_beyond(size + more):
                await at_once(database, keep(9_000), keep(9_000))
        await database.write(count_up())
    assert broken_invariants(path) == []


async def test_a_store_that_finds_no_room_to_be_made_says_so(path: Path):
    with files_may_not_grow_beyond(4096), pytest.raises(StoreFullError):
        async with open_sqlite(path):
            pass
    async with open_sqlite(path) as database:
        assert await database.write(count_up()) == 1


async def test_readers_cannot_write(database: Database):
    for read in (database.one, database.all, database.search):
        with pytest.raises(StoreError, match="readonly"):
            await read("counter_next", name="n")
    assert await database.write(count_up()) == 1


async def test_a_reader_sees_what_was_committed_before_it_asked(database: Database):
    for number in range(1, 30):
        await database.write(keep(1))
        plans = await asyncio.gather(database.one("key_count"), database.search("task_counts"))
        assert plans == [{"count": 0}, []]
        assert await database.write(count_up()) == number


async def test_closing_commits_what_was_submitted(path: Path):
    held = threading.Event()

    async def slow(_transaction: Transaction) -> None:
        assert held.wait(DEADLINE_SECONDS)

    async with open_sqlite(path) as database:
        waiting = [asyncio.ensure_future(database.write(body)) for body in (slow, keep(1), keep(1))]
        await asyncio.sleep(0)
        held.set()
    assert await asyncio.gather(*waiting) == [None, 1, 2]
    with pytest.raises(StoreError, match="closed"):
        await database.write(count_up())
    async with open_sqlite(path) as database:
        assert await database.write(keep(1)) == 3


async def test_a_second_owner_in_another_process_is_refused(database: Database, path: Path):
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from mcp_server.errors import AlreadyServingError\n"
        "from mcp_server.store.sqlite import open_sqlite\n"
        "async def main():\n"
        "    async with open_sqlite(Path(sys.argv[1])):\n"
        "        print('opened')\n"
        "try:\n"
        "    asyncio.run(main())\n"
        "except AlreadyServingError as error:\n"
        "    print(error.message)\n"
    )
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, path], cwd=PROJECT, capture_output=True, text=True, timeout=30
    )
    assert ended.stdout.strip() == f"Another process owns {path}.", ended.stderr
    assert await database.write(count_up()) == 1


async def test_the_lock_ends_with_its_owner(path: Path):
    async with open_sqlite(path):
        with pytest.raises(AlreadyServingError):
            async with open_sqlite(path):
                pass
    async with open_sqlite(path) as database:
        assert await database.write(count_up()) == 1


async def test_a_child_does_not_inherit_the_lock(path: Path):
    async with open_sqlite(path):
        child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, close_fds=False)
    async with open_sqlite(path) as database:
        assert await database.write(count_up()) == 1
    assert child.stdin is not None
    child.stdin.close()
    assert await asyncio.wait_for(child.wait(), DEADLINE_SECONDS) == 0


def make_foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)")
    connection.close()


def make_ours_by_number_only(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA application_id = 0x4F464844; CREATE TABLE theirs (a)")
    connection.close()


FOREIGN = {
    "another program's SQLite file": make_foreign,
    "a SQLite file with our number and no migrations": make_ours_by_number_only,
    "a text file": lambda path: path.write_text("Dear diary, " * 1000),
    "a short text file": lambda path: path.write_text("x"),
    "a damaged file": lambda path: path.write_bytes(b"SQLite format 3\0" + os.urandom(8192)),
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_file_that_is_not_ours_is_refused_and_left_as_it_is(kind: str, path: Path):
    FOREIGN[kind](path)
    before = path.read_bytes()
    with pytest.raises(ForeignStoreError) as caught:
        async with open_sqlite(path):
            pass
    assert path.read_bytes() == before
    assert str(path) in caught.value.message
    (issue,) = caught.value.issues
    assert (issue.field, bool(issue.fix)) == ("OFFHAND_HOME", True)
    path.unlink()
    async with open_sqlite(path) as database:
        assert await database.write(count_up()) == 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
async def test_what_is_no_file_at_all_is_refused(make: Callable[[Path], None], path: Path):
    make(path)
    with pytest.raises(ForeignStoreError) as caught:
        async with open_sqlite(path):
            pass
    assert caught.value.issues[0].field == "OFFHAND_HOME"


async def test_an_empty_file_becomes_a_store(path: Path):
    path.touch()
    async with open_sqlite(path) as database:
        assert await database.write(count_up()) == 1


async def test_a_newer_store_is_refused_and_left_as_it_is(path: Path):
    async with open_sqlite(path) as database:
        await database.write(count_up())
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO migration SELECT max(version) + 1, 'from the future', 'unknown', 1 FROM migration")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(NewerStoreError) as caught:
        async with open_sqlite(path):
            pass
    assert path.read_bytes() == before
    assert "1 steps ahead" in caught.value.message
    assert "Upgrade" in caught.value.issues[0].fix


def test_a_crash_between_any_two_statements_leaves_no_half_record(tmp_path: Path):
    # SIGKILL loses nothing that was handed to the system, so memory is as good a place as a disk, and faster.
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path))
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.store.crash", folder],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        shutil.rmtree(folder)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["failures"] == []
    assert min(report["statements"]) > 10, report["statements"]
    assert {"completed t1", "cancelled t2", "group", "no session s1"} <= set(report["promises"])
