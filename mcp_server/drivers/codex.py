"""Codex: `codex exec --json` where no question can come, its app-server (JSON-RPC on stdio) where one may.

Both are started so that the repository's own `.codex` folder counts for nothing, and the user's MCP servers stay out.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from mcp_server.drivers import codex_app_server, codex_exec
from mcp_server.drivers.codex_turn import Turn, codex_home
from mcp_server.drivers.job import Job
from mcp_server.drivers.records import End, Records

SANDBOXES = {"review": "read-only", "edit": "workspace-write", "full": "danger-full-access"}
"""Of each profile: Codex's own sandbox, in which it runs commands. All but the last have no network."""

FEATURES_OFF = ("plugins", "apps")
"""They bring tools that no sandbox holds, and are fetched over the network at every start."""

KEYS = ("CODEX_API_KEY", "OPENAI_API_KEY")
"""Codex needs them; the commands that it runs do not."""

SYSTEM_SETTINGS = Path("/etc/codex/config.toml")


async def drive(job: Job, place: Path, records: Records) -> End:
    """See `host.Driver`."""
    turn = Turn(job, place, records)
    options = [option for setting in _settings(job, place) for option in ("-c", setting)]
    options += [option for feature in FEATURES_OFF for option in ("--disable", feature)]
    if not _may_ask(job):
        return await codex_exec.work(turn, options)
    return await codex_app_server.work(turn, options, SANDBOXES[job.profile], _policy(job))


def _may_ask(job: Job) -> bool:
    """Whether the user can come to be asked, or a rule of theirs must be looked at: `codex exec` does neither."""
    return job.profile == "edit" or job.max_turns is not None or _has_strict_rules(job)


def _policy(job: Job) -> codex_app_server.Policy:
    """When Codex asks us. With `on-request` its sandbox holds what it does, and it asks to leave it.

    `untrusted` asks about every command but those that it knows to read only: so that rules of the user's can hold.
    """
    if _has_strict_rules(job):
        return "untrusted"
    return "never" if job.profile == "full" else "on-request"


def _has_strict_rules(job: Job) -> bool:
    return any(rule.decision != "allow" for rule in job.rules)


def _settings(job: Job, place: Path) -> Iterator[str]:
    """What is set for this run alone, as `key=value` in TOML; tables are merged into the user's own."""
    folders = dict.fromkeys(folder for path in (place, place.resolve()) for folder in (path, *path.parents))
    # Else the app-server notes down that the user trusts the folder, and runs what the repository's settings name.
    yield _table("projects", map(str, folders), 'trust_level="untrusted"')
    yield f"sandbox_mode={_toml(SANDBOXES[job.profile])}"
    yield f"shell_environment_policy.exclude={_toml(KEYS)}"
    yield "check_for_update_on_startup=false"
    if servers := _mcp_servers(codex_home(job)):
        yield _table("mcp_servers", servers, "enabled=false")
    if job.model is not None:
        yield f"model={_toml(job.model)}"


def _mcp_servers(home: Path) -> list[str]:
    """The names of the MCP servers in the user's settings: their tools run outside of every sandbox."""
    names: list[str] = []
    for path in (SYSTEM_SETTINGS, home / "config.toml", *sorted(home.glob("*.config.toml"))):
        try:
            settings: Any = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue  # there is none, or Codex itself says what is wrong with it
        servers = settings.get("mcp_servers")
        names += cast(dict[str, Any], servers) if isinstance(servers, dict) else []
    return list(dict.fromkeys(names))


def _table(name: str, keys: Iterable[str], content: str) -> str:
    return f"{name}={{{','.join(f'{_toml(key)}={{{content}}}' for key in keys)}}}"


def _toml(value: str | tuple[str, ...]) -> str:
    """JSON's strings and lists of them are TOML's, when nothing is written as a pair of surrogates."""
    return json.dumps(value, ensure_ascii=False)
