"""What is between a coding agent and its user: until its first tool is told of, per tool, and in memory.

The agent is the real Claude Code that `make acceptance` installs, against a scripted model on loopback; beside it the
same program with the same prompt, run bare. It reads files, which nobody is asked about. The clock runs from sending
delegate_task until a subscriber has read of the first tool, which holds the clone, the sandbox and the driver; the bare
program's runs from its start until it prints that tool. Memory is of all processes of the task, by PSS (Linux).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import MILLISECONDS, Figure, Series, alternate, script
from benchmarks.processes import ended
from benchmarks.wire import Connection, over_socket
from tests.acceptance.clients import CLAUDE_CODE, node_path, npm_packages
from tests.acceptance.coding import WORKSPACE, Desk, coding_desk
from tests.acceptance.model import Model
from tests.acceptance.test_claude_code import KEY, settings_file

TOOLS = 20
READ = '[[tool: Read {"file_path": "README.md"}]]'
BARE = (
    *("-p", "--output-format", "stream-json", "--verbose", "--setting-sources", "user", "--strict-mcp-config"),
    *("--allowedTools", "Read"),
)
TOLD = "reading README.md"
LOOK_SECONDS = 0.05
SILENT_SECONDS = 3.0
"""After the model was asked, until the program has come to rest."""


def measure(quick: bool) -> list[Figure]:
    """Figures of Claude Code, with us and without."""
    rounds, tools = (1, 3) if quick else (10, TOOLS)
    prompt = f"Read. {READ * tools} [[say: Done.]]"
    with ExitStack() as stack:
        desk = stack.enter_context(coding_desk(lambda model, home: settings_file(model, KEY)))
        facts = json.loads((desk.home / "server.json").read_text())
        runs = Runs(desk, stack.enter_context(over_socket(facts["mcp_socket"])), prompt)
        alternate(rounds, runs.with_us, runs.bare, warm_up=0)
        memory = [(runs.memory(), runs.bare_memory())] if Path("/proc/self/smaps_rollup").exists() else []
    per_tool = [[(total - first) / tools for first, total in took] for took in (runs.ours, runs.alone)]
    firsts = [[first for first, _ in took] for took in (runs.ours, runs.alone)]
    return [
        Figure("delegate to its first tool, told", "ms", firsts[0], beside=(Series("claude -p, printed", firsts[1]),)),
        Figure("from tool to tool", "ms", per_tool[0], beside=(Series("claude -p", per_tool[1]),)),
        *(
            Figure("memory of a running task", "MB", [held], beside=(Series("claude -p", [bare]),))
            for held, bare in memory
        ),
    ]


class Runs:
    """The same work, again and again: (until the first tool, until the end) in milliseconds."""

    def __init__(self, desk: Desk, connection: Connection, prompt: str) -> None:
        self.ours: list[tuple[float, float]] = []
        self.alone: list[tuple[float, float]] = []
        self._desk = desk
        self._connection = connection
        self._prompt = prompt

    def with_us(self) -> float:
        """Delegated, followed, and read."""
        begin = time.perf_counter()
        task = self._connection.call(
            "delegate_task", agent="claude_code", description=self._prompt, workspace=WORKSPACE, wait=0
        )
        self._connection.follow(f"task://{task['id']}")
        first = 0.0
        while task["status"] not in ("completed", "failed"):
            self._connection.told()
            task = self._connection.call("get_task", task_id=task["id"])
            if not first and task["progress"] == TOLD:
                first = _since(begin)
        if task["status"] != "completed" or not first:
            raise RuntimeError(json.dumps(task))
        self.ours.append((first, _since(begin)))
        return first

    def bare(self) -> float:
        """By hand."""
        begin = time.perf_counter()
        first = 0.0
        with ended(self._started(self._prompt)) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not first and b'"tool_use"' in line:
                    first = _since(begin)
            process.wait()
        self.alone.append((first, _since(begin)))
        return first

    def memory(self) -> float:
        """Of a task whose model has fallen silent."""
        task = self._connection.call(
            "delegate_task", agent="claude_code", description="[[hang]]", workspace=WORKSPACE, wait=0
        )
        before = len(self._desk.model.requests)
        _wait_for_silence(self._desk.model, before)
        [folder] = (self._desk.home / "attempts").glob(f"{task['number']}-*")
        held = _tree_mb(json.loads((folder / "supervisor.json").read_text())["pid"])
        self._connection.call("update_task", task_id=task["id"], action="cancel", wait=30)
        return held

    def bare_memory(self) -> float:
        """Of the program alone, in the same silence."""
        before = len(self._desk.model.requests)
        with ended(self._started("[[hang]]")) as process:
            _wait_for_silence(self._desk.model, before)
            return _tree_mb(process.pid)

    def _started(self, prompt: str) -> subprocess.Popen[bytes]:
        packages = npm_packages(CLAUDE_CODE)
        program = str(packages / "node_modules" / ".bin" / "claude")
        environment = _environment(packages, self._desk.model, self._desk.agent_home)
        process = subprocess.Popen(
            [program, *BARE],
            env=environment,
            cwd=self._desk.repository,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        process.stdin.write(prompt.encode())
        process.stdin.close()
        return process


def _environment(packages: Path, model: Model, home: Path) -> Mapping[str, str]:
    return KEY | {
        "PATH": f"{node_path(packages)}:/usr/bin:/bin",
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": model.url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


def _wait_for_silence(model: Model, before: int) -> None:
    while len(model.requests) == before:
        time.sleep(LOOK_SECONDS)
    time.sleep(SILENT_SECONDS)


def _tree_mb(pid: int) -> float:
    """PSS of a process and everything below it."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1e3
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return own + sum(_tree_mb(int(child)) for listed in children for child in listed.read_text().split())


def _since(begin: float) -> float:
    return (time.perf_counter() - begin) * MILLISECONDS


if __name__ == "__main__":
    script(measure)
