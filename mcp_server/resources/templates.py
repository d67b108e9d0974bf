"""What addresses are made of, for clients that fill them in: one template for each kind of resource."""

from __future__ import annotations

from mcp_types import ResourceTemplate

JSON = "application/json"
TEXT = "text/plain"
SCHEMA = "application/schema+json"

SPAN = ("offset", "length")
CONVERSATION_PAGE = ("cursor", "limit")
OUTPUT_SPAN = ("stream", *SPAN)

TEMPLATES = (
    ResourceTemplate(
        uri_template="session://{session_id}{?offset,length}",
        name="session",
        title="Session",
        description="One session: its record, counts, and the latest of what it holds.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template="session://{session_id}/conversation{?cursor,limit}",
        name="conversation",
        title="Conversation of a session",
        description="Its chunks in full, oldest first, page by page.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template="task://{task_id}{?offset,length}",
        name="task",
        title="Task",
        description="One task by id or number: state, result, attempts.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template="task://{task_id}/output{?stream,offset,length}",
        name="output",
        title="Output of a task",
        description="What its last attempt wrote to stdout or stderr, also while it runs. offset and length in bytes.",
        mime_type=TEXT,
    ),
    ResourceTemplate(
        uri_template="memory://{memory_id}{?offset,length}",
        name="memory",
        title="Memory",
        description="One memory, with its earlier versions.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template="artifact://{artifact_id}{?offset,length}",
        name="artifact",
        title="Artifact",
        description="The file or text itself. offset and length in bytes.",
    ),
    ResourceTemplate(
        uri_template="agent://{agent}{?offset,length}",
        name="agent",
        title="Agent",
        description="What can do work here: installed or what is missing, limits, running and queued.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template="schema://{schema}{?offset,length}",
        name="schema",
        title="Record schema",
        description="The JSON Schema of one kind of record.",
        mime_type=SCHEMA,
    ),
)
