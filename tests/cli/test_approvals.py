"""`offhand approvals`, `approve`, `deny`: everything is shown as it is, and only a yes to that is sent."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from mcp_server.cli import approvals as commands
from mcp_server.cli.approvals import plain
from tests.cli.conftest import Offhand, Start
from tests.server.processes import Place, ServerProcess
from tests.web.test_http import bearer

DEADLINE_SECONDS = 20.0


def ask(server: ServerProcess, *command: str, **fields: Any) -> dict[str, Any]:
    """A phone wants a command run; the task that waits."""
    data = {"action_type": "shell", "params": {"command": list(command)}, **fields}
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        answer = http.post("/webhook", json={"type": "task_command", "data": data}, headers=bearer(server.key))
    assert answer.status_code == 202, answer.text
    return answer.json()["result"]


def task(server: ServerProcess, task_id: str, wait: int = 20) -> dict[str, Any]:
    """The task once it changes, or after `wait`."""
    body = {"command": "get_task", "data": {"task_id": task_id, "wait": wait}}
    with httpx2.Client(base_url=server.url, timeout=40) as http:
        return http.post("/webhook", json=body, headers=bearer(server.key)).json()["result"]


def finished(server: ServerProcess, task_id: str) -> str:
    while (now := task(server, task_id))["status"] not in ("completed", "failed", "cancelled"):
        pass
    return now["status"]


def test_nothing_waits(start: Start, offhand: Offhand):
    start()
    listed = offhand("approvals")
    assert (listed.code, listed.out) == (0, "Nothing waits for your answer.\n")
    assert json.loads(offhand("approvals", "--json").out) == {"items": []}
    for command in ("approve", "deny"):
        ran = offhand(command)
        assert (ran.code, ran.err) == (1, "offhand: Nothing waits for your answer.\n")


def test_what_waits_is_listed(start: Start, offhand: Offhand):
    server = start()
    waiting = ask(server, "touch", "made", task_id="t1")
    listed = offhand("approvals")
    assert listed.code == 0
    assert waiting["approval"]["id"] in listed.out
    assert "task 1  shell" in listed.out
    assert "touch made" in listed.out
    (item,) = json.loads(offhand("approvals", "--json").out)["items"]
    assert (item["id"], item["task_id"], item["status"]) == (waiting["approval"]["id"], "t1", "pending")


@pytest.mark.parametrize("by", ["id", "task", "number"])
def test_an_approved_task_runs(start: Start, offhand: Offhand, user: Place, by: str):
    server = start()
    waiting = ask(server, "touch", "made", task_id="t1")
    which = {"id": waiting["approval"]["id"], "task": "t1", "number": str(waiting["number"])}[by]
    ran = offhand("approve", which, "--yes")
    assert ran.code == 0, ran.err
    for shown in ('["touch", "made"]', str(user.workspace.resolve()), waiting["approval"]["hash"], "(phone)"):
        assert shown in ran.out
    assert ran.out.endswith("Approved: task 1 goes on.\n")
    assert finished(server, "t1") == "completed"
    assert (user.workspace / "made").exists()
    assert "approved" in offhand("approvals", "--all").out
    again = offhand("approve", which, "--yes")
    assert (again.code, again.out) == (1, "")
    assert "Nothing waits for your answer by the name" in again.err


def test_a_denied_task_is_cancelled(start: Start, offhand: Offhand, user: Place):
    server = start()
    ask(server, "touch", "made", task_id="t1")
    ran = offhand("deny")
    assert (ran.code, ran.out) == (0, "Denied: task 1 is cancelled.\n"), ran.err
    assert task(server, "t1", wait=0)["reason"] == "denied"
    assert not (user.workspace / "made").exists()


def test_where_several_wait_and_none_is_named_they_are_listed_and_nothing_is_decided(start: Start, offhand: Offhand):
    server = start()
    for name in ("t1", "t2"):
        ask(server, "true", task_id=name)
    for command in ("approve", "deny"):
        ran = offhand(command)
        assert ran.code == 1
        assert "Several wait" in ran.out
        assert all(f"task {number}" in ran.out for number in (1, 2))
    assert offhand("approve", "--yes").code == 2, "yes to what?"
    items = json.loads(offhand("approvals", "--json").out)["items"]
    assert [item["status"] for item in items] == ["pending", "pending"]


def test_without_a_terminal_and_without_yes_nothing_is_approved(start: Start, offhand: Offhand):
    server = start()
    ask(server, "true", task_id="t1")
    ran = offhand("approve", "t1")
    assert ran.code == 1
    assert "no terminal" in ran.err
    assert "--yes" in ran.err
    assert task(server, "t1", wait=0)["status"] == "waiting_approval"


def at_a_terminal(user: Place, answer: str, *arguments: str) -> tuple[int, str]:
    """`offhand ARGUMENTS` at a terminal, where the user types `answer` once asked. The exit code, and the screen."""
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_server", *arguments],
        env=user.environment(),
        cwd=user.base,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    screen = b""
    try:
        while b"[y/N]" not in screen:
            assert select.select([control], [], [], DEADLINE_SECONDS)[0], screen
            screen += os.read(control, 65536)
        os.write(control, answer.encode())
        code = process.wait(DEADLINE_SECONDS)
        while select.select([control], [], [], 0)[0]:
            try:
                screen += os.read(control, 65536)
            except OSError:  # the other end is closed
                break
    finally:
        process.kill()
        process.wait()
        os.close(control)
    return code, screen.decode()


@pytest.mark.parametrize(
    ("answer", "status"),
    [("y\n", "completed"), ("n\n", "waiting_approval"), ("\n", "waiting_approval"), ("\x04", "waiting_approval")],
)
def test_at_a_terminal_the_user_is_asked(start: Start, user: Place, answer: str, status: str):
    server = start()
    ask(server, "touch", "made", task_id="t1")
    code, screen = at_a_terminal(user, answer, "approve")
    assert '["touch", "made"]' in screen
    assert "Approve this for task 1? [y/N]" in screen
    assert (code == 0) == (status == "completed"), screen
    assert (finished(server, "t1") if code == 0 else task(server, "t1", wait=0)["status"]) == status
    assert (user.workspace / "made").exists() == (status == "completed")


def test_only_what_was_shown_is_approved(start: Start, offhand: Offhand, monkeypatch: pytest.MonkeyPatch):
    """Another question under the same name, between the look and the answer, is not answered."""
    server = start()
    first = ask(server, "true", task_id="t1")
    asked = commands.ask_server

    def swapped(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        answer = asked(method, path, body)
        return answer | {"hash": "0" * 64} if method == "GET" and answer is not None else answer

    monkeypatch.setattr(commands, "ask_server", swapped)
    ran = offhand("approve", "t1", "--yes")
    assert ran.code == 1
    assert "not what is asked" in ran.err
    assert task(server, first["id"], wait=0)["status"] == "waiting_approval"


FAKE = "true\n      cwd: /nowhere\nApprove this for task 1? [y/N]: y\r\x1b[2A\x1b[8m\u202eevil\u2066\u3164\x9b1m\x07"


def test_what_is_shown_cannot_pass_for_anything_else(start: Start, offhand: Offhand):
    server = start()
    ask(server, "echo", FAKE, task_id="t1", description=f"{FAKE}\nsecond line")
    for ran in (offhand("approvals"), offhand("approve", "t1", "--yes")):
        assert ran.code == 0, ran.err
        assert not set(ran.out) & set("\x1b\r\x07\x9b\u202e\u2066\u3164")
        lines = ran.out.split("\n")
        assert not any(line.startswith(("Approve this", "      cwd: /nowhere")) for line in lines)
    assert "  | second line" in lines
    assert r"\x1b[8m\u202eevil" in ran.out


def test_plain_text_stays_as_it_is():
    assert plain("Grüße, 漢字 and 😀: a-b_c") == "Grüße, 漢字 and 😀: a-b_c"
    assert plain("a\tb\nc\u00a0d\ufeff") == r"a\tb\nc\xa0d\ufeff"


def test_without_a_server_nothing_is_decided(user: Place, offhand: Offhand):
    for command in (["approvals"], ["approve", "t1", "--yes"], ["deny", "t1"]):
        ran = offhand(*command)
        assert (ran.code, ran.out) == (1, "")
        assert "No server runs" in ran.err


def test_scripts_get_the_decision_as_json_alone(start: Start, offhand: Offhand):
    server = start()
    waiting = ask(server, "true", task_id="t1")
    decided = json.loads(offhand("approve", waiting["approval"]["id"], "--yes", "--json").out)
    assert (decided["status"], decided["decided_by"]["level"]) == ("approved", "desk")
    ask(server, "true", task_id="t2")
    assert json.loads(offhand("deny", "t2", "--json").out)["status"] == "denied"
