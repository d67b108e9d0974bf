"""Where Offhand keeps its files. Standard library only: the shim imports this before anything else.

Everything that we write lies under one folder, `OFFHAND_HOME`. Only sockets may move, to the
runtime folder, where their path would be longer than the system allows.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

# The shim has 40 ms from process start to its first answer. pathlib, json, hashlib and tempfile (and typing,
# hence the line above) take most of that, so each function imports what it needs.

SOCKET_PATH_LIMIT_BYTES = 100
"""`sun_path` holds 108 bytes on Linux and 104 on macOS, the closing zero included."""


def home_path() -> str:
    """`OFFHAND_HOME`, else the platform's folder for a user's data. Not created here."""
    if chosen := os.environ.get("OFFHAND_HOME"):
        return os.path.abspath(os.path.expanduser(chosen))
    data_home = os.environ.get("XDG_DATA_HOME", "").strip()
    if os.path.isabs(data_home) and sys.platform != "darwin":
        return os.path.join(data_home, "offhand")
    return default_home_path()


def default_home_path() -> str:
    """The home of a process that has no variable of ours or of XDG, such as a desktop app."""
    return os.path.expanduser(
        "~/Library/Application Support/offhand" if sys.platform == "darwin" else "~/.local/share/offhand"
    )


def home_folder() -> Path:
    """`home_path` as a `Path`."""
    from pathlib import Path

    return Path(home_path())


def make_private(folder: Path) -> Path:
    """Make `folder` with mode 0700, also where it exists with a wider mode."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def private(path: str, flags: int) -> int:
    """An `opener` for files of mode 0600, whatever the umask is: that one is the user's, and goes on to their tasks."""
    return os.open(path, flags, 0o600)


def socket_folder(home: Path) -> Path:
    """The folder for the sockets of `home`: `home` itself, or one in the runtime folder where the path is too long."""
    longest = home / "mcp.sock"
    if len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT_BYTES:
        return home
    import hashlib
    import tempfile
    from pathlib import Path

    runtime = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    return Path(runtime) / f"offhand-{os.getuid()}-{name}"


def read_server_file(home: Path) -> dict[str, Any] | None:
    """What the running server says of itself in `server.json`; None where there is no such file or it is damaged."""
    import json

    try:
        loaded = json.loads((home / "server.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None  # pyright: ignore[reportUnknownVariableType]
