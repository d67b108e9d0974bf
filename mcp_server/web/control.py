"""`/api/status`, `/api/stop`, `/api/limits`: how the server is, its end, and how much it does at once."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_server.clock import iso
from mcp_server.errors import UnavailableError
from mcp_server.release import release
from mcp_server.runtime import Runtime
from mcp_server.settings import write_limit
from mcp_server.web.api import admin_only, read_body
from mcp_server.web.responses import json_response

DRAIN_LIMIT_SECONDS = 30 * 86400.0


class StopOrder(BaseModel):
    """The body of `POST /api/stop`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    drain: bool = False
    timeout_seconds: Annotated[float | None, Field(ge=0, le=DRAIN_LIMIT_SECONDS)] = None
    """With `drain`: stop after so long whatever still runs. None: wait as long as it takes."""


class NewLimit(BaseModel):
    """The body of `PUT /api/limits`. Without an agent: the limit for all together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    agent: str | None = None
    limit: int | None
    """None: back to the default of the agent."""


def control_routes(runtime: Runtime) -> list[Route]:
    """The routes under `/api` about the server itself."""
    control = _Control(runtime)
    return [
        Route("/status", admin_only(control.status), methods=["GET"]),
        Route("/stop", admin_only(control.stop), methods=["POST"]),
        Route("/limits", admin_only(control.limits), methods=["GET"]),
        Route("/limits", admin_only(control.change_limit), methods=["PUT"]),
    ]


class _Control:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._worker = runtime.worker
        self._writing = asyncio.Lock()

    async def status(self, request: Request) -> Response:
        return json_response(await self._status())

    async def stop(self, request: Request) -> Response:
        """Answers at once; the server ends afterwards. Asking again hurries it, never the other way round."""
        order = await read_body(request, StopOrder, "Send drain (true or false), and timeout_seconds with it.")
        if order.drain:
            self._drain(order.timeout_seconds)
        else:
            self._runtime.stop.set()
        return json_response(await self._status(), 202)

    async def limits(self, request: Request) -> Response:
        return json_response(await self._limits())

    async def change_limit(self, request: Request) -> Response:
        """Holds from now on, and in `offhand.toml` for the next start; either both or neither."""
        new = await read_body(request, NewLimit, "Send agent, and limit as a whole number.")
        async with self._writing:
            self._worker.check_limit(new.agent, new.limit)
            try:
                await asyncio.to_thread(write_limit, new.agent, new.limit)
            except OSError as error:
                message = f"The settings file cannot be written: {error}. Nothing was changed."
                raise UnavailableError(message, field="server") from None
            await self._worker.change_limit(new.agent, new.limit)
        return json_response(await self._limits())

    def _drain(self, seconds: float | None) -> None:
        if not self._worker.draining:
            self._worker.drain()
            self._runtime.live.group.start_soon(self._stop_when_drained)
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._runtime.stop.set)

    async def _stop_when_drained(self) -> None:
        await self._worker.drained()
        self._runtime.stop.set()

    async def _status(self) -> dict[str, Any]:
        agents = await self._worker.agents()
        stopping = self._runtime.stop.is_set()
        adopted = self._runtime.adopted
        return {
            "status": "stopping" if stopping else "draining" if self._worker.draining else "serving",
            "version": release(),
            "pid": os.getpid(),
            "started_at": iso(self._worker.started_at),
            "running": self._worker.running,
            "queued": sum(agent["queued"] for agent in agents),
            "limit": self._worker.limits.overall,
            "found": {
                "running": adopted.running,
                "finished": adopted.finished,
                "interrupted": adopted.interrupted,
                "not_begun": adopted.not_begun,
                "say": adopted.say,
            },
        }

    async def _limits(self) -> dict[str, Any]:
        own = self._worker.limits_set()
        names = ("name", "limit", "running", "queued", "installed")
        return {
            "limit": self._worker.limits.overall,
            "running": self._worker.running,
            "items": [
                {name: agent[name] for name in names} | {"set": own[agent["name"]]}
                for agent in await self._worker.agents()
            ],
        }
