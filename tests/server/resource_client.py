"""Reading resources as a client does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import BlobResourceContents, PaginatedRequestParams, Resource, TextResourceContents

Contents = TextResourceContents | BlobResourceContents


async def read(client: Client, uri: str) -> Contents:
    """What stands there, under the address that was asked for."""
    result = await client.read_resource(uri)
    (contents,) = result.contents
    assert str(contents.uri) == uri
    return contents


async def read_text(client: Client, uri: str) -> TextResourceContents:
    """The same, where it is text."""
    contents = await read(client, uri)
    assert isinstance(contents, TextResourceContents)
    return contents


async def read_json(client: Client, uri: str) -> Any:
    """The record that stands there."""
    contents = await read_text(client, uri)
    assert contents.mime_type == "application/json"
    return json.loads(contents.text)


async def read_refused(client: Client, uri: str) -> MCPError:
    """The error of an address that cannot be read: one of the protocol, which says what would be right."""
    with pytest.raises(MCPError) as caught:
        await client.read_resource(uri)
    assert caught.value.message
    assert caught.value.data["ok"] is False
    assert all(issue["fix"] for issue in caught.value.data["errors"])
    return caught.value


async def pages(client: Client) -> list[list[Resource]]:
    """`resources/list`, page by page to its end."""
    found: list[list[Resource]] = []
    cursor: str | None = None
    while not found or cursor is not None:
        page = await client.session.list_resources(params=PaginatedRequestParams(cursor=cursor))
        found.append(page.resources)
        cursor = page.next_cursor
        assert len(found) < 100, "the list has no end"
    return found


async def uris(client: Client) -> list[str]:
    """The addresses of all that is listed."""
    return [str(resource.uri) for page in await pages(client) for resource in page]
