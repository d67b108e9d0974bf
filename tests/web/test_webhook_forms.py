"""The phone's way in, end to end: real HTTP semantics, the real relay, tools, executor, git and store."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_server.callers import DESK, calling_as
from mcp_server.delegation import Order
from mcp_server.runtime import Runtime
from mcp_server.tasks import FINAL
from mcp_server.web.app import open_app
from tests.hosting import hosted

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SESSION = "collaborative_session_command"


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone with a key of scopes read and submit."""

    client: httpx2.AsyncClient
    runtime: Runtime
    key_id: str

    async def post(self, body: Any, **query: Any) -> httpx2.Response:
        return await self.client.post("/webhook", json=body, params=query)

    async def ask(self, body: Any, **query: Any) -> dict[str, Any]:
        response = await self.post(body, **query)
        assert response.status_code in (200, 202), response.text
        return response.json()


@pytest.fixture
async def phone(runtime: Runtime) -> AsyncGenerator[Phone]:
    record, token = await runtime.keys.create("phone")
    async with hosted(open_app(runtime)) as (app, _):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers={"X-API-Key": token}, timeout=30
        ) as client:
            yield Phone(client, runtime, record["id"])


@pytest.fixture
def repository(workspace: Path) -> Path:
    """The workspace as a git repository with one commit."""
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.invalid"]
    (workspace / "a.txt").write_text("one\n")
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-q", "-m", "The first step"]):
        subprocess.run(["git", *command], cwd=workspace, check=True, capture_output=True)
    return workspace


def printed(name: str) -> Any:
    return json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))


async def test_the_printed_session_forms_make_what_they_say(phone: Phone) -> None:
    created = await phone.ask(printed("create_session"))
    assert created["ok"] is True
    assert created["result"]["id"] == "test_001"
    assert created["result"]["participants"] == ["claude", "user"]
    await phone.ask(printed("conversation_chunk"))
    memory = await phone.ask(printed("store_memory"))
    assert memory["result"]["key"] == "carbon_tracking"
    assert memory["result"]["tags"] == ["sustainability", "feature"]
    summary = await phone.ask({"type": SESSION, "command": "get_session_summary", "session_id": "test_001", "data": {}})
    assert summary["result"]["counts"] == {"chunks": 1, "memories": 1, "artifacts": 0, "tasks": 0, "open_tasks": 0}


async def test_a_task_for_an_agent_that_is_not_here_waits_and_says_so(phone: Phone) -> None:
    await phone.ask(printed("create_session"))
    response = await phone.post(printed("delegate_task"))
    answer = response.json()
    assert response.status_code == 202
    assert response.headers["Retry-After"].isdigit()
    assert answer["task_id"] == "task_001"
    assert answer["status_url"] == "http://127.0.0.1/tasks/task_001"
    assert (answer["result"]["status"], answer["result"]["reason"]) == ("queued", "agent_not_installed")
    assert "not installed" in answer["say"]


async def test_the_printed_batch_runs_git_and_keeps_a_memory(phone: Phone, repository: Path) -> None:
    await phone.ask(printed("create_session"))
    answer = await phone.ask(printed("batch"))
    assert [result["ok"] for result in answer["results"]] == [True, True]
    log = answer["results"][1]["result"]
    assert log["status"] == "completed"
    assert "The first step" in log["result"]["stdout"]


async def test_the_voice_command_form_needs_its_session(phone: Phone) -> None:
    missing = await phone.post(printed("voice_delegate_task"))
    assert missing.status_code == 404
    assert missing.json()["errors"][0]["field"] == "session_id"
    await phone.ask({"command": "create_session", "session_id": "voice_001", "data": {"title": "By voice"}})
    answer = await phone.ask(printed("voice_delegate_task"))
    assert answer["result"]["agent"] == "claude_code"
    assert answer["result"]["description"] == "Build a React dashboard component"


async def test_git_status_comes_back_in_the_same_response(phone: Phone, repository: Path) -> None:
    body = printed("task_command")
    body["data"]["params"]["working_dir"] = str(repository)
    answer = await phone.ask(body)
    assert answer["result"]["id"] == "git_status_001"
    assert answer["result"]["status"] == "completed"
    assert answer["result"]["result"]["returncode"] == 0
    assert "On branch main" in answer["result"]["result"]["stdout"]
    assert "main" in answer["say"]


async def test_the_printed_path_outside_the_workspaces_is_refused(phone: Phone) -> None:
    response = await phone.post(printed("task_command"))
    assert response.status_code == 403
    error = response.json()["errors"][0]
    assert error["field"] == "data.params.working_dir"
    assert "work" in error["fix"]


