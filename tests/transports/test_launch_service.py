"""The launcher where a service is installed, or where another server is faster.

systemd and launchd are programs that a test puts in their place.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from mcp_server.paths import default_home_path, read_server_file
from mcp_server.runtime import STORE_FILE
from mcp_server.services import Launchd, Setup, Systemd
from mcp_server.transports import launch
from mcp_server.transports.service_file import manager_environment, start_command
from tests.transports.raw_client import DEADLINE_SECONDS, call, text_of
from tests.transports.shim_process import ShimProcess, environment
from tests.transports.small_server import say_where
from tests.transports.test_shim_start import COMMAND, SMALL, calls, servers_end_with_the_test, stand_in

__all__ = ["servers_end_with_the_test"]

ASK = "--user start --job-mode=fail offhand.service"
SERVE = f"subprocess.Popen([*{COMMAND!r}, {{home!r}}], start_new_session=True, stdout=2)"
"""In a stand-in: a server that outlives it."""


class Manager:
    """What stands in place of systemctl and launchctl: notes what it is asked, and runs the code of the test.

    In the code, TIMES is how often it was asked, and SERVE starts a server that outlives it.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self.folder = home / "system"
        self.folder.mkdir()
        self._log = home / "asked"

    def answer(self, code: str, name: str = "systemctl") -> None:
        script = self.folder / name
        noting = f"with open({str(self._log)!r}, 'a') as log: print(*sys.argv[1:], file=log)"
        once = f"len(open({str(self._log)!r}).readlines())"
        code = code.replace("TIMES", once).replace("SERVE", SERVE.format(home=str(self._home)))
        script.write_text(f"#!{sys.executable}\nimport os, subprocess, sys, time\n{noting}\n{code}\n")
        script.chmod(0o700)

    def asked(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def asked_for(self) -> set[str]:
        """The same, however often: the launcher asks again while it waits."""
        return set(self.asked())


@pytest.fixture(autouse=True)
def user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user to whose folder nobody else writes."""
    monkeypatch.setenv("HOME", str(home / "user"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv(launch.COOKIE, raising=False)


@pytest.fixture
def manager(home: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    """The user's PATH has nothing but the stand-in."""
    made = Manager(home)
    monkeypatch.setenv("PATH", str(made.folder))
    return made


def install(of: Path | None) -> Path:
    """The unit as `offhand service install` writes it; `of` None: for the home of whoever sets nothing."""
    variables = {"PATH": "/usr/bin"} | ({"OFFHAND_HOME": str(of)} if of is not None else {})
    service = Systemd()
    service.path.parent.mkdir(parents=True, exist_ok=True)
    service.path.write_text(service.text(Setup(("/usr/bin/offhand", "serve", "--background"), variables, Path("/"))))
    return service.path


def was_spawned(home: Path) -> bool:
    return (home / "calls").exists()


LAUNCHER = """
import sys
from mcp_server.transports import launch, shim
for name, value in {constants!r}.items():
    setattr(launch, name, value)
sys.executable, sys.platform = {stand_in!r}, {platform!r}
try:
    launch.start_server({home!r}, lambda: shim.connect({home!r}))
except launch.LaunchError as error:
    print(error)
"""


def start(home: Path, code: str = SMALL, platform: str = sys.platform, **constants: float) -> str:
    """Have a launcher start the server; what it spawns itself runs `code`. Says what went wrong, else nothing."""
    stand_in(home, code)
    launcher = LAUNCHER.format(constants=constants, stand_in=str(home / "stand-in"), platform=platform, home=str(home))
    ran = subprocess.run(
        [sys.executable, "-c", launcher],
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
        timeout=2 * DEADLINE_SECONDS,
        check=True,
    )
    return ran.stdout


def serving(home: Path) -> str:
    return f"os.execv(sys.executable, [*{COMMAND!r}, {str(home)!r}])"


AFTER_LAUNCH = "while not os.path.exists({home!r} + '/start.lock'): time.sleep(0.01)"
"""Until a launcher has begun."""


# The service


async def test_the_service_of_this_home_is_started_and_no_second_server(home: Path, manager: Manager) -> None:
    install(home)
    manager.answer("TIMES == 1 and SERVE")
    async with ShimProcess.run(home, stand_in(home, SMALL)) as client:
        assert text_of(await client.ask(call(1, "who"))) == "desk"
    assert manager.asked_for() == {ASK}
    assert not was_spawned(home)


def test_the_service_is_waited_for_though_systemd_needs_a_moment(home: Path, manager: Manager) -> None:
    """As in the second after a crash: the start is queued, and asking is over long before the server is there."""
    install(home)
    server = f"""
import os, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
os.execv(sys.executable, [*{COMMAND!r}, {str(home)!r}])
"""
    words = f"[sys.executable, '-c', {server!r}, str(os.getpid())]"
    manager.answer(f"TIMES == 1 and subprocess.Popen({words}, start_new_session=True, stdout=2)")
    assert start(home) == ""
    assert not was_spawned(home)


async def test_a_running_server_is_not_asked_for(home: Path, manager: Manager) -> None:
    install(home)
    manager.answer("TIMES == 1 and SERVE")
    assert start(home) == ""
    before = manager.asked()
    async with ShimProcess.run(home, stand_in(home, SMALL)) as client:
        assert text_of(await client.ask(call(1, "who"))) == "desk"
    assert manager.asked() == before


def test_a_stop_that_is_under_way_is_waited_for_and_not_undone(home: Path, manager: Manager) -> None:
    install(home)
    refusal = "Transaction for offhand.service/start is destructive (offhand.service has 'stop' job queued, ...)."
    manager.answer(f"TIMES < 3 and sys.exit({refusal!r}); TIMES == 3 and SERVE")
    assert start(home) == ""
    assert len(manager.asked()) >= 3
    assert not was_spawned(home)


def test_a_service_whose_server_is_just_ending_is_asked_for_again(home: Path, manager: Manager) -> None:
    """Until systemd has seen the end, it is started already."""
    install(home)
    manager.answer("TIMES == 2 and SERVE")
    assert start(home) == ""
    assert len(manager.asked()) >= 2
    assert not was_spawned(home)


def test_a_service_that_was_killed_comes_back_unasked(home: Path, manager: Manager) -> None:
    """To ask before systemd restarts it would count as a start of its own."""
    install(home)
    manager.answer("")
    say_where(home, pid=2**22 + 1)
    restarting = f"import os, sys, time\n{AFTER_LAUNCH.format(home=str(home))}\n{serving(home)}"
    with subprocess.Popen([sys.executable, "-c", restarting], stdout=subprocess.DEVNULL) as server:
        assert start(home, RESTART_SECONDS=DEADLINE_SECONDS) == ""
        server.kill()
    (home / "server.json").unlink()
    assert manager.asked() == []
    assert not was_spawned(home)


def test_a_service_that_was_killed_and_does_not_come_back_is_asked_for(home: Path, manager: Manager) -> None:
    install(home)
    manager.answer("TIMES == 1 and SERVE")
    say_where(home, pid=2**22 + 1)
    assert start(home, RESTART_SECONDS=0.1) == ""
    assert manager.asked_for() == {ASK}
    assert not was_spawned(home)


def test_a_service_that_was_removed_meanwhile_is_not_waited_for(home: Path, manager: Manager) -> None:
    unit = install(home)
    manager.answer(f"os.unlink({str(unit)!r}); sys.exit('Transaction is destructive')")
    assert start(home) == ""
    assert manager.asked() == [ASK]
    assert was_spawned(home)


# No service


@pytest.mark.parametrize("of", [Path("/another"), None], ids=["another", "default"])
def test_a_service_of_another_home_is_left_alone(home: Path, manager: Manager, of: Path | None) -> None:
    install(of)
    manager.answer("SERVE")
    assert start(home) == ""
    assert manager.asked() == []
    assert was_spawned(home)


@pytest.mark.parametrize("answer", [None, "sys.exit('Failed to connect to bus')"], ids=["missing", "failing"])
def test_without_systemd_a_server_is_spawned_at_once(home: Path, manager: Manager, answer: str | None) -> None:
    install(home)
    if answer:
        manager.answer(answer)
    assert start(home, SERVICE_SECONDS=1000, START_SECONDS=1000) == ""
    assert was_spawned(home)
    if answer:
        assert "Failed to connect to bus" in (home / "logs" / "server.log").read_text()


@pytest.mark.parametrize("answer", ["time.sleep(1000)", ""], ids=["hanging", "yes, but nothing comes"])
def test_a_service_that_does_not_come_up_in_time_is_replaced(home: Path, manager: Manager, answer: str) -> None:
    install(home)
    manager.answer(answer)
    assert start(home, SERVICE_SECONDS=1.0) == ""
    assert was_spawned(home)
    assert manager.asked_for() == {ASK}


# Whose service it is


@pytest.mark.parametrize("name", ["plain", "with spaces", 'a%h$HOME "quoted" \\n', "ü"])
def test_the_home_is_known_however_it_is_written(tmp_path: Path, name: str) -> None:
    install(tmp_path / name)
    assert start_command(str(tmp_path / name)) is not None
    assert start_command(str(tmp_path / f"{name}x")) is None
    assert start_command(default_home_path()) is None


def test_a_unit_without_a_home_is_that_of_the_default_one() -> None:
    install(None)
    assert start_command(default_home_path()) == ("systemctl", *ASK.split())
    assert start_command("/another") is None


def test_a_unit_that_somebody_else_wrote_is_not_started() -> None:
    unit = install(None)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert start_command(default_home_path()) is None


def test_the_agent_of_launchd_is_kicked(home: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    agent = Launchd()
    agent.path.parent.mkdir(parents=True)
    agent.path.write_text(agent.text(Setup(("/offhand", "serve"), {"OFFHAND_HOME": str(home)}, home)))
    manager.answer("TIMES == 1 and SERVE", "launchctl")
    other, default = start_command("/another"), start_command(default_home_path())
    assert start(home, platform="darwin") == ""
    agent.path.write_text(agent.text(Setup(("/offhand", "serve"), {}, home)))
    named = start_command(default_home_path())
    agent.path.write_text("damaged")

    assert (other, default) == (None, None)
    assert manager.asked_for() == {f"kickstart gui/{os.getuid()}/local.offhand"}
    assert named is not None
    assert start_command(default_home_path()) is None


def test_systemctl_is_told_where_systemd_listens_though_the_client_kept_it_from_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = f"/run/user/{os.getuid()}"
    monkeypatch.setattr("os.path.isdir", lambda path: path == runtime)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    told = manager_environment()["XDG_RUNTIME_DIR"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    assert told == runtime
    assert manager_environment()["XDG_RUNTIME_DIR"] == str(tmp_path)


# A lost race


@pytest.fixture
def rivals(home: Path) -> Generator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        if (read_server_file(home) or {}).get("pid") == process.pid:
            (home / "server.json").unlink()


def rival_code(home: Path, when: str, then: str) -> str:
    """Of a process that takes the store, and does `then` as soon as `when` is true."""
    return f"""
import fcntl, os, sys, time
lock = open({str(home / launch.STORE_LOCK)!r}, "ab")
fcntl.flock(lock, fcntl.LOCK_EX)
os.set_inheritable(lock.fileno(), True)
print("mine", flush=True)
os.dup2(2, 1)
while not ({when}):
    time.sleep(0.01)
{then}
"""


def rival(home: Path, when: str, then: str) -> subprocess.Popen[bytes]:
    """Returns when it has the store."""
    process = subprocess.Popen([sys.executable, "-c", rival_code(home, when, then)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"mine\n"
    return process


def test_a_server_that_is_coming_up_is_waited_for(home: Path, rivals: list[subprocess.Popen[bytes]]) -> None:
    """It has the store, and has not yet said where it listens."""
    begun = f"os.path.exists({str(home / 'start.lock')!r})"
    rivals.append(rival(home, begun, serving(home)))
    assert start(home) == ""
    assert not was_spawned(home)


def test_the_place_of_a_server_that_ends_is_taken(home: Path, rivals: list[subprocess.Popen[bytes]]) -> None:
    begun = f"os.path.exists({str(home / 'start.lock')!r})"
    rivals.append(rival(home, begun, "sys.exit(1)"))
    assert start(home) == ""
    assert len(calls(home)) == 1


@pytest.mark.parametrize("late", [False, True], ids=["has the store", "has only the port"])
def test_a_server_that_we_lost_to_is_waited_for(home: Path, late: bool) -> None:
    """It began when ours did, and ours ends before it says where it listens; `late`: before it has the store, even."""
    ended = "not os.path.exists('/proc/' + sys.argv[1])"
    faster = rival_code(home, ended, serving(home))
    if late:
        faster = f"import os, sys, time\nwhile not ({ended}):\n    time.sleep(0.01)\n{faster}"
    code = f"""
import subprocess, sys
words = [{sys.executable!r}, "-c", {faster!r}, str(os.getpid())]
faster = subprocess.Popen(words, start_new_session=True, stdout={2 if late else "subprocess.PIPE"})
faster.stdout and faster.stdout.readline()
sys.exit("it is served already")
"""
    assert start(home, code, ALONE_SECONDS=DEADLINE_SECONDS) == ""
    assert len(calls(home)) == 1


def test_a_server_that_never_comes_up_is_not_waited_for_without_end(home: Path) -> None:
    with open(home / launch.STORE_LOCK, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "did not come up" in start(home, START_SECONDS=1.0)
    assert not was_spawned(home)


def test_the_lock_that_is_looked_at_is_that_of_the_store() -> None:
    assert f"{STORE_FILE}.lock" == launch.STORE_LOCK
