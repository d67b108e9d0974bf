"""`offhand serve`: the one process that owns the store and the executor."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import httpx2

from mcp_server.cli.workspaces import checked_workspace
from mcp_server.errors import ConflictError
from mcp_server.paths import make_private, private
from mcp_server.release import release
from mcp_server.runtime import Runtime
from mcp_server.settings import Settings, load_settings
from mcp_server.web.serve import Address
from mcp_server.web.serve import serve as serve_until_stopped

LOG_BYTES = 5 * 1024 * 1024
LOG_FILES = 4
FIRST_KEY = "phone"


@click.command()
@click.option(
    "--workspace", "workspaces", multiple=True, metavar="NAME=PATH", help="Let tasks work in PATH; may be repeated."
)
@click.option("--host", help="Address to listen on; OFFHAND_HOST. Default 127.0.0.1: this machine only.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; OFFHAND_PORT. Default 8787; 0 takes a free one.")
@click.option("--background", is_flag=True, help="Print nothing and make no key: for `offhand mcp` and services.")
@click.option("--hello", metavar="WORKSPACE", help="Once ready, send ourselves one webhook: git status of WORKSPACE.")
def serve(workspaces: tuple[str, ...], host: str | None, port: int | None, background: bool, hello: str | None) -> None:
    """Serve MCP clients, phones and the command line until Ctrl-C.

    The first start makes an API key and shows it once. Work that runs when the server stops goes on; the next
    server finds it.
    """
    given = dict(_named(entry) for entry in workspaces)
    settings = load_settings(host=host, port=port)
    settings = settings.model_copy(update={"workspaces": settings.workspaces | given})
    make_private(settings.home)
    _log(settings, background=background)

    async def ready(runtime: Runtime, address: Address) -> None:
        if background:
            return
        key = await _first_key(runtime)
        click.echo(_welcome(runtime, address, key))
        if hello is not None:
            await _say_hello(runtime, address, hello)
        click.echo("Serving. Stop with Ctrl-C.")

    asyncio.run(serve_until_stopped(settings, ready))
    if not background:
        click.echo("\nStopped. Work that was running goes on; the next start finds it.")


def _named(entry: str) -> tuple[str, Path]:
    name, separator, path = entry.partition("=")
    if not separator or not path:
        raise click.BadParameter("give NAME=PATH, such as offhand=~/src/offhand", param_hint="--workspace")
    return name, checked_workspace(name, Path(path))


class _PrivateLog(logging.handlers.RotatingFileHandler):
    """A log that only its user may read."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding="utf-8", opener=private)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # named by logging
        """A line that the disk has no room for is left out: a traceback for each would bury the one that says so."""


def _log(settings: Settings, *, background: bool) -> None:
    folder = make_private(settings.home / "logs")
    file = _PrivateLog(folder / "offhand.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handlers: list[logging.Handler] = [file]
    if not background:
        terminal = logging.StreamHandler()
        terminal.setLevel(logging.WARNING)
        terminal.setFormatter(logging.Formatter("offhand: %(message)s"))
        handlers.append(terminal)
    logging.basicConfig(level=settings.log_level.upper(), handlers=handlers, force=True)
    for noisy in ("mcp", "uvicorn", "httpx2", "httpcore2", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger(__name__).info(
        "offhand %s starts, home %s, mcp_auth %s", release(), settings.home, settings.mcp_auth
    )


async def _first_key(runtime: Runtime) -> str | None:
    """A key for the first phone, where there never was one."""
    if await runtime.keys.any():
        return None
    try:
        _, token = await runtime.keys.create(FIRST_KEY)
    except ConflictError:
        return None
    return token


def _command() -> str:
    """How the user calls us here: in a checkout `offhand` is on nobody's PATH."""
    if shutil.which("offhand") is not None or os.path.basename(sys.argv[0]) != "offhand":
        return "offhand"
    path = os.path.relpath(sys.argv[0])
    return sys.argv[0] if path.startswith("..") else path


def _welcome(runtime: Runtime, address: Address, key: str | None) -> str:
    settings = runtime.settings
    offhand = _command()
    lines = [
        f"Offhand {release()}",
        f"  home         {settings.home}",
        f"  workspaces   {', '.join(runtime.workspaces.names()) or f'none yet: {offhand} workspace add NAME PATH'}",
        f"  webhook      {address.url}/webhook",
        f"  MCP          {address.url}/mcp, or the command: {offhand} mcp",
        f"  docs         {address.url}/docs",
    ]
    if settings.public_url:
        lines.append(f"  public       {settings.public_url}")
    if settings.mcp_auth == "off":
        lines.append("  MCP AUTH     off: every program on this machine may use /mcp without a key, as a phone would")
    if runtime.adopted.say:
        lines.append(f"  {runtime.adopted.say}")
    if key:
        lines += ["", f"API key (made now, shown only this once): {key}"]
    else:
        lines += ["", f"To make another API key: {offhand} key create NAME"]
    workspace = next(iter(runtime.workspaces.names()), None)
    body = {
        "type": "task_command",
        "data": {
            "action_type": "git" if workspace else "echo",
            **({"workspace": workspace} if workspace else {"description": "hello"}),
            **({"params": {"command": ["git", "status"]}} if workspace else {}),
        },
    }
    curl = (
        f"curl -s {address.url}/webhook -H 'X-API-Key: {key or 'YOUR_KEY'}' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    )
    return "\n".join([*lines, "", "Try it from another terminal:", f"  {curl}", ""])


async def _say_hello(runtime: Runtime, address: Address, workspace: str) -> None:
    """One webhook as a phone would send it, with a key that lives only for it."""
    body = {
        "type": "task_command",
        "data": {"action_type": "git", "workspace": workspace, "params": {"command": ["git", "status"]}},
    }
    try:
        with runtime.keys.lent("hello") as token:
            async with httpx2.AsyncClient(timeout=30) as client:
                response = await client.post(f"{address.url}/webhook", json=body, headers={"X-API-Key": token})
        answer: dict[str, Any] = response.json()
        click.echo(f"Sent one webhook as a phone would: git status in {workspace}.")
        click.echo(f"The phone would have heard: {answer['say']}\n")
    except (httpx2.HTTPError, ValueError, KeyError) as error:
        click.echo(f"The first webhook got no answer: {error}", err=True)
