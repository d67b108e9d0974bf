"""A task in one or two sentences that can be spoken."""

from __future__ import annotations

from mcp_server.approvals import Approval
from mcp_server.clock import MICROSECONDS
from mcp_server.spoken import ago, spoken
from mcp_server.tasks import Task

OLD_SECONDS = 60
"""Older answers are told with their age, so that yesterday's is not taken for today's."""


UNANSWERED = {
    "denied": "was not approved, so it is cancelled",
    "expired": "was not approved in time, so it is cancelled",
}
"""What is said of a cancelled task, by its reason. What its agent said before it asked is no answer."""


def describe(
    task: Task, agent: str, now: int, *, installed: bool = True, again: bool = False, approval: Approval | None = None
) -> str:
    """What is to be said of `task` for `agent`, which may be `installed` and lack something all the same.

    `again`: the caller asked for it as if it were new. `approval`: it waits for it.
    """
    if task.final:
        said = _end(task)
        age = (now - (task.finished_at or now)) / MICROSECONDS
        if age >= OLD_SECONDS:
            return f"From {ago(age)}: {said}"
        return said
    name = f"Task {task.number}"
    match task.status:
        case "running":
            since = (now - (task.started_at or now)) / MICROSECONDS
            working = f"{agent} is still working on task {task.number}"
            if since >= OLD_SECONDS:
                working += f", since {ago(since)}"
            return spoken(f"{working}: {task.progress}" if task.progress else f"{working}.")
        case "cancelling":
            return f"{name} is being cancelled."
        case "scheduled" if task.reason == "quota":
            return f"{agent} has used up its quota. {name} goes on {_time_until(task.run_after, now)}."
        case "scheduled" if task.reason:
            return f"{name} did not work yet. It is tried again soon."
        case "scheduled":
            return f"{name} begins {_time_until(task.run_after, now)}."
        case "waiting_approval":
            return f"{name} waits for your approval. {approval.say if approval else ''}".rstrip()
        case _ if task.reason == "agent_not_installed":
            lacks = "ready" if installed else "installed"
            return f"{agent} is not {lacks} on your machine, so task {task.number} waits in the queue."
        case _:
            return f"{name} waits in the queue{' already' if again else ''}."


def _time_until(moment: int | None, now: int) -> str:
    said = ago(((moment or now) - now) / MICROSECONDS)
    return f"in {said.removesuffix(' ago')}" if said.endswith(" ago") else "in a moment"


def _end(task: Task) -> str:
    if task.status == "cancelled" and task.reason in UNANSWERED:
        return f"Task {task.number} {UNANSWERED[task.reason]}."
    return str((task.result or {}).get("say") or _end_without_result(task))


def _end_without_result(task: Task) -> str:
    ended = {"completed": "is done", "cancelled": "is cancelled; nothing of it is running", "failed": "failed"}
    return spoken(f"Task {task.number} {ended[task.status]}.")
