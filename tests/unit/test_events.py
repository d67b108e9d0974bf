"""The log of what happened, and who is told."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3

import pytest

from mcp_server.callers import Caller
from mcp_server.events import Events
from mcp_server.store.database import Event, Transaction
from tests.store.house import START, House

PHONE = Caller("phone", "my phone", frozenset({"read"}), key_id="key_1", delivery_id="d-1")
EVENT = Event(1, 2, "task.queued", "task://t1")


async def test_an_event_is_kept_with_its_time_its_caller_and_its_facts(house: House):
    async def body(transaction: Transaction) -> None:
        await house.events.append(
            transaction, "note.made", "note://é", session_id="s1", caller=PHONE, text="naïve \u2028"
        )

    await house.database.write(body)
    connection = sqlite3.connect(house.path)
    (row,) = connection.execute("SELECT * FROM event").fetchall()
    connection.close()
    assert row[:5] == (1, START, "note.made", "note://é", "s1")
    assert json.loads(row[5]) == {"text": "naïve \u2028"}
    assert json.loads(row[6]) == {"level": "phone", "name": "my phone", "key_id": "key_1", "delivery_id": "d-1"}
    assert house.told == [Event(1, START, "note.made", "note://é", "s1", {"text": "naïve \u2028"})]


async def test_an_event_of_a_failed_transaction_is_neither_kept_nor_told(house: House):
    async def body(transaction: Transaction) -> None:
        await house.events.append(transaction, "note.made", "note://1")
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await house.database.write(body)
    await house.sessions.create(id="s1")
    assert [(event.sequence, event.kind) for event in house.told] == [(1, "session.created")]


def test_a_watcher_hears_of_its_subject_and_of_no_other():
    events = Events()
    with events.watch("task://t1") as mine, events.watch("task://t1") as also, events.watch("task://t2") as other:
        events.publish(EVENT)
        assert (mine.is_set(), also.is_set(), other.is_set()) == (True, True, False)
    events.publish(EVENT)
    with events.watch("task://t1") as later:
        assert not later.is_set()


def test_output_that_grew_wakes_watchers_without_an_event():
    events = Events()
    heard: list[Event] = []
    events.listen(heard.append)
    with events.watch("task://t1") as watcher:
        events.grew("task://t1")
        assert watcher.is_set()
    assert heard == []


def test_a_listener_that_fails_keeps_no_event_from_the_others(caplog: pytest.LogCaptureFixture):
    events = Events()
    heard: list[Event] = []

    def fails(_event: Event) -> None:
        raise RuntimeError("on purpose")

    events.listen(fails)
    events.listen(heard.append)
    with caplog.at_level(logging.ERROR):
        events.publish(EVENT)
    assert heard == [EVENT]
    assert "a listener failed on task.queued" in caplog.text


async def test_closing_wakes_everybody():
    events = Events()
    with events.watch("a") as one, events.watch("b") as other:
        events.close()
        async with asyncio.timeout(5):
            await asyncio.gather(one.wait(), other.wait())
    assert events.closing
