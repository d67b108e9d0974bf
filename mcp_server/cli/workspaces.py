"""`offhand workspace`: the named folders in which tasks may work, in the settings file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from mcp_server.errors import InvalidError, NotFoundError
from mcp_server.paths import home_folder, make_private, read_server_file
from mcp_server.settings import load_settings, write_workspaces

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


@click.group()
def workspace() -> None:
    """The folders in which tasks may work. Callers name them; nothing runs outside of them."""


@workspace.command("add")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
def add(name: str, path: Path) -> None:
    """Let tasks work in PATH under the NAME that people will say."""
    folder = checked_workspace(name, path)
    make_private(home_folder())
    write_workspaces({name: str(folder)})
    click.echo(f"Workspace {name} is {folder}.{_restart_hint()}")


@workspace.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def list_workspaces(as_json: bool) -> None:
    """Every workspace of the settings."""
    folders = {name: str(path) for name, path in load_settings().workspaces.items()}
    if as_json:
        click.echo(json.dumps({"items": [{"name": name, "path": path} for name, path in folders.items()]}, indent=1))
    elif not folders:
        click.echo("No workspace yet. Add one: offhand workspace add NAME PATH")
    else:
        width = max(map(len, folders))
        for name, path in folders.items():
            click.echo(f"{name:<{width}}  {path}{'' if Path(path).is_dir() else '  (there is no such folder)'}")


@workspace.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Take a workspace out of the settings. The folder stays as it is."""
    if name not in write_workspaces({}):
        raise NotFoundError(
            f"There is no workspace {name} in the settings file.", field="name", fix="See: offhand workspace list."
        )
    write_workspaces({name: None})
    click.echo(f"Workspace {name} is removed. Its folder was not touched.{_restart_hint()}")


def checked_workspace(name: str, path: Path) -> Path:
    """The absolute folder of a workspace. Raises InvalidError."""
    if not _NAME.match(name):
        raise InvalidError(f"{name!r} is no name for a workspace.", field="name", fix="Use letters, digits, . _ and -.")
    folder = path.expanduser().absolute()
    if not folder.is_dir():
        raise InvalidError(f"{folder} is no folder.", field="path", fix="Name a folder that exists.")
    return folder


def _restart_hint() -> str:
    return " Restart the server to use the change." if read_server_file(home_folder()) else ""
