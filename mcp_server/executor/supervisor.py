"""The supervisor of one attempt: a process that runs one program, keeps its output, and ends all of its tree.

    python -I -S supervisor.py ATTEMPT_FOLDER            run what spec.json says
    python -I -S supervisor.py ATTEMPT_FOLDER sweep      end what a supervisor that was killed left behind
    python -I -S supervisor.py / probe                   exit with 0 where pid namespaces can be had, else with 5

It needs nothing from the server that started it, so it goes on when that server dies: the bell is a hint that may be
lost, and everything that counts is in the folder. `attempt_folder.py` is the other side of it.

Exit codes: 0 the end is in status.json; 1 it could not be written; 2 there is no readable spec; 3 another process holds
the lock; 4 the attempt has ended before; 5 no pid namespace. SIGTERM and SIGINT cancel. SIGHUP is ignored: it says that
a terminal is gone, and a terminal that closes is not a user who cancels.

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
QUIET_LOOKS = 20
"""So many looks in a row must find nobody before a sweep that can prove nothing believes that nobody is left."""
MEMORY_LOOK_SECONDS = 1.0
LOOK_SECONDS = 0.02
"""How often we look for processes that are not below us: their end sends us no signal."""
FREEZE_ROUNDS = 100
FINAL_DRAIN_SECONDS = 1.0
YOUNG_SECONDS = 1.0
"""Within this time pids cannot have wrapped around, so all that is new lies between our pid and the last one."""
ERROR_CHARACTERS = 1000
SURVIVORS_LISTED = 200
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
MS_SLAVE_RECURSIVELY = 0x4000 | 0x80000
NO_NAMESPACE = 5
REPORT_BYTES = 8192


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
        self.init: int | None = None
        """The first process of the pid namespace, if there is one. All of the tree ends with it."""
        self._needle = f"\0{COOKIE_NAME}={cookie}\0".encode()
        self._born_at = born_at
        self._has_proc = proc_is_ours()

    @property
    def provable(self) -> bool:
        """Whether we would know of every process of the tree."""
        return self.init is not None or (self.is_subreaper and self._has_proc)

    @property
    def containment(self) -> str:
        """By what the tree is held together."""
        if self.init is not None:
            return "pid_namespace"
        return "subreaper" if self.is_subreaper else "process_groups"

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

    def memory_bytes(self, enough: int) -> int:
        """What all members hold in memory together. Exact only above `enough`: the exact way is slow."""
        pids = self.members()
        fields = [(read_whole(f"/proc/{pid}/statm") or b"0 0 0").split() for pid in pids]
        page = os.sysconf("SC_PAGE_SIZE")
        # Not what lies in files; what is shared by a fork counts twice here.
        total = sum(int(resident) - int(shared) for _, resident, shared, *_ in fields) * page
        if total <= enough:
            return total
        return sum(proportional_bytes(read_whole(f"/proc/{pid}/smaps_rollup") or b"") for pid in pids)

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

        A pid namespace needs none of this: the kernel kills it whole, and its first process goes last.
        """
        if self.init is not None:
            self.signal((self.init,), signal.SIGKILL)
            return
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
        self.reports: int | None = None
        """Where the first process of the namespace tells how the program ended."""
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
        self.memory_look_at = 0.0
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
        try:
            # posix_spawn cannot change the folder. We have one thread, so we may go there ourselves.
            os.chdir(self.spec["cwd"])
            self.started_at = wall_microseconds()
            if self.spec.get("pid_namespace"):
                self.spawn_in_namespace()
            else:
                self.child = self.spawn_program()
        except (OSError, ValueError, TypeError, IndexError) as error:
            self.cannot_start(spawn_error(error, self.spec))
        finally:
            os.chdir("/")
            for stream in self.streams:
                os.close(stream.write_end)
        return self.child is not None

    def cannot_start(self, why: str) -> None:
        """Nothing runs, and that is certain."""
        self.outcome = "spawn_failed"
        self.error = why
        self.verified = True

    def spawn_program(self) -> int:
        """Start the program as a child of this process."""
        spec = self.spec
        env = {COOKIE_NAME: spec["cookie"]} | {k: v for k, v in spec["env"].items() if k != COOKIE_NAME}
        given = f"{self.folder}/stdin"
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, given if os.path.exists(given) else os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, stream.write_end, fd) for fd, stream in enumerate(self.streams, 1)),
        ]
        everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        limit_ourselves(spec.get("nice", 0), spec.get("open_files"))
        return os.posix_spawn(
            spec["argv"][0],
            spec["argv"],
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=everything,
        )

    def spawn_in_namespace(self) -> None:
        """Start the program under a first process of its own pid namespace, and learn whether it runs."""
        self.reports, report_end = os.pipe()
        enter_namespace()
        init = os.fork()
        if init == 0:
            os.close(self.reports)  # so that the pipe breaks with the supervisor
            run_as_init(self.spawn_program, report_end, self.spec)
        os.close(report_end)
        os.set_blocking(self.reports, True)
        first = os.read(self.reports, REPORT_BYTES)  # comes after the spawn; empty: init is gone
        os.set_blocking(self.reports, False)
        self.tree.init = init
        if first.startswith(b"started"):
            self.child = first_child_of(init) or init
            self.heard(first.partition(b"\n")[2])
            return
        os.waitpid(init, 0)
        self.tree.init = None
        self.cannot_start(first.partition(b" ")[2].decode(errors="replace") or "the pid namespace could not be set up")

    def hear(self) -> None:
        """Take what the first process of the namespace reports."""
        if self.reports is None:
            return
        try:
            said = os.read(self.reports, REPORT_BYTES)
        except BlockingIOError:
            return
        if said:
            self.heard(said)
        else:
            os.close(self.reports)
            self.reports = None

    def heard(self, said: bytes) -> None:
        """`ended STATUS`: the program has ended; others of its namespace may live on."""
        word, _, status = said.strip().partition(b" ")
        if word == b"ended" and self.wait_status is None:
            self.wait_status = int(status)

    def write_supervisor_file(self) -> None:
        """Say who we are and whom we started. A full disk is no reason to end the child."""
        facts = {"pid": os.getpid(), "child_pid": self.child, "started_at": self.started_at}
        if self.tree.init is not None:
            facts["pid_namespace"] = namespace_of(self.tree.init)
            facts["init_pid"] = self.tree.init
            facts["init_started"] = start_ticks(self.tree.init)
        text = to_json(facts)
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
        if self.reports is not None:
            poller.register(self.reports, select.POLLIN)
        childless = False
        while True:
            for fd, _ in poller.poll(self.patience(childless)):
                if stream := self.open_streams.get(fd):
                    self.pump(stream, poller)
                elif fd == self.reports:
                    self.hear()
                    if self.reports is None:
                        poller.unregister(fd)
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
            self.hear()
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
        limit = self.spec.get("memory_limit_bytes")
        if limit and now >= self.memory_look_at:
            self.memory_look_at = now + MEMORY_LOOK_SECONDS
            if self.tree.memory_bytes(limit) > limit:
                return "memory_limit"
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
            if self.spec.get("memory_limit_bytes"):
                deadline = min(deadline, self.memory_look_at)
            if self.signals.cancelled or self.wait_status is not None:
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
            if pid == self.tree.init:
                self.hear()  # its last words, if it had any before it was killed
            if pid in (self.child, self.tree.init) and self.wait_status is None:
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
                "contained": self.tree.containment,
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

    What lived in a pid namespace died with its first process: that this one is gone proves it. Elsewhere the orphans
    belong to init now: the cookie finds them, except those that cleared their environment, and `verified` stays false.
    """
    tree = Tree(spec["cookie"], born_at)
    started: Any = read_json(f"{folder}/supervisor.json") or {}
    namespaced = started.get("pid_namespace") is not None and started.get("init_started") is not None
    deadline = time.monotonic() + KILL_SECONDS
    # One who forks and goes may slip through a look; through many it does not.
    looks = 1 if namespaced else QUIET_LOOKS
    quiet = 0
    while True:
        found = lost_members(tree, started)
        quiet = 0 if found else quiet + 1
        if quiet >= looks or time.monotonic() > deadline:
            break
        tree.signal((-group for group in tree.groups), signal.SIGSTOP)
        tree.signal(found, signal.SIGSTOP)
        if found:
            found |= lost_members(tree, started)
        tree.signal((-group for group in tree.groups), signal.SIGKILL)
        tree.signal(found, signal.SIGKILL)
        select.select([signals.fd], [], [], KILL_PAUSE_SECONDS)
        signals.drain()
    facts: dict[str, Any] = {"outcome": "lost", "returncode": None, "error": "the supervisor was killed"}
    for name in ("stdout", "stderr"):
        path = f"{folder}/{name}"
        facts[f"{name}_bytes"] = os.path.getsize(path) if os.path.exists(path) else 0
        facts[f"{name}_dropped"] = 0
    facts["started_at"] = started.get("started_at")
    facts["finished_at"] = wall_microseconds()
    facts["survivors"] = sorted(found)[:SURVIVORS_LISTED]
    facts["contained"] = "pid_namespace" if namespaced else tree.containment
    facts.update(verified=namespaced and not found, user_seconds=0.0, system_seconds=0.0, max_rss_kb=0)
    # Not before all of it is ended: for that no room on the disk is needed.
    written = EndRecord(folder).write(facts)
    Bell(spec.get("bell"), spec["attempt"]).ring("end")
    return 0 if written else 1


def lost_members(tree: Tree, started: dict[str, Any]) -> set[int]:
    """Cookie holders and members of the pid namespace, with all that lives below them or in a session of theirs.

    Their process groups are remembered in the tree: a signal to a group also reaches who forks and goes.
    """
    has_proc = proc_is_ours()
    groups: set[int] = set()
    found: set[int] = set()
    # The newest first: where each forks the next one and goes, only the newest is still there when we look.
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True) if has_proc else ():
        if tree.cookie_holders((pid,)):
            found.add(pid)
            try:
                groups.add(os.getpgid(pid))
            except OSError:
                continue
    table = process_table(has_proc)
    # A group whose leader lives and is none of ours would be somebody else's; 0 and 1 would be everybody.
    tree.groups |= {each for each in groups if each > 1 and (each in found or each not in table or not table[each][2])}
    tree.groups.discard(os.getpgid(0))
    init = started.get("init_pid")
    if init in table and table[init][2] and start_ticks(init) == started.get("init_started"):
        # Only while that process lives: then the number of the namespace is given to the next one that is made.
        found |= {pid for pid in table if namespace_of(pid) == started["pid_namespace"]}
    grew = True
    while grew:
        more = {pid for pid, (parent, group, _) in table.items() if parent in found or group in found}
        grew = not more <= found
        found |= more
    return {pid for pid in found if pid != tree.root and pid in table and table[pid][2]}


def become_subreaper() -> bool:
    """Have orphans among our descendants given to us (Linux). False where the system cannot do that."""
    return call_libc("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def call_libc(name: str, *arguments: int | bytes) -> bool:
    """Call a function of the C library that returns 0 for success. False as well where there is no such function."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import _ctypes  # not everywhere built

        itself: Any = None  # what is loaded already; the stubs do not know that it may be None
        return _ctypes.call_function(_ctypes.dlsym(_ctypes.dlopen(itself, 0), name), arguments) == 0
    except (ImportError, AttributeError, OSError):
        return False


