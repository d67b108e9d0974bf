"""Runs every benchmark, one after another, each in a process of its own, and prints one table."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

from benchmarks.figures import Report, end_in_order_when_told, options, report_of, shown
from benchmarks.processes import ended

SCRIPTS = (
    "shim_start",
    "server_start",
    "tool_calls",
    "round_trips",
    "webhook",
    "task_start",
    "task_told",
    "supervision",
    "cancel",
    "recovery",
    "task_rate",
    "claim",
    "mixed_load",
    "subscribers",
    "lists_and_search",
    "idle",
    "connections",
    "crowd",
    "tools_list",
    "durable_writes",
    "clones",
)


def main() -> int:
    """0, or 1 where a script failed. A goal that is missed is no failure."""
    given = options(__doc__)
    end_in_order_when_told()
    reports: list[Report] = []
    for name in SCRIPTS:
        print(f"{name} …", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *(["--quick"] if given.quick else [])]
        # Not subprocess.run: after a Ctrl-C it would kill the script before its servers have ended.
        with ended(subprocess.Popen(command, stdout=subprocess.PIPE)) as running:
            said, _ = running.communicate()
        if running.returncode == 0:
            reports.append(report_of(json.loads(said)))
    print(json.dumps([asdict(report) for report in reports]) if given.json else shown(reports))
    return 0 if len(reports) == len(SCRIPTS) else 1


if __name__ == "__main__":
    sys.exit(main())
