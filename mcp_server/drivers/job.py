"""What a driver is told to do: written by the server to the driver's stdin, as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Profile = Literal["review", "edit", "full"]
PROFILES: tuple[Profile, ...] = ("review", "edit", "full")
"""`review` reads only; `edit` edits in its clone and runs the project's own commands; `full` does all, unasked."""

Decision = Literal["allow", "ask", "deny"]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How the agent is kept from the rest of the machine.

    `bubblewrap`: the absolute path of bwrap; None: the agent runs without. `hidden`: folders that it must not see.
    `strict`: the home folder is hidden but for `writable`.
    """

    bubblewrap: str | None = None
    strict: bool = False
    hidden: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    """Beside the place of work: the agent's own state, such as ~/.claude. Folders are made where they are missing; of
    files a copy is written."""
    readonly: tuple[str, ...] = ()
    """What of `writable` stays as it is, such as settings and hooks that also hold outside of the sandbox."""


@dataclass(frozen=True, slots=True)
class CommandRule:
    """A rule of the user's about commands that the agent wants to run; the first that matches decides."""

    command: tuple[str, ...]
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attempt of a coding agent.

    `workspace`: the folder above which no repository is looked for; None: anywhere.
    `program` is the argv that starts the agent, `program[0]` an absolute path; `arguments` are the user's further ones.
    `env` is the agent's whole environment. `folder` is where the caller wants the work done, in the user's repository.
    `clone`: where the clone is or shall be; None: work in `folder` itself. `branch` is the branch in the clone,
    `base` what it starts from: a branch's name, `pull/7`, or None for HEAD. `slug` are words for a new branch's name.
    `earlier` holds the messages and answers of the conversation before, for an agent that has lost it.
    `state` is what earlier attempts and tasks of the same conversation left by `state` records. `granted` are the
    fingerprints of actions that the user approved for this task. `interrupted`: an earlier attempt of this very task
    had begun to work. `max_cost_usd` and `max_turns` hold for this attempt. `still_seconds`: how often a tool that is
    at work is told of.
    """

    driver: str
    agent: str
    title: str
    program: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    prompt: str
    task_id: str
    task_number: int
    slug: str = ""
    profile: Profile = "edit"
    model: str | None = None
    max_turns: int | None = None
    max_cost_usd: float | None = None
    folder: str
    workspace: str | None = None
    clone: str | None = None
    base: str | None = None
    earlier: tuple[str, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    granted: tuple[str, ...] = ()
    interrupted: bool = False
    still_seconds: float = 60.0
    rules: tuple[CommandRule, ...] = ()
    sandbox: Sandbox = field(default_factory=Sandbox)

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self) | {"options": dict(self.options), "state": dict(self.state)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Job:
        """As the server wrote it; both are of one release, so nothing is checked."""
        fields: dict[str, Any] = json.loads(text)
        sandbox: dict[str, Any] = fields["sandbox"]
        for name in ("hidden", "writable", "readonly"):
            sandbox[name] = tuple(sandbox[name])
        fields["sandbox"] = Sandbox(**sandbox)
        fields["rules"] = tuple(CommandRule(tuple(rule["command"]), rule["decision"]) for rule in fields["rules"])
        for name in ("program", "arguments", "earlier", "granted"):
            fields[name] = tuple(fields[name])
        return cls(**fields)
