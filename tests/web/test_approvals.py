"""`/api/approvals`: who may decide, what of, and once. Everybody else, and every other way, changes nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.processes import ServerProcess
from tests.server.test_tools import fresh
from tests.web.test_http import ACCEPT, META, MODERN, assert_problem, bearer


@dataclass
class World:
    """A phone that asks, a key that approves, and the desk."""

    server: ServerProcess
    http: httpx2.Client
    desk: httpx2.Client
    approver: str

    def ask(self, *command: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        """The phone wants a command run; the task's id and the question."""
        task_id = fresh("asked")
        data = {"action_type": "shell", "params": {"command": list(command)}, "task_id": task_id, **fields}
        answer = self.http.post(
            "/webhook", json={"type": "task_command", "data": data}, headers=bearer(self.server.key)
        )
        assert answer.status_code == 202, answer.text
        assert answer.json()["result"]["status"] == "waiting_approval"
        return task_id, self.waiting(task_id)

    def waiting(self, task_id: str) -> dict[str, Any]:
        """What the desk sees of the question about a task."""
        items = self.desk.get("/api/approvals").json()["items"]
        approval_id = next(item["id"] for item in items if item["task_id"] == task_id)
        return self.desk.get(f"/api/approvals/{approval_id}").json()

    def decide(self, approval: dict[str, Any], decision: str, key: str | None = None) -> httpx2.Response:
        body = {"decision": decision, "hash": approval["hash"]}
        return self.http.post(f"/api/approvals/{approval['id']}", json=body, headers=bearer(key or self.approver))

    def still_waits(self, task_id: str) -> bool:
        return self.task(task_id)["status"] == "waiting_approval" and self.waiting(task_id)["status"] == "pending"

    def task(self, task_id: str, wait: int = 0) -> dict[str, Any]:
        """As the phone sees it."""
        data = {"task_id": task_id, "wait": wait}
        body = {"command": "get_task", "data": data}
        answer = self.http.post("/webhook", json=body, headers=bearer(self.server.key))
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    def finished(self, task_id: str) -> dict[str, Any]:
        """The task at its end."""
        for _ in range(20):
            task = self.task(task_id, wait=5)
            if task["status"] in ("completed", "failed", "cancelled"):
                return task
        raise AssertionError("it never ended")


@pytest.fixture
def world(server: ServerProcess, http: httpx2.Client, desk: httpx2.Client) -> Generator[World]:
    yield World(server, http, desk, server.make_key(fresh("approver"), "approve"))
    for item in desk.get("/api/approvals").json()["items"]:
        shown = desk.get(f"/api/approvals/{item['id']}").json()
        desk.post(f"/api/approvals/{item['id']}", json={"decision": "deny", "hash": shown["hash"]})


def test_what_the_phone_asked_for_runs_once_it_is_approved(world: World):
    made = world.server.place.workspace / fresh("made")
    task_id, approval = world.ask("touch", str(made))
    assert not made.exists()
    assert approval["action"]["argv"] == ["touch", str(made)]
    assert approval["action"]["cwd"] == str(world.server.place.workspace.resolve())
    assert approval["asked_by"]["level"] == "phone"
    decided = world.decide(approval, "approve")
    assert (decided.status_code, decided.json()["status"]) == (200, "approved")
    assert decided.json()["decided_by"]["name"].startswith("approver")
    assert world.finished(task_id)["status"] == "completed"
    assert made.exists()


def test_the_answer_says_that_it_waits_and_what_for(world: World):
    data = {"action_type": "shell", "params": {"command": ["touch", "x"]}}
    answer = world.http.post("/webhook", json={"type": "task_command", "data": data}, headers=bearer(world.server.key))
    said = answer.json()
    assert answer.status_code == 202
    assert int(answer.headers["retry-after"]) >= 30
    assert "waits for your approval" in said["say"]
    assert "touch x" in said["say"]
    assert set(said["result"]["approval"]) == {"id", "about", "say", "hash", "expires_at"}


def test_what_is_denied_never_runs(world: World):
    made = world.server.place.workspace / fresh("made")
    task_id, approval = world.ask("touch", str(made))
    assert world.decide(approval, "deny").status_code == 200
    task = world.finished(task_id)
    assert (task["status"], task["reason"], task["attempt"]) == ("cancelled", "denied", 0)
    assert not made.exists()


