"""`offhand service`: have the system start the server, and bring it back after a crash and a reboot."""

from __future__ import annotations

import difflib
import json
import os
import sys
from typing import Any

import click

from mcp_server.cli.running import as_json_option, ask_server
from mcp_server.errors import InvalidError
from mcp_server.paths import default_home_path, home_folder, make_private
from mcp_server.services import Service, Setup, service_of
from mcp_server.settings import Settings

HAND_OVER = "offhand stop && offhand service install"


@click.group()
def service() -> None:
    """Let systemd (Linux) or launchd (macOS) start the server, and bring it back after a crash and a reboot."""


@service.command("install")
@click.option("--print", "only_print", is_flag=True, help="Only show what would be written, and where.")
def install(only_print: bool) -> None:
    """Write the service file, and start the service.

    The service is this program with this OFFHAND_HOME and PATH. Run it again after an upgrade or a move: it writes
    the file anew. Where systemd cannot be reached, it says what to run.
    """
    found = service_of(sys.platform)
    text = found.text(_setup())
    if only_print:
        click.echo(f"# {found.path}\n{text}", nl=False)
        return
    _warn_of_variables()
    changed = _write(found, text)
    _start(found, changed)


@service.command("uninstall")
def uninstall() -> None:
    """Stop the service and remove its file. Work that runs goes on; the store and the settings stay."""
    found = service_of(sys.platform)
    if not found.path.exists():
        click.echo(f"No service is installed: there is no {found.path}.")
        return
    _refuse_foreign(found)
    problem = found.run(found.stop_commands)
    found.path.unlink()
    problem = found.run(found.forget_commands) or problem
    click.echo(f"Removed {found.path}.")
    if problem:
        click.echo(f"{problem} If it still runs: offhand stop", err=True)


@service.command("status")
@as_json_option
def status(as_json: bool) -> None:
    """Whether the service is installed, and whether the running server is it."""
    found = service_of(sys.platform)
    server = ask_server("GET", "/api/status")
    facts: dict[str, Any] = {
        "path": str(found.path),
        "installed": found.path.exists(),
        "current": found.path.exists() and found.path.read_text("utf-8") == found.text(_setup()),
        **found.state(),
        "server": server and {"pid": server["pid"], "status": server["status"]},
    }
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        click.echo("\n".join(_told(found, facts)))


def _setup() -> Setup:
    """How the server is started from here."""
    program = os.path.join(os.path.dirname(sys.executable), "offhand")
    command = (program,) if os.access(program, os.X_OK) else (sys.executable, "-P", "-m", "mcp_server")
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    home = home_folder()
    if str(home) != default_home_path():
        environment["OFFHAND_HOME"] = str(home)
    return Setup(command=(*command, "serve", "--background"), environment=environment, home=home)


def _warn_of_variables() -> None:
    """A service has the variables of its file, not those of this shell."""
    names = sorted(f"OFFHAND_{name.upper()}" for name in Settings.model_fields if name != "home")
    if given := [name for name in names if os.environ.get(name)]:
        keys = ", ".join(name.removeprefix("OFFHAND_").lower() for name in given)
        click.echo(f"{', '.join(given)}: the service does not see this. Write {keys} into offhand.toml.", err=True)


def _write(found: Service, text: str) -> bool:
    """Whether the file had to be written."""
    before = found.path.read_text("utf-8") if found.path.exists() else ""
    if before == text:
        click.echo(f"{found.path} is up to date.")
        return False
    _refuse_foreign(found)
    found.path.parent.mkdir(parents=True, exist_ok=True)
    make_private(home_folder())
    temporary = found.path.with_name(f".{found.path.name}.new")
    temporary.write_text(text, "utf-8")
    temporary.replace(found.path)
    click.echo(f"Wrote {found.path}:")
    changes = list(difflib.unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=1))[2:]
    click.echo("\n".join(f"  {line}" for line in (changes if before else text.splitlines())))
    return True


def _refuse_foreign(found: Service) -> None:
    if found.path.exists() and not found.is_ours():
        raise InvalidError(
            f"{found.path} was not written by offhand service install.",
            field="service",
            fix="Move it away first, or use --print and edit it yourself.",
        )


def _start(found: Service, changed: bool) -> None:
    running = ask_server("GET", "/api/status")
    is_service = running is not None and running["pid"] == found.state()["pid"]
    other = running is not None and not is_service
    keep = other or (is_service and not changed)  # what need not be restarted is not
    problem = found.run(found.enable_commands if keep else found.start_commands)
    if problem:
        click.echo(f"{problem} To start it, run:", err=True)
        click.echo("\n".join(f"  {' '.join(command)}" for command in found.start_commands), err=True)
        return
    if running is not None and other:
        click.echo(f"A server runs already (process {running['pid']}). To hand over to the service:")
        click.echo(f"  {HAND_OVER}")
    else:
        click.echo("The service runs. It comes back after a crash, and when you log in.")
    if hint := found.boot_hint():
        click.echo(hint)


def _told(found: Service, facts: dict[str, Any]) -> list[str]:
    if not facts["installed"]:
        lines = ["The service is not installed. To install it: offhand service install"]
    else:
        stale = "" if facts["current"] else " It differs from what would be written now: offhand service install"
        lines = [f"Installed: {found.path}.{stale}"]
        if facts["active"] == "unknown":
            lines.append("The system cannot be asked about it here.")
        else:
            lines.append(f"It is {facts['active']}, and {facts['enabled']}.")
        if facts["active"] == "failed":
            lines.append(f"It has given up. To have it serve: {HAND_OVER}")
    server = facts["server"]
    if server is None:
        lines.append("No server runs.")
    elif server["pid"] == facts["pid"]:
        lines.append(f"The running server (process {server['pid']}) is the service.")
    else:
        lines.append(f"The running server (process {server['pid']}) is not the service.")
    if facts["installed"] and (hint := found.boot_hint()):
        lines.append(hint)
    return lines
