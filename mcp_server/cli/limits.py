"""`offhand limit`: how many tasks run at once. Changed in the running server, and in the settings file."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from mcp_server.agents.registry import AgentRegistry, all_agents
from mcp_server.cli.running import as_json_option, ask_server
from mcp_server.executor.limits import Limits, check_limit
from mcp_server.paths import home_folder, make_private
from mcp_server.settings import load_settings, write_limit

DEFAULT = "default"


@click.command()
@click.argument("agent", required=False)
@click.argument("number", metavar="[N]", required=False)
@as_json_option
def limit(agent: str | None, number: str | None, as_json: bool) -> None:
    """Show or change how many tasks may run at once.

    `offhand limit` shows all, `offhand limit 6` sets the one for all together, `offhand limit shell 2` that of an agent
    (0: none for now; `default`: as if you had never set it). It holds at once, and after a restart. What runs goes on.
    """
    if agent is not None and agent.isdecimal() and number is None:
        agent, number = None, agent
    if agent is not None:
        AgentRegistry(all_agents(load_settings(), list)).get(agent)
    changes = number is not None
    shown = _change(agent, _number(agent, number)) if number is not None else _show()
    if agent is not None:
        shown["items"] = [item for item in shown["items"] if item["name"] == agent]
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    click.echo("\n".join(_lines(shown, only_agent=agent is not None)))
    if changes and (variable := _overriding(agent)):
        click.echo(f"{variable} is set here: a server that is started with it uses that instead.", err=True)


def _number(agent: str | None, number: str) -> int | None:
    if number == DEFAULT and agent is not None:
        return None
    try:
        return int(number)
    except ValueError:
        raise click.BadParameter(f"{number!r} is no whole number", param_hint="N") from None


def _show() -> dict[str, Any]:
    return ask_server("GET", "/api/limits") or _from_settings()


def _change(agent: str | None, number: int | None) -> dict[str, Any]:
    changed = ask_server("PUT", "/api/limits", {"agent": agent, "limit": number})
    if changed is not None:
        return changed
    check_limit(agent is not None, number)
    make_private(home_folder())
    write_limit(agent, number)
    return _from_settings()


def _from_settings() -> dict[str, Any]:
    """What the next server will do."""
    settings = load_settings()
    limits = Limits(settings.limit, settings.limits)
    agents = all_agents(settings, list)
    items = [{"name": agent.name, "limit": limits.of(agent), "set": limits.own(agent)} for agent in agents]
    return {"limit": limits.overall, "items": items}


def _lines(shown: dict[str, Any], *, only_agent: bool) -> list[str]:
    width = max(len("all together"), *(len(item["name"]) for item in shown["items"]))
    lines = [] if only_agent else [f"{'all together':<{width}}  {shown['limit']:>4}{_doing(shown)}"]
    return lines + [
        f"{item['name']:<{width}}  {item['limit']:>4}{_doing(item)}{'' if item['set'] is None else '  (set)'}"
        for item in shown["items"]
    ]


def _doing(item: dict[str, Any]) -> str:
    """Known only where a server runs."""
    names = [name for name in ("running", "queued") if item.get(name)]
    return "".join(f"  {item[name]} {name}" for name in names)


def _overriding(agent: str | None) -> str | None:
    name = "OFFHAND_LIMIT" if agent is None else "OFFHAND_LIMITS"
    return name if os.environ.get(name) else None
