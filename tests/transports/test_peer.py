from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_server.callers import DESK, Caller
from mcp_server.transports import launch, peer
from mcp_server.transports.peer import DeskAdmission, Peer, descends_from_task, peer_of, same_user

TALK = "import sys; print('up', flush=True); sys.stdin.read()"
KNOCK = """
import socket, sys
door = socket.socket(socket.AF_UNIX)
door.connect(sys.argv[1])
door.recv(1)
"""
CHILD = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {code!r}], env={{}}).returncode)"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the environment of a process is only seen on Linux")


@pytest.fixture(autouse=True)
def part_of_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where these tests are run by a task of Offhand: what they start shall not inherit that."""
    monkeypatch.delenv(launch.COOKIE, raising=False)


@contextmanager
def process(code: str = TALK, **environment: str) -> Generator[int]:
    """The pid of a process that runs until the end of the block."""
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment
    )
    with started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n"
        yield started.pid


def test_the_peer_of_a_unix_socket_is_the_process_at_its_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == Peer(os.getpid(), os.geteuid())


def test_a_network_socket_has_no_peer_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert peer_of(client) is None


def test_a_closed_socket_has_no_peer() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()
    assert peer_of(ours) is None


def test_another_user_is_not_the_same_user() -> None:
    assert same_user(Peer(1, os.geteuid()))
    assert not same_user(Peer(1, os.geteuid() + 1))


def test_an_ordinary_process_is_no_part_of_a_task() -> None:
    with process() as pid, process() as root:
        assert not descends_from_task(pid, [root])


def test_a_supervisor_and_its_children_are_part_of_a_task() -> None:
    with process() as pid:
        assert descends_from_task(pid, {pid})
        assert descends_from_task(pid, {os.getpid()})


def test_a_grandchild_is_part_of_a_task_without_any_environment() -> None:
    with process(CHILD.format(code=TALK)) as root:
        grandchild = int(Path(f"/proc/{root}/task/{root}/children").read_text().split()[0])
        assert descends_from_task(grandchild, {root})


@linux_only
def test_a_process_with_the_cookie_is_part_of_a_task() -> None:
    with process(OFFHAND_ATTEMPT="a1") as pid:
        assert descends_from_task(pid, ())


@linux_only
def test_a_child_that_dropped_the_cookie_is_part_of_a_task() -> None:
    with process(CHILD.format(code=TALK), OFFHAND_ATTEMPT="a1") as root:
        grandchild = int(Path(f"/proc/{root}/task/{root}/children").read_text().split()[0])
        assert descends_from_task(grandchild, ())


@linux_only
def test_a_variable_that_only_looks_like_the_cookie_is_none() -> None:
    with process(NOT_OFFHAND_ATTEMPT="a1", OFFHAND_ATTEMPTS="2") as pid:
        assert not descends_from_task(pid, ())


def test_a_process_that_is_gone_is_taken_for_a_part_of_a_task() -> None:
    with process() as pid:
        pass
    assert descends_from_task(pid, ())


def test_a_process_outside_our_pid_namespace_is_taken_for_a_part_of_a_task() -> None:
    assert descends_from_task(0, ())


def test_a_name_with_blanks_and_brackets_hides_no_parent() -> None:
    naming = f"open('/proc/self/comm', 'w').write('a) R 1 (b'); {TALK}"
    with process(naming) as pid:
        assert descends_from_task(pid, {os.getpid()})


def test_ancestors_that_the_system_hides_are_other_users_and_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    parent_of = peer._parent_of  # pyright: ignore[reportPrivateUsage]

    def hidden(pid: int) -> int:
        if pid == os.getpid():
            raise FileNotFoundError(pid)
        return parent_of(pid)

    def forbidden(pid: int, signal: int) -> None:
        raise PermissionError(pid)

    monkeypatch.setattr(peer, "_parent_of", hidden)
    with process() as pid:
        assert descends_from_task(pid, ())
        monkeypatch.setattr("mcp_server.transports.peer.os.kill", forbidden)
        assert not descends_from_task(pid, ())


def admitted(
    home: Path, roots: Collection[int] = (), *, orphans: bool = False, gone: bool = False, **environment: str
) -> tuple[Caller | None, int]:
    """Whom the desk takes a real process for, and its pid."""
    path = str(home / "door")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(10)
        with subprocess.Popen([sys.executable, "-c", KNOCK, path], env=os.environ | environment) as knocking:
            accepted, _ = listener.accept()
            with accepted:
                if gone:
                    knocking.kill()
                    knocking.wait()
                return DeskAdmission(lambda: roots, lambda: orphans)(accepted), knocking.pid


def test_the_user_comes_in_at_the_desk(home: Path) -> None:
    assert admitted(home)[0] == DESK


def test_a_task_does_not_come_in_at_the_desk(home: Path) -> None:
    assert admitted(home, roots={os.getpid()})[0] is None


@linux_only
def test_an_attempt_does_not_come_in_at_the_desk(home: Path) -> None:
    assert admitted(home, OFFHAND_ATTEMPT="a1")[0] is None


def test_nobody_comes_in_while_an_orphan_of_a_task_may_live(home: Path) -> None:
    assert admitted(home, orphans=True)[0] is None


async def test_whoever_comes_meanwhile_waits_until_it_is_ended() -> None:
    orphans = iter([True, True, True, False])
    seen: list[bool] = []

    def has_orphans() -> bool:
        seen.append(next(orphans))
        return seen[-1]

    await DeskAdmission(list, has_orphans).opened()
    assert seen == [True, True, True, False]


def test_one_who_is_gone_by_then_is_nobody(home: Path) -> None:
    assert admitted(home, gone=True)[0] is None


def test_another_user_does_not_come_in_at_the_desk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = os.geteuid()
    monkeypatch.setattr("mcp_server.transports.peer.os.geteuid", lambda: ours + 1)
    assert admitted(home)[0] is None


def test_the_launcher_knows_the_cookie() -> None:
    assert f"{launch.COOKIE}=".encode() == peer.COOKIE
