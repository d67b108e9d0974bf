"""The processes that are measured: Offhand with a home of its own in a temporary folder, and the bare SDK's server.

Each is ended by its own pid, whatever happens. Only loopback and unix sockets.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mcp_server

BARE = Path(__file__).with_name("bare.py")
SOURCE = Path(str(mcp_server.__file__)).parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.001
WORKSPACE = "bench"


@dataclass(frozen=True, slots=True)
class Offhand:
    """A running server, and how to reach it."""

    process: subprocess.Popen[bytes]
    home: Path
    port: int
    mcp_socket: str
    key: str
    environment: dict[str, str]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Ours without any Offhand setting of the user's, and with `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OFFHAND_")}
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    return kept | {"OFFHAND_HOME": str(home), "PYTHONPATH": path} | more


@contextmanager
def temporary_folder() -> Generator[Path]:
    """A folder that is gone afterwards; its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ofh-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


@contextmanager
def repository() -> Generator[Path]:
    """A small git repository to work in, clean, with a history of one commit."""
    with temporary_folder() as folder:
        for number in range(20):
            (folder / f"file_{number}.txt").write_text(f"{number}\n" * 50)
        git = ["git", "-C", str(folder), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Begin"]):
            subprocess.run([*git, *command], check=True, capture_output=True)
        yield folder


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Generator[subprocess.Popen[bytes]]:
    """`process`, which has ended afterwards."""
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serving(home: Path, workspace: Path | None = None) -> Generator[Offhand]:
    """`offhand serve` on `home`, ready."""
    key = secrets.token_urlsafe(24)
    own = environment(home, OFFHAND_API_KEY=key)
    arguments = [] if workspace is None else ["--workspace", f"{WORKSPACE}={workspace}"]
    command = [sys.executable, "-m", "mcp_server", "serve", "--background", "--port", "0", *arguments]
    with ended(spawned(command, own, home)) as process:
        facts = wait_until_ready(process, home)
        yield Offhand(process, home, facts["port"], facts["mcp_socket"], key, own)


def spawned(
    command: Sequence[str], own: dict[str, str], folder: Path, *, pipes: bool = False
) -> subprocess.Popen[bytes]:
    """`command` in `folder`, which also takes what it writes to stderr."""
    way = subprocess.PIPE if pipes else subprocess.DEVNULL
    with open(folder / "stderr.txt", "ab") as errors:
        return subprocess.Popen(command, env=own, cwd=folder, stdin=way, stdout=way, stderr=errors)


def wait_until_ready(process: subprocess.Popen[bytes], home: Path) -> dict[str, object]:
    """What `server.json` says, once it is there and `/readyz` answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {(home / 'stderr.txt').read_text()}")
        try:
            facts = json.loads((home / "server.json").read_bytes())
            if facts["pid"] == process.pid and is_ready(facts["port"], "/readyz"):
                return facts
        except OSError:
            pass
        time.sleep(LOOK_SECONDS)
    raise TimeoutError("the server did not come up")


def is_ready(port: int, path: str) -> bool:
    """Whether anything answers there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except ConnectionError:
        return False
    finally:
        connection.close()
    return True


def shim_command() -> list[str]:
    """What a desktop client starts."""
    return [sys.executable, "-m", "mcp_server", "mcp"]


def bare_stdio(folder: Path) -> subprocess.Popen[bytes]:
    """The bare SDK's server on pipes. Its store lies in `folder`."""
    return spawned([sys.executable, str(BARE), "stdio"], bare_environment(folder), folder, pipes=True)


def bare_environment(folder: Path) -> dict[str, str]:
    """Of the bare server."""
    return os.environ | {"BARE_STORE": str(folder / "bare.db")}


@contextmanager
def bare_http(folder: Path) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """The bare SDK's server over HTTP, ready, and its port."""
    port = free_port()
    command = [sys.executable, str(BARE), "http", str(port)]
    with ended(spawned(command, bare_environment(folder), folder)) as process:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(port, "/"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the bare server did not come up: {(folder / 'stderr.txt').read_text()}")
            time.sleep(LOOK_SECONDS)
        yield process, port


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
