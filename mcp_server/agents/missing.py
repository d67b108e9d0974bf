"""Agents that we know by name and cannot drive yet: their tasks are taken, and wait until they can."""

from __future__ import annotations

from mcp_server.agent import Availability, Checked, Exit, Invocation, Outcome, WorkOrder
from mcp_server.errors import InvalidError, UnavailableError


class MissingAgent:
    """A coding agent without a driver in this version."""

    default_timeout_seconds = 3600.0
    # Nothing runs yet, so no place is needed to run in: a task is taken on every machine.
    needs_workspace = False
    continues = True

    def __init__(self, name: str, title: str, *, default_limit: int | None) -> None:
        self.name = name
        self.title = title
        self.description = f"{title}, a coding agent: say in the description what is to be done."
        self.default_limit = default_limit

    def availability(self) -> Availability:
        return Availability(installed=False, missing=self._missing)

    def check(self, order: WorkOrder) -> Checked:
        if not order.description.strip():
            raise InvalidError(
                f"{self.title} is not told what to do.",
                field="description",
                fix="Say in a sentence or more what is to be done.",
            )
        return Checked(argv=(), reads_only=False)

    def invocation(self, order: WorkOrder) -> Invocation:
        raise UnavailableError(self._missing)

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        return Outcome(completed=False, text=self._missing, say=self._missing, reason="agent_not_installed")

    @property
    def _missing(self) -> str:
        return f"This version of Offhand cannot drive {self.title} yet."


def coding_agents() -> tuple[MissingAgent, ...]:
    """The coding agents that are named everywhere in Offhand, with their limits."""
    return (
        MissingAgent("claude_code", "Claude Code", default_limit=2),
        MissingAgent("codex", "Codex", default_limit=3),
        MissingAgent("gemini", "Gemini CLI", default_limit=1),
    )
