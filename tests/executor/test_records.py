"""The records of an attempt: read once and whole, whatever somebody wrote into the file."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server.callers import DESK, calling_as
from mcp_server.drivers.records import DIFF_NAME, RECORDS_NAME, End, Records
from mcp_server.executor import records as module
from mcp_server.executor.records import LINE_LIMIT_BYTES, RecordReader, read_diff
from mcp_server.values import CONTENT_LIMIT_BYTES
from tests.store.house import new_task, open_house

END = {name: getattr(End(outcome="completed", text="Done."), name) for name in End.__slots__} | {"type": "end"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / RECORDS_NAME


def append(path: Path, *lines: Any) -> None:
    """Lines as they are, anything else as JSON."""
    with path.open("ab") as file:
        for line in lines:
            file.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")


def read_all(reader: RecordReader) -> tuple[list[str], dict[str, Any]]:
    """All progress and the state that there is to read now."""
    progress: list[str] = []
    state: dict[str, Any] = {}
    while read := reader.next():
        progress += read.progress
        state |= read.state
        reader.done()
    return progress, state


def said(word: str) -> dict[str, str]:
    return {"type": "progress", "say": word}


def test_there_may_be_no_file_yet(path: Path):
    reader = RecordReader(path)
    assert reader.next() is None
    assert reader.left_over() == 0


def test_what_a_driver_writes_is_read(path: Path):
    records = Records(path, stdout=io.StringIO())
    records.progress("editing src/app.py")
    records.state(session="s-1")
    records.usage(model="m", turns=2, cost_usd=0.5)
    records.denied("Bash", {"command": "rm"}, "not allowed")
    records.end(End(outcome="completed", text="Done."))
    reader = RecordReader(path)
    assert read_all(reader) == (["editing src/app.py"], {"session": "s-1"})
    assert [record["type"] for record in reader.records] == ["state", "usage", "denied", "end"]
    assert reader.left_over() == 0


def test_half_a_line_waits_for_the_rest(path: Path):
    reader = RecordReader(path)
    append(path, said("one"), b'{"type": "progress", "s')
    assert read_all(reader) == (["one"], {})
    assert reader.left_over() > 0
    append(path, b'ay": "two"}\n')
    assert read_all(reader) == (["two"], {})


def test_what_was_given_is_given_again_until_it_is_done(path: Path):
    append(path, said("one"))
    reader = RecordReader(path)
    first = reader.next()
    append(path, said("two"))
    assert reader.next() == first
    reader.done()
    second = reader.next()
    assert first is not None
    assert second is not None
    assert (second.start, second.progress) == (first.end, ["two"])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'"progress"',
        b'{"say": "no type"}',
        b'{"type": ["progress"], "say": "x"}',
        b'{"type": "unheard of"}',
        b'{"type": "progress"}',
        b'{"type": "progress", "say": 7}',
        b'{"type": "progress", "say": "\xff"}',
        b'{"type": "state", "state": [1]}',
        b'{"type": "state", "state": {"x": NaN}}',
        b'{"type": "state", "state": {"x": 1e999}}',
        b'{"type": "state", "state": ' + b'{"x":' * 200 + b"1" + b"}" * 201,
        b'{"type": "state", "state": ' + b"[" * 100_000,
        b'{"type": "usage", "cost_usd": "free"}',
        b'{"type": "usage", "turns": true}',
        b'{"type": "usage", "cost_usd": 1e300}',
        b'{"type": "denied", "tool": "Bash"}',
        b'{"type": "end", "outcome": "completed", "text": "short of fields"}',
        json.dumps(END | {"outcome": "fine"}).encode(),
        json.dumps(END | {"text": None}).encode(),
        json.dumps(END | {"until": "tomorrow"}).encode(),
        json.dumps(END | {"ask": {"about": "tool", "action": "rm", "say": "?"}}).encode(),
        json.dumps(END | {"ask": {"about": "task", "action": {}, "say": "?"}}).encode(),
    ],
)
def test_a_damaged_record_is_left_out_and_said_and_the_next_one_is_read(
    path: Path, line: bytes, caplog: pytest.LogCaptureFixture
):
    append(path, line + b"\n", said("next"))
    reader = RecordReader(path)
    with caplog.at_level(logging.WARNING):
        assert read_all(reader) == (["next"], {})
    assert reader.records == []
    assert "1 records" in caplog.text


def test_what_no_text_may_hold_is_replaced(path: Path):
    append(
        path, b'{"type": "state", "state": {"a\\ud800": ["\\u0000", "\\ud83d\\ude42"]}}\n', said("a\x1b[31mb\n c\0d")
    )
    reader = RecordReader(path)
    progress, state = read_all(reader)
    assert state == {"a?": ["\ufffd", "🙂"]}
    json.dumps(state, ensure_ascii=False).encode()
    assert progress == ["ab c\ufffdd"]


def test_a_line_of_megabytes_is_read_and_a_longer_one_is_left_out(path: Path):
    long, too_long = "x" * (LINE_LIMIT_BYTES // 2), b"x" * (LINE_LIMIT_BYTES + 100)
    append(path, END | {"text": long}, too_long + b"\n", said("after"))
    reader = RecordReader(path)
    assert read_all(reader)[0] == ["after"]
    assert [len(record["text"]) for record in reader.records] == [len(long)]


def test_what_comes_after_the_limit_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch):
    append(path, said("one"), said("two"))
    monkeypatch.setattr(module, "FILE_LIMIT_BYTES", path.stat().st_size)
    append(path, said("three"))
    reader = RecordReader(path)
    assert read_all(reader) == (["one", "two"], {})
    assert reader.left_over() == len(json.dumps(said("three"))) + 1


ENDED = {"type": "end", "outcome": "completed", "text": "Done.", "say": "", "reason": None, "may_pass": False} | {
    "verified": True,
    "until": None,
    "ask": None,
}


def test_how_it_ended_is_read_from_a_file_that_is_too_long(path: Path, monkeypatch: pytest.MonkeyPatch):
    append(path, said("one"))
    monkeypatch.setattr(module, "FILE_LIMIT_BYTES", path.stat().st_size)
    reader = RecordReader(path)
    read_all(reader)
    reader.take_end()
    append(path, said("two"))
    reader.take_end()
    assert reader.records == []
    append(path, json.dumps(ENDED).encode())
    reader.take_end()
    assert reader.records == [], "half a line is none"
    append(path, b"\n")
    reader.take_end()
    assert reader.records == [ENDED]


def test_how_it_ended_is_read_once(path: Path):
    append(path, ENDED)
    reader = RecordReader(path)
    read_all(reader)
    reader.take_end()
    assert reader.records == [ENDED]


def test_a_last_line_that_is_too_long_is_left_out(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "FILE_LIMIT_BYTES", 0)
    monkeypatch.setattr(module, "LINE_LIMIT_BYTES", 1000)
    append(path, ENDED | {"text": "x" * 1000})
    reader = RecordReader(path)
    reader.take_end()
    assert reader.records == []
    append(path, ENDED)
    reader.take_end()
    assert reader.records == [ENDED]


def test_progress_without_end_is_told_up_to_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PROGRESS_LIMIT", 3)
    append(path, *(said(str(number)) for number in range(2)))
    reader = RecordReader(path)
    assert read_all(reader)[0] == ["0", "1"]
    append(path, *(said(str(number)) for number in range(2, 9)), {"type": "state", "state": {"session": "s"}})
    assert read_all(reader) == (["2"], {"session": "s"})


@given(st.integers(0, 5), st.binary(max_size=30).filter(lambda rest: b"\n" not in rest))
def test_a_reader_that_begins_anew_goes_on_after_what_was_dealt_with(
    tmp_path_factory: pytest.TempPathFactory, dealt_with: int, rest: bytes
):
    path = tmp_path_factory.mktemp("records") / RECORDS_NAME
    for number in range(dealt_with):
        append(path, said(str(number)), {"type": "usage", "turns": number})
    first = RecordReader(path)
    read = first.next()
    for number in range(dealt_with, 5):
        append(path, said(str(number)), {"type": "usage", "turns": number})
    append(path, rest)
    second = RecordReader(path)
    second.replay(read.end if read else 0)
    assert read_all(second)[0] == [str(number) for number in range(dealt_with, 5)]
    assert [record["turns"] for record in second.records] == list(range(5))


def test_a_reader_that_begins_anew_in_a_file_that_is_shorter_now_reads_nothing(path: Path):
    append(path, said("one"))
    reader = RecordReader(path)
    reader.replay(10_000)
    assert reader.next() is None
    assert reader.left_over() == 0


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_file_that_is_none_is_not_read(path: Path, tmp_path: Path, kind: str):
    secret = tmp_path / "spec.json"
    secret.write_text(json.dumps(said("secret")) + "\n")
    for place in (path, tmp_path / DIFF_NAME):
        if kind == "link":
            place.symlink_to(secret)
        elif kind == "pipe":
            os.mkfifo(place)
        else:
            place.mkdir()
    assert RecordReader(path).next() is None
    assert read_diff(tmp_path) == ("", 0)


def test_a_diff_is_text_of_at_most_an_artifacts_size_and_what_is_cut_is_counted(tmp_path: Path):
    file = tmp_path / DIFF_NAME
    file.write_bytes(b"+a\xff\0b\n")
    assert read_diff(tmp_path) == ("+a\ufffd\ufffdb\n", 0)
    file.write_bytes(b"x" * (CONTENT_LIMIT_BYTES + 5))
    text, cut = read_diff(tmp_path)
    assert len(text) + cut == CONTENT_LIMIT_BYTES + 5
    file.write_bytes(b"\xff" * CONTENT_LIMIT_BYTES)
    text, _ = read_diff(tmp_path)
    assert len(text.encode()) < CONTENT_LIMIT_BYTES


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["read", "die before", "die after"])), max_size=12))
def test_whoever_dies_when_every_record_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
):
    """The file grows by some bytes, and somebody reads it: to the end, or dead before or after the store has it."""
    folder = tmp_path_factory.mktemp("dying")
    lines = [json.dumps(said(f"step {number}")).encode() + b"\n" for number in range(6)]
    lines.insert(3, json.dumps({"type": "state", "state": {"session": "s"}}).encode() + b"\n")
    whole = b"".join(lines)

    async def live() -> tuple[list[str], dict[str, Any]]:
        async with open_house(folder / "offhand.db") as house:
            await house.tasks.create(new_task(), id="t")
            task = await house.attempts.claim(["echo"])
            assert task is not None
            path, reader, written = folder / RECORDS_NAME, RecordReader(folder / RECORDS_NAME), 0
            for size, what in [*steps, (len(whole), "read")]:
                append(path, whole[written : written + size])
                written += size
                while read := reader.next():
                    if what != "die before":
                        await house.attempts.keep_records(task, read)
                    if what != "read":
                        break
                    reader.done()
                if what != "read":
                    task = await house.attempts.adopt(task.number)
                    reader = RecordReader(path)
                    reader.replay(await house.attempts.records_read(task))
            told = [event.data["progress"] for event in house.told if event.kind == "task.progress"]
            return told, await house.attempts.state(task)

    with calling_as(DESK):
        told, state = asyncio.run(live())
    assert told == [f"step {number}" for number in range(6)]
    assert state == {"session": "s"}
