"""What the shell tasks of a chaos run do: say that they run, hold a lock as long as anything of them lives, write.

    python -I -S program.py PLAN        the plan as JSON, see `orders.py`

The lock passes to every child, whatever becomes of its session, its parent and its environment. So two attempts of one
task at the same time are seen here, and a task that was called ended while something of it lives is seen by whoever
tries the lock. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time

FOREVER_SECONDS = 200
"""Longer than a run takes after its last stroke, and yet no burden on a machine for ever where the run itself fails."""


def main() -> int:
    plan = json.loads(sys.argv[1])
    name, ledger = plan["name"], plan["ledger"]
    log = os.open(f"{ledger}/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    attempt = os.environ.get("OFFHAND_ATTEMPT", "none")

    def say(word: str) -> None:
        os.write(log, f"{word} {attempt}\n".encode())

    if plan["deaf"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("begin")
    for lock in (name, plan["lane"]):
        if lock is not None and not held(f"{ledger}/{lock}.lock"):
            say(f"overlap-{lock}")
    if plan["mute"]:
        os.close(1)
        os.close(2)
    for child in plan["children"]:
        leave_behind(child)
    if not plan["mute"]:
        write_out(plan["name"], plan["bytes"], plan["seconds"])
    else:
        time.sleep(plan["seconds"])
    say("end")
    return int(plan["exit"])


def held(path: str) -> bool:
    """Take a lock that lives until the last process that has inherited it is gone."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(fd, True)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def leave_behind(kind: str) -> None:
    """A child that would go on (nearly) for ever, and does what it can to be overlooked."""
    if os.fork():
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind in ("session", "cleared", "relay"):
        os.setsid()
    if kind in ("twice", "cleared") and os.fork():
        os._exit(0)
    if kind == "relay":  # each forks the next one and goes
        ends_at = time.monotonic() + FOREVER_SECONDS
        while time.monotonic() < ends_at:
            time.sleep(0.005)
            if os.fork():
                os._exit(0)
        os._exit(0)
    os.execve("/bin/sleep", ["sleep", str(FOREVER_SECONDS)], {} if kind == "cleared" else dict(os.environ))


def write_out(name: str, size: int, seconds: float) -> None:
    """The foretold bytes, spread over `seconds`."""
    content = memoryview(foretold(name, size))
    steps = 20 if seconds else 1
    for step in range(steps):
        part = content[size * step // steps : size * (step + 1) // steps]
        while part:
            part = part[os.write(1, part) :]
        time.sleep(seconds / steps)


def foretold(name: str, size: int) -> bytes:
    """What a task of this name writes. No piece of it is like another, and it is not all UTF-8."""
    width = len(name) + 11
    lines = (b"%s %08d\xff\n" % (name.encode(), number) for number in range(size // width + 1))
    return b"".join(lines)[:size]


if __name__ == "__main__":
    os._exit(main())
