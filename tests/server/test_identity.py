"""Who is calling: the desk over the socket, a key over HTTP; what each may do, and that nobody is taken for another."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mcp_server.callers import DESK, Caller
from mcp_server.settings import PolicyRule, Settings
from tests.server.doors import Door, ask, in_memory, over_http, over_socket, refused
from tests.server.processes import ServerProcess
from tests.server.test_tools import fresh

PHONE = Caller("phone", "phone", frozenset({"read", "submit"}), key_id="key_1")

WRITING = [
    ("create_session", {}),
    ("update_session", {"session_id": "s", "title": "x"}),
    ("delete", {"session_id": "s"}),
    ("add_conversation", {"session_id": "s", "content": "x"}),
    ("store_memory", {"type": "idea", "content": "x"}),
    ("add_artifact", {"name": "a", "content": "x"}),
    ("delegate_task", {"agent": "echo", "description": "x"}),
    ("update_task", {"task_id": "t", "action": "cancel"}),
    ("continue_task", {"task_id": "t", "message": "x"}),
]
READING = [
    ("list_sessions", {}),
    ("get_session", {"session_id": "s"}),
    ("search", {}),
    ("get_task", {"task_id": "t"}),
    ("list_tasks", {}),
    ("list_agents", {}),
]


async def test_the_record_says_through_which_door_and_with_which_key_it_was_made(connect: Door, server: ServerProcess):
    async with connect.open() as client:
        made = await ask(client, "delegate_task", agent="echo", description="who am I", task_id=fresh("task"))

    by = dict(made["created_by"])
    key_id = by.pop("key_id", None)
    assert by == connect.caller
    assert (key_id is not None) == (connect.caller["level"] == "phone")


async def test_what_the_caller_claims_of_itself_is_not_believed(server: ServerProcess):
    async with over_http(server.url, server.key) as client:
        result = await client.call_tool(
            "delegate_task",
            {"agent": "echo", "description": "x"},
            meta={"offhand.caller": "desk", "caller": {"level": "desk"}},
        )

    assert result.structured_content is not None
    assert result.structured_content["created_by"]["level"] == "phone"


async def test_a_key_that_may_only_read_changes_nothing(settings: Settings):
    async with in_memory(settings) as client:
        await ask(client, "create_session", session_id="s")
        await ask(client, "delegate_task", agent="echo", description="x", task_id="t")
        before = await ask(client, "search", limit=100)

    reader = replace(PHONE, name="reader", scopes=frozenset({"read"}))
    async with in_memory(settings, caller=reader) as client:
        errors = [await refused(client, tool, **arguments) for tool, arguments in WRITING]
        after = await ask(client, "search", limit=100)

    for error in errors:
        assert error["status"] == 403
        assert "submit" in error["detail"]
        assert "offhand key create" in error["errors"][0]["fix"]
    assert after["items"] == before["items"]


async def test_a_key_that_may_only_approve_neither_reads_nor_submits(settings: Settings):
    approver = replace(PHONE, scopes=frozenset({"approve"}))
    async with in_memory(settings, caller=approver) as client:
        errors = [await refused(client, tool, **arguments) for tool, arguments in READING + WRITING]

    assert {error["status"] for error in errors} == {403}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_over_http_a_reading_key_reads_and_is_refused_to_submit(server: ServerProcess, mode: str):
    key = server.make_key(fresh("reader"), "read")
    async with over_http(server.url, key, mode) as client:
        await ask(client, "list_tasks")
        error = await refused(client, "delegate_task", agent="echo", description="x")

    assert error["status"] == 403
    assert error["type"] == "urn:offhand:problem:forbidden"


async def test_a_phone_may_read_with_git_and_everything_else_waits_for_approval(
    settings: Settings, git_repository: None
):
    async with in_memory(settings, caller=PHONE) as client:
        status = await ask(client, "delegate_task", agent="git", params={"command": ["git", "status", "--short"]})
        waiting = [
            await ask(client, "delegate_task", agent="git", params={"command": ["git", "add", "new.txt"]}),
            await ask(client, "delegate_task", agent="git", params={"command": ["git", "push"]}),
            await ask(client, "delegate_task", agent="shell", params={"command": ["ls"]}),
        ]
        tasks = await ask(client, "list_tasks", status="waiting_approval")

    assert status["status"] == "completed"
    assert "new.txt" in status["result"]["stdout"]
    for task in waiting:
        assert (task["status"], task["attempt"], task["approval"]["about"]) == ("waiting_approval", 0, "task")
        assert "waits for your approval" in task["say"]
    assert [item["id"] for item in tasks["items"]] == [task["id"] for task in reversed(waiting)]


async def test_the_desk_may_do_what_a_phone_may_not(settings: Settings, git_repository: None):
    async with in_memory(settings, caller=DESK) as client:
        added = await ask(client, "delegate_task", agent="git", params={"command": ["git", "add", "new.txt"]})
        ran = await ask(client, "delegate_task", agent="shell", params={"command": ["echo", "hi"]})

    assert added["status"] == "completed", added
    assert ran["result"]["stdout"] == "hi\n"


async def test_a_rule_of_the_users_lets_the_phone_do_one_command_and_denies_another(settings: Settings):
    ruled = settings.model_copy(
        update={
            "policy": (
                PolicyRule(decision="deny", level="phone", agent="shell", command=("echo", "secret", "*")),
                PolicyRule(decision="allow", level="phone", agent="shell", command=("echo", "*")),
                PolicyRule(decision="deny", agent="echo"),
            )
        }
    )
    async with in_memory(ruled, caller=PHONE) as client:
        allowed = await ask(client, "delegate_task", agent="shell", params={"command": ["echo", "hi"]})
        denied = await refused(client, "delegate_task", agent="shell", params={"command": ["echo", "secret", "x"]})
        asked = await ask(client, "delegate_task", agent="shell", params={"command": ["ls"]})
        nobody = await refused(client, "delegate_task", agent="echo", description="x")

    assert allowed["result"]["stdout"] == "hi\n"
    assert (denied["status"], asked["status"], nobody["status"]) == (403, "waiting_approval", 403)
    assert "denied by the policy" in denied["detail"]


async def test_a_phone_does_not_go_on_in_a_conversation_that_it_may_not_begin(settings: Settings):
    ruled = settings.model_copy(update={"policy": (PolicyRule(decision="deny", level="phone", agent="echo"),)})
    async with in_memory(ruled) as client:
        begun = await ask(client, "delegate_task", agent="echo", description="desk")
    async with in_memory(ruled, caller=PHONE) as client:
        refusal = await refused(client, "continue_task", task_id=begun["id"], message="phone")

    assert refusal["status"] == 403


async def test_calls_of_two_keys_and_the_desk_at_once_never_get_each_others_name(server: ServerProcess):
    names = [fresh("key"), fresh("key")]
    keys = [server.make_key(name) for name in names]

    async def work(client: object, name: str) -> list[str]:
        made = await asyncio.gather(
            *(ask(client, "delegate_task", agent="echo", description=name, wait=0) for _ in range(10))  # type: ignore[arg-type]
        )
        return [record["created_by"]["name"] for record in made]

    async with (
        over_http(server.url, keys[0]) as first,
        over_http(server.url, keys[1], "legacy") as second,
        over_socket(server.facts["mcp_socket"]) as desk,
    ):
        found = await asyncio.gather(work(first, names[0]), work(second, names[1]), work(desk, "desk"))

    assert [set(each) for each in found] == [{names[0]}, {names[1]}, {"desk"}]


async def test_a_key_that_is_revoked_ends_in_the_middle_of_a_conversation(server: ServerProcess):
    import httpx2

    name = fresh("key")
    key = server.make_key(name)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(verify=False, timeout=10) as http:
        before = await http.post(f"{server.url}/mcp", json=body, headers=headers)
        async with httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=server.facts["http_socket"])) as desk:
            revoked = await desk.delete(f"http://offhand/api/keys/{name}")
        after = await http.post(f"{server.url}/mcp", json=body, headers=headers)

    assert before.status_code != 401
    assert revoked.status_code == 200
    assert after.status_code == 401


async def test_a_legacy_session_that_is_used_with_another_key_acts_as_that_key_or_not_at_all(server: ServerProcess):
    import httpx2

    mine, theirs = fresh("key"), fresh("key")
    my_key, their_key = server.make_key(mine), server.make_key(theirs)
    task = fresh("task")
    accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    async with httpx2.AsyncClient(verify=False, timeout=10, base_url=server.url, headers=accept) as http:
        opened = await http.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
            headers={"Authorization": f"Bearer {my_key}"},
        )
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
        await http.post(
            "/mcp",
            json={"jsonrpc": "2.0", "method": "notifications/initialized"},
            headers=session | {"Authorization": f"Bearer {my_key}"},
        )
        call = {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {
                "name": "delegate_task",
                "arguments": {"agent": "echo", "description": "whose", "task_id": task},
            },
        }
        without = await http.post("/mcp", json=call, headers=session)
        await http.post("/mcp", json=call, headers=session | {"Authorization": f"Bearer {their_key}"})
    async with over_socket(server.facts["mcp_socket"]) as desk:
        listed = await ask(desk, "search", query="whose", kind="task", limit=100)
        makers = [
            (await ask(desk, "get_task", task_id=item["id"]))["created_by"]["name"]
            for item in listed["items"]
            if item["id"] == task
        ]

    assert opened.status_code == 200
    assert without.status_code == 401
    assert makers in ([], [theirs])
