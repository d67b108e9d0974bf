"""`offhand status`: whether the server runs, and what it does."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from mcp_server.cli.running import as_json_option, ask_server, surviving_tasks
from mcp_server.clock import MICROSECONDS, from_iso, now_us
from mcp_server.spoken import ago

NOT_RUNNING = 3
"""The exit code, as of `systemctl status`."""


@click.command()
@as_json_option
def status(as_json: bool) -> None:
    """Whether the server runs, since when, and what it does.

    The exit code is 0 where it runs, and 3 where it does not.
    """
    server = ask_server("GET", "/api/status")
    if server is None:
        server = {"status": "stopped", "running": surviving_tasks()}
    if as_json:
        click.echo(json.dumps(server, indent=1))
    else:
        click.echo("\n".join(_stopped(server) if server["status"] == "stopped" else _serving(server)))
    if server["status"] == "stopped":
        raise click.exceptions.Exit(NOT_RUNNING)


def _stopped(server: dict[str, Any]) -> list[str]:
    lines = ["No server runs. Start one: offhand serve"]
    if server["running"]:
        lines.append(f"Going on without it: {server['running']} running. The next start finds what is there.")
    return lines


def _serving(server: dict[str, Any]) -> list[str]:
    started = from_iso(server["started_at"])
    since = datetime.fromtimestamp(started / MICROSECONDS).astimezone().strftime("%Y-%m-%d %H:%M")
    how_long = ago((now_us() - started) / MICROSECONDS)
    lines = [
        f"Offhand {server['version']} serves since {since} ({how_long}), process {server['pid']}.",
        f"{server['running']} running, {server['queued']} queued; at most {server['limit']} at once.",
    ]
    if server["status"] != "serving":
        lines.append("It begins nothing more, and ends when what runs has ended.")
    if server["found"]["say"]:
        lines.append(server["found"]["say"])
    return lines
