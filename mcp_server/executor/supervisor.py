"""The supervisor of one attempt: a process that runs one program, keeps its output, and ends all of its tree.

    python -I -S supervisor.py ATTEMPT_FOLDER            run what spec.json says
    python -I -S supervisor.py ATTEMPT_FOLDER sweep      end what a supervisor that was killed left behind

It needs nothing from the server that started it, so it goes on when that server dies: the bell is a hint that may be
lost, and everything that counts is in the folder. `attempt_folder.py` is the other side of it.

Exit codes: 0 the end is in status.json; 1 it could not be written; 2 there is no readable spec; 3 another process holds
the lock; 4 the attempt has ended before. SIGTERM and SIGINT cancel. SIGHUP is ignored: it says that a terminal is gone,
and a terminal that closes is not a user who cancels.

Start-up time is the point here (a `git status` waits for it), so there are no imports beyond C modules, some of them
the private halves of `json` (11 ms), `signal` (7 ms), `socket` (11 ms) and `ctypes` (4 ms). It is one file because it
can import nothing of ours.
"""

from __future__ import annotations

import _json
import _socket
import errno
import fcntl
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Any
else:
    import _signal as signal

COOKIE_NAME = "OFFHAND_ATTEMPT"
LOCK_FD = 3
"""Where the server hands over the lock that it took, so that there is no moment without a holder."""
LOCK_PATIENCE_SECONDS = 0.5
"""`AttemptFolder.is_alive` holds the lock for some microseconds; that is not another supervisor."""
RESERVE_BYTES = 16 * 1024
READ_BYTES = 256 * 1024
PIPE_BYTES = 1024 * 1024
BELL_SECONDS = 0.02
LEFTOVER_GRACE_SECONDS = 0.5
KILL_SECONDS = 10.0
KILL_PAUSE_SECONDS = 0.005
LOOK_SECONDS = 0.02
"""How often we look for processes that are not below us: their end sends us no signal."""
FREEZE_ROUNDS = 100
FINAL_DRAIN_SECONDS = 1.0
YOUNG_SECONDS = 1.0
"""Within this time pids cannot have wrapped around, so all that is new lies between our pid and the last one."""
ERROR_CHARACTERS = 1000
SURVIVORS_LISTED = 200
PR_SET_CHILD_SUBREAPER = 36


class Stream:
    """One output pipe of the child and the file that keeps the first `limit` bytes of it.

    What comes after the limit, or after a write that failed, is read and counted but not kept: the child never waits
    for the disk, and the file is always an unbroken beginning.
    """

    def __init__(self, name: str, folder: str, limit: int) -> None:
        self.name = name
        self.kept = 0
        self.dropped = 0
        self.error = ""
        self._limit = limit
        self._file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        widen_pipe(self.write_end)

    def pump(self, buffer: bytearray) -> int | None:
        """Move one batch. Returns its size; 0 at the end of the pipe, None when it is empty for now."""
        try:
            count = os.readv(self.read_end, [buffer])
        except BlockingIOError:
            return None
        except OSError as error:
            self._fail("read", error)
            return 0
        if count:
            self._keep(memoryview(buffer)[:count])
        return count

    def sync(self) -> None:
        """Put the file on the disk."""
        if not self.kept:
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            self._fail("synced", error)

    def _keep(self, batch: memoryview) -> None:
        room = 0 if self.error else self._limit - self.kept
        wanted = batch[: max(room, 0)]
        written = 0
        while written < len(wanted):
            try:
                written += os.write(self._file, wanted[written:])
            except OSError as error:
                self._fail("written", error)
                break
        self.kept += written
        self.dropped += len(batch) - written

    def _fail(self, what: str, error: OSError) -> None:
        self.error = self.error or f"{self.name} could not be {what}: {error.strerror}"


