"""How many tasks may run at once, altogether and of each agent. Changed while the server runs."""

from __future__ import annotations

from collections.abc import Mapping

from mcp_server.agent import Agent
from mcp_server.errors import InvalidError

LIMIT_RANGE = (1, 1000)
AGENT_LIMIT_RANGE = (0, 1000)
"""0: none of this agent for now."""


class Limits:
    """What the settings said at the start, and what was changed since."""

    def __init__(self, overall: int, own: Mapping[str, int]) -> None:
        self.overall = overall
        self._own = dict(own)

    def of(self, agent: Agent) -> int:
        """How many of this agent may run at once: its own limit, else its default, and never more than overall."""
        own = self._own.get(agent.name, agent.default_limit)
        return self.overall if own is None else min(own, self.overall)

    def own(self, agent: Agent) -> int | None:
        """What the user has set for this agent; None where it is left to us."""
        return self._own.get(agent.name)

    def change(self, agent: Agent | None, limit: int | None) -> None:
        """Set the limit of one agent (None: back to its default), or without an agent the one for all together."""
        if agent is None:
            assert limit is not None
            self.overall = limit
        elif limit is None:
            self._own.pop(agent.name, None)
        else:
            self._own[agent.name] = limit


def check_limit(of_agent: bool, limit: int | None) -> None:
    """Pass, or raise InvalidError: the number is out of range."""
    if limit is None and of_agent:
        return
    low, high = AGENT_LIMIT_RANGE if of_agent else LIMIT_RANGE
    if limit is None or not low <= limit <= high:
        none = "" if low else ", 0 for none"
        raise InvalidError("This limit is out of range.", field="limit", fix=f"Give {low} to {high}{none}.")
