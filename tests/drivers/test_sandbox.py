"""Agents in real sandboxes, trying to get out of them."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_server.agents.isolation import bubblewrap
from mcp_server.drivers.clone import WorkPlace
from mcp_server.drivers.job import Sandbox
from mcp_server.drivers.sandbox import wrapped
from tests.drivers.repositories import DEADLINE_SECONDS, Ground

PROGRAM, WHY = bubblewrap(os.environ.get("PATH", os.defpath))
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=WHY)

PYTHON = os.path.realpath(sys.executable)
"""Not by way of a virtual environment, which may lie in a place that is hidden inside."""

OPEN_ALL = """
import os
for top in ("/proc", "/sys"):
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not (folder == "/proc" and name.isdigit())]
        for path in (os.path.join(folder, name) for name in names):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW))
            except OSError:
                continue
            print(path)
"""
"""Says which files of the kernel can be opened for writing; writes to none."""

Ran = subprocess.CompletedProcess[str]


def ran(argv: Sequence[str], env: Mapping[str, str], cwd: Path = Path("/")) -> Ran:
    return subprocess.run(
        argv, cwd=cwd, env=dict(env), capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )


class Cage:
    """A clone, and a shell in a sandbox around it."""

    def __init__(self, ground: Ground, place: WorkPlace) -> None:
        self.ground = ground
        self.place = place

    def run(self, script: str, **changes: object) -> Ran:
        """What the script did inside. `changes` are those of the sandbox."""
        job = replace(self.ground.job, sandbox=replace(self.ground.job.sandbox, **changes))
        return ran(wrapped(["/bin/sh", "-c", script], job, self.place.folder), job.env, self.place.folder)

    def out(self, script: str, **changes: object) -> str:
        done = self.run(script, **changes)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    made = Ground(tmp_path)
    home = tmp_path / "user"
    home.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    sandbox = Sandbox(bubblewrap=PROGRAM, hidden=(str(tmp_path / "ours"),))
    made.job = replace(made.job, env=env, sandbox=sandbox)
    return made


@pytest.fixture
async def cage(ground: Ground) -> Cage:
    return Cage(ground, await ground.prepare())


def test_without_bubblewrap_the_agent_runs_as_it_is(ground: Ground) -> None:
    job = replace(ground.job, sandbox=Sandbox())
    assert wrapped(["/bin/agent", "-x"], job, ground.repository) == ["/bin/agent", "-x"]


def test_the_place_of_work_is_writable_and_nothing_else(cage: Cage, ground: Ground) -> None:
    outside = [ground.root / "user/x", ground.repository / "x", Path("/etc/x"), Path("/usr/x"), Path("/var/x")]
    cage.out("echo in > in; " + "; ".join(f"(mkdir -p {path.parent}; echo x > {path})" for path in outside) + "; true")
    assert (cage.place.folder / "in").read_text() == "in\n"
    assert not any(path.exists() for path in outside)


def test_no_socket_answers(cage: Cage, ground: Ground) -> None:
    path = ground.root / "user/s"
    knock = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert ran([sys.executable, "-c", knock, str(path)], {}).returncode == 0
        for strict in (False, True):
            done = cage.run(f"'{PYTHON}' -c '{knock}' {path}", strict=strict)
            assert done.returncode != 0
            assert "Refused" in done.stderr or "NotFound" in done.stderr, done.stderr
    path.unlink()
    assert cage.out("echo in") == "in"


def test_our_home_is_hidden_but_for_the_clone(cage: Cage, ground: Ground) -> None:
    ours = ground.root / "ours"
    (ours / "store.sqlite").write_text("secret")
    (ours / "clones/other").mkdir()
    seen = cage.out(f"find {ours} -not -path '{cage.place.folder}/*' -not -path '*/objects/*' 2>/dev/null")
    names = {str(Path(line).relative_to(ours)) for line in seen.splitlines()}
    assert names <= {
        ".",
        "clones",
        *(f"clones/7{rest}" for rest in ("", "/work", "/kept.git", "/kept.git/objects", "/caches")),
    }
    assert "clones/7/work" in names


def test_what_is_ours_beside_the_clone_cannot_be_changed(cage: Cage) -> None:
    assert cage.place.clone is not None
    kept = cage.place.clone / "kept.git"
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    cage.run(
        f"rm -rf {kept}; echo evil > {kept}/config; mkdir {kept}/hooks; echo x > {kept}/objects/x; mv {kept} {kept}-2"
    )
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_git_works_inside(cage: Cage) -> None:
    assert (
        cage.out("git log --format=%s && echo x > x && git add x && git commit -qm Inside && git status --porcelain")
        == "Begin"
    )


def test_secrets_are_hidden_wherever_they_lie(cage: Cage, ground: Ground) -> None:
    home = ground.root / "user"
    elsewhere = ground.write("elsewhere/id", "KEY\n", under=ground.root).parent
    (home / ".ssh").symlink_to(elsewhere)
    ground.write(".aws/credentials", "KEY\n", under=home)
    ground.write(".netrc", "KEY\n", under=home)
    ground.write("visible", "open\n", under=home)
    hidden = (str(ground.root / "ours"), *(str(home / name) for name in (".ssh", ".aws", ".netrc", ".none")))
    shown = cage.out(f"cat ~/.ssh/* ~/.aws/* ~/.netrc {elsewhere}/id ~/visible 2>/dev/null; true", hidden=hidden)
    assert shown == "open"


def test_the_agents_state_is_writable_and_its_settings_are_not(cage: Cage, ground: Ground) -> None:
    state = ground.root / "user/.agent"
    ground.write("settings.json", '{"hooks": {}}', under=state)
    ground.write("login", "old", under=state)
    fixed = tuple(str(state / name) for name in ("settings.json", "AGENTS.md", "hooks"))
    cage.run(
        "cd ~/.agent; echo new > login.new; mv login.new login; echo evil > settings.json; echo evil > x; "
        "mv x settings.json; rm -f settings.json; echo evil > AGENTS.md; echo evil > hooks/x; mv hooks h; "
        "mv ~/.agent ~/.moved",
        writable=(str(state), str(ground.root / "user/.missing")),
        readonly=fixed,
    )
    assert (state / "login").read_text() == "new\n"
    assert (state / "settings.json").read_text() == '{"hooks": {}}'
    assert (state / "AGENTS.md").read_text() == ""
    assert list((state / "hooks").iterdir()) == []


def test_a_single_file_of_state_is_a_copy(cage: Cage, ground: Ground) -> None:
    path = ground.write(".agent.json", '{"login": 1}', under=ground.root / "user")
    assert (
        cage.out("cat ~/.agent.json; echo evil > ~/.agent.json; cat ~/.agent.json", writable=(str(path),))
        == '{"login": 1}evil'
    )
    assert path.read_text() == '{"login": 1}'


def test_state_is_made_where_the_agent_never_ran(cage: Cage, ground: Ground) -> None:
    state = ground.root / "user/.agent"
    cage.out("echo x > ~/.agent/login", writable=(str(state), str(ground.root / "user/.agent.json")))
    assert [path.name for path in (ground.root / "user").iterdir()] == [".agent"]
    assert (state / "login").read_text() == "x\n"


async def test_review_cannot_write_at_all(ground: Ground) -> None:
    cage = Cage(ground, await ground.prepare(profile="review"))
    assert cage.run("echo x > x").returncode != 0
    assert cage.run("echo x >> app.py").returncode != 0
    assert cage.run("echo x > .git/x").returncode != 0
    assert cage.out("git log --format=%s; cat app.py") == "Begin\nprint('one')"
    assert cage.out("echo x > $TMPDIR/x && cat $TMPDIR/x") == "x"


async def test_in_place_the_git_folder_stays_as_it_is(ground: Ground) -> None:
    cage = Cage(ground, await ground.prepare(clone=None))
    before = ground.untouched()
    cage.run(
        "echo evil > .git/config; echo x > .git/commondir; mkdir .git/hooks/x; mv .git .g; rm -rf .git; echo x > .git/x"
    )
    assert ground.untouched() == before
    cage.out("echo two > app.py")
    assert (ground.repository / "app.py").read_text() == "two\n"


def test_the_temporary_folder_is_its_own(cage: Cage) -> None:
    ours = Path(f"/tmp/offhand-{secrets.token_hex(8)}")
    assert cage.out(f'test "$TMPDIR" != /tmp && mktemp > /dev/null && echo x > {ours} && echo fine') == "fine"
    assert not ours.exists()


def test_sockets_of_the_machine_are_out_of_reach(cage: Cage, ground: Ground) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        path = Path("/tmp") / f"offhand-test-{os.getpid()}.sock"
        listening.bind(str(path))
        try:
            assert (
                cage.out(f"test -S {path} || echo gone; ls /run/user /run/docker.sock /run/dbus 2>/dev/null; true")
                == "gone"
            )
        finally:
            path.unlink()
    ground.job = replace(
        ground.job, env={**ground.job.env, "SSH_AUTH_SOCK": "/x", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"}
    )
    assert cage.out('echo "$SSH_AUTH_SOCK$DBUS_SESSION_BUS_ADDRESS"') == ""


def test_other_processes_are_not_seen(cage: Cage) -> None:
    assert len(cage.out("ls -d /proc/[0-9]*").split()) <= 3
    assert cage.run(f"kill -9 {os.getpid()}").returncode != 0


def test_no_rights_are_left_and_none_can_be_got_back(cage: Cage, ground: Ground) -> None:
    # As root one is left, without which no sandbox can be made within this one; it gives no more than a setuid bit.
    allowed = {"0" * 16, "0000000080000000"} if os.geteuid() == 0 else {"0" * 16}
    assert set(cage.out("grep Cap /proc/self/status").split()[1::2]) <= allowed
    assert "NoNewPrivs:\t1" in cage.out("cat /proc/self/status")
    ours = ground.root / "ours"
    (ours / "store.sqlite").write_text("secret")
    for script in (
        f"umount {ours}; cat {ours}/store.sqlite",
        f"unshare -Urm sh -c 'umount -l {ours}; cat {ours}/store.sqlite'",
        f"unshare -Urm sh -c 'mount --bind / /mnt; cat /mnt{ours}/store.sqlite'",
        f"unshare -Urm sh -c 'mount -o remount,rw,bind /; mount -o remount,rw /; echo x > {ground.root}/user/x'",
        "unshare -Urm sh -c 'mount -o remount,rw,bind /usr; echo x > /usr/x'",
        # Only opened: where that works, writing would too, and the whole machine would feel it.
        "true >> /proc/sys/kernel/core_pattern",
        "true >> /proc/sysrq-trigger",
        "unshare -Urmpf sh -c 'mount -t proc proc /mnt && true >> /mnt/sys/kernel/core_pattern'",
        "cat /proc/1/root/../../../etc/shadow > /dev/null && false",
        "mknod disk b 8 0 && cat disk",
    ):
        done = cage.run(script)
        assert "secret" not in done.stdout
        assert done.returncode != 0, script
    opened = cage.out(f"{PYTHON} -I -S -c '{OPEN_ALL}'").split()
    assert not {path for path in opened if not path.startswith("/proc/pressure/")}
    assert not (ground.root / "user/x").exists()
    assert not Path("/usr/x").exists()


def test_devices_are_the_harmless_ones(cage: Cage) -> None:
    harmless = "console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert set(cage.out("ls /dev").split()) <= set(harmless.split())


def test_nothing_outlives_it(cage: Cage, tmp_path: Path) -> None:
    job = cage.ground.job
    script = "setsid sh -c 'trap \"\" TERM HUP; echo up; exec sleep 1000' & exec sleep 1000"
    argv = wrapped(["/bin/sh", "-c", script], job, cage.place.folder)
    process = subprocess.Popen(argv, cwd=cage.place.folder, env=dict(job.env), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_SECONDS)
    # The pipe ends when the last process that holds it does.
    assert process.stdout.read() == b""
    process.stdout.close()


def test_it_dies_with_its_driver(cage: Cage, tmp_path: Path) -> None:
    job = cage.ground.job
    argv = wrapped(["/bin/sh", "-c", "echo up; exec sleep 1000"], job, cage.place.folder)
    driver = subprocess.Popen(
        ["/bin/sh", "-c", '"$@" & wait', "driver", *argv],
        cwd=cage.place.folder,
        env=dict(job.env),
        stdout=subprocess.PIPE,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"up\n"
    driver.send_signal(signal.SIGKILL)
    driver.wait(DEADLINE_SECONDS)
    assert driver.stdout.read() == b""
    driver.stdout.close()


def test_package_managers_have_caches_of_their_own(cage: Cage) -> None:
    assert cage.place.clone is not None
    cage.out('mkdir -p "$npm_config_cache" "$CARGO_HOME" && echo x > "$XDG_CACHE_HOME/x"')
    assert (cage.place.clone / "caches/x").read_text() == "x\n"


class TestStrict:
    """With the home folder hidden."""

    def test_the_home_is_hidden_but_for_what_is_needed(self, ground: Ground, cage: Cage) -> None:
        home = ground.root / "user"
        ground.write("private", "secret", under=home)
        ground.write(".agent/login", "mine", under=home)
        changes = {"strict": True, "writable": (str(home / ".agent"),)}
        assert cage.out("ls -A ~; cat ~/.agent/login", **changes) == ".agent\nmine"

    async def test_a_program_and_a_repository_in_the_home_still_work(self, ground: Ground) -> None:
        home = ground.root / "user"
        program = ground.write(
            ".nvm/v1/lib/node_modules/agent/cli", "#!/bin/sh\ncat $(dirname $(readlink -f $0))/data\n", under=home
        )
        program.chmod(0o755)
        ground.write("data", "package", under=program.parent)
        (home / ".nvm/v1/bin").mkdir()
        (home / ".nvm/v1/bin/agent").symlink_to("../lib/node_modules/agent/cli")
        inside = home / "src"
        shutil.move(ground.repository, inside)
        place = await ground.prepare(folder=str(inside), workspace=str(inside))
        job = replace(
            ground.job,
            sandbox=replace(ground.job.sandbox, strict=True),
            env={**ground.job.env, "PATH": f"{home}/.nvm/v1/bin:{os.environ['PATH']}"},
        )
        agent = str(home / ".nvm/v1/bin/agent")
        assert ran(wrapped([agent], job, place.folder), job.env).stdout == "package"
        script = f"git log --format=%s; ls {inside}/app.py"
        assert ran(wrapped(["/bin/sh", "-c", script], job, place.folder), job.env).stdout == "Begin\n"


async def test_objects_borrowed_from_a_hidden_folder_are_not_shown(ground: Ground) -> None:
    secret = ground.write(".ssh/objects/id", "KEY", under=ground.root / "user")
    ground.write(".ssh/HEAD", "", under=ground.root / "user")
    ground.write(".git/objects/info/alternates", f"{secret.parent}\n{ground.root}/user/.ssh\n")
    ground.job = replace(
        ground.job, sandbox=replace(ground.job.sandbox, hidden=(*ground.job.sandbox.hidden, str(secret.parent.parent)))
    )
    cage = Cage(ground, await ground.prepare())
    assert cage.run(f"cat {secret}").returncode != 0
    assert cage.run(f"cat {secret}", strict=True).returncode != 0


def test_it_works_inside_a_pid_namespace(cage: Cage) -> None:
    """As under a supervisor, which gives each attempt one."""
    program = shutil.which("unshare")
    tried = [program or "", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc", "--kill-child", "true"]
    if program is None or subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("this system gives no pid namespace")
    job = cage.ground.job
    argv = [*tried[:-1], *wrapped(["/bin/sh", "-c", "echo fine"], job, cage.place.folder)]
    assert ran(argv, job.env).stdout == "fine\n"
