"""`codex exec --json`: one prompt, events as lines of JSON, and the end. It asks nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcp_server.drivers.codex_items import Item
from mcp_server.drivers.codex_turn import LOST, NOT_UNDERSTOOD, Turn, codex_home
from mcp_server.drivers.process import agent_process
from mcp_server.drivers.records import End
from mcp_server.drivers.sandbox import wrapped


async def work(turn: Turn, options: Sequence[str]) -> End:
    """Have the turn done. A conversation that Codex does not know is begun anew."""
    end = await _once(turn, options)
    return end or await _once(turn, options) or turn.silent("")


async def _once(turn: Turn, options: Sequence[str]) -> End | None:
    """None: the conversation was lost."""
    job = turn.job
    # By its own rules, Codex runs what they allow outside of its sandbox.
    argv = [*job.program, "exec", *options, "--skip-git-repo-check", "--ignore-rules", *job.arguments]
    argv += ["resume", "--json", turn.thread, "-"] if turn.thread else ["--json", "-"]
    events = _Events(turn)
    async with agent_process(wrapped(argv, job, turn.place), turn.place, job.env) as process:
        await process.send(turn.prompt)
        process.close_stdin()
        async for line in process.lines():
            events.take(line)
        await process.wait()
        if events.end is None and turn.thread and LOST.search(process.stderr):
            turn.lost(process.stderr)
            return None
        return events.end or turn.silent(process.stderr)


class _Events:
    """What the lines say."""

    def __init__(self, turn: Turn) -> None:
        self.end: End | None = None
        self._turn = turn

    def take(self, line: bytes) -> None:
        """One line. What is no JSON, or nothing that we know, is not our business."""
        try:
            self._heard(json.loads(line))
        except NOT_UNDERSTOOD:
            self._turn.records.line(line[:500].decode(errors="replace"))

    def _heard(self, event: Any) -> None:
        match event.get("type"):
            case "thread.started":
                self._turn.began(str(event["thread_id"]))
            case "item.started" | "item.completed":
                self._turn.does(Item.read(event["item"]))
            case "turn.completed":
                self.end = self._turn.completed()
                self._count(event["usage"])
            case "error":
                self.end = self._turn.failed(str(event.get("message")))
            case "turn.failed":
                self.end = self._turn.failed(str(event["error"]["message"]))
            case _:
                pass

    def _count(self, usage: dict[str, Any]) -> None:
        model, responses = _noted(codex_home(self._turn.job), self._turn.thread or "")
        self._turn.used(int(usage.get("input_tokens", 0)), int(usage.get("output_tokens", 0)), model, responses)


def _noted(home: Path, thread: str) -> tuple[str | None, int | None]:
    """The model, and how often it answered in the newest turn, from Codex's own notes: its events do not tell."""
    model: str | None = None
    turn = ""
    responses = 0
    try:
        path = max(home.glob(f"sessions/*/*/*/rollout-*-{thread}.jsonl"), default=None)
        with (path or Path()).open("rb") as lines:
            for line in lines:
                if b'"turn_context"' in line[:200]:
                    model = json.loads(line)["payload"].get("model")
                elif b'"token_usage_record"' in line[:200]:
                    newest = json.loads(line)["payload"].get("turn_id")
                    responses = responses + 1 if newest == turn else 1
                    turn = newest
    except (OSError, ValueError, KeyError, AttributeError):
        return None, None
    return model, responses or None
