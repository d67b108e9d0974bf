"""`/api/approvals`: what waits for the user's answer, and the answer. For who has the scope approve, nobody else."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_server.approvals import Approvals, Decision
from mcp_server.errors import InvalidError
from mcp_server.values import PAGE_LIMIT
from mcp_server.web.api import only_with, read_body
from mcp_server.web.responses import json_response

LIST_QUERY = ("all", "limit", "cursor")


class NewDecision(BaseModel):
    """The body of `POST /api/approvals/{id}`. `hash` is the one that stood beside the action that was looked at."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision: Decision
    hash: str


def approval_routes(approvals: Approvals) -> list[Route]:
    """The routes under `/api/approvals`. A GET never decides: previews follow links."""

    async def list_approvals(request: Request) -> Response:
        _check_query(request, LIST_QUERY)
        items, following = await approvals.list(
            decided=_flag(request, "all"), limit=_limit(request), cursor=request.query_params.get("cursor")
        )
        return json_response({"items": [item.summary() for item in items], "next_cursor": following})

    async def get_approval(request: Request) -> Response:
        _check_query(request, ())
        return json_response((await approvals.get(request.path_params["id"])).record())

    async def decide(request: Request) -> Response:
        _check_query(request, ())
        fix = 'Send {"decision": "approve" or "deny", "hash": the hash of what you looked at}.'
        new = await read_body(request, NewDecision, fix)
        return json_response((await approvals.decide(request.path_params["id"], new.decision, new.hash)).record())

    async def get_or_decide(request: Request) -> Response:
        return await (decide if request.method == "POST" else get_approval)(request)

    return [
        Route("/approvals", only_with("approve", list_approvals), methods=["GET"]),
        Route("/approvals/{id}", only_with("approve", get_or_decide), methods=["GET", "POST"]),
    ]


def _check_query(request: Request, known: Collection[str]) -> None:
    for name in request.query_params:
        if name not in known:
            fix = f"Known are: {', '.join(known)}." if known else "Leave it out."
            raise InvalidError("There is no such parameter here.", field=name[:100], fix=fix)


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise InvalidError(f"{name} is neither true nor false.", field=name, fix="Give true or false.")
    return value == "true"


def _limit(request: Request) -> int:
    value = request.query_params.get("limit", str(PAGE_LIMIT))
    if not (value.isascii() and value.isdigit() and len(value) < 4 and 1 <= int(value) <= PAGE_LIMIT):
        raise InvalidError("limit is out of range.", field="limit", fix=f"Give 1 to {PAGE_LIMIT}.")
    return int(value)
