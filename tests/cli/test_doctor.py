"""`offhand doctor`, as a user runs it."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from mcp_server.cli.doctor import memory_limit
from tests.server.processes import Place, ServerProcess


@pytest.fixture
def place() -> Generator[Place]:
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        made = Place.make(Path(folder))
        yield made
        made.end_all()


@pytest.fixture
def used(place: Place) -> Place:
    """A home whose server has run, and stopped."""
    with closing(ServerProcess.start(place)):
        pass
    return place


def spoil(place: Place) -> None:
    with closing(sqlite3.connect(place.home / "offhand.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO document (kind, ref) VALUES ('memory', 4711)")


def test_the_doctor_says_what_this_machine_has(place: Place):
    facts = json.loads(place.run("doctor", "--json").stdout)
    assert facts["server"] == "not running"
    assert facts["store"] == "none yet"
    assert facts["echo"]
    assert facts["pid namespaces"].startswith(("yes", "no: "))
    assert not place.home.exists(), "a look leaves nothing behind"


def test_a_sound_store_is_called_sound(used: Place):
    done = used.run("doctor", "--store")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Nothing is wrong with it." in done.stdout


def test_a_store_with_a_fault_is_mended_on_request(used: Place):
    spoil(used)
    seen = used.run("doctor", "--store")
    assert seen.returncode == 1
    assert "offhand doctor --store --repair" in seen.stdout
    mended = used.run("doctor", "--store", "--repair", "--json")
    assert mended.returncode == 0, mended.stderr
    report = json.loads(mended.stdout)
    assert report["sound"] is True
    assert [finding["repaired"] for finding in report["findings"]] == [True, True]
    assert Path(report["backup"]).exists()
    assert used.run("doctor", "--store").returncode == 0


def test_the_store_of_a_running_server_is_left_alone(place: Place):
    with closing(ServerProcess.start(place)):
        for command in (["doctor", "--store"], ["doctor", "--compact"]):
            done = place.run(*command)
            assert done.returncode == 1
            assert "Stop it first" in done.stderr
        assert "on port" in place.run("doctor").stdout


def test_compacting_says_what_came_of_it(used: Place):
    done = json.loads(used.run("doctor", "--compact", "--json").stdout)
    assert 0 < done["after_bytes"] <= done["before_bytes"]


def test_wrong_usage_and_a_missing_store_are_said(place: Place):
    assert place.run("doctor", "--repair").returncode == 2
    missing = place.run("doctor", "--store")
    assert missing.returncode == 1
    assert "There is no store" in missing.stderr


def test_the_doctor_says_where_a_memory_limit_is_not_held(place: Place):
    assert json.loads(place.run("doctor", "--json").stdout)["memory limit"] == "none set"
    assert "looked at" in memory_limit(512, "linux")
    assert "not held" in memory_limit(512, "darwin")
