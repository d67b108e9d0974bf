"""What a caller may ask of a coding agent beside the words: the parameters of one order, checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_server.agents.params import refuse_unknown
from mcp_server.drivers.job import PROFILES, Profile
from mcp_server.errors import InvalidError
from mcp_server.settings import AgentSettings

PARAMS = ("profile", "model", "max_turns", "max_cost_usd", "in_place", "branch", "pull_request")
TURNS_LIMIT = 10_000
COST_LIMIT_USD = 10_000
PULL_REQUEST_LIMIT = 2**31 - 1
BRANCH_CHARACTERS = 200

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=\[\]-]{0,199}", re.ASCII)
_NOT_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|[./]$|^[-./]")


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of one order. `base` is a branch's name, `pull/7`, or None for HEAD."""

    profile: Profile
    model: str | None
    max_turns: int | None
    max_cost_usd: float | None
    in_place: bool
    base: str | None


def read_asked(params: Mapping[str, Any], own: AgentSettings, title: str, unheld: Collection[str] = ()) -> Asked:
    """The parameters of an order, with what the user set for the agent where the order says nothing.

    `unheld` are parameters that this agent cannot be held to.

    Raises:
        InvalidError: one is unknown, cannot be used, or does not go with another.
    """
    refuse_unknown(params, PARAMS)
    given = {name: value for name, value in params.items() if value is not None}
    for name in given:
        if name in unheld:
            raise _refused(name, f"{title} cannot be held to {name}.", f"Leave {name} out.")
    in_place = given.get("in_place", False)
    if not isinstance(in_place, bool):
        raise _refused("in_place", "in_place is neither true nor false.", "Give true or false.")
    return Asked(
        profile=_profile(given.get("profile", own.profile)),
        model=_model(given["model"]) if "model" in given else own.model,
        max_turns=_turns(given["max_turns"]) if "max_turns" in given else own.max_turns,
        max_cost_usd=_cost(given["max_cost_usd"]) if "max_cost_usd" in given else own.max_cost_usd,
        in_place=in_place,
        base=_base(given, in_place),
    )


def _profile(value: object) -> Profile:
    if value not in PROFILES:
        fix = f"Give one of: {', '.join(PROFILES)}."
        raise _refused("profile", f"There is no profile {str(value)[:100]!r}.", fix)
    return value


def _model(value: object) -> str:
    if not isinstance(value, str) or not _MODEL.fullmatch(value):
        fix = "Give the name of a model as the agent has it: letters, digits and . _ : / @ + = [ ] -, at most 200."
        raise _refused("model", f"No model is named {str(value)[:100]!r}.", fix)
    return value


def _turns(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TURNS_LIMIT:
        fix = f"Give a whole number from 1 to {TURNS_LIMIT:,}."
        raise _refused("max_turns", f"max_turns cannot be {str(value)[:100]!r}.", fix)
    return value


def _cost(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= COST_LIMIT_USD:
        fix = f"Give US dollars above 0 and up to {COST_LIMIT_USD:,}, such as 2.5."
        raise _refused("max_cost_usd", f"max_cost_usd cannot be {str(value)[:100]!r}.", fix)
    return float(value)


def _base(given: Mapping[str, Any], in_place: bool) -> str | None:
    named = [name for name in ("branch", "pull_request") if name in given]
    if not named:
        return None
    if len(named) > 1:
        raise _refused("pull_request", "Both a branch and a pull request are named.", "Leave one of them out.")
    if in_place:
        fix = "Leave in_place out: in a clone of its own it can work on another branch."
        raise _refused("in_place", f"In place it works on what is checked out, not on another {named[0]}.", fix)
    if named[0] == "branch":
        return _branch(given["branch"])
    number: object = given["pull_request"]
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= PULL_REQUEST_LIMIT:
        raise _refused(
            "pull_request", f"There is no pull request {str(number)[:100]!r}.", "Give its number, such as 7."
        )
    return f"pull/{number}"


def _branch(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= BRANCH_CHARACTERS or _NOT_IN_BRANCH.search(value):
        raise _refused("branch", f"No branch can be named {str(value)[:100]!r}.", "Give its name, such as main.")
    if re.fullmatch(r"pull/\d+", value):
        number = value.removeprefix("pull/")
        raise _refused("branch", f"{value} is a pull request.", f'Give {{"pull_request": {number}}} instead.')
    return value


def _refused(name: str, message: str, fix: str) -> InvalidError:
    return InvalidError(message, field=f"params.{name}", fix=fix)
