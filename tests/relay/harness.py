"""What the relay's tests stand on: a real MCP server with recording tools, a ledger in memory, real HTTP semantics."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult, TextContent
from starlette.applications import Starlette

from relay_adapter.inflight import InFlight
from relay_adapter.ledger import Delivery, Principal
from relay_adapter.relay import build_routes
from relay_adapter.settings import RelaySettings

KEY = "ofh_test_key"
OTHER_KEY = "ofh_other_key"
BASE_URL = "http://desk.test:8787"

# From the plan of the tools; "!" marks what is required.
CONTRACT = {
    "create_session": "session_id title participants metadata",
    "get_session": "session_id!",
    "list_sessions": "status query include_archived limit cursor",
    "update_session": "session_id! title participants metadata status",
    "delete": "session_id memory_id artifact_id",
    "add_conversation": "session_id! content! chunk_id format",
    "store_memory": "type! content! key tags session_id memory_id",
    "search": "query kind type tag session_id id limit cursor",
    "add_artifact": "name! content! type encoding session_id task_id artifact_id",
    "delegate_task": "agent! description params workspace working_dir session_id task_id task_type priority lane"
    " run_after timeout_seconds max_attempts wait",
    "get_task": "task_id! wait output_offset stream",
    "list_tasks": "status agent session_id lane query limit cursor",
    "update_task": "task_id! action priority lane wait",
    "continue_task": "task_id! message! new_task_id wait",
    "list_agents": "",
}
TASK_TOOLS = ("delegate_task", "get_task", "update_task", "continue_task")

Arguments = dict[str, Any]
Behaviour = Callable[[Arguments], Awaitable[dict[str, Any] | CallToolResult]]

_acting: ContextVar[tuple[str, str | None] | None] = ContextVar("acting", default=None)


def task_record(task_id: str = "t1", status: str = "completed", **more: Any) -> dict[str, Any]:
    """A task as a tool would answer it."""
    return {
        "id": task_id,
        "number": 7,
        "agent": "git",
        "status": status,
        "say": f"The task is {status}.",
        "link": None,
        "result": {"text": "clean", "returncode": 0},
    } | more


def problem_record(status: int, slug: str, *fields: str, **more: Any) -> dict[str, Any]:
    """An error as a tool would report it."""
    return {
        "ok": False,
        "type": f"urn:offhand:problem:{slug}",
        "title": slug,
        "status": status,
        "detail": "It did not work.",
        "say": "It did not work.",
        "errors": [{"field": name, "message": "No.", "fix": "Try another."} for name in fields],
    } | more


def problem_result(status: int, slug: str, *fields: str, **more: Any) -> CallToolResult:
    """The same, as the result of a call."""
    return CallToolResult(
        content=[TextContent(text="It did not work.")],
        structured_content=problem_record(status, slug, *fields, **more),
        is_error=True,
    )


class FakeTools:
    """15 tools that record how they were called. `script[name]` replaces what one of them does."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Arguments]] = []
        self.acting: list[tuple[str, str | None] | None] = []
        self.script: dict[str, Behaviour] = {}

    def server(self) -> MCPServer:
        """The server with all of them."""
        server = MCPServer("fake", version="0")
        for name, arguments in CONTRACT.items():
            server.tool(name=name)(self._tool(name, arguments.split()))
        return server

    def _tool(self, name: str, arguments: list[str]) -> Callable[..., Awaitable[CallToolResult]]:
        async def call(**given: Any) -> CallToolResult:
            arguments = {name: value for name, value in given.items() if value is not None}
            self.calls.append((name, arguments))
            self.acting.append(_acting.get())
            behave = self.script.get(name)
            answer = await behave(arguments) if behave else self._answer(name, arguments)
            if isinstance(answer, CallToolResult):
                return answer
            return CallToolResult(content=[TextContent(text=answer["say"])], structured_content=answer)

        parameters = [
            inspect.Parameter(
                argument.rstrip("!"),
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if argument.endswith("!") else None,
                annotation=Any,
            )
            for argument in arguments
        ]
        call.__signature__ = inspect.Signature(parameters, return_annotation=CallToolResult)  # pyright: ignore[reportFunctionMemberAccess]
        call.__annotations__ = {each.name: Any for each in parameters} | {"return": CallToolResult}
        return call

    def _answer(self, name: str, arguments: Arguments) -> dict[str, Any]:
        if name in TASK_TOOLS:
            task_id = arguments.get("new_task_id") or arguments.get("task_id") or "made_up"
            return task_record(task_id, session_id=arguments.get("session_id"))
        if name.startswith(("list", "search")):
            return {"items": [], "next_cursor": None, "say": "Nothing there.", "link": None}
        made = next((arguments[key] for key in ("session_id", "chunk_id", "memory_id") if key in arguments), "made_up")
        return {"id": made, "created": True, "say": "It is kept.", "link": None}


