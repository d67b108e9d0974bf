"""The shim where no server runs. What it starts is the real one, or a stand-in that a runner puts in its place."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import stat
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Literal

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from mcp_server.transports import launch
from mcp_server.transports.launch import LaunchError, start_server
from tests.transports.raw_client import DEADLINE_SECONDS, HANDSHAKE, call, notification, request, text_of
from tests.transports.shim_process import ROOT, SHIM, ShimProcess, environment
from tests.transports.small_server import say_where

RUNNER = "import sys; sys.executable = {stand_in!r}; from mcp_server.transports import shim; sys.exit(shim.main([]))"
COMMAND = [sys.executable, "-m", "tests.transports.small_server"]
SMALL = f"os.execv({sys.executable!r}, [*{COMMAND!r}, os.environ['OFFHAND_HOME']])"


@pytest.fixture(autouse=True)
def servers_end_with_the_test(home: Path) -> Generator[None]:
    yield
    try:
        pid = json.loads((home / "server.json").read_text())["pid"]
    except FileNotFoundError:
        return
    if pid != os.getpid():
        end = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([end], [], [], DEADLINE_SECONDS)
        os.close(end)


def stand_in(home: Path, code: str) -> list[str]:
    """The command of a shim that starts a server which runs `code`, after noting how it was called."""
    noting = f"with open({str(home / 'calls')!r}, 'a') as calls: calls.write(repr(sys.argv[1:]) + chr(10))"
    program = home / "stand-in"
    program.write_text(f"#!{sys.executable}\nimport os, sys\n{noting}\n{code}\n")
    program.chmod(0o700)
    return [sys.executable, "-c", RUNNER.format(stand_in=str(program))]


def calls(home: Path) -> list[str]:
    return (home / "calls").read_text().splitlines()


async def test_the_server_is_started_when_nobody_listens(home: Path) -> None:
    async with ShimProcess.run(home, stand_in(home, SMALL)) as shim:
        assert text_of(await shim.ask(call(1, "who"))) == "desk"
    assert calls(home) == ["['-P', '-m', 'mcp_server', 'serve', '--background']"]


async def test_a_socket_that_nobody_serves_any_more_does_not_hinder(home: Path) -> None:
    say_where(home, pid=2**22 + 1)
    async with ShimProcess.run(home, stand_in(home, SMALL)) as shim:
        assert text_of(await shim.ask(call(1, "who"))) == "desk"


async def test_many_shims_start_one_server(home: Path) -> None:
    command = stand_in(home, SMALL)

    async def ask() -> str:
        async with ShimProcess.run(home, command) as shim:
            return text_of(await shim.ask(call(1, "who")))

    assert await asyncio.gather(*(ask() for _ in range(6))) == ["desk"] * 6
    assert len(calls(home)) == 1


async def test_the_server_outlives_the_shim_and_holds_none_of_its_pipes(home: Path) -> None:
    async with ShimProcess.run(home, stand_in(home, SMALL)) as shim:
        await shim.ask(call(1, "who"))
        shim.close_stdin()
        assert await shim.end() == (0, b"", "")
    pid = json.loads((home / "server.json").read_text())["pid"]
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == str(home)
    async with ShimProcess.run(home) as another:
        assert text_of(await another.ask(call(1, "who"))) == "desk"


async def test_a_relative_home_means_the_same_to_the_server(home: Path) -> None:
    script = 'cd "$1" && export OFFHAND_HOME="$2" && shift 2 && exec "$@"'
    command = ["sh", "-c", script, "sh", str(home.parent), home.name, *stand_in(home, SMALL)]
    async with ShimProcess.run(home, command) as shim:
        assert text_of(await shim.ask(call(1, "who"))) == "desk"


async def test_what_the_server_writes_goes_to_its_log_and_only_the_user_reads_it(home: Path) -> None:
    code = f"print('said on stdout', flush=True); print('said on stderr', file=sys.stderr, flush=True); {SMALL}"
    async with ShimProcess.run(home, stand_in(home, code)) as shim:
        await shim.ask(call(1, "who"))
    log = home / "logs" / "server.log"
    assert {"said on stdout", "said on stderr"} <= set(log.read_text().splitlines())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


async def test_a_server_that_ends_at_once_is_explained_to_the_client_and_the_user(home: Path) -> None:
    (home / "logs").mkdir()
    (home / "logs" / "server.log").write_text("an old complaint\n")
    command = stand_in(home, "sys.exit('the settings file is damaged')")
    async with ShimProcess.run(home, command) as shim:
        await shim.send(notification("notifications/x"))
        answer = await shim.ask(request("first", "initialize", HANDSHAKE))
        status, out, err = await shim.end()
    assert (status, out, answer["id"], answer["error"]["code"]) == (1, b"", "first", -32000)
    for told in (answer["error"]["message"], err):
        assert "the settings file is damaged" in told
        assert "offhand serve" in told
        assert "an old complaint" not in told
    assert len(calls(home)) == 1


async def test_a_server_that_ends_at_once_is_explained_though_nobody_asks(home: Path) -> None:
    async with ShimProcess.run(home, stand_in(home, "sys.exit('no')")) as shim:
        shim.close_stdin()
        status, out, err = await shim.end()
    assert (status, out) == (1, b"")
    assert "\nno\n" in err


async def test_a_server_is_tried_again_while_the_old_one_is_still_ending(home: Path) -> None:
    """The old one holds the store until it has ended; only its pid can be seen."""
    say_where(home)  # our own pid: alive, and nobody listens
    code = f"len(open({str(home / 'calls')!r}).readlines()) < 3 and sys.exit('another server owns this home'); {SMALL}"
    async with ShimProcess.run(home, stand_in(home, code)) as shim:
        assert text_of(await shim.ask(call(1, "who"))) == "desk"
    assert len(calls(home)) == 3


async def test_a_task_starts_no_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.COOKIE, "a1")
    with pytest.raises(LaunchError, match="task"):
        start_server(str(home), lambda: None)
    assert list(home.iterdir()) == []


def test_a_server_that_does_not_come_up_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launch.COOKIE, raising=False)
    monkeypatch.setattr(launch, "START_SECONDS", 0.1)
    stand_in(home, "sys.stdin.read()")
    monkeypatch.setattr("mcp_server.transports.launch.sys.executable", str(home / "stand-in"))
    with pytest.raises(LaunchError, match="did not come up"):
        start_server(str(home), lambda: None)


def test_a_home_that_cannot_be_made_is_explained(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launch.COOKIE, raising=False)
    (home / "file").write_text("")
    with pytest.raises(LaunchError, match="could not be started"):
        start_server(str(home / "file"), lambda: None)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_real_client_finds_the_real_server_where_none_ran(home: Path, mode: Literal["auto", "legacy"]) -> None:
    settings = environment(home) | {"OFFHAND_PORT": "0"}
    parameters = StdioServerParameters(command=SHIM[0], args=SHIM[1:], env=settings, cwd=ROOT)
    async with asyncio.timeout(2 * DEADLINE_SECONDS), Client(parameters, mode=mode) as client:
        assert "create_session" in {tool.name for tool in (await client.list_tools()).tools}
        created = await client.call_tool("create_session", {"session_id": "s1", "title": "From the desk"})
        assert created.structured_content is not None
        assert created.structured_content["created"] is True
