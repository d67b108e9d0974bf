"""Running what an agent says is to be run, and repositories to run it in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.agent import Agent, Exit, Outcome, WorkOrder
from mcp_server.agents.git import GitAgent

DEADLINE_SECONDS = 30


class Bench:
    """Gives orders to an agent in one workspace and runs them as the supervisor would."""

    def __init__(self, agent: Agent, workspace: Path | None) -> None:
        self.agent = agent
        self.workspace = workspace

    def order(self, *command: str, cwd: Path | None = None, **fields: Any) -> WorkOrder:
        params = fields.pop("params", {"command": list(command)} if command else {})
        return WorkOrder(params=params, workspace=self.workspace, cwd=cwd or self.workspace, **fields)

    def end(self, order: WorkOrder) -> Exit:
        invocation = self.agent.invocation(order)
        assert os.path.isabs(invocation.argv[0])
        done = subprocess.run(
            invocation.argv,
            cwd=invocation.cwd,
            env=dict(invocation.env),
            input=invocation.stdin.encode(),
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return Exit("signaled" if done.returncode < 0 else "exited", done.returncode, out, err)

    def run(self, *command: str, **fields: Any) -> Outcome:
        order = self.order(*command, **fields)
        self.agent.check(order)
        outcome = self.agent.judge(order, self.end(order))
        assert len(outcome.say.split()) <= 40
        assert not set(outcome.say) & set("*_#|<>[]{}`\n")
        return outcome

    def reads(self, *command: str, **fields: Any) -> bool:
        return self.agent.check(self.order(*command, **fields)).reads_only


def git_as_the_user(folder: Path, *words: str, fails: bool | None = False) -> str:
    """Plain git, as the user would run it. `fails` is what it must do; None: either."""
    command = ["git", "-c", "protocol.file.allow=always", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert fails is None or (done.returncode != 0) == fails, done.stderr
    return done.stdout


def become_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder with a name and an address for commits, and nothing from the one who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_"))]:
        monkeypatch.delenv(name)
    folder.mkdir()
    (folder / ".gitconfig").write_text(
        "[user]\n\tname = Ada\n\temail = ada@example.org\n[init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n"
    )
    monkeypatch.setenv("HOME", str(folder))


def make_repository(folder: Path) -> None:
    """A repository with two commits."""
    git_as_the_user(folder, "init", "-q")
    (folder / "one.txt").write_text("one\n")
    git_as_the_user(folder, "add", ".")
    git_as_the_user(folder, "commit", "-qm", "Begin")
    (folder / "two.txt").write_text("two\ntwo\n")
    git_as_the_user(folder, "add", ".")
    git_as_the_user(folder, "commit", "-qm", "Add the second file")


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    become_user(tmp_path / "user", monkeypatch)
    return tmp_path / "user"


@pytest.fixture(scope="module")
def module_user(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The same for what the tests of a module share; the folder beside it is theirs."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as monkeypatch:
        become_user(folder / "user", monkeypatch)
        yield folder


@pytest.fixture(scope="module")
def git_in() -> Callable[..., str]:
    return git_as_the_user


@pytest.fixture(scope="module")
def make_bench() -> type[Bench]:
    return Bench


@pytest.fixture
def bench(workspace: Path, user: Path) -> Bench:
    """The git agent in a workspace that is no repository yet."""
    return Bench(GitAgent((), lambda: [workspace]), workspace)


@pytest.fixture
def repo(bench: Bench) -> Bench:
    """The git agent in a repository with two commits."""
    assert bench.workspace is not None
    make_repository(bench.workspace)
    return bench


@pytest.fixture(scope="module")
def shared_repo(module_user: Path) -> Bench:
    """The same, for tests that change nothing."""
    workspace = module_user / "work"
    workspace.mkdir()
    make_repository(workspace)
    return Bench(GitAgent((), lambda: [workspace]), workspace)
