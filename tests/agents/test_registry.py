"""Which agents there are, and what is said about those that cannot work here."""

from __future__ import annotations

import pytest

from mcp_server.agent import WorkOrder
from mcp_server.agents.echo import EchoAgent
from mcp_server.agents.registry import AgentRegistry, built_in_agents
from mcp_server.errors import InvalidError, UnavailableError

CODING = {"claude_code": ("Claude Code", 2), "codex": ("Codex", 3), "gemini": ("Gemini CLI", 1)}


@pytest.fixture
def registry() -> AgentRegistry:
    return AgentRegistry(built_in_agents(Settings(), list))


def test_the_built_in_agents_come_in_a_fixed_order(registry: AgentRegistry):
    assert [agent.name for agent in registry] == ["git", "shell", "echo", *CODING]
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
    assert "git, shell, echo, claude_code, codex, gemini" in issue.fix
    assert (f"Did you mean '{meant}'?" in issue.fix) == bool(meant)
    assert len(issue.message) < 200
    assert "_" not in caught.value.say


@pytest.mark.parametrize("name", CODING)
def test_a_coding_agent_is_known_and_says_what_is_missing(registry: AgentRegistry, name: str):
    agent = registry.get(name)
    title, limit = CODING[name]
    assert (agent.title, agent.default_limit, agent.default_timeout_seconds) == (title, limit, 3600)
    found = agent.availability()
    assert not found.installed
    assert title in found.missing
    with pytest.raises(UnavailableError, match=title):
        agent.invocation(WorkOrder(description="x"))


@pytest.mark.parametrize("name", CODING)
def test_a_coding_agent_takes_what_says_what_to_do(registry: AgentRegistry, name: str):
    checked = registry.get(name).check(WorkOrder(description="Build a dashboard", params={"any": 1}))
    assert not checked.reads_only
    with pytest.raises(InvalidError) as caught:
        registry.get(name).check(WorkOrder(description=" \n"))
    assert caught.value.issues[0].field == "description"
    assert caught.value.issues[0].fix


def test_each_agent_says_what_it_is(registry: AgentRegistry):
    for agent in registry:
        assert agent.title
        assert agent.description
        assert agent.default_timeout_seconds == (3600 if agent.name in CODING else 60)
