"""The real clients: pinned, installed once into the user's cache folder, where the next clean clone finds them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
CONFORMANCE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
TYPESCRIPT_V2 = "@modelcontextprotocol/client@2.4.0"
TYPESCRIPT_V1 = "@modelcontextprotocol/sdk@1.32.2"
CLAUDE_CODE = "@anthropic-ai/claude-code@2.1.329"
GEMINI = "@google/gemini-cli@0.61.0"
CODEX = "@openai/codex@0.169.0"
PLAYWRIGHT = "playwright-core@1.64.1"
NODE = "node@22.23.3"
"""The Inspector needs Node 22.19 or newer; this package brings one, whatever the machine has."""

FASTMCP = "fastmcp==4.1.0"
OPENAI_AGENTS = "openai-agents==0.24.0"
PYDANTIC_AI = "pydantic-ai-slim[mcp]==2.68.0"

INSTALL_SECONDS = 600
INSTALL_TRIES = 2
"""A registry that hiccups once must not fail the run."""


class MissingClientError(pytest.fail.Exception):
    """A client cannot be had on this machine: what needs it fails with the reason, and nothing else."""

    def __init__(self, why: str) -> None:
        super().__init__(why, pytrace=False)


def cache_folder() -> Path:
    """Where installed clients are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offhand" / "acceptance"


def npm_packages(*packages: str) -> Path:
    """A folder in which exactly these npm packages are installed, beside the pinned Node. Installed at first use.

    Raises:
        MissingClientError: there is no npm, or it fails.
    """
    node = _npm_folder(NODE, lambda made: _npm_install(made, NODE)) / "node_modules" / "node"

    def install(made: Path) -> None:
        _npm_install(made, *packages)
        (made / "node_modules" / "node").symlink_to(node)  # it takes 190 MB, once

    return _npm_folder("_".join((NODE, *packages)), install)


def node_path(packages: Path) -> str:
    """The folder with the pinned `node`, to be first on PATH."""
    return str(packages / "node_modules" / "node" / "bin")


def npm_version(packages: Path, package: str) -> str:
    """The version that is installed, as the package itself says. `package` may be a pin."""
    name = package[: package.rindex("@")]
    return json.loads((packages / "node_modules" / name / "package.json").read_text())["version"]


def python_with(package: str) -> Path:
    """The interpreter of a virtual environment in which this package is installed. Made at first use.

    Raises:
        MissingClientError: pip fails.
    """
    folder = cache_folder() / f"python{sys.version_info.major}.{sys.version_info.minor}_{package}"
    python = folder / "bin" / "python"
    if folder.exists() and not python.exists():
        shutil.rmtree(folder)  # the Python that it was made with is gone

    def install(made: Path) -> None:
        _run_installer([sys.executable, "-m", "venv", str(made)], made, package)
        pip = [str(made / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run_installer([*pip, package], made, package)

    if not python.exists():
        _made_at(folder, install)
    return python


def python_version(package: str) -> str:
    """The version that is installed, as the package itself says. `package` is a pin."""
    name = package.partition("==")[0].partition("[")[0]
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    return subprocess.check_output([str(python_with(package)), "-c", code], text=True).strip()


def chromium() -> str:
    """The program of Debian's Chromium. Installed at first use where we are root.

    Raises:
        MissingClientError: it is not there and cannot be installed.
    """
    return _debian_program("chromium", "chromium")


def bubblewrap() -> str:
    """The program of Debian's bubblewrap, as `chromium` has it."""
    return _debian_program("bwrap", "bubblewrap")


def _debian_program(program: str, package: str) -> str:
    with _alone():
        if shutil.which(program) is None and os.geteuid() == 0 and (apt := shutil.which("apt-get")):
            _run_installer([apt, "update", "-q"], Path("/"), package)
            _run_installer([apt, "install", "-q", "-y", "--no-install-recommends", package], Path("/"), package)
    found = shutil.which(program)
    if found is None:
        raise MissingClientError(f"{package}: it is not on PATH. On Debian, as root: apt-get install {package}.")
    return found


def _npm_folder(name: str, install: Callable[[Path], None]) -> Path:
    folder = cache_folder() / name.replace("/", "-")
    if folder.exists() and not Path(node_path(folder), "node").exists():
        shutil.rmtree(folder)  # somebody took the Node away
    return folder if folder.exists() else _made_at(folder, install)


def _npm_install(folder: Path, *packages: str) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingClientError(f"{', '.join(packages)}: there is no npm here. On Debian: apt-get install npm.")
    options = ["--no-audit", "--no-fund", "--no-save", "--prefix", str(folder)]
    _run_installer([npm, "install", *options, *packages], folder, ", ".join(packages))


def _made_at(folder: Path, make: Callable[[Path], None]) -> Path:
    """Let `make` fill a folder beside `folder`, and put it there in one step: whoever finds it finds all of it."""
    with _alone():
        if folder.exists():  # another was faster
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as own:
            made = Path(own) / "made"
            made.mkdir()
            make(made)
            made.replace(folder)
    return folder


@contextmanager
def _alone() -> Generator[None]:
    """One of all processes that test at once installs at a time."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run_installer(command: Sequence[str], folder: Path, what: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    name = Path(command[0]).name
    why = ""
    for _ in range(INSTALL_TRIES):
        try:
            subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=True,
            )
        except subprocess.TimeoutExpired:
            raise MissingClientError(f"{what}: {name} took longer than {INSTALL_SECONDS} s.") from None
        except subprocess.CalledProcessError as error:
            why = f"{what}: {name} failed: {(error.stderr or error.stdout)[-2000:]}"
        else:
            return
    raise MissingClientError(why)
