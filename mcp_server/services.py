"""The service files of systemd and launchd, and the commands that make the system read them."""

from __future__ import annotations

import os
import plistlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mcp_server.errors import InvalidError, UnavailableError
from mcp_server.transports.service_file import LABEL, MARK, UNIT, agent_path, quoted, unit_path

COMMAND_SECONDS = 30.0

Commands = Sequence[tuple[str, ...]]

RESET = ("systemctl", "--user", "reset-failed", UNIT)
"""Without it, a service that has given up is refused for two minutes, and stays listed when its file is gone."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a service runs: a command with absolute paths, and the variables that it needs."""

    command: tuple[str, ...]
    environment: dict[str, str]
    home: Path


class Service(Protocol):
    """One system's way."""

    path: Path
    enable_commands: Commands
    """Have it started from now on, but not now."""
    start_commands: Commands
    """The same, and start it now."""
    stop_commands: Commands
    forget_commands: Commands
    """After the file is gone."""

    def text(self, setup: Setup) -> str:
        """The whole file. Raises InvalidError: a path cannot stand in it."""
        ...

    def is_ours(self) -> bool:
        """Whether the file that is there was written by us."""
        ...

    def state(self) -> dict[str, Any]:
        """`active` and `enabled` in the system's words, and the `pid` of the main process or None."""
        ...

    def boot_hint(self) -> str:
        """What the user has to run so that it starts without a login; empty where that is settled."""
        ...

    def run(self, commands: Commands) -> str:
        """Run them in order; says what went wrong with the first that failed, else nothing."""
        ...


def service_of(platform: str) -> Service:
    """The one of this platform. Raises UnavailableError."""
    if platform.startswith("linux"):
        return Systemd()
    if platform == "darwin":
        return Launchd()
    raise UnavailableError(f"There is no service for {platform}.", field="service", fix="Run offhand serve.")


class _Service:
    path: Path

    def is_ours(self) -> bool:
        return MARK in self.path.read_text("utf-8", errors="replace")

    def run(self, commands: Commands) -> str:
        for command in commands:
            code, said = _output(command)
            if code != 0 and command != RESET:  # which fails where nothing is known of the unit
                return f"`{' '.join(command)}` failed: {said.strip().splitlines()[-1] if said.strip() else code}."
        return ""


class Systemd(_Service):
    """A unit of the user's own systemd."""

    enable_commands: Commands = (("systemctl", "--user", "daemon-reload"), ("systemctl", "--user", "enable", UNIT))
    start_commands: Commands = (*enable_commands, RESET, ("systemctl", "--user", "restart", UNIT))
    stop_commands: Commands = (("systemctl", "--user", "disable", "--now", UNIT),)
    forget_commands: Commands = (("systemctl", "--user", "daemon-reload"), RESET)

    def __init__(self) -> None:
        self.path = unit_path()

    def text(self, setup: Setup) -> str:
        environment = "".join(f"Environment={_quoted(f'{k}={v}')}\n" for k, v in setup.environment.items())
        program, *arguments = setup.command
        if set(program) & set("\"'\\"):
            raise _unusable(program)  # systemd takes no such program, however it is written
        command = " ".join((_quoted(program), *(_quoted(word).replace("$", "$$") for word in arguments)))
        return _UNIT_TEXT.format(mark=MARK, environment=environment, command=command)

    def state(self) -> dict[str, Any]:
        code, said = _output(
            ("systemctl", "--user", "show", UNIT, "--property=ActiveState,UnitFileState,MainPID", "--no-pager")
        )
        lines = [line.partition("=") for line in said.splitlines()] if code == 0 else []
        found = {name: value for name, _, value in lines}
        return {
            "active": found.get("ActiveState") or "unknown",
            "enabled": found.get("UnitFileState") or "unknown",
            "pid": int(found.get("MainPID", "0")) or None,
        }

    def boot_hint(self) -> str:
        code, said = _output(("loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"))
        if code == 0 and said.strip() == "yes":
            return ""
        return (
            "For it to start with the machine, and to go on when you log out: loginctl enable-linger\n"
            "Without that, a logout also ends the tasks that run."
        )


class Launchd(_Service):
    """An agent of the user's own launchd."""

    def __init__(self) -> None:
        domain = f"gui/{os.getuid()}"
        self.path = agent_path()
        self._target = f"{domain}/{LABEL}"
        self.enable_commands: Commands = (("launchctl", "enable", self._target),)
        self.start_commands: Commands = (*self.enable_commands, ("launchctl", "bootstrap", domain, str(self.path)))
        self.stop_commands: Commands = (("launchctl", "bootout", self._target),)
        self.forget_commands: Commands = ()

    def text(self, setup: Setup) -> str:
        log = str(setup.home / "logs" / "service.log")
        facts: dict[str, Any] = {
            "Label": LABEL,
            "ProgramArguments": list(setup.command),
            "EnvironmentVariables": dict(setup.environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "AbandonProcessGroup": True,
            "ProcessType": "Interactive",
            "ExitTimeOut": 10,
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
        head, _, body = plistlib.dumps(facts, sort_keys=False).decode().partition("<plist ")
        return f"{head}<!-- {MARK} -->\n<plist {body}"

    def run(self, commands: Commands) -> str:
        if commands is self.start_commands and self.state()["enabled"] == "enabled":
            super().run(self.stop_commands)  # what is loaded cannot be loaded again
        return super().run(commands)

    def state(self) -> dict[str, Any]:
        code, said = _output(("launchctl", "print", self._target))
        pid = next((line.split("=")[1].strip() for line in said.splitlines() if line.strip().startswith("pid =")), "")
        return {
            "active": "active" if pid.isdecimal() else "inactive" if code == 0 else "unknown",
            "enabled": "enabled" if code == 0 else "unknown",
            "pid": int(pid) if pid.isdecimal() else None,
        }

    def boot_hint(self) -> str:
        return "It starts when you log in; launchd starts no agent of a user before that."


_UNIT_TEXT = """\
# {mark}; `offhand service uninstall` removes it.
[Unit]
Description=Offhand: your own machine does it
# What cannot start, as when another server has this home, is left alone after ten tries.
StartLimitIntervalSec=120
StartLimitBurst=10

[Service]
ExecStart={command}
{environment}Restart=on-failure
RestartSec=1
TimeoutStopSec=10
# Tasks outlive the server: only the server itself is ended, and a task that is killed for its memory ends nobody else.
KillMode=process
OOMPolicy=continue

[Install]
WantedBy=default.target
"""


def _unusable(text: str) -> InvalidError:
    return InvalidError(f"{text!r} cannot stand in a service file.", field="service", fix="Rename it.")


def _quoted(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise _unusable(text)
    return quoted(text)


def _output(command: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and output; a program that is not there, or does not end, is a failure that says so."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 127, str(error)
    return done.returncode, done.stdout