class Bell:
    """Datagrams that tell the server to look into the folder; at most one per BELL_SECONDS for output.

    Lossy by design, the last one too: few fit into the socket of a server that is busy (Linux: often ten).
    """

    def __init__(self, path: str | None, attempt: str) -> None:
        self._path = path or ""
        self._attempt = attempt
        self._rung_at = float("-inf")
        self.due: float | None = None
        """When the next ring for output is to go out (monotonic); None: there is nothing to tell."""
        self._socket = None
        if path:
            try:
                self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            except OSError:
                self._socket = None

    def output_came(self, now: float) -> None:
        """There is new output: ring now, or as soon as the last ring is BELL_SECONDS old."""
        if self.due is None:
            self.due = max(now, self._rung_at + BELL_SECONDS)
        self.ring_if_due(now)

    def ring_if_due(self, now: float) -> None:
        """Ring for output that nobody was told of yet."""
        if self.due is not None and now >= self.due:
            self._rung_at = now
            self.due = None
            self.ring("out")

    def ring(self, what: str) -> None:
        """Send `what` at once."""
        if self._socket is None:
            return
        try:
            self._socket.sendto(f"{what} {self._attempt}".encode(), self._path)
        except OSError:
            return  # nobody listens: the folder has it all


class Tree:
    """The processes of the attempt: all that descend from us, and all that carry the cookie wherever they are.

    As the subreaper we inherit every orphan below us, so the walk over parents finds them all. Without it (macOS) the
    process groups that were seen stand in, and emptiness cannot be proven.
    """

    def __init__(self, cookie: str, born_at: float) -> None:
        self.is_subreaper = become_subreaper()
        self.root = os.getpid()
        self.groups: set[int] = set()
        """Process groups that consist of our descendants only: each lies in a session that one of them opened."""
        self._needle = f"\0{COOKIE_NAME}={cookie}\0".encode()
        self._born_at = born_at
        self._has_proc = proc_is_ours()

    @property
    def provable(self) -> bool:
        """Whether this system lets us see every process of the tree."""
        return self.is_subreaper and self._has_proc

    def members(self) -> set[int]:
        """Every process of the tree that is alive. A snapshot: whoever forks meanwhile is in the next one."""
        table = process_table(self._has_proc)
        children: dict[int, list[int]] = {}
        for pid, (parent, _, _) in table.items():
            children.setdefault(parent, []).append(pid)
        below: set[int] = set()
        waiting = [self.root]
        while waiting:
            for pid in children.get(waiting.pop(), ()):
                if pid not in below:
                    below.add(pid)
                    waiting.append(pid)
        # 0 and 1 would mean our own group and every process of the user.
        groups = {group for group in (table[pid][1] for pid in below) if group > 1} - {os.getpgid(0)}
        if self.is_subreaper:
            self.groups = groups
        else:
            self.groups |= groups
            below.update(pid for pid, (_, group, _) in table.items() if group in self.groups)
        below.update(self.cookie_holders(table))
        below.discard(self.root)
        return {pid for pid in below if pid in table and table[pid][2]}

    def outside(self) -> set[int]:
        """What is left when we have no children: without orphans to us, only the cookie can tell."""
        if not self.is_subreaper:
            return self.members()
        return self.cookie_holders(self._newcomers()) if self._has_proc else set()

    def cookie_holders(self, pids: Iterable[int]) -> set[int]:
        """Those of `pids` in whose environment is our cookie."""
        if not self._has_proc:
            return set()
        return {
            pid
            for pid in pids
            if pid != self.root and self._needle in b"\0%b\0" % (read_whole(f"/proc/{pid}/environ") or b"")
        }

    def signal(self, pids: Iterable[int], number: int) -> None:
        """Send signal `number`. Who is gone or not ours to signal is passed over; it shows in the next snapshot."""
        for pid in pids:
            try:
                os.kill(pid, number)
            except OSError:
                continue

    def kill(self) -> None:
        """One round of SIGKILL for everything.

        All is stopped first, until a look finds nobody new. A fork loop that is killed one by one refills the places
        that become free, and one watchdog restarts the other; stopped processes do neither. A signal to a group
        reaches a fork that is under way, too.
        """
        stopped: set[int] = set()
        for _ in range(FREEZE_ROUNDS):
            new = self.members() - stopped
            if not new:
                break
            # The newest first: in a loop where each process forks and exits, only the newest is still there.
            self.signal((-group for group in sorted(self.groups, reverse=True)), signal.SIGSTOP)
            self.signal(sorted(new, reverse=True), signal.SIGSTOP)
            stopped |= new
        self.signal((-group for group in self.groups), signal.SIGKILL)
        self.signal(stopped, signal.SIGKILL)

    def _newcomers(self) -> Iterable[int]:
        """The pids that may have been given out since we started: all, or for a short attempt only a few."""
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        last = (read_whole("/proc/loadavg") or b"").split()
        if time.monotonic() - self._born_at > YOUNG_SECONDS or not last or not last[-1].isdigit():
            return list(pids)
        newest = int(last[-1])
        if self.root <= newest:
            return [pid for pid in pids if self.root < pid <= newest]
        return [pid for pid in pids if pid > self.root or pid <= newest]


