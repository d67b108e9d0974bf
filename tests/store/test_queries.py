"""The named statements: all are used, all get their values, and none walks a whole table unawares."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import mcp_server
from mcp_server import retention
from mcp_server.attempts import Ending, RecordsRead
from mcp_server.callers import DESK, calling_as
from mcp_server.retention import Retention
from mcp_server.settings import RetentionSettings
from mcp_server.store import queries, sqlite
from mcp_server.store.migrate import migrate, migrations
from mcp_server.store.queries import statements
from mcp_server.tasks import Task
from tests.store.house import House, new_task, open_house
from tests.store.tour import DONE, tour

PRODUCT = Path(mcp_server.__file__).parent
CALLS = {"one", "all", "run", "search"}
VALUE = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")
TABLES = "session|chunk|memory|memory_version|task|attempt|output|artifact|event|api_key|delivery|document"

SCANS = {
    "key_list": "all keys are asked for; there are a handful",
    "key_by_name": "by name or id, among a handful",
    "key_count": "a handful",
    "retention_events": "the oldest few, in the order of the table",
}
"""The statements that may walk a whole table, and why."""

OFFLINE = ("check_", "repair_")
"""Statements of the doctor, who looks at everything while no server runs; test_checks.py runs each of them."""


def values_of(name: str) -> set[str]:
    """The named parameters of a statement; times in comments and strings are none."""
    return set(VALUE.findall(re.sub(r"'[^']*'", "''", statements()[name])))


def product_calls() -> Iterator[tuple[str, ast.Call]]:
    """Every place in the product that runs a statement, with its file and line."""
    for file in sorted(PRODUCT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS):
                continue
            if ast.unparse(node.func.value) in ("transaction", "database", "self._database"):
                yield f"{file.relative_to(PRODUCT)}:{node.lineno}", node


def names_in(node: ast.expr) -> set[str]:
    """The statements that an argument may name; an f-string stands for all that begin and end like it."""
    if isinstance(node, ast.Constant) and node.value in statements():
        return {node.value}
    if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
        return {name for name in statements() if name.startswith(node.values[0].value)}
    return set()


def test_every_statement_is_used_by_the_product():
    used: set[str] = set()
    for file in PRODUCT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                used |= names_in(node)
    assert set(statements()) - used == set()


def test_every_call_names_a_statement_that_exists():
    unknown = [
        (place, call.args[0].value)
        for place, call in product_calls()
        if isinstance(call.args[0], ast.Constant) and call.args[0].value not in statements()
    ]
    assert unknown == []


def test_every_named_parameter_is_supplied():
    checked, missing = 0, []
    for place, call in product_calls():
        given = {keyword.arg for keyword in call.keywords}
        if None in given or not isinstance(call.args[0], ast.Constant):
            continue  # what comes out of a mapping is checked by the walk below
        for name in names_in(call.args[0]):
            checked += 1
            missing += [(place, name, value) for value in values_of(name) - given]
    assert checked > 60
    assert missing == []


async def test_every_statement_runs_with_the_values_it_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran: set[str] = set()

    class Recorded(dict[str, str]):
        def __getitem__(self, name: str) -> str:
            ran.add(name)
            return super().__getitem__(name)

    recorded = Recorded(statements())
    monkeypatch.setattr(sqlite, "statements", lambda: recorded)
    async with open_house(tmp_path / "offhand.db") as house:
        with calling_as(DESK):
            await tour(house, lambda _name: None)
            await read_everything(house)
            await sweep_everything(house, monkeypatch)
    assert {name for name in set(statements()) - ran if not name.startswith(OFFLINE)} == set()


async def read_everything(house: House) -> None:
    """Every read that the nouns offer."""
    await house.sessions.create(id="r1", title="Read")
    await house.conversations.add("r1", "carbon", id="c1")
    await house.memories.store(type="fact", content="carbon", session_id="r1", id="r2")
    await house.artifacts.add(name="carbon", content="carbon", session_id="r1", id="r3")
    task, _ = await house.tasks.create(new_task("carbon", session_id="r1"), id="r4")
    await house.conversations.get("r1", "c1")
    await house.memories.get("r2")
    await house.artifacts.get("r3")
    await house.tasks.get("r4")
    await house.tasks.get(str(task.number))
    await house.sessions.summary("r1")
    for filters in ({}, {"status": "active"}, {"query": "read"}):
        await house.sessions.list(**filters)
    for filters in ({}, {"status": "queued"}, {"agent": "echo"}, {"session_id": "r1"}, {"lane": "x"}, {"query": "c"}):
        await house.tasks.list(**filters)
    for query in ("carbon", None):
        found, _ = await house.search.find(query=query)
        assert {hit["kind"] for hit in found} == {"conversation", "memory", "artifact", "task"}
    await read_catalogue(house)
    claimed = await house.attempts.claim(["echo"])
    assert claimed is not None
    await house.attempts.running()
    await house.attempts.counts()
    await house.attempts.output_end(claimed, "stdout")
    await house.attempts.read_output(claimed, "stdout", 0, 10)
    await house.attempts.conversation(claimed)
    await house.tasks.attempts(claimed)
    await read_records(house, claimed)
    await house.approvals.granted(claimed)
    await house.approvals.pending_of(claimed)
    await house.approvals.list(decided=True)
    await house.keys.authenticate("nobody's")
    await house.keys.list()
    await house.keys.any()


async def read_records(house: House, task: Task) -> None:
    """What the executor writes and reads of the records of a running attempt."""
    attempts = house.attempts
    await attempts.keep_records(task, RecordsRead(0, 10, ["counting carbon"], {"session": "s"}))
    assert await attempts.records_read(task) == 10
    assert await attempts.state(task) == {"session": "s"}
    assert await house.tasks.has_state(task.conversation_id)
    assert not await attempts.had_begun(task)
    await attempts.quota_pauses(task)
    await attempts.reports_before(task)
    await attempts.first_of_conversation(task)
    await house.tasks.create(new_task("carbon", agent="git"), id="r5")
    await attempts.set_installed("git", False)


async def read_catalogue(house: House) -> None:
    """Every read that menus need."""
    await house.conversations.list("r1")
    for kind, id in (("session", "r1"), ("memory", "r2"), ("artifact", "r3")):
        assert await house.catalogue.has(kind, id)  # type: ignore[arg-type]
    for kind in ("session", "memory", "artifact", "task"):
        assert await house.catalogue.page(kind, 2**40, 10)
        assert (await house.catalogue.complete(kind, "r")).values
    (task,), _ = await house.tasks.list(limit=1)
    assert str(task.number) in (await house.catalogue.complete("task", str(task.number))).values


async def sweep_everything(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete all that has an age, and give back every page."""
    quota = Ending("interrupted", "quota", {}, retry_at=house.clock(), pause="quota")
    for ending in (quota, Ending("interrupted", "crash", {}, retry_at=house.clock()), DONE):
        (task,) = await house.attempts.running() or [await house.attempts.claim(["echo"])]
        assert task is not None
        await house.attempts.append_output(task, [("stdout", 0, b"carbon")])
        await house.attempts.finish(task, ending)
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(retention, "FREE_PAGES_KEPT", -1)
    house.clock.advance(1000 * 86400)
    clones = house.path.parent / "clones"
    (clones / "1").mkdir(parents=True)
    await Retention(house.database, RetentionSettings(), house.clock, clones).sweep()


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """How SQLite goes about each statement."""
    path = tmp_path_factory.mktemp("plans") / "offhand.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, path, migrations())
    found = {
        name: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", dict.fromkeys(VALUE.findall(text)))]
        for name, text in statements().items()
    }
    connection.close()
    return found


