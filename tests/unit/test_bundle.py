"""What goes into the bundle, and what it starts. The bundle itself is built and run in tests/acceptance."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from bundle.build import ROOT, stage
from bundle.main import add_workspace
from mcp_server.settings import Settings

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    stage(folder, PROJECT)
    return folder


def test_the_bundle_holds_all_of_our_code_and_nothing_of_this_machine(staged: Path):
    files = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    source = {
        path.relative_to(ROOT).as_posix()
        for package in ("mcp_server", "relay_adapter")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert source <= files
    assert files - source == {"manifest.json", "pyproject.toml", "main.py", "README.md", "LICENSE", "CHANGELOG.md"}
    for name in ("manifest.json", "pyproject.toml", "main.py"):
        assert str(ROOT) not in (staged / name).read_text("utf-8")


def test_the_manifest_names_our_version_our_tools_and_where_we_run(staged: Path):
    manifest = json.loads((staged / "manifest.json").read_text("utf-8"))
    documented = re.findall(r"^### `(\w+)`$", (ROOT / "docs" / "tools.md").read_text("utf-8"), re.MULTILINE)

    assert manifest["version"] == PROJECT["project"]["version"]
    assert {tool["name"] for tool in manifest["tools"]} == set(documented)
    assert (staged / manifest["server"]["entry_point"]).is_file()
    assert manifest["compatibility"]["platforms"] == ["darwin", "linux"]
    assert manifest["compatibility"]["runtimes"]["python"] == PROJECT["project"]["requires-python"]


def test_the_dependencies_are_ours_held_to_the_versions_that_are_tested(staged: Path):
    bundled = tomllib.loads((staged / "pyproject.toml").read_text("utf-8"))
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    locked = {line.split("==")[0] for line in lock.splitlines() if re.match(r"[\w.-]+==", line)}
    pins = bundled["tool"]["uv"]["constraint-dependencies"]

    assert bundled["project"] == PROJECT["project"]
    assert {re.split(r"==", pin)[0] for pin in pins} == locked
    assert all(re.match(r"[\w.-]+==[\w.]+( ; .+)?$", pin) for pin in pins)
    assert "dependency-groups" not in bundled


@pytest.mark.parametrize(
    ("name", "workspace"), [("site", "site"), ("my site!", "my-site"), ("ü", "work"), ("x" * 90, "x" * 64)]
)
def test_the_chosen_folder_becomes_a_workspace(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, workspace: str
):
    folder = tmp_path / name
    folder.mkdir()
    environment = {"OFFHAND_BUNDLE_WORKSPACE": f"{folder}/"}
    add_workspace(environment)
    monkeypatch.setenv("OFFHAND_WORKSPACES", environment["OFFHAND_WORKSPACES"])

    assert {key: Path(value) for key, value in Settings().workspaces.items()} == {workspace: folder}


@pytest.mark.parametrize("given", ["", "${user_config.workspace}", "relative", "/no/such/folder"])
def test_without_a_folder_there_is_no_workspace_and_no_variable_of_the_bundle(given: str):
    environment = {"OFFHAND_BUNDLE_WORKSPACE": given, "PATH": "/bin"}
    add_workspace(environment)

    assert environment == {"PATH": "/bin"}
