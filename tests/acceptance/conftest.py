"""What the real clients share: a server as it ships, and the roll of those that ran."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.clients import node_path
from tests.acceptance.servers import Offhand, serving

ROLL = pytest.StashKey[dict[tuple[str, str], list[str]]]()
"""Of each client, by name and version, what it ran."""

SignIn = Callable[[str, str, str], None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROLL] = {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:  # one of several processes: the first of them prints
        output["roll"] = [[*client, ran] for client, ran in session.config.stash[ROLL].items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for name, version, ran in getattr(node, "workeroutput", {}).get("roll", []):
        known = node.config.stash[ROLL].setdefault((name, version), [])
        known += [each for each in ran if each not in known]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    roll = config.stash[ROLL]
    if not roll:
        return
    terminalreporter.section("real clients")
    for (name, version), ran in sorted(roll.items()):
        terminalreporter.line(f"{name} {version}")
        terminalreporter.line(textwrap.fill(", ".join(ran), 110, initial_indent="    ", subsequent_indent="    "))


@pytest.fixture(scope="session")
def sign_in(pytestconfig: pytest.Config) -> SignIn:
    """Put a client on the roll, as `sign_in(name, version, what it ran)`."""

    def signed(name: str, version: str, ran: str) -> None:
        known = pytestconfig.stash[ROLL].setdefault((name, version), [])
        if ran not in known:
            known.append(ran)

    return signed


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Offhand]:
    """A server as the user starts it, with a key."""
    with serving(tmp_path_factory.mktemp("offhand-home")) as running:
        yield running


@pytest.fixture
def client_environment(tmp_path: Path) -> Callable[[Path], dict[str, str]]:
    """The whole environment of a client from npm: a HOME of its own, the pinned Node first on PATH, no calling home."""

    def made(packages: Path) -> dict[str, str]:
        home = tmp_path / "client-home"
        home.mkdir(exist_ok=True)
        return {"PATH": f"{node_path(packages)}:/usr/bin:/bin", "HOME": str(home), "TERM": "dumb"}

    return made
