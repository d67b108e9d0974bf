"""What an attempt's end is written down as: its outcome, judged by the agent, and the tails of its output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, cast

from mcp_server.agent import Agent, Exit, Outcome, WorkOrder
from mcp_server.agents.coding_report import report_of
from mcp_server.attempts import Ending
from mcp_server.executor.attempt_folder import AttemptFolder, OutputName, Status
from mcp_server.tasks import USED, Task

TAIL_LIMIT_BYTES = 16 * 1024
"""Of each stream in a result. The rest is read with get_task from an offset."""

REPORTED_LIMIT_BYTES = 64 * 1024
"""Of each field that an agent reports beside its answer: a list is cut, and it is said how many are left out."""

QuotaAt = Callable[[float | None], int]
"""When to go on (microseconds) where the agent says this of its quota (seconds since 1970, None: nothing)."""

UNPROVEN = "Whether all of its processes ended could not be proven."
PROVEN = "Nothing of it is running."

JUDGED_LIMIT_BYTES = 256 * 1024
"""What the agent sees of each stream when it judges."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The last part of a stream, and where in the stream it begins."""

    text: str
    offset: int


def tail(folder: AttemptFolder, stream: OutputName, size: int, limit: int) -> Tail:
    """The last `limit` bytes as text; bad bytes are replaced, and no character is cut in two."""
    start = max(0, size - limit)
    data = folder.read(stream, start, limit)
    if start:
        whole = next((index for index, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
        data, start = data[whole:], start + whole
    return Tail(data.decode(errors="replace"), start)


def ending_of(
    task: Task,
    agent: Agent,
    order: WorkOrder,
    folder: AttemptFolder,
    status: Status,
    retry_at: int | None,
    *,
    records: tuple[Mapping[str, Any], ...] = (),
    quota_at: QuotaAt | None = None,
) -> Ending:
    """The end of an attempt whose supervisor left a status. `retry_at`: when to try again if that may help."""
    stdout = tail(folder, "stdout", status.stdout_bytes, JUDGED_LIMIT_BYTES)
    stderr = tail(folder, "stderr", status.stderr_bytes, JUDGED_LIMIT_BYTES)
    assert status.outcome != "lost"  # an attempt that nobody saw end has nothing to judge
    ended = Exit(
        how=status.outcome,
        returncode=status.returncode,
        stdout=stdout.text,
        stderr=stderr.text,
        truncated=bool(stdout.offset or stderr.offset or status.stdout_dropped or status.stderr_dropped),
        error=status.error,
        records=records,
    )
    outcome = _judged(task, agent, order, ended, status)
    details = {
        "verified": status.verified,
        "contained": status.contained,
        "survivors": list(status.survivors),
        "user_seconds": status.user_seconds,
        "system_seconds": status.system_seconds,
        "max_rss_kb": status.max_rss_kb,
        "outcome": status.outcome,
    }
    if status.survivors:
        outcome = Outcome(
            completed=False,
            text=f"{outcome.text}\nProcesses of this task are still alive: {list(status.survivors)}.".strip(),
            say="Processes of the task could not be stopped. Look at it on your machine.",
            reason="stop_failed",
        )
    if outcome.pause is not None:
        return _paused(outcome, _result(folder, status, outcome), status, details, quota_at)
    again = retry_at if outcome.may_pass and not outcome.completed else None
    cancelled = status.outcome == "cancelled" and not status.survivors
    return Ending(
        status="completed" if outcome.completed else "cancelled" if cancelled else "failed",
        reason=outcome.reason,
        result=_result(folder, status, outcome),
        returncode=status.returncode,
        retry_at=again,
        details=details,
    )


def reported(
    ending: Ending, records: tuple[Mapping[str, Any], ...], earlier: Iterable[Mapping[str, Any]], **more: Any
) -> Ending:
    """The same with what the agent reported, however it ended. What was used counts from the first attempt on."""
    report, earlier = report_of(records), list(earlier)
    if not report and not earlier and not more:
        return ending
    total: dict[str, Any] = {}
    for name in USED:
        counts = [each[name] for each in (*earlier, report) if each.get(name) is not None]
        total |= {name: sum(counts)} if counts else {}
    result = _shortened(report | dict(ending.result) | total | more)
    return replace(ending, result=result, details=dict(ending.details) | {"report": _shortened(report)})


def _shortened(fields: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, list):
            items = cast(list[Any], value)
            sizes = accumulate(len(json.dumps(item)) for item in items)
            count = sum(1 for size in sizes if size <= REPORTED_LIMIT_BYTES)
            kept[name] = items[:count]
            if count < len(items):
                kept[f"{name}_left_out"] = len(items) - count
        elif len(json.dumps(value)) <= REPORTED_LIMIT_BYTES or name in ("text", "stdout", "stderr", "say"):
            kept[name] = value
    return kept


def _paused(
    outcome: Outcome, result: Mapping[str, Any], status: Status, details: Mapping[str, Any], quota_at: QuotaAt | None
) -> Ending:
    """The end of an attempt that is not the end of its task."""
    pause = outcome.pause
    assert pause is not None
    ending = Ending("interrupted", "asks", result, returncode=status.returncode, details=details, pause="asks")
    if pause.ask is not None:
        return replace(ending, ask=pause.ask)
    assert quota_at is not None
    return replace(ending, reason="quota", pause="quota", retry_at=quota_at(pause.until))


def failed(text: str, say: str, reason: str, retry_at: int | None = None) -> Ending:
    """The end of an attempt that left nothing to judge."""
    return Ending("failed", reason, {"text": text, "say": say}, retry_at=retry_at)


def interrupted(say: str, retry_at: int | None = None, *, proven: bool = False) -> Ending:
    """The end of an attempt that nobody saw: its supervisor is gone, and what was found of its tree was ended.

    `proven`: it lived in a pid namespace, which is empty now.
    """
    said = f"{say} {PROVEN if proven else UNPROVEN}"
    result = {"text": said, "say": said, **({} if proven else {"unverified": UNPROVEN})}
    return Ending("interrupted", "interrupted", result, retry_at=retry_at)


def _judged(task: Task, agent: Agent, order: WorkOrder, ended: Exit, status: Status) -> Outcome:
    match ended.how:
        case "exited" | "signaled":
            return agent.judge(order, ended)
        case "timeout":
            text = f"It was ended: it ran longer than {task.timeout_seconds:g} seconds."
            say = f"It took longer than {task.timeout_seconds:g} seconds, so I ended it."
            return Outcome(False, text, say, reason="timeout")
        case "idle_timeout":
            return Outcome(
                False,
                "It was ended: it wrote nothing for too long.",
                "It went silent, so I ended it.",
                reason="idle_timeout",
            )
        case "memory_limit":
            return Outcome(
                False,
                "It was ended: its processes held more memory than memory_limit_mb allows.",
                "It took more memory than you allow, so I ended it.",
                reason="memory_limit",
            )
        case "cancelled":
            proof = PROVEN if status.verified else UNPROVEN
            return Outcome(False, f"Cancelled. {proof}", f"Cancelled. {proof}", reason="cancelled")
        case "spawn_failed":
            return Outcome(
                False,
                f"The program could not be started: {ended.error}",
                "The program could not be started.",
                reason="spawn_failed",
            )


def _result(folder: AttemptFolder, status: Status, outcome: Outcome) -> Mapping[str, Any]:
    stdout = tail(folder, "stdout", status.stdout_bytes, TAIL_LIMIT_BYTES)
    stderr = tail(folder, "stderr", status.stderr_bytes, TAIL_LIMIT_BYTES)
    dropped = status.stdout_dropped + status.stderr_dropped
    return {
        "text": outcome.text[-TAIL_LIMIT_BYTES:],
        "stdout": stdout.text,
        "stderr": stderr.text,
        "returncode": status.returncode,
        "truncated": bool(stdout.offset or stderr.offset or dropped),
        "stdout_offset": stdout.offset,
        "stderr_offset": stderr.offset,
        "stdout_bytes": status.stdout_bytes,
        "stderr_bytes": status.stderr_bytes,
        **({"dropped_bytes": dropped} if dropped else {}),
        **({} if status.verified else {"unverified": UNPROVEN}),
        **outcome.details,
        "say": outcome.say,
    }
