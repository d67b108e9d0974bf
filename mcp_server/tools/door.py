"""The door between MCP and the nouns: arguments checked, the caller known, answers and errors in one shape."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, cast

from mcp.server.mcpserver.context import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from mcp_server.callers import Scope, current_caller
from mcp_server.errors import FieldIssue, InvalidError, OffhandError
from mcp_server.policy import require_scope
from mcp_server.problems import problem, unexpected
from mcp_server.protocol import wants_progress
from mcp_server.spoken import spoken
from mcp_server.tools.progress import reporting_to

OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"say": {"type": "string"}, "link": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    "required": ["say"],
}
"""Of every tool: to be spoken, to read more, and the record's fields beside them."""

logger = logging.getLogger(__name__)


class Arguments(BaseModel):
    """The arguments of a tool: no others, and none of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool answers: the record, what is to be spoken of it, and where to read more."""

    record: dict[str, Any]
    say: str
    link: str | None = None

    @property
    def content(self) -> dict[str, Any]:
        """All of it, as clients get it."""
        return {"say": spoken(self.say), "link": self.link, **self.record}


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool: the words an LLM reads, its arguments, and what it does."""

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    handler: Callable[[Any], Awaitable[Answer]]
    scope: Scope
    destructive: bool = False
    idempotent: bool = False

    def tool(self) -> Tool:
        """As the SDK registers it."""
        return _OffhandTool(
            fn=self.handler,
            name=self.name,
            title=self.title,
            description=self.description,
            parameters=compact_schema(self.arguments),
            fn_metadata=FuncMetadata(arg_model=ArgModelBase, output_schema=OUTPUT_SCHEMA),
            is_async=True,
            context_kwarg=None,
            annotations=ToolAnnotations(
                read_only_hint=self.scope == "read",
                destructive_hint=self.destructive,
                idempotent_hint=self.idempotent or self.scope == "read",
                open_world_hint=False,
            ),
            spec=self,
        )

    async def call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Check and run for the current caller; raises OffhandError."""
        require_scope(current_caller(), self.scope)
        answer = await self.handler(self._validated(arguments))
        return answer.content

    def _validated(self, arguments: dict[str, Any]) -> Arguments:
        try:
            return self.arguments.model_validate(arguments)
        except ValidationError as error:
            known = list(compact_schema(self.arguments)["properties"])
            details = error.errors(include_url=False, include_input=False)
            raise _invalid(self.name, [_issue(detail, known) for detail in details]) from None


class _OffhandTool(Tool):
    """A tool that answers in our shape; the SDK's own conversion of arguments and results is not used."""

    spec: Any = Field(exclude=True)
    model_config: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        spec = cast(ToolSpec, self.spec)
        report = context.report_progress if wants_progress(context.request_context) else None
        try:
            with reporting_to(report):
                return call_result(await spec.call(arguments))
        except OffhandError as error:
            return call_result(problem(error), is_error=True)
        except Exception:
            logger.exception("tool %s failed", spec.name)
            return call_result(unexpected(), is_error=True)


def call_result(content: dict[str, Any], *, is_error: bool = False) -> CallToolResult:
    """`content` as the result of a call, with the same as text for clients that read no structured content."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=content, is_error=is_error)


@cache
def compact_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of `model` without what only costs tokens: titles, and null for what may be left out."""
    schema = model.model_json_schema()
    properties = {name: _compact(field) for name, field in schema.get("properties", {}).items()}
    required = {"required": schema["required"]} if "required" in schema else {}
    return {"type": "object", "properties": properties, **required, "additionalProperties": False}


def _compact(field: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in field.items() if name != "title" and not (name == "default" and not value)}
    if "anyOf" in kept:
        options = [_compact(option) for option in kept.pop("anyOf") if option != {"type": "null"}]
        if len(options) == 1:
            kept = options[0] | kept
        else:
            kept["anyOf"] = options
    if kept.get("type") == "object":
        kept.pop("additionalProperties", None)
    if isinstance(kept.get("items"), dict):
        kept["items"] = _compact(kept["items"])
    return kept


def _invalid(tool: str, issues: list[FieldIssue]) -> InvalidError:
    first = issues[0]
    return InvalidError(f"{first.field}: {first.message}", issues=issues, say=f"{tool}: {first.field}. {first.message}")


def _issue(detail: ErrorDetails, known: list[str]) -> FieldIssue:
    path = [str(part) for part in detail["loc"] if not str(part).startswith(("function-", "constrained-"))]
    # A union puts the type it tried last into the path; the caller knows only the argument.
    field = ".".join(part for part in path if part not in ("str", "int", "float", "dict[str,any]", "list[str]"))
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, known, 1)
        hint = f"Did you mean {close[0]}? " if close else ""
        fix = f"{hint}Known are: {', '.join(known)}." if known else "Leave it out: this tool takes none."
        return FieldIssue(field, "There is no such argument.", fix)
    if detail["type"] == "missing":
        return FieldIssue(field, "It is missing.", f"Give {field}.")
    if detail["type"] == "list_type":
        return FieldIssue(field, "It must be a list.", 'Send a list, such as ["one", "two"].')
    return FieldIssue(field or "arguments", f"{detail['msg']}.", "Send a value of that kind.")