def proportional_bytes(rollup: bytes) -> int:
    """The memory of one process, what it shares counted in parts (`smaps_rollup`); 0 where it is gone."""
    _, _, after = rollup.partition(b"\nPss:")
    return int(after.split()[0]) * 1024 if after else 0


def limit_ourselves(nice: int, open_files: int | None) -> None:
    """For us and all that we start from now on. What the system does not allow stays as it is."""
    import resource  # with the program's start still to come, a millisecond here is one that nobody waits for twice

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if nice:
        os.nice(nice)
    if open_files is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted = open_files if hard == resource.RLIM_INFINITY else min(open_files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))


def enter_namespace() -> None:
    """Have our next child be the first process of a pid namespace. An ordinary user needs a user namespace for that.

    Raises:
        OSError: the system does not allow it.
    """
    if os.geteuid() == 0:
        if not call_libc("unshare", CLONE_NEWPID):
            raise OSError(errno.EPERM, "no pid namespace can be made")
        return
    user, group = os.geteuid(), os.getegid()
    if not call_libc("unshare", CLONE_NEWUSER | CLONE_NEWPID):
        raise OSError(errno.EPERM, "no user and pid namespace can be made")
    # The same ids inside as outside: who looks at its own files sees its own name.
    write_file("/proc/self/setgroups", b"deny")
    write_file("/proc/self/uid_map", b"%d %d 1" % (user, user))
    write_file("/proc/self/gid_map", b"%d %d 1" % (group, group))


