"""What was measured, beside what, and against which goal; shown as a table or as JSON.

A goal that is missed is shown, never raised: on a shared machine a slow second proves nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MILLISECONDS = 1000.0


@dataclass(frozen=True, slots=True)
class Goal:
    """`statistic` is median, p95, p99 or max; the figure may not be above `limit`, in its unit."""

    statistic: str
    limit: float


@dataclass(frozen=True, slots=True)
class Series:
    """What was measured of one thing."""

    name: str
    samples: Sequence[float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One promise: what was measured of us, and of others in the same run.

    `larger_is_better`: a rate, of which p5 and p1 are shown for p95 and p99.
    """

    what: str
    unit: str
    samples: Sequence[float]
    goals: Sequence[Goal] = ()
    beside: Sequence[Series] = ()
    note: str = ""
    larger_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What one script found, and how busy the machine was before and after (load average of a minute)."""

    script: str
    figures: Sequence[Figure]
    load_before: float
    load_after: float
    seconds: float
    machine: dict[str, Any] = field(default_factory=dict)


def statistic(samples: Sequence[float], name: str) -> float:
    """Median, max, or a percentile by nearest rank (of 20 samples p99 is the largest)."""
    ordered = sorted(samples)
    if name == "median":
        return statistics.median(ordered)
    if name == "max":
        return ordered[-1]
    rank = -(-len(ordered) * int(name.removeprefix("p")) // 100)
    return ordered[max(0, rank - 1)]


def alternate(rounds: int, *measured: Callable[[], float], warm_up: int = 1) -> list[list[float]]:
    """Samples of each of `measured`, taken in turns, so that what else the machine does falls on all of them.

    Every second round goes backwards: none of them always comes after the same other.
    """
    samples: list[list[float]] = [[] for _ in measured]
    for number in range(-warm_up, rounds):
        order = list(zip(measured, samples, strict=True))
        for measure, kept in order[:: -1 if number % 2 else 1]:
            sample = measure()
            if number >= 0:
                kept.append(sample)
    return samples


def timed(work: Callable[[], Any]) -> Callable[[], float]:
    """`work`, as something that returns how many milliseconds it took."""

    def measure() -> float:
        begin = time.perf_counter()
        work()
        return (time.perf_counter() - begin) * MILLISECONDS

    return measure


def options(description: str | None, minutes: float | None = None) -> argparse.Namespace:
    """The arguments that all scripts take. `minutes`: the default of those that also take for how long."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print every sample as JSON")
    parser.add_argument("--quick", action="store_true", help="a few rounds: shows that it runs, not how fast")
    if minutes is not None:
        parser.add_argument("--minutes", type=float, default=minutes, help=f"for how long (default {minutes:g})")
    return parser.parse_args()


def script(measure: Callable[[bool], list[Figure]]) -> None:
    """The command line of one script. `measure` takes whether to be quick."""
    end_in_order_when_told()
    given = options(sys.modules[measure.__module__].__doc__)
    _report(measure.__module__, lambda: measure(given.quick), as_json=given.json)


def script_of_minutes(measure: Callable[[float], list[Figure]], minutes: float, quick_minutes: float) -> None:
    """The command line of a script that works for a time. `measure` takes the minutes."""
    end_in_order_when_told()
    given = options(sys.modules[measure.__module__].__doc__, minutes)
    wanted = quick_minutes if given.quick else given.minutes
    _report(measure.__module__, lambda: measure(wanted), as_json=given.json)


def _report(module: str, measure: Callable[[], list[Figure]], *, as_json: bool) -> None:
    begin, load = time.monotonic(), os.getloadavg()[0]
    figures = measure()
    name = os.path.basename(str(sys.modules[module].__file__)).removesuffix(".py")
    report = Report(name, figures, load, os.getloadavg()[0], time.monotonic() - begin, machine())
    print(json.dumps(asdict(report)) if as_json else shown([report]))


def end_in_order_when_told() -> None:
    """SIGTERM unwinds like Ctrl-C, so that the servers that we started end too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def report_of(loaded: dict[str, Any]) -> Report:
    """A report from its JSON."""
    figures = [
        Figure(
            **figure
            | {
                "goals": [Goal(**goal) for goal in figure["goals"]],
                "beside": [Series(**series) for series in figure["beside"]],
            }
        )
        for figure in loaded["figures"]
    ]
    return Report(**loaded | {"figures": figures})


HEADINGS = ("what", "goal", "median", "p95", "p99", "n", "beside", "its median", "ratio")


def shown(reports: Sequence[Report]) -> str:
    """One table of all figures, as Markdown, and what they were taken on."""
    rows = [HEADINGS, tuple("-" for _ in HEADINGS)]
    notes: list[str] = []
    for report in reports:
        for figure in report.figures:
            rows += _rows(figure)
            if figure.note:
                notes.append(f"{figure.what}: {figure.note}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    lines[1] = f"| {' | '.join('-' * width for width in widths)} |"
    loads = ", ".join(f"{report.script} {report.load_before:.1f}-{report.load_after:.1f}" for report in reports)
    facts = ", ".join(f"{name} {value}" for name, value in (reports[0].machine if reports else {}).items())
    return "\n".join([*lines, "", *notes, f"Machine: {facts}.", f"Load before and after: {loads}."])


def _rows(figure: Figure) -> list[tuple[str, ...]]:
    median = statistic(figure.samples, "median")
    goals = ", ".join(_goal(figure, goal) for goal in figure.goals) or "-"
    # The bad end of a rate is the low one.
    ends = ("median", "p5", "p1") if figure.larger_is_better else ("median", "p95", "p99")
    numbers = [f"{_number(statistic(figure.samples, name))} {figure.unit}" for name in ends]
    if len(figure.samples) == 1:
        numbers[1:] = ["-", "-"]
    first = (figure.what, goals, *numbers, str(len(figure.samples)))
    empty = ("",) * len(first)
    beside = [_beside(series, median, figure.unit) for series in figure.beside] or [("-", "-", "-")]
    return [(*(first if number == 0 else empty), *cells) for number, cells in enumerate(beside)]


def _goal(figure: Figure, goal: Goal) -> str:
    met = statistic(figure.samples, goal.statistic) <= goal.limit
    name = "" if goal.statistic in ("median", "max") else f"{goal.statistic} "
    return f"{name}<= {_number(goal.limit)} {'met' if met else 'MISSED'}"


def _beside(series: Series, median: float, unit: str) -> tuple[str, str, str]:
    other = statistic(series.samples, "median")
    ratio = f"{median / other:.2f}" if other else "-"
    return series.name, f"{_number(other)} {unit}", ratio


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"
