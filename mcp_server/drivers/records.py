"""What a driver writes down while its agent works: one JSON object per line, in a file of the attempt's folder.

- `progress`: `say`, what the agent does now, a few words ("editing src/app.py")
- `state`: `state`, an object that is merged into what the conversation remembers for its next attempt or task. All
  drivers have `session`, the agent's own name for the conversation, and `task`, the id of the task it was told last
- `usage`, of this attempt so far, the latest counts: `model`, `turns`, `input_tokens`, `output_tokens`, `cost_usd`
  (None: unknown)
- `agent`: `version`, the agent's own, where its protocol tells it
- `denied`: a use of a tool that was not allowed: `tool`, `input` (shortened), `why`
- `work`: `branch`, `base`, `commit`, `files` (a list of `path`, `change`, `insertions`, `deletions`), `diff` (the name
  of a file beside this one), `dirty`; at a pause `clone` instead of `branch` and `commit`: the folder where it lies
- `end`, the last one: see `End`

The same things go to stdout as plain lines, for people. The file is the driver's own: the agent has no handle on it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

RECORDS_VARIABLE = "OFFHAND_RECORDS"
"""In the driver's environment: the path of the file. Taken out before an agent is started."""

RECORDS_NAME = "records.jsonl"
DIFF_NAME = "changes.diff"
"""Beside the records: the diff that the `work` record names."""

SAY_CHARACTERS = 200
TEXT_LIMIT_BYTES = 256 * 1024
"""Of an answer; the rest is cut, and said so."""

Outcome = Literal["completed", "failed", "asks", "quota"]


@dataclass(frozen=True, slots=True)
class Ask:
    """What the user must be asked before the agent goes on. What is approved is `action`, exactly.

    For a tool, `action` has `agent`, `tool`, `input` and `cwd`, and `argv` where it is a plain command.
    `say` asks in one sentence, to be spoken. `diff` is what a change of files would do, where there is one.
    """

    about: Literal["tool", "budget"]
    action: Mapping[str, Any]
    say: str
    diff: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How the agent's work ended.

    `text` is its final answer, or what went wrong. `verified`: the agent itself said how it ended; where it does not,
    this is False and the record says "unverified". `reason` as in a task. `may_pass`: trying again later may help.
    `until`: for `quota`, when to go on, in seconds since 1970; None: it did not say.
    """

    outcome: Outcome
    text: str
    say: str = ""
    """What is said aloud; empty: made of `text`."""
    reason: str | None = None
    may_pass: bool = False
    verified: bool = True
    until: float | None = None
    ask: Ask | None = None


class Records:
    """Writes records and the plain lines for people."""

    def __init__(self, path: Path, stdout: IO[str] = sys.stdout) -> None:
        self.folder = path.parent
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._stdout = stdout
        self._open: dict[str, str] = {}

    def progress(self, say: str) -> None:
        """Tell what the agent does now. The same again is not told twice in a row by the server."""
        say = " ".join(say.split())[:SAY_CHARACTERS]
        if say:
            self._write("progress", {"say": say})
            self.line(say)

    def began(self, use: str, doing: str) -> None:
        """A tool is at work from here on, until `ended`: what it does, in the words of `progress`.

        Not one that waits for the model itself, such as a helper: whoever hangs there is to be ended for its silence.
        """
        self._open[use] = doing

    def ended(self, use: str | None = None) -> None:
        """It is done, or will not be done; without a name, all are."""
        if use is None:
            self._open.clear()
        else:
            self._open.pop(use, None)

    def still(self) -> None:
        """Tell that a tool is at work, if one is: so that its silence is not taken for the agent's."""
        if self._open:
            self.progress(f"still {list(self._open.values())[-1] or 'at work'}")

    def agent(self, version: str) -> None:
        """Who does the work."""
        self._write("agent", {"version": version[:SAY_CHARACTERS]})

    def state(self, **state: Any) -> None:
        """Remember something for the next attempt or task of this conversation. Synced, so that it is not lost."""
        self._write("state", {"state": state})
        os.fsync(self._fd)

    def usage(
        self,
        *,
        model: str | None = None,
        turns: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_usd: float | None = None,
    ) -> None:
        """What this attempt used so far."""
        counts = {"turns": turns, "input_tokens": input_tokens, "output_tokens": output_tokens, "cost_usd": cost_usd}
        self._write("usage", {"model": model} | counts)

    def denied(self, tool: str, input: Mapping[str, Any], why: str) -> None:
        """A use of a tool that was not allowed."""
        shown = json.dumps(input, ensure_ascii=False)[:1000]
        self._write("denied", {"tool": tool, "input": shown, "why": why[:500]})
        self.line(f"not allowed: {tool} {shown[:SAY_CHARACTERS]}")

    def work(self, **facts: Any) -> None:
        """What came of it in the repository."""
        self._write("work", facts)

    def end(self, end: End) -> None:
        """The last record."""
        text = end.text.encode(errors="replace")
        if len(text) > TEXT_LIMIT_BYTES:
            cut = text[:TEXT_LIMIT_BYTES].decode(errors="ignore")
            text = f"{cut}\n[cut: {len(text) - TEXT_LIMIT_BYTES} bytes more]".encode()
        self._write("end", asdict(end) | {"text": text.decode()})
        os.fsync(self._fd)
        self.line(text.decode())

    def line(self, text: str) -> None:
        """A line for people alone."""
        # Agents may send halves of characters, which no stream takes.
        self._stdout.write(f"{text.encode(errors='replace').decode()}\n")
        self._stdout.flush()

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        line = json.dumps({"type": kind, **fields}, ensure_ascii=True) + "\n"
        os.write(self._fd, line.encode())