def test_no_statement_walks_a_whole_table(plans: Mapping[str, list[str]]):
    scans = {
        name
        for name, plan in plans.items()
        if not name.startswith(OFFLINE) and any(re.match(rf"SCAN ({TABLES})\b", step) for step in plan)
    }
    assert scans == set(SCANS)


def test_no_list_sorts_what_it_walks(plans: Mapping[str, list[str]]):
    """Lists and the claim read an index in its order, so that a page costs the same among a million."""
    ordered = [name for name in plans if re.match(r"(session|task)_list", name) and not name.endswith("_found")]
    assert len(ordered) == 7
    ordered += ["task_heads", "task_due", "task_next_due", "chunk_latest", "memory_latest", "artifact_latest"]
    ordered += [name for name in plans if re.match(r"(catalogue|complete)_", name)]
    assert [name for name in ordered if any("TEMP B-TREE" in step for step in plans[name])] == []


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("task_heads", "task_front"),
        ("task_heads", "task_lane_busy"),
        ("task_counts", "task_running"),
        ("task_due", "task_scheduled"),
        ("task_next_due", "task_scheduled"),
        ("task_list_status", "task_by_status"),
        ("task_list_agent", "task_by_agent"),
        ("task_list_session", "task_by_session"),
        ("task_list_lane", "task_by_lane"),
        ("session_list_status", "session_by_status"),
        ("memory_by_key", "memory_by_key"),
    ],
)
def test_the_hot_statements_use_the_index_made_for_them(name: str, index: str, plans: Mapping[str, list[str]]):
    assert any(re.search(rf"USING (COVERING )?INDEX {index}\b", step) for step in plans[name]), plans[name]


@pytest.mark.parametrize("name", [name for name in statements() if "MATCH" in statements()[name]])
def test_a_search_caps_its_candidates_before_it_joins(name: str, plans: Mapping[str, list[str]]):
    assert plans[name][0] in ("MATERIALIZE hit", "CO-ROUTINE hit"), plans[name]
    assert re.search(
        r"ORDER BY (search_text\.)?rowid DESC LIMIT (2000|:limit)\) AS hit|ORDER BY rowid DESC LIMIT 2000\n",
        statements()[name],
    )


def test_a_name_that_stands_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sql").mkdir()
    for file in ("a.sql", "b.sql"):
        (tmp_path / "sql" / file).write_text("-- same: twice\nSELECT 1;\n")
    monkeypatch.setattr(queries, "files", lambda _package: tmp_path)
    with pytest.raises(ValueError, match="same stands twice"):
        queries.statements.__wrapped__()
    (tmp_path / "sql" / "b.sql").unlink()
    assert queries.statements.__wrapped__() == {"same": "SELECT 1"}


def test_each_block_says_what_it_is_for_and_is_one_statement():
    for name, text in statements().items():
        assert text.count(";") == 0, name
        assert sqlite3.complete_statement(text + ";"), name


def test_no_sql_stands_outside_the_store():
    word = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE .+ SET|DELETE FROM)\b")
    strings = [
        (str(file.relative_to(PRODUCT)), node.value)
        for file in PRODUCT.rglob("*.py")
        if "store" not in file.relative_to(PRODUCT).parts
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and word.search(node.value)
    ]
    assert strings == []
