"""The folder of one attempt, seen from the server: start its supervisor, watch it, end it, read what it left.

Files and process ids only: no event loop, no store. `supervisor.py` is the other side, in a process of its own.
The lock decides who is alive: it is held from before the supervisor's first instruction until its last one, so no
reused process id can be taken for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mcp_server.errors import ConflictError, StoreError

Outcome = Literal["exited", "signaled", "timeout", "idle_timeout", "memory_limit", "cancelled", "spawn_failed", "lost"]
OutputName = Literal["stdout", "stderr"]

SUPERVISOR_SOURCE = Path(__file__).with_name("supervisor.py")
LOCK_FD = 3
"""The number under which the supervisor expects the lock; the same as in supervisor.py."""
PROBE_SECONDS = 5.0
FIRST_FREE_FD = 10
"""The lock is moved up to here before the spawn, so that 0 to 3 can be given out in the supervisor."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What the supervisor shall run.

    `argv[0]` is an absolute path, `env` the whole environment (the cookie is added to it). The timeouts are seconds on
    a clock that stands still while the machine sleeps. `output_limit_bytes` holds for each stream. `cookie` must be
    unguessable and unique: whoever carries it in the environment is ended with the attempt. `bell` is the path of a
    unix datagram socket that is told `out ATTEMPT` and `end ATTEMPT`. `pid_namespace`: run in one of its own, which
    nothing can leave; only where `can_contain` says so. `nice` is added to ours. `open_files` holds for each process,
    `memory_limit_bytes` for all of them together; it is looked at once a second, on Linux alone.
    """

    attempt: str
    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    timeout_seconds: float
    output_limit_bytes: int
    cookie: str
    idle_seconds: float | None = None
    kill_grace_seconds: float = 5.0
    bell: str | None = None
    pid_namespace: bool = False
    nice: int = 0
    open_files: int | None = None
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """Who supervises and who is supervised, as the supervisor wrote it after the spawn. Times: µs since 1970."""

    pid: int
    child_pid: int
    started_at: int


@dataclass(frozen=True, slots=True)
class Status:
    """How an attempt ended. Times are integer microseconds since 1970.

    `returncode` is None where no exit was collected, negative for a signal. `verified`: it is proven that nothing of
    the tree is alive. `survivors` are the pids that could not be ended. `max_rss_kb` includes the supervisor's own
    few MB, because the child starts in its memory. `lost`: the supervisor was killed and `start_sweep` cleaned up.
    `contained`: what held the tree together: `pid_namespace`, `subreaper` or `process_groups`.
    """

    outcome: Outcome
    returncode: int | None
    error: str
    stdout_bytes: int
    stderr_bytes: int
    stdout_dropped: int
    stderr_dropped: int
    started_at: int | None
    finished_at: int
    survivors: tuple[int, ...]
    verified: bool
    user_seconds: float
    system_seconds: float
    max_rss_kb: int
    contained: str = "subreaper"


class AttemptFolder:
    """One attempt on the disk. Cheap to make; holds nothing open."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._child_pid: int | None = None
        self._exit_code: int | None = None

    def start(self, spec: Spec, *, supervisor: Path, stdin: bytes = b"") -> int:
        """Write the folder (mode 0700) and start the supervisor in it. Returns its pid; about a millisecond.

        The supervisor is our child: call `reap` when it has ended. From the return on `is_alive` is true until then.

        Raises:
            ConflictError: the folder exists. An attempt is never run twice.
            OSError: the folder cannot be written, or no process can be started. The folder is gone then.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise ConflictError("This attempt was started before.") from None
        try:
            self._write("spec.json", json.dumps(asdict(spec) | {"env": dict(spec.env)}).encode())
            if stdin:
                self._write("stdin", stdin)
            return self._launch(supervisor)
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def start_sweep(self, *, supervisor: Path) -> int:
        """After the supervisor was killed: start another that ends the rest of the tree and records `lost`.

        It finds what carries the cookie or lives below such a process. Returns its pid, as `start` does. It also shuts
        the folder: an attempt with a status is never run.

        Raises:
            ConflictError: a supervisor is alive, or the attempt has a status.
            FileNotFoundError: there is no such attempt.
        """
        if not (self.path / "spec.json").exists():
            raise FileNotFoundError(self.path)
        if self.status() is not None:
            raise ConflictError("This attempt has ended.")
        return self._launch(supervisor, "sweep")

    def has_begun(self) -> bool:
        """Whether its program may have been started. A supervisor makes the output files before it starts anything."""
        return self.is_alive() or (self.path / "stdout").exists()

    def is_alive(self) -> bool:
        """Whether a supervisor holds the lock."""
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two who look at the same time do not take each other for a supervisor.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            # Closing is not enough: a process that is being started in another thread shares the lock until its exec.
            fcntl.flock(fd, fcntl.LOCK_UN)
            return False
        finally:
            os.close(fd)

    def supervisor_pid(self) -> int | None:
        """The pid of the living supervisor; None where none is alive."""
        try:
            written = (self.path / "lock").read_bytes().strip()
        except FileNotFoundError:
            return None
        # Read before the look at the lock: its holder wrote it, or it is older than the holder and ours is right.
        if not self.is_alive():
            return None
        return int(written) if written.isdigit() else self._child_pid

    def is_lost(self) -> bool:
        """Whether its supervisor was killed, and what that left behind may still be alive."""
        started = self.started()
        if started is None or (self.path / "status.json").exists():
            return False
        # One of an earlier release does not say who it is; another than the first is here to end what is left.
        return not self.is_alive() or self.supervisor_pid() not in (None, started.pid)

    def open_pidfd(self) -> int | None:
        """A file descriptor that becomes readable when the supervisor ends (Linux). None where none is alive.

        The caller closes it. It certainly is the supervisor: the lock is looked at again after it was opened.

        Raises:
            NotImplementedError: this system has no pidfds.
        """
        if not hasattr(os, "pidfd_open"):
            raise NotImplementedError("This system has no pidfds.")
        pid = self.supervisor_pid()
        if pid is None:
            return None
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        if self.supervisor_pid() == pid:
            return pidfd
        os.close(pidfd)
        return None

    def terminate(self) -> bool:
        """Ask the supervisor to cancel: TERM, grace, KILL for the whole tree. Asking again changes nothing.

        Returns whether there was a supervisor to ask. Its answer is the status.
        """
        try:
            pidfd = self.open_pidfd()
        except NotImplementedError:
            return self._terminate_by_pid()
        if pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def reap(self) -> int | None:
        """The exit code of the supervisor that this object started, once it has ended.

        None before that, and where another process started it. Codes: see supervisor.py.
        """
        if self._child_pid is not None and self._exit_code is None and not self.is_alive():
            try:
                # Without the lock it is past its last instruction, so this waits for microseconds at most. Not to wait
                # could leave a zombie that nobody asks for again.
                _, status = os.waitpid(self._child_pid, 0)
            except ChildProcessError:
                self._child_pid = None  # somebody else collected it
                return None
            self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code

    def started(self) -> Started | None:
        """Who runs; None before the spawn, and for an attempt that never came to it."""
        found = self._read_json("supervisor.json")
        return None if found is None else Started(found["pid"], found["child_pid"], found["started_at"])

    def status(self) -> Status | None:
        """How the attempt ended; None while it has not, and where its supervisor was killed.

        Raises:
            StoreError: the record is damaged. It is written at once, so this is the disk's doing.
        """
        found = self._read_json("status.json")
        if found is None:
            return None
        try:
            found["survivors"] = tuple(found["survivors"])
            return Status(**found)
        except (KeyError, TypeError) as error:
            raise StoreError(f"The end of the attempt in {self.path} cannot be read: {error}") from error

    def size(self, stream: OutputName) -> int:
        """How many bytes of the output are kept so far."""
        try:
            return (self.path / stream).stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, stream: OutputName, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes of the output from byte `offset`; empty where there is nothing (yet)."""
        try:
            fd = os.open(self.path / stream, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Delete the folder; nothing happens where it is gone.

        Raises:
            ConflictError: the supervisor is alive.
        """
        # The end is written before the lock is given back; a supervisor that has only its exit before it does no harm.
        if not (self.path / "status.json").exists() and self.is_alive():
            raise ConflictError("This attempt is still running.")
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def _launch(self, supervisor: Path, *arguments: str) -> int:
        with self._locked() as lock:
            # The lock is that of an open file, so it passes to the child with it, and our copy may go.
            pid = spawn_supervisor(supervisor, self.path, lock, arguments)
            self._child_pid = pid
            self._exit_code = None
            with suppress(OSError):  # it runs already; a full disk is its own to report
                # The supervisor writes the same later: of one width, so that no reader meets half of it.
                os.pwrite(lock, b"%-10d\n" % pid, 0)
        return pid

    @contextmanager
    def _locked(self) -> Generator[int]:
        low = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD)
        finally:
            os.close(low)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError("A supervisor has this attempt.") from None
            yield fd
        finally:
            os.close(fd)

    def _terminate_by_pid(self) -> bool:
        pid = self.supervisor_pid()
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return False
        return True

    def _write(self, name: str, content: bytes) -> None:
        fd = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            found: object = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError(f"{name} in {self.path} cannot be read.") from error
        if not isinstance(found, dict):
            raise StoreError(f"{name} in {self.path} is not an object.")
        return cast(dict[str, Any], found)


def spawn_supervisor(supervisor: Path, folder: Path, lock: int, arguments: tuple[str, ...]) -> int:
    """Start a supervisor in a session of its own, with nothing of ours but the lock. Returns its pid.

    Not `subprocess.Popen`: that cannot block signals for the child alone, and a cancel that comes while Python starts
    would end the supervisor without a word; and its object complains when the server lets go of a running process.
    What we may have open without close-on-exec the supervisor closes first of all.
    """
    argv = [sys.executable, "-I", "-S", "-X", "utf8", str(supervisor), str(folder), *arguments]
    log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        sys.executable,
        argv,
        {"PATH": os.defpath},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, lock, LOCK_FD),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(folder / "supervisor.log"), log, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(signal.SIGTERM, signal.SIGINT),
    )


def can_contain(supervisor: Path) -> bool:
    """Whether supervisors can run programs in pid namespaces here. Tries it; takes about 20 ms."""
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(supervisor), "/", "probe"]
    try:
        done = subprocess.run(
            command, env={"PATH": os.defpath}, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def compiled_supervisor(folder: Path) -> Path:
    """The supervisor compiled for this Python, in `folder`; compiled once per version of the source.

    The name holds a hash of the source and of Python's bytecode version, so nothing stale is ever run, and several
    servers may do this at once. Without it every start would pay for a compilation (about 20 ms).
    """
    wanted = hashlib.sha256(importlib.util.MAGIC_NUMBER + SUPERVISOR_SOURCE.read_bytes()).hexdigest()[:16]
    target = folder / f"supervisor-{sys.implementation.cache_tag}-{wanted}.pyc"
    if target.exists():
        return target
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compile-", dir=folder) as own:
        made = Path(own) / "supervisor.pyc"
        py_compile.compile(
            str(SUPERVISOR_SOURCE),
            cfile=str(made),
            dfile="mcp_server/executor/supervisor.py",
            doraise=True,
            optimize=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        with made.open("rb") as file:
            os.fsync(file)  # a power cut must not leave half a supervisor under a name that vouches for it
        made.chmod(0o600)
        os.replace(made, target)
    return target
