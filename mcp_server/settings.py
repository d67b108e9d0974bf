"""The settings of one server: read once, at start, from the environment and `OFFHAND_HOME/offhand.toml`."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from mcp_server.errors import FieldIssue, InvalidError
from mcp_server.paths import home_folder, private

SETTINGS_FILE = "offhand.toml"
MIB = 1024 * 1024

Decision = Literal["allow", "ask", "deny"]


class PolicyRule(BaseModel):
    """One rule of the user's. The first that matches decides, before the built-in rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decision: Decision
    level: Literal["desk", "phone", "hook"] | None = None
    agent: str | None = None
    workspace: str | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Patterns on argv: a last `*` stands for any rest, any other `*` for one argument. Left out: any command."""


Days = Annotated[int, Field(ge=0, le=36500)]


class RetentionSettings(BaseModel):
    """For how many days things are kept. 0: for ever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    events_days: Days = 365
    output_days: Days = 90
    """Of finished tasks, the whole output; the result keeps the end of it."""
    attempts_days: Days = 365
    """Of finished tasks, the attempts before the last."""
    deliveries_days: Days = 30
    """Answers to webhooks, by which a delivery that comes again is recognised."""
    clones_days: Days = 14
    """Clones of coding agents that nobody used for so long. Their branches stay in your repository."""


