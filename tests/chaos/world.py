"""The place of a chaos run: its server, which dies and comes back, and the supervisors that outlive it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_server.executor.attempt_folder import AttemptFolder
from mcp_server.paths import socket_folder
from tests.chaos.orders import OUTPUT_LIMIT_BYTES
from tests.server.processes import Place
from tests.transports.raw_client import RawClient, call

READY_SECONDS = 120.0
LOOK_SECONDS = 0.02
ANSWER_SECONDS = 60.0
LIMIT = 10


class UnansweredError(Exception):
    """The server went away, or was not there: nobody knows whether it was done."""


@dataclass
class World:
    """Everything that a run does something to, and what was done."""

    place: Place
    namespaces: bool
    server: subprocess.Popen[bytes] | None = None
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    kills: Counter[str] = field(default_factory=Counter[str])
    """Processes killed or stopped, by kind; `server` and `supervisor` are the ones that count."""

    killed: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Attempts whose supervisor was killed, with the sizes of their output files just before."""

    struck: set[str] = field(default_factory=set[str])
    """Attempts whose program was killed, or whose supervisor got a TERM from a stranger."""

    @property
    def ledger(self) -> Path:
        """Where the programs write down that they ran."""
        return self.place.base / "ledger"

    @property
    def socket(self) -> Path:
        return socket_folder(self.place.home) / "mcp.sock"

    # The server

    def start(self) -> None:
        """Start a server; nobody waits for it."""
        environment = self.place.environment(
            OFFHAND_LIMIT=str(LIMIT),
            OFFHAND_OUTPUT_LIMIT_BYTES=str(OUTPUT_LIMIT_BYTES),
            OFFHAND_PID_NAMESPACE="auto" if self.namespaces else "off",
        )
        command = [sys.executable, "-m", "mcp_server", "serve", "--port", "0", "--background"]
        with (self.place.base / "servers.log").open("ab") as said:
            self.server = subprocess.Popen(
                [*command, f"--workspace=work={self.place.workspace}"],
                env=environment,
                cwd=self.place.base,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    async def ready(self) -> None:
        """Wait until the server answers."""
        assert self.server is not None
        async with asyncio.timeout(READY_SECONDS):
            while True:
                code = self.server.poll()
                assert code is None, f"the server ended with {code}: {self.said()}"
                with suppress(OSError):
                    _, writer = await asyncio.open_unix_connection(self.socket)
                    writer.close()
                    self.serving.set()
                    return
                await asyncio.sleep(LOOK_SECONDS)

    def said(self) -> str:
        """The end of what the servers printed."""
        return (self.place.base / "servers.log").read_text(errors="replace")[-5000:]

    def kill_server(self) -> None:
        self.serving.clear()
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.kills["server"] += 1
            self.server = None

    async def stop_server(self) -> int:
        """As a user stops it. Returns its exit code."""
        self.serving.clear()
        assert self.server is not None
        self.server.terminate()
        code = await asyncio.to_thread(self.server.wait, 10)
        self.server = None
        return code

    async def ask(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """One call on a connection of its own.

        Raises:
            UnansweredError: no answer came.
        """
        await self.serving.wait()
        try:
            client = await RawClient.connect(self.socket)
        except OSError as error:
            raise UnansweredError from error
        try:
            client.writer.write(call(1, tool, **{k: v for k, v in arguments.items() if v is not None}))
            async with asyncio.timeout(ANSWER_SECONDS):
                line = await client.reader.readline()
        except OSError as error:
            raise UnansweredError from error
        finally:
            client.writer.close()
        if not line.endswith(b"\n"):
            raise UnansweredError
        answer: dict[str, Any] = json.loads(line)
        if "result" not in answer:  # the server is on its way out
            raise UnansweredError(answer)
        content: dict[str, Any] = answer["result"]["structuredContent"]
        return content

    # Supervisors and programs

    def folders(self) -> list[AttemptFolder]:
        """The attempts on the disk, in a fixed order."""
        paths = (self.place.home / "attempts").glob("*-*")
        return [AttemptFolder(path) for path in sorted(paths) if path.is_dir()]

    def alive(self) -> list[AttemptFolder]:
        """Those that a supervisor has in hand."""
        return [folder for folder in self.folders() if folder.is_alive()]

    def signal_supervisor(self, folder: AttemptFolder, number: int) -> bool:
        """Only ever a process that holds the lock of the attempt. False: it was gone already."""
        pidfd = folder.open_pidfd()
        if pidfd is None:
            return False
        try:
            if number == signal.SIGKILL:
                self.killed[folder.path.name] = (folder.size("stdout"), folder.size("stderr"))
            elif number == signal.SIGTERM:
                self.struck.add(folder.path.name)
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def kill_supervisor(self, folder: AttemptFolder) -> bool:
        done = self.signal_supervisor(folder, signal.SIGKILL)
        self.kills["supervisor"] += done
        return done

    def kill_program(self, folder: AttemptFolder) -> bool:
        """The program of an attempt, or the first process of its namespace."""
        started = folder.started() if folder.is_alive() else None
        if started is None or not self.is_ours(started.child_pid):
            return False
        self.struck.add(folder.path.name)
        with suppress(ProcessLookupError):
            os.kill(started.child_pid, signal.SIGKILL)
            self.kills["program"] += 1
        return True

    def is_ours(self, pid: int) -> bool:
        """Whether a process belongs to this run, so that nobody else's is ever hit."""
        with suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return f"HOME={self.place.user_home}".encode() in environ
        return False
