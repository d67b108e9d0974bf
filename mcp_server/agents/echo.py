"""The agent for trying things out: it answers what it was told, slowly, with output, failure or questions on request.

It needs no account, no network and no workspace, so that every tool can be tried offline.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_server.agent import Availability, Checked, Exit, Invocation, Outcome, WorkOrder, task_environment
from mcp_server.agents.params import refuse_unknown
from mcp_server.errors import InvalidError
from mcp_server.spoken import spoken

PROGRAM = Path(__file__).with_name("echo_program.py")
SLEEP_SECONDS = 3600.0
LINES = 1_000_000
FLAKY_ATTEMPTS = 100
TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h: the way in which a flaky echo fails."""
EARLIER_SHOWN = 4
EARLIER_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class EchoParams:
    """What may be asked for beside the echo."""

    sleep: float = 0.0
    lines: int = 0
    stderr: str = ""
    fail: str | None = None
    exit_code: int = 0
    ask: str | None = None
    flaky: int = 0


class EchoAgent:
    """Answers the description. In a conversation it also says what came before."""

    name = "echo"
    title = "Echo"
    description = (
        "Answers what it was told, for trying things out. params, all optional: sleep (seconds), lines (numbered "
        "output), stderr (text), fail (true or a text), exit_code, ask (a question), flaky (attempts that fail first)."
    )
    default_timeout_seconds = 60.0
    default_limit: int | None = None
    needs_workspace = False
    continues = True

    def availability(self) -> Availability:
        return Availability(installed=True)

    def look(self) -> None:
        """There is nothing to look for."""

    def check(self, order: WorkOrder) -> Checked:
        _read(order.params)
        return Checked(argv=(self.name,), reads_only=True)

    def invocation(self, order: WorkOrder) -> Invocation:
        asked = _read(order.params)
        told = {
            "answer": "" if _exit_code(order, asked) else _answer(order) + "\n",
            "sleep": asked.sleep,
            "lines": asked.lines,
            "stderr": "".join(f"{text}\n" for text in (asked.stderr, _complaint(order, asked)) if text),
            "exit_code": _exit_code(order, asked),
        }
        return Invocation(
            argv=(sys.executable, "-I", "-S", str(PROGRAM)),
            cwd=order.cwd or Path("/"),
            env=task_environment(),
            stdin=json.dumps(told),
        )

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        asked = _read(order.params)
        if ended.how != "exited" or ended.returncode != 0:
            last = ended.stderr.strip().rpartition("\n")[2] or f"exit code {ended.returncode}"
            return Outcome(
                completed=False,
                text=ended.stderr.strip() or ended.stdout.strip(),
                say=spoken(f"Echo failed: {last}"),
                reason="signal" if ended.how == "signaled" else "exit_code",
                may_pass=order.attempt <= asked.flaky,
            )
        if asked.ask is not None:
            details = {"question": asked.ask}
            return Outcome(completed=True, text=asked.ask, say=spoken(f"Echo asks: {asked.ask}"), details=details)
        answer = _answer(order)
        return Outcome(completed=True, text=answer, say=spoken(answer) or "Echo was told nothing.")


def _exit_code(order: WorkOrder, asked: EchoParams) -> int:
    if order.attempt <= asked.flaky:
        return TRY_AGAIN
    return asked.exit_code or (1 if asked.fail is not None else 0)


def _complaint(order: WorkOrder, asked: EchoParams) -> str:
    if order.attempt <= asked.flaky:
        return f"attempt {order.attempt} fails, as the first {asked.flaky} were told to"
    return asked.fail or ""


def _answer(order: WorkOrder) -> str:
    asked = _read(order.params)
    if asked.ask is not None:
        return asked.ask
    if not order.earlier:
        return order.description
    # First lines only: an answer that repeats whole answers would double with every turn.
    shown = [text.strip().partition("\n")[0][:EARLIER_CHARACTERS] for text in order.earlier[-EARLIER_SHOWN:]]
    return "\n".join([order.description, "", "Before that:", *(f"- {line}" for line in shown)])


def _read(params: Mapping[str, Any]) -> EchoParams:
    """The parameters, checked.

    Raises:
        InvalidError: one is unknown, or has a value that cannot be used.
    """
    refuse_unknown(params, tuple(_READERS))
    given = {name: _READERS[name](name, value) for name, value in params.items() if value is not None}
    return EchoParams(**given)


def _number(low: float, high: float, *, whole: bool = True) -> Callable[[str, object], float]:
    def read(name: str, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            if not whole:
                return value
            if value == int(value):
                return int(value)
        kind = "A whole number" if whole else "A number"
        fix = f"{kind} from {low:g} to {high:,.0f} is due."
        raise _refused(name, f"{name} cannot be {str(value)[:100]!r}.", fix)

    return read


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refused(name, f"{name} is not a text.", "Give a string.")
    return value


def _failure(name: str, value: object) -> str | None:
    if isinstance(value, bool):
        return "It was told to fail." if value else None
    if not isinstance(value, str):
        raise _refused(name, f"{name} is neither true nor a text.", "Give true, or what to complain about.")
    return value


def _refused(name: str, message: str, fix: str) -> InvalidError:
    return InvalidError(message, field=f"params.{name}", fix=fix)


_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "sleep": _number(0, SLEEP_SECONDS, whole=False),
    "lines": _number(0, LINES),
    "stderr": _text,
    "fail": _failure,
    "exit_code": _number(0, 255),
    "ask": _text,
    "flaky": _number(0, FLAKY_ATTEMPTS),
}
