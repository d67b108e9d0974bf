"""What an agent is told: the task, or how to go on with it."""

from __future__ import annotations

from typing import cast

from mcp_server.drivers.job import Job
from mcp_server.drivers.records import Records

_GO_ON = "You were interrupted. Go on with this task where you were; look first at what is done already.\n\n{prompt}"
_ALLOWED = "The user has allowed what you asked for: {what}. Do exactly that now, and go on with the task."
_MORE = "You may go on with the task where you were."
_EARLIER = "This goes on with an earlier conversation, of which this is what was said:\n\n{earlier}\n\nNow:\n\n{prompt}"


def opening(job: Job) -> str:
    """In a new conversation; where an earlier one was lost, with what was said in it."""
    if not job.earlier:
        return job.prompt
    return _EARLIER.format(earlier="\n\n".join(job.earlier), prompt=job.prompt)


def further(job: Job) -> str:
    """In a conversation that the agent knows: a follow-up, an answer of the user's, or a word to go on.

    `state` has `task`, which began to work last, and `asked` (`hash`, `about`, `what`), the last question.
    """
    if job.state.get("task") != job.task_id:
        return job.prompt
    asked = cast(dict[str, str], job.state.get("asked") or {})
    if asked.get("hash") in job.granted:
        return _ALLOWED.format(what=asked["what"]) if asked.get("about") == "tool" else _MORE
    return _GO_ON.format(prompt=job.prompt)


def let_through(job: Job, records: Records, action: str) -> None:
    """What the user allowed, by its fingerprint, is being done: a later attempt is not told to do it again."""
    if action == cast(dict[str, str], job.state.get("asked") or {}).get("hash"):
        records.state(asked=None)