async def test_a_symlink_out_of_the_workspace_is_refused(phone: Phone, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (workspace / "door").symlink_to(tmp_path / "secret")
    data = {"action_type": "git", "working_dir": "door", "params": {"command": ["git", "status"]}}
    response = await phone.post({"type": "task_command", "data": data})
    assert response.status_code == 403


async def test_the_same_delivery_is_answered_once_and_repeated(phone: Phone, repository: Path) -> None:
    first = await phone.post(printed("webhook"))
    again = await phone.post(printed("webhook"))
    assert first.status_code == again.status_code == 200
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["result"]["number"] == first.json()["result"]["number"]
    changed = printed("webhook")
    changed["payload"]["data"]["params"]["command"] = ["git", "log"]
    assert (await phone.post(changed)).status_code == 409


async def test_the_same_webhook_five_times_at_once_makes_one_task(phone: Phone, repository: Path) -> None:
    answers = await asyncio.gather(*(phone.ask(printed("webhook")) for _ in range(5)))
    assert {answer["result"]["number"] for answer in answers} == {1}
    with calling_as(DESK):
        tasks, _ = await phone.runtime.tasks.list()
    assert [task.attempt for task in tasks] == [1]


async def test_the_same_task_id_five_times_at_once_makes_one_task(phone: Phone, repository: Path) -> None:
    body = printed("task_command")
    body["data"]["params"]["working_dir"] = str(repository)
    answers = await asyncio.gather(*(phone.ask(body) for _ in range(5)))
    assert {answer["result"]["number"] for answer in answers} == {1}
    assert sorted(answer["result"]["created"] for answer in answers) == [False] * 4 + [True]
    body["data"]["params"]["command"] = ["git", "log"]
    conflict = await phone.post(body)
    assert conflict.status_code == 409
    assert conflict.json()["existing"]["id"] == "git_status_001"


async def test_text_goes_to_the_default_agent(phone: Phone) -> None:
    answer = await phone.ask(printed("text"))
    assert answer["result"]["agent"] == "claude_code"
    assert answer["result"]["description"] == printed("text")["text"]


async def test_long_work_answers_202_and_is_polled_to_its_end(phone: Phone) -> None:
    data = {"action_type": "echo", "description": "done now", "params": {"sleep": 0.3}}
    response = await phone.post({"type": "task_command", "data": data}, wait=0)
    assert response.status_code == 202
    path = response.json()["status_url"].removeprefix("http://127.0.0.1")
    polled = await phone.client.get(path, params={"wait": 20})
    while polled.json()["result"]["status"] not in FINAL:
        polled = await phone.client.get(path, params={"wait": 20})
    assert polled.json()["result"]["result"]["text"] == "done now"
    assert polled.json()["say"]


async def test_a_failed_task_is_still_an_answer(phone: Phone) -> None:
    data = {"action_type": "echo", "params": {"fail": "no milk"}, "max_attempts": 1}
    response = await phone.post({"type": "task_command", "data": data})
    assert response.status_code == 200
    assert response.json()["ok"] is True
    assert response.json()["result"]["status"] == "failed"
    assert "no milk" in response.json()["say"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["git", "grep", "-O", "x"], 403),
        (["git", "-c", "alias.x=!sh", "x"], 403),
        ("git status", 422),
        ([], 422),
        (["no-such-program-here"], 422),
    ],
)
async def test_bad_git_commands_are_refused_and_nothing_is_kept(
    phone: Phone, repository: Path, command: Any, status: int
) -> None:
    response = await phone.post(
        {"type": "task_command", "data": {"action_type": "git", "params": {"command": command}}}
    )
    assert response.status_code == status
    problem = response.json()
    assert problem["ok"] is False
    assert problem["errors"][0]["field"].startswith("data.")
    assert problem["errors"][0]["fix"]
    with calling_as(DESK):
        assert await phone.runtime.tasks.list() == ([], None)


@pytest.mark.parametrize(("agent", "command"), [("shell", ["ls"]), ("git", ["git", "push"])])
async def test_what_a_phone_may_not_do_by_itself_waits_for_approval(
    phone: Phone, repository: Path, agent: str, command: list[str]
) -> None:
    response = await phone.post(
        {"type": "task_command", "data": {"action_type": agent, "params": {"command": command}, "workspace": "work"}}
    )
    assert response.status_code == 202
    said = response.json()
    assert said["result"]["status"] == "waiting_approval"
    assert "waits for your approval" in said["say"]
    assert said["status_url"].endswith(f"/tasks/{said['task_id']}")


async def test_the_record_names_the_key_and_the_delivery(phone: Phone) -> None:
    body = {"type": "webhook", "delivery_id": "d-9", "payload": {"command": "create_session", "data": {"title": "T"}}}
    answer = await phone.ask(body)
    expected = {"level": "phone", "name": "phone", "key_id": phone.key_id, "delivery_id": "d-9"}
    assert answer["result"]["created_by"] == expected


async def test_a_key_that_may_only_read_cannot_submit(phone: Phone) -> None:
    _, token = await phone.runtime.keys.create("reader", ["read"])
    headers = {"X-API-Key": token}
    refused = await phone.client.post("/webhook", json={"text": "do it"}, headers=headers)
    assert refused.status_code == 403
    allowed = await phone.client.post("/webhook", json={"command": "list_tasks"}, headers=headers)
    assert allowed.status_code == 200


async def test_wrong_and_missing_keys_are_told_who_to_be(phone: Phone) -> None:
    wrong = await phone.client.post("/webhook", json={"text": "x"}, headers={"X-API-Key": "ofh_wrong"})
    assert wrong.status_code == 401
    assert wrong.headers["WWW-Authenticate"].startswith("Bearer")
    del phone.client.headers["X-API-Key"]
    assert (await phone.client.post("/webhook", json={"text": "x"})).status_code == 401


async def test_an_old_answer_says_its_age(phone: Phone, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = printed("task_command")
    body["data"]["params"]["working_dir"] = str(repository)
    await phone.ask(body)
    monkeypatch.setattr("mcp_server.tools.speech.OLD_SECONDS", 0)
    assert (await phone.ask(body))["say"].startswith("From ")


async def test_a_phone_cannot_run_again_what_it_might_not_delegate(phone: Phone) -> None:
    with calling_as(DESK):
        order = Order(agent="shell", params={"command": ["false"]}, task_id="desk_only", max_attempts=1)
        task, _ = await phone.runtime.delegation.delegate(order)
        await phone.runtime.tasks.wait(task, 20, lambda now: now.final)
    response = await phone.post({"command": "retry_task", "data": {"task_id": "desk_only"}})
    assert response.status_code == 202
    with calling_as(DESK):
        assert (await phone.runtime.tasks.get("desk_only")).status == "waiting_approval"
