"""JSON answers of our own HTTP addresses, in the same shape as everywhere."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from mcp_server.errors import OffhandError
from mcp_server.problems import problem

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def json_response(content: dict[str, Any], status: int = 200, media_type: str = "application/json") -> Response:
    """UTF-8 as it is; lone surrogates, which no door lets in, would be escaped."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
    return Response(body, status, HEADERS, media_type)


def problem_response(error: OffhandError) -> Response:
    """RFC 9457 problem details."""
    details = problem(error)
    return json_response(details, details["status"], "application/problem+json")
