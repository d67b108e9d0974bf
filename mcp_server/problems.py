"""Errors as the doors show them: RFC 9457 problem details, the same over MCP and HTTP. The one map to statuses."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mcp_server.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    MalformedError,
    NotFoundError,
    OffhandError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from mcp_server.spoken import spoken

_KINDS: tuple[tuple[type[OffhandError], int, str, str], ...] = (
    (MalformedError, 400, "malformed", "The request could not be read"),
    (UnauthenticatedError, 401, "unauthenticated", "The caller is unknown"),
    (ForbiddenError, 403, "forbidden", "Not allowed"),
    (NotFoundError, 404, "not-found", "No such record"),
    (ConflictError, 409, "conflict", "The record exists already, or has moved on"),
    (TooLargeError, 413, "too-large", "Too large"),
    (InvalidError, 422, "invalid", "A field cannot be used"),
    (UnavailableError, 503, "unavailable", "Not now"),
    (OffhandError, 500, "internal", "Something went wrong"),
)


def problem(error: OffhandError) -> dict[str, Any]:
    """Problem details of `error`; `status` is the HTTP status that goes with them."""
    status, name, title = next(entry[1:] for entry in _KINDS if isinstance(error, entry[0]))
    details: dict[str, Any] = {
        "ok": False,
        "type": f"urn:offhand:problem:{name}",
        "title": title,
        "status": status,
        "detail": error.message,
        "say": spoken(error.say),
        "errors": [asdict(issue) for issue in error.issues],
    }
    if isinstance(error, ConflictError) and error.existing is not None:
        details["existing"] = dict(error.existing)
    return details


def unexpected() -> dict[str, Any]:
    """Problem details of a fault of ours: nothing of the exception leaves; the log has it."""
    return problem(OffhandError("Something went wrong here; the log of the server says what."))
