"""`/api`: what no LLM may do. Over the unix socket no key is needed; over TCP one of scope admin, or approve."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_server.callers import CALLER_KEY, Scope, calling_as
from mcp_server.errors import InvalidError, MalformedError, OffhandError, TooLargeError
from mcp_server.keys import DEFAULT_SCOPES, Keys
from mcp_server.policy import require_scope
from mcp_server.web.responses import json_response, problem_response

BODY_LIMIT_BYTES = 64 * 1024

Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


class NewKey(BaseModel):
    """The body of `POST /api/keys`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    scopes: Annotated[list[str], Field(min_length=1)] = list(DEFAULT_SCOPES)


def api_routes(keys: Keys) -> list[Route]:
    """The routes under `/api`."""

    async def list_keys(request: Request) -> Response:
        return json_response({"items": await keys.list(), "next_cursor": None})

    async def create_key(request: Request) -> Response:
        new = await read_body(request, NewKey, "Send name, and scopes as a list.")
        record, token = await keys.create(new.name, new.scopes)
        return json_response(record | {"key": token}, 201)

    async def revoke_key(request: Request) -> Response:
        return json_response(await keys.revoke(request.path_params["name"]))

    return [
        Route("/keys", admin_only(list_keys), methods=["GET"]),
        Route("/keys", admin_only(create_key), methods=["POST"]),
        Route("/keys/{name:path}", admin_only(revoke_key), methods=["DELETE"]),
    ]


def admin_only(handler: Handler) -> Handler:
    """`handler` for who has the scope admin."""
    return only_with("admin", handler)


def only_with(scope: Scope, handler: Handler) -> Handler:
    """`handler` for who has this scope; our errors become problem details."""

    async def guarded(request: Request) -> Response:
        caller = request.scope[CALLER_KEY]
        try:
            require_scope(caller, scope)
            with calling_as(caller):
                return await handler(request)
        except OffhandError as error:
            return problem_response(error)

    return guarded


async def read_body(request: Request, model: type[Body], fix: str) -> Body:
    """The JSON body of a request. An empty one counts as `{}`; `fix` says what would be right.

    Raises:
        MalformedError, InvalidError, TooLargeError: it cannot be used.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT_BYTES:
            raise TooLargeError(fix=f"Send at most {BODY_LIMIT_BYTES} bytes.", field="body")
    try:
        loaded: Any = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise MalformedError("The body is not JSON.", field="body", fix=fix) from None
    try:
        return model.model_validate(loaded)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidError(f"{first['msg']}.", field=field, fix=fix) from None