class Supervisor:
    """One attempt, from the spawn to the record of its end."""

    def __init__(self, folder: str, spec: dict[str, Any], signals: Signals, born_at: float) -> None:
        self.folder = folder
        self.spec = spec
        self.signals = signals
        self.tree = Tree(spec["cookie"], born_at)
        self.bell = Bell(spec.get("bell"), spec["attempt"])
        self.record = EndRecord(folder)
        self.streams = [Stream(name, folder, int(spec["output_limit_bytes"])) for name in ("stdout", "stderr")]
        self.open_streams = {stream.read_end: stream for stream in self.streams}
        self.buffer = bytearray(READ_BYTES)
        self.child: int | None = None
        self.wait_status: int | None = None
        self.outcome: str | None = None
        """Why we ended the child; None where it ended by itself."""
        self.error = ""
        self.survivors: list[int] = []
        self.verified = False
        self.started_at = wall_microseconds()
        self.user_seconds = 0.0
        self.system_seconds = 0.0
        self.max_rss = 0
        self.kill_at: float | None = None
        self.give_up_at: float | None = None

    def run(self) -> int:
        """Run the program to its end, whatever happens to us. Returns our exit code."""
        try:
            if self.signals.cancelled:
                self.outcome = "cancelled"
                self.verified = True
            elif self.spawn():
                self.write_supervisor_file()
                self.record.sync()
                self.watch()
                self.drain()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the tree must end
            log(error)
            self.error = f"the supervisor failed: {error!r}"
            self.end_without_ceremony()
        return self.finish()

    def spawn(self) -> bool:
        """Start the program in a session of its own. False where it cannot be started; `error` says why."""
        spec = self.spec
        env = {COOKIE_NAME: spec["cookie"]} | {k: v for k, v in spec["env"].items() if k != COOKIE_NAME}
        given = f"{self.folder}/stdin"
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, given if os.path.exists(given) else os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, stream.write_end, fd) for fd, stream in enumerate(self.streams, 1)),
        ]
        everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        try:
            # posix_spawn cannot change the folder. We have one thread, so we may go there ourselves.
            os.chdir(spec["cwd"])
            self.started_at = wall_microseconds()
            self.child = os.posix_spawn(
                spec["argv"][0],
                spec["argv"],
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=everything,
            )
        except (OSError, ValueError, TypeError, IndexError) as error:
            self.outcome = "spawn_failed"
            self.error = spawn_error(error, spec)
            self.verified = True
        finally:
            os.chdir("/")
            for stream in self.streams:
                os.close(stream.write_end)
        return self.child is not None

    def write_supervisor_file(self) -> None:
        """Say who we are and whom we started. A full disk is no reason to end the child."""
        text = to_json({"pid": os.getpid(), "child_pid": self.child, "started_at": self.started_at})
        try:
            write_file(f"{self.folder}/supervisor.json.new", text)
            os.rename(f"{self.folder}/supervisor.json.new", f"{self.folder}/supervisor.json")
        except OSError as error:
            self.error = f"supervisor.json could not be written: {error.strerror}"

    def watch(self) -> None:
        """Copy output and watch the clocks until nothing of the tree is left, or cannot be ended."""
        started = time.monotonic()
        self.last_output = started
        self.wall_deadline = started + self.spec["timeout_seconds"]
        poller = select.poll()
        poller.register(self.signals.fd, select.POLLIN)
        for fd in self.open_streams:
            poller.register(fd, select.POLLIN)
        childless = False
        while True:
            for fd, _ in poller.poll(self.patience(childless)):
                if stream := self.open_streams.get(fd):
                    self.pump(stream, poller)
            self.signals.drain()
            now = time.monotonic()
            self.bell.ring_if_due(now)
            childless = self.reap()
            if childless and not self.tree.outside():
                self.verified = self.tree.provable
                return
            if not self.keep_ending(now):
                return

    def keep_ending(self, now: float) -> bool:
        """Begin the end where it is time, and carry it on. False: given up, `survivors` are known."""
        if self.give_up_at is not None:
            if now >= self.give_up_at:
                self.survivors = sorted(self.tree.members())
                return False
            self.tree.kill()
        elif self.kill_at is not None:
            if now >= self.kill_at:
                self.give_up_at = now + KILL_SECONDS
                self.tree.kill()
        elif self.wait_status is not None:
            self.begin_end(now + LEFTOVER_GRACE_SECONDS)
        elif reason := self.reason_to_end(now):
            members = self.tree.members()
            self.reap()
            if self.wait_status is None:
                self.outcome = reason
                self.begin_end(now + self.spec["kill_grace_seconds"], members)
        return True

    def reason_to_end(self, now: float) -> str | None:
        """The outcome that is due now, if any."""
        if self.signals.cancelled:
            return "cancelled"
        if now >= self.wall_deadline:
            return "timeout"
        idle = self.spec["idle_seconds"]
        if idle is not None and now >= self.last_output + idle:
            return "idle_timeout"
        return None

    def begin_end(self, kill_at: float, members: set[int] | None = None) -> None:
        """Ask the whole tree to end. SIGCONT, because whoever is stopped cannot hear SIGTERM."""
        self.kill_at = kill_at
        members = self.tree.members() if members is None else members
        self.tree.signal(members, signal.SIGTERM)
        self.tree.signal(members, signal.SIGCONT)

    def patience(self, childless: bool) -> float:
        """How long poll may wait, in milliseconds."""
        now = time.monotonic()
        if self.give_up_at is not None:
            deadline = min(self.give_up_at, now + KILL_PAUSE_SECONDS)
        elif self.kill_at is not None:
            # Without children no SIGCHLD will come.
            deadline = min(self.kill_at, now + LOOK_SECONDS) if childless else self.kill_at
        else:
            idle = self.spec["idle_seconds"]
            deadline = self.wall_deadline if idle is None else min(self.wall_deadline, self.last_output + idle)
            if self.signals.cancelled:
                deadline = now
        if self.bell.due is not None:
            deadline = min(deadline, self.bell.due)
        # One millisecond more than the rounded value, or the last one would be spent in a busy loop.
        return min(max(0.0, (deadline - now) * 1000 + 1 if deadline > now else 0.0), 3_600_000.0)

    def pump(self, stream: Stream, poller: select.poll | None = None) -> bool:
        """Move one batch of output. False: there is nothing (more) for now."""
        count = stream.pump(self.buffer)
        if count:
            self.last_output = time.monotonic()
            self.bell.output_came(self.last_output)
        elif count == 0:
            if poller is not None:
                poller.unregister(stream.read_end)
            del self.open_streams[stream.read_end]
            os.close(stream.read_end)
        return bool(count)

    def drain(self) -> None:
        """Take what the pipes still hold. They may be open in a process that is not ours: never wait for their end."""
        deadline = time.monotonic() + FINAL_DRAIN_SECONDS
        for stream in list(self.open_streams.values()):
            while time.monotonic() < deadline and self.pump(stream):
                pass

    def reap(self) -> bool:
        """Collect who has ended. True: we have no children left, so with a subreaper nothing lives below us."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.child and self.wait_status is None:
                self.wait_status = status
            self.user_seconds += usage.ru_utime
            self.system_seconds += usage.ru_stime
            self.max_rss = max(self.max_rss, usage.ru_maxrss)

    def end_without_ceremony(self) -> None:
        """We failed: KILL, and say what is left."""
        deadline = time.monotonic() + KILL_SECONDS
        while not (self.reap() and not self.tree.outside()):
            if time.monotonic() > deadline:
                self.survivors = sorted(self.tree.members())
                return
            self.tree.kill()
            select.select([self.signals.fd], [], [], KILL_PAUSE_SECONDS)
            self.signals.drain()
        self.verified = self.tree.provable

    def finish(self) -> int:
        """Write the record of the end and ring. Returns our exit code."""
        for stream in self.streams:
            stream.sync()
        errors = [self.error, *(stream.error for stream in self.streams)]
        code = None if self.wait_status is None else os.waitstatus_to_exitcode(self.wait_status)
        own = "exited" if code is not None and code >= 0 else "signaled"
        written = self.record.write(
            {
                "outcome": self.outcome or own,
                "returncode": code,
                "error": "; ".join(error for error in errors if error)[:ERROR_CHARACTERS],
                "stdout_bytes": self.streams[0].kept,
                "stderr_bytes": self.streams[1].kept,
                "stdout_dropped": self.streams[0].dropped,
                "stderr_dropped": self.streams[1].dropped,
                "started_at": self.started_at,
                "finished_at": wall_microseconds(),
                "survivors": self.survivors[:SURVIVORS_LISTED],
                "verified": self.verified and not self.survivors,
                "user_seconds": round(self.user_seconds, 6),
                "system_seconds": round(self.system_seconds, 6),
                "max_rss_kb": self.max_rss // 1024 if sys.platform == "darwin" else self.max_rss,
            }
        )
        self.bell.ring("end")
        return 0 if written else 1


class EndRecord:
    """`status.json`, with its space taken before the program starts, so that a full disk cannot lose the result."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = f"{folder}/status.reserve"
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        blank = b" " * RESERVE_BYTES
        if os.write(self._fd, blank) < RESERVE_BYTES:
            os.write(self._fd, b" ")  # names the reason: no space, or a limit on the size of files

    def sync(self) -> None:
        """Have the blocks given out for good. Done while the child starts: it takes milliseconds on a real disk."""
        os.fsync(self._fd)

    def write(self, facts: dict[str, Any]) -> bool:
        """Write into the reserved blocks, then give the file its name. False: it failed, supervisor.log says why."""
        text = to_json(facts).ljust(RESERVE_BYTES - 1) + b"\n"
        try:
            os.pwrite(self._fd, text, 0)
            os.fsync(self._fd)
            os.rename(self._path, f"{self._folder}/status.json")
            sync_folder(self._folder)
        except OSError as error:
            log(error)
            return False
        return True


