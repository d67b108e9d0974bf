"""What the doctor finds in a store, what it mends, and that it loses nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mcp_server.callers import DESK, calling_as
from mcp_server.errors import AlreadyServingError, ForeignStoreError, NotFoundError, StoreError
from mcp_server.store import checks
from mcp_server.store.checks import check_store, compact_store
from mcp_server.store.migrate import migrate, migrations
from mcp_server.store.sqlite import open_sqlite
from tests.hosting import hosted
from tests.store.house import new_task, open_house
from tests.store.tour import tour

ASKED = """
INSERT INTO approval (about, status, action, hash, say, created_at, expires_at, id, task_number)
SELECT 'task', 'pending', '{}', 'hash', 'May it?', 1, 2, 'asked',
"""


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store with something of everything in it, closed."""
    found = tmp_path / "offhand.db"
    with calling_as(DESK):
        async with hosted(open_house(found)) as house:
            await tour(house, lambda _name: None)
            await house.sessions.create(id="kept", title="Kept")
            await house.conversations.add("kept", "we spoke of budgets", id="c1")
            await house.memories.store(type="fact", content="the budget is small", session_id="kept", id="m9")
            await house.memories.store(type="fact", content="old", key="v", id="m8")
            await house.memories.store(type="fact", content="new", key="v")
            await house.artifacts.add(name="budget.txt", content="numbers", session_id="kept", id="a9")
            await house.tasks.create(new_task("reckon the budget", session_id="kept"), id="t9")
            await house.tasks.create(new_task("later", run_after=2**60), id="kept-waiting")
            task = await house.attempts.claim(["echo"])
            assert task is not None
            await house.attempts.append_output(task, [("stdout", 0, b"out")])
    return found


