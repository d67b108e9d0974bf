"""What `pip install .` gives: both commands, and every file that the code reads at run time."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_both_commands_and_all_statements(tmp_path: Path) -> None:
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        commands = next(wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert "offhand = mcp_server.__main__:main" in commands
    assert "offhand-mcp = mcp_server.transports.shim:main" in commands
    for file in (*ROOT.glob("mcp_server/**/*.sql"), *ROOT.glob("*/**/*.py")):
        place = file.relative_to(ROOT).as_posix()
        if place.startswith(("mcp_server/", "relay_adapter/")):
            assert place in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_every_pinned_dependency_has_a_hash_and_no_address() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        text = lock.read_text("utf-8")
        pinned = [line for line in text.splitlines() if line and line[0] not in " #"]
        assert pinned
        assert all("==" in line and line.endswith("\\") for line in pinned)
        assert "://" not in text


def test_every_dependency_of_the_project_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    locked = {
        line.split("==")[0] for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if "==" in line
    }
    for requirement in project["dependencies"]:
        name = requirement.split(">")[0].split("=")[0]
        assert name in locked
