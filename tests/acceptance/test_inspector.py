"""The official Inspector's command line against the server as it ships: over the shim and over HTTP, in both eras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.clients import INSPECTOR, MissingClientError, node_path, npm_packages

pytestmark = pytest.mark.acceptance

CALL_SECONDS = 60
SCRIPTS = Path(sys.executable).parent

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


@pytest.fixture(scope="module")
def packages() -> Path:
    try:
        return npm_packages(INSPECTOR)
    except MissingClientError as error:
        pytest.fail(str(error))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("offhand-home")


@pytest.fixture(scope="module")
def server(home: Path) -> Generator[dict[str, Any]]:
    """A server as the user starts it, with a key; ended by its pid."""
    environment = os.environ | {"OFFHAND_HOME": str(home), "OFFHAND_PORT": "0"}
    process = subprocess.Popen(
        [SCRIPTS / "offhand", "serve"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("Serving"):
            break
    else:
        pytest.fail(printed)
    key = printed.split("shown only this once): ")[1].split()[0]
    yield json.loads((home / "server.json").read_text()) | {"key": key}
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.fixture(scope="module", params=["legacy", "modern"])
def era(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["shim", "http"])
def inspect(
    request: pytest.FixtureRequest,
    era: str,
    packages: Path,
    home: Path,
    server: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Inspect:
    """Run the Inspector once; returns what it printed as JSON."""
    if request.param == "shim":
        target = ["-e", f"OFFHAND_HOME={home}", str(SCRIPTS / "offhand"), "mcp"]
    else:
        url = f"http://127.0.0.1:{server['port']}/mcp"
        target = [url, "--transport", "http", "--header", f"Authorization: Bearer {server['key']}"]
    environment = {
        "PATH": f"{node_path(packages)}:{os.environ['PATH']}",
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
        return json.loads(done.stdout)

    return run


def test_the_list_of_tools_is_portable_in_the_inspectors_strict_check(inspect: Inspect) -> None:
    listed = inspect("--method", "tools/list", "--strict")
    names = [tool["name"] for tool in listed["result"]["tools"]]
    assert sorted(names) == sorted(name for name, _, _ in CALLS)


def test_every_tool_answers_the_inspector(inspect: Inspect, request: pytest.FixtureRequest) -> None:
    session_id = "s_" + "".join(letter for letter in request.node.name if letter.isalnum())[-40:]
    for name, arguments, field in CALLS:
        filled = [argument.format(id=session_id) for argument in arguments]
        tool_arguments = ["--tool-arg", *filled] if filled else []
        answer = inspect("--method", "tools/call", "--tool-name", name, *tool_arguments)
        assert field in answer["result"]["structuredContent"], (name, answer)
