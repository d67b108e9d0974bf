"""The search tool: over everything, or one record in full."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mcp_server.artifacts import Artifacts
from mcp_server.conversations import Conversations
from mcp_server.errors import InvalidError, NotFoundError
from mcp_server.memories import Memories
from mcp_server.search import Kind, Search
from mcp_server.tasks import Tasks
from mcp_server.tools.door import Answer, Arguments, ToolSpec
from mcp_server.tools.sessions import Limit, count


class SearchArguments(Arguments):
    query: Annotated[str | None, Field(description="words that must all occur; left out: the newest")] = None
    kind: Kind | None = None
    type: str | None = None
    tag: str | None = None
    session_id: str | None = None
    id: Annotated[str | None, Field(description="one record in full; of a chunk with its session_id")] = None
    limit: Limit = 20
    cursor: str | None = None


class SearchTools:
    """Calls the nouns and says what came of it."""

    def __init__(
        self, search: Search, conversations: Conversations, memories: Memories, artifacts: Artifacts, tasks: Tasks
    ) -> None:
        self._search = search
        self._conversations = conversations
        self._memories = memories
        self._artifacts = artifacts
        self._tasks = tasks

    async def search(self, given: SearchArguments) -> Answer:
        if given.id is not None:
            kind, record = await self._in_full(given.id, given.kind, given.session_id)
            return Answer({"kind": kind, **record}, f"Here is that {kind}.")
        items, following = await self._search.find(
            query=given.query,
            kind=given.kind,
            type=given.type,
            tag=given.tag,
            session_id=given.session_id,
            limit=given.limit,
            cursor=given.cursor,
        )
        say = f"{count(len(items), 'match', more=following)}.".replace("matchs", "matches")
        if items:
            best = items[0].get("title") or items[0]["excerpt"]
            say += f" {'The best' if given.query else 'The newest'}: {best}"
        return Answer({"items": items, "next_cursor": following}, say)

    async def _in_full(self, id: str, kind: Kind | None, session_id: str | None) -> tuple[Kind, dict[str, Any]]:
        if kind == "conversation" and session_id is None:
            raise InvalidError(
                "Chunk ids belong to their session.", field="session_id", fix="Give session_id beside id."
            )
        kinds: tuple[Kind, ...] = (kind,) if kind else ("memory", "artifact", "task", "conversation")
        for each in kinds:
            try:
                return each, await self._one(id, each, session_id)
            except NotFoundError:
                continue
        raise NotFoundError(
            "There is no record under this id.", field="id", fix="Look for it with query, or give kind and session_id."
        )

    async def _one(self, id: str, kind: Kind, session_id: str | None) -> dict[str, Any]:
        match kind:
            case "memory":
                return await self._memories.get(id)
            case "artifact":
                return await self._artifacts.get(id)
            case "task":
                return (await self._tasks.get(id, "id")).record()
            case "conversation":
                if session_id is None:
                    raise NotFoundError
                return await self._conversations.get(session_id, id)

    def specs(self) -> list[ToolSpec]:
        """The tool of this module."""
        return [
            ToolSpec(
                "search",
                "Search",
                "Search conversation, memories, artifacts and tasks. Without a query it lists the newest; "
                "with an id it returns one record in full.",
                SearchArguments,
                self.search,
                "read",
            )
        ]
