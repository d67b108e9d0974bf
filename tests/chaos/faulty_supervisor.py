"""Makes supervisors that fail at one chosen step: the product's own source behind a few replaced functions of `os`.

A step is a call that changes the disk or starts a process. Nothing in the product knows of this.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from mcp_server.executor.attempt_folder import SUPERVISOR_SOURCE

Fault = Literal["killed_before", "killed_after", "no_space", "slow"]

STEPS = ("open", "write", "pwrite", "fsync", "rename", "posix_spawn", "fork")
SLOW_SECONDS = 0.03

PRELUDE = """
import errno, os, sys, time
PLAN = {plan}
real = {{name: getattr(os, name) for name in PLAN["steps"]}}
supervisor, count = os.getpid(), 0

def die():
    os.kill(supervisor, 9)

def faulty(name):
    def step(*arguments, **options):
        global count
        reads = name == "open" and not arguments[1] & os.O_CREAT
        if os.getpid() != supervisor or reads:
            return real[name](*arguments, **options)
        count += 1
        if PLAN["log"]:
            log = real["open"](PLAN["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            real["write"](log, b"%s\\n" % name.encode())
            os.close(log)
        hit = count == PLAN["at"]
        if PLAN["fault"] == "slow":
            time.sleep(PLAN["slow"])
        if hit and PLAN["fault"] == "killed_before":
            die()
        disk = name in ("open", "write", "pwrite", "fsync", "rename")
        if count >= PLAN["at"] > 0 and disk and PLAN["fault"] == "no_space":
            raise OSError(errno.ENOSPC, "No space left on device", arguments[0])
        result = real[name](*arguments, **options)
        if hit and PLAN["fault"] == "killed_after":
            if name == "fork" and result == 0:
                time.sleep(PLAN["slow"])  # its parent is dead before it does anything
            else:
                die()
        return result
    return step

for name in PLAN["steps"]:
    setattr(os, name, faulty(name))
source = {source!r}
with open(source, "rb") as file:
    exec(compile(file.read(), source, "exec"))
"""


def faulty_supervisor(
    folder: Path, fault: Fault, at: int, *, log: Path | None = None, steps: tuple[str, ...] = STEPS
) -> Path:
    """A supervisor whose `at`-th step (from 1) goes wrong; `no_space` and `slow` hold for all steps from then on.

    `log` gets the name of each step. `at=0` never goes wrong.
    """
    plan = {"fault": fault, "at": at, "slow": SLOW_SECONDS, "steps": steps, "log": str(log) if log else ""}
    path = folder / f"supervisor-{fault}-{at}.py"
    path.write_text(PRELUDE.format(plan=repr(json.loads(json.dumps(plan))), source=str(SUPERVISOR_SOURCE)))
    return path


def dies_in_its_first_sweep(folder: Path) -> Path:
    """A supervisor that works, but the first one that is told to sweep is killed before it has done anything."""
    path, done = folder / "supervisor-first-sweep.py", folder / "swept-once"
    path.write_text(
        "import os, sys\n"
        f"if sys.argv[2:] == ['sweep'] and not os.path.exists({str(done)!r}):\n"
        f"    os.mkdir({str(done)!r})\n"
        "    os.kill(os.getpid(), 9)\n"
        f"source = {str(SUPERVISOR_SOURCE)!r}\n"
        "with open(source, 'rb') as file:\n"
        "    exec(compile(file.read(), source, 'exec'))\n"
    )
    return path
