"""One attempt's work of Codex, whichever way it is talked to: what to tell it, what it used, and how it ended."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from mcp_server.drivers.codex_items import Item
from mcp_server.drivers.job import Job
from mcp_server.drivers.prompts import further, opening
from mcp_server.drivers.records import Ask, End, Records
from mcp_server.drivers.trouble import trouble
from mcp_server.fingerprint import fingerprint

LOST = re.compile(r"no rollout found|thread not found|no such (thread|session)", re.IGNORECASE)
"""What Codex says of a conversation that it does not know."""

NOT_UNDERSTOOD = (LookupError, TypeError, ValueError, AttributeError)
"""What reading a message raises that is no JSON, or not of the shape that we know."""

_PASSES = re.compile(r"high demand|at capacity|stream (error|disconnected)|error sending request", re.IGNORECASE)
_AGAIN_AT = re.compile(r"try again at (?:(\w{3} \d{1,2})\w*, (\d{4}) )?(\d{1,2}:\d\d [AP]M)", re.IGNORECASE)
MINUTE = 60.0


def codex_home(job: Job) -> Path:
    """Where Codex keeps its settings, its login and its conversations."""
    return Path(job.env.get("CODEX_HOME") or Path(job.env.get("HOME", "/")) / ".codex")


class Turn:
    """Keeps what is told, and writes it down."""

    def __init__(self, job: Job, place: Path, records: Records) -> None:
        self.job = job
        self.place = place
        self.records = records
        self.ask: Ask | None = None
        self.quota_until: float | None = None
        """When the quota that is used up is there again, where Codex tells it apart from its message."""
        self._answer = ""
        self._model: str | None = job.model
        self._responses: int | None = None
        known: Any = job.state.get("session")
        self.thread: str | None = known if isinstance(known, str) else None
        """The conversation to go on in; None: a new one."""

    @property
    def prompt(self) -> str:
        """What to tell Codex."""
        return opening(self.job) if self.thread is None else further(self.job)

    def lost(self, why: str) -> None:
        """Codex does not know the conversation: begin a new one."""
        self.records.line(f"{self.job.title} does not find its conversation again: {why[:500]}")
        self.thread = None

    def began(self, thread: str, model: str | None = None) -> None:
        """Codex is at work in this conversation."""
        self.thread = thread
        self._model = model or self._model
        self.records.state(session=thread, task=self.job.task_id)

    def does(self, item: Item) -> None:
        """Tell it, when it is worth it. What is said last is the answer."""
        if item.kind == "agent_message" and item.text.strip():
            self._answer = item.text.strip()
        telling = item.telling(self.place)
        self.records.progress(telling)
        if item.works:
            self.records.began(item.id, telling)
        else:
            self.records.ended(item.id)

    def used(self, input_tokens: int, output_tokens: int, model: str | None, responses: int | None) -> None:
        """What the whole conversation used so far: that is how Codex counts. `responses` are of this attempt."""
        before = cast(dict[str, int], self.job.state.get("codex_tokens") or {})
        if self.thread != self.job.state.get("session"):
            before = {}
        self.records.usage(
            model=model or self._model,
            turns=responses,
            input_tokens=max(0, input_tokens - before.get("input", 0)),
            output_tokens=max(0, output_tokens - before.get("output", 0)),
        )
        self.records.state(codex_tokens={"input": input_tokens, "output": output_tokens})

    def asks(self, ask: Ask, what: str) -> None:
        """The user must be asked. `what` is told to Codex once it is allowed."""
        self.ask = ask
        self.records.state(asked={"hash": fingerprint(ask.action), "about": ask.about, "what": what})

    def completed(self) -> End:
        """Codex itself said that it is done."""
        return End(outcome="completed", text=self._answer)

    def paused(self) -> End:
        """It waits for the user's answer to `ask`."""
        assert self.ask is not None
        return End(outcome="asks", text=self.ask.say, say=self.ask.say, ask=self.ask)

    def failed(self, message: str) -> End:
        """What Codex said of an error, or the model through it."""
        text = _plain(message)
        end = trouble(self.job.title, text)
        if end.outcome == "quota":
            return replace(end, until=self.quota_until or end.until or _named_clock_time(text))
        return replace(end, may_pass=end.may_pass or bool(_PASSES.search(text)))

    def silent(self, stderr: str) -> End:
        """It ended without a word about how it went."""
        text = f"{self.job.title} ended without a word about how it went.\n{stderr}".strip()
        return End(outcome="failed", text=text, reason="no_result", may_pass=True)


def _plain(message: str) -> str:
    """An answer of the model's server is handed on as it came, in JSON."""
    try:
        told: Any = json.loads(message)
        return str(told["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return message


def _named_clock_time(text: str) -> float | None:
    """The end of the minute that Codex names, in our own time zone: "try again at Nov 26th, 2026 6:33 AM"."""
    found = _AGAIN_AT.search(text)
    if found is None:
        return None
    now = datetime.now().astimezone()
    day, year, clock = found.groups()
    stamp = f"{day} {year} {clock}" if day else f"{now:%b %d %Y} {clock}"
    try:
        named = datetime.strptime(stamp, "%b %d %Y %I:%M %p").astimezone()
    except ValueError:
        return None
    return max(named.timestamp(), time.time()) + MINUTE
