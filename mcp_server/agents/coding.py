"""Coding agents: what they take, what their driver is told, and what its records mean. One class for all of them.

What is particular to one agent is its `Known` (here, or made of the settings), and its driver in `mcp_server/drivers/`,
which runs in a process of its own under the supervisor.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_server.agent import (
    Availability,
    Checked,
    Exit,
    Invocation,
    Outcome,
    WorkOrder,
    resolve_program,
    task_environment,
)
from mcp_server.agents.coding_params import PARAMS as PARAMS
from mcp_server.agents.coding_params import Asked, read_asked
from mcp_server.agents.coding_report import judged
from mcp_server.agents.coding_report import report_of as report_of
from mcp_server.agents.isolation import Isolation, sandbox_for
from mcp_server.agents.program_version import version_of
from mcp_server.agents.shell import place_of
from mcp_server.drivers.job import CommandRule, Job
from mcp_server.errors import ForbiddenError, InvalidError, OffhandError, UnavailableError
from mcp_server.settings import AgentSettings, Settings

DRIVER_HOST = (sys.executable, "-I", "-m", "mcp_server.drivers")
STILL_SECONDS = 60.0
"""How often a tool that is at work is told of; oftener where silence is not borne for long."""

SLUG_WORDS = 6
SLUG_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Known:
    """What is the same on every machine about one coding agent.

    `program` is looked for on PATH unless the settings name another; `get` says how to get it. `state` are the folders
    and files in the home folder where it keeps its login and its conversations. `version` are the arguments that make
    it print its version; empty: it is not asked. `unheld` are parameters that it cannot be held to. `options` are for
    its driver alone.
    """

    name: str
    title: str
    driver: str
    program: str
    arguments: tuple[str, ...] = ()
    get: str = ""
    state: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    limit: int | None = None
    version: tuple[str, ...] = ("--version",)
    unheld: tuple[str, ...] = ()
    continues: bool = True
    prompt_limit_bytes: int | None = None
    """Where the prompt goes into an argument, which takes only so much."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


