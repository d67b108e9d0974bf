"""`offhand setup`: write Offhand into the configuration of an MCP client, after showing what would change."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mcp_server.clients.change import Change, installed_entry, plan_change
from mcp_server.clients.entry import our_entry
from mcp_server.clients.known import CLIENTS, Client, Scope, find_client
from mcp_server.errors import InvalidError, OffhandError, UnavailableError


@dataclass(frozen=True, slots=True)
class Asked:
    """How a change is to be made."""

    scope: Scope
    remove: bool
    yes: bool
    dry_run: bool
    as_json: bool


@click.command()
@click.argument("client", required=False)
@click.option(
    "--scope",
    type=click.Choice(["user", "project"]),
    default="user",
    show_default=True,
    help="For you everywhere, or in the folder that you are in.",
)
@click.option("--remove", is_flag=True, help="Take Offhand out again.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def setup(client: str | None, scope: Scope, remove: bool, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Connect CLIENT to Offhand: claude-desktop, claude-code, cursor, vscode, gemini or codex.

    Shows the change to the client's configuration file, asks, and keeps the file as it was beside it. Everything
    else in the file stays. Without CLIENT: lists the clients, and which of them are set up.
    """
    if client is None:
        if remove:
            raise click.UsageError("Say of which client: offhand setup CLIENT --remove.")
        _list_clients(scope, as_json)
        return
    _set_up(find_client(client), Asked(scope, remove, yes, dry_run, as_json))


def _set_up(client: Client, asked: Asked) -> None:
    path = client.file(asked.scope, Path.cwd())
    if asked.scope == "user" and not asked.remove and not client.is_here():
        raise UnavailableError(
            f"{client.title} does not seem to be installed: there is no {client.folder()}.",
            field="client",
            fix="Start it once, then try again.",
        )
    change = plan_change(client, path, None if asked.remove else our_entry())
    if change.kind == "none":
        _tell_nothing(client, change, asked)
        return
    if not asked.as_json:
        click.echo(f"{client.title} reads {change.path}. {'This would change' if asked.dry_run else 'The change'}:\n")
        click.echo(f"{change.diff()}\n")
    if asked.dry_run:
        _report(client, change, asked, backup=None, written=False)
    elif _is_agreed(asked):
        _report(client, change, asked, backup=change.write(datetime.now(UTC)), written=True)
    else:
        click.echo("Nothing was changed.")


def _is_agreed(asked: Asked) -> bool:
    if asked.yes:
        return True
    if asked.as_json or not sys.stdin.isatty():
        raise InvalidError(
            "Nothing was changed: there is nobody to ask.",
            field="yes",
            fix="Add --yes to write it, or --dry-run to only look.",
        )
    return click.confirm("Write it?", default=False)


def _tell_nothing(client: Client, change: Change, asked: Asked) -> None:
    if asked.as_json:
        _report(client, change, asked, backup=None, written=False)
    elif asked.remove:
        click.echo(f"Nothing to do: Offhand is not in {change.path}.")
    else:
        click.echo(f"Nothing to do: {client.title} is set up already, in {change.path}.")


def _report(client: Client, change: Change, asked: Asked, *, backup: Path | None, written: bool) -> None:
    if asked.as_json:
        told: dict[str, Any] = {"client": client.name, "scope": asked.scope, "file": str(change.path)}
        told |= {"change": change.kind, "written": written, "backup": str(backup) if backup else None}
        click.echo(json.dumps(told, indent=1))
        return
    if not written:
        click.echo("Nothing was changed.")
        return
    click.echo(f"Written. The file as it was: {backup}" if backup else "Written.")
    if asked.scope == "project" and not asked.remove:
        click.echo("It names folders of this machine, so it is of no use to others who get a copy of the project.")
    click.echo(client.afterwards if not asked.remove else f"Offhand is no longer in {client.title}.")


def _list_clients(scope: Scope, as_json: bool) -> None:
    rows = [_state(client, scope) for client in CLIENTS if scope == "user" or client.project_file is not None]
    if as_json:
        click.echo(json.dumps({"items": rows}, indent=1))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {_told(row)}")
    click.echo("\nSet one up: offhand setup CLIENT")


def _state(client: Client, scope: Scope) -> dict[str, Any]:
    """What is known of a client. `error` is why its file cannot be used."""
    path = client.file(scope, Path.cwd())
    error = entry = None
    try:
        entry = installed_entry(client, path)
    except OffhandError as problem:
        error = problem.message
    return {
        "name": client.name,
        "title": client.title,
        "found": client.is_here(),
        "set_up": entry is not None,
        "command": entry.get("command") if entry is not None else None,
        "file": str(path),
        "error": error,
    }


def _told(row: dict[str, Any]) -> str:
    if row["error"]:
        return str(row["error"])
    if row["set_up"]:
        other = row["command"] != our_entry().command
        return f"set up in {row['file']}" + (f", with {row['command'] or 'an address'}" if other else "")
    return "found, not set up" if row["found"] else "not found on this machine"
