"""The official Inspector's command line against the server as it ships: over the shim and over HTTP, in both eras."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.clients import INSPECTOR, node_path, npm_packages, npm_version
from tests.acceptance.conftest import SignIn
from tests.acceptance.servers import Offhand
from tests.acceptance.tour import PROTOCOLS

pytestmark = pytest.mark.acceptance

CALL_SECONDS = 60
MORE_THAN_A_PAGE = 101
"""Resources are listed 100 at a time."""

CALLS: list[tuple[str, list[str], str]] = [
    ("create_session", ["session_id={id}", "title=From the Inspector"], "id"),
    ("add_conversation", ["session_id={id}", "content=hello from the Inspector"], "id"),
    ("store_memory", ["session_id={id}", "type=idea", "content=carbon tracking", "key=carbon"], "version"),
    ("add_artifact", ["session_id={id}", "name=note.txt", "content=a note", "artifact_id={id}_a"], "sha256"),
    ("search", ["query=carbon", "session_id={id}"], "items"),
    ("delegate_task", ["agent=echo", "description=hello", "task_id={id}_t", "session_id={id}"], "result"),
    ("continue_task", ["task_id={id}_t", "message=and again"], "result"),
    ("get_task", ["task_id={id}_t"], "attempts"),
    ("list_tasks", ["session_id={id}"], "items"),
    ("update_task", ["task_id={id}_t", "action=cancel"], "status"),
    ("list_agents", [], "items"),
    ("get_session", ["session_id={id}"], "counts"),
    ("list_sessions", [], "items"),
    ("update_session", ["session_id={id}", "status=paused"], "status"),
    ("delete", ["artifact_id={id}_a"], "deleted"),
]

Inspect = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", params=["legacy", "modern"])
def era(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["shim", "http"])
def door(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def inspect(door: str, era: str, server: Offhand, sign_in: SignIn, tmp_path_factory: pytest.TempPathFactory) -> Inspect:
    """Run the Inspector once; returns what it printed as JSON."""
    packages = npm_packages(INSPECTOR)
    if door == "shim":
        target = ["-e", f"OFFHAND_HOME={server.home}", server.shim["command"], *server.shim["args"]]
    else:
        target = [server.url, "--transport", "http", "--header", f"Authorization: {server.authorization}"]
    environment = {
        "PATH": f"{node_path(packages)}:/usr/bin:/bin",
        "HOME": str(tmp_path_factory.mktemp("inspector-home")),
    }
    command = [str(packages / "node_modules" / ".bin" / "mcp-inspector"), "--cli", *target, "--protocol-era", era]

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [*command, "--format", "json", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["result"]

    sign_in("Inspector, command line", npm_version(packages, INSPECTOR), f"{door} {era}")
    return run


@pytest.fixture(scope="module")
def session_id(door: str, era: str, inspect: Inspect) -> str:
    """A session that the Inspector made, with a memory and an artifact in it."""
    made = f"inspected_{door}_{era}"
    call(inspect, "create_session", session_id=made, title="From the Inspector")
    call(inspect, "store_memory", memory_id=f"{made}_m", session_id=made, type="idea", content="carbon tracking")
    call(inspect, "add_artifact", artifact_id=f"{made}_a", session_id=made, name="note.txt", content="a longer note")
    return made


def test_it_speaks_the_protocol_that_it_was_told_to(inspect: Inspect, era: str) -> None:
    assert inspect("--method", "initialize")["protocolVersion"] == PROTOCOLS[era]


def test_the_list_of_tools_is_portable_in_the_inspectors_strict_check(inspect: Inspect) -> None:
    names = [tool["name"] for tool in inspect("--method", "tools/list", "--strict")["tools"]]
    assert sorted(names) == sorted(name for name, _, _ in CALLS)


def test_every_tool_answers_the_inspector(inspect: Inspect, door: str, era: str) -> None:
    for name, arguments, field in CALLS:
        filled = [argument.format(id=f"called_{door}_{era}") for argument in arguments]
        tool_arguments = ["--tool-arg", *filled] if filled else []
        answer = inspect("--method", "tools/call", "--tool-name", name, *tool_arguments)
        assert field in answer["structuredContent"], (name, answer)


def test_every_page_of_the_resources_comes(inspect: Inspect, server: Offhand, door: str, era: str) -> None:
    ids = {f"paged_{door}_{era}_{number}" for number in range(MORE_THAN_A_PAGE)}
    store_memories(server, sorted(ids))
    listed = [resource["uri"] for resource in inspect("--method", "resources/list")["resources"]]
    assert {f"memory://{one}" for one in ids} <= {*listed}
    assert len(listed) == len({*listed})


def test_resources_are_read_by_address(inspect: Inspect, session_id: str) -> None:
    session = read(inspect, f"session://{session_id}")
    assert session["mimeType"] == "application/json"
    assert json.loads(session["text"])["title"] == "From the Inspector"
    assert json.loads(read(inspect, f"memory://{session_id}_m")["text"])["content"] == "carbon tracking"
    artifact = read(inspect, f"artifact://{session_id}_a")
    assert artifact["text"] == "a longer note"
    assert artifact["mimeType"].startswith("text/plain")


def test_a_large_resource_is_read_in_parts(inspect: Inspect, session_id: str) -> None:
    first = read(inspect, f"artifact://{session_id}_a?offset=0&length=8")
    assert first["text"] == "a longer"
    following = first["_meta"]["nextOffset"]
    rest = read(inspect, f"artifact://{session_id}_a?offset={following}&length=8")
    assert rest["text"] == " note"
    assert rest["_meta"]["complete"] is True


def test_templates_say_which_addresses_there_are(inspect: Inspect) -> None:
    templates = inspect("--method", "resources/templates/list")["resourceTemplates"]
    kinds = {template["uriTemplate"].partition("://")[0] for template in templates}
    assert kinds == {"session", "task", "memory", "artifact", "agent", "schema"}


def test_prompts_are_listed_and_made(inspect: Inspect, session_id: str) -> None:
    names = {prompt["name"] for prompt in inspect("--method", "prompts/list")["prompts"]}
    assert names == {"start_session", "delegate_work", "recap", "guide"}
    recap = inspect("--method", "prompts/get", "--prompt-name", "recap", "--prompt-args", f"session_id={session_id}")
    assert "From the Inspector" in recap["messages"][0]["content"]["text"]


def test_a_task_is_followed_to_its_end_where_the_era_has_the_tasks_extension(inspect: Inspect, era: str) -> None:
    answer = call(inspect, "delegate_task", agent="echo", description="at last", params={"sleep": 2}, wait=0)
    if era == "modern":  # the call is answered with a task, which the Inspector follows
        assert answer["status"] == "completed"
        assert answer["result"]["text"] == "at last"
        return
    assert answer["status"] in {"queued", "running"}
    ended = call(inspect, "get_task", task_id=answer["id"], wait=30)
    assert ended["result"]["text"] == "at last"


def call(inspect: Inspect, tool: str, **arguments: Any) -> dict[str, Any]:
    given = ["--tool-name", tool, "--tool-args-json", json.dumps(arguments)]
    return inspect("--method", "tools/call", *given)["structuredContent"]


def read(inspect: Inspect, uri: str) -> dict[str, Any]:
    (contents,) = inspect("--method", "resources/read", "--uri", uri)["contents"]
    return contents


def store_memories(server: Offhand, ids: list[str]) -> None:
    """Over the webhook, which takes up to 100 commands at once."""
    for start in range(0, len(ids), 100):
        commands = [
            {"command": "store_memory", "data": {"memory_id": one, "type": "idea", "content": one}}
            for one in ids[start : start + 100]
        ]
        request = urllib.request.Request(
            server.url.replace("/mcp", "/webhook"),
            json.dumps({"command": "batch", "data": {"commands": commands}}).encode(),
            {"Authorization": server.authorization, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["ok"] is True
