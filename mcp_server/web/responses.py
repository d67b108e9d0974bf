"""JSON answers of our own HTTP addresses, in the same shape as everywhere."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from mcp_server.errors import OffhandError
from mcp_server.problems import problem

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_HTTP_KINDS = {
    400: ("malformed", "The request could not be read"),
    403: ("forbidden", "Not allowed"),
    405: ("method-not-allowed", "Method not allowed"),
    406: ("not-acceptable", "Not acceptable"),
    408: ("timeout", "The request did not arrive"),
    415: ("unsupported-media-type", "Unsupported media type"),
    421: ("misdirected", "Misdirected"),
}
"""What is wrong with the request as HTTP, before it means anything; other errors have their status in `problems`."""


def json_response(content: dict[str, Any], status: int = 200, media_type: str = "application/json") -> Response:
    """UTF-8 as it is; lone surrogates, which no door lets in, would be escaped."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
    return Response(body, status, HEADERS, media_type)


def problem_response(error: OffhandError) -> Response:
    """RFC 9457 problem details."""
    details = problem(error)
    return json_response(details, details["status"], "application/problem+json")


def refusal(status: int, message: str, *, field: str, fix: str, say: str | None = None) -> Response:
    """The same for what only HTTP knows of."""
    name, title = _HTTP_KINDS[status]
    kind = {"type": f"urn:offhand:problem:{name}", "title": title, "status": status}
    details = problem(OffhandError(message, field=field, fix=fix, say=say)) | kind
    return json_response(details, status, "application/problem+json")
