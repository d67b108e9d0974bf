"""The shapes of records, as JSON Schema. They are open: later versions may have more fields, and none less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from mcp_server.callers import Level
from mcp_server.sessions import Status as SessionStatus
from mcp_server.tasks import TRANSITIONS
from mcp_server.values import ID_RULE

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
INTEGER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT}
OBJECT: Schema = {"type": "object"}
TIME: Schema = {"type": "string", "format": "date-time"}
ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$", "description": ID_RULE}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(*words: str) -> Schema:
    return {"enum": list(words)}


def _record(fields: Mapping[str, Schema], **optional: Schema) -> Schema:
    """An object that always has `fields`, and `optional` where they apply."""
    return {"type": "object", "properties": {**fields, **optional}, "required": list(fields)}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _schema(title: str, description: str, record: Schema) -> Schema:
    return {"$schema": DIALECT, "title": title, "description": description, **record}


CALLER = _record({"level": _one_of(*get_args(Level)), "name": TEXT}, key_id=TEXT, delivery_id=TEXT)

SESSION = _record(
    {
        "id": ID,
        "title": TEXT,
        "participants": TEXTS,
        "metadata": OBJECT,
        "status": _one_of(*get_args(SessionStatus)),
        "created_by": CALLER,
        "created_at": TIME,
        "updated_at": TIME,
    },
    counts=_record(dict.fromkeys(("chunks", "memories", "artifacts", "tasks", "open_tasks"), COUNT)),
    latest_chunks=_list_of(
        _record(
            {
                "id": ID,
                "session_id": ID,
                "format": _or_null(TEXT),
                "content": TEXT,
                "size": COUNT,
                "created_at": TIME,
                "clipped": FLAG,
            }
        )
    ),
    latest_memories=_list_of(
        _record(
            {"id": ID, "type": TEXT, "key": _or_null(TEXT), "version": COUNT, "content": {"type": ["string", "object"]}}
        )
    ),
    latest_tasks=_list_of(
        _record(
            {
                "id": ID,
                "number": COUNT,
                "agent": TEXT,
                "status": _one_of(*TRANSITIONS),
                "reason": _or_null(TEXT),
                "description": TEXT,
                "created_at": TIME,
            }
        )
    ),
    latest_artifacts=_list_of(_record({"id": ID, "name": TEXT, "type": TEXT, "size": COUNT, "created_at": TIME})),
)

CHUNK = _record(
    {
        "id": ID,
        "session_id": ID,
        "format": _or_null(TEXT),
        "size": COUNT,
        "created_by": CALLER,
        "created_at": TIME,
    },
    content=TEXT,
)

_MEMORY_VERSION: Mapping[str, Schema] = {
    "type": TEXT,
    "content": {"type": ["string", "object"]},
    "tags": TEXTS,
    "version": {"type": "integer", "minimum": 1},
    "created_at": TIME,
}

MEMORY = _record(
    {
        "id": ID,
        "session_id": _or_null(ID),
        "key": _or_null(TEXT),
        **_MEMORY_VERSION,
        "created_by": CALLER,
        "updated_at": TIME,
    },
    earlier_versions=_list_of(_record(_MEMORY_VERSION)),
)

RESULT = _record(
    {"text": TEXT},
    stdout=TEXT,
    stderr=TEXT,
    returncode=_or_null(INTEGER),
    truncated=FLAG,
    stdout_offset=COUNT,
    stderr_offset=COUNT,
    stdout_bytes=COUNT,
    stderr_bytes=COUNT,
    dropped_bytes=COUNT,
    unverified=TEXT,
    question=TEXT,
    agent_conversation_id=TEXT,
    agent_version=TEXT,
    model=TEXT,
    turns=COUNT,
    input_tokens=COUNT,
    output_tokens=COUNT,
    cost_usd=NUMBER,
    denials=_list_of(_record({"tool": TEXT, "input": TEXT, "why": TEXT})),
    denials_count=COUNT,
    files=_list_of(_record({"path": TEXT, "change": TEXT}, insertions=_or_null(COUNT), deletions=_or_null(COUNT))),
    files_count=COUNT,
    branch=TEXT,
    base=TEXT,
    commit=TEXT,
    clone=TEXT,
    dirty=FLAG,
    diff=ID,
    diff_bytes_cut=COUNT,
)

ATTEMPT = _record(
    {
        "attempt": COUNT,
        "status": _one_of("running", "completed", "failed", "cancelled", "interrupted"),
        "reason": _or_null(TEXT),
        "returncode": _or_null(INTEGER),
        "started_at": TIME,
        "finished_at": _or_null(TIME),
    },
    usage=_record({}, turns=COUNT, input_tokens=COUNT, output_tokens=COUNT, cost_usd=NUMBER),
    clone=TEXT,
)

OUTPUT = _record(
    {
        "stream": _one_of("stdout", "stderr"),
        "offset": COUNT,
        "next_offset": COUNT,
        "size": COUNT,
        "text": TEXT,
        "complete": FLAG,
    },
    expired={"const": True},
)

APPROVAL = _record(
    {
        "id": ID,
        "about": _one_of("task", "tool", "budget"),
        "say": TEXT,
        "hash": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "expires_at": TIME,
    },
    status=_one_of("pending", "approved", "denied", "expired", "withdrawn"),
    task_id=ID,
    task_number=COUNT,
    agent=TEXT,
    session_id=_or_null(ID),
    asked_by=CALLER,
    action=OBJECT,
    diff=_or_null(TEXT),
    created_at=TIME,
    decided_at=_or_null(TIME),
    decided_by=_or_null(CALLER),
)

TASK = _record(
    {
        "id": ID,
        "number": {"type": "integer", "minimum": 1},
        "agent": TEXT,
        "status": _one_of(*TRANSITIONS),
        "reason": _or_null(TEXT),
        "session_id": _or_null(ID),
        "task_type": _or_null(TEXT),
        "description": TEXT,
        "params": OBJECT,
        "workspace": _or_null(TEXT),
        "priority": INTEGER,
        "lane": _or_null(TEXT),
        "attempt": COUNT,
        "max_attempts": COUNT,
        "timeout_seconds": NUMBER,
        "working_dir": _or_null(TEXT),
        "continues": _or_null(ID),
        "created_by": CALLER,
        "run_after": _or_null(TIME),
        "created_at": TIME,
        "started_at": _or_null(TIME),
        "finished_at": _or_null(TIME),
        "progress": _or_null(TEXT),
        "result": _or_null(RESULT),
    },
    approval=APPROVAL,
    attempts=_list_of(ATTEMPT),
    output=OUTPUT,
)

ARTIFACT = _record(
    {
        "id": ID,
        "session_id": _or_null(ID),
        "task_id": _or_null(ID),
        "name": TEXT,
        "type": TEXT,
        "encoding": _one_of("text", "base64"),
        "size": COUNT,
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "created_by": CALLER,
        "created_at": TIME,
    },
    content=TEXT,
)

AGENT = _record(
    {
        "name": TEXT,
        "title": TEXT,
        "description": TEXT,
        "installed": FLAG,
        "ready": FLAG,
        "version": _or_null(TEXT),
        "missing": _or_null(TEXT),
        "notes": TEXTS,
        "continues": FLAG,
        "needs_workspace": FLAG,
        "limit": COUNT,
        "default_timeout_seconds": NUMBER,
        "running": COUNT,
        "queued": COUNT,
    }
)

ERROR = _record(
    {
        "ok": {"const": False},
        "type": {"type": "string", "pattern": "^urn:offhand:problem:[a-z-]+$"},
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "say": TEXT,
        "errors": _list_of(_record({"field": TEXT, "message": TEXT, "fix": TEXT})),
    },
    existing=OBJECT,
)

SCHEMAS: Mapping[str, Schema] = {
    "session": _schema("Session", "A conversation or piece of work; with its summary where one is read.", SESSION),
    "chunk": _schema("Chunk", "A stretch of conversation; its content where one is read.", CHUNK),
    "memory": _schema("Memory", "One thing to keep; with its earlier versions where one is read.", MEMORY),
    "task": _schema("Task", "One piece of work for an agent; with its attempts where one is read.", TASK),
    "artifact": _schema("Artifact", "A file or a text; its content where one is searched for by id.", ARTIFACT),
    "agent": _schema("Agent", "What does tasks.", AGENT),
    "error": _schema("Error", "What was wrong, which field, and what would be right (RFC 9457).", ERROR),
}
"""By the name in their address."""
