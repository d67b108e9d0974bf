"""What an end of Claude Code means: by its result event and its error flags, never by its exit code alone."""

from __future__ import annotations

import time

from mcp_server.drivers.claude_events import Event, text_of, texts
from mcp_server.drivers.job import Job
from mcp_server.drivers.records import Ask, End

BUDGETS = ("error_max_turns", "error_max_budget_usd")


def ended(job: Job, result: Event, stderr: str, limit_until: float | None) -> End:
    """What its result means. `limit_until`: when it said that a limit is reset, in seconds since 1970."""
    text = _answer_of(result)
    if result.get("subtype") in BUDGETS:
        ask = _budget(job, result)
        return End(outcome="asks", text=text or ask.say, say=ask.say, ask=ask)
    if result.get("is_error") is True or result.get("subtype") != "success":
        return _failed(job, result, text or stderr, limit_until)
    return End(outcome="completed", text=text)


def without_result(job: Job, returncode: int | None, stderr: str, unread: int, *, began: bool) -> End:
    """It ended without one. `unread`: lines that were no events; `began`: it got to work."""
    lines = f" Of what it wrote, {_counted(unread, 'line')} could not be read." if unread else ""
    text = f"{job.title} ended (exit code {returncode}) without a result.{lines}\n{stderr}".strip()
    may_pass = began or returncode is None or returncode < 0  # what never got to work will not the next time
    say = f"{job.title} ended without a result."
    return End(outcome="failed", text=text, say=say, reason="no_result", may_pass=may_pass)


def quota(job: Job, text: str, until: float | None) -> End:
    """A limit was reached. `until` may be past: then it goes on at once."""
    until = None if until is None else max(until, time.time())
    say = f"{job.title} has used up its quota for now."
    return End(outcome="quota", text=text, say=say, reason="quota", until=until)


def not_signed_in(job: Job, text: str) -> End:
    """The model does not know the user."""
    say = f"{job.title} is not signed in on your machine. Sign in there, then retry."
    return End(outcome="failed", text=text, say=say, reason="not_signed_in")


def is_lost(result: Event, stderr: str) -> bool:
    """Whether it says that there is no such conversation."""
    return any("No conversation found" in text for text in (*texts(result.get("errors")), stderr))


def _failed(job: Job, result: Event, text: str, limit_until: float | None) -> End:
    status = result.get("api_error_status")
    if status == 429 or result.get("api_error") == "usage_limit_reached":
        return quota(job, text, limit_until)
    if status in (401, 403):
        return not_signed_in(job, text)
    passes = status is None or (isinstance(status, int) and status >= 500)
    return End(outcome="failed", text=text or f"{job.title} failed.", reason="agent_error", may_pass=passes)


def _budget(job: Job, result: Event) -> Ask:
    if result.get("subtype") == "error_max_turns":
        budget, spent = {"max_turns": job.max_turns}, _counted(job.max_turns, "turn")
    else:
        budget, spent = {"max_cost_usd": job.max_cost_usd}, _counted(job.max_cost_usd, "dollar")
    action = {"agent": job.agent, "task": job.task_id, "budget": budget}
    return Ask("budget", action, f"{job.title} has used {spent}. Shall it go on for as much again?")


def _answer_of(result: Event) -> str:
    return (text_of(result.get("result")) or "\n".join(texts(result.get("errors")))).strip()


def _counted(number: float | None, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}" if number is not None else f"its {noun}s"
