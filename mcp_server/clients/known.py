"""The clients that we can set up: where their files are, and how an MCP server is written there."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcp_server.clients.format import Format
from mcp_server.clients.formats.json_format import JSON
from mcp_server.clients.formats.toml_format import TOML
from mcp_server.errors import InvalidError, NotFoundError

Scope = Literal["user", "project"]


@dataclass(frozen=True, slots=True)
class Client:
    """One client. What is a function depends on the environment."""

    name: str
    title: str
    aliases: tuple[str, ...]
    folder: Callable[[], Path]
    """The client's own folder: it is there once the client was started."""
    user_file: Callable[[], Path]
    project_file: str | None
    """Relative to the project; None where the client has no such file."""
    section: str
    """The object of the file that holds the servers by their name."""
    afterwards: str
    """What the user does next."""
    format: Format = JSON
    typed: bool = False
    """Whether an entry says that it is a command."""
    program: str | None = None
    """Its name on PATH."""

    def file(self, scope: Scope, project: Path) -> Path:
        """The file of a scope. Raises InvalidError where the client has no such scope."""
        if scope == "user":
            return self.user_file()
        if self.project_file is None:
            raise InvalidError(
                f"{self.title} has no configuration of a project.", field="scope", fix="Leave --scope out."
            )
        return project / self.project_file

    def is_here(self) -> bool:
        """Whether the client seems to be installed for this user."""
        if self.folder().is_dir() or self.user_file().exists():
            return True
        return self.program is not None and shutil.which(self.program) is not None


def _config_home() -> Path:
    """Where desktop apps keep their folders."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    chosen = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(chosen) if os.path.isabs(chosen) else Path.home() / ".config"


def _claude_desktop() -> Path:
    return _config_home() / "Claude"


def _claude_code() -> Path:
    return Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")


def _claude_code_file() -> Path:
    chosen = os.environ.get("CLAUDE_CONFIG_DIR")
    return Path(chosen or Path.home()) / ".claude.json"


def _cursor() -> Path:
    return Path.home() / ".cursor"


def _vscode() -> Path:
    return _config_home() / "Code" / "User"


def _gemini() -> Path:
    return Path(os.environ.get("GEMINI_CLI_HOME") or Path.home()) / ".gemini"


def _codex() -> Path:
    return Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex")


CLIENTS: tuple[Client, ...] = (
    Client(
        name="claude-desktop",
        title="Claude Desktop",
        aliases=("claude", "desktop"),
        folder=_claude_desktop,
        user_file=lambda: _claude_desktop() / "claude_desktop_config.json",
        project_file=None,
        section="mcpServers",
        afterwards="Quit Claude Desktop (closing its window is not enough) and open it again.",
    ),
    Client(
        name="claude-code",
        title="Claude Code",
        aliases=("claudecode",),
        folder=_claude_code,
        user_file=_claude_code_file,
        project_file=".mcp.json",
        section="mcpServers",
        afterwards="Sessions that you start from now on have it; see /mcp in one.",
        typed=True,
        program="claude",
    ),
    Client(
        name="cursor",
        title="Cursor",
        aliases=(),
        folder=_cursor,
        user_file=lambda: _cursor() / "mcp.json",
        project_file=".cursor/mcp.json",
        section="mcpServers",
        afterwards="See that it is switched on in Cursor's settings, under MCP.",
        typed=True,
        program="cursor",
    ),
    Client(
        name="vscode",
        title="VS Code",
        aliases=("vs-code", "code"),
        folder=_vscode,
        user_file=lambda: _vscode() / "mcp.json",
        project_file=".vscode/mcp.json",
        section="servers",
        afterwards="In VS Code, run `MCP: List Servers`, choose offhand, and start it.",
        typed=True,
        program="code",
    ),
    Client(
        name="gemini",
        title="Gemini CLI",
        aliases=("gemini-cli",),
        folder=_gemini,
        user_file=lambda: _gemini() / "settings.json",
        project_file=".gemini/settings.json",
        section="mcpServers",
        afterwards="Sessions that you start from now on have it; see /mcp in one.",
        program="gemini",
    ),
    Client(
        name="codex",
        title="Codex",
        aliases=("codex-cli",),
        folder=_codex,
        user_file=lambda: _codex() / "config.toml",
        project_file=".codex/config.toml",
        section="mcp_servers",
        afterwards="Sessions that you start from now on have it; see /mcp in one.",
        format=TOML,
        program="codex",
    ),
)


def find_client(name: str) -> Client:
    """The client of that name or alias, in any case. Raises NotFoundError."""
    wanted = name.strip().lower().replace(" ", "-").replace("_", "-")
    for client in CLIENTS:
        if wanted == client.name or wanted in client.aliases:
            return client
    known = ", ".join(client.name for client in CLIENTS)
    raise NotFoundError(f"There is no client {name!r} that can be set up.", field="client", fix=f"Choose of: {known}.")
