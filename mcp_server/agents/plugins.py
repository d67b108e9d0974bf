"""Agents of other packages, by the entry point group `offhand.agents`.

An entry point names a class or a function that is called with the settings and returns an agent (`agent.py`). One that
is broken is listed with what is wrong with it, and harms nobody else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from mcp_server.agent import Agent, Availability, Checked, Exit, Invocation, Outcome, WorkOrder
from mcp_server.errors import OffhandError, UnavailableError
from mcp_server.settings import Settings

GROUP = "offhand.agents"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")

logger = logging.getLogger(__name__)

T = TypeVar("T")


def plugin_agents(settings: Settings, taken: Iterable[str]) -> list[Agent]:
    """One agent for each entry point, in the order of their names. `taken` are names of other agents."""
    names = set(taken)
    agents: list[Agent] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        agent = _made(entry, settings, names)
        names.add(agent.name)
        agents.append(agent)
    return agents


def _made(entry: EntryPoint, settings: Settings, taken: set[str]) -> Agent:
    package = entry.dist.name if entry.dist is not None else entry.value
    try:
        made = PluginAgent(entry.load()(settings), package)
        if made.name in taken:
            raise ValueError(f"there is another agent named {made.name}")
    except (Exception, SystemExit) as error:
        logger.exception("the plugin %s cannot be used", package)
        return BrokenPlugin(_free_name(entry.name, taken), f"The plugin {package} cannot be used: {_short(error)}")
    return made


class PluginAgent:
    """An agent of somebody else's. What it raises or answers wrongly becomes an error that names its package."""

    def __init__(self, agent: Any, package: str) -> None:
        """Look at what it says of itself.

        Raises:
            TypeError, ValueError, AttributeError: it is no agent.
        """
        self._agent = agent
        self._package = package
        self.name: str = _an(str, agent.name)
        self.title: str = _an(str, agent.title)
        self.description: str = _an(str, agent.description)
        self.default_timeout_seconds = float(agent.default_timeout_seconds)
        self.default_limit: int | None = None if agent.default_limit is None else _an(int, agent.default_limit)
        self.needs_workspace: bool = _an(bool, agent.needs_workspace)
        self.continues: bool = _an(bool, agent.continues)
        if not NAME.fullmatch(self.name):
            raise ValueError(f"an agent cannot be named {self.name[:100]!r}")
        if not self.title.strip() or self.default_timeout_seconds <= 0 or (self.default_limit or 0) < 0:
            raise ValueError("its title is empty, or its timeout or its limit is out of range")
        for method in ("availability", "look", "check", "invocation", "judge"):
            if not callable(getattr(agent, method)):
                raise TypeError(f"{method} cannot be called")

    def availability(self) -> Availability:
        try:
            return self._asked(Availability, self._agent.availability)
        except OffhandError as error:
            return Availability(installed=False, missing=error.message)

    def look(self) -> None:
        """As far as it can."""
        try:
            self._agent.look()
        except Exception:
            logger.exception("the plugin %s cannot look around", self._package)

    def check(self, order: WorkOrder) -> Checked:
        return self._asked(Checked, self._agent.check, order)

    def invocation(self, order: WorkOrder) -> Invocation:
        return self._asked(Invocation, self._agent.invocation, order)

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        try:
            return self._asked(Outcome, self._agent.judge, order, ended)
        except OffhandError as error:
            return Outcome(False, error.message, error.say, reason="internal")

    def _asked(self, kind: type[T], ask: Callable[..., object], *given: object) -> T:
        try:
            return _an(kind, ask(*given))
        except OffhandError:
            raise
        except Exception as error:
            logger.exception("the plugin %s failed", self._package)
            raise UnavailableError(f"The plugin {self._package} failed: {_short(error)}") from None


class BrokenPlugin:
    """Stands where a plugin could not be loaded, and says so."""

    description = "A plugin that cannot be used."
    default_timeout_seconds = 60.0
    default_limit: int | None = None
    needs_workspace = False
    continues = False

    def __init__(self, name: str, missing: str) -> None:
        self.name = name
        self.title = name
        self._missing = missing

    def availability(self) -> Availability:
        return Availability(installed=False, missing=self._missing)

    def look(self) -> None:
        """There is nothing to look for."""

    def check(self, order: WorkOrder) -> Checked:
        raise UnavailableError(self._missing)

    def invocation(self, order: WorkOrder) -> Invocation:
        raise UnavailableError(self._missing)

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        return Outcome(False, self._missing, self._missing, reason="agent_not_installed")


def _an(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"it answers {type(value).__name__} where {kind.__name__} is due")
    return value


def _free_name(wanted: str, taken: set[str]) -> str:
    base = wanted if NAME.fullmatch(wanted) else "plugin"
    names = (base, *(f"{base[:60]}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
