"""The agent that runs any command: an argument vector, never a line for a shell to expand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from mcp_server.agent import (
    Availability,
    Checked,
    Exit,
    Invocation,
    Outcome,
    WorkOrder,
    resolve_program,
    task_environment,
)
from mcp_server.agents.params import command_from
from mcp_server.errors import InvalidError
from mcp_server.spoken import spoken

EXAMPLE = ("make", "test")


class ShellAgent:
    """Runs a program in a workspace. What it does is unknown, so it never counts as reading."""

    name = "shell"
    title = "Shell"
    description = 'Runs a command in a workspace: params {"command": ["make", "test"]}, a list, without a shell.'
    default_timeout_seconds = 60.0
    default_limit: int | None = None
    needs_workspace = True
    continues = False

    def __init__(self, pass_env: tuple[str, ...], workspaces: Callable[[], Iterable[Path]]) -> None:
        self._pass_env = pass_env
        self._workspaces = workspaces

    def availability(self) -> Availability:
        return Availability(installed=True)

    def look(self) -> None:
        """There is nothing to look for."""

    def check(self, order: WorkOrder) -> Checked:
        command = command_from(order.params, EXAMPLE)
        self._program(command[0], place_of(order))
        return Checked(argv=command, reads_only=False)

    def invocation(self, order: WorkOrder) -> Invocation:
        command = command_from(order.params, EXAMPLE)
        cwd = place_of(order)
        # Looked up again: between the check and now a workspace, or a program in it, may have appeared.
        program = self._program(command[0], cwd)
        return Invocation(argv=(str(program), *command[1:]), cwd=cwd, env=task_environment(self._pass_env))

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        del order
        text = ended.stdout.strip() or ended.stderr.strip()
        if ended.how == "exited" and ended.returncode == 0:
            last = _last_line(text)
            return Outcome(completed=True, text=text, say=spoken(f"It worked: {last}") if last else "It worked.")
        how = "was stopped by a signal" if ended.how == "signaled" else f"failed with exit code {ended.returncode}"
        last = _last_line(ended.stderr) or _last_line(ended.stdout)
        return Outcome(
            completed=False,
            text=text,
            say=spoken(f"It {how}: {last}" if last else f"It {how}."),
            reason="signal" if ended.how == "signaled" else "exit_code",
        )

    def _program(self, program: str, cwd: Path) -> Path:
        if not program:
            raise InvalidError(
                "The command starts with an empty word.",
                field="params.command",
                fix="Start it with the program's name.",
            )
        path = task_environment(self._pass_env)["PATH"]
        return resolve_program(program, cwd, path, tuple(self._workspaces()), field="params.command")


def place_of(order: WorkOrder) -> Path:
    """The folder in which the order is done.

    Raises:
        InvalidError: it names no workspace.
    """
    if order.cwd is None:
        raise InvalidError(
            "This agent works in a workspace, and none is named.",
            field="workspace",
            fix="Give the name of a workspace, or add one with `offhand workspace add`.",
            say="Say in which workspace.",
        )
    return order.cwd


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
