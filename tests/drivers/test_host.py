"""The driver's process: whatever happens, it ends with an `end` record, and work that was done is kept."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.drivers import clone, host
from mcp_server.drivers.job import Job
from mcp_server.drivers.records import Ask, End, Records

DEADLINE_SECONDS = 60
HOST = (sys.executable, "-I", "-m", "mcp_server.drivers")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a name for commits, and nothing of the one who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_"))]:
        monkeypatch.delenv(name)
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / ".gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, user: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "one.txt").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "Begin")
    return folder


@pytest.fixture
def job(repository: Path, tmp_path: Path) -> Callable[..., Job]:
    """A job for an agent that is a line of shell."""

    def made(line: str, **fields: Any) -> Job:
        basic: dict[str, Any] = {"folder": str(repository), "clone": str(tmp_path / "clones" / "7" / "clone")}
        return Job(
            driver="command",
            agent="probe",
            title="Probe",
            program=("/bin/sh", "-c", line),
            options={"args": [], "continue_args": None, "output": "text", "fields": {}},
            env={"PATH": os.defpath, "HOME": os.environ["HOME"]},
            prompt="Do it",
            task_id="t",
            task_number=7,
            slug="do-it",
            **(basic | fields),
        )

    return made


@pytest.fixture
def start(tmp_path: Path) -> Generator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the host as the supervisor does; the records go to `tmp_path`."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(told: bytes) -> subprocess.Popen[bytes]:
        env = {
            "PATH": os.defpath,
            "HOME": os.environ["HOME"],
            "OFFHAND_RECORDS": str(tmp_path / "records.jsonl"),
            "OFFHAND_ATTEMPT": "cookie",
        }
        process = subprocess.Popen(
            HOST, env=env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(told)
        process.stdin.close()
        process.stdin = None
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def records_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_work_comes_back_as_a_branch_and_the_record_ends(
    start: Callable[..., subprocess.Popen[bytes]], job: Callable[..., Job], tmp_path: Path, repository: Path
):
    told = job("echo two > two.txt; echo $OFFHAND_ATTEMPT $OFFHAND_RECORDS; cat").to_json().encode()
    out, err = start(told).communicate(timeout=DEADLINE_SECONDS)
    *_, end = records = records_in(tmp_path)
    assert (end["type"], end["outcome"], end["text"]) == ("end", "completed", "cookie\nDo it"), err
    assert "cookie" in out.decode()
    (work,) = [record for record in records if record["type"] == "work"]
    assert work["branch"].startswith("offhand/task-7-do-it")
    assert [file["path"] for file in work["files"]] == ["two.txt"]
    assert git(repository, "show", f"{work['branch']}:two.txt") == "two"
    assert git(repository, "status", "--porcelain") == ""
    assert "two.txt" in (tmp_path / work["diff"]).read_text()


def test_work_of_an_agent_that_failed_is_kept(
    start: Callable[..., subprocess.Popen[bytes]], job: Callable[..., Job], tmp_path: Path, repository: Path
):
    start(job("echo half > half.txt; exit 1").to_json().encode()).communicate(timeout=DEADLINE_SECONDS)
    *_, end = records = records_in(tmp_path)
    assert (end["outcome"], end["reason"]) == ("failed", "exit_code")
    (work,) = [record for record in records if record["type"] == "work"]
    assert git(repository, "show", f"{work['branch']}:half.txt") == "half"


@pytest.mark.parametrize("told", [b"", b"{}", b"[]", b"{half", b'{"driver": "x"}', b"\xff"])
def test_a_job_that_cannot_be_read_ends_too(
    start: Callable[..., subprocess.Popen[bytes]], told: bytes, tmp_path: Path, user: Path
):
    start(told).communicate(timeout=DEADLINE_SECONDS)
    (end,) = records_in(tmp_path)
    assert (end["type"], end["outcome"], end["reason"]) == ("end", "failed", "internal")


def test_told_to_stop_it_ends_its_agent_and_says_so(
    start: Callable[..., subprocess.Popen[bytes]], job: Callable[..., Job], tmp_path: Path, repository: Path
):
    process = start(job("echo begun; echo $$; exec sleep 600").to_json().encode())
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    while b"begun" not in next(lines):
        pass
    agent = int(next(lines))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_SECONDS)
    end = records_in(tmp_path)[-1]
    assert (end["type"], end["outcome"], end["reason"], end["may_pass"]) == ("end", "failed", "signal", True)
    with pytest.raises(ProcessLookupError):
        os.kill(agent, 0)
    assert git(repository, "branch", "--list", "offhand/*") == ""


def test_each_driver_is_there_and_no_other():
    assert all(callable(host.driver_of(name)) for name in host.DRIVERS)
    with pytest.raises(ValueError, match="no driver"):
        host.driver_of("host")


async def do(job: Job, tmp_path: Path) -> End:
    return await host.do(job, Records(tmp_path / "records.jsonl"))


async def test_without_a_place_to_work_it_says_why(job: Callable[..., Job], tmp_path: Path, repository: Path):
    end = await do(job("true", folder=str(tmp_path / "nowhere")), tmp_path)
    assert (end.outcome, end.reason) == ("failed", "workspace")
    assert end.say
    end = await do(job("true", base="no-such-branch"), tmp_path)
    assert (end.outcome, end.reason) == ("failed", "workspace")
    assert "no-such-branch" in end.text


async def test_a_program_that_cannot_be_started_is_named(job: Callable[..., Job], tmp_path: Path):
    broken = Job.from_json(job("true").to_json().replace("/bin/sh", "/bin/nowhere"))
    end = await do(broken, tmp_path)
    assert (end.outcome, end.reason) == ("failed", "spawn_failed")
    assert "nowhere" in end.text


async def test_a_driver_that_breaks_loses_no_work(
    job: Callable[..., Job], tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
):
    async def breaks(job: Job, place: Path, records: Records) -> End:
        (place / "two.txt").write_text("two")
        raise KeyError("x")

    monkeypatch.setattr(host, "driver_of", lambda name: breaks)
    end = await do(job("true"), tmp_path)
    assert (end.outcome, end.reason) == ("failed", "internal")
    work = records_in(tmp_path)[-1]
    assert git(repository, "show", f"{work['branch']}:two.txt") == "two"


@pytest.mark.parametrize(
    "pause",
    [End(outcome="quota", text="later"), End(outcome="asks", text="?", ask=Ask("tool", {"tool": "x"}, "May I?"))],
)
async def test_a_pause_leaves_the_users_repository_alone_and_the_end_brings_all(
    job: Callable[..., Job], tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, pause: End
):
    ends = iter([pause, End(outcome="asks", text="nothing to ask")])

    async def works(job: Job, place: Path, records: Records) -> End:
        end = next(ends)
        (place / f"{end.text[0]}.txt").write_text("work")
        return end

    monkeypatch.setattr(host, "driver_of", lambda name: works)
    assert await do(job("true"), tmp_path) == pause
    assert git(repository, "branch", "--list", "offhand/*") == ""
    assert records_in(tmp_path)[-1]["clone"] == str(tmp_path / "clones/7/clone/work")
    await do(job("true"), tmp_path)  # it asks without a question, which is an end
    work = records_in(tmp_path)[-1]
    assert [file["path"] for file in work["files"]] == [f"{pause.text[0]}.txt", "n.txt"]
    assert git(repository, "rev-list", "--count", f"main..{work['branch']}") == "1"


async def test_a_pause_goes_on_where_its_work_could_not_be_looked_at(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pause = End(outcome="quota", text="later", until=5.0)

    async def works(job: Job, place: Path, records: Records) -> End:
        (tmp_path / "clones/7/clone/clone.json").unlink()
        return pause

    monkeypatch.setattr(host, "driver_of", lambda name: works)
    assert await do(job("true"), tmp_path) == pause


@pytest.mark.parametrize("error", [clone.PlaceError("no room"), OSError("no room"), KeyError("x")])
async def test_work_that_cannot_be_kept_is_not_completed(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    async def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(clone, "keep", fails)
    end = await do(job("echo Done"), tmp_path)
    assert (end.outcome, end.reason) == ("failed", "work_not_kept")
    assert end.text.startswith("Done\n\n")
    assert end.say
    asks = End(outcome="quota", text="later", until=5.0)

    async def asking(*_: object) -> End:
        return asks

    monkeypatch.setattr(host, "driver_of", lambda name: asking)
    end = await do(job("true"), tmp_path)
    assert (end.outcome, end.until) == ("quota", 5.0)


async def test_a_tool_that_is_silent_is_told_of_until_it_has_ended(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told = asyncio.Event()

    class Told(io.StringIO):
        def write(self, s: str) -> int:
            if s == "still running make\n":
                told.set()
            return super().write(s)

    shown = Told()
    records = Records(tmp_path / "records.jsonl", shown)

    async def works(job: Job, place: Path, records: Records) -> End:
        records.began("1", "running make")
        await told.wait()
        return End(outcome="completed", text="")

    monkeypatch.setattr(host, "driver_of", lambda name: works)
    assert (await host.do(job("true", still_seconds=0.01), records)).outcome == "completed"
    assert {"type": "progress", "say": "still running make"} in records_in(tmp_path)


def test_only_what_is_at_work_is_told_of(tmp_path: Path):
    records = Records(tmp_path / "records.jsonl", io.StringIO())
    records.still()
    records.began("1", "running make")
    records.began("2", "")
    records.still()
    records.ended("2")
    records.ended("3")
    records.still()
    records.began("4", "reading x")
    records.ended()
    records.still()
    assert [record["say"] for record in records_in(tmp_path)] == ["still at work", "still running make"]


async def test_what_cannot_be_written_as_text_is_recorded_all_the_same(tmp_path: Path):
    told = io.StringIO()
    records = Records(tmp_path / "records.jsonl", told)
    records.progress("odd \ud800")
    records.state(session="\udcff")
    records.end(End(outcome="completed", text="\ud800"))
    assert [record["type"] for record in records_in(tmp_path)] == ["progress", "state", "end"]
    assert told.getvalue().encode() == b"odd ?\n?\n"
