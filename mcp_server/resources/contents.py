"""What stands at an address: a record as JSON, the bytes of an artifact, what a task wrote."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection
from typing import Any

from mcp_types import BlobResourceContents, TextResourceContents

from mcp_server.errors import InvalidError, NotFoundError
from mcp_server.resources.addresses import Address
from mcp_server.resources.parts import Part, Span, number, part_of
from mcp_server.resources.schemas import SCHEMAS
from mcp_server.resources.templates import CONVERSATION_PAGE, JSON, OUTPUT_SPAN, SCHEMA, SPAN, TEXT
from mcp_server.runtime import Runtime
from mcp_server.values import PAGE_LIMIT

Contents = TextResourceContents | BlobResourceContents

_MIME_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:\s*;[\x20-\x7e]*)?\Z")
STREAMS = ("stdout", "stderr")


class Reader:
    """Reads the nouns. `uri` of the contents is what was asked for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def read(self, address: Address, uri: str) -> Contents:
        """What stands at `address`: at most 1 MiB, and where to read on.

        Raises:
            NotFoundError: nothing does.
            InvalidError: the query asks for what cannot be.
        """
        if address.part == "conversation":
            return await self._conversation(address, uri)
        if address.part == "output":
            return await self._output(address, uri)
        _check_query(address, SPAN)
        span = Span.of(address.query)
        if address.kind == "artifact":
            return await self._artifact(address, span, uri)
        text = json.dumps(await self._record(address), ensure_ascii=False, separators=(",", ":"))
        part = part_of(text.encode(), span, span.text_length)
        return _text(part, uri, SCHEMA if address.kind == "schema" else JSON)

    async def _record(self, address: Address) -> dict[str, Any]:
        runtime = self._runtime
        match address.kind:
            case "session":
                return await runtime.sessions.summary(address.id)
            case "memory":
                return await runtime.memories.get(address.id)
            case "task":
                task = await runtime.tasks.get(address.id, "uri")
                waits = await runtime.approvals.pending_of(task) if task.status == "waiting_approval" else None
                approval = {"approval": waits.record()} if waits else {}
                return task.record() | approval | {"attempts": await runtime.tasks.attempts(task)}
            case "agent":
                return await self.agent(address.id)
            case _:
                return schema(address.id)

    async def agent(self, name: str) -> dict[str, Any]:
        """One agent as `list_agents` shows it. Raises NotFoundError."""
        agents = {agent["name"]: agent for agent in await self._runtime.worker.agents()}
        if name not in agents:
            raise NotFoundError("There is no such agent.", field="uri", fix=f"Known are: {', '.join(agents)}.")
        return agents[name]

    async def _conversation(self, address: Address, uri: str) -> Contents:
        _check_query(address, CONVERSATION_PAGE)
        items, following = await self._runtime.conversations.list(
            address.id,
            limit=number(address.query, "limit", PAGE_LIMIT, 1, PAGE_LIMIT),
            cursor=address.query.get("cursor"),
        )
        page = {"items": items, "next_cursor": following}
        return TextResourceContents(uri=uri, mime_type=JSON, text=json.dumps(page, ensure_ascii=False))

    async def _output(self, address: Address, uri: str) -> Contents:
        _check_query(address, OUTPUT_SPAN)
        stream = address.query.get("stream", "stdout")
        if stream not in STREAMS:
            raise InvalidError("There is no such stream.", field="stream", fix="Name stdout or stderr.")
        span = Span.of(address.query)
        attempts = self._runtime.worker.attempts
        # Its state first: what it has written by then is all there, if it has ended.
        task = await self._runtime.tasks.get(address.id, "uri")
        data = await attempts.read_output(task, stream, span.offset, span.text_length)
        size = await attempts.output_end(task, stream)
        text, facts = Part(span, data, size, goes_on=not task.final).text()
        if task.lost_its_output(stream, size):
            facts["expired"] = True
        return TextResourceContents(uri=uri, mime_type=TEXT, text=text, _meta=facts)

    async def _artifact(self, address: Address, span: Span, uri: str) -> Contents:
        record = await self._runtime.artifacts.get(address.id)
        mime_type = artifact_mime_type(record["type"], record["encoding"])
        if record["encoding"] == "text":
            return _text(part_of(record["content"].encode(), span, span.text_length), uri, mime_type)
        part = part_of(base64.b64decode(record["content"]), span, span.length)
        blob = base64.b64encode(part.data).decode()
        return BlobResourceContents(uri=uri, mime_type=mime_type, blob=blob, _meta=part.facts())


def schema(name: str) -> dict[str, Any]:
    """The schema of one kind of record. Raises NotFoundError."""
    if name not in SCHEMAS:
        raise NotFoundError("There is no such schema.", field="uri", fix=f"Known are: {', '.join(SCHEMAS)}.")
    return SCHEMAS[name]


def artifact_mime_type(type: str, encoding: str) -> str:
    """`type` where it is a media type; people may have written anything."""
    if _MIME_TYPE.match(type):
        return type
    return TEXT if encoding == "text" else "application/octet-stream"


def _text(part: Part, uri: str, mime_type: str) -> Contents:
    text, facts = part.text()
    return TextResourceContents(uri=uri, mime_type=mime_type, text=text, _meta=facts)


def _check_query(address: Address, known: Collection[str]) -> None:
    for name in address.query:
        if name not in known:
            raise InvalidError(
                "The query of this address asks for something unknown.",
                field=name[:100],
                fix=f"Known are: {', '.join(known)}.",
            )
