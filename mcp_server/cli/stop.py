"""`offhand stop`: asks the running server to end, and is back when it is gone."""

from __future__ import annotations

import json
from typing import Any

import click

from mcp_server.cli.running import Watched, as_json_option, ask_server, surviving_tasks, watched
from mcp_server.errors import UnavailableError

END_SECONDS = 10.0
"""From the order to the end of the process; the server itself takes at most five."""

PROGRESS_SECONDS = 1.0


@click.command()
@click.option("--drain", is_flag=True, help="Begin nothing new, and wait for what runs, before it ends.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --drain: end after so long, whatever still runs. Else: how long to wait until it is gone (10).",
)
@as_json_option
def stop(drain: bool, timeout: float | None, as_json: bool) -> None:
    """Stop the server, and return when it is gone.

    Work that runs goes on without it, and the next start finds it; what is queued waits. With --drain the server
    waits for what runs.
    """
    server = ask_server("GET", "/api/status")
    if server is not None:
        _stop(server["pid"], drain, timeout, quiet=as_json)
    left = surviving_tasks()
    if as_json:
        click.echo(json.dumps({"stopped": True, "was_running": server is not None, "still_running": left}, indent=1))
        return
    click.echo("Stopped." if server is not None else "No server runs.")
    if left:
        click.echo(f"{_count(left)} without it; the next start finds {'it' if left == 1 else 'them'}.")


def _stop(pid: int, drain: bool, timeout: float | None, *, quiet: bool) -> None:
    wait_seconds = END_SECONDS if drain or timeout is None else timeout
    with watched(pid) as server:
        order = {"drain": True, "timeout_seconds": timeout} if drain else {}
        answer = ask_server("POST", "/api/stop", order)
        if drain and answer is not None:
            try:
                _follow(server, answer, quiet=quiet)
            except KeyboardInterrupt:
                click.echo("\nIt goes on waiting, and ends then. To end it now: offhand stop", err=True)
                raise click.Abort from None
        if not server.gone(wait_seconds):
            raise UnavailableError(
                f"The server has not ended after {wait_seconds:g} seconds.",
                field="server",
                fix=f"Look at its log. Its process id is {pid}; killing it loses nothing.",
            )


def _follow(server: Watched, status: dict[str, Any] | None, *, quiet: bool) -> None:
    """Say what is waited for, until the server takes no more questions."""
    told = None
    while status is not None and status["status"] == "draining":
        if status["running"] != told and not quiet:
            told = status["running"]
            click.echo(f"Waiting for {told} running task{'' if told == 1 else 's'}.", err=True)
        if server.gone(PROGRESS_SECONDS):
            return
        try:
            status = ask_server("GET", "/api/status")
        except UnavailableError:
            return  # it is closing its doors


def _count(tasks: int) -> str:
    return "1 task goes on" if tasks == 1 else f"{tasks} tasks go on"
