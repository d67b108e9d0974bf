"""Sessions: conversations or pieces of work that several LLMs and devices share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Literal

from mcp_server.callers import current_caller
from mcp_server.clock import Clock, NewId, iso, new_id, now_us
from mcp_server.errors import ConflictError, InvalidError
from mcp_server.events import Events
from mcp_server.search import drop_session_documents, facet, index_document, reindexed, searched_terms
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.values import (
    check_json,
    check_known_id,
    check_labels,
    check_new_id,
    check_text,
    make_cursor,
    missing,
    read_cursor,
)

Status = Literal["active", "paused", "completed", "archived"]

NEWEST = 2**62
"""Above every place in a list: where a list without a cursor begins."""

EXCERPT_CHARACTERS = 400


class Sessions:
    """The operations on sessions."""

    def __init__(self, database: Database, events: Events, now: Clock = now_us, make_id: NewId = new_id) -> None:
        self._database = database
        self._events = events
        self._now = now
        self._make_id = make_id

    async def create(
        self,
        *,
        id: str | None = None,
        title: str | None = None,
        participants: Sequence[str] = (),
        metadata: dict[str, Any] | None = None,
    ) -> tuple[Row, bool]:
        """A new session, or the one that has this id and content already (then False).

        Raises:
            ConflictError: the id is taken by a session that was created with other content.
        """
        session_id = check_new_id(id, "session_id") if id is not None else self._make_id("ses")
        title = check_text(title, "title") if title is not None else "Untitled"
        people = check_json(check_labels(participants, "participants"), "participants")
        facts = check_json(metadata or {}, "metadata")
        request = json.dumps([title, people, metadata or {}], ensure_ascii=False, sort_keys=True)
        caller = current_caller()

        async def body(transaction: Transaction) -> tuple[Row, bool]:
            existing = await transaction.one("session_by_id", id=session_id)
            if existing is not None:
                if existing["request"] != request:
                    raise ConflictError(
                        f"Session {session_id} exists already, with other content.",
                        existing=session_record(existing),
                        field="session_id",
                        fix="Change it with update_session, or choose another id.",
                        say="A session with that id exists already, with other content.",
                    )
                return session_record(existing), False
            row = await transaction.one(
                "session_insert",
                id=session_id,
                title=title,
                participants=people,
                metadata=facts,
                request=request,
                caller=json.dumps(caller.record(), ensure_ascii=False),
                now=self._now(),
            )
            assert row is not None
            await index_document(transaction, "session", row["seq"])
            await self._events.append(
                transaction, "session.created", f"session://{session_id}", session_id=session_id, caller=caller
            )
            return session_record(row), True

        return await self._database.write(body)

    async def get(self, session_id: str) -> Row:
        """One session. Raises NotFoundError."""
        check_known_id(session_id, "session_id", "session")
        return session_record(found(await self._database.one("session_by_id", id=session_id)))

    async def summary(self, session_id: str) -> Row:
        """One session with what it holds: counts, and the latest of each noun."""
        read = self._database.all
        anyone: dict[str, Any] = {"before": NEWEST, "agent": None, "status": None, "lane": None}
        # Handed to the reader's thread together: each hop there and back costs more than its query.
        session, (counts,), chunks, memories, artifacts, tasks = await asyncio.gather(
            self.get(session_id),
            read("session_counts", id=session_id),
            read("chunk_latest", session_id=session_id, clip=EXCERPT_CHARACTERS, limit=5),
            read("memory_latest", session_id=session_id, limit=10),
            read("artifact_latest", session_id=session_id, limit=10),
            read("task_list_session", session_id=session_id, limit=10, **anyone),
        )
        return session | {
            "counts": counts,
            "latest_chunks": [
                row | {"created_at": iso(row["created_at"]), "clipped": len(row["content"].encode()) < row["size"]}
                for row in chunks
            ],
            "latest_memories": [
                {name: row[name] for name in ("id", "type", "key", "version")} | {"content": _excerpt(row["content"])}
                for row in memories
            ],
            "latest_tasks": [
                {name: row[name] for name in ("id", "number", "agent", "status", "reason")}
                | {"description": row["description"][:EXCERPT_CHARACTERS], "created_at": iso(row["created_at"])}
                for row in tasks
            ],
            "latest_artifacts": [
                {name: row[name] for name in ("id", "name", "type", "size")} | {"created_at": iso(row["created_at"])}
                for row in artifacts
            ],
        }

    async def list(
        self,
        *,
        status: Status | None = None,
        query: str | None = None,
        include_archived: bool = False,
        limit: int = 20,
        cursor: str | None = None,
    ) -> tuple[list[Row], str | None]:
        """Newest first; archived ones only when asked for. Returns the page and the cursor of the next."""
        before = read_cursor(cursor) or NEWEST
        archived = include_archived or status == "archived"
        page = {"before": before, "limit": limit + 1}
        if query is not None:
            terms = await searched_terms(self._database, check_text(query, "query"))
            match = f"{facet('k', 'session')} AND {terms}" if terms else None
            rows = (
                await self._database.search("session_list_found", match=match, status=status, archived=archived, **page)
                if match
                else []
            )
        elif status is not None:
            rows = await self._database.all("session_list_status", status=status, **page)
        else:
            rows = await self._database.all("session_list", archived=archived, **page)
        following = make_cursor(rows[limit - 1]["seq"]) if len(rows) > limit else None
        return [session_record(row) for row in rows[:limit]], following

    async def update(
        self,
        session_id: str,
        *,
        title: str | None = None,
        participants: Sequence[str] | None = None,
        metadata: dict[str, Any] | None = None,
        status: Status | None = None,
    ) -> Row:
        """Change what is given; `metadata` is merged, and a key with null is removed."""
        check_known_id(session_id, "session_id", "session")
        if title is None and participants is None and metadata is None and status is None:
            raise InvalidError(
                "Nothing was given to change.",
                field="status",
                fix="Give title, participants, metadata or status.",
            )
        changes: dict[str, Any] = {}
        if title is not None:
            changes["title"] = check_text(title, "title")
        if participants is not None:
            changes["participants"] = check_json(check_labels(participants, "participants"), "participants")
        if metadata is not None:
            check_json(metadata, "metadata")
        if status is not None:
            changes["status"] = status
        caller = current_caller()

        async def body(transaction: Transaction) -> Row:
            row = found(await transaction.one("session_by_id", id=session_id))
            if metadata is not None:
                merged: dict[str, Any] = json.loads(row["metadata"]) | metadata
                kept = {key: value for key, value in merged.items() if value is not None}
                changes["metadata"] = check_json(kept, "metadata")
            if all(row[name] == value for name, value in changes.items()):
                return session_record(row)
            fields = {name: row[name] for name in ("title", "participants", "metadata", "status")} | changes
            async with reindexed(transaction, "session", row["seq"]):
                changed = found(await transaction.one("session_update", id=session_id, now=self._now(), **fields))
            await self._events.append(
                transaction,
                "session.updated",
                f"session://{session_id}",
                session_id=session_id,
                caller=caller,
                changed=sorted(changes),
            )
            return session_record(changed)

        return await self._database.write(body)

    async def delete(self, session_id: str) -> Row:
        """The session with everything in it.

        Raises:
            ConflictError: a task of it is not finished.
        """
        check_known_id(session_id, "session_id", "session")
        caller = current_caller()

        async def body(transaction: Transaction) -> Row:
            row = found(await transaction.one("session_by_id", id=session_id))
            counts = await transaction.one("session_counts", id=session_id)
            assert counts is not None
            if counts["open_tasks"]:
                raise ConflictError(
                    "The session has tasks that are not finished.",
                    existing=session_record(row) | {"counts": dict(counts)},
                    field="session_id",
                    fix="Cancel them with update_task, or wait for them.",
                )
            await drop_session_documents(transaction, session_id, row["seq"])
            await transaction.run("session_delete", id=session_id)
            await self._events.append(
                transaction, "session.deleted", f"session://{session_id}", session_id=session_id, caller=caller
            )
            return session_record(row) | {"counts": dict(counts)}

        return await self._database.write(body)


def found(row: Row | None) -> Row:
    """`row`, or the error for a session that does not exist."""
    if row is None:
        raise missing("session", "session_id", "Create it with create_session, or look in list_sessions.")
    return row


async def require_session(transaction: Transaction, session_id: str | None) -> None:
    """Whoever adds to a session names one that exists."""
    if session_id is not None:
        found(await transaction.one("session_by_id", id=check_known_id(session_id, "session_id", "session")))


def session_record(row: Row) -> Row:
    """A session as doors show it."""
    return {
        "id": row["id"],
        "title": row["title"],
        "participants": json.loads(row["participants"]),
        "metadata": json.loads(row["metadata"]),
        "status": row["status"],
        "created_by": json.loads(row["caller"]),
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
    }


def _excerpt(content: str) -> Any:
    value = json.loads(content)
    if len(content) <= EXCERPT_CHARACTERS:
        return value
    return (value if isinstance(value, str) else content)[:EXCERPT_CHARACTERS] + "…"
