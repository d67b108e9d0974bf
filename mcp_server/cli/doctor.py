"""`offhand doctor`: what this machine has, and whether the store is sound."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mcp_server.agent import Availability
from mcp_server.agents.isolation import sandbox_line
from mcp_server.agents.registry import AgentRegistry, all_agents
from mcp_server.errors import OffhandError
from mcp_server.executor.attempt_folder import can_contain, compiled_supervisor
from mcp_server.paths import home_folder, read_server_file
from mcp_server.release import release
from mcp_server.runtime import STORE_FILE
from mcp_server.settings import load_settings
from mcp_server.store.checks import SQLITE_VERSION, Report, check_store, compact_store

MIB = 1024 * 1024


@click.command()
@click.option("--store", is_flag=True, help="Look the whole store through. The server must be stopped.")
@click.option("--repair", is_flag=True, help="With --store: mend what is safe to mend, after a copy was made.")
@click.option("--compact", is_flag=True, help="Write the store anew without its holes. The server must be stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def doctor(store: bool, repair: bool, compact: bool, as_json: bool) -> None:
    """Say what this machine has for Offhand, and whether the store is sound.

    Exit code 0: all is well. 1: something is wrong that was not mended. 2: wrong usage.
    """
    if repair and not store:
        raise click.UsageError("--repair goes with --store.")
    if store:
        _check(repair, as_json)
    if compact:
        _compact(as_json)
    if not (store or compact):
        _look(as_json)


def _check(repair: bool, as_json: bool) -> None:
    path = home_folder() / STORE_FILE
    report = check_store(path, repair=repair)
    click.echo(_as_json(path, report) if as_json else _as_text(path, report))
    if not report.sound:
        raise click.exceptions.Exit(1)


def _as_json(path: Path, report: Report) -> str:
    facts = asdict(report) | {"sound": report.sound, "path": str(path), "backup": str(report.backup or "") or None}
    return json.dumps(facts, indent=1)


def _as_text(path: Path, report: Report) -> str:
    lines = [f"{path}: {report.size_bytes / MIB:.1f} MiB, {report.free_bytes / MIB:.1f} MiB of it free for use."]
    if not report.findings:
        return "\n".join([*lines, "Nothing is wrong with it."])
    for finding in report.findings:
        done = "mended" if finding.repaired else "can be mended" if finding.safe else "cannot be mended here"
        lines.append(f"- {finding.check}: {finding.message} ({done}) {finding.remedy}")
    if report.backup is not None:
        lines.append(f"A copy of the store as it was lies in {report.backup}.")
    elif any(finding.safe for finding in report.findings):
        lines.append("To mend what can be mended: offhand doctor --store --repair")
    return "\n".join(lines)


def _compact(as_json: bool) -> None:
    before, after = compact_store(home_folder() / STORE_FILE)
    if as_json:
        click.echo(json.dumps({"before_bytes": before, "after_bytes": after}, indent=1))
    else:
        click.echo(f"The store had {before / MIB:.1f} MiB and has {after / MIB:.1f} MiB now.")


def _look(as_json: bool) -> None:
    facts = _facts()
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {value}")


def _facts() -> dict[str, Any]:
    home = home_folder()
    running = read_server_file(home)
    facts: dict[str, Any] = {
        "version": release(),
        "python": platform.python_version(),
        "sqlite": SQLITE_VERSION,
        "home": str(home),
        "server": f"process {running['pid']} on port {running['port']}" if running else "not running",
    }
    try:
        settings = load_settings()
    except OffhandError as error:
        return facts | {"settings": error.message}
    store = home / STORE_FILE
    facts["store"] = f"{store.stat().st_size / MIB:.1f} MiB" if store.exists() else "none yet"
    where = home if home.exists() else Path.home()
    facts["room"] = f"{shutil.disk_usage(where).free / MIB / 1024:.1f} GiB free"
    facts["workspaces"] = ", ".join(settings.workspaces) or "none: offhand workspace add NAME PATH"
    try:
        registry = AgentRegistry(all_agents(settings, lambda: tuple(settings.workspaces.values())))
    except OffhandError as error:
        return facts | {"settings": error.message}
    for agent in registry:
        agent.look()
        facts[agent.name] = _readiness(agent.availability())
    facts["sandbox"] = sandbox_line(settings)
    facts["memory limit"] = memory_limit(settings.memory_limit_mb, sys.platform)
    with tempfile.TemporaryDirectory() as folder:
        contained = can_contain(compiled_supervisor(Path(folder)))
    facts["pid namespaces"] = "yes" if contained else "no: what slips out of a task cannot always be found"
    return facts


def _readiness(found: Availability) -> str:
    known = (found.version or "ready") if found.ready else found.missing
    return " ".join([f"{known}." if found.notes and found.ready else known, *found.notes])


def memory_limit(limit_mb: int | None, system: str) -> str:
    """Whether what an attempt holds in memory is limited here."""
    if limit_mb is None:
        return "none set"
    if system != "linux":
        return f"{limit_mb} MB is set, and not held: this system gives no way to look at all processes of a task"
    return f"{limit_mb} MB for each attempt, looked at once a second"
