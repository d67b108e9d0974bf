"""Real coding agents at work for a real server: a repository, a HOME of their own, a scripted model, a desk."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.acceptance.clients import bubblewrap
from tests.acceptance.model import Model, scripted_model
from tests.acceptance.servers import SCRIPTS, own_environment, started
from tests.web.test_http import ACCEPT, META

WORKSPACE = "app"
DEADLINE_SECONDS = 120.0
LOOK_SECONDS = 2
WAITING = ("completed", "failed", "cancelled", "waiting_approval", "scheduled")
"""Nothing goes on by itself in these, or not soon."""

NOT_OURS = ("ANTHROPIC_", "CLAUDE", "CODEX_", "GEMINI_", "GIT_", "GOOGLE_", "OPENAI_", "XDG_")
"""Variables of whoever runs the tests, which no agent here may get."""

TEST_PROGRAM = "import sys\nprint('2 failed, 3 passed')\nsys.exit(1)\n"

Record = dict[str, Any]


@dataclass
class Desk:
    """What the user sees: their folders, the server by its socket, and the model that their agents ask."""

    base: Path
    model: Model
    settings: Mapping[str, str]
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def home(self) -> Path:
        """OFFHAND_HOME."""
        return self.base / "offhand"

    @property
    def repository(self) -> Path:
        """The workspace."""
        return self.base / "app"

    @property
    def agent_home(self) -> Path:
        """HOME of the server and its agents."""
        return self.base / "home"

    def start(self) -> None:
        """Start the server."""
        environment = own_environment(
            HOME=str(self.agent_home),
            TMPDIR=str(self.base / "tmp"),
            OFFHAND_HOME=str(self.home),
            OFFHAND_PORT="0",
            **self.settings,
        )
        environment = {name: value for name, value in environment.items() if not name.startswith(NOT_OURS)}
        self._stack.enter_context(started([str(SCRIPTS / "offhand"), "serve"], environment, "Serving"))

    def stop(self) -> None:
        """Stop it as the user does."""
        self._stack.close()

    def kill(self) -> None:
        """`kill -9` of the server; its supervisors live on."""
        os.kill(json.loads((self.home / "server.json").read_text())["pid"], 9)
        self._stack.close()

    def call(self, tool: str, **arguments: Any) -> Record:
        """Call a tool as the user at the desk.

        Raises:
            AssertionError: it is an error; the message is the answer.
        """
        headers = ACCEPT | {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool}
        params = {"name": tool, "arguments": arguments, "_meta": META}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        answer = self._request("POST", "/mcp", body, headers)
        assert "result" in answer, answer
        assert not answer["result"].get("isError"), answer["result"]
        return answer["result"]["structuredContent"]

    def api(self, method: str, path: str, body: Record | None = None) -> Record:
        """Ask `/api` as the user at the desk."""
        return self._request(method, f"/api{path}", body, {})

    def delegate(self, agent: str, description: str, **more: Any) -> str:
        """The id of a new task in the workspace."""
        return self.call("delegate_task", agent=agent, description=description, workspace=WORKSPACE, **more)["id"]

    def until(self, task_id: str, seen: Callable[[Record], bool]) -> Record:
        """The task, once `seen` says so of it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not seen(task := self.call("get_task", task_id=task_id, wait=LOOK_SECONDS)):
            assert time.monotonic() < deadline, json.dumps(task, indent=1)
        return task

    def settled(self, task_id: str) -> Record:
        """The task, once it has ended or waits."""
        return self.until(task_id, lambda task: task["status"] in WAITING)

    def until_file(self, task_id: str, path: Path) -> None:
        """Until a file is there that the task makes; the task must be running then."""
        task = self.until(task_id, lambda task: path.exists() or task["status"] in WAITING)
        assert path.exists(), json.dumps(task, indent=1)

    def done(self, agent: str, description: str, **more: Any) -> Record:
        """A new task that has settled."""
        return self.settled(self.delegate(agent, description, **more))

    def approval(self, task: Record) -> Record:
        """The pending approval of a task that waits for it."""
        assert task["status"] == "waiting_approval", json.dumps(task, indent=1)
        pending = self.api("GET", "/approvals")["items"]
        found = next(item for item in pending if item["task_id"] == task["id"])
        return self.api("GET", f"/approvals/{found['id']}")

    def decide(self, approval: Record, decision: str) -> Record:
        """Answer it, with the hash that was shown."""
        return self.api("POST", f"/approvals/{approval['id']}", {"decision": decision, "hash": approval["hash"]})

    def git(self, *arguments: str) -> str:
        """What git says in the user's repository."""
        return git(self.repository, *arguments)

    def diff(self, task: Record) -> str:
        """The text of the artifact with what a task changed."""
        return self.call("search", id=task["result"]["diff"])["content"]

    def progress(self, task: Record) -> list[str]:
        """What the agent told while it worked."""
        return task["result"]["stdout"].splitlines()

    def processes(self, part: str) -> list[int]:
        """The pids of all below this server with `part` in their arguments, in whatever pid namespace they live."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = f"HOME={self.agent_home}\0".encode() in (path / "environ").read_bytes()
                if ours and part.encode() in (path / "cmdline").read_bytes().replace(b"\0", b" "):
                    found.append(int(path.name))
        return found

    def _request(self, method: str, path: str, body: Record | None, headers: Mapping[str, str]) -> Record:
        socket = json.loads((self.home / "server.json").read_text())["http_socket"]
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=socket), timeout=DEADLINE_SECONDS) as client:
            return client.request(method, f"http://offhand{path}", json=body, headers=dict(headers)).json()


@contextmanager
def coding_desk(agents: Callable[[Model, Path], str], more: str = "", **settings: str) -> Generator[Desk]:
    """A desk with a running server.

    `agents` gives the `[agents.…]` part of the settings file, from the model and the agents' HOME, which it may fill;
    `more` comes before it. `settings` are variables of the server's environment. Without bubblewrap there is none:
    agents are tried as they are meant to run.
    """
    bubblewrap()
    # Not in pytest's folder: that is too long for sockets, and Codex works in no home below TMPDIR.
    with _folder() as base, scripted_model() as model:
        desk = Desk(base, model, settings)
        for name in ("offhand", "home", "tmp", "app"):
            (desk.base / name).mkdir(mode=0o700)
        make_repository(desk.repository)
        workspaces = f"[workspaces]\n{WORKSPACE} = {json.dumps(str(desk.repository))}\n"
        (desk.home / "offhand.toml").write_text(f"{more}\n{workspaces}\n{agents(model, desk.agent_home)}")
        desk.start()
        try:
            yield desk
        finally:
            desk.stop()


@contextmanager
def _folder() -> Generator[Path]:
    """A new one, whose name can be spoken: what has an underscore, or digits among letters, would be left out."""
    folder = Path("/var/tmp", "oh-" + "".join(secrets.choice("abdeiklmnorstu") for _ in range(8)))
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_repository(folder: Path) -> None:
    """One commit of a small project, whose test program says that two tests failed."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Ada")
    git(folder, "config", "user.email", "ada@example.org")
    (folder / "README.md").write_text("# app\n")
    (folder / "Makefile").write_text("test:\n\t@python3 check.py\n")
    (folder / "check.py").write_text(TEST_PROGRAM)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=First")


def git(folder: Path, *arguments: str) -> str:
    """What git says in a folder."""
    command = ["git", "-C", str(folder), *arguments]
    environment = {"PATH": os.defpath, "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
