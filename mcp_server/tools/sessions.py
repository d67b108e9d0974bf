"""The session tools, with conversation, memories and artifacts, and deletion."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mcp_server.artifacts import Artifacts, Encoding
from mcp_server.conversations import Conversations
from mcp_server.errors import InvalidError
from mcp_server.memories import Memories
from mcp_server.sessions import Sessions, Status
from mcp_server.spoken import spoken
from mcp_server.tools.door import Answer, Arguments, ToolSpec
from mcp_server.values import PAGE_LIMIT

Limit = Annotated[int, Field(ge=1, le=PAGE_LIMIT)]


class CreateSession(Arguments):
    session_id: Annotated[str | None, Field(description="chosen by you; else made")] = None
    title: str | None = None
    participants: Annotated[list[str], Field(default_factory=list[str])]
    metadata: dict[str, Any] | None = None


class GetSession(Arguments):
    session_id: str


class ListSessions(Arguments):
    status: Status | None = None
    query: Annotated[str | None, Field(description="words of the title or participants")] = None
    include_archived: bool = False
    limit: Limit = 20
    cursor: str | None = None


class UpdateSession(Arguments):
    session_id: str
    title: str | None = None
    participants: list[str] | None = None
    metadata: Annotated[dict[str, Any] | None, Field(description="merged; null removes a key")] = None
    status: Status | None = None


class Delete(Arguments):
    session_id: str | None = None
    memory_id: str | None = None
    artifact_id: str | None = None


class AddConversation(Arguments):
    session_id: str
    content: Annotated[str, Field(description="up to 1 MiB")]
    chunk_id: str | None = None
    format: Annotated[str | None, Field(description="such as dialogue or markdown")] = None


class StoreMemory(Arguments):
    type: Annotated[str, Field(description="idea, decision, question, action_item, insight, fact, preference, …")]
    content: str | dict[str, Any]
    key: Annotated[str | None, Field(description="the same key again supersedes the old version")] = None
    tags: Annotated[list[str], Field(default_factory=list[str])]
    session_id: str | None = None
    memory_id: str | None = None


class AddArtifact(Arguments):
    name: str
    content: Annotated[str, Field(description="up to 1 MiB")]
    type: Annotated[str | None, Field(description="media type")] = None
    encoding: Literal["text", "base64"] = "text"
    session_id: str | None = None
    task_id: str | int | None = None
    artifact_id: str | None = None


class SessionTools:
    """Calls the nouns and says what came of it."""

    def __init__(
        self, sessions: Sessions, conversations: Conversations, memories: Memories, artifacts: Artifacts
    ) -> None:
        self._sessions = sessions
        self._conversations = conversations
        self._memories = memories
        self._artifacts = artifacts

    async def create_session(self, given: CreateSession) -> Answer:
        record, created = await self._sessions.create(
            id=given.session_id, title=given.title, participants=given.participants, metadata=given.metadata
        )
        what = "Session" if created else "That session exists already:"
        return Answer(record | {"created": created}, f"{what} {record['title']} is {record['status']}.")

    async def get_session(self, given: GetSession) -> Answer:
        record = await self._sessions.summary(given.session_id)
        return Answer(record, _spoken_summary(record))

    async def list_sessions(self, given: ListSessions) -> Answer:
        items, following = await self._sessions.list(
            status=given.status,
            query=given.query,
            include_archived=given.include_archived,
            limit=given.limit,
            cursor=given.cursor,
        )
        latest = f" The latest: {items[0]['title']}." if items else ""
        say = f"{count(len(items), 'session', more=following)}.{latest}"
        return Answer({"items": items, "next_cursor": following}, say)

    async def update_session(self, given: UpdateSession) -> Answer:
        record = await self._sessions.update(
            given.session_id,
            title=given.title,
            participants=given.participants,
            metadata=given.metadata,
            status=given.status,
        )
        return Answer(record, f"Session {record['title']} is {record['status']}.")

    async def delete(self, given: Delete) -> Answer:
        named = {name: value for name, value in given.model_dump().items() if value is not None}
        if len(named) != 1:
            raise InvalidError(
                "Exactly one thing is deleted at a time.",
                field="session_id",
                fix="Give one of session_id, memory_id, artifact_id.",
            )
        if given.session_id is not None:
            record = await self._sessions.delete(given.session_id)
            return Answer(record | {"deleted": True}, f"Session {record['title']} and all in it is deleted.")
        if given.memory_id is not None:
            record = await self._memories.delete(given.memory_id)
            return Answer(record | {"deleted": True}, "The memory is deleted.")
        record = await self._artifacts.delete(str(given.artifact_id))
        return Answer(record | {"deleted": True}, f"Artifact {record['name']} is deleted.")

    async def add_conversation(self, given: AddConversation) -> Answer:
        record, created = await self._conversations.add(
            given.session_id, given.content, id=given.chunk_id, format=given.format
        )
        shown = {name: value for name, value in record.items() if name != "content"}
        return Answer(shown | {"created": created}, "Kept." if created else "That is kept already.")

    async def store_memory(self, given: StoreMemory) -> Answer:
        record, created = await self._memories.store(
            type=given.type,
            content=given.content,
            key=given.key,
            tags=given.tags,
            session_id=given.session_id,
            id=given.memory_id,
        )
        label = record["type"].replace("_", " ")
        if not created:
            say = f"I knew that {label} already."
        else:
            say = f"I will remember that {label}." if record["version"] == 1 else f"I have updated that {label}."
        return Answer(record | {"created": created}, say)

    async def add_artifact(self, given: AddArtifact) -> Answer:
        encoding: Encoding = given.encoding
        record, created = await self._artifacts.add(
            name=given.name,
            content=given.content,
            type=given.type,
            encoding=encoding,
            session_id=given.session_id,
            task_id=str(given.task_id) if given.task_id is not None else None,
            id=given.artifact_id,
        )
        say = f"{record['name']} is kept." if created else f"{record['name']} is kept already."
        return Answer(record | {"created": created}, say)

    def specs(self) -> list[ToolSpec]:
        """The tools of this module."""
        return [
            ToolSpec(
                "create_session",
                "Create session",
                "Start a conversation or piece of work that several LLMs and devices share. "
                "The same session_id with the same content again returns the existing session.",
                CreateSession,
                self.create_session,
                "submit",
                idempotent=True,
            ),
            ToolSpec(
                "get_session",
                "Get session",
                "One session with its summary: counts, and the latest chunks, memories, tasks and artifacts.",
                GetSession,
                self.get_session,
                "read",
            ),
            ToolSpec(
                "list_sessions",
                "List sessions",
                "Sessions, newest first; archived ones only on request.",
                ListSessions,
                self.list_sessions,
                "read",
            ),
            ToolSpec(
                "update_session",
                "Update session",
                "Change title, participants, metadata or status of a session.",
                UpdateSession,
                self.update_session,
                "submit",
                idempotent=True,
            ),
            ToolSpec(
                "delete",
                "Delete",
                "Delete one session with everything in it (refused while its tasks are not finished), "
                "one memory, or one artifact. Cannot be undone.",
                Delete,
                self.delete,
                "submit",
                destructive=True,
            ),
            ToolSpec(
                "add_conversation",
                "Add conversation",
                "Keep a stretch of conversation in a session.",
                AddConversation,
                self.add_conversation,
                "submit",
                idempotent=True,
            ),
            ToolSpec(
                "store_memory",
                "Store memory",
                "Keep one thing worth remembering, in a session or for all. With a key, storing it again makes a "
                "new version; earlier ones stay readable.",
                StoreMemory,
                self.store_memory,
                "submit",
                idempotent=True,
            ),
            ToolSpec(
                "add_artifact",
                "Add artifact",
                "Keep a file or a text that you or a task produced.",
                AddArtifact,
                self.add_artifact,
                "submit",
                idempotent=True,
            ),
        ]


def count(number: int, noun: str, *, more: object = None) -> str:
    """ "1 session", "20 sessions or more", "No sessions"."""
    if number == 0:
        return f"No {noun}s"
    return f"{number}{' or more' if more else ''} {noun}{'' if number == 1 and not more else 's'}"


def _spoken_summary(record: dict[str, Any]) -> str:
    counts = record["counts"]
    parts = [
        count(counts[name], noun)
        for name, noun in (("chunks", "note"), ("memories", "memory"), ("tasks", "task"), ("artifacts", "artifact"))
        if counts[name]
    ]
    holds = ", ".join(parts).replace("memorys", "memories") or "Nothing in it yet"
    working = f" {counts['open_tasks']} still open." if counts["open_tasks"] else ""
    return f"Session {spoken(record['title'], 12)} It is {record['status']}. {holds}.{working}"
