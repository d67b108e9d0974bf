"""The Inspector's web page in a real browser: it connects to the server, lists the tools, and calls one."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.clients import INSPECTOR, PLAYWRIGHT, chromium, node_path, npm_packages, npm_version
from tests.acceptance.conftest import SignIn
from tests.acceptance.servers import Offhand, started
from tests.acceptance.tour import PROGRAMS, PROTOCOLS, TOOLS

pytestmark = pytest.mark.acceptance

VISIT_SECONDS = 120


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspectors_page_lists_the_tools_and_calls_one(
    server: Offhand, client_environment: Callable[[Path], dict[str, str]], sign_in: SignIn, tmp_path: Path, era: str
) -> None:
    inspector, playwright, browser_path = npm_packages(INSPECTOR), npm_packages(PLAYWRIGHT), chromium()
    environment = client_environment(inspector) | {
        "MCP_AUTO_OPEN_ENABLED": "false",
        "MCP_INSPECTOR_SECRET_STORE": "memory",
        "MCP_SANDBOX_PORT": "0",
        "CLIENT_PORT": str(free_port()),  # it needs to know it beforehand
    }
    program = str(inspector / "node_modules" / ".bin" / "mcp-inspector")
    target = ["--transport", "http", "--server-url", server.url, "--header", f"Authorization: {server.authorization}"]
    with started([program, "--web", *target, "--protocol-era", era], environment, "MCP_INSPECTOR_API_TOKEN=") as (
        _,
        printed,
    ):
        shown = visit(
            playwright,
            tmp_path,
            page_url=printed.split()[-1],
            browser_path=browser_path,
            tool="create_session",
            field="session_id",
            value=f"from_the_page_{era}",
        )
    assert shown["protocol"] == f"MCP {PROTOCOLS[era]}"
    assert shown["count"] == f"Tools ({TOOLS})"
    result = shown["shown"].partition("Structured Output")[2]
    assert re.search(rf'"id": "from_the_page_{era}"', result)
    assert re.search(r'"created": true', result)
    sign_in("Inspector, web page", npm_version(inspector, INSPECTOR), era)
    sign_in("Chromium", shown["browser"], "the Inspector's web page")


def visit(playwright: Path, folder: Path, **asked: str) -> dict[str, str]:
    """Let the program use the page in a browser without a window; what it saw."""
    (folder / "node_modules").symlink_to(playwright / "node_modules")
    shutil.copy(PROGRAMS / "inspector_page.mjs", folder)
    done = subprocess.run(
        [f"{node_path(playwright)}/node", str(folder / "inspector_page.mjs"), json.dumps(asked)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=VISIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
