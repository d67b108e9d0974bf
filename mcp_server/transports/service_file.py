"""The file of the service, as the launcher meets it: where it lies, and whose home it serves. Standard library only.

`mcp_server.services` writes it, and asks the system for everything but a start.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcp_server.paths import default_home_path

MARK = "Written by `offhand service install`"
UNIT = "offhand.service"
LABEL = "local.offhand"


def unit_path() -> Path:
    """Where systemd looks for the user's unit."""
    given = os.environ.get("XDG_CONFIG_HOME", "")
    config = Path(given) if os.path.isabs(given) else Path.home() / ".config"
    return config / "systemd" / "user" / UNIT


def agent_path() -> Path:
    """Where launchd looks for the user's agent."""
    return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def quoted(text: str) -> str:
    """A word of a unit as systemd reads it: quotes and backslashes escaped, `%` doubled."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def start_command(home: str) -> tuple[str, ...] | None:
    """What asks the system to start the service; None where none of ours is installed, or it serves another home.

    Without a service it costs the attempt to open its file.
    """
    try:
        if sys.platform == "darwin":
            serves = _agent_serves(agent_path().read_bytes(), home)
        else:
            serves = _unit_serves(unit_path().read_text("utf-8", errors="replace"), home)
    except (OSError, RuntimeError):  # nobody knows where the user's home is
        return None
    if not serves:
        return None
    if sys.platform == "darwin":
        return ("launchctl", "kickstart", f"gui/{os.getuid()}/{LABEL}")
    # Not --no-block: that says yes where the start limit is hit. `fail`: a stop that is under way is not undone.
    return ("systemctl", "--user", "start", "--job-mode=fail", UNIT)


def manager_environment() -> dict[str, str]:
    """For `systemctl`. Desktop apps start us without the variable that says where the user's systemd listens."""
    runtime = f"/run/user/{os.getuid()}"
    if os.environ.get("XDG_RUNTIME_DIR") or not os.path.isdir(runtime):
        return dict(os.environ)
    return os.environ | {"XDG_RUNTIME_DIR": runtime}


def _unit_serves(text: str, home: str) -> bool:
    lines = text.split("\n")
    homes = [line for line in lines if line.startswith("Environment=") and "OFFHAND_HOME=" in line]
    named = homes == [f"Environment={quoted(f'OFFHAND_HOME={home}')}"]
    return MARK in text and (named or (not homes and home == default_home_path()))


def _agent_serves(content: bytes, home: str) -> bool:
    import plistlib  # 15 ms, and only where it is needed

    try:
        environment = plistlib.loads(content).get("EnvironmentVariables", {})
        return MARK.encode() in content and environment.get("OFFHAND_HOME", default_home_path()) == home
    except (ValueError, AttributeError, plistlib.InvalidFileException):
        return False