class Signals:
    """What we are told by signals: `cancelled`, and a file descriptor that wakes poll for it and for SIGCHLD."""

    def __init__(self) -> None:
        self.cancelled = False
        self.fd, self._write_end = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self._wake)
        signal.signal(signal.SIGTERM, self._cancel)
        signal.signal(signal.SIGINT, self._cancel)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # The server starts us with these blocked, so that a cancel during our start is kept for us.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def drain(self) -> None:
        """Forget the wake-ups so far."""
        try:
            while os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            pass

    def _wake(self, *_: object) -> None:
        """Without a handler the wake-up would not be written."""

    def _cancel(self, *_: object) -> None:
        self.cancelled = True


def sweep(folder: str, spec: dict[str, Any], signals: Signals, born_at: float) -> int:
    """End what a supervisor that was killed left behind, and say `lost`: nobody knows how its program ended.

    Its orphans belong to init now. The cookie finds them, except those that cleared their environment: `verified`
    stays false.
    """
    tree = Tree(spec["cookie"], born_at)
    record = EndRecord(folder)
    deadline = time.monotonic() + KILL_SECONDS
    while True:
        found = lost_members(tree)
        if not found or time.monotonic() > deadline:
            break
        tree.signal(found, signal.SIGSTOP)
        tree.signal(found | lost_members(tree), signal.SIGKILL)
        select.select([signals.fd], [], [], KILL_PAUSE_SECONDS)
        signals.drain()
    facts: dict[str, Any] = {"outcome": "lost", "returncode": None, "error": "the supervisor was killed"}
    started = read_json(f"{folder}/supervisor.json")
    for name in ("stdout", "stderr"):
        path = f"{folder}/{name}"
        facts[f"{name}_bytes"] = os.path.getsize(path) if os.path.exists(path) else 0
        facts[f"{name}_dropped"] = 0
    facts["started_at"] = started["started_at"] if started else None
    facts["finished_at"] = wall_microseconds()
    facts["survivors"] = sorted(found)[:SURVIVORS_LISTED]
    facts.update(verified=False, user_seconds=0.0, system_seconds=0.0, max_rss_kb=0)
    written = record.write(facts)
    Bell(spec.get("bell"), spec["attempt"]).ring("end")
    return 0 if written else 1


