"""JSON-RPC messages and the lines that they are, good and bad ones."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import mcp_types
from pydantic import ValidationError

from mcp_server.transports.lines import TooLong

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is skipped and answered with an error."""

_ID_AT_HEAD = re.compile(rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(-?\d+|"[^"\\]*")\s*,')
_ID_AT_TAIL = re.compile(rb'"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(-?\d+|"[^"\\]*")\s*\}\s*\Z')


class UnreadableError(Exception):
    """A line that is no message; `answer` tells its sender."""

    def __init__(self, request_id: mcp_types.RequestId | None, code: int, message: str) -> None:
        super().__init__(message)
        self.answer = error_answer(request_id, code, message)


def parse(line: bytes | TooLong) -> mcp_types.JSONRPCMessage | None:
    """The message of a line; None for an empty one.

    Raises:
        UnreadableError: it is none. Its answer has the id of the request wherever that can be told, since a
            client waits for ever for an answer without it.
    """
    if isinstance(line, TooLong):
        text = f"The message has more than {MAX_LINE_BYTES} bytes and was not read."
        raise UnreadableError(_id_of_long(line), mcp_types.INVALID_REQUEST, text)
    if not line.strip():
        return None
    try:
        message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise UnreadableError(_id_of(line), mcp_types.PARSE_ERROR, first["msg"]) from error
        text = "This is no JSON-RPC 2.0 request, notification or response."
        raise UnreadableError(_id_of(line), mcp_types.INVALID_REQUEST, text) from error
    if isinstance(message, mcp_types.JSONRPCNotification) and b'"id"' in line and "id" in json.loads(line):
        # The SDK takes a request with a bad id for a notification, and would not answer it.
        raise UnreadableError(None, mcp_types.INVALID_REQUEST, "An id must be a string or an integer.")
    return message


def _id_of(line: bytes) -> mcp_types.RequestId | None:
    try:
        loaded = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(loaded, dict):
        return None
    fields = cast("dict[str, Any]", loaded)
    # Only a request has an id that may be answered: our answer to a bad response would look like one to the
    # client's own request of that id.
    return _usable_id(fields.get("id")) if isinstance(fields.get("method"), str) else None


def _id_of_long(line: TooLong) -> mcp_types.RequestId | None:
    found = _ID_AT_HEAD.match(line.head) or _ID_AT_TAIL.search(line.tail)
    try:
        return None if found is None else _usable_id(json.loads(found[1]))
    except ValueError:
        return None


def _usable_id(value: object) -> mcp_types.RequestId | None:
    if isinstance(value, str):
        return None if any("\ud800" <= character <= "\udfff" for character in value) else value
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def error_answer(request_id: mcp_types.RequestId | None, code: int, message: str) -> mcp_types.JSONRPCError:
    error = mcp_types.ErrorData(code=code, message=message)
    return mcp_types.JSONRPCError(jsonrpc="2.0", id=request_id, error=error)


def encode(message: mcp_types.JSONRPCMessage) -> bytes:
    return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
