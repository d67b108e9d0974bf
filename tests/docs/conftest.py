"""A real server, as somebody has it who has just read the README, and the commands that it is reached by."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

START_SECONDS = 60
STOP_SECONDS = 10

_CURL = """\
import sys, urllib.error, urllib.request
url, headers, body, words = "", {}, None, iter(sys.argv[1:])
for word in words:
    if word == "-H":
        name, _, value = next(words).partition(":")
        headers[name] = value.strip()
    elif word in ("-d", "--data-binary"):
        given = next(words)
        body = open(given[1:], "rb").read() if given.startswith("@") else given.encode()
    elif not word.startswith("-"):
        url = word
try:
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        print(answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""
"""For machines without curl: as much of it as our docs use. What runs is still the line of the docs, in a shell."""


@dataclass(frozen=True)
class Served:
    """A running server: where it is, its key, its home and what it printed."""

    url: str
    key: str
    home: Path
    printed: str


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing but the home; the checkout can be imported, installed or not."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OFFHAND_")}
    return kept | {"OFFHAND_HOME": str(home), "OFFHAND_PORT": "0", "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `offhand`, `offhand-mcp` and `curl`, to be put on PATH.

    The scripts are those of the venv. Where the checkout is not installed, they are written as pip would.
    """
    folder = tmp_path_factory.mktemp("scripts")
    installed = Path(sysconfig.get_path("scripts"))
    for name, entry in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"].items():
        if (installed / name).exists():
            (folder / name).symlink_to(installed / name)
        else:
            module, _, function = entry.partition(":")
            _script(folder / name, f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    if shutil.which("curl") is None:
        _script(folder / "curl", _CURL)
    return folder


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!{sys.executable}\n{text}", "utf-8")
    path.chmod(0o755)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """`offhand serve` in a process of its own, for the first time in its home."""
    home = tmp_path_factory.mktemp("served") / "home"
    with subprocess.Popen(
        [sys.executable, "-m", "mcp_server", "serve", "--workspace", f"offhand={ROOT}", "--port", "0"],
        env=clean_environment(home),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = threading.Timer(START_SECONDS, process.kill)
        deadline.start()
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("Serving."):
                    break
            deadline.cancel()
            printed = "".join(lines)
            key = re.search(r"\bofh_[\w-]+", printed)
            assert key, f"the server did not start: {printed}"
            running = json.loads((home / "server.json").read_text("utf-8"))
            yield Served(f"http://127.0.0.1:{running['port']}", key[0], home, printed)
        finally:
            deadline.cancel()
            process.terminate()
            process.wait(STOP_SECONDS)
