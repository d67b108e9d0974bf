"""The tools as this side knows them: names, arguments, and what a webhook must know of each.

This is the contract of the tools, written down a second time because the relay never imports the server. A test
holds it against the server's own list.
"""

from __future__ import annotations

from dataclasses import dataclass

from relay_adapter.fields import Field

FINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})
SESSION_STATUSES = ("active", "paused", "completed", "archived")


@dataclass(frozen=True, slots=True)
class Tool:
    """`creates`: the argument that names the new record. `answers_task`: it answers a task and takes `wait`."""

    name: str
    about: str
    fields: tuple[Field, ...]
    creates: str | None = None
    answers_task: bool = False


_SESSION = Field("session_id", "id", "Name the session.")
_THE_SESSION = Field("session_id", "id", "Name the session.", required=True)
_THE_TASK = Field("task_id", "task", "Give the id of the task, or its number.", required=True)
_AGENT = Field("agent", "text", "Name the agent, such as git; list_agents shows them.", required=True)
_TITLE = Field("title", "text", "A title for people.")
_PARTICIPANTS = Field("participants", "texts", "Who takes part.")
_METADATA = Field("metadata", "object", "Whatever you want to keep with it.")
_LIMIT = Field("limit", "integer", "How many at most.")
_CURSOR = Field("cursor", "text", "next_cursor of the page before.")
_PRIORITY = Field("priority", "integer", "Larger runs first.")
_LANE = Field("lane", "text", "Tasks in one lane run one after another.")
_WAIT = Field("wait", "wait", "Seconds to wait for the end of a short task.")
_STATUS = Field("status", "text", "Only those with this status.")
_QUERY = Field("query", "text", "Words to look for.")

_LIST: tuple[Tool, ...] = (
    Tool(
        "create_session",
        "Start a session that several LLMs and devices share.",
        (_SESSION, _TITLE, _PARTICIPANTS, _METADATA),
        creates="session_id",
    ),
    Tool("get_session", "One session with its summary.", (_THE_SESSION,)),
    Tool(
        "list_sessions",
        "Sessions, the newest first.",
        (_STATUS, _QUERY, Field("include_archived", "boolean", "Archived ones too."), _LIMIT, _CURSOR),
    ),
    Tool(
        "update_session",
        "Change a session.",
        (
            _THE_SESSION,
            _TITLE,
            _PARTICIPANTS,
            _METADATA,
            Field("status", "text", "The new status.", choices=SESSION_STATUSES),
        ),
    ),
    Tool(
        "delete",
        "Delete a session with everything in it, a memory or an artifact: exactly one.",
        (_SESSION, Field("memory_id", "id", "Name the memory."), Field("artifact_id", "id", "Name the artifact.")),
    ),
    Tool(
        "add_conversation",
        "Keep a stretch of conversation in a session.",
        (
            _THE_SESSION,
            Field("content", "text", "What was said, up to 1 MiB.", required=True),
            Field("chunk_id", "id", "An id of your own for this stretch."),
            Field("format", "text", "Such as dialogue or markdown."),
        ),
        creates="chunk_id",
    ),
    Tool(
        "store_memory",
        "Keep one thing worth keeping.",
        (
            Field("type", "text", "Such as idea, decision, question, fact.", required=True),
            Field("content", "text or object", "What to keep, up to 1 MiB.", required=True),
            Field("key", "text", "Storing under the same key again supersedes the old version."),
            Field("tags", "texts", "To find it again."),
            _SESSION,
            Field("memory_id", "id", "An id of your own."),
        ),
        creates="memory_id",
    ),
    Tool(
        "search",
        "Find conversation, memories, artifacts and tasks; without a query, list them.",
        (
            _QUERY,
            Field("kind", "text", "Only this kind.", choices=("conversation", "memory", "artifact", "task")),
            Field("type", "text", "Only memories or artifacts of this type."),
            Field("tag", "text", "Only memories with this tag."),
            _SESSION,
            Field("id", "text", "One record in full."),
            _LIMIT,
            _CURSOR,
        ),
    ),
    Tool(
        "add_artifact",
        "Keep a file or a text that was produced.",
        (
            Field("name", "text", "A file name.", required=True),
            Field("content", "text", "The text, or base64.", required=True),
            Field("type", "text", "A media type, such as text/markdown."),
            Field("encoding", "text", "How content is written.", choices=("text", "base64")),
            _SESSION,
            Field("task_id", "task", "The task that made it."),
            Field("artifact_id", "id", "An id of your own."),
        ),
        creates="artifact_id",
    ),
    Tool(
        "delegate_task",
        "Hand work to an agent.",
        (
            _AGENT,
            Field("description", "text", "What is to be done."),
            Field("params", "object", 'For git and shell: {"command": ["git", "status"]}.'),
            Field("workspace", "text", "The name of a workspace; the only one is the default."),
            Field("working_dir", "text", "A folder in a workspace."),
            _SESSION,
            Field("task_id", "id", "An id of your own: sending it again makes no second task."),
            Field("task_type", "text", "Such as code or review."),
            _PRIORITY,
            _LANE,
            Field("run_after", "moment", "Not before this time."),
            Field("timeout_seconds", "number", "Stop it after so many seconds."),
            Field("max_attempts", "integer", "How often to try."),
            _WAIT,
        ),
        creates="task_id",
        answers_task=True,
    ),
    Tool(
        "get_task",
        "State, result and output of a task.",
        (
            _THE_TASK,
            _WAIT,
            Field("output_offset", "integer", "Read the output from here."),
            Field("stream", "text", "Which output.", choices=("stdout", "stderr")),
        ),
        answers_task=True,
    ),
    Tool(
        "list_tasks",
        "Tasks, the newest first.",
        (_STATUS, Field("agent", "text", "Only those of this agent."), _SESSION, _LANE, _QUERY, _LIMIT, _CURSOR),
    ),
    Tool(
        "update_task",
        "Cancel or retry a task, or change its priority or lane.",
        (_THE_TASK, Field("action", "text", "What to do.", choices=("cancel", "retry")), _PRIORITY, _LANE, _WAIT),
        answers_task=True,
    ),
    Tool(
        "continue_task",
        "A follow-up message in the agent's own conversation, as a new task.",
        (
            _THE_TASK,
            Field("message", "text", "What to tell the agent.", required=True),
            Field("new_task_id", "id", "An id of your own for the new task."),
            _WAIT,
        ),
        creates="new_task_id",
        answers_task=True,
    ),
    Tool("list_agents", "What can do work here.", ()),
)

TOOLS: dict[str, Tool] = {tool.name: tool for tool in _LIST}
