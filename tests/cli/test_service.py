"""`offhand service`: the file for systemd or launchd, and what is asked of the system.

No systemd and no launchd runs where the tests run: where the system must answer, a script in its place notes what it
was asked. The unit itself is read by systemd's own checker, and the server is started by its lines.
"""

from __future__ import annotations

import json
import os
import plistlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mcp_server.errors import InvalidError, UnavailableError
from mcp_server.paths import read_server_file
from mcp_server.services import LABEL, Launchd, Setup, Systemd, service_of
from tests.cli.conftest import Offhand, Start
from tests.server.processes import START_SECONDS, STOP_SECONDS, Place

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="writes the files of systemd")

SYSTEMCTL = """\
#!{python} -I
import pathlib, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*words, file=log)
answers = pathlib.Path({answers!r})
if "show" in words and answers.exists():
    print(answers.read_text())
if "reset-failed" in words:
    sys.exit("Unit offhand.service not loaded.")
"""


class System:
    """What stands in place of systemctl and loginctl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "asked"
        self._answers = folder / "answers"

    def install(self) -> None:
        self.folder.mkdir()
        script = SYSTEMCTL.format(python=sys.executable, log=str(self._log), answers=str(self._answers))
        for name in ("systemctl", "loginctl"):
            (self.folder / name).write_text(script)
            (self.folder / name).chmod(0o755)

    def answer(self, **properties: object) -> None:
        self._answers.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))

    def asked(self) -> list[str]:
        """Since the last time; questions that change nothing left out."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return [line for line in lines if "show" not in line]


