"""The bundle: built, checked by the official tool, unpacked, and started as a desktop app would."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from bundle.build import MCPB, ROOT, build, mcpb
from tests.acceptance.clients import cache_folder, npm_packages, npm_version, python_with
from tests.acceptance.conftest import SignIn
from tests.server.processes import Place, wait_for_exit

pytestmark = pytest.mark.acceptance

UV = "uv==0.13.9"
ANSWER_SECONDS = 180
"""At its first start uv fetches what we depend on."""

STOP_SECONDS = 10

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "desktop", "version": "1"}},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
AGENTS = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "list_agents", "arguments": {}}}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def place(tmp_path: Path) -> Generator[Place]:
    """A user, and the server that is started in the background for them; that is ended afterwards."""
    place = Place.make(tmp_path / "u")
    yield place
    running = place.home / "server.json"
    if running.exists():
        pid = json.loads(running.read_text("utf-8"))["pid"]
        os.kill(pid, 15)
        assert wait_for_exit(pid, STOP_SECONDS)


def test_the_official_tool_accepts_the_bundle_and_unpacks_it(built: Path, tmp_path: Path, sign_in: SignIn):
    mcpb("info", built)
    mcpb("unpack", built, tmp_path / "unpacked")
    manifest = json.loads((tmp_path / "unpacked" / "manifest.json").read_text("utf-8"))
    mcpb("validate", tmp_path / "unpacked" / "manifest.json")

    assert built.name == f"offhand-{manifest['version']}.mcpb"
    sign_in("mcpb", npm_version(npm_packages(MCPB), MCPB), "validate, pack, info, unpack")


def test_the_server_in_the_bundle_answers_when_it_is_started_by_the_manifests_command(
    built: Path, tmp_path: Path, place: Place, sign_in: SignIn
):
    unpacked = tmp_path / "unpacked"
    mcpb("unpack", built, unpacked)
    configured = json.loads((unpacked / "manifest.json").read_text("utf-8"))["server"]["mcp_config"]
    uv = python_with(UV).parent
    given = {"__dirname": str(unpacked), "user_config.workspace": str(place.workspace)}
    environment = {name: filled_in(value, given) for name, value in configured["env"].items()}
    answers = asked(
        [str(uv / configured["command"]), *(filled_in(word, given) for word in configured["args"])],
        environment | uv_settings() | {"HOME": str(place.user_home), "OFFHAND_HOME": str(place.home)},
    )

    manifest = json.loads((unpacked / "manifest.json").read_text("utf-8"))
    told = answers[1]["serverInfo"]
    assert (told["name"], told["version"]) == ("offhand", manifest["version"])
    assert {tool["name"] for tool in answers[2]["tools"]} == {tool["name"] for tool in manifest["tools"]}
    assert "work" in json.dumps(answers[3]["structuredContent"]), "the folder that was chosen is a workspace"
    running = json.loads((place.home / "server.json").read_text("utf-8"))
    assert running["python"].startswith(str(unpacked)), "what runs is what was unpacked"
    sign_in("uv", UV.partition("==")[2], "started the server of the bundle, initialize, tools/list, tools/call")


def test_make_bundle_leaves_it_in_dist(built: Path):
    """Once more, by the target itself: it must work where nothing but `make` is known."""
    done = subprocess.run(
        ["make", "--no-print-directory", "bundle"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "dist" / built.name).exists()
    assert done.stdout.splitlines()[-1].startswith(f"dist/{built.name}")


def test_without_npm_the_target_says_what_is_missing(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "bundle.build"],
        cwd=ROOT,
        env={"PATH": "/nowhere", "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "there is no npm" in done.stderr
    assert "Traceback" not in done.stderr


def filled_in(text: str, given: dict[str, str]) -> str:
    for name, value in given.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def uv_settings() -> dict[str, str]:
    """This interpreter instead of a download, a cache that lasts, and where this machine gets its packages."""
    passed = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_CERT_"))}
    return passed | {
        "PATH": "/usr/bin:/bin",
        "OFFHAND_PORT": "0",
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_CACHE_DIR": str(cache_folder() / "uv"),
        "UV_SYSTEM_CERTS": "true",
    }


def asked(command: list[str], environment: dict[str, str]) -> dict[int, Any]:
    """The results of a short conversation on stdin and stdout, by request id."""
    with subprocess.Popen(
        command, env=environment, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        answers: dict[int, Any] = {}
        try:
            for message in (INITIALIZE, INITIALIZED, LIST, AGENTS):
                client.stdin.write(json.dumps(message).encode() + b"\n")
                client.stdin.flush()
                if "id" in message:
                    ready, _, _ = select.select([client.stdout], [], [], ANSWER_SECONDS)
                    line = client.stdout.readline() if ready else b""
                    assert line, client.stderr.read().decode() if client.stderr and client.poll() is not None else ""
                    answer = json.loads(line)
                    assert "result" in answer, answer
                    answers[message["id"]] = answer["result"]
            client.stdin.close()
            assert client.wait(STOP_SECONDS) == 0
        finally:
            if client.poll() is None:
                client.kill()
    return answers