def test_the_desk_sees_and_decides_too(world: World):
    task_id, approval = world.ask("true")
    listed = world.desk.get("/api/approvals").json()["items"][0]
    assert listed == {name: value for name, value in approval.items() if name not in ("action", "hash", "diff")}
    body = {"decision": "approve", "hash": approval["hash"]}
    assert world.desk.post(f"/api/approvals/{approval['id']}", json=body).json()["decided_by"]["level"] == "desk"
    assert world.finished(task_id)["status"] == "completed"
    everything = world.desk.get("/api/approvals", params={"all": "true", "limit": "1"}).json()
    assert everything["items"][0]["status"] == "approved"
    assert everything["next_cursor"]


@pytest.mark.parametrize("scopes", [("read", "submit"), ("read",), ("admin",), ("admin", "read")])
def test_no_other_key_sees_or_decides(world: World, scopes: tuple[str, ...]):
    """Above all not the one who asked."""
    task_id, approval = world.ask("true")
    key = world.server.make_key(fresh("other"), *scopes)
    answers = [
        world.decide(approval, "approve", key),
        world.decide(approval, "deny", key),
        world.http.get("/api/approvals", headers=bearer(key)),
        world.http.get(f"/api/approvals/{approval['id']}", headers=bearer(key)),
    ]
    for answer in answers:
        assert "approve" in assert_problem(answer, 403, "forbidden")["detail"]
    assert world.still_waits(task_id)


def test_the_key_that_asked_does_not_decide(world: World):
    task_id, approval = world.ask("true")
    assert_problem(world.decide(approval, "approve", world.server.key), 403, "forbidden")
    assert world.still_waits(task_id)


def test_without_a_living_key_nobody_decides(world: World):
    task_id, approval = world.ask("true")
    ended = fresh("ended")
    revoked = world.server.make_key(ended, "approve")
    world.desk.delete(f"/api/keys/{ended}")
    for headers in ({}, bearer("wrong"), bearer(revoked)):
        body = {"decision": "approve", "hash": approval["hash"]}
        answer = world.http.post(f"/api/approvals/{approval['id']}", json=body, headers=headers)
        assert_problem(answer, 401, "unauthenticated")
    assert world.still_waits(task_id)


def test_no_page_of_another_site_decides(world: World):
    task_id, approval = world.ask("true")
    body = {"decision": "approve", "hash": approval["hash"]}
    foreign: list[tuple[dict[str, str], int]] = [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 421),
    ]
    for headers, status in foreign:
        given = bearer(world.approver) | headers
        assert world.http.post(f"/api/approvals/{approval['id']}", json=body, headers=given).status_code == status
    assert world.still_waits(task_id)


def test_a_key_that_approves_does_nothing_else(world: World):
    task_id, _ = world.ask("true")
    key = bearer(world.approver)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    arguments = {"task_id": task_id, "action": "cancel"}
    params = {"name": "update_task", "arguments": arguments, "_meta": META}
    headers = MODERN | key | {"Mcp-Method": "tools/call", "Mcp-Name": "update_task"}
    called = world.http.post("/mcp", json=call | {"params": params}, headers=headers)
    assert called.json()["result"]["structuredContent"]["status"] == 403, called.text
    read = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "resources/read",
        "params": {"uri": f"task://{task_id}", "_meta": META},
    }
    headers = MODERN | key | {"Mcp-Method": "resources/read", "Mcp-Name": f"task://{task_id}"}
    assert "error" in world.http.post("/mcp", json=read, headers=headers).json()
    refused = [
        world.http.post("/webhook", json={"command": "list_tasks"}, headers=key),
        world.http.post("/webhook", json={"text": "do it"}, headers=key),
        world.http.get(f"/tasks/{task_id}", headers=key),
        world.http.get("/api/keys", headers=key),
        world.http.post("/api/keys", json={"name": "mine"}, headers=key),
        world.http.get("/api/status", headers=key),
        world.http.post("/api/stop", json={}, headers=key),
        world.http.put("/api/limits", json={"limit": 1}, headers=key),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused), [a.text for a in refused]
    assert world.still_waits(task_id)