@dataclass
class MemoryLedger:
    """Keys and deliveries in a dict. `ended` holds what was kept, in order."""

    keys: dict[str, Principal]
    begun: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    kept: dict[tuple[str, str], Delivery] = field(default_factory=dict[tuple[str, str], Delivery])
    broken: Exception | None = None
    broken_end: Exception | None = None

    async def authenticate(self, token: str) -> Principal | None:
        return self.keys.get(token)

    @contextmanager
    def acting_as(self, principal: Principal, delivery_id: str | None) -> Generator[None]:
        token = _acting.set((principal.key_id, delivery_id))
        try:
            yield
        finally:
            _acting.reset(token)

    async def begin_delivery(self, principal: Principal, delivery_id: str, fingerprint: str) -> Delivery:
        if self.broken is not None:
            raise self.broken
        key = (principal.key_id, delivery_id)
        if self.begun.setdefault(key, fingerprint) != fingerprint:
            return Delivery("conflict")
        return self.kept.get(key, Delivery("new"))

    async def end_delivery(self, principal: Principal, delivery_id: str, status: int, answer: dict[str, Any]) -> None:
        if self.broken_end is not None:
            raise self.broken_end
        self.kept[principal.key_id, delivery_id] = Delivery("answered", status, answer)


@dataclass
class Clock:
    """Seconds that pass only when a test says so."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class RelayClient:
    """A phone: posts with a key, and sees what the tools were asked."""

    http: httpx2.AsyncClient
    tools: FakeTools
    ledger: MemoryLedger
    in_flight: InFlight
    clock: Clock

    @property
    def calls(self) -> list[tuple[str, Arguments]]:
        """What the tools were asked, in order."""
        return self.tools.calls

    async def post(
        self,
        json: Any = None,
        *,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> httpx2.Response:
        return await self.request("POST", "/webhook", json=json, content=content, headers=headers, params=params)

    async def get(
        self, path: str, *, headers: dict[str, str] | None = None, params: dict[str, str] | None = None
    ) -> httpx2.Response:
        return await self.request("GET", path, headers=headers, params=params)

    async def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> Any:
        """With the test's key, unless `headers` names one."""
        given = headers or {}
        named = {name.lower() for name in given}
        key = {} if named & {"x-api-key", "authorization"} else {"X-API-Key": KEY}
        return await self.http.request(method, path, headers=key | given, **more)

    async def anonymous(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Without any key."""
        return await self.http.request(method, path, **more)


def memory_ledger() -> MemoryLedger:
    """Two keys."""
    phone = Principal("key_phone", "phone", frozenset({"read", "submit"}))
    other = Principal("key_other", "other", frozenset({"read", "submit"}))
    return MemoryLedger({KEY: phone, OTHER_KEY: other})


@asynccontextmanager
async def served(
    settings: RelaySettings, *, root_path: str = "", base_url: str = BASE_URL, limit: int = 1000
) -> AsyncGenerator[RelayClient]:
    """A relay over recording tools."""
    tools, ledger, clock = FakeTools(), memory_ledger(), Clock()
    in_flight = InFlight(limit)
    async with Client(tools.server()) as client:
        routes = build_routes(client, ledger, settings, in_flight=in_flight, clock=clock)
        transport = httpx2.ASGITransport(app=Starlette(routes=routes), root_path=root_path)  # pyright: ignore[reportArgumentType]
        async with httpx2.AsyncClient(transport=transport, base_url=base_url) as http:
            yield RelayClient(http, tools, ledger, in_flight, clock)
        await in_flight.aclose(0)
