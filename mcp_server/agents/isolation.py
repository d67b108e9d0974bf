"""How coding agents are kept from the rest of this machine: whether bubblewrap works here, and what it hides."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_server.drivers.job import Sandbox
from mcp_server.drivers.sandbox import PROBE
from mcp_server.paths import socket_folder
from mcp_server.settings import Settings

PROBE_SECONDS = 10.0

STATE_VARIABLES: Mapping[str, str] = {".claude": "CLAUDE_CONFIG_DIR", ".codex": "CODEX_HOME"}
"""By these the user moves an agent's state out of the home folder."""

SETTINGS_OF_AGENTS: Mapping[str, tuple[str, ...]] = {
    ".claude": ("CLAUDE.md", "agents", "commands", "hooks", "output-styles", "plugins", "rules", "settings.json",
                "skills"),
    ".codex": ("AGENTS.md", "agents", "config.toml", "hooks", "hooks.json", "prompts", "rules", "skills"),
    ".gemini": ("GEMINI.md", "commands", "extensions", "hooks", "policies", "settings.json", "skills"),
}  # fmt: skip
"""What of an agent's state tells it what to run or to believe, also when the user starts it: read-only inside."""

_SECRETS = """
    .aws .azure .bash_history .boto .cargo/credentials .cargo/credentials.toml .config/1Password .config/BraveSoftware
    .config/Bitwarden .config/chromium .config/containers/auth.json .config/doctl .config/fly .config/gcloud .config/gh
    .config/git/credentials .config/glab-cli .config/google-chrome .config/heroku .config/hub .config/op .config/rclone
    .config/sops .config/wrangler .databricks .databrickscfg .docker .fly .gem/credentials .git-credentials .gnupg
    .gradle/gradle.properties .kube .local/share/gnome-keyring .local/share/keyrings .local/share/kwalletd
    .m2/settings.xml .mozilla .my.cnf .mysql_history .netrc .node_repl_history .npmrc .oci .password-store .pgpass
    .psql_history .pypirc .python_history .s3cfg .sqlite_history .ssh .terraform.d .terraformrc .thunderbird
    .vault-token .yarnrc.yml .zsh_history
"""
SECRETS = tuple(_SECRETS.split())
"""In the home folder: keys, logins, and what was typed. Nothing that a build needs."""

AGENT_STATE = (".claude", ".claude.json", ".codex", ".gemini", ".copilot", ".qwen", ".local/share/opencode")
"""One agent does not see another's login."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """How an agent would run now.

    `contained`: what it does in its clone stays there, and it does not see what is ours. `note` says what the user
    should know; empty where all is as it should be. `missing`: it may not run at all, and why.
    """

    sandbox: Sandbox
    contained: bool
    note: str = ""
    missing: str = ""


def sandbox_for(settings: Settings, state: Iterable[str], env: Mapping[str, str]) -> Isolation:
    """How an agent runs under these settings. `state` are names in the home folder, `env` is its environment.

    Cheap after the first call: whether bubblewrap works is tried once per program.
    """
    home = Path(env.get("HOME") or Path.home())
    kept = tuple(state)
    if settings.sandbox == "off":
        return Isolation(Sandbox(), contained=False, note='It runs without a sandbox: sandbox = "off" in the settings.')
    program, why = bubblewrap(env.get("PATH", os.defpath))
    if program is None and settings.sandbox == "strict":
        missing = f'The settings say sandbox = "strict", and there is no sandbox here: {why}'
        return Isolation(Sandbox(strict=True), contained=False, missing=missing)
    if program is None:
        return Isolation(Sandbox(), contained=False, note=f"It runs without a sandbox: {why}")
    own = [place for name in kept for place in _state(name, home, env)]
    others = [home / name for name in AGENT_STATE if name not in kept]
    secret = [home / name for name in SECRETS]
    hidden = [settings.home, socket_folder(settings.home), *secret, *others]
    fixed = [
        place / each for name in kept for place in _state(name, home, env) for each in SETTINGS_OF_AGENTS.get(name, ())
    ]
    sandbox = Sandbox(
        bubblewrap=program,
        strict=settings.sandbox == "strict",
        hidden=_words(place for place in hidden if place not in own),
        writable=_words(own),
        readonly=_words(fixed),
    )
    return Isolation(sandbox, contained=True)


def sandbox_line(settings: Settings) -> str:
    """How coding agents run on this machine, for `offhand doctor`."""
    found = sandbox_for(settings, (), {"PATH": os.environ.get("PATH", os.defpath)})
    if not found.contained:
        return found.missing or found.note
    hidden = (
        "the home folder and all that is Offhand's"
        if found.sandbox.strict
        else "logins, keys and all that is Offhand's"
    )
    return f"bubblewrap: coding agents write in their clones alone, and do not see {hidden}"


def bubblewrap(path: str) -> tuple[str | None, str]:
    """The program of bubblewrap on `path` if it works here; else None, and why not, with what would help."""
    if sys.platform == "darwin":
        return None, "bubblewrap is for Linux. The agent's own sandbox, where it has one, is all that holds it."
    program = shutil.which(
        "bwrap", path=os.pathsep.join(each for each in path.split(os.pathsep) if os.path.isabs(each))
    )
    if program is None:
        return None, "bubblewrap is not installed. Get it with: apt install bubblewrap (dnf and pacman have it too)."
    why = _tried(program, os.stat(program).st_mtime_ns)
    return (None, why) if why else (program, "")


@functools.lru_cache(maxsize=8)
def _tried(program: str, changed_at: int) -> str:
    """Why bubblewrap does not work here; empty where it does. Tried once for each change of the program."""
    del changed_at
    try:
        done = subprocess.run(
            [program, *PROBE, "--", program, "--version"],  # our Python may lie in a place that is hidden inside
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"bubblewrap cannot be started ({error})."
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    help_ = "Where the system keeps users from making namespaces, a profile for bwrap must allow it (docs/security.md)."
    return f"bubblewrap does not work here ({said[-1] if said else 'it does not say why'}). {help_}"


def _state(name: str, home: Path, env: Mapping[str, str]) -> tuple[Path, ...]:
    moved = env.get(STATE_VARIABLES.get(name, ""))
    return (Path(moved),) if moved and os.path.isabs(moved) else (home / name,)


def _words(places: Iterable[Path]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(place) for place in places))
