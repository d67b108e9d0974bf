"""Real server processes, and the processes of the tasks they run. Each is ended by its id."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_SECONDS = 20.0
STOP_SECONDS = 5.0
"""What the issue allows from the signal to the end."""

SETTLE_SECONDS = 10.0
"""For what ends by itself in a moment, such as a supervisor after the last word of its task."""

READY = "Serving. Stop with Ctrl-C."
COOKIE = "OFFHAND_ATTEMPT="


@dataclass(frozen=True, slots=True)
class Place:
    """Where one user of Offhand lives in a test: nothing else of the machine is theirs."""

    base: Path

    @property
    def home(self) -> Path:
        """`OFFHAND_HOME`."""
        return self.base / "oh"

    @property
    def user_home(self) -> Path:
        """`HOME`. Every child inherits it, so that it tells this test's processes from all others."""
        return self.base / "user"

    @property
    def workspace(self) -> Path:
        """A folder that is a workspace named `work`."""
        return self.base / "work"

    @classmethod
    def make(cls, base: Path) -> Place:
        place = cls(base)
        place.user_home.mkdir(parents=True)
        place.workspace.mkdir()
        return place

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process of this user; nothing of ours but the way to the program."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.user_home),
            "OFFHAND_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "LANG": "C.UTF-8",
            **more,
        }

    def run(self, *arguments: str, timeout: float = START_SECONDS, **more: str) -> subprocess.CompletedProcess[str]:
        """`offhand ARGUMENTS`, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "mcp_server", *arguments],
            env=self.environment(**more),
            cwd=self.base,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def task_processes(self) -> dict[int, str]:
        """What lives of this user's tasks: supervisors, and whatever carries a cookie. Zombies do not live."""
        return {pid: line for pid, (line, is_task) in self._processes().items() if is_task}

    def await_silence(self) -> dict[int, str]:
        """What still lives of this user's tasks when it should have ended; supervisors get a moment to exit."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while found := self.task_processes():
            if time.monotonic() > deadline:
                return found
            for pid in found:
                wait_for_exit(pid, deadline - time.monotonic())
        return {}

    def end_all(self) -> None:
        """After a failed test: KILL what it left."""
        for _ in range(20):
            found = self._processes()
            if not found:
                return
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in found:
                wait_for_exit(pid, 1.0)

    def _processes(self) -> dict[int, tuple[str, bool]]:
        found: dict[int, tuple[str, bool]] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            with suppress(OSError):
                line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                entries = Path(f"/proc/{name}/environ").read_bytes().decode(errors="replace").split("\0")
                supervises = f"{self.home}/attempts/" in line or f"{self.home.resolve()}/attempts/" in line
                ours = f"HOME={self.user_home}" in entries
                if supervises or ours:
                    found[int(name)] = (line, supervises or any(entry.startswith(COOKIE) for entry in entries))
        return {pid: facts for pid, facts in found.items() if is_alive(pid)}


def is_alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X")


def wait_for_exit(pid: int, seconds: float) -> bool:
    """Whether the process ended within `seconds`."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], max(0.0, seconds))[0])
    finally:
        os.close(pidfd)


@dataclass
class ServerProcess:
    """`offhand serve` as a user starts it."""

    place: Place
    process: subprocess.Popen[bytes]
    said: str = ""
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, place: Place, *arguments: str, ready: bool = True, **more: str) -> ServerProcess:
        """Start on a free port, with the workspace `work`; wait until it serves."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mcp_server",
                "serve",
                "--port",
                "0",
                f"--workspace=work={place.workspace}",
                *arguments,
            ],
            env=place.environment(**more),
            cwd=place.base,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        server = cls(place, process)
        if ready:
            server.read_until(READY)
        return server

    def read_until(self, words: str, seconds: float = START_SECONDS) -> str:
        """Everything said so far, once `words` are in it."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while words not in self.said:
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(descriptor, 65536) if readable else b""
            assert data, f"never said {words!r}, but: {self.said}"
            self.said += data.decode()
        return self.said

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def facts(self) -> dict[str, Any]:
        """`server.json`."""
        return json.loads((self.place.home / "server.json").read_text())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.facts['port']}"

    @property
    def key(self) -> str:
        """The one of the first start."""
        found = re.search(r"ofh_[\w-]+", self.said)
        assert found is not None, self.said
        return found[0]

    def make_key(self, name: str, *scopes: str) -> str:
        """A key, made at the desk."""
        import httpx2

        with httpx2.Client(transport=httpx2.HTTPTransport(uds=self.facts["http_socket"])) as client:
            body = {"name": name, "scopes": list(scopes)} if scopes else {"name": name}
            answer = client.post("http://offhand/api/keys", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()["key"]

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Send a signal; returns the seconds until the process was gone. Its exit code is in `process.returncode`."""
        began = time.monotonic()
        self.process.send_signal(number)
        self._read_rest(began + STOP_SECONDS + 5)
        self.process.wait(1)
        return time.monotonic() - began

    def kill(self) -> None:
        """As a power cut would, for this process alone."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        """End it if it runs."""
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read_rest(self, deadline: float) -> None:
        """Until the end of its output, which is when it is gone: its children have pipes of their own."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data = os.read(descriptor, 65536)
            if not data:
                return
            self.said += data.decode()
        raise AssertionError(f"still running: {self.said}")
