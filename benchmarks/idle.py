"""What a server costs that nobody uses: its memory after the start and after 1,000 calls, and the CPU of idle seconds.

Two clients stay connected, one in each protocol era, and follow a session. Beside the bare SDK's HTTP server, idle in
the same seconds. Needs Linux's /proc.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, Goal, Series, script
from benchmarks.processes import WORKSPACE, bare_http, repository, serving, temporary_folder
from benchmarks.wire import Conversation, over_socket

CALLS = 1000
SETTLE_SECONDS = 2.0


def measure(quick: bool) -> list[Figure]:
    """Figures of an idle server."""
    if not Path("/proc/self/schedstat").exists():
        return []
    seconds = 5.0 if quick else 30.0
    with ExitStack() as stack:
        home, folder = stack.enter_context(temporary_folder()), stack.enter_context(temporary_folder())
        server = stack.enter_context(serving(home, stack.enter_context(repository())))
        bare, _ = stack.enter_context(bare_http(folder))
        ours, other = server.process.pid, bare.pid
        time.sleep(SETTLE_SECONDS)
        at_start, bare_at_start = resident_mb(ours), resident_mb(other)
        lines = stack.enter_context(over_socket(server.mcp_socket))
        _use(lines)
        after_calls = resident_mb(ours)
        for following in (lines, stack.enter_context(over_socket(server.mcp_socket, "modern"))):
            following.follow("session://s")
        time.sleep(SETTLE_SECONDS)
        spent = _spent(ours, other, seconds)
    (cpu, switches), (bare_cpu, bare_switches) = spent
    memory, name = [Series("bare SDK HTTP server", [bare_at_start])], "bare SDK HTTP server, same seconds"
    return [
        Figure("memory after start (RSS)", "MB", [at_start], [Goal("max", 110)], memory),
        Figure(f"memory after {CALLS:,} calls (RSS)", "MB", [after_calls], [Goal("max", 110)], memory),
        Figure(
            f"idle CPU, {seconds:.0f} s, two subscribers",
            "% core",
            [cpu],
            [Goal("max", 0.2)],
            [Series(name, [bare_cpu])],
        ),
        Figure("idle wake-ups", "/s", [switches], beside=[Series(name, [bare_switches])]),
    ]


def _use(lines: Conversation) -> None:
    lines.call("create_session", session_id="s", title="Used")
    for number in range(CALLS // 4):
        lines.call("get_session", session_id="s")
        lines.call("add_conversation", session_id="s", content=f"Chunk {number}. " * 10)
        lines.call("search", query="chunk", limit=5)
        if number % 10:
            lines.call("list_tasks")
        else:
            lines.call("delegate_task", agent="git", params={"command": ["git", "status"]}, workspace=WORKSPACE)


def _spent(ours: int, other: int, seconds: float) -> list[tuple[float, float]]:
    """Percent of a core, and voluntary context switches per second, of each."""
    before = [(cpu_seconds(pid), wake_ups(pid)) for pid in (ours, other)]
    begin = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    after = [(cpu_seconds(pid), wake_ups(pid)) for pid in (ours, other)]
    return [
        ((late[0] - early[0]) / took * 100, (late[1] - early[1]) / took)
        for early, late in zip(before, after, strict=True)
    ]


def resident_mb(pid: int) -> float:
    """Resident memory, MB of 10^6 bytes."""
    return _status(Path(f"/proc/{pid}/status"), "VmRSS") * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """Of all threads that live, in nanoseconds' precision (/proc/PID/stat counts in hundredths)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def wake_ups(pid: int) -> int:
    """Voluntary context switches of all threads that live."""
    return sum(_status(path, "voluntary_ctxt_switches") for path in Path(f"/proc/{pid}/task").glob("*/status"))


def _status(path: Path, name: str) -> int:
    found = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(found.split()[1])


if __name__ == "__main__":
    script(measure)
