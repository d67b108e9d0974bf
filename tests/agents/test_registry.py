"""Which agents there are, and what is said about those that cannot work here."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.agent import WorkOrder
from mcp_server.agents.echo import EchoAgent
from mcp_server.agents.registry import AgentRegistry, all_agents
from mcp_server.errors import InvalidError, UnavailableError
from mcp_server.settings import Settings

CODING = {"claude_code": ("Claude Code", 2), "codex": ("Codex", 3), "gemini": ("Gemini CLI", 1)}


@pytest.fixture
def registry(settings: Settings) -> AgentRegistry:
    return AgentRegistry(all_agents(settings, list))


def test_our_agents_come_in_a_fixed_order(registry: AgentRegistry):
    assert [agent.name for agent in registry] == ["git", "shell", "files", "echo", *CODING]
    assert all(registry.get(agent.name) is agent for agent in registry)


def test_two_agents_of_one_name_are_a_mistake():
    with pytest.raises(ValueError, match="echo"):
        AgentRegistry([EchoAgent(), EchoAgent()])


@pytest.mark.parametrize(
    ("name", "meant"),
    [("claude-code", "claude_code"), ("Claude Code", "claude_code"), ("GIT", "git"), ("bash", ""), ("x" * 9999, "")],
)
def test_an_unknown_agent_is_refused_with_a_guess_and_the_list(registry: AgentRegistry, name: str, meant: str):
    with pytest.raises(InvalidError) as caught:
        registry.get(name)
    issue = caught.value.issues[0]
    assert issue.field == "agent"
    assert "git, shell, files, echo, claude_code, codex, gemini" in issue.fix
    assert (f"Did you mean '{meant}'?" in issue.fix) == bool(meant)
    assert len(issue.message) < 200
    assert "_" not in caught.value.say


@pytest.mark.parametrize("name", CODING)
def test_a_coding_agent_is_known_and_says_what_is_missing(registry: AgentRegistry, name: str, workspace: Path):
    agent = registry.get(name)
    title, limit = CODING[name]
    assert (agent.title, agent.default_limit, agent.default_timeout_seconds) == (title, limit, 3600)
    agent.look()
    found = agent.availability()
    assert not found.installed
    assert title in found.missing
    assert "npm install -g" in found.missing
    with pytest.raises(UnavailableError, match=title):
        agent.invocation(WorkOrder(description="x", workspace=workspace, cwd=workspace))


def test_each_agent_says_what_it_is(registry: AgentRegistry):
    for agent in registry:
        assert agent.title
        assert agent.description
        assert agent.default_timeout_seconds == (3600 if agent.name in CODING else 60)
