"""The clients of the SDKs that people build with take the tour: over the shim and over HTTP, in the eras they know."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.acceptance.clients import (
    FASTMCP,
    OPENAI_AGENTS,
    PYDANTIC_AI,
    TYPESCRIPT_V1,
    TYPESCRIPT_V2,
    npm_packages,
    npm_version,
    python_version,
    python_with,
)
from tests.acceptance.conftest import SignIn
from tests.acceptance.servers import Offhand, own_environment
from tests.acceptance.tour import CALLS, EVERYTHING, PROGRAMS, PROMPTS, PROTOCOLS, RESOURCES, check_tour, take_tour

pytestmark = pytest.mark.acceptance

DOORS = pytest.mark.parametrize("door", ["shim", "http"])
BOTH_ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])

Tour = Callable[..., None]


@pytest.fixture
def tour(server: Offhand, sign_in: SignIn, request: pytest.FixtureRequest) -> Tour:
    """Take the tour with the program of a client, and put the client on the roll."""

    def taken(name: str, its_version: str, command: list[str], *, door: str, era: str, sights: tuple[str, ...]) -> None:
        session_id = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
        seen = take_tour(command, server, door, era, session_id, own_environment())
        assert seen["protocol"] == PROTOCOLS[era]
        check_tour(seen, session_id, sights)
        sign_in(name, its_version, f"{door} {era}")

    return taken


@DOORS
@BOTH_ERAS
def test_the_typescript_client_of_version_2_does_everything(tour: Tour, tmp_path: Path, door: str, era: str) -> None:
    packages = npm_packages(TYPESCRIPT_V2)
    command = node_program(packages, "typescript_v2.mjs", tmp_path)
    its_version = npm_version(packages, TYPESCRIPT_V2)
    tour("@modelcontextprotocol/client", its_version, command, door=door, era=era, sights=EVERYTHING)


@DOORS
def test_the_typescript_sdk_of_version_1_does_everything(tour: Tour, tmp_path: Path, door: str) -> None:
    packages = npm_packages(TYPESCRIPT_V1)
    command = node_program(packages, "typescript_v1.mjs", tmp_path)
    its_version = npm_version(packages, TYPESCRIPT_V1)
    tour("@modelcontextprotocol/sdk", its_version, command, door=door, era="legacy", sights=EVERYTHING)


@DOORS
@BOTH_ERAS
def test_the_python_client_does_everything(tour: Tour, door: str, era: str) -> None:
    command = [sys.executable, "-P", str(PROGRAMS / "python_sdk.py")]
    tour("mcp (Python)", version("mcp"), command, door=door, era=era, sights=EVERYTHING)


@DOORS
@BOTH_ERAS
def test_fastmcp_calls_reads_and_completes(tour: Tour, door: str, era: str) -> None:
    command = python_program(FASTMCP, "fastmcp_client.py")
    sights = (*CALLS, *RESOURCES, *PROMPTS, "completion")
    tour("fastmcp", python_version(FASTMCP), command, door=door, era=era, sights=sights)


@DOORS
def test_an_agent_of_the_openai_agents_sdk_calls_and_reads(tour: Tour, door: str) -> None:
    command = python_program(OPENAI_AGENTS, "openai_agents.py")
    sights = (*CALLS, *RESOURCES, *PROMPTS)
    tour("openai-agents", python_version(OPENAI_AGENTS), command, door=door, era="modern", sights=sights)


@DOORS
@BOTH_ERAS
def test_an_agent_of_pydantic_ai_calls_and_reads(tour: Tour, door: str, era: str) -> None:
    command = python_program(PYDANTIC_AI, "pydantic_ai_agent.py")
    sights = (*CALLS, *RESOURCES, *PROMPTS)
    tour("pydantic-ai", python_version(PYDANTIC_AI), command, door=door, era=era, sights=sights)


def node_program(packages: Path, name: str, folder: Path) -> list[str]:
    """The command of a program of ours, in a folder from which it finds the packages."""
    (folder / "node_modules").symlink_to(packages / "node_modules")
    shutil.copy(PROGRAMS / name, folder)
    return [str(packages / "node_modules" / "node" / "bin" / "node"), str(folder / name)]


def python_program(package: str, name: str) -> list[str]:
    """The command of a program of ours, with the interpreter that has the package."""
    return [str(python_with(package)), "-P", str(PROGRAMS / name)]