def lost_members(tree: Tree) -> set[int]:
    """Cookie holders anywhere, with all that lives below them or in a session that one of them leads."""
    table = process_table(proc_is_ours())
    found = tree.cookie_holders(table)
    grew = True
    while grew:
        more = {pid for pid, (parent, group, _) in table.items() if parent in found or group in found}
        grew = not more <= found
        found |= more
    return {pid for pid in found if pid != tree.root and table[pid][2]}


def become_subreaper() -> bool:
    """Have orphans among our descendants given to us (Linux). False where the system cannot do that."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import _ctypes  # not everywhere built

        itself: Any = None  # what is loaded already; the stubs do not know that it may be None
        prctl = _ctypes.dlsym(_ctypes.dlopen(itself, 0), "prctl")
        return _ctypes.call_function(prctl, (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0
    except (ImportError, AttributeError, OSError):
        return False


def proc_is_ours() -> bool:
    """Whether /proc shows the pid namespace that we live in."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def process_table(has_proc: bool) -> dict[int, tuple[int, int, bool]]:
    """Each process with its parent, its process group, and whether it is more than a zombie."""
    return table_from_proc() if has_proc else table_from_ps()


def table_from_proc() -> dict[int, tuple[int, int, bool]]:
    """The process table of Linux."""
    table: dict[int, tuple[int, int, bool]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := read_whole(f"/proc/{name}/stat")):
            # The program's name stands in parentheses and may hold anything, more parentheses too.
            fields = stat[stat.rindex(b")") + 2 :].split()
            # A leader that ended before its other threads looks like a zombie but runs on.
            runs = fields[0] not in b"ZX" or int(fields[17]) > 1
            table[int(name)] = (int(fields[1]), int(fields[2]), runs)
    return table


