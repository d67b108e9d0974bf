"""Agents of the settings: new ones, and what is refused when the server starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_server.agent import WorkOrder
from mcp_server.agents.registry import AgentRegistry, all_agents
from mcp_server.errors import InvalidError
from mcp_server.settings import AgentSettings, Settings, load_settings

GOOD = {"kind": "command", "program": "sh", "args": ["-c", "cat"]}


def agents_of(home: Path, agents: dict[str, Any]) -> AgentRegistry:
    return AgentRegistry(all_agents(Settings.model_validate({"home": home, "agents": agents, "sandbox": "off"}), list))


def test_declared_agents_come_after_ours(home: Path):
    registry = agents_of(home, {"aider": GOOD | {"title": "Aider"}, "goose": {"kind": "acp", "program": "sh"}})
    assert [agent.name for agent in registry][-2:] == ["aider", "goose"]
    assert registry.get("aider").title == "Aider"
    assert registry.get("aider").availability().installed
    assert registry.get("goose").continues
    assert not registry.get("aider").continues
    assert agents_of(home, {"aider": GOOD | {"continue_args": ["-c", "cat"]}}).get("aider").continues


@pytest.mark.parametrize(
    ("name", "own", "field"),
    [
        ("x", {}, "kind"),
        ("x", {"kind": "command"}, "program"),
        ("git", GOOD, ""),
        ("files", {"timeout_seconds": 5}, ""),
        ("claude_code", {"kind": "acp"}, "kind"),
        ("claude_code", {"output": "json"}, "output"),
        ("codex", {"max_cost_usd": 1}, "max_cost_usd"),
        ("X", GOOD, ""),
        ("7", GOOD, ""),
        ("a/b", GOOD, ""),
        ("a" * 65, GOOD, ""),
        ("x", GOOD | {"program": "./tool"}, "program"),
        ("x", GOOD | {"env": {"A=B": "x"}}, "env"),
        ("x", GOOD | {"env": {"OFFHAND_HOME": "/x"}}, "env"),
        ("x", GOOD | {"pass_env": ["A B"]}, "pass_env"),
        ("x", GOOD | {"args": ["{promt}"]}, "args[0]"),
        ("x", GOOD | {"args": ["ok", '{"a": 1}']}, "args[1]"),
        ("x", GOOD | {"args": ["{"]}, "args[0]"),
        ("x", GOOD | {"args": ["a\0b"]}, "args[0]"),
        ("x", GOOD | {"args": ["{model}"]}, "model"),
        ("x", GOOD | {"model": "m"}, "model"),
        ("x", GOOD | {"max_turns": 5}, "max_turns"),
        ("x", GOOD | {"args": ["{conversation}"], "output": "json", "fields": {"conversation": "id"}}, "args"),
        ("x", GOOD | {"continue_args": ["{conversation}"]}, "fields.conversation"),
        ("x", GOOD | {"fields": {"answer": "a"}}, "fields"),
        ("x", GOOD | {"output": "json", "fields": {"answer": "a..b"}}, "fields.answer"),
        ("x", GOOD | {"output": "json", "fields": {"answer": "a=b"}}, "fields.answer"),
        ("x", {"kind": "acp", "program": "x", "output": "json"}, "output"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start_with_its_field(
    home: Path, name: str, own: dict[str, Any], field: str
):
    with pytest.raises(InvalidError) as caught:
        agents_of(home, {name: own})
    found = {issue.field: issue for issue in caught.value.issues}
    wanted = f"agents.{name}.{field}" if field else f"agents.{name}"
    assert wanted in found
    assert found[wanted].fix
    assert len(found) == 1


def test_a_prompt_that_is_an_argument_is_no_longer_than_one_may_be(home: Path, workspace: Path):
    agents = agents_of(home, {"pipe": GOOD, "argument": GOOD | {"args": ["-c", "{prompt}"]}})
    order = WorkOrder("é" * 100_000, workspace=workspace, cwd=workspace)
    assert not agents.get("pipe").check(order).reads_only
    with pytest.raises(InvalidError) as caught:
        agents.get("argument").check(order)
    assert caught.value.issues[0].field == "description"
    assert not agents.get("argument").check(replace(order, description="é" * 50_000)).reads_only


def test_every_trouble_is_told_at_once(home: Path):
    with pytest.raises(InvalidError) as caught:
        agents_of(home, {"x": {}, "y": GOOD | {"args": ["{a}", "{b}"]}})
    assert [issue.field for issue in caught.value.issues] == ["agents.x.kind", "agents.y.args[0]", "agents.y.args[1]"]


@pytest.mark.parametrize(
    "line", ["kind = 'other'", "output = 'xml'", "fields = {x = 'y'}", "args = 'x'", "nonsense = 1"]
)
def test_a_key_or_a_value_that_is_not_known_is_refused_with_its_name(home: Path, line: str):
    home.mkdir()
    (home / "offhand.toml").write_text(f"[agents.x]\n{line}\n")
    with pytest.raises(InvalidError) as caught:
        load_settings()
    assert caught.value.issues[0].field.startswith(f"agents.x.{line.partition(' ')[0]}")


def test_the_defaults_of_an_agent_change_nothing(home: Path):
    assert [agent.name for agent in agents_of(home, {"codex": AgentSettings().model_dump()})] == [
        agent.name for agent in agents_of(home, {})
    ]