CLAUDE_CODE = Known(
    "claude_code",
    "Claude Code",
    "claude_code",
    "claude",
    get="npm install -g @anthropic-ai/claude-code",
    state=(".claude", ".claude.json"),
    pass_env=("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN"),
    limit=2,
)
CODEX = Known(
    "codex",
    "Codex",
    "codex",
    "codex",
    get="npm install -g @openai/codex",
    state=(".codex",),
    pass_env=("CODEX_API_KEY", "CODEX_HOME", "OPENAI_API_KEY"),
    limit=3,
    unheld=("max_cost_usd",),
)
GEMINI = Known(
    "gemini",
    "Gemini CLI",
    "acp",
    "gemini",
    arguments=("--acp",),
    get="npm install -g @google/gemini-cli",
    state=(".gemini",),
    pass_env=("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GEMINI_CLI_TRUST_WORKSPACE"),
    limit=1,
    unheld=("max_cost_usd",),
    options={"gemini": True},
)
KNOWN = (CLAUDE_CODE, CODEX, GEMINI)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A program as it was when it was last looked at."""

    program: str
    changed_at_ns: int
    version: str | None


class CodingAgent:
    """A coding agent that is told in words, and works in a clone of its own."""

    needs_workspace = True

    def __init__(
        self, known: Known, settings: Settings, workspaces: Callable[[], Iterable[Path]] = tuple[Path, ...]
    ) -> None:
        self._known = known
        self._own = settings.agents.get(known.name, AgentSettings())
        self._settings = settings
        self._workspaces = workspaces
        self.name = known.name
        self.title = self._own.title or known.title
        self.description = (
            f"{self.title}, a coding agent with a clone of its own: say in the description what is to be done. params, "
            'all optional: profile ("review" reads only, "edit", "full"), model, max_turns, max_cost_usd, branch or '
            "pull_request (a number) to start from, in_place (true: in the folder itself)."
        )
        self.default_limit = known.limit
        self.default_timeout_seconds = self._own.timeout_seconds or 3600.0
        self.continues = known.continues
        self._seen: _Seen | None = None
        self._isolation: Isolation | None = None

    def availability(self) -> Availability:
        try:
            program = self._found()
        except OffhandError as error:
            return Availability(installed=False, missing=error.message)
        version = self._seen.version if self._seen is not None and self._seen.program == program else None
        isolation = self._isolation
        if isolation is None:  # not looked at yet
            return Availability(installed=True, version=version)
        notes = (isolation.note,) if isolation.note else ()
        return Availability(installed=True, version=version, missing=isolation.missing, notes=notes)

    def look(self) -> None:
        """Ask the program for its version, once for each state of it, and see how it can be kept apart."""
        self._isolation = self._isolated()
        try:
            program = self._found()
            changed_at_ns = os.stat(program).st_mtime_ns
        except (OffhandError, OSError):
            return
        if self._seen is None or (self._seen.program, self._seen.changed_at_ns) != (program, changed_at_ns):
            version = version_of((program, *self._known.version), self._environment()) if self._known.version else None
            self._seen = _Seen(program, changed_at_ns, version)

    def check(self, order: WorkOrder) -> Checked:
        if not order.description.strip():
            raise InvalidError(
                f"{self.title} is not told what to do.",
                field="description",
                fix="Say in a sentence or more what is to be done.",
            )
        limit = self._known.prompt_limit_bytes
        if limit is not None and len(order.description.encode()) > limit:
            raise InvalidError(
                f"{self.title} takes its prompt as an argument, and that has more than {limit:,} bytes.",
                field="description",
                fix="Say it shorter, or put the long part into a file.",
            )
        place_of(order)
        asked = self._asked(order.params)
        self._check_held(asked)
        contained = asked.profile != "full" and not asked.in_place and self._isolated().contained
        return Checked(argv=(), reads_only=False, contained=contained)

    def invocation(self, order: WorkOrder) -> Invocation:
        try:
            program = self._found()
        except OffhandError as error:
            raise UnavailableError(error.message) from None
        isolation = self._isolated()
        if isolation.missing:
            raise UnavailableError(isolation.missing)
        asked = self._asked(order.params)
        self._check_held(asked)
        assert asked.in_place or order.clone is not None
        job = Job(
            driver=self._known.driver,
            agent=self.name,
            title=self.title,
            program=(program, *self._known.arguments),
            arguments=self._own.args if self._known.driver != "command" else (),
            options=self._known.options,
            env=self._environment(),
            prompt=order.description,
            task_id=order.task_id,
            task_number=order.number,
            slug=slug(order.description),
            profile=asked.profile,
            model=asked.model,
            max_turns=asked.max_turns,
            max_cost_usd=asked.max_cost_usd,
            folder=str(place_of(order)),
            workspace=str(order.workspace) if order.workspace is not None else None,
            clone=None if asked.in_place else str(order.clone),
            base=asked.base,
            earlier=order.earlier,
            state=order.state,
            granted=order.granted,
            interrupted=order.resumed,
            still_seconds=min(STILL_SECONDS, self._settings.idle_seconds / 3),
            rules=tuple(self._command_rules(order)),
            sandbox=isolation.sandbox,
        )
        return Invocation(DRIVER_HOST, Path("/"), self._environment(), job.to_json(), records=True)

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        return judged(self.title, self._asked(order.params).profile, ended)

    def _asked(self, params: Mapping[str, Any]) -> Asked:
        return read_asked(params, self._own, self.title, self._known.unheld)

    def _check_held(self, asked: Asked) -> None:
        """What asks for nothing is held to reading by the sandbox alone, so without one it is not run."""
        if asked.profile != "review" or self._known.driver != "command":
            return
        isolation = self._isolated()
        if isolation.sandbox.bubblewrap is None:
            raise ForbiddenError(
                f"Nothing would keep {self.title} from writing. {isolation.missing or isolation.note}",
                field="params.profile",
                fix="Have bubblewrap work here, or give the profile edit: then it writes in a clone of its own.",
                say=f"{self.title} cannot be kept from writing here, so I did not start it.",
            )

    def _isolated(self) -> Isolation:
        state = (*self._known.state, *map(os.path.expanduser, self._own.state))
        return sandbox_for(self._settings, state, self._environment())

    def _command_rules(self, order: WorkOrder) -> list[CommandRule]:
        """The user's rules about commands that hold for this agent there.

        Who asked for the task is not known here: what a rule allows to one level alone it does not allow.
        """
        return [
            CommandRule(rule.command, rule.decision)
            for rule in self._settings.policy
            if rule.command is not None
            and rule.agent in (None, self.name)
            and (rule.workspace is None or self._is_workspace(rule.workspace, order.workspace))
            and not (rule.level is not None and rule.decision == "allow")
        ]

    def _is_workspace(self, name: str, folder: Path | None) -> bool:
        known = self._settings.workspaces.get(name)
        return known is not None and folder is not None and os.path.realpath(known) == str(folder)

    def _environment(self) -> dict[str, str]:
        names = (*self._settings.pass_env, *self._known.pass_env, *self._own.pass_env)
        return task_environment(names) | self._own.env

    def _found(self) -> str:
        """The program's path.

        Raises:
            UnavailableError: there is none.
            ForbiddenError: it lies in a workspace.
        """
        wanted = self._own.program or self._known.program
        path = self._environment()["PATH"]
        try:
            program = resolve_program(
                os.path.expanduser(wanted), Path("/"), path, self._workspaces(), field=f"agents.{self.name}.program"
            )
        except InvalidError:
            where = "not there" if "/" in wanted else "not on PATH"
            get = f" Get it with: {self._known.get}" if self._known.get else ""
            raise UnavailableError(f"{self.title} cannot be run: {wanted} is {where}.{get}") from None
        return str(program)


def slug(description: str) -> str:
    """A few words of it that a branch can be named by; empty where it has none."""
    words = re.findall(r"[a-z0-9]+", description[:1000].lower())
    return "-".join(words[:SLUG_WORDS])[:SLUG_CHARACTERS].strip("-")
