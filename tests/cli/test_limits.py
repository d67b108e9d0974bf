"""`offhand limit`: how many tasks run at once, changed while the server runs and kept in the settings file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import httpx2
import pytest

from tests.cli.conftest import Offhand, Start
from tests.executor.test_worker import finished, shell
from tests.server.doors import ask, over_socket
from tests.server.gate import Gate
from tests.server.processes import Place

SETTINGS = "# mine\nlimit = 1  # one is enough\n\n[limits]\n# not today\ncodex = 0\n"


def write_settings(user: Place, text: str = SETTINGS) -> None:
    user.home.mkdir(mode=0o700)
    (user.home / "offhand.toml").write_text(text)


async def test_a_higher_limit_holds_at_once_and_a_lower_one_ends_nothing(
    user: Place, offhand: Offhand, start: Start, gates: Callable[[], Gate]
):
    write_settings(user)
    server = start()
    gate, second_gate, third_gate = gates(), gates(), gates()
    async with over_socket(server.facts["mcp_socket"]) as client:
        for name, each in (("first", gate), ("second", second_gate), ("third", third_gate)):
            await shell(client, each.snippet, task_id=name, wait=0)
        await gate.reached()
        before = await ask(client, "get_task", task_id="second")
        raised = offhand("limit", "2")
        await second_gate.reached()
        lowered = offhand("limit", "1")
        running = await ask(client, "list_tasks", status="running")
        shown = offhand("limit")
        gate.go_on()
        await finished(client, "first")
        third = await ask(client, "get_task", task_id="third")
        second_gate.go_on()
        await third_gate.reached()
        third_gate.go_on()
        await finished(client, "third")

    assert before["status"] == "queued"
    assert raised.code == 0, raised.err
    assert "all together     2" in raised.out
    assert [item["id"] for item in running["items"]] == ["second", "first"]
    assert "all together     1  2 running" in lowered.out
    assert shown.out == lowered.out
    assert third["status"] == "queued", "one still ran"
    assert (user.home / "offhand.toml").read_text() == SETTINGS


async def test_the_limit_of_one_agent_holds_it_back_and_survives_a_restart(user: Place, offhand: Offhand, start: Start):
    write_settings(user)
    server = start()
    held = offhand("limit", "shell", "0", "--json")
    async with over_socket(server.facts["mcp_socket"]) as client:
        waits = await shell(client, "true", task_id="t", wait=0.2)
        agents = await ask(client, "list_agents")
        server.stop()
    second = start()
    one = offhand("limit", "shell")
    async with over_socket(second.facts["mcp_socket"]) as client:
        still = await ask(client, "get_task", task_id="t", wait=0.2)
        back = offhand("limit", "shell", "default")
        done = await finished(client, "t")
    with sqlite3.connect(user.home / "offhand.db") as store:
        told = store.execute("SELECT subject, data, caller FROM event WHERE kind = 'limit.changed'").fetchall()
    store.close()

    (item,) = json.loads(held.out)["items"]
    assert (item["name"], item["limit"], item["set"]) == ("shell", 0, 0)
    assert next(agent["limit"] for agent in agents["items"] if agent["name"] == "shell") == 0
    assert waits["status"] == still["status"] == "queued"
    assert one.out.split() == ["shell", "0", "1", "queued", "(set)"]
    assert back.out.split()[:2] == ["shell", "1"]
    assert "(set)" not in back.out
    assert done["status"] == "completed"
    assert (user.home / "offhand.toml").read_text() == SETTINGS
    assert [(subject, json.loads(data), json.loads(caller)["level"]) for subject, data, caller in told] == [
        ("agent://shell", {"agent": "shell", "limit": 0}, "desk"),
        ("agent://shell", {"agent": "shell", "limit": None}, "desk"),
    ]


def test_without_a_server_it_is_the_settings_file_that_changes(user: Place, offhand: Offhand):
    empty = offhand("limit")
    offhand("limit", "shell", "3")
    offhand("limit", "2")
    shown = offhand("limit")
    text = (user.home / "offhand.toml").read_text()
    offhand("limit", "shell", "default")
    after = json.loads(offhand("limit", "--json").out)

    assert empty.out.splitlines()[0].split() == ["all", "together", "4"]
    assert text == "limit = 2\n\n[limits]\nshell = 3\n"
    assert [line.split() for line in shown.out.splitlines()][:3] == [
        ["all", "together", "2"],
        ["git", "2"],
        ["shell", "2", "(set)"],
    ], "never more than all together"
    assert {item["name"]: item["set"] for item in after["items"]}["shell"] is None


@pytest.mark.parametrize("asks_server", [True, False], ids=["server", "file"])
def test_what_cannot_be_a_limit_is_refused_and_changes_nothing(
    user: Place, offhand: Offhand, start: Start, asks_server: bool
):
    write_settings(user)
    if asks_server:
        start()
    refusals = {
        arguments: offhand("limit", *arguments)
        for arguments in (("0",), ("1001",), ("shell", "1001"), ("shell", "-1"), ("nobody", "1"), ("nobody",))
    }
    words = [offhand("limit", "shell", "many"), offhand("limit", "shell", "1", "2")]

    for arguments, refused in refusals.items():
        assert refused.code == (2 if "-1" in arguments else 1), arguments
        assert refused.out == "", arguments
    assert "Give 1 to 1000." in refusals["0",].err
    assert "Give 0 to 1000" in refusals["shell", "1001"].err
    assert "Known are: git, shell" in refusals["nobody", "1"].err
    assert [ran.code for ran in words] == [2, 2]
    assert (user.home / "offhand.toml").read_text() == SETTINGS


def test_a_settings_file_that_cannot_be_written_leaves_the_limit_as_it_was(user: Place, offhand: Offhand, start: Start):
    start()
    (user.home / "offhand.toml").mkdir()
    refused = offhand("limit", "2")
    (user.home / "offhand.toml").rmdir()
    (user.home / "offhand.toml").write_text("[limits\n")
    damaged = offhand("limit", "2")
    shown = offhand("limit")

    for ran in (refused, damaged):
        assert (ran.code, ran.out) == (1, "")
        assert "offhand.toml" in ran.err
    assert "Nothing was changed" in refused.err
    assert "all together     4" in shown.out


def test_a_variable_that_wins_over_the_file_is_named(user: Place, offhand: Offhand, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OFFHAND_LIMIT", "7")
    warned = offhand("limit", "2")
    other = offhand("limit", "shell", "2")

    assert "OFFHAND_LIMIT is set here" in warned.err
    assert other.err == ""


def test_over_the_network_the_body_must_name_a_limit(start: Start):
    server = start()
    headers = {"X-API-Key": server.make_key("boss", "admin")}
    with httpx2.Client(base_url=server.url, headers=headers, verify=False) as http:
        answers = [
            http.put("/api/limits", json=body)
            for body in ({}, {"limit": "2"}, {"limit": None}, {"agent": "x", "limit": 1})
        ]
        good = http.put("/api/limits", json={"agent": "shell", "limit": 2})

    assert [(answer.status_code, answer.json()["errors"][0]["field"]) for answer in answers] == [
        (422, "limit"),
        (422, "limit"),
        (422, "limit"),
        (422, "agent"),
    ]
    assert good.status_code == 200