@pytest.fixture
def system(user: Place, monkeypatch: pytest.MonkeyPatch) -> System:
    """The user's PATH has nothing but the stand-in, once that is installed."""
    made = System(user.base / "system")
    monkeypatch.setenv("PATH", str(made.folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return made


def unit_of(user: Place) -> Path:
    return user.user_home / ".config" / "systemd" / "user" / "offhand.service"


def read_unit(text: str) -> dict[str, dict[str, list[str]]]:
    """Sections, keys, and every value of a key."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(name, []).append(value)
    return found


# The file


def test_installing_shows_and_writes_the_unit_and_has_it_started(user: Place, offhand: Offhand, system: System):
    system.install()
    shown = offhand("service", "install", "--print")
    nothing_yet = unit_of(user).exists()
    installed = offhand("service", "install")
    asked = system.asked()
    text = unit_of(user).read_text()
    again = offhand("service", "install")

    assert not nothing_yet
    assert shown.out == f"# {unit_of(user)}\n{text}"
    assert installed.code == 0, installed.err
    assert all(f"  {line}" in installed.out.splitlines() for line in text.splitlines())
    assert "enable-linger" in installed.out
    assert asked == [
        "--user daemon-reload",
        "--user enable offhand.service",
        "--user reset-failed offhand.service",
        "--user restart offhand.service",
    ]
    assert installed.err == "", "that there was nothing to reset is no mistake"
    assert "is up to date" in again.out


def test_the_unit_keeps_supervisors_alive_and_brings_the_server_back(user: Place, offhand: Offhand, system: System):
    unit = read_unit(offhand("service", "install", "--print").out)

    assert unit["Service"]["KillMode"] == ["process"], "else a stop would end the tasks"
    assert unit["Service"]["OOMPolicy"] == ["continue"], "else a task without memory would end the server"
    assert unit["Service"]["Restart"] == ["on-failure"], "so that offhand stop is a stop"
    assert float(unit["Service"]["TimeoutStopSec"][0]) > STOP_SECONDS
    assert unit["Install"]["WantedBy"] == ["default.target"]


def test_the_lines_of_the_unit_start_a_server_with_nothing_else_in_its_environment(
    user: Place, offhand: Offhand, system: System
):
    service = read_unit(offhand("service", "install", "--print").out)["Service"]
    environment = dict(shlex.split(value)[0].split("=", 1) for value in service["Environment"])
    with subprocess.Popen(
        shlex.split(service["ExecStart"][0]), env=environment | {"HOME": str(user.user_home), "OFFHAND_PORT": "0"}
    ) as process:
        try:
            facts = served(user)
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_SECONDS) == 0, "which systemd takes for no failure"
        finally:
            process.kill()

    assert environment["PATH"] == os.environ["PATH"]
    assert facts["pid"] == process.pid


def served(user: Place) -> dict[str, Any]:
    """`server.json`, once it is there."""
    deadline = time.monotonic() + START_SECONDS
    while (found := read_server_file(user.home)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("odd", ["plain", "with spaces", "a%h$HOME"])
def test_systemd_itself_finds_nothing_wrong_with_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    program = tmp_path / odd / "offhand"
    program.parent.mkdir()
    program.symlink_to("/bin/true")
    setup = Setup(
        (str(program), "serve", "--background"), {"PATH": odd, "OFFHAND_HOME": f'/{odd} "quoted" \\n'}, tmp_path
    )
    unit = tmp_path / "offhand.service"
    unit.write_text(Systemd().text(setup))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    checked = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)], capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("program", ["/a\nRestart=no", '/a "b"', "/a\\b", "/it's"])
def test_a_path_that_systemd_takes_for_no_program_is_refused(tmp_path: Path, program: str):
    with pytest.raises(InvalidError):
        Systemd().text(Setup((program, "serve"), {}, tmp_path))


def test_the_file_of_launchd_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    agent = service_of("darwin")
    assert isinstance(agent, Launchd)
    text = agent.text(Setup(("/a & b/offhand", "serve", "--background"), {"PATH": "/usr/bin"}, tmp_path))
    facts = plistlib.loads(text.encode())
    agent.path.parent.mkdir(parents=True)
    agent.path.write_text(text)

    assert agent.path == tmp_path / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    assert agent.is_ours()
    assert facts["ProgramArguments"] == ["/a & b/offhand", "serve", "--background"]
    assert facts["KeepAlive"] == {"SuccessfulExit": False}
    assert facts["AbandonProcessGroup"] is True
    assert facts["RunAtLoad"] is True
    assert facts["EnvironmentVariables"] == {"PATH": "/usr/bin"}


def test_a_system_that_has_neither_is_told_so():
    with pytest.raises(UnavailableError):
        service_of("win32")


# The system


def test_without_systemd_the_file_is_written_and_what_to_run_is_said(user: Place, offhand: Offhand, system: System):
    installed = offhand("service", "install")
    status = offhand("service", "status")
    removed = offhand("service", "uninstall")

    assert installed.code == 0
    assert "systemctl --user restart offhand.service" in installed.err
    assert "Installed" in status.out
    assert "cannot be asked" in status.out
    assert removed.code == 0
    assert not unit_of(user).exists()


def test_a_server_that_runs_already_is_not_fought(user: Place, offhand: Offhand, start: Start, system: System):
    system.install()
    system.answer(ActiveState="inactive", UnitFileState="enabled", MainPID=0)
    server = start()
    installed = offhand("service", "install")
    asked = system.asked()
    status = offhand("service", "status")

    assert asked == ["--user daemon-reload", "--user enable offhand.service"]
    assert f"process {server.pid}" in installed.out
    assert "offhand stop && offhand service install" in installed.out
    assert "is not the service" in status.out


def test_a_service_that_has_given_up_says_how_it_serves_again(
    user: Place, offhand: Offhand, start: Start, system: System
):
    system.install()
    offhand("service", "install")
    start()
    system.answer(ActiveState="failed", UnitFileState="enabled", MainPID=0)
    status = offhand("service", "status")
    stopped = offhand("stop")
    system.asked()
    installed = offhand("service", "install")
    asked = system.asked()

    assert "It has given up. To have it serve: offhand stop && offhand service install" in status.out
    assert stopped.code == 0
    assert installed.code == 0
    assert asked[-2:] == ["--user reset-failed offhand.service", "--user restart offhand.service"]


def test_status_tells_whether_the_running_server_is_the_service(
    user: Place, offhand: Offhand, start: Start, system: System
):
    system.install()
    before = offhand("service", "status")
    offhand("service", "install")
    server = start()
    system.answer(ActiveState="active", UnitFileState="enabled", MainPID=server.pid)
    system.asked()
    again = offhand("service", "install")
    asked = system.asked()
    status = offhand("service", "status")
    facts = json.loads(offhand("service", "status", "--json").out)

    assert "not installed" in before.out
    assert "restart" not in " ".join(asked), "what has not changed is not restarted"
    assert "The service runs" in again.out
    assert f"(process {server.pid}) is the service" in status.out
    assert facts == {
        "path": str(unit_of(user)),
        "installed": True,
        "current": True,
        "active": "active",
        "enabled": "enabled",
        "pid": server.pid,
        "server": {"pid": server.pid, "status": "serving"},
    }


def test_an_old_file_of_ours_is_renewed_and_the_change_is_shown(user: Place, offhand: Offhand, system: System):
    system.install()
    offhand("service", "install")
    text = unit_of(user).read_text()
    unit_of(user).write_text(text.replace("RestartSec=1", "RestartSec=9"))
    stale = offhand("service", "status")
    renewed = offhand("service", "install")

    assert "differs" in stale.out
    assert "  -RestartSec=9\n  +RestartSec=1\n" in renewed.out
    assert unit_of(user).read_text() == text


def test_a_file_that_somebody_else_wrote_is_left_alone(user: Place, offhand: Offhand, system: System):
    unit_of(user).parent.mkdir(parents=True)
    unit_of(user).write_text("[Service]\nExecStart=/bin/true\n")
    refused = [offhand("service", "install"), offhand("service", "uninstall")]

    for ran in refused:
        assert ran.code == 1
        assert str(unit_of(user)) in ran.err
    assert unit_of(user).read_text() == "[Service]\nExecStart=/bin/true\n"


def test_uninstalling_stops_it_and_removes_the_file(user: Place, offhand: Offhand, system: System):
    system.install()
    nothing = offhand("service", "uninstall")
    offhand("service", "install")
    system.asked()
    removed = offhand("service", "uninstall")

    assert nothing.code == 0
    assert "No service is installed" in nothing.out
    assert removed.out == f"Removed {unit_of(user)}.\n"
    assert system.asked() == [
        "--user disable --now offhand.service",
        "--user daemon-reload",
        "--user reset-failed offhand.service",
    ]
    assert not unit_of(user).exists()


def test_settings_of_this_shell_that_the_service_will_not_see_are_named(
    user: Place, offhand: Offhand, system: System, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OFFHAND_PORT", "9999")
    installed = offhand("service", "install")

    assert "OFFHAND_PORT: the service does not see this. Write port into offhand.toml." in installed.err
