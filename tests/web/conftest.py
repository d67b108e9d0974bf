"""A real server for the tests that only knock at it, and places for those that start their own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import httpx2
import pytest

from tests.no_agents import AS_VARIABLE
from tests.server.gate import Gate
from tests.server.processes import Place, ServerProcess

Start = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def server() -> Generator[ServerProcess]:
    """Serves for all tests of this folder."""
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        place = Place.make(Path(folder))
        running = ServerProcess.start(place, **AS_VARIABLE)
        try:
            yield running
        finally:
            running.close()
            place.end_all()


@pytest.fixture
def http(server: ServerProcess) -> Generator[httpx2.Client]:
    """A client over TCP, without a key."""
    with httpx2.Client(base_url=server.url, timeout=20, verify=False) as client:
        yield client


@pytest.fixture
def desk(server: ServerProcess) -> Generator[httpx2.Client]:
    """A client over the unix socket."""
    transport = httpx2.HTTPTransport(uds=server.facts["http_socket"], verify=False)
    with httpx2.Client(base_url="http://offhand", transport=transport, timeout=20) as client:
        yield client


@pytest.fixture
def place() -> Generator[Place]:
    """A user of their own; whatever they started is ended after the test."""
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        made = Place.make(Path(folder))
        try:
            yield made
        finally:
            made.end_all()


@pytest.fixture
def start(place: Place) -> Generator[Start]:
    """Start a server for `place`; it is ended after the test."""
    started: list[ServerProcess] = []

    def begin(*arguments: str, ready: bool = True, **environment: str) -> ServerProcess:
        started.append(ServerProcess.start(place, *arguments, ready=ready, **environment))
        return started[-1]

    yield begin
    for server in started:
        server.close()


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Gate]:
    """Where a program and the test wait for each other."""
    made = Gate(tmp_path)
    yield made
    made.close()