def table_from_ps() -> dict[int, tuple[int, int, bool]]:
    """The process table where there is no /proc (macOS)."""
    read_end, write_end = os.pipe()
    ps = os.posix_spawn(
        "/bin/ps",
        ["ps", "-axo", "pid=,ppid=,pgid=,stat="],
        {"PATH": "/usr/bin:/bin"},
        file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 1)],
    )
    os.close(write_end)
    text = b""
    while batch := os.read(read_end, READ_BYTES):
        text += batch
    os.close(read_end)
    os.waitpid(ps, 0)
    rows = (line.split() for line in text.splitlines())
    table = {int(row[0]): (int(row[1]), int(row[2]), not row[3].startswith(b"Z")) for row in rows if len(row) == 4}
    table.pop(ps, None)
    return table


def take_lock(folder: str) -> int | None:
    """Hold the lock of the attempt until we end: the one handed over by the server, else by taking it."""
    path = f"{folder}/lock"
    try:
        handed, wanted = os.fstat(LOCK_FD), os.stat(path)
        is_handed = (handed.st_dev, handed.st_ino) == (wanted.st_dev, wanted.st_ino)
    except OSError:
        is_handed = False
    if is_handed:
        fd = LOCK_FD
        os.set_inheritable(fd, False)
    else:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.001)
        else:
            try:
                os.pwrite(fd, b"%-10d\n" % os.getpid(), 0)
            except OSError:
                return fd  # a full disk: the server knows our pid, and the lock tells the rest
            return fd


