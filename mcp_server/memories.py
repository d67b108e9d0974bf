"""Memories: things worth keeping. With a key, storing one again supersedes the old version, which is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mcp_server.callers import current_caller
from mcp_server.clock import Clock, NewId, iso, new_id, now_us
from mcp_server.errors import ConflictError
from mcp_server.events import Events
from mcp_server.search import drop_document, index_document, reindexed
from mcp_server.sessions import require_session
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.values import (
    CONTENT_LIMIT_BYTES,
    check_json,
    check_known_id,
    check_labels,
    check_new_id,
    check_text,
    missing,
)

VERSIONS_SHOWN = 20


class Memories:
    """The operations on memories. A key is unique in its session, or among memories without one."""

    def __init__(self, database: Database, events: Events, now: Clock = now_us, make_id: NewId = new_id) -> None:
        self._database = database
        self._events = events
        self._now = now
        self._make_id = make_id

    async def store(
        self,
        *,
        type: str,
        content: str | dict[str, Any],
        key: str | None = None,
        tags: Sequence[str] = (),
        session_id: str | None = None,
        id: str | None = None,
    ) -> tuple[Row, bool]:
        """A new memory, a new version of the one with this key, or the same one again (then False).

        Raises:
            ConflictError: the id names another memory, or the key belongs to another id.
        """
        if id is not None:
            check_new_id(id, "memory_id")
        if key is not None:
            check_text(key, "key")
        if isinstance(content, str):
            check_text(content, "content", limit=CONTENT_LIMIT_BYTES)
        # The limit of a text is on the text, not on its form in JSON, where one character can take six bytes.
        limit = 6 * CONTENT_LIMIT_BYTES + 2 if isinstance(content, str) else CONTENT_LIMIT_BYTES
        fields = {
            "type": check_text(type, "type"),
            "content": check_json(content, "content", limit=limit),
            "tags": check_json(check_labels(tags, "tags"), "tags"),
        }
        caller = current_caller()

        async def body(transaction: Transaction) -> tuple[Row, bool]:
            await require_session(transaction, session_id)
            existing = await self._same(transaction, id, key, session_id)
            if existing is not None and _says(existing, fields):
                return memory_record(existing), False
            if existing is not None and key is None:
                raise _conflict(existing, "memory_id", "Store it with a key to supersede it, or choose another id.")
            values = fields | {"caller": json.dumps(caller.record(), ensure_ascii=False), "now": self._now()}
            if existing is None:
                memory_id = id or self._make_id("mem")
                row = await transaction.one("memory_insert", id=memory_id, key=key, session_id=session_id, **values)
                assert row is not None
                await index_document(transaction, "memory", row["seq"])
            else:
                await transaction.run("memory_keep_version", id=existing["id"])
                async with reindexed(transaction, "memory", existing["seq"]):
                    row = await transaction.one(
                        "memory_supersede", id=existing["id"], version=existing["version"], **values
                    )
                assert row is not None
            if session_id is not None:
                await transaction.run("session_touch", id=session_id, now=values["now"])
            await self._events.append(
                transaction,
                "memory.stored",
                f"memory://{row['id']}",
                session_id=session_id,
                caller=caller,
                version=row["version"],
            )
            return memory_record(row), True

        return await self._database.write(body)

    async def _same(
        self, transaction: Transaction, id: str | None, key: str | None, session_id: str | None
    ) -> Row | None:
        by_id = await transaction.one("memory_by_id", id=id) if id is not None else None
        by_key = await transaction.one("memory_by_key", session_id=session_id, key=key) if key is not None else None
        if by_id is not None and (by_id["key"], by_id["session_id"]) != (key, session_id):
            raise _conflict(by_id, "memory_id", "Name its own key and session to supersede it, or choose another id.")
        if by_key is not None and id is not None and by_key["id"] != id:
            raise _conflict(by_key, "key", "Leave memory_id out to supersede the memory with this key.")
        return by_id or by_key

    async def get(self, memory_id: str) -> Row:
        """One memory in full, with its earlier versions. Raises NotFoundError."""
        check_known_id(memory_id, "memory_id", "memory")
        row = found(await self._database.one("memory_by_id", id=memory_id))
        versions = await self._database.all("memory_versions", memory_id=memory_id, limit=VERSIONS_SHOWN)
        return memory_record(row) | {
            "earlier_versions": [
                version
                | {name: json.loads(version[name]) for name in ("content", "tags")}
                | {"created_at": iso(version["created_at"])}
                for version in versions
            ]
        }

    async def delete(self, memory_id: str) -> Row:
        """A memory with all its versions."""
        check_known_id(memory_id, "memory_id", "memory")
        caller = current_caller()

        async def body(transaction: Transaction) -> Row:
            row = found(await transaction.one("memory_by_id", id=memory_id))
            await drop_document(transaction, "memory", row["seq"])
            await transaction.run("memory_delete", id=memory_id)
            await self._events.append(
                transaction, "memory.deleted", f"memory://{memory_id}", session_id=row["session_id"], caller=caller
            )
            return memory_record(row)

        return await self._database.write(body)


def found(row: Row | None) -> Row:
    """`row`, or the error for a memory that does not exist."""
    if row is None:
        raise missing("memory", "memory_id", "Look for it with search and kind memory.")
    return row


def memory_record(row: Row) -> Row:
    """A memory as doors show it."""
    return {
        "id": row["id"],
        "session_id": row["session_id"],
        "type": row["type"],
        "key": row["key"],
        "content": json.loads(row["content"]),
        "tags": json.loads(row["tags"]),
        "version": row["version"],
        "created_by": json.loads(row["caller"]),
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
    }


def _says(existing: Row, fields: dict[str, str]) -> bool:
    """Whether a memory has this content already. The order of an object's keys says nothing."""
    return all(
        existing[name] == text or (name != "type" and _sorted(existing[name]) == _sorted(text))
        for name, text in fields.items()
    )


def _sorted(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)


def _conflict(existing: Row, field: str, fix: str) -> ConflictError:
    return ConflictError("There is another memory already.", existing=memory_record(existing), field=field, fix=fix)
