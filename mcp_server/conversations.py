"""Chunks: stretches of conversation kept in a session."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mcp_server.callers import current_caller
from mcp_server.clock import Clock, NewId, iso, new_id, now_us
from mcp_server.errors import ConflictError
from mcp_server.events import Events
from mcp_server.search import index_document
from mcp_server.sessions import found, require_session
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.values import (
    CONTENT_LIMIT_BYTES,
    PAGE_LIMIT,
    check_known_id,
    check_new_id,
    check_text,
    make_cursor,
    missing,
    read_cursor,
)

PAGE_LIMIT_BYTES = CONTENT_LIMIT_BYTES
"""Of content in a page. A longer one still has its first chunk whole, which is within it."""


class Conversations:
    """The operations on chunks. Chunk ids belong to their session."""

    def __init__(self, database: Database, events: Events, now: Clock = now_us, make_id: NewId = new_id) -> None:
        self._database = database
        self._events = events
        self._now = now
        self._make_id = make_id

    async def add(
        self, session_id: str, content: str, *, id: str | None = None, format: str | None = None
    ) -> tuple[Row, bool]:
        """Keep a chunk of at most 1 MiB; or the same one, already kept under this id (then False).

        Raises:
            NotFoundError: there is no such session.
            ConflictError: the session has another chunk under this id.
        """
        check_known_id(session_id, "session_id", "session")
        chunk_id = check_new_id(id, "chunk_id") if id is not None else self._make_id("chk")
        check_text(content, "content", limit=CONTENT_LIMIT_BYTES)
        if format is not None:
            check_text(format, "format")
        caller = current_caller()

        async def body(transaction: Transaction) -> tuple[Row, bool]:
            await require_session(transaction, session_id)
            existing = await transaction.one("chunk_by_id", session_id=session_id, id=chunk_id)
            if existing is not None:
                if (existing["content"], existing["format"]) != (content, format):
                    raise ConflictError(
                        "The session has another chunk under this id.",
                        existing=chunk_record(existing),
                        field="chunk_id",
                        fix="Chunks are not changed: choose another id.",
                    )
                return chunk_record(existing), False
            now = self._now()
            row = await transaction.one(
                "chunk_insert",
                session_id=session_id,
                id=chunk_id,
                format=format,
                content=content,
                size=len(content.encode()),
                caller=json.dumps(caller.record(), ensure_ascii=False),
                now=now,
            )
            assert row is not None
            await transaction.run("session_touch", id=session_id, now=now)
            await index_document(transaction, "conversation", row["seq"])
            await self._events.append(
                transaction,
                "chunk.added",
                f"session://{session_id}/conversation",
                session_id=session_id,
                caller=caller,
                chunk_id=chunk_id,
            )
            return chunk_record(row), True

        return await self._database.write(body)

    async def get(self, session_id: str, chunk_id: str) -> Row:
        """One chunk in full. Raises NotFoundError."""
        check_known_id(session_id, "session_id", "session")
        check_known_id(chunk_id, "chunk_id", "chunk")
        row = await self._database.one("chunk_by_id", session_id=session_id, id=chunk_id)
        if row is None:
            raise missing("chunk", "chunk_id", "Look for it with search and kind conversation.")
        return chunk_record(row)

    async def list(
        self, session_id: str, *, limit: int = PAGE_LIMIT, cursor: str | None = None
    ) -> tuple[list[Row], str | None]:
        """Chunks in full, oldest first. Returns the page and the cursor of the next.

        Raises:
            NotFoundError: there is no such session.
        """
        check_known_id(session_id, "session_id", "session")
        after = read_cursor(cursor) or 0
        found(await self._database.one("session_by_id", id=session_id))
        rows = await self._database.all(
            "chunk_page", session_id=session_id, after=after, limit=limit + 1, bytes=PAGE_LIMIT_BYTES
        )
        page = _within(rows[:limit], PAGE_LIMIT_BYTES)
        following = make_cursor(page[-1]["seq"]) if page and page[-1]["offered"] > len(page) else None
        return [chunk_record(row) for row in page], following


def chunk_record(row: Row) -> Row:
    """A chunk as doors show it."""
    return {
        "id": row["id"],
        "session_id": row["session_id"],
        "format": row["format"],
        "content": row["content"],
        "size": row["size"],
        "created_by": json.loads(row["caller"]),
        "created_at": iso(row["created_at"]),
    }


def _within(rows: Sequence[Row], limit_bytes: int) -> list[Row]:
    """The first of `rows`, and those after it while their content is within `limit_bytes` together."""
    kept, size = list[Row](), 0
    for row in rows:
        size += row["size"]
        if kept and size > limit_bytes:
            break
        kept.append(row)
    return kept
