"""The MCP client's side: one long-lived client, one call at a time per caller, plain records out.

In memory, the tool runs in the task that calls it, so whoever is named in a context variable here is named there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from relay_adapter.errors import InternalError

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

logger = logging.getLogger(__name__)

_LOGGED_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool answered: its record, or the problem details of an error it reports."""

    record: dict[str, Any]
    failed: bool


class Gateway:
    """Calls tools. `client` is entered by the composition root and stays open as long as the relay is served."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        """Call a tool and wait for its answer.

        Raises:
            InternalError: the call broke, or its answer cannot be read. The log says why; the caller learns nothing.
        """
        try:
            result = await self._client.call_tool(tool, dict(arguments))
        except Exception:
            logger.exception("The tool %s could not be called", tool)
            raise InternalError from None
        record = result.structured_content
        if not _usable(record, result.is_error):
            logger.error("The tool %s gave no usable answer: %s", tool, _text(result))
            raise InternalError
        return ToolAnswer(cast("dict[str, Any]", record), failed=result.is_error)


def _usable(record: object, failed: bool) -> bool:
    if not isinstance(record, dict):
        return False
    members = cast("dict[str, Any]", record)
    if not isinstance(members.get("say"), str):
        return False
    status = members.get("status")
    return not failed or (isinstance(status, int) and not isinstance(status, bool) and 400 <= status <= 599)


def _text(result: CallToolResult) -> str:
    texts = (getattr(block, "text", "") for block in result.content)
    return " ".join(str(text) for text in texts)[:_LOGGED_CHARACTERS]
