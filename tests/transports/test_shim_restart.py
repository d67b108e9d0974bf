"""The real server, stopped or killed and started again, under clients that follow what it has."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from mcp import MCPDeprecationWarning
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import ResourceListChangedNotification, ResourceUpdatedNotification

from tests.server.doors import ask, over_socket, through_shim
from tests.server.gate import Gate
from tests.server.processes import Place, ServerProcess
from tests.transports.shim_process import SHIM

RESTART_SECONDS = 30.0


@pytest.fixture
def place() -> Generator[Place]:
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        made = Place.make(Path(folder))
        yield made
        made.end_all()


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


def restarted(server: ServerProcess, how: str) -> ServerProcess:
    getattr(server, how)()
    server.close()
    return ServerProcess.start(server.place)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_client_that_follows_a_task_hears_of_its_end_though_the_server_was_restarted(
    place: Place, gate: Gate, how: str
) -> None:
    server = ServerProcess.start(place)
    async with asyncio.timeout(RESTART_SECONDS), through_shim(server) as client:
        command = {"command": ["sh", "-c", gate.snippet]}
        await ask(client, "delegate_task", task_id="t", agent="shell", params=command, workspace="work", wait=0)
        await gate.reached()
        async with client.listen(resource_subscriptions=["task://t"]) as events:
            server = restarted(server, how)
            assert await anext(events) == ResourceUpdated(uri="task://t")
            gate.go_on()
            while (await ask(client, "get_task", task_id="t"))["status"] != "completed":
                assert await anext(events) == ResourceUpdated(uri="task://t")
    server.close()


async def test_a_client_that_follows_the_list_hears_of_what_is_new_after_a_restart(place: Place) -> None:
    server = ServerProcess.start(place)
    async with (
        asyncio.timeout(RESTART_SECONDS),
        through_shim(server) as client,
        client.listen(resources_list_changed=True) as events,
    ):
        server = restarted(server, "stop")
        assert await anext(events) == ResourcesListChanged()
        async with over_socket(server.facts["mcp_socket"]) as another:
            await ask(another, "create_session", session_id="s", title="After")
        assert await anext(events) == ResourcesListChanged()
    server.close()


async def test_a_client_of_the_older_era_is_told_all_the_same(place: Place) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.put_nowait(str(message.params.uri))
        elif isinstance(message, ResourceListChangedNotification):
            heard.put_nowait("the list")

    server = ServerProcess.start(place)
    shim = StdioServerParameters(command=SHIM[0], args=SHIM[1:], env=place.environment())
    async with asyncio.timeout(RESTART_SECONDS), Client(shim, mode="legacy", message_handler=hear) as client:
        await ask(client, "create_session", session_id="s", title="Before")
        assert await heard.get() == "the list"
        with pytest.warns(MCPDeprecationWarning):
            await client.subscribe_resource("session://s")
        server = restarted(server, "kill")
        assert {await heard.get(), await heard.get()} == {"the list", "session://s"}
        async with over_socket(server.facts["mcp_socket"]) as another:
            await ask(another, "update_session", session_id="s", status="archived")
        assert {await heard.get(), await heard.get()} == {"the list", "session://s"}
    server.close()


async def test_a_server_that_was_stopped_on_purpose_stays_stopped_until_the_client_speaks(place: Place) -> None:
    server = ServerProcess.start(place)
    shim = StdioServerParameters(command=SHIM[0], args=SHIM[1:], env=place.environment(OFFHAND_PORT="0"))
    async with (
        asyncio.timeout(RESTART_SECONDS),
        Client(shim) as client,
        client.listen(resources_list_changed=True) as events,
    ):
        server.stop()
        server.close()
        assert not (place.home / "server.json").exists()
        assert (await ask(client, "list_sessions"))["items"] == []
        assert (place.home / "server.json").exists()
        assert await anext(events) == ResourcesListChanged()