def widen_pipe(fd: int) -> None:
    """Let the pipe hold more (Linux). Where the user's share of pipe memory is spent, it is only slower."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            return


def read_whole(path: str) -> bytes | None:
    """The content of a file; None where it cannot be read. A process that is gone is an ordinary case."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        content = batch = os.read(fd, 16384)
        while len(batch) > 0 and len(content) >= 16384:
            batch = os.read(fd, READ_BYTES)
            content += batch
        return content
    except OSError:
        return None
    finally:
        os.close(fd)


def write_file(path: str, content: bytes) -> None:
    """Write a small file anew."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def sync_folder(folder: str) -> None:
    """Put the names of the files in `folder` on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_json(path: str) -> Any:
    """The object in a JSON file; None where there is none."""
    content = read_whole(path)
    if content is None:
        return None
    try:
        found: Any = scan_json(content.decode())
    except (ValueError, StopIteration, SystemError):
        # SystemError: the scanner lacks the exception of `json` that it wants to raise.
        return None
    return found if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType]


def scan_json(text: str) -> Any:
    """Parse JSON with the C scanner alone."""
    settings: Any = JsonSettings()
    scanner: Callable[[str, int], tuple[Any, int]] = _json.make_scanner(settings)
    return scanner(text, len(text) - len(text.lstrip()))[0]


class JsonSettings:
    """What the C scanner asks of a `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float

    def __init__(self) -> None:
        self.memo: dict[str, str] = {}


def to_json(facts: dict[str, Any]) -> bytes:
    """A flat object of strings, numbers, booleans, nulls and lists of integers, as JSON."""

    def value(item: Any) -> str:
        if item is None:
            return "null"
        if isinstance(item, bool):
            return "true" if item else "false"
        return _json.encode_basestring_ascii(item) if isinstance(item, str) else repr(item)

    return ("{" + ", ".join(f'"{name}": {value(item)}' for name, item in facts.items()) + "}").encode()


def spawn_error(error: Exception, spec: dict[str, Any]) -> str:
    """Why the program could not be started, for a person."""
    if not isinstance(error, OSError):
        return f"the program could not be started: {error}"
    code = errno.errorcode.get(error.errno or 0, "?")
    what = "cwd" if error.filename == spec["cwd"] else "program"
    return f"{what}: {error.strerror} ({code}, errno {error.errno}): {error.filename!r}"


def log(error: BaseException) -> None:
    """Into supervisor.log, with the traceback."""
    sys.excepthook(type(error), error, error.__traceback__)


def wall_microseconds() -> int:
    """The time of day, in integer microseconds since 1970."""
    return time.time_ns() // 1000


def main(arguments: list[str]) -> int:
    """Take the lock and do what `arguments` say. Returns the exit code."""
    born_at = time.monotonic()
    os.closerange(LOCK_FD + 1, min(os.sysconf("SC_OPEN_MAX"), 65536))
    signals = Signals()
    folder = os.path.abspath(arguments[0])
    os.chdir("/")
    spec = read_json(f"{folder}/spec.json")
    if spec is None:
        return 2
    lock = take_lock(folder)
    if lock is None:
        return 3
    if os.path.exists(f"{folder}/status.json"):
        return 4
    if arguments[1:] == ["sweep"]:
        return sweep(folder, spec, signals, born_at)
    return Supervisor(folder, spec, signals, born_at).run()


if __name__ == "__main__":
    exit_code = 1
    try:
        exit_code = main(sys.argv[1:])
    except BaseException as error:  # noqa: BLE001  # for supervisor.log
        log(error)
    # Skips the teardown of the interpreter, which nobody needs here.
    os._exit(exit_code)
