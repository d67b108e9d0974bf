"""An agent of our own: it counts the words of a file, with the program `wc`."""

from __future__ import annotations

import shutil
from pathlib import Path

from mcp_server.agent import Availability, Checked, Exit, Invocation, Outcome, WorkOrder, task_environment
from mcp_server.errors import InvalidError
from mcp_server.settings import Settings


class WordsAgent:
    """What every agent has, is in `mcp_server/agent.py`."""

    name = "words"
    title = "Words"
    description = 'Counts the words of a file in a workspace: params {"file": "README.md"}.'
    default_timeout_seconds = 60.0
    default_limit: int | None = None
    needs_workspace = True
    continues = False

    def __init__(self, settings: Settings) -> None:
        self._pass_env = settings.pass_env

    def availability(self) -> Availability:
        if shutil.which("wc") is None:
            return Availability(installed=False, missing="wc is not on PATH.")
        return Availability(installed=True)

    def look(self) -> None:
        """There is nothing that takes long to find out."""

    def check(self, order: WorkOrder) -> Checked:
        """Before anything is stored: refuse what cannot be done, and say how it would be right."""
        return Checked(argv=("words", str(self._file(order))), reads_only=True)

    def invocation(self, order: WorkOrder) -> Invocation:
        """What to run, once for each attempt. The supervisor starts it; an agent never does."""
        program = shutil.which("wc") or "/usr/bin/wc"
        argv = (program, "-w", "--", str(self._file(order)))
        return Invocation(argv, cwd=order.cwd or Path("/"), env=task_environment(self._pass_env))

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        """What the end means."""
        if ended.how != "exited" or ended.returncode != 0:
            text = ended.stderr.strip()
            return Outcome(False, text, "The words could not be counted.", reason="exit_code")
        count = ended.stdout.split()[0]
        return Outcome(True, count, f"It has {count} words.")

    def _file(self, order: WorkOrder) -> Path:
        name = order.params.get("file")
        if not isinstance(name, str) or not name or order.cwd is None or order.workspace is None:
            raise InvalidError("A file is needed.", field="params.file", fix='Give one, such as "README.md".')
        path = (order.cwd / name).resolve()
        if not path.is_relative_to(order.workspace):
            raise InvalidError("That file is not in the workspace.", field="params.file", fix="Name one that is.")
        return path
