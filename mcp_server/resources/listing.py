"""`resources/list`: everything that can be read, kind by kind, the newest of a kind first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

from mcp_types import Annotations, ListResourcesResult, Resource

from mcp_server.catalogue import CLIP_CHARACTERS
from mcp_server.clock import iso
from mcp_server.resources.addresses import Address
from mcp_server.resources.contents import artifact_mime_type
from mcp_server.resources.schemas import SCHEMAS
from mcp_server.resources.templates import JSON, SCHEMA, TEXT
from mcp_server.runtime import Runtime
from mcp_server.store.database import Row
from mcp_server.tasks import FINAL
from mcp_server.values import PAGE_LIMIT, make_cursor, read_cursor

Kind = Literal["agent", "session", "task", "memory", "artifact", "schema"]
ORDER: tuple[Kind, ...] = ("agent", "session", "task", "memory", "artifact", "schema")

_ESCAPED = re.compile(r"\\(u.{4}|.)")
"""What stands for a character in JSON; a clipped text cannot be read as JSON."""

NEWEST = 2**56
"""Above every place in a kind."""


class Listing:
    """Pages through what there is at the time. What is added meanwhile is on no later page, nothing is on two."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def page(self, cursor: str | None) -> ListResourcesResult:
        """At most 100 resources. Raises InvalidError: the cursor is none of ours."""
        before, start = divmod(read_cursor(cursor) or NEWEST * len(ORDER), len(ORDER))
        found: list[Resource] = []
        for place, kind in enumerate(ORDER[start:], start):
            show = _SHOWN[kind]
            limit = (PAGE_LIMIT - len(found)) // (2 if kind == "task" else 1)
            rows = await self._rows(kind, before, limit + 1)
            for row in rows[:limit]:
                found += show(row)
            if len(rows) > limit:
                last = rows[limit - 1]["seq"] if limit else before
                return ListResourcesResult(resources=found, next_cursor=make_cursor(last * len(ORDER) + place))
            before = NEWEST
        return ListResourcesResult(resources=found)

    async def _rows(self, kind: Kind, before: int, limit: int) -> list[Row]:
        if kind == "agent":
            return _numbered(await self._runtime.worker.agents(), before, limit)
        if kind == "schema":
            return _numbered([{"name": name, "schema": schema} for name, schema in SCHEMAS.items()], before, limit)
        return await self._runtime.catalogue.page(kind, before, limit)


def _numbered(items: list[dict[str, Any]], before: int, limit: int) -> list[Row]:
    """What stays in its order, as if the last were the oldest."""
    rows = [{**item, "seq": len(items) - index} for index, item in enumerate(items)]
    return [row for row in rows if row["seq"] < before][:limit]


def _agent(row: Row) -> list[Resource]:
    state = "ready" if row["ready"] else "not ready" if row["installed"] else "not installed"
    return [
        Resource(
            uri=Address("agent", row["name"]).uri,
            name=row["name"],
            title=row["title"],
            description=f"Agent, {state}.",
            mime_type=JSON,
        )
    ]


def _session(row: Row) -> list[Resource]:
    return [
        Resource(
            uri=Address("session", row["id"]).uri,
            name=row["id"],
            title=_line(row["title"]),
            description=f"Session, {row['status']}.",
            mime_type=JSON,
            annotations=_modified(row["updated_at"]),
        )
    ]


def _task(row: Row) -> list[Resource]:
    said = _line(row["description"]) or f"Task for {row['agent']}"
    modified = _modified(row["updated_at"])
    return [
        Resource(
            uri=Address("task", row["id"]).uri,
            name=row["id"],
            title=f"{row['number']}: {said}",
            description=f"Task {row['number']} for {row['agent']}, {row['status'].replace('_', ' ')}.",
            mime_type=JSON,
            annotations=modified,
        ),
        Resource(
            uri=Address("task", row["id"], "output").uri,
            name=f"{row['id']}/output",
            title=f"{row['number']}: output",
            description=f"What task {row['number']} wrote.",
            mime_type=TEXT,
            size=row["output_size"] if row["status"] in FINAL else None,
            annotations=modified,
        ),
    ]


def _memory(row: Row) -> list[Resource]:
    return [
        Resource(
            uri=Address("memory", row["id"]).uri,
            name=row["id"],
            title=_line(row["key"] or _ESCAPED.sub(" ", row["content"].strip('"'))),
            description=f"Memory, {_line(row['type'])}.",
            mime_type=JSON,
            annotations=_modified(row["updated_at"]),
        )
    ]


def _artifact(row: Row) -> list[Resource]:
    return [
        Resource(
            uri=Address("artifact", row["id"]).uri,
            name=row["id"],
            title=_line(row["name"]),
            description="Artifact.",
            mime_type=artifact_mime_type(row["type"], row["encoding"]),
            size=row["size"],
            annotations=_modified(row["created_at"]),
        )
    ]


def _schema(row: Row) -> list[Resource]:
    return [
        Resource(
            uri=Address("schema", row["name"]).uri,
            name=row["name"],
            title=row["schema"]["title"],
            description=row["schema"]["description"],
            mime_type=SCHEMA,
            size=len(json.dumps(row["schema"], ensure_ascii=False, separators=(",", ":")).encode()),
        )
    ]


_SHOWN: dict[Kind, Callable[[Row], list[Resource]]] = {
    "agent": _agent,
    "session": _session,
    "task": _task,
    "memory": _memory,
    "artifact": _artifact,
    "schema": _schema,
}


def _line(text: str) -> str:
    """`text` on one line that a menu has room for."""
    line = " ".join(text.split())
    return line if len(line) <= CLIP_CHARACTERS else line[: CLIP_CHARACTERS - 1] + "…"


def _modified(microseconds: int) -> Annotations:
    return Annotations(last_modified=iso(microseconds))
