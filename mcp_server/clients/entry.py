"""What a client shall start to reach Offhand: the shim, by its absolute path, with what its server will need."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from typing import Any

from mcp_server.errors import InvalidError
from mcp_server.paths import default_home_path, home_path

NAME = "offhand"
"""Of our entry, in every client."""

SHIM = "offhand-mcp"

OURS_IN_ENV = ("OFFHAND_HOME", "PATH")
"""The variables that we write. Whatever else stands beside them is the user's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command without a shell, and variables that are added to the client's own environment."""

    command: str
    args: tuple[str, ...]
    env: dict[str, str]

    def record(self, *, typed: bool) -> dict[str, Any]:
        """As it stands in the file of a client; `typed` clients want to be told that it is a command."""
        kind = {"type": "stdio"} if typed else {}
        return {**kind, "command": self.command, "args": list(self.args), "env": dict(self.env)}


def our_entry() -> Entry:
    """The entry for this installation, this home, and the PATH of whoever asks.

    Raises:
        InvalidError: the path of the shim cannot be written into a configuration file.
    """
    command, args = _shim()
    if not _is_plain(command):
        raise InvalidError(
            f"{command!r} cannot be written into a client's configuration.",
            field="command",
            fix="Install Offhand into a folder whose path is plain text without a $.",
        )
    home = home_path()
    env = {"PATH": search_path(os.environ.get("PATH", os.defpath))}
    return Entry(command, args, env if home == default_home_path() else {"OFFHAND_HOME": home} | env)


def _shim() -> tuple[str, tuple[str, ...]]:
    # The folder of the interpreter as it was called: in a venv that is the venv's, whatever its symlinks lead to.
    user_scheme = sysconfig.get_preferred_scheme("user")
    places = [os.path.dirname(sys.executable), *map(sysconfig.get_path, ["scripts"])]
    for folder in (*places, sysconfig.get_path("scripts", user_scheme)):
        program = os.path.join(os.path.abspath(folder), SHIM)
        if os.access(program, os.X_OK):
            return program, ()
    return os.path.abspath(sys.executable), ("-P", "-m", "mcp_server.transports.shim")


def search_path(value: str) -> str:
    """`value` as a PATH for programs that start elsewhere: absolute folders, each once, in order."""
    folders = dict.fromkeys(value.split(os.pathsep))
    return os.pathsep.join(folder for folder in folders if os.path.isabs(folder) and _is_plain(folder))


def _is_plain(value: str) -> bool:
    """Some clients put a variable in the place of `$NAME`, and bytes that are no text fit into no file."""
    return value.isprintable() and "$" not in value