def run_as_init(spawn: Callable[[], int], reports: int, spec: dict[str, Any]) -> None:
    """Be the first process of the pid namespace: start the program, collect its orphans, report its end. Never returns.

    It dies with the supervisor, and everything in the namespace with it.
    """
    try:
        call_libc("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if is_broken(reports):
            os._exit(1)  # it was killed before we were tied to it
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if not mount_own_proc():
            raise OSError(errno.EPERM, "/proc cannot be mounted in the pid namespace")
        try:
            child = spawn()
        except (OSError, ValueError, TypeError, IndexError) as error:
            os.write(reports, b"failed " + spawn_error(error, spec).encode(errors="replace")[:ERROR_CHARACTERS])
            os._exit(1)
        os.chdir("/")
        os.write(reports, b"started\n")
        # Also the lock: nothing but the supervisor may hold it.
        os.closerange(0, reports)
        os.closerange(reports + 1, 65536)
        collect(child, reports)
    except BaseException as error:  # noqa: BLE001  # a process that forked may not go on as the supervisor
        try:
            os.write(reports, b"failed " + str(error).encode(errors="replace")[:ERROR_CHARACTERS])
        finally:
            os._exit(1)
    os._exit(0)


def collect(child: int, reports: int) -> None:
    """Collect every process of the namespace until none is left; tell how `child` ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return
        if pid == child:
            os.write(reports, b"ended %d\n" % status)


def mount_own_proc() -> bool:
    """Show this pid namespace in /proc, to us and what we start alone. What others mount later is still seen here."""
    return (
        call_libc("unshare", CLONE_NEWNS)
        and call_libc("mount", b"none", b"/", 0, MS_SLAVE_RECURSIVELY, 0)
        and call_libc("mount", b"proc", b"/proc", b"proc", MS_NOSUID_NODEV_NOEXEC, 0)
    )


def first_child_of(pid: int) -> int | None:
    """The pid, as we see it, of the first child of `pid`."""
    children = read_whole(f"/proc/{pid}/task/{pid}/children")
    if children is None:  # not every kernel has it
        return next((each for each, (parent, _, _) in table_from_proc().items() if parent == pid), None)
    return int(children.split()[0]) if children.split() else None


def start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot: with its pid it names a process for good. None where it is gone.

    Only where there is /proc.
    """
    stat = read_whole(f"/proc/{pid}/stat")
    return int(stat[stat.rindex(b")") + 2 :].split()[19]) if stat else None


def is_broken(pipe: int) -> bool:
    """Whether nobody reads from this end of a pipe any more."""
    poller = select.poll()
    poller.register(pipe, 0)
    return bool(poller.poll(0))


def namespace_of(pid: int) -> int | None:
    """The number of the pid namespace of a process; None where it is gone or not ours to look at."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def probe() -> int:
    """Try a pid namespace with a process in it."""
    reports, report_end = os.pipe()
    try:
        enter_namespace()
        init = os.fork()
    except OSError:
        return NO_NAMESPACE
    if init == 0:
        run_as_init(lambda: os.posix_spawn(sys.executable, [sys.executable, "-V"], {}), report_end, {"cwd": "/"})
    os.close(report_end)
    works = os.read(reports, REPORT_BYTES).startswith(b"started")
    os.waitpid(init, 0)
    return 0 if works else NO_NAMESPACE


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
    if arguments[1:] == ["probe"]:
        return probe()
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
