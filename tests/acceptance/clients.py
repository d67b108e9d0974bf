"""The real clients: pinned, installed once into the user's cache folder, where the next clean clone finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
NODE = "node@22.23.3"
"""The Inspector needs Node 22.19 or newer; this package brings one, whatever the machine has."""

INSTALL_SECONDS = 600


class MissingClientError(Exception):
    """A client cannot be had on this machine. The message names it and says why."""


def cache_folder() -> Path:
    """Where installed clients are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offhand" / "acceptance"


def npm_packages(*packages: str) -> Path:
    """A folder in which exactly these npm packages are installed, with the pinned Node. Installed at first use."""
    wanted = (NODE, *packages)
    name = "_".join(package.strip("@").replace("/", "-") for package in wanted)
    folder = cache_folder() / name
    if folder.exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise MissingClientError(f"{', '.join(packages)}: there is no npm here. On Debian: apt install npm.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as own:
        made = Path(own) / "packages"
        made.mkdir()
        command = [npm, "install", "--no-audit", "--no-fund", "--no-save", "--prefix", str(made), *wanted]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if done.returncode:
            raise MissingClientError(f"{', '.join(packages)}: npm failed: {done.stderr[-2000:]}")
        made.replace(folder)
    return folder


def node_path(packages: Path) -> str:
    """The folder with the pinned `node`, to be first on PATH."""
    return str(packages / "node_modules" / "node" / "bin")
