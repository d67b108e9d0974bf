"""Artifacts: files and texts that a task or an LLM produced."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any, Literal

from mcp_server.callers import current_caller
from mcp_server.clock import Clock, NewId, iso, new_id, now_us
from mcp_server.errors import ConflictError, InvalidError, TooLargeError
from mcp_server.events import Events
from mcp_server.search import drop_document, index_document
from mcp_server.sessions import require_session
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.values import CONTENT_LIMIT_BYTES, check_known_id, check_new_id, check_text, missing

Encoding = Literal["text", "base64"]


class Artifacts:
    """The operations on artifacts."""

    def __init__(self, database: Database, events: Events, now: Clock = now_us, make_id: NewId = new_id) -> None:
        self._database = database
        self._events = events
        self._now = now
        self._make_id = make_id

    async def add(
        self,
        *,
        name: str,
        content: str,
        type: str | None = None,
        encoding: Encoding = "text",
        session_id: str | None = None,
        task_id: str | None = None,
        id: str | None = None,
    ) -> tuple[Row, bool]:
        """Keep an artifact of at most 1 MiB (decoded); or the same one again (then False).

        Raises:
            NotFoundError: there is no such session or task.
            ConflictError: the id is taken by another artifact.
        """
        artifact_id = check_new_id(id, "artifact_id") if id is not None else self._make_id("art")
        data = _decoded(content, encoding)
        fields: dict[str, Any] = {
            "name": check_text(name, "name"),
            "type": check_text(type, "type") if type else _default_type(encoding),
            "encoding": encoding,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        caller = current_caller()

        async def body(transaction: Transaction) -> tuple[Row, bool]:
            await require_session(transaction, session_id)
            owner = fields | {"session_id": session_id, "task_id": await _task_id(transaction, task_id)}
            existing = await transaction.one("artifact_by_id", id=artifact_id)
            if existing is not None:
                if any(existing[field] != value for field, value in owner.items()):
                    raise ConflictError(
                        "There is another artifact under this id.",
                        existing=artifact_record(existing, content=False),
                        field="artifact_id",
                        fix="Artifacts are not changed: choose another id, or delete that one first.",
                    )
                return artifact_record(existing, content=False), False
            now = self._now()
            row = await transaction.one(
                "artifact_insert",
                id=artifact_id,
                content=data,
                caller=json.dumps(caller.record(), ensure_ascii=False),
                now=now,
                **owner,
            )
            assert row is not None
            if session_id is not None:
                await transaction.run("session_touch", id=session_id, now=now)
            await index_document(transaction, "artifact", row["seq"])
            await self._events.append(
                transaction, "artifact.added", f"artifact://{artifact_id}", session_id=session_id, caller=caller
            )
            return artifact_record(row, content=False), True

        return await self._database.write(body)

    async def get(self, artifact_id: str) -> Row:
        """One artifact with its content. Raises NotFoundError."""
        check_known_id(artifact_id, "artifact_id", "artifact")
        return artifact_record(found(await self._database.one("artifact_by_id", id=artifact_id)), content=True)

    async def delete(self, artifact_id: str) -> Row:
        """An artifact with its content."""
        check_known_id(artifact_id, "artifact_id", "artifact")
        caller = current_caller()

        async def body(transaction: Transaction) -> Row:
            row = found(await transaction.one("artifact_by_id", id=artifact_id))
            await drop_document(transaction, "artifact", row["seq"])
            await transaction.run("artifact_delete", id=artifact_id)
            await self._events.append(
                transaction,
                "artifact.deleted",
                f"artifact://{artifact_id}",
                session_id=row["session_id"],
                caller=caller,
            )
            return artifact_record(row, content=False)

        return await self._database.write(body)


def found(row: Row | None) -> Row:
    """`row`, or the error for an artifact that does not exist."""
    if row is None:
        raise missing("artifact", "artifact_id", "Look for it with search and kind artifact.")
    return row


def artifact_record(row: Row, *, content: bool) -> Row:
    """An artifact as doors show it; its content only where one was asked for."""
    record: Row = {
        name: row[name] for name in ("id", "session_id", "task_id", "name", "type", "encoding", "size", "sha256")
    } | {"created_by": json.loads(row["caller"]), "created_at": iso(row["created_at"])}
    if content:
        data: bytes = row["content"]
        record["content"] = data.decode() if row["encoding"] == "text" else base64.b64encode(data).decode()
    return record


def _decoded(content: str, encoding: Encoding) -> bytes:
    if encoding == "text":
        return check_text(content, "content", limit=CONTENT_LIMIT_BYTES, blank=True).encode()
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidError(
            "The content is not base64.", field="content", fix="Send standard base64, or encoding text."
        ) from None
    if len(data) > CONTENT_LIMIT_BYTES:
        raise TooLargeError(
            f"The content has {len(data)} bytes; the limit is {CONTENT_LIMIT_BYTES}.",
            field="content",
            fix="Send a smaller file.",
        )
    return data


def _default_type(encoding: Encoding) -> str:
    return "text/plain" if encoding == "text" else "application/octet-stream"


async def _task_id(transaction: Transaction, task_id: str | None) -> str | None:
    if task_id is None:
        return None
    row = await (
        transaction.one("task_by_number", number=int(task_id))
        if task_id.isascii() and task_id.isdigit() and len(task_id) < 19
        else transaction.one("task_by_id", id=check_known_id(task_id, "task_id", "task"))
    )
    if row is None:
        raise missing("task", "task_id", "Name a task that exists, or leave it out.")
    return row["id"]
