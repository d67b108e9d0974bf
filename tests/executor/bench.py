"""A bench on which attempts are run by real supervisors, and looked at."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from mcp_server.executor.attempt_folder import AttemptFolder, OutputName, Spec, Status

DEADLINE_SECONDS = 60.0


class Bench:
    """Starts attempts whose programs work below `root`, and waits for what they do."""

    def __init__(self, root: Path, supervisor: Path, *, pid_namespace: bool) -> None:
        self.root = root
        self.supervisor = supervisor
        self.pid_namespace = pid_namespace
        self.folders: list[AttemptFolder] = []
        self.heard: list[bytes] = []
        self.bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bell_path = str(root / "bell")
        self.bell.bind(self.bell_path)

    def spec(self, *argv: str, **changes: Any) -> Spec:
        facts: dict[str, Any] = {
            "attempt": "7-1",
            "argv": argv,
            "cwd": str(self.root),
            "env": {"PATH": os.defpath},
            "timeout_seconds": DEADLINE_SECONDS,
            "output_limit_bytes": 1 << 20,
            "cookie": os.urandom(16).hex(),
            "bell": self.bell_path,
            "pid_namespace": self.pid_namespace,
        }
        return Spec(**facts | changes)

    def start(self, *argv: str, stdin: bytes = b"", within: Path | None = None, **changes: Any) -> AttemptFolder:
        folder = AttemptFolder((within or self.root) / f"attempt-{len(self.folders)}")
        self.folders.append(folder)
        folder.start(self.spec(*argv, **changes), supervisor=self.supervisor, stdin=stdin)
        return folder

    def start_ready(self, *argv: str, **changes: Any) -> AttemptFolder:
        """Start a program and wait until it wrote `ready`."""
        folder = self.start(*argv, **changes)
        self.wait_for_output(folder, b"ready")
        return folder

    def run(self, *argv: str, **changes: Any) -> tuple[AttemptFolder, Status]:
        folder = self.start(*argv, **changes)
        return folder, self.wait_for_status(folder)

    def shell(self, script: str, **changes: Any) -> tuple[AttemptFolder, Status]:
        return self.run("/bin/sh", "-c", script, **changes)

    def wait_for_exit(self, folder: AttemptFolder) -> int | None:
        pidfd = folder.open_pidfd()
        if pidfd is not None:
            try:
                assert select.select([pidfd], [], [], DEADLINE_SECONDS)[0], "the supervisor did not end"
            finally:
                os.close(pidfd)
        wait_until(lambda: not folder.is_alive())
        return folder.reap()

    def wait_for_status(self, folder: AttemptFolder) -> Status:
        code = self.wait_for_exit(folder)
        status = folder.status()
        assert status is not None, (folder.path / "supervisor.log").read_text()
        assert code in (0, None)
        return status

    def wait_for_output(self, folder: AttemptFolder, text: bytes, stream: OutputName = "stdout") -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in folder.read(stream, 0, 1 << 20):
            self.bell.settimeout(max(deadline - time.monotonic(), 0.001))
            self.heard.append(self.bell.recv(100))
            assert not self.heard[-1].startswith(b"end"), folder.read("stderr", 0, 10_000)

    def hear_the_end(self) -> None:
        """Listen until the end. Who does not listen misses rings: few datagrams wait in a socket (often ten)."""
        self.bell.settimeout(DEADLINE_SECONDS)
        while not self.heard or not self.heard[-1].startswith(b"end"):
            self.heard.append(self.bell.recv(100))

    def rings(self) -> list[bytes]:
        """What the bell said so far."""
        self.bell.setblocking(False)
        while True:
            try:
                self.heard.append(self.bell.recv(100))
            except BlockingIOError:
                return self.heard

    def processes(self) -> list[int]:
        """All living processes that work below our root: found by their folder, whatever they did to the rest."""
        return [pid for pid in all_pids() if working_folder(pid).startswith(str(self.root)) and not is_zombie(pid)]

    def close(self) -> None:
        """End what a failed test left."""
        for folder in self.folders:
            if (pid := folder.supervisor_pid()) is not None:
                os.kill(pid, signal.SIGKILL)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.bell.close()


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def working_folder(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look until it is so. For what gives no event; a process between its last instruction and its end, mostly."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be so"
        os.sched_yield()


def python(script: str) -> tuple[str, ...]:
    return sys.executable, "-I", "-S", "-c", script


def kill_supervisor(bench: Bench, folder: AttemptFolder) -> None:
    os.kill(cast(int, folder.supervisor_pid()), signal.SIGKILL)
    assert bench.wait_for_exit(folder) == -signal.SIGKILL
