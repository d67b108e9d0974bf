"""The Tasks extension: who gets a handle, what it can be followed with, and who does not get one."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from mcp import MCPError
from mcp.client.extension import advertise
from mcp_types import CallToolResult, Request, Result

from mcp_server.callers import DESK
from mcp_server.settings import PolicyRule, Settings
from mcp_server.task_extension import TASKS
from tests.server.conftest import DOORS
from tests.server.doors import DEADLINE_SECONDS, Door, ask, in_memory
from tests.server.processes import ServerProcess
from tests.server.task_client import FollowsTasks, Handle, TaskNotice, UnnamedTaskRequest, begin, call, end_of, send
from tests.server.test_tools import fresh

MODERN = pytest.mark.parametrize("connect", [door for door in DOORS if door.endswith("-auto")], indirect=True)
LEGACY = pytest.mark.parametrize("connect", [door for door in DOORS if door.endswith("-legacy")], indirect=True)

SLOW = {"sleep": 0.8}
ENDLESS = {"sleep": 50}


@MODERN
async def test_work_that_takes_time_is_answered_with_a_handle_and_followed_to_its_result(connect: Door):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        handle = await begin(client, agent="echo", description="Good morning", params=SLOW, wait=45)
        begun = await send(client, "tasks/get", taskId=handle.task_id)
        done = await end_of(client, handle.task_id)

    assert handle.wire["resultType"] == "task"
    assert handle.wire["status"] == begun["status"] == "working"
    assert (handle.wire["ttlMs"], handle.wire["pollIntervalMs"]) == (None, 1000)
    assert "Echo is still working on task" in handle.wire["statusMessage"]
    assert begun["resultType"] == done["resultType"] == "complete"
    assert not {"result", "error", "inputRequests", "requestState"} & begun.keys()
    assert begun["taskId"] == done["taskId"] == handle.task_id
    assert done["createdAt"] == handle.wire["createdAt"]
    assert datetime.fromisoformat(done["createdAt"]) < datetime.fromisoformat(done["lastUpdatedAt"])
    assert done["status"] == "completed"
    assert done["statusMessage"] == "Good morning."
    record = done["result"]["structuredContent"]
    assert (record["id"], record["status"], record["say"]) == (handle.task_id, "completed", "Good morning.")
    assert "link" in record
    assert done["result"]["isError"] is False
    assert json.loads(done["result"]["content"][0]["text"]) == record


@MODERN
async def test_our_failed_task_is_a_completed_call_with_an_error(connect: Door):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        handle = await begin(client, agent="echo", description="x", params=SLOW | {"fail": "the disk is full"})
        done = await end_of(client, handle.task_id)

    assert done["status"] == "completed"
    assert done["result"]["isError"] is True
    assert done["result"]["structuredContent"]["status"] == "failed"
    assert "disk is full" in done["statusMessage"]
    assert "error" not in done


@MODERN
async def test_what_is_done_in_a_moment_is_answered_at_once(connect: Door):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        done = await call(client, "delegate_task", agent="echo", description="Hello")
        failed = await call(client, "delegate_task", agent="echo", description="x", params={"fail": True})
        assert isinstance(done, CallToolResult)
        follow_up = await call(client, "continue_task", task_id=done.structured_content["id"], message="and you?")

    assert done.structured_content["say"] == "Hello."
    assert done.structured_content["created"] is True
    assert done.is_error is False
    assert isinstance(failed, CallToolResult)
    assert failed.structured_content["status"] == "failed"
    assert failed.is_error is True
    assert isinstance(follow_up, CallToolResult)
    assert follow_up.structured_content["status"] == "completed"


@MODERN
async def test_the_same_order_again_gives_the_same_handle(connect: Door):
    order: dict[str, Any] = {
        "agent": "echo",
        "description": "x",
        "params": ENDLESS,
        "task_id": fresh("task"),
        "wait": 0,
    }
    async with connect.open(extensions=[FollowsTasks()]) as client:
        first = await begin(client, **order)
        again = await begin(client, **order)
        await send(client, "tasks/cancel", taskId=first.task_id)

    assert first.task_id == again.task_id == order["task_id"]
    assert first.wire["createdAt"] == again.wire["createdAt"]


@MODERN
async def test_a_follow_up_behind_running_work_is_a_handle_too(connect: Door):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        first = await begin(client, agent="echo", description="x", params=ENDLESS)
        second = await call(client, "continue_task", task_id=first.task_id, message="and then?")
        assert isinstance(second, Handle)
        for task in (second, first):
            await send(client, "tasks/cancel", taskId=task.task_id)

    assert second.task_id != first.task_id
    assert second.wire["status"] == "working"
    assert "waits in the queue" in second.wire["statusMessage"]


@MODERN
async def test_cancelling_is_acknowledged_and_true_when_it_is_told(connect: Door):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        handle = await begin(client, agent="echo", description="x", params=ENDLESS)
        acknowledged = await send(client, "tasks/cancel", taskId=handle.task_id)
        done = await end_of(client, handle.task_id)
        again = await send(client, "tasks/cancel", taskId=handle.task_id)
        record = await ask(client, "get_task", task_id=handle.task_id)

    assert acknowledged["resultType"] == again["resultType"] == "complete"
    assert not {"taskId", "status"} & (acknowledged.keys() | again.keys())
    assert done["status"] == "cancelled"
    assert not {"result", "error"} & done.keys()
    assert record["status"] == "cancelled"


@MODERN
async def test_an_update_is_taken_and_changes_nothing(connect: Door):
    approval = {"approve": {"action": "accept", "content": {"approve": True}}}
    async with connect.open(extensions=[FollowsTasks()]) as client:
        before = await ask(client, "delegate_task", agent="echo", description="x", run_after=600)
        before.pop("created")
        task_id = before["id"]
        acknowledged = await send(client, "tasks/update", taskId=task_id, inputResponses=approval)
        after = await ask(client, "get_task", task_id=task_id)
        after.pop("attempts")
        with pytest.raises(MCPError) as unlike:
            await send(client, "tasks/update", taskId=task_id, inputResponses=["yes"])
        with pytest.raises(MCPError) as missing:
            await send(client, "tasks/update", taskId=task_id)
        await send(client, "tasks/cancel", taskId=task_id)

    assert acknowledged["resultType"] == "complete"
    assert "status" not in acknowledged
    assert without_say(after) == without_say(before)
    assert after["status"] == "scheduled"
    assert unlike.value.code == missing.value.code == -32602


def without_say(record: dict[str, Any]) -> dict[str, Any]:
    """Without the sentence that tells how long it still is."""
    return {name: value for name, value in record.items() if name != "say"}


@MODERN
async def test_what_waits_for_its_agent_or_its_time_is_answered_plainly(connect: Door):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        missing = await ask(client, "delegate_task", agent="codex", description="x")
        later = await ask(client, "delegate_task", agent="echo", description="x", run_after=600)
        followed = await send(client, "tasks/get", taskId=later["id"])
        for record in (missing, later):
            await send(client, "tasks/cancel", taskId=record["id"])

    assert (missing["status"], missing["reason"]) == ("queued", "agent_not_installed")
    assert "is not installed" in missing["say"]
    assert later["status"] == "scheduled"
    assert followed["status"] == "working", "who asks all the same may follow it"
    assert "begins in" in followed["statusMessage"]


@pytest.mark.parametrize("answers", [{"approve": {"action": "accept", "content": {"decision": "approve"}}}, {}])
async def test_what_waits_for_the_user_is_answered_plainly_and_no_client_answers_for_them(
    settings: Settings, answers: dict[str, Any]
):
    asking = settings.model_copy(update={"policy": (PolicyRule(decision="ask"),)})
    async with in_memory(asking, extensions=[FollowsTasks()]) as client:
        waiting = await ask(client, "delegate_task", agent="echo", description="x")
        await send(client, "tasks/update", taskId=waiting["id"], inputResponses=answers)
        followed = await send(client, "tasks/get", taskId=waiting["id"])

    assert waiting["status"] == "waiting_approval"
    assert followed["status"] == "working"
    assert "waits for your approval" in followed["statusMessage"]


@MODERN
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"agent": "nobody", "description": "x"}, "agent"),
        ({"agent": "echo", "wait": 46}, "wait"),
        ({"agent": "echo", "wait": -1}, "wait"),
        ({"agent": "echo", "wait": True}, "wait"),
        ({"agent": "echo", "wait": "10"}, "wait"),
        ({"agent": "echo", "waiting": 1}, "waiting"),
        ({}, "agent"),
    ],
)
async def test_errors_of_the_call_are_plain_errors(connect: Door, arguments: dict[str, Any], field: str):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        result = await call(client, "delegate_task", **arguments)

    assert isinstance(result, CallToolResult)
    assert result.is_error is True
    assert result.structured_content["ok"] is False
    assert result.structured_content["errors"][0]["field"] == field


@MODERN
async def test_whoever_does_not_declare_the_extension_gets_the_plain_answer(connect: Door):
    task_id = fresh("task")
    async with connect.open() as client:
        plain = await ask(client, "delegate_task", agent="echo", description="x", params=SLOW, task_id=task_id)
        refusals = [await refusal(client, method, task_id) for method in ("tasks/get", "tasks/cancel", "tasks/update")]

    assert plain["status"] == "completed"
    for error in refusals:
        assert error.code == -32021
        assert error.data == {"requiredCapabilities": {"extensions": {TASKS: {}}}}


@LEGACY
async def test_the_older_era_knows_no_handles_even_where_they_are_declared(connect: Door):
    task_id = fresh("task")
    async with connect.open(extensions=[advertise(TASKS)]) as client:
        plain = await ask(client, "delegate_task", agent="echo", description="x", params=SLOW, task_id=task_id)
        refusals = [await refusal(client, method, task_id) for method in ("tasks/get", "tasks/cancel", "tasks/update")]

    assert plain["status"] == "completed"
    assert {error.code for error in refusals} == {-32601}


async def refusal(client: Any, method: str, task_id: str, **params: Any) -> MCPError:
    responses = {"inputResponses": {}} if method == "tasks/update" else {}
    with pytest.raises(MCPError) as caught:
        await send(client, method, taskId=task_id, **responses, **params)
    return caught.value


@MODERN
@pytest.mark.parametrize("method", ["tasks/get", "tasks/cancel", "tasks/update"])
async def test_only_ids_that_were_given_out_are_taken(connect: Door, method: str):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        await ask(client, "delegate_task", agent="codex", description="x")
        strange = ["task_unknown", "1", "9" * 30, "../etc/passwd", "a" * 10_000, "", "task 7", "täsk"]
        errors = [await refusal(client, method, task_id) for task_id in strange]

    for error in errors:
        assert error.code == -32602
        assert error.data["errors"][0]["field"] == "taskId"


@MODERN
@pytest.mark.parametrize("task_id", [7, None, ["task"], {}])
async def test_an_id_that_is_no_text_is_refused(connect: Door, task_id: Any):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        with pytest.raises(MCPError) as caught:
            await send(client, "tasks/get", UnnamedTaskRequest, taskId=task_id)

    assert caught.value.code == -32602


async def test_a_key_that_may_only_read_follows_a_task_and_does_not_cancel_it(settings: Settings):
    async with in_memory(settings) as client:
        made = await ask(client, "delegate_task", agent="echo", description="x", run_after=600)
    reader = replace(DESK, scopes=frozenset({"read"}))
    async with in_memory(settings, caller=reader, extensions=[FollowsTasks()]) as client:
        seen = await send(client, "tasks/get", taskId=made["id"])
        errors = [await refusal(client, method, made["id"]) for method in ("tasks/cancel", "tasks/update")]
        refused = await call(client, "delegate_task", agent="echo", description="x")
    approver = replace(DESK, scopes=frozenset({"approve"}))
    async with in_memory(settings, caller=approver, extensions=[FollowsTasks()]) as client:
        unread = await refusal(client, "tasks/get", made["id"])

    assert seen["status"] == "working"
    assert isinstance(refused, CallToolResult)
    assert refused.is_error is True
    for error, scope in ((errors[0], "submit"), (errors[1], "submit"), (unread, "read")):
        assert error.data["status"] == 403
        assert scope in error.data["detail"]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/cancel", "tasks/update"])
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("{id}", 200, None),
        ("  {id} ", 200, None),
        ("task_other", 400, -32020),
        ("{id}x", 400, -32020),
        ("", 400, -32020),
        (None, 400, -32020),
    ],
)
def test_over_http_the_name_header_must_be_the_id(
    server: ServerProcess, method: str, name: str | None, status: int, code: int | None
):
    task_id = fresh("task")
    order = {"agent": "codex", "description": "x", "task_id": task_id}
    made = post(server, "tools/call", {"name": "delegate_task", "arguments": order}, "delegate_task")
    params = {"taskId": task_id} | ({"inputResponses": {}} if method == "tasks/update" else {})
    answer = post(server, method, params, None if name is None else name.format(id=task_id))

    assert made[1]["result"]["structuredContent"]["id"] == task_id
    assert (answer[0], answer[1].get("error", {}).get("code")) == (status, code)
    assert code is not None or answer[1]["result"]["resultType"] == "complete"


def post(server: ServerProcess, method: str, params: dict[str, Any], name: str | None) -> tuple[int, dict[str, Any]]:
    """One request of the modern era, with the name header as given: clients would put it right."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}},
    }
    headers = {
        "Authorization": f"Bearer {server.key}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
    }
    if name is not None:
        headers["Mcp-Name"] = name
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": meta}}
    with closing(HTTPConnection(urlsplit(server.url).netloc, timeout=DEADLINE_SECONDS)) as connection:
        connection.request("POST", "/mcp", json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.parametrize("connect", ["socket-auto", "http-auto"], indirect=True)
async def test_a_task_outlives_the_connection_that_got_its_handle(connect: Door):
    async with connect.open(extensions=[FollowsTasks()]) as client:
        handle = await begin(client, agent="echo", description="still here", params=SLOW)
    async with connect.open(extensions=[FollowsTasks()]) as client:
        done = await end_of(client, handle.task_id)

    assert done["result"]["structuredContent"]["result"]["text"] == "still here"


@MODERN
async def test_a_listening_client_is_told_of_the_end_with_the_result(connect: Door):
    told: asyncio.Queue[TaskNotice] = asyncio.Queue()
    async with connect.open(extensions=[FollowsTasks(told.put)]) as client:
        handle = await begin(client, agent="echo", description="Good morning", params=SLOW)
        listening = asyncio.create_task(client.session.send_request(listen(handle.task_id), Result))
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                notice = await told.get()
                while notice.model_extra["status"] == "working":
                    notice = await told.get()
        finally:
            listening.cancel()
            await asyncio.wait([listening])
        polled = await send(client, "tasks/get", taskId=handle.task_id)

    shown = dict(notice.model_extra)
    assert shown == {name: value for name, value in polled.items() if name not in ("resultType", "_meta")}
    assert shown["result"]["structuredContent"]["say"] == "Good morning."


def listen(*task_ids: str) -> Request[dict[str, Any], str]:
    return Request[dict[str, Any], str](
        method="subscriptions/listen", params={"notifications": {"taskIds": list(task_ids)}}
    )
