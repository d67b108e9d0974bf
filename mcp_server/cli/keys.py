"""`offhand key`: API keys for phones and other machines. Asks the running server, else opens the store itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import click

from mcp_server.callers import SCOPES
from mcp_server.cli.running import as_json_option, ask_server
from mcp_server.errors import AlreadyServingError, UnavailableError
from mcp_server.events import Events
from mcp_server.keys import DEFAULT_SCOPES, Keys
from mcp_server.paths import home_folder, make_private
from mcp_server.runtime import STORE_FILE
from mcp_server.store.sqlite import open_sqlite


@click.group()
def key() -> None:
    """API keys: who may come in over HTTP, and what they may do."""


@key.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What the key may do; may be repeated. Default: read and submit, which go with neither approve nor admin.",
)
@as_json_option
def create(name: str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a key named NAME. It is shown once, and kept only as a hash."""
    held = list(scopes or DEFAULT_SCOPES)

    async def directly(keys: Keys) -> dict[str, Any]:
        record, token = await keys.create(name, held)
        return record | {"key": token}

    made = _ask("POST", "/api/keys", {"name": name, "scopes": held}, directly)
    if as_json:
        click.echo(json.dumps(made, indent=1))
    else:
        click.echo(f"{made['key']}\n", nl=False)
        click.echo(f"Key {name} ({', '.join(made['scopes'])}). It is shown only this once.", err=True)


@key.command("list")
@as_json_option
def list_keys(as_json: bool) -> None:
    """Every key, revoked ones too; never the keys themselves."""

    async def directly(keys: Keys) -> dict[str, Any]:
        return {"items": await keys.list(), "next_cursor": None}

    items = _ask("GET", "/api/keys", None, directly)["items"]
    if as_json:
        click.echo(json.dumps({"items": items}, indent=1))
    elif not items:
        click.echo("No key yet. Make one: offhand key create NAME")
    else:
        width = max(len(item["name"]) for item in items)
        for item in items:
            state = f"revoked {item['revoked_at']}" if item["revoked_at"] else "active"
            click.echo(f"{item['name']:<{width}}  {','.join(item['scopes']):<12}  {item['created_at']}  {state}")


@key.command("revoke")
@click.argument("name")
@as_json_option
def revoke(name: str, as_json: bool) -> None:
    """End the key NAME (or its id). It works no more from now on."""

    async def directly(keys: Keys) -> dict[str, Any]:
        return await keys.revoke(name)

    ended = _ask("DELETE", f"/api/keys/{quote(name, safe='')}", None, directly)
    click.echo(json.dumps(ended, indent=1) if as_json else f"Key {ended['name']} is revoked.")


def _ask(
    method: str, path: str, body: dict[str, Any] | None, directly: Callable[[Keys], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Through the running server's socket; the store has one owner, so only where none runs we open it."""
    answer = ask_server(method, path, body)
    return asyncio.run(_in_store(directly)) if answer is None else answer


async def _in_store(act: Callable[[Keys], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    try:
        async with open_sqlite(make_private(home_folder()) / STORE_FILE) as database:
            return await act(Keys(database, Events()))
    except AlreadyServingError:
        raise UnavailableError("A server is just starting or stopping.", field="server", fix="Try again.") from None
