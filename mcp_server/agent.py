"""The contract of an agent: what to run for a task, and what its end means. Implementations are in `agents/`.

An agent never starts a process itself. It answers three questions, and the executor does the rest:
may this order be taken (`check`), what shall run (`invocation`), and how did it end (`judge`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from mcp_server.errors import ForbiddenError, InvalidError

INHERITED_ENVIRONMENT = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "SSH_AUTH_SOCK",
)
"""What every child inherits. The rest is named by the user in `pass_env`: no secret leaves by accident."""


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """What an agent is told to do.

    `cwd` lies in `workspace` (a resolved folder), or both are None. `earlier` holds the messages
    and answers of the same conversation, oldest first. `attempt` counts from 1.

    The rest is set for an attempt alone, not for a check: `state` is what the agent's driver remembers of the
    conversation, `granted` are fingerprints of actions that the user approved for this task, `clone` is a folder for a
    clone of the conversation's own (it need not exist), and `resumed` says that an earlier attempt of this very task
    had begun to work.
    """

    description: str = ""
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    workspace: Path | None = None
    cwd: Path | None = None
    earlier: tuple[str, ...] = ()
    attempt: int = 1
    task_id: str = ""
    number: int = 0
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    granted: tuple[str, ...] = ()
    clone: Path | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found: the argument vector that rules are matched against, and whether it only reads.

    `contained`: what it changes stays in a place of its own, and it is kept from what is ours.
    """

    argv: tuple[str, ...]
    reads_only: bool
    contained: bool = False


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the supervisor runs. `argv[0]` is an absolute path, `env` is the whole environment.

    `records`: it writes records (`drivers/records.py`) to the file that the executor names in its environment.
    """

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]
    stdin: str = ""
    records: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """How the process of an attempt ended, with the last part of what it wrote (decoded, bad bytes replaced)."""

    how: Literal["exited", "signaled", "timeout", "idle_timeout", "memory_limit", "cancelled", "spawn_failed"]
    returncode: int | None
    stdout: str
    stderr: str
    truncated: bool = False
    error: str = ""
    records: tuple[Mapping[str, Any], ...] = ()
    """What its driver wrote down, in order, but for progress; those that cannot be read are left out."""


@dataclass(frozen=True, slots=True)
class Pause:
    """The task does not end here: it goes on later where it was, and this attempt counts for none.

    Either `ask`: what the user is asked, as `drivers.records.Ask` has it; or `until`: seconds since 1970, None where
    nobody said when the quota is there again.
    """

    ask: Mapping[str, Any] | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the end means. `may_pass`: trying again later may help. `say`: to be spoken, no ids, no markup.

    With `pause` it is no end. `details` become part of the result.
    """

    completed: bool
    text: str
    say: str
    reason: str | None = None
    may_pass: bool = False
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pause: Pause | None = None


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether the agent can work here, and if not, what is missing and how to get it.

    `notes`: what the user should know though it works, such as "runs without a sandbox".
    """

    installed: bool
    version: str | None = None
    missing: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether its tasks can begin: it is installed, and nothing that it needs is missing."""
        return self.installed and not self.missing


class Agent(Protocol):
    """Something that does tasks."""

    name: str
    title: str
    description: str
    default_timeout_seconds: float
    default_limit: int | None
    """How many may run at once; None: only the overall limit holds."""
    needs_workspace: bool
    continues: bool
    """Whether `continue_task` makes sense for it."""

    def availability(self) -> Availability:
        """As far as is known; must be quick: it is called at every look at the queue."""
        ...

    def look(self) -> None:
        """Find out what `availability` says. May take seconds: called in a thread, at start and once a minute."""
        ...

    def check(self, order: WorkOrder) -> Checked:
        """Refuse what cannot be done (InvalidError, ForbiddenError), before anything is stored."""
        ...

    def invocation(self, order: WorkOrder) -> Invocation:
        """What to run. Called at the start of each attempt."""
        ...

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        """What the end means. Called for `exited` and `signaled` only; the executor speaks for the rest."""
        ...


def task_environment(pass_env: Iterable[str] = ()) -> dict[str, str]:
    """The environment of every child: an allow-list of our own plus the names that the user passes on."""
    names = (*INHERITED_ENVIRONMENT, *pass_env)
    inherited = {name: os.environ[name] for name in names if name in os.environ}
    return {"PATH": os.defpath, "TERM": "dumb", "NO_COLOR": "1"} | inherited


def resolve_program(program: str, cwd: Path, path: str, workspaces: Iterable[Path], *, field: str) -> Path:
    """The absolute path of `program`, as the user's PATH has it.

    Raises:
        InvalidError: there is no such program.
        ForbiddenError: it lies in a workspace, where whoever may write a file could choose what runs.
    """
    candidate = program if os.path.isabs(program) else str(cwd / program) if "/" in program else program
    found = shutil.which(candidate, path=path)
    if found is None:
        raise InvalidError(
            f"There is no program {program!r} here.",
            field=field,
            fix="Name an installed program, or the full path of one.",
            say="That program is not installed here.",
        )
    for place in (Path(os.path.abspath(found)), Path(os.path.realpath(found))):
        if any(place.is_relative_to(workspace) for workspace in workspaces):
            raise ForbiddenError(
                f"The program {program!r} lies in a workspace.",
                field=field,
                fix='Name the interpreter that is to run it, such as ["bash", "script.sh"].',
                say="That program lies in a workspace, so it is not run directly.",
            )
    return Path(os.path.abspath(found))
