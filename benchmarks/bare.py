"""What a user would otherwise run: a server of the bare SDK with trivial tools. `bare.py stdio | http PORT`."""

from __future__ import annotations

import os
import sqlite3
import sys

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("bare", version="1", log_level="ERROR")
store = sqlite3.connect(os.environ.get("BARE_STORE", ":memory:"), isolation_level=None)
store.execute("PRAGMA journal_mode = WAL")
store.execute("PRAGMA synchronous = FULL")
store.execute("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")


@server.tool()
async def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@server.tool()
async def keep(text: str) -> int:
    """Keep a note; it is on disk when this answers."""
    return store.execute("INSERT INTO note (text) VALUES (?) RETURNING id", (text,)).fetchone()[0]


@server.tool()
async def change(text: str, context: Context) -> int:
    """Keep a note, and tell whoever listens for notes."""
    kept = await keep(text)
    await context.notify_resource_updated("note://1")
    return kept


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", port=int(sys.argv[2]))
