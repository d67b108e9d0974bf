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

from relay_adapter.answers import (
    Answer,
    answer_of,
    batch_answer,
    problem_of,
    replayed,
    response_of,
    stored_answer,
    tool_problem,
)
from relay_adapter.body import fingerprint, parse_body
from relay_adapter.commands import COMMANDS, ToolCall, translate
from relay_adapter.envelope import Order, agreed_delivery_id, check_delivery_id, read_order
from relay_adapter.errors import (
    ConflictError,
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
from relay_adapter.openapi import docs_routes
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
    in_flight: InFlight[Answer] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Route]:
    """The routes of the relay.

    `client` is an entered in-memory MCP client. Whoever gives `in_flight` closes it (`aclose`) before the client, so
    that what was asked for ends cleanly. `clock` gives seconds, for the deadline that a batch shares.
    """
    relay = Relay(Gateway(client), ledger, settings, in_flight or InFlight[Answer](), clock)
    return [
        Route("/webhook", Endpoint(relay.webhook, "POST", "Send a POST with a JSON body. /docs shows how.")),
        Route("/tasks/{task_id:path}", Endpoint(relay.task, "GET, HEAD", "Read a task with GET.")),
        *(
            Route(path, Endpoint(handler, "GET, HEAD", "Read this with GET."))
            for path, handler in docs_routes(lambda request: base_url(request, settings))
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
                raise MethodError(f"This address does not take {shown(request.method)}. {self._hint}", allowed=self._allowed)
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
        in_flight: InFlight[Answer],
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
        if github and not _tokens(request):
            # GitHub signs and sends no key: telling it who it must be would help nobody.
            raise _no_github()
        principal = await self._authenticate(request)
        if github:
            raise _no_github()
        wait = self._read_query(request, ("wait",))["wait"]
        raw = await self._read_body(request)
        order, print_ = await _off_loop(len(raw), lambda: self._read_order(raw))
        header_id = _delivery_id_of(request)
        delivery_id = agreed_delivery_id(order.delivery_id, header_id, "")
        job = Job(self, principal, delivery_id, order, wait, base_url(request, self._settings))
        key = (principal.key_id, delivery_id) if delivery_id is not None else None
        answer, joined = await self._in_flight.run(lambda: job.run(print_), key, print_)
        return response_of(replayed(answer) if joined else answer)

    async def task(self, request: Request) -> Response:
        """`GET /tasks/{task_id}`."""
        principal = await self._authenticate(request)
        query = self._read_query(request, ("wait", "output_offset", "stream"))
        data = {name: value for name, value in query.items() if value is not None and name != "wait"}
        call = translate(COMMANDS["get_task"], {"task_id": request.path_params["task_id"], **data}, at="")
        with self._ledger.acting_as(principal, None):
            answer = await self.call(call, query["wait"], base_url(request, self._settings))
        return response_of(answer)

    async def call(self, call: ToolCall, wait: float, base: str) -> Answer:
        """One tool call and its answer. `wait` is passed on where the tool takes one and the sender gave none."""
        arguments = dict(call.arguments)
        if call.tool.answers_task:
            own = min(arguments.get("wait", wait), self._settings.max_wait_seconds)
            arguments["wait"] = own
        answer = await self._gateway.call(call.tool.name, arguments)
        return tool_problem(call, answer.record) if answer.failed else answer_of(call, answer.record, base)

    def now(self) -> float:
        """Seconds on the relay's clock."""
        return self._clock()

    @property
    def ledger(self) -> Ledger:
        """Keys and deliveries."""
        return self._ledger

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
        too_large = TooLargeError(
            f"The body is larger than {limit} bytes. Send less at once.", say="That is too large to be sent at once."
        )
        announced = request.headers.get("content-length", "")
        if re.fullmatch("[0-9]{1,18}", announced) and int(announced) > limit:
            raise too_large
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise too_large
        return bytes(body)

    def _read_order(self, raw: bytes) -> tuple[Order, str]:
        body = parse_body(raw)
        return read_order(body, self._settings.default_agent), fingerprint(body)


class Job:
    """What one delivery asks for, from the ledger's first word to its last. Goes on when the sender hangs up."""

    def __init__(
        self, relay: Relay, principal: Principal, delivery_id: str | None, order: Order, wait: float, base: str
    ) -> None:
        self._relay = relay
        self._principal = principal
        self._delivery_id = delivery_id
        self._order = order
        self._wait = wait
        self._base = base

    async def run(self, print_: str) -> Answer:
        """The answer; never raises."""
        try:
            with self._relay.ledger.acting_as(self._principal, self._delivery_id):
                if self._delivery_id is None:
                    return await self._do(self._order.calls)
                return await self._once(self._delivery_id, print_)
        except RelayError as error:
            return problem_of(error)
        except Exception:
            logger.exception("A delivery failed")
            return problem_of(InternalError())

    async def _once(self, delivery_id: str, print_: str) -> Answer:
        ledger = self._relay.ledger
        delivery = await ledger.begin_delivery(self._principal, delivery_id, print_)
        if delivery.state == "conflict":
            message = "This delivery id came before with another body. Use a new id for a new request."
            raise ConflictError(message, say="That was sent before with other content.")
        if delivery.state == "answered" and delivery.status is not None and delivery.answer is not None:
            return replayed(await self._brought_up_to_date(stored_answer(delivery.status, delivery.answer)))
        calls = tuple(
            call.with_derived_id(self._principal.key_id, delivery_id, index)
            for index, call in enumerate(self._order.calls)
        )
        answer = await self._do(calls)
        if answer.final:
            try:
                await ledger.end_delivery(self._principal, delivery_id, answer.status, answer.body)
            except Exception:
                # The work is done and its ids are derived: the same delivery would find it again.
                logger.exception("The answer of a delivery could not be kept")
        return answer

    async def _do(self, calls: tuple[ToolCall, ...]) -> Answer:
        if not self._order.batch:
            return await self._answer(calls[0], self._wait)
        deadline = self._relay.now() + self._wait
        answers: list[Answer] = []
        for call in calls:
            answers.append(await self._answer_within(call, deadline))
            if not answers[-1].body["ok"] and not self._order.continue_on_error:
                break
        return batch_answer(calls, answers)

    async def _answer_within(self, call: ToolCall, deadline: float) -> Answer:
        """The waits of a batch share one deadline: a command gets what is left, whatever it asked for."""
        left = round(max(0.0, deadline - self._relay.now()), 3)
        if "wait" in call.arguments:
            left = min(left, call.arguments["wait"])
        return await self._answer(_with_wait(call, left), left) if call.tool.answers_task else await self._answer(call, left)

    async def _answer(self, call: ToolCall, wait: float) -> Answer:
        try:
            return await self._relay.call(call, wait, self._base)
        except RelayError as error:
            return problem_of(error)

    async def _brought_up_to_date(self, stored: Answer) -> Answer:
        """The stored answer, with the present state of every task that was not finished when it was given.

        The tasks are read, not asked for again: a retry or a cancel must not be done a second time.
        """
        if "results" not in stored.body:
            return await self._task_now(stored, self._wait) if "status_url" in stored.body else stored
        deadline = self._relay.now() + self._wait
        answers: list[Answer] = []
        for entry in stored.body["results"]:
            answer = stored_answer(200, {name: value for name, value in entry.items() if name != "command"})
            if "status_url" in entry:
                answer = await self._task_now(answer, round(max(0.0, deadline - self._relay.now()), 3))
            answers.append(answer)
        return batch_answer(self._order.calls, answers)

    async def _task_now(self, stored: Answer, wait: float) -> Answer:
        call = translate(COMMANDS["get_task"], {"task_id": stored.body["task_id"]})
        now = await self._answer(call, wait)
        if stored.status == 202 and "status_url" in now.body:
            return Answer(202, now.body, now.headers)
        return now


def base_url(request: Request, settings: RelaySettings) -> str:
    """Where this server is reached, without a closing slash: as configured, else as the request came in."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scope = request.scope
    root = quote(scope.get("app_root_path", scope.get("root_path", "")).rstrip("/"))
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        host = _address_of(scope.get("server"), scope["scheme"])
    return f"{scope['scheme']}://{host}{root}"


def _address_of(server: tuple[str, int | None] | None, scheme: str) -> str:
    if server is None or server[1] is None:
        return "localhost"
    name, port = server
    bracketed = f"[{name}]" if ":" in name else name
    return bracketed if port == {"http": 80, "https": 443}.get(scheme) else f"{bracketed}:{port}"


def _with_wait(call: ToolCall, wait: float) -> ToolCall:
    return ToolCall(call.command, call.tool, call.arguments | {"wait": wait}, call.sources, call.starts_work)


def _tokens(request: Request) -> set[str]:
    """Every different key that the request gives. A scheme that we do not know gives a wrong one."""
    tokens = {value.strip() for value in request.headers.getlist("x-api-key")}
    for value in request.headers.getlist("authorization"):
        scheme, _, token = value.strip().partition(" ")
        tokens.add(token.strip() if scheme.lower() == "bearer" else "")
    return tokens


def _delivery_id_of(request: Request) -> str | None:
    value = request.headers.get("idempotency-key")
    # The header is a quoted string in its specification, and a bare one in practice.
    if value is not None and len(value) > 1 and value.startswith('"') and value.endswith('"'):
        value = value[1:-1]
    return check_delivery_id(value, "Idempotency-Key")


def _no_github() -> RelayError:
    return invalid(
        "X-GitHub-Event",
        "GitHub deliveries are not accepted yet.",
        "Remove this webhook from the repository until a release says that they are.",
    )


async def _off_loop(size: int, read: Callable[[], tuple[Order, str]]) -> tuple[Order, str]:
    return await asyncio.to_thread(read) if size > OFF_LOOP_BYTES else read()
