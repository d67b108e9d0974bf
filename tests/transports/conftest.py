from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from tests.transports.small_server import Small


@pytest.fixture
def home() -> Generator[Path]:
    """Not `tmp_path`: with the name of the test in it, it is too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="oh-") as folder:
        yield Path(folder)


@pytest.fixture
def small(home: Path) -> Small:
    return Small(home)


@pytest.fixture
async def served(small: Small) -> AsyncGenerator[Small]:
    async with small.running():
        yield small