def spoil(path: Path, *commands: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for command in commands:
            connection.execute(command)


def ask(path: Path, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(question).fetchall()


def found(path: Path) -> set[str]:
    return {finding.check for finding in check_store(path).findings}


def test_a_sound_store_has_nothing_wrong_with_it_and_is_left_alone(path: Path):
    before = path.read_bytes()
    report = check_store(path, repair=True)
    assert (report.findings, report.sound, report.backup) == ((), True, None)
    assert path.read_bytes() == before
    assert report.size_bytes == len(before)


@pytest.mark.parametrize(
    ("check", "commands"),
    [
        ("search", ["DELETE FROM document WHERE kind = 'memory'"]),
        ("search", ["INSERT INTO document (kind, ref) VALUES ('memory', 4711)"]),
        ("search", ["INSERT INTO search_text (search_text) VALUES ('delete-all')"]),
        ("search", ["DELETE FROM search_text_data WHERE id > 10"]),
        ("references", ["PRAGMA foreign_keys = OFF", "DELETE FROM session WHERE id = 'kept'"]),
        ("references", ["PRAGMA foreign_keys = OFF", "DELETE FROM task WHERE id = 't9'"]),
        ("references", ["PRAGMA foreign_keys = OFF", "DELETE FROM memory WHERE id = 'm8'"]),
        ("tasks", ["UPDATE task SET status = 'completed', finished_at = 1 WHERE id = 't9'"]),
        ("tasks", ["UPDATE task SET status = 'failed' WHERE id = 't9'"]),
        ("tasks", ["UPDATE task SET status = 'scheduled', run_after = NULL WHERE id = 't9'"]),
        ("tasks", ["UPDATE counter SET value = 0 WHERE name = 'fence'"]),
        ("tasks", ["DELETE FROM counter"]),
        ("queue", ["UPDATE task SET behind_conversation = 1 WHERE id = 't9'"]),
        ("queue", ["UPDATE task SET behind_lane = 1 WHERE id = 't9'"]),
        ("queue", ["UPDATE queue_length SET count = count + 1"]),
        ("queue", ["INSERT INTO queue_length (agent, count) VALUES ('nobody', 3)"]),
        ("approvals", ["UPDATE task SET status = 'waiting_approval' WHERE id = 'kept-waiting'"]),
        ("approvals", [f"{ASKED} number FROM task WHERE id = 't9'"]),
        ("references", ["PRAGMA foreign_keys = OFF", f"{ASKED} 4711"]),
        (
            "references",
            ["PRAGMA foreign_keys = OFF", "INSERT INTO conversation_state VALUES ('nobody', 'echo', '{}', 1)"],
        ),
    ],
)
def test_what_can_be_mended_is_found_and_mended(path: Path, check: str, commands: list[str]):
    spoil(path, *commands)
    spoiled = path.read_bytes()
    seen = check_store(path)
    assert check in {finding.check for finding in seen.findings}
    assert not seen.sound
    assert path.read_bytes() == spoiled, "a look changes nothing"
    mended = check_store(path, repair=True)
    assert mended.sound, mended.findings
    assert mended.backup is not None
    assert mended.backup.stat().st_mode & 0o077 == 0
    assert check_store(path).findings == ()


def test_the_copy_is_the_store_as_it_was(path: Path):
    spoil(path, "DELETE FROM document WHERE kind = 'memory'")
    spoiled = path.read_bytes()
    backup = check_store(path, repair=True).backup
    assert backup is not None
    assert backup.read_bytes() == spoiled


def test_what_belonged_to_a_lost_session_is_kept_in_one_of_that_id(path: Path):
    spoil(path, "PRAGMA foreign_keys = OFF", "DELETE FROM session WHERE id = 'kept'")
    check_store(path, repair=True)
    assert ask(path, "SELECT title, status FROM session WHERE id = 'kept'") == [("Recovered", "active")]
    assert ask(path, "SELECT content FROM chunk WHERE session_id = 'kept'") == [("we spoke of budgets",)]
    assert ask(path, "SELECT id FROM memory WHERE session_id = 'kept'") == [("m9",)]
    assert ask(path, "SELECT id FROM artifact WHERE session_id = 'kept'") == [("a9",)]


async def test_a_search_index_made_anew_finds_everything_again(path: Path):
    spoil(path, "INSERT INTO search_text (search_text) VALUES ('delete-all')")
    check_store(path, repair=True)
    with calling_as(DESK):
        async with open_house(path) as house:
            hits, _ = await house.search.find(query="budget")
            assert {hit["kind"] for hit in hits} == {"conversation", "memory", "artifact", "task"}
            hits, _ = await house.search.find(query="budgets")
            assert [hit["kind"] for hit in hits] == ["conversation"]


def test_a_damaged_index_of_a_table_is_made_anew(path: Path):
    spoil(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX task_by_agent ON task (agent, id)' WHERE name = 'task_by_agent'",
    )
    report = check_store(path, repair=True)
    assert report.sound
    assert "file" in {finding.check for finding in report.findings}


def test_pages_that_cannot_be_read_are_told_and_left_alone(path: Path):
    (root,), (size,) = ask(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'chunk'")[0], (4096,)
    with path.open("r+b") as file:
        file.seek((int(str(root)) - 1) * size)
        file.write(b"\xff" * size)
    damaged = path.read_bytes()
    report = check_store(path, repair=True)
    assert not report.sound
    assert any("recover" in finding.remedy for finding in report.findings)
    assert path.read_bytes() == damaged or report.backup is not None


def test_a_store_that_no_server_has_brought_up_to_date_is_sound(tmp_path: Path):
    path = tmp_path / "offhand.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, path, migrations()[:1])
    assert check_store(path).findings == ()


def test_the_queue_is_reckoned_anew_from_the_tasks(path: Path):
    reckon = "SELECT agent, count FROM queue_length WHERE count <> 0"
    task = "INSERT INTO task (id, agent, description, params, priority, lane, status, timeout_seconds, max_attempts, "
    task += "attempts_allowed, parent_id, conversation_id, request, caller, created_at, updated_at) VALUES "
    names = ("q1", "q2", "q3")
    rows = [f"('{name}', 'git', '', '', 0, 'a', 'queued', 1, 1, 1, 'q1', 'q1', '', '', 1, 1)" for name in names]
    spoil(path, task + ", ".join(rows).replace("'q1', 'q1', ''", "NULL, 'q1', ''", 1))
    right = ask(path, "SELECT id, behind_conversation, behind_lane FROM task ORDER BY number"), ask(path, reckon)
    assert (right[0][-3:], right[1]) == ([("q1", 0, 0), ("q2", 1, 0), ("q3", 1, 0)], [("git", 3)])
    spoil(path, "UPDATE task SET behind_conversation = 1 - behind_conversation", "DELETE FROM queue_length")
    spoil(path, "UPDATE task SET behind_lane = 1 - behind_lane")
    assert "queue" in found(path)
    assert check_store(path, repair=True).sound
    assert (
        ask(path, "SELECT id, behind_conversation, behind_lane FROM task ORDER BY number"),
        ask(path, reckon),
    ) == right


def test_nothing_waits_for_ever_and_no_question_is_left_to_answer(path: Path):
    spoil(path, "UPDATE task SET status = 'waiting_approval' WHERE id = 'kept-waiting'")
    spoil(path, f"{ASKED} number FROM task WHERE id = 't9'")
    assert check_store(path, repair=True).sound
    assert ask(path, "SELECT status, reason, finished_at > 0 FROM task WHERE id = 'kept-waiting'") == [
        ("cancelled", "expired", 1)
    ]
    assert ask(path, "SELECT status, decided_at > 2 FROM approval WHERE id = 'asked'") == [("withdrawn", 1)]


async def test_a_store_in_use_is_not_looked_at(path: Path):
    async with open_sqlite(path):
        with pytest.raises(AlreadyServingError):
            check_store(path)
        with pytest.raises(AlreadyServingError):
            compact_store(path)
    assert check_store(path).sound


def test_what_is_no_store_of_ours_is_refused_and_left_alone(tmp_path: Path):
    with pytest.raises(NotFoundError):
        check_store(tmp_path / "offhand.db")
    foreign = tmp_path / "foreign.db"
    spoil(foreign, "CREATE TABLE a (b)")
    text = tmp_path / "text.db"
    text.write_text("this is no database at all, but it is long enough to look like one " * 20)
    for file in (foreign, text):
        before = file.read_bytes()
        with pytest.raises(ForeignStoreError):
            check_store(file, repair=True)
        assert file.read_bytes() == before


def test_a_repair_without_room_for_a_copy_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch):
    spoil(path, "DELETE FROM document WHERE kind = 'memory'")
    before = path.read_bytes()
    monkeypatch.setattr(checks, "SPACE_FACTOR", 1 << 40)
    with pytest.raises(StoreError, match="room"):
        check_store(path, repair=True)
    assert path.read_bytes() == before


def test_an_older_store_can_be_made_to_shrink(path: Path):
    spoil(path, "PRAGMA auto_vacuum = NONE", "VACUUM")
    spoil(path, "CREATE TABLE big (b)", "INSERT INTO big VALUES (zeroblob(8388608))", "DROP TABLE big")
    before, after = compact_store(path)
    assert after < before / 4
    assert ask(path, "PRAGMA auto_vacuum") == [(2,)]
    assert found(path) == set()
