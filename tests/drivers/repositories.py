"""A user's repository, the clone of it that an agent works in, and what the driver wrote down."""

from __future__ import annotations

import io
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_server.drivers import clone
from mcp_server.drivers.clone import WorkPlace
from mcp_server.drivers.job import Job, Sandbox
from mcp_server.drivers.records import Records

DEADLINE_SECONDS = 30
USER = ("Ada Lovelace", "ada@example.org")


class Ground:
    """One repository `work` on branch `main` with one commit, and jobs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repository = root / "work"
        self.repository.mkdir()
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", USER[0])
        self.git("config", "user.email", USER[1])
        self.write("app.py", "print('one')\n")
        self.write("lib/deep/part.py", "part = 1\n")
        self.commit("Begin")
        self.job = Job(
            driver="command",
            agent="helper",
            title="Helper",
            program=("/bin/sh",),
            env={"PATH": os.environ["PATH"], "HOME": str(root)},
            prompt="Add a second line",
            task_id="first",
            task_number=7,
            slug="add-a-second-line",
            folder=str(self.repository),
            workspace=str(self.repository),
            clone=str(root / "ours/clones/7"),
            sandbox=Sandbox(),
        )
        self._attempts = 0
        self.records = self._new_records()

    def git(self, *words: str, cwd: Path | None = None, fails: bool = False) -> str:
        """Plain git, as the user would run it."""
        command = ["git", "-c", "protocol.file.allow=always", *words]
        done = subprocess.run(
            command, cwd=cwd or self.repository, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
        )
        assert bool(done.returncode) == fails, done.stderr
        return done.stdout.rstrip("\n")

    def write(self, name: str, text: str | bytes, under: Path | None = None) -> Path:
        path = (under or self.repository) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def commit(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

    async def prepare(self, **changes: Any) -> WorkPlace:
        """A new attempt begins."""
        self.records = self._new_records()
        self.job = replace(self.job, **changes)
        return await clone.prepare(self.job, self.records)

    async def keep(self, place: WorkPlace) -> dict[str, Any]:
        """The agent has ended. What was recorded of its work."""
        await clone.keep(self.job, place, self.records)
        self.job = replace(self.job, state={**self.job.state, **self.state})
        works = self.recorded("work")
        return works[-1] if works else {}

    async def pause(self, place: WorkPlace) -> dict[str, Any]:
        """The agent waits for an answer. What was recorded of its work so far."""
        await clone.note(self.job, place, self.records)
        self.job = replace(self.job, state={**self.job.state, **self.state})
        works = self.recorded("work")
        return works[-1] if works else {}

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.records.folder / "records.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["type"] == kind]

    @property
    def said(self) -> list[str]:
        return [record["say"] for record in self.recorded("progress")]

    @property
    def state(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for record in self.recorded("state"):
            merged |= record["state"]
        return merged

    @property
    def diff(self) -> str:
        return (self.records.folder / "changes.diff").read_text()

    def untouched(self) -> dict[str, Any]:
        """Everything of the user's that no task may change."""
        listed = self.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        folder = self.repository / ".git"
        return {
            "refs": [line for line in listed if "refs/heads/offhand/" not in line],
            "head": (folder / "HEAD").read_bytes(),
            "index": (folder / "index").read_bytes(),
            "config": (folder / "config").read_bytes(),
            "files": {
                str(path.relative_to(self.repository)): path.read_bytes() if path.is_file() else None
                for path in sorted(self.repository.rglob("*"))
                if ".git" not in path.relative_to(self.repository).parts
            },
            "stray": sorted(path.name for path in folder.iterdir() if path.name not in ("objects", "refs", "logs")),
        }

    def _new_records(self) -> Records:
        self._attempts += 1
        folder = self.root / f"attempt-{self._attempts}"
        folder.mkdir()
        return Records(folder / "records.jsonl", io.StringIO())


def watched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The tools that are at work, each time that a driver says something of one."""
    at_work: list[dict[str, str]] = []
    open_tools: dict[str, str] = {}

    def began(_: Records, use: str, doing: str) -> None:
        open_tools[use] = doing
        at_work.append(dict(open_tools))

    def ended(_: Records, use: str | None = None) -> None:
        for name in [use] if use is not None else list(open_tools):
            open_tools.pop(name, None)
        at_work.append(dict(open_tools))

    monkeypatch.setattr(Records, "began", began)
    monkeypatch.setattr(Records, "ended", ended)
    return at_work
