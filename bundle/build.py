"""`make bundle`: put the server into one file that desktop apps install by a double click, and have it checked.

The app brings uv, which fetches Python and the dependencies when the extension is installed; the file holds only our
own code, so that one file serves every platform.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import tomlkit

from tests.acceptance.clients import MissingClientError, node_path, npm_packages

ROOT = Path(__file__).resolve().parents[1]
MCPB = "@anthropic-ai/mcpb@2.1.2"
PACKAGES = ("mcp_server", "relay_adapter")
FILES = ("README.md", "LICENSE", "CHANGELOG.md")


def build(folder: Path) -> Path:
    """Make `offhand-VERSION.mcpb` in `folder`, checked by the official tool. Returns its path.

    Raises:
        MissingClientError: the official tool cannot be had here.
        subprocess.CalledProcessError: it does not accept what we made; its output is on the terminal.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder.resolve() / f"offhand-{project['project']['version']}.mcpb"
    with tempfile.TemporaryDirectory(prefix="offhand-bundle-") as own:
        staged = Path(own)
        stage(staged, project)
        mcpb("validate", staged / "manifest.json")
        target.unlink(missing_ok=True)
        mcpb("pack", staged, target)
    return target


def stage(folder: Path, project: dict[str, Any]) -> None:
    """Everything that goes into the bundle."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "bundle" / "main.py", folder)
    manifest = json.loads((ROOT / "bundle" / "manifest.json").read_text("utf-8"))
    manifest["version"] = project["project"]["version"]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / "pyproject.toml").write_text(tomlkit.dumps(pyproject(project)), "utf-8")


def pyproject(project: dict[str, Any]) -> dict[str, Any]:
    """Ours, without what is for development, and with the versions that we test with."""
    kept = {name: project[name] for name in ("build-system", "project")}
    pins = re.findall(r"^(\S+==.*?) ?\\$", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
    wheel = {"packages": list(PACKAGES)}
    return {
        **kept,
        "tool": {
            "hatch": {"build": {"targets": {"wheel": wheel}}},
            "uv": {"constraint-dependencies": pins, "build-constraint-dependencies": pins},
        },
    }


def mcpb(*arguments: str | Path) -> None:
    """Run the official tool with the pinned Node."""
    packages = npm_packages(MCPB)
    subprocess.run(
        [packages / "node_modules" / ".bin" / "mcpb", *arguments],
        env=os.environ | {"PATH": f"{node_path(packages)}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
        stdin=subprocess.DEVNULL,
        check=True,
    )


def run() -> int:
    """Build into `dist/`."""
    try:
        built = build(ROOT / "dist")
    except MissingClientError as missing:
        sys.stderr.write(f"The bundle cannot be built here. {missing}\n")
        return 1
    except subprocess.CalledProcessError as refused:
        return refused.returncode
    sys.stdout.write(f"{built.relative_to(ROOT)}: open it with Claude Desktop.\n")
    return 0


if __name__ == "__main__":
    sys.exit(run())
