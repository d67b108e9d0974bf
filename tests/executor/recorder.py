"""An agent that writes records as the drivers of coding agents do: a shell script that the test writes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from mcp_server.agent import Availability, Checked, Exit, Invocation, Outcome, WorkOrder, task_environment
from mcp_server.agents.coding_report import judged
from mcp_server.drivers.records import DIFF_NAME, RECORDS_VARIABLE, End

FILE = f'"${RECORDS_VARIABLE}"'
BESIDE = f'"$(dirname {FILE})"'


def record(kind: str, **fields: Any) -> str:
    """A command that writes a record."""
    return raw(json.dumps({"type": kind, **fields}) + "\n")


def raw(text: str) -> str:
    """A command that writes this and nothing else to the records."""
    return f"printf %s {shlex.quote(text)} >> {FILE}"


def end(outcome: Any = "completed", text: str = "All done.", **fields: Any) -> str:
    """A command that writes the last record."""
    whole = {name: getattr(End(outcome=outcome, text=text), name) for name in End.__slots__}
    return record("end", **whole | fields)


def asks(say: str = "May I run make?", **fields: Any) -> str:
    """A command that ends with a question."""
    action = {"agent": "recorder", "tool": "Bash", "input": {"command": "make"}, "cwd": "/", "argv": ["make"]}
    return end("asks", say, ask={"about": "tool", "action": action, "say": say, "diff": None} | fields)


def diff(text: str) -> str:
    """A command that leaves a diff."""
    work = record("work", branch="offhand/x", files=[{"path": "a", "change": "modified"}], diff=DIFF_NAME)
    return f"printf %s {shlex.quote(text)} > {BESIDE}/{DIFF_NAME}; {work}"


class Recorder:
    """Runs the `script` of its order. `orders` are those that it ran, `ended` how they ended."""

    name = "recorder"
    title = "Recorder"
    description = "Writes records."
    default_timeout_seconds = 60.0
    default_limit: int | None = None
    needs_workspace = False
    continues = True

    def __init__(self) -> None:
        self.available = Availability(installed=True)
        self.found: Availability | None = None
        """What the next look finds."""
        self.scripts: list[str] = []
        """Of the next attempts, one after another; else that of the order."""
        self.orders: list[WorkOrder] = []
        self.ended: list[Exit] = []

    def availability(self) -> Availability:
        return self.available

    def look(self) -> None:
        self.available = self.found or self.available

    def check(self, order: WorkOrder) -> Checked:
        return Checked(argv=(), reads_only=True)

    def invocation(self, order: WorkOrder) -> Invocation:
        self.orders.append(order)
        script = self.scripts.pop(0) if self.scripts else order.params["script"]
        return Invocation(("/bin/sh", "-c", script), Path("/"), task_environment(), records=True)

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        self.ended.append(ended)
        return judged(self.title, "edit", ended)