def test_a_get_never_decides(world: World):
    """Previews follow links, and so do those who were told to."""
    task_id, approval = world.ask("true")
    path, key = f"/api/approvals/{approval['id']}", bearer(world.approver)
    body = {"decision": "approve", "hash": approval["hash"]}
    answers: list[tuple[httpx2.Response, int]] = [
        (world.http.get(path, params=body, headers=key), 422),
        (world.http.request("GET", path, json=body, headers=key), 200),
        (world.http.request("GET", path, json=body, headers=key | {"X-HTTP-Method-Override": "POST"}), 200),
        (world.http.request("HEAD", path, headers=key), 200),
        (world.http.get(f"{path}/approve", headers=key), 404),
        (world.http.get("/api/approvals", params=body, headers=key), 422),
        (world.http.request("PUT", path, json=body, headers=key), 405),
        (world.http.request("PATCH", path, json=body, headers=key), 405),
        (world.http.request("DELETE", path, headers=key), 405),
        (world.http.post("/api/approvals", json=body, headers=key), 405),
    ]
    assert [answer.status_code for answer, _ in answers] == [status for _, status in answers]
    assert set(answers[-2][0].headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert world.still_waits(task_id)


BODIES: list[tuple[Any, int]] = [
    (b"", 422),
    (b"{", 400),
    (b"[]", 422),
    (b"null", 422),
    (b'"approve"', 422),
    (b"\xff", 400),
    ({"decision": "approve"}, 422),
    ({"hash": "HASH"}, 422),
    ({"decision": "approved", "hash": "HASH"}, 422),
    ({"decision": "APPROVE", "hash": "HASH"}, 422),
    ({"decision": True, "hash": "HASH"}, 422),
    ({"decision": ["approve"], "hash": "HASH"}, 422),
    ({"decision": "approve", "hash": None}, 422),
    ({"decision": "approve", "hash": ["HASH"]}, 422),
    ({"decision": "approve", "hash": "HASH", "action": {"argv": ["rm"]}}, 422),
    ({"decision": "approve", "hash": "HASH", "force": True}, 422),
    ({"decision": "approve", "hash": "x" * 100_000}, 413),
    ({"decision": "approve", "hash": "\x00"}, 409),
    ({"decision": "approve", "hash": ""}, 409),
    ({"decision": "deny", "hash": "0" * 64}, 409),
]


@pytest.mark.parametrize(("body", "status"), BODIES)
def test_a_decision_that_is_none_decides_nothing(world: World, body: Any, status: int):
    task_id, approval = world.ask("true")
    if isinstance(body, dict):
        given: dict[str, Any] = {"json": {name: approval["hash"] if v == "HASH" else v for name, v in body.items()}}
    else:
        given = {"content": body}
    answer = world.http.post(f"/api/approvals/{approval['id']}", headers=bearer(world.approver), **given)
    assert answer.status_code == status, answer.text
    assert answer.json()["errors"][0]["fix"]
    assert world.still_waits(task_id)


def test_a_decision_in_the_query_is_refused(world: World):
    task_id, approval = world.ask("true")
    body = {"decision": "approve", "hash": approval["hash"]}
    path = f"/api/approvals/{approval['id']}"
    assert world.http.post(path, json=body, params={"force": "1"}, headers=bearer(world.approver)).status_code == 422
    assert world.still_waits(task_id)


def test_a_decision_counts_once_and_for_what_was_shown(world: World):
    task_id, approval = world.ask("true")
    other_id, other = world.ask("false")
    swapped = world.decide(approval | {"hash": other["hash"]}, "approve")
    problem = assert_problem(swapped, 409, "conflict")
    assert problem["existing"]["action"]["argv"] == ["true"], "what it is really about"
    assert world.still_waits(task_id)
    assert world.decide(approval, "approve").status_code == 200
    for decision in ("approve", "deny"):
        again = assert_problem(world.decide(approval, decision), 409, "conflict")
        assert again["existing"]["status"] == "approved"
    assert world.still_waits(other_id)
    assert world.finished(task_id)["status"] == "completed"


@pytest.mark.parametrize("name", ["apr_nobody", "1", "%00", "..%2Fkeys", "x" * 5000, "é"])
def test_an_unknown_approval_is_not_found(world: World, name: str):
    body = {"decision": "approve", "hash": "0" * 64}
    for answer in (
        world.http.post(f"/api/approvals/{name}", json=body, headers=bearer(world.approver)),
        world.http.get(f"/api/approvals/{name}", headers=bearer(world.approver)),
    ):
        assert_problem(answer, 404, "not-found")


@pytest.mark.parametrize(
    "query",
    [{"all": "yes"}, {"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"limit": "-1"}, {"cursor": "x"}, {"a": "b"}],
)
def test_a_wrong_question_about_the_list_is_refused(world: World, query: dict[str, str]):
    answer = world.http.get("/api/approvals", params=query, headers=bearer(world.approver))
    assert_problem(answer, 422, "invalid")


@pytest.mark.parametrize("command", ["approve", "decide", "approvals", "deny"])
def test_no_webhook_decides(world: World, command: str):
    task_id, approval = world.ask("true")
    data = {"approval_id": approval["id"], "task_id": task_id, "decision": "approve", "hash": approval["hash"]}
    for key in (world.server.key, world.approver):
        answer = world.http.post("/webhook", json={"command": command, "data": data}, headers=bearer(key))
        assert answer.status_code in (403, 422), answer.text
    assert world.still_waits(task_id)


@pytest.mark.parametrize("action", ["approve", "retry", "queue"])
def test_no_tool_decides(world: World, action: str):
    task_id, _ = world.ask("true")
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "update_task", "arguments": {"task_id": task_id, "action": action}, "_meta": META},
    }
    headers = ACCEPT | bearer(world.server.key)
    headers |= {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "update_task"}
    answered = world.http.post("/mcp", json=call, headers=headers).json()["result"]["structuredContent"]
    assert answered["status"] == ("waiting_approval" if action == "retry" else 422)
    assert world.still_waits(task_id)


FROM_INSIDE = """
import http.client, json, os, socket, sys
from pathlib import Path
facts = json.loads((Path(sys.argv[1]) / "server.json").read_text())
if sys.argv[4] == "away":  # as far from its supervisor as a process can get
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.wait()
        print(os.fdopen(reader).read())
        raise SystemExit
    os.setsid()
    if os.fork():
        os._exit(0)
    os.dup2(writer, 1)
    os.execve(sys.executable, [sys.executable, *sys.argv[:4], "plain"], {})
connection = http.client.HTTPConnection("offhand")
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(facts["http_socket"])
    body = json.dumps({"decision": "approve", "hash": sys.argv[3]})
    connection.request("POST", "/api/approvals/" + sys.argv[2], body)
    said = "answered %d" % connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    said = "refused: " + type(error).__name__
print(said)
"""


@pytest.mark.parametrize("how", ["plain", "away"])
def test_a_process_of_a_task_does_not_decide(world: World, how: str, tmp_path: Path):
    task_id, approval = world.ask("true")
    script = tmp_path / "inside.py"
    script.write_text(FROM_INSIDE)
    home = str(world.server.place.home)
    outside = subprocess.run(
        [sys.executable, script, home, approval["id"], "", "plain"], capture_output=True, text=True, check=True
    )
    assert outside.stdout == "answered 409\n", "from the desk it is heard"
    inside_id, inside = world.ask(sys.executable, str(script), home, approval["id"], approval["hash"], how)
    assert world.decide(inside, "approve").status_code == 200
    ended = world.finished(inside_id)
    assert "refused" in ended["result"]["stdout"], ended["result"]
    assert world.still_waits(task_id)


def test_the_command_in_a_task_does_not_decide(world: World):
    task_id, approval = world.ask("true")
    inside_id, inside = world.ask(
        "env",
        f"OFFHAND_HOME={world.server.place.home}",
        f"PYTHONPATH={Path(__file__).parents[2]}",
        sys.executable,
        "-m",
        "mcp_server",
        "approve",
        approval["id"],
        "--yes",
    )
    assert world.decide(inside, "approve").status_code == 200
    ended = world.finished(inside_id)
    assert (ended["status"], ended["result"]["returncode"]) == ("failed", 1), ended["result"]
    assert world.still_waits(task_id)


def test_what_expired_while_no_server_ran_is_cancelled_by_the_next(start: Callable[..., ServerProcess]):
    server = start()
    key, home = server.key, server.place.home
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        data = {"action_type": "shell", "params": {"command": ["touch", "made"]}, "task_id": "late"}
        answer = http.post("/webhook", json={"type": "task_command", "data": data}, headers=bearer(key))
    assert answer.status_code == 202
    server.kill()
    with closing(sqlite3.connect(home / "offhand.db")) as store, store:
        assert store.execute("UPDATE approval SET expires_at = created_at + 1").rowcount == 1
    with httpx2.Client(base_url=start().url, timeout=20) as http:
        body = {"command": "get_task", "data": {"task_id": "late", "wait": 10}}
        task = http.post("/webhook", json=body, headers=bearer(key)).json()
    assert (task["result"]["status"], task["result"]["reason"]) == ("cancelled", "expired")
    assert "not approved in time" in task["say"]
    assert not (server.place.workspace / "made").exists()
