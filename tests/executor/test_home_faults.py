"""An `OFFHAND_HOME` that cannot be written is said plainly at the start. One that fills up: see test_recovery.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.executor.test_recovery import fill
from tests.server.processes import Place


@pytest.fixture
def disk(place: Place) -> Generator[Path]:
    """A small disk of its own where the home will be."""
    place.home.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", str(place.home)]
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("only root can mount a small disk here")
    try:
        yield place.home
    finally:
        place.end_all()
        subprocess.run(["umount", "--lazy", str(place.home)], check=True)


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


def test_a_server_does_not_start_on_a_read_only_home_and_says_why(place: Place, disk: Path):
    remount(disk, "ro")
    refusal = place.run("serve", "--port", "0")
    assert refusal.returncode not in (0, None)
    assert "Traceback" not in refusal.stderr + refusal.stdout
    assert "read-only" in (refusal.stderr + refusal.stdout).lower()


def test_a_server_does_not_start_on_a_full_home_and_says_why(place: Place, disk: Path):
    fill(disk / "filler")
    refusal = place.run("serve", "--port", "0")
    assert refusal.returncode not in (0, None)
    assert "Traceback" not in refusal.stderr + refusal.stdout
    assert "full" in (refusal.stderr + refusal.stdout).lower()
