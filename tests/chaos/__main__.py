"""`python -m tests.chaos`: the long form. Prints the seed first, so that a run can be asked for again."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.driver import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000, help="at least so many")
    parser.add_argument("--kills", type=int, default=200, help="of servers and supervisors, at least so many")
    parser.add_argument("--seed", type=int, default=None, help="else drawn")
    parser.add_argument("--namespaces", choices=("auto", "off"), default="auto", help="pid namespaces for the tasks")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the run")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"chaos: seed {seed}, {given.tasks} tasks, {given.kills} kills, namespaces {given.namespaces}", flush=True)
    base = Path(tempfile.mkdtemp(prefix="oh-"))
    try:
        report = asyncio.run(
            run(base, seed=seed, tasks=given.tasks, kills=given.kills, namespaces=given.namespaces == "auto")
        )
    finally:
        if given.keep:
            print(f"kept: {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    print(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
