"""The relay: verify, translate, call, reply.

`POST /webhook` is one tool call or a batch of them; `GET /tasks/{task_id}` reads one task again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from relay_adapter.answers import problem_of, replayed, response_of
from relay_adapter.body import fingerprint, parse_body
from relay_adapter.commands import COMMANDS, translate
from relay_adapter.delivery import Job, call_tool
from relay_adapter.envelope import Order, agreed_delivery_id, check_delivery_id, read_order
from relay_adapter.errors import (
    InternalError,
    MethodError,
    RelayError,
    TooLargeError,
    UnauthenticatedError,
    invalid,
    shown,
)
from relay_adapter.fields import nearest
from relay_adapter.gateway import Gateway
from relay_adapter.inflight import InFlight
from relay_adapter.openapi import docs_handlers
from relay_adapter.settings import RelaySettings

if TYPE_CHECKING:
    from mcp import Client
    from starlette.types import Receive, Scope, Send

    from relay_adapter.ledger import Ledger, Principal

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

MAX_TOKEN_CHARACTERS = 512
OFF_LOOP_BYTES = 64 * 1024
"""Larger bodies are read in a thread: the slowest 8 MiB would hold up everybody for a second."""

_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


def build_routes(
    client: Client,
    ledger: Ledger,
    settings: RelaySettings,
    *,
    in_flight: InFlight | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Route]:
    """The routes of the relay.

    `client` is an entered in-memory MCP client. Whoever gives `in_flight` closes it (`aclose`) before the client, so
    that what was asked for ends cleanly. `clock` gives seconds, for the deadline that the commands of a batch share.
    """
    going_on = InFlight() if in_flight is None else in_flight
    relay = Relay(Gateway(client), ledger, settings, going_on, clock)
    reading = "GET, HEAD"
    return [
        Route("/webhook", Endpoint(relay.webhook, "POST", "Send a POST with a JSON body; /docs shows how.")),
        Route("/tasks/{task_id:path}", Endpoint(relay.task, reading, "Read a task with GET.")),
        *(
            Route(path, Endpoint(handler, reading, "Read it with GET."))
            for path, handler in docs_handlers(lambda request: base_url(request, settings)).items()
        ),
    ]


class Endpoint:
    """An ASGI app around one handler. The door: every error becomes a response here, and nowhere else."""

    def __init__(self, handler: Handler, allowed: str, hint: str) -> None:
        self._handler = handler
        self._allowed = allowed
        self._hint = hint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        try:
            if request.method not in self._allowed.split(", "):
                message = f"This address does not take {shown(request.method)}. {self._hint}"
                raise MethodError(message, allowed=self._allowed)
            return await self._handler(request)
        except RelayError as error:
            return response_of(problem_of(error))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            logger.exception("A request to %s failed", request.url.path)
            return response_of(problem_of(InternalError()))


class Relay:
    """What happens to a request, step by step."""

    def __init__(
        self,
        gateway: Gateway,
        ledger: Ledger,
        settings: RelaySettings,
        in_flight: InFlight,
        clock: Callable[[], float],
    ) -> None:
        self._gateway = gateway
        self._ledger = ledger
        self._settings = settings
        self._in_flight = in_flight
        self._clock = clock

    async def webhook(self, request: Request) -> Response:
        """`POST /webhook`."""
        github = "x-github-event" in request.headers
        # GitHub signs and sends no key: asking it for one would help nobody.
        principal = None if github and not _tokens(request) else await self._authenticate(request)
        if github or principal is None:
            raise _no_github()
        wait = self._read_query(request, ("wait",))["wait"]
        raw = await self._read_body(request)
        order, seen = await asyncio.to_thread(self._read, raw) if len(raw) > OFF_LOOP_BYTES else self._read(raw)
        delivery_id = agreed_delivery_id(order.delivery_id, _idempotency_key(request), "")
        job = Job(
            gateway=self._gateway,
            ledger=self._ledger,
            principal=principal,
            order=order,
            delivery_id=delivery_id,
            fingerprint=seen,
            base_url=base_url(request, self._settings),
            wait=wait,
            longest=self._settings.max_wait_seconds,
            clock=self._clock,
        )
        key = (principal.key_id, delivery_id) if delivery_id is not None else None
        answer, joined = await self._in_flight.run(job.run, key, seen)
        return response_of(replayed(answer) if joined else answer)

    async def task(self, request: Request) -> Response:
        """`GET /tasks/{task_id}`."""
        principal = await self._authenticate(request)
        query = self._read_query(request, ("wait", "output_offset", "stream"))
        wait = query.pop("wait")
        call = translate(COMMANDS["get_task"], {"task_id": request.path_params["task_id"], **query}, at="")
        with self._ledger.acting_as(principal, None):
            base = base_url(request, self._settings)
            answer = await call_tool(self._gateway, call, base, wait, self._settings.max_wait_seconds)
        return response_of(answer)

    async def _authenticate(self, request: Request) -> Principal:
        tokens = _tokens(request)
        if not tokens:
            message = "An API key is needed: send it as X-API-Key or as Authorization: Bearer."
            raise UnauthenticatedError(message, say="An API key is needed.")
        if len(tokens) > 1:
            message = "X-API-Key and Authorization give different keys. Send one of them."
            raise UnauthenticatedError(message, say="Two different keys were sent.")
        token = tokens.pop()
        known = await self._ledger.authenticate(token) if 0 < len(token) <= MAX_TOKEN_CHARACTERS else None
        if known is None:
            message = "This API key is not known here, or was revoked. Make one with: offhand key create NAME"
            raise UnauthenticatedError(message, say="That API key is not known here.")
        return known

    def _read_query(self, request: Request, known: tuple[str, ...]) -> dict[str, Any]:
        """The known query parameters, None where one was not given; `wait` always has a value."""
        query: dict[str, Any] = dict.fromkeys(known)
        for name, value in request.query_params.multi_items():
            if name not in known:
                raise invalid(shown(name), f"The query {shown(name)} is not known here.", nearest(name, known))
            if query[name] is not None:
                raise invalid(name, f"The query {name} is given twice.", "Give it once.")
            query[name] = value
        query["wait"] = self._read_wait(query["wait"])
        offset = query.get("output_offset")
        if offset is not None:
            if not re.fullmatch("[0-9]{1,18}", offset):
                raise invalid("output_offset", "The query output_offset must be a whole number.", "Begin with 0.")
            query["output_offset"] = int(offset)
        return query

    def _read_wait(self, value: str | None) -> float:
        longest = self._settings.max_wait_seconds
        if value is None:
            return self._settings.wait_seconds
        if not _SECONDS.fullmatch(value) or float(value) > longest:
            message = f"The query wait must be a number of seconds from 0 to {longest:g}."
            raise invalid("wait", message, "Such as ?wait=10; poll the status_url for what takes longer.")
        return float(value)

    async def _read_body(self, request: Request) -> bytes:
        limit = self._settings.body_limit_bytes
        message = f"The body is larger than {limit} bytes. Send less at once."
        too_large = TooLargeError(message, say="That is too large to be sent at once.")
        announced = request.headers.get("content-length", "")
        if re.fullmatch("[0-9]+", announced) and (len(announced) > 18 or int(announced) > limit):
            raise too_large
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise too_large
        return bytes(body)

    def _read(self, raw: bytes) -> tuple[Order, str]:
        body = parse_body(raw)
        return read_order(body, self._settings.default_agent), fingerprint(body)


def base_url(request: Request, settings: RelaySettings) -> str:
    """Where this server is reached, without a closing slash: as configured, else as the request came in."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scope = request.scope
    root = quote(scope.get("app_root_path", scope.get("root_path", "")).rstrip("/"))
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        host = _address_of(scope.get("server"))
    return f"{scope['scheme']}://{host}{root}"


def _address_of(server: tuple[str, int | None] | None) -> str:
    if server is None or server[1] is None:
        return "localhost"
    name, port = server
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _tokens(request: Request) -> set[str]:
    """Every different key that the request gives. A scheme that is not known gives an empty one, which nobody has."""
    tokens = {value.strip() for value in request.headers.getlist("x-api-key")}
    for value in request.headers.getlist("authorization"):
        scheme, _, token = value.strip().partition(" ")
        tokens.add(token.strip() if scheme.lower() == "bearer" else "")
    return tokens


def _idempotency_key(request: Request) -> str | None:
    value = request.headers.get("idempotency-key")
    # The header is a quoted string in its specification, and a bare one in practice.
    if value is not None and len(value) > 1 and value.startswith('"') and value.endswith('"'):
        value = value[1:-1]
    return check_delivery_id(value, "Idempotency-Key")


def _no_github() -> RelayError:
    return invalid(
        "X-GitHub-Event",
        "GitHub deliveries are not accepted yet.",
        "Take this webhook out of the repository until a release says that they are.",
    )
