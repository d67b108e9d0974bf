"""Coding agents: what they take, what their driver is told, and what its records mean. One class for all of them.

What is particular to one agent is its `Known` here, and its driver in `mcp_server/drivers/`, which runs in a process of
its own under the supervisor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_server.agent import (
    Availability,
    Checked,
    Exit,
    Invocation,
    Outcome,
    Pause,
    WorkOrder,
    task_environment,
)
from mcp_server.agents.params import refuse_unknown
from mcp_server.agents.shell import place_of
from mcp_server.drivers.job import PROFILES, CommandRule, Job, Profile, Sandbox
from mcp_server.errors import InvalidError, UnavailableError
from mcp_server.settings import AgentSettings, PolicyRule, Settings
from mcp_server.spoken import spoken

VERSION_SECONDS = 15.0
PARAMS = ("profile", "model", "max_turns", "max_cost_usd", "in_place", "branch", "pull_request")


@dataclass(frozen=True, slots=True)
class Known:
    """What is the same on every machine about one coding agent.

    `program` is looked for on PATH unless the settings name another; `get` says how to get it. `state` are the folders
    and files in the home folder where it keeps its login and its conversations.
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
)
KNOWN = (CLAUDE_CODE, CODEX, GEMINI)


class CodingAgent:
    """A coding agent that is told in words, and works in a clone of its own."""

    default_timeout_seconds = 3600.0
    needs_workspace = True
    continues = True

    def __init__(self, known: Known, settings: Settings) -> None:
        self._known = known
        self._own = settings.agents.get(known.name, AgentSettings())
        self._settings = settings
        self.name = known.name
        self.title = self._own.title or known.title
        self.description = (
            f"{self.title}, a coding agent: say in the description what is to be done. params: "
            '{"profile": "review" | "edit" | "full"}.'
        )
        self.default_limit = known.limit
        self._program: str | None = None
        self._version: str | None = None

    def availability(self) -> Availability:
        program = self._found()
        if program is None:
            get = f" Get it with: {self._known.get}" if self._known.get else ""
            return Availability(installed=False, missing=f"{self._wanted} is not on PATH.{get}")
        return Availability(installed=True, version=self._version if program == self._program else None)

    def look(self) -> None:
        """Ask the program for its version, once for each program."""
        program = self._found()
        if program is not None and program != self._program:
            self._version = _version_of(program, self._environment())
            self._program = program

    def check(self, order: WorkOrder) -> Checked:
        if not order.description.strip():
            raise InvalidError(
                f"{self.title} is not told what to do.",
                field="description",
                fix="Say in a sentence or more what is to be done.",
            )
        place_of(order)
        asked = self._read(order.params)
        contained = asked.profile != "full" and not asked.in_place
        return Checked(argv=(), reads_only=False, contained=contained)

    def invocation(self, order: WorkOrder) -> Invocation:
        program = self._found()
        if program is None:
            raise UnavailableError(self.availability().missing)
        asked = self._read(order.params)
        job = Job(
            driver=self._known.driver,
            agent=self.name,
            title=self.title,
            program=(program, *self._known.arguments),
            arguments=self._own.args,
            env=self._environment(),
            prompt=order.description,
            task_id=order.task_id,
            task_number=order.number,
            slug=_slug(order.description),
            profile=asked.profile,
            model=asked.model,
            max_turns=asked.max_turns,
            max_cost_usd=asked.max_cost_usd,
            folder=str(place_of(order)),
            clone=None if asked.in_place else str(order.clone),
            base=asked.base,
            state=order.state,
            granted=order.granted,
            interrupted=order.resumed,
            rules=tuple(_command_rules(self._settings.policy, self.name)),
            sandbox=Sandbox(strict=self._settings.sandbox == "strict"),
        )
        return Invocation(
            argv=(sys.executable, "-I", "-m", "mcp_server.drivers"),
            cwd=Path("/"),
            env=self._environment(),
            stdin=job.to_json(),
            records=True,
        )

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        report = report_of(ended.records)
        end = next((record for record in reversed(ended.records) if record["type"] == "end"), None)
        if end is None:
            text = ended.stderr.strip() or ended.stdout.strip()
            say = f"{self.title} ended without a word about how it went."
            return Outcome(False, text or say, say, reason="no_result", may_pass=True, details=report)
        text, outcome = end["text"], end["outcome"]
        say = spoken(end["say"] or text) or ("It is done." if outcome == "completed" else "It failed.")
        if outcome == "asks":
            return Outcome(False, text, say, reason="asks", details=report, pause=Pause(ask=end["ask"]))
        if outcome == "quota":
            return Outcome(False, text, say, reason="quota", details=report, pause=Pause(until=end["until"]))
        if not end["verified"]:
            report["unverified"] = f"{self.title} does not say whether it succeeded."
        return Outcome(outcome == "completed", text, say, end["reason"], may_pass=end["may_pass"], details=report)

    @property
    def _wanted(self) -> str:
        return self._own.program or self._known.program

    def _environment(self) -> dict[str, str]:
        names = (*self._settings.pass_env, *self._known.pass_env, *self._own.pass_env)
        return task_environment(names) | self._own.env

    def _found(self) -> str | None:
        return shutil.which(self._wanted, path=self._environment()["PATH"])

    def _read(self, params: Mapping[str, Any]) -> Asked:
        refuse_unknown(params, PARAMS)
        profile = params.get("profile", self._own.profile)
        if profile not in PROFILES:
            raise InvalidError(
                "There is no such profile.", field="params.profile", fix=f"Give one of: {', '.join(PROFILES)}."
            )
        return Asked(
            profile=profile,
            model=params.get("model", self._own.model),
            max_turns=params.get("max_turns", self._own.max_turns),
            max_cost_usd=params.get("max_cost_usd", self._own.max_cost_usd),
            in_place=params.get("in_place", False),
            base=params.get("branch"),
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of one order, checked."""

    profile: Profile
    model: str | None
    max_turns: int | None
    max_cost_usd: float | None
    in_place: bool
    base: str | None


def report_of(records: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    """What the records of one attempt say, as fields of its result."""
    report: dict[str, Any] = {}
    denials: list[Any] = []
    for record in records:
        fields = {name: value for name, value in record.items() if name != "type"}
        match record["type"]:
            case "usage":
                report |= fields
            case "denied":
                denials.append(fields)
            case "work":
                report |= {name: value for name, value in fields.items() if name != "diff"}
            case _:
                pass
    return report | ({"denials": denials} if denials else {})


def _version_of(program: str, env: Mapping[str, str]) -> str | None:
    try:
        done = subprocess.run(
            [program, "--version"],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    found = re.search(r"\d+(\.\d+)+\S*", done.stdout)
    return found.group() if found else None


def _command_rules(rules: tuple[PolicyRule, ...], agent: str) -> list[CommandRule]:
    return [
        CommandRule(rule.command, rule.decision)
        for rule in rules
        if rule.command is not None and rule.agent in (None, agent)
    ]


def _slug(description: str) -> str:
    words = re.findall(r"[a-z0-9]+", description.lower())
    return "-".join(words[:6])[:40].strip("-")
