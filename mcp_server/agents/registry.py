"""Which agents there are. Adding one of ours is a line in `all_agents`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mcp_server.agent import Agent
from mcp_server.agents.declared import coding_agents
from mcp_server.agents.echo import EchoAgent
from mcp_server.agents.files import FilesAgent
from mcp_server.agents.git import GitAgent
from mcp_server.agents.plugins import plugin_agents
from mcp_server.agents.shell import ShellAgent
from mcp_server.errors import InvalidError
from mcp_server.settings import Settings


def all_agents(settings: Settings, workspaces: Callable[[], Iterable[Path]]) -> tuple[Agent, ...]:
    """Ours, those of the settings, and those of plugins. `workspaces` gives the resolved folders at the time of asking.

    Raises:
        InvalidError: the settings of an agent cannot be used.
    """
    simple: tuple[Agent, ...] = (
        GitAgent(settings.pass_env, workspaces),
        ShellAgent(settings.pass_env, workspaces),
        FilesAgent(),
        EchoAgent(),
    )
    coding = coding_agents(settings, workspaces, [agent.name for agent in simple])
    ours = (*simple, *coding)
    return (*ours, *plugin_agents(settings, [agent.name for agent in ours]))


class AgentRegistry:
    """The agents by name, in the order in which they were given."""

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents: dict[str, Agent] = {}
        for agent in agents:
            if agent.name in self._agents:
                raise ValueError(f"two agents are named {agent.name!r}")
            self._agents[agent.name] = agent

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    def get(self, name: str) -> Agent:
        """The agent of that name.

        Raises:
            InvalidError: there is none.
        """
        found = self._agents.get(name)
        if found is None:
            raise self._unknown(name)
        return found

    def _unknown(self, name: str) -> InvalidError:
        known = ", ".join(self._agents)
        close = difflib.get_close_matches(
            name.lower().replace("-", "_").replace(" ", "_"), self._agents, n=1, cutoff=0.5
        )
        hint = f"Did you mean {close[0]!r}? " if close else ""
        said = f"Did you mean {self._agents[close[0]].title}?" if close else "Ask for the list of agents."
        return InvalidError(
            f"There is no agent {name[:100]!r}.",
            field="agent",
            fix=f"{hint}Known are: {known}.",
            say=f"I know no such agent. {said}",
        )
