"""What goes back: answers, problem details (RFC 9457), and the headers of every response.

The one place where errors meet HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

from starlette.responses import Response

from relay_adapter.commands import ToolCall
from relay_adapter.errors import (
    ConflictError,
    FieldIssue,
    InternalError,
    InvalidError,
    MalformedError,
    MethodError,
    NotFoundError,
    RelayError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    spoken,
)
from relay_adapter.tools import FINAL_STATUSES

ALWAYS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
RETRY_SOON_SECONDS = 2
RETRY_LATER_SECONDS = 30
"""For what waits for a time or a person."""
LATER_STATUSES = frozenset({"scheduled", "waiting_approval"})
TRANSIENT_STATUSES = frozenset({401, 408, 425, 429})

_PROBLEMS: tuple[tuple[type[RelayError], int, str, str], ...] = (
    (MalformedError, 400, "malformed", "The request could not be read"),
    (UnauthenticatedError, 401, "unauthenticated", "Who are you?"),
    (NotFoundError, 404, "not-found", "Not found"),
    (MethodError, 405, "method-not-allowed", "Method not allowed"),
    (ConflictError, 409, "conflict", "Conflict"),
    (TooLargeError, 413, "too-large", "Too large"),
    (InvalidError, 422, "invalid", "A field cannot be used"),
    (UnavailableError, 503, "unavailable", "Not now"),
    (InternalError, 500, "internal", "Something went wrong"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON object. `headers` are those beyond what every answer carries."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def final(self) -> bool:
        """Whether the same delivery should get the same answer again; else it is worth another try."""
        results = cast("list[dict[str, Any]]", self.body.get("results", []))
        statuses = [self.status, *(result["status"] for result in results if not result["ok"])]
        return all(status < 500 and status not in TRANSIENT_STATUSES for status in statuses)


def problem_of(error: RelayError) -> Answer:
    """The problem details of an error of our own."""
    status, slug, title = next(
        ((status, slug, title) for kind, status, slug, title in _PROBLEMS if isinstance(error, kind)),
        (500, "internal", "Something went wrong"),
    )
    body = {
        "ok": False,
        "type": f"urn:offhand:problem:{slug}",
        "title": title,
        "status": status,
        "detail": error.message,
        "say": error.say,
        "errors": [_shown_issue(issue) for issue in error.issues],
    }
    headers = {"Allow": error.allowed} if isinstance(error, MethodError) else {}
    return Answer(status, body, headers | _headers_of(status, body))


def answer_of(call: ToolCall, record: dict[str, Any], base_url: str) -> Answer:
    """The answer for a tool's record: 202 where the command started work that goes on."""
    result = {name: value for name, value in record.items() if name not in ("say", "link")}
    body: dict[str, Any] = {"ok": True, "say": record["say"]}
    status = 200
    if call.tool.answers_task and _unfinished(result):
        body |= {"task_id": result["id"], "status_url": f"{base_url}/tasks/{quote(result['id'], safe='')}"}
        status = 202 if call.starts_work else 200
    body |= {"result": result, "link": record.get("link")}
    return Answer(status, body, _headers_of(status, body))


def tool_problem(call: ToolCall, problem: dict[str, Any]) -> Answer:
    """The problem details that a tool reports, with its fields named as the sender wrote them."""
    status: int = problem["status"]
    absent = {"ok": False, "type": "about:blank", "title": "", "detail": problem["say"]}
    body: dict[str, Any] = absent | problem | {"ok": False}
    errors = problem.get("errors")
    body["errors"] = [
        _renamed(cast("dict[str, Any]", error), call.sources)
        for error in (cast("list[Any]", errors) if isinstance(errors, list) else [])
        if isinstance(error, dict)
    ]
    return Answer(status, body, _headers_of(status, body))


def batch_answer(calls: tuple[ToolCall, ...], answers: list[Answer]) -> Answer:
    """200 with one result per command that ran."""
    results = [{"command": call.command} | answer.body for call, answer in zip(calls, answers, strict=False)]
    body = {
        "ok": all(answer.body["ok"] for answer in answers),
        "say": _batch_say(len(calls), answers),
        "results": results,
    }
    return Answer(200, body, _headers_of(200, body))


def replayed(answer: Answer) -> Answer:
    """The same answer, marked as one that was given before."""
    return Answer(answer.status, answer.body, {**answer.headers, "Idempotency-Replayed": "true"})


def stored_answer(status: int, body: dict[str, Any]) -> Answer:
    """An answer as the ledger kept it."""
    return Answer(status, body, _headers_of(status, body))


def response_of(answer: Answer) -> Response:
    """The response. Text stays as it is; a lone surrogate, which UTF-8 cannot hold, is escaped."""
    text = json.dumps(answer.body, ensure_ascii=False, allow_nan=False)
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError:
        content = json.dumps(answer.body, allow_nan=False).encode("ascii")
    media = "application/json" if answer.status < 400 else "application/problem+json"
    return Response(content, answer.status, {**ALWAYS, **answer.headers}, media)


def _unfinished(record: dict[str, Any]) -> bool:
    status = record.get("status")
    return isinstance(record.get("id"), str) and isinstance(status, str) and status not in FINAL_STATUSES


def _headers_of(status: int, body: dict[str, Any]) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status in (429, 503):
        asked = body.get("retry_after")
        return {"Retry-After": str(asked if isinstance(asked, int) else RETRY_SOON_SECONDS)}
    if "status_url" in body:
        later = body["result"].get("status") in LATER_STATUSES
        return {"Retry-After": str(RETRY_LATER_SECONDS if later else RETRY_SOON_SECONDS)}
    return {}


def _shown_issue(issue: FieldIssue) -> dict[str, str]:
    return {"field": issue.field, "message": issue.message, "fix": issue.fix}


def _renamed(error: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    name = error.get("field")
    if not isinstance(name, str):
        return error
    ends = [position for position in (name.find("."), name.find("[")) if position > 0]
    head = name[: min(ends)] if ends else name
    return error | {"field": sources[head] + name[len(head) :]} if head in sources else error


def _batch_say(asked: int, answers: list[Answer]) -> str:
    failed = [answer for answer in answers if not answer.body["ok"]]
    going_on = sum("status_url" in answer.body for answer in answers)
    left = asked - len(answers)
    parts = [f"{len(answers) - len(failed)} of {asked} done." if asked > 1 or failed else ""]
    if going_on:
        parts.append(f"{going_on} still at work.")
    if left:
        parts.append(f"{left} did not run.")
    parts.append(failed[0].body["say"] if failed else answers[-1].body["say"])
    return spoken(" ".join(parts))