class OutputFields(BaseModel):
    """Where in the output of a `command` agent something stands: keys joined by dots, `result.text`, `choices.0.text`.

    `success` may end with `=VALUE`: then it must have that value, else it must be true.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: str | None = None
    conversation: str | None = None
    error: str | None = None
    success: str | None = None
    progress: str | None = None
    model: str | None = None
    turns: str | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None
    cost_usd: str | None = None


class AgentSettings(BaseModel):
    """What the user sets for one agent, or a new agent: `[agents.NAME]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["acp", "command"] | None = None
    """For a new agent alone: how it is driven."""
    title: str | None = None
    program: str | None = None
    """Its name on PATH, or its path."""
    args: tuple[str, ...] = ()
    """Further arguments; of a `command` agent all of them, as a template."""
    continue_args: tuple[str, ...] | None = None
    """Of a `command` agent that can go on with a conversation: its arguments then."""
    output: Literal["text", "json", "jsonl"] = "text"
    """What a `command` agent prints."""
    fields: OutputFields = OutputFields()
    """Where in the JSON of a `command` agent things stand."""
    state: tuple[str, ...] = ()
    """Files and folders in the home folder that the agent keeps its own things in, and must be able to write."""
    env: dict[str, str] = {}
    pass_env: tuple[str, ...] = ()
    """Names of variables that this agent gets beside those of `pass_env` for all."""
    model: str | None = None
    profile: Literal["review", "edit", "full"] = "edit"
    """Of its tasks that name none."""
    timeout_seconds: Annotated[float | None, Field(gt=0)] = None
    max_turns: Annotated[int | None, Field(ge=1)] = None
    max_cost_usd: Annotated[float | None, Field(gt=0)] = None


class Settings(BaseSettings):
    """Everything that can be set. Each key is also an environment variable, `OFFHAND_` before it."""

    model_config = SettingsConfigDict(env_prefix="OFFHAND_", env_ignore_empty=True, extra="forbid", frozen=True)

    home: Path = Field(default_factory=home_folder)
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    public_url: HttpUrl | None = None
    mcp_auth: Literal["on", "off"] = "on"
    """Off: who calls `/mcp` directly from this machine needs no key. Never with a public address."""
    api_key: Annotated[str | None, Field(repr=False)] = None
    """Seeds a key (`read`, `submit`) at start, for containers."""
    workspaces: dict[str, Path] = {}
    default_agent: str = "claude_code"
    policy: tuple[PolicyRule, ...] = ()
    pass_env: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of environment variables that children get beside the built-in ones. As a variable: separated by commas."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 4
    """How many tasks may run at once."""
    limits: dict[str, Annotated[int, Field(ge=0, le=1000)]] = {}
    """How many tasks of one agent may run at once."""
    idle_seconds: Annotated[float, Field(gt=0)] = 600.0
    output_limit_bytes: Annotated[int, Field(ge=1024)] = 20 * MIB
    """What is kept of each output stream of an attempt; the rest is counted and dropped."""
    nice: Annotated[int, Field(ge=0, le=19)] = 5
    """How far tasks step back when others want the processor; 0: not at all."""
    open_files: Annotated[int | None, Field(ge=64)] = None
    """How many files each process of a task may have open."""
    memory_limit_mb: Annotated[int | None, Field(ge=16)] = None
    """What the processes of one attempt may hold together; looked at once a second, on Linux alone."""
    pid_namespace: Literal["auto", "off"] = "auto"
    """Run each attempt in a pid namespace of its own where the system allows one: nothing can slip out of it."""
    agents: dict[str, AgentSettings] = {}
    sandbox: Literal["auto", "strict", "off"] = "auto"
    """Run coding agents in bubblewrap: where it works; never without it, and with the home hidden; never."""
    approval_seconds: Annotated[float, Field(ge=10, le=30 * 86400)] = 86400.0
    """For how long a question waits for you. No answer means no."""
    retention: RetentionSettings = RetentionSettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("pass_env", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("mcp_auth")
    @classmethod
    def _off_is_for_this_machine(cls, value: str, info: ValidationInfo) -> str:
        if value == "off" and info.data.get("public_url") is not None:
            raise ValueError("off is never used together with a public_url; take one of them out")
        host = info.data.get("host", "")
        if value == "off" and not is_loopback(host):
            raise ValueError(f"off is only for a host that is this machine alone, such as 127.0.0.1, not {host}")
        return value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        """As `paths.home_path` has it, which is where every other process looks."""
        return Path(os.path.abspath(value.expanduser()))

    @field_validator("workspaces")
    @classmethod
    def _expanded(cls, value: dict[str, Path]) -> dict[str, Path]:
        return {name: path.expanduser() for name, path in value.items()}

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given on the command line, then the environment, then the file."""
        file = TomlConfigSettingsSource(settings_cls, home_folder() / SETTINGS_FILE)
        return named["init_settings"], named["env_settings"], file


def is_loopback(host: str) -> bool:
    """Whether a name or an IP address is this machine's own, whoever asks."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_settings(**given: Any) -> Settings:
    """Read the settings; `given` comes from the command line and wins.

    Raises:
        InvalidError: a value cannot be used, or the file is not TOML; it names the key and where it stands.
    """
    path = home_folder() / SETTINGS_FILE
    try:
        _refuse_home(path)
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(f"{path} is not TOML: {error}", field=SETTINGS_FILE, fix="Mend that line.") from None
    except UnicodeDecodeError:
        raise InvalidError(f"{path} is not UTF-8.", field=SETTINGS_FILE, fix="Save it as UTF-8.") from None
    except ValidationError as error:
        issues = [
            FieldIssue(
                ".".join(str(part) for part in problem["loc"]) or "settings",
                problem["msg"],
                f"Look for it in {path} and in OFFHAND_{str(problem['loc'][0]).upper()}." if problem["loc"] else "",
            )
            for problem in error.errors(include_url=False, include_input=False)
        ]
        named = "; ".join(f"{issue.field}: {issue.message}" for issue in issues)
        raise InvalidError(f"The settings cannot be used: {named}", issues=issues) from None
    except SettingsError as error:  # a variable that is not JSON
        raise InvalidError(f"The settings cannot be used: {error}", field="settings") from None


def _refuse_home(path: Path) -> None:
    """The file lies in the home that it would move; the shim and the other commands would not follow."""
    if path.exists() and "home" in tomllib.loads(path.read_text("utf-8")):
        raise InvalidError(f"{path} cannot move the home.", field="home", fix="Set OFFHAND_HOME instead.")


def write_workspaces(change: dict[str, str | None]) -> dict[str, str]:
    """Add or remove (None) workspaces in the settings file, keeping the user's comments. Returns all that are in it."""
    document = _read_document()
    table = _table(document, "workspaces", 'Write [workspaces], then NAME = "PATH".')
    for name, folder in change.items():
        if folder is None:
            table.pop(name, None)
        else:
            table[name] = folder
    if change:
        _write_document(document)
    return {str(name): str(folder) for name, folder in table.items()}


def write_limit(agent: str | None, limit: int | None) -> None:
    """Set the limit of an agent in the settings file (None: take it out), or without an agent the one for all."""
    document = _read_document()
    if agent is None:
        document["limit"] = limit
    else:
        table = _table(document, "limits", "Write [limits], then AGENT = NUMBER.")
        if limit is None:
            table.pop(agent, None)
        else:
            table[agent] = limit
    _write_document(document)


def _read_document() -> Any:
    path = home_folder() / SETTINGS_FILE
    try:
        return tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
    except ValueError as error:  # not TOML, or not UTF-8
        raise InvalidError(f"{path} is not TOML: {error}", field=SETTINGS_FILE, fix="Mend that line.") from None


def _table(document: Any, name: str, fix: str) -> Any:
    if not isinstance(document.get(name, {}), dict):
        path = home_folder() / SETTINGS_FILE
        raise InvalidError(f"In {path}, {name} is no table.", field=SETTINGS_FILE, fix=fix)
    return document.setdefault(name, tomlkit.table())


def _write_document(document: Any) -> None:
    path = home_folder() / SETTINGS_FILE
    temporary = path.with_suffix(".toml.new")
    with open(temporary, "w", encoding="utf-8", opener=private) as file:
        file.write(tomlkit.dumps(document))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
