"""What `make test` skips where there is no bubblewrap, and nobody may skip: agents in their sandbox."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.clients import bubblewrap
from tests.acceptance.conftest import SignIn

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
TESTS = ("tests/drivers/test_sandbox.py", "tests/agents/test_isolation.py", "tests/agents/test_coding.py")
SECONDS = 300


def test_agents_are_kept_in_their_sandbox(sign_in: SignIn):
    version = subprocess.run([bubblewrap(), "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    # In a process of its own: whether bubblewrap is here was looked at when this one began.
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout
    assert "SKIPPED" not in done.stdout, done.stdout
    sign_in("bubblewrap", version, "as the sandbox of coding agents")
