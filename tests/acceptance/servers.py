"""Offhand as the user runs it: started, reached over the shim or over HTTP, and ended by its pid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(sys.executable).parent
STOP_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Offhand:
    """A running server."""

    home: Path
    port: int
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def authorization(self) -> str:
        """The value of the header."""
        return f"Bearer {self.key}"

    @property
    def shim(self) -> dict[str, Any]:
        """What a desktop client is told to start."""
        return {"command": str(SCRIPTS / "offhand"), "args": ["mcp"], "env": {"OFFHAND_HOME": str(self.home)}}

    @property
    def http(self) -> dict[str, Any]:
        """What a client is told to call."""
        return {"url": self.url, "headers": {"Authorization": self.authorization}}

    def door(self, name: str) -> dict[str, Any]:
        """`shim` or `http`."""
        return self.shim if name == "shim" else self.http


def own_environment(**more: str) -> dict[str, str]:
    """Ours without any Offhand setting of the user's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OFFHAND_")} | more


@contextmanager
def serving(home: Path, **settings: str) -> Generator[Offhand]:
    """`offhand serve` on `home` with these settings (`OFFHAND_…`). It must end well when it is told to."""
    environment = own_environment(OFFHAND_HOME=str(home), OFFHAND_PORT="0", **settings)
    with started([str(SCRIPTS / "offhand"), "serve"], environment, "Serving") as (process, printed):
        key = printed.split("shown only this once): ")[1].split()[0]
        yield Offhand(home, json.loads((home / "server.json").read_text())["port"], key)
    assert process.returncode == 0, f"the server ended with {process.returncode}"


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], ready: str
) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A process that printed a line with `ready`, and what it printed until then. Ended by its pid.

    Raises:
        RuntimeError: it ended before. Its words are in the message.
    """
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        try:
            printed = ""
            for line in output:
                printed += line
                if ready in line:
                    break
            else:
                raise RuntimeError(f"{command[0]} ended: {printed}")
            drain = threading.Thread(target=output.read)  # else it would wait for us when the pipe is full
            drain.start()
            yield process, printed
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        drain.join()
