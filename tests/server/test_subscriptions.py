"""Who follows something is told when it changes: through every door, in both protocol eras."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import Result, SubscriptionFilter, SubscriptionsListenRequest, SubscriptionsListenRequestParams

from mcp_server import subscriptions
from mcp_server.callers import DESK, Caller, calling_as
from mcp_server.settings import Settings
from mcp_server.store.database import Event
from tests.hosting import hosted
from tests.server.doors import DEADLINE_SECONDS, Door, ask, in_memory, served_in_memory
from tests.server.listening import LIST, follower, following, subscribe, unsubscribe
from tests.server.task_client import FollowsTasks, Handle, TaskNotice, call, end_of
from tests.server.wires import HttpLegacy, HttpModern, Served, SocketModern, Wire, listen_request, serving, short_home

MODERN_WIRES: dict[str, type[Wire]] = {"socket": SocketModern, "http": HttpModern}


@pytest.fixture
async def served(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Served]:
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        async with hosted(serving(short_home(settings, Path(folder)), monkeypatch, 60.0)) as running:
            with calling_as(DESK):
                await running.runtime.sessions.create(id="s")
            yield running


def fresh(noun: str) -> str:
    """An id of our own: the live server is shared by all tests."""
    return f"{noun}_{uuid4().hex[:12]}"


async def refusal(client: Any, **wanted: Any) -> MCPError:
    """The error of a `subscriptions/listen`."""
    params = SubscriptionsListenRequestParams(notifications=SubscriptionFilter(**wanted))
    with pytest.raises(MCPError) as caught:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await client.session.send_request(SubscriptionsListenRequest(params=params), Result)
    return caught.value


async def test_who_follows_a_session_is_told_when_it_changes(connect: Door):
    session = fresh("ses")
    async with follower(connect) as (client, told):
        await ask(client, "create_session", session_id=session, title="One")
        async with following(client, told, f"session://{session}") as honoured:
            assert honoured == [f"session://{session}"]
            await ask(client, "update_session", session_id=session, title="Two")
            await told.until(f"session://{session}")
            await ask(client, "store_memory", session_id=session, type="idea", content="x")
            await told.until(f"session://{session}")


async def test_who_follows_a_task_is_told_by_the_addresses_that_it_wrote(connect: Door):
    session, task = fresh("s:es"), fresh("task")
    async with follower(connect) as (client, told):
        await ask(client, "create_session", session_id=session)
        made = await ask(
            client,
            "delegate_task",
            agent="echo",
            description="1",
            task_id=task,
            session_id=session,
            run_after=60,
            wait=0,
        )
        written = [
            f"task://{task}",
            f"task://{made['number']}",
            f"task://{task}?unknown=1",
            f"task://{task}/output?offset=3",
            f"session://{session}",
            f"session://{session.replace(':', '%3A')}",
        ]
        async with following(client, told, *written):
            await ask(client, "update_task", task_id=task, action="cancel")
            await told.until(*written)


async def test_who_follows_the_list_is_told_of_what_is_new(connect: Door):
    async with follower(connect) as (client, told), following(client, told, lists=True):
        await ask(client, "create_session", session_id=fresh("ses"), title="New")
        await told.until(LIST)


async def test_who_follows_what_a_session_holds_is_told_when_it_is_deleted(connect: Door):
    session = fresh("ses")
    async with follower(connect) as (client, told):
        await ask(client, "create_session", session_id=session)
        memory = await ask(client, "store_memory", session_id=session, type="idea", content="x")
        async with following(client, told, f"memory://{memory['id']}", f"session://{session}"):
            await ask(client, "delete", session_id=session)
            await told.until(f"memory://{memory['id']}", f"session://{session}")


async def test_what_does_not_exist_cannot_be_followed(connect: Door):
    async with follower(connect) as (client, told):
        for uri in ("task://not_there", "nothing://x", "session://../x", "task://" + "7" * 10_000):
            with pytest.raises(MCPError) as caught:
                async with following(client, told, uri):
                    pass
            assert caught.value.error.code == -32602
            assert caught.value.error.data["errors"][0]["field"] == "uri"


async def test_of_what_was_asked_the_server_names_what_it_follows(settings: Settings):
    async with in_memory(settings) as client:
        await ask(client, "create_session", session_id="s")
        async with client.listen(
            tools_list_changed=True,
            prompts_list_changed=True,
            resources_list_changed=True,
            resource_subscriptions=["session://s", "nothing://x", "session://s", "task://9", "session://s?limit=1"],
        ) as listening:
            assert listening.honored.model_dump(by_alias=True, exclude_none=True) == {
                "toolsListChanged": True,
                "promptsListChanged": True,
                "resourcesListChanged": True,
                "resourceSubscriptions": ["session://s", "session://s?limit=1"],
            }


async def test_who_asks_for_nothing_is_told_nothing_and_may_stay(settings: Settings):
    async with in_memory(settings) as client, client.listen() as listening:
        assert listening.honored.model_dump(exclude_none=True) == {}


async def test_the_older_era_is_told_of_the_list_and_no_more_of_what_was_unsubscribed(settings: Settings):
    door = Door("memory-legacy", {}, lambda **options: in_memory(settings, "legacy", **options))
    async with follower(door) as (client, told):
        capabilities = client.server_capabilities.resources
        assert capabilities is not None
        assert (capabilities.subscribe, capabilities.list_changed) == (True, True)
        assert client.server_capabilities.tools.list_changed
        assert client.server_capabilities.prompts.list_changed
        await ask(client, "create_session", session_id="s")
        await told.until(LIST)
        for uri in ("session://s", "session://s?limit=1"):
            await subscribe(client, uri)
        await unsubscribe(client, "session://s")
        await unsubscribe(client, "session://never_followed")
        await ask(client, "update_session", session_id="s", title="Two")
        assert await told.next() == "session://s?limit=1"
        await unsubscribe(client, "session://s?limit=1")
        await ask(client, "update_session", session_id="s", title="Three")
        await ask(client, "create_session", session_id="s2")
        assert await told.next() == LIST


async def test_tasks_are_followed_only_by_clients_that_declare_the_extension(settings: Settings):
    async with in_memory(settings) as client:
        made = await ask(client, "delegate_task", agent="echo", description="x")
        error = await refusal(client, taskIds=[made["id"]])
    assert error.error.code == -32021
    assert error.error.data["requiredCapabilities"]["extensions"] == {"io.modelcontextprotocol/tasks": {}}


async def test_a_task_that_ended_before_it_was_followed_is_told_at_once(settings: Settings):
    told: asyncio.Queue[TaskNotice] = asyncio.Queue()
    async with in_memory(settings, extensions=[FollowsTasks(told.put)]) as client:
        made = await call(client, "delegate_task", agent="echo", description="x")
        task = made.task_id if isinstance(made, Handle) else (made.structured_content or {})["id"]
        await end_of(client, task)
        wanted = SubscriptionFilter.model_validate({"taskIds": [task, "not_there"]})
        params = SubscriptionsListenRequestParams(notifications=wanted)
        listening = asyncio.create_task(client.session.send_request(SubscriptionsListenRequest(params=params), Result))
        async with asyncio.timeout(DEADLINE_SECONDS):
            notice = await told.get()
        listening.cancel()
        await asyncio.wait([listening])
    assert notice.model_extra is not None
    assert (notice.model_extra["taskId"], notice.model_extra["status"]) == (task, "completed")


@pytest.mark.parametrize("ids", ["task_1", [1], {"id": "task_1"}, [None]])
async def test_task_ids_that_are_none_are_refused(settings: Settings, ids: object):
    async with in_memory(settings) as client:
        error = await refusal(client, taskIds=ids)
    assert error.error.code == -32602
    assert error.error.data["errors"][0]["field"] == "taskIds"


@pytest.mark.parametrize("connect", ["memory-auto", "memory-legacy"], indirect=True)
async def test_one_stream_follows_a_thousand_things_and_no_more(connect: Door):
    session = fresh("ses")
    async with follower(connect) as (client, told):
        await ask(client, "create_session", session_id=session)
        uris = [f"session://{session}?limit={number}" for number in range(subscriptions.FOLLOWED_LIMIT)]
        async with following(client, told, *uris) as honoured:
            assert honoured == uris
            with pytest.raises(MCPError) as caught:
                async with following(
                    client, told, *(uris if client.protocol_version > "2026" else []), f"session://{session}"
                ):
                    pass
    assert caught.value.error.code == -32602
    assert "1000" in caught.value.error.message


@pytest.mark.parametrize("limit", ["STREAMS_PER_CALLER_LIMIT", "SUBSCRIPTIONS_LIMIT"])
async def test_too_many_streams_are_refused_until_one_ends(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, limit: str
):
    monkeypatch.setattr(subscriptions, limit, 1)
    async with in_memory(settings) as client:
        async with client.listen(resources_list_changed=True):
            error = await refusal(client, resources_list_changed=True)
        assert error.error.data["status"] == 503
        async with client.listen(resources_list_changed=True) as listening:
            assert listening.honored.resources_list_changed


async def test_a_connection_of_the_older_era_is_refused_beyond_the_limit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS_LIMIT", 0)
    async with in_memory(settings, "legacy") as client:
        await ask(client, "create_session", session_id="s")
        with pytest.raises(MCPError) as caught:
            await subscribe(client, "session://s")
    assert caught.value.error.data["status"] == 503


async def test_who_may_not_read_may_not_follow(settings: Settings):
    caller = Caller("phone", "writer", frozenset({"submit"}), key_id="key_1")
    async with served_in_memory(settings, caller=caller) as (client, runtime):
        error = await refusal(client, resources_list_changed=True)
        assert error.error.data["status"] == 403
        assert runtime.live.subscriptions == 0
    async with served_in_memory(settings, "legacy", caller=caller) as (client, runtime):
        with pytest.raises(MCPError) as caught:
            await subscribe(client, "agent://echo")
        assert caught.value.error.data["status"] == 403
        assert runtime.live.subscriptions == 0


@pytest.mark.parametrize("wire", MODERN_WIRES.values(), ids=MODERN_WIRES)
async def test_when_the_server_stops_a_stream_tells_what_is_left_and_ends_with_its_result(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, wire: type[Wire]
):
    uris = [f"agent://echo?{number}=" for number in range(50)]
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        async with serving(short_home(settings, Path(folder)), monkeypatch, 60.0) as served:
            client = wire(served)
            await client.follow(*uris, lists=True)
            served.runtime.events.publish(Event(1, 1, "task.running", "task://t", None, {"agent": "echo"}))
        assert await client.told_all(*uris) == uris
        result = (await client.receive())["result"]
    assert result["resultType"] == "complete"
    assert result["_meta"]["io.modelcontextprotocol/subscriptionId"] == 1
    client.vanish()


async def test_what_is_told_carries_the_id_of_the_stream(served: Served):
    client = SocketModern(served)
    await client.follow("session://s")
    client.writer.write(
        json.dumps({"jsonrpc": "2.0"} | listen_request("session://s", request_id="two")).encode() + b"\n"
    )
    await client.acknowledged()
    with calling_as(DESK):
        await served.runtime.sessions.update("s", title="Two")
    told = [await client.told(), await client.told()]
    assert {message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] for message in told} == {1, "two"}
    client.vanish()


async def test_a_stream_that_the_client_cancels_ends(served: Served):
    client = SocketModern(served)
    await client.follow("session://s")
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    client.writer.write(json.dumps(cancel).encode() + b"\n")
    await served.runtime.live.ended(DEADLINE_SECONDS)
    assert served.runtime.live.subscriptions == 0
    client.vanish()


async def test_a_stream_ends_with_the_key_that_opened_it(served: Served):
    client = HttpModern(served)
    await client.follow("session://s")
    with calling_as(DESK):
        await served.runtime.sessions.delete("s")
        await served.runtime.keys.revoke(served.key_name)
    assert await client.told_all("session://s") == ["session://s"]
    assert "result" in await client.receive()
    assert served.runtime.live.subscriptions == 0
    client.vanish()


async def test_over_http_the_older_era_is_told_what_it_missed_when_it_opens_its_stream(served: Served):
    client = HttpLegacy(served)
    await client.come("session://s")
    with calling_as(DESK):
        await served.runtime.sessions.update("s", title="Two")
        await served.runtime.sessions.create(id="s2")
    await client.open_stream()
    await client.told_all("session://s", "the list")
    client.vanish()
