"""Who may do what. Rules of the user's come first, then ours; the first that matches decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mcp_server.callers import Caller, Scope
from mcp_server.errors import ForbiddenError
from mcp_server.settings import Decision, PolicyRule

BUILT_IN_RULES = (
    PolicyRule(decision="allow", level="desk"),
    PolicyRule(decision="allow", level="phone", agent="echo"),
    PolicyRule(decision="ask", level="phone"),
    PolicyRule(decision="deny", level="hook"),
)
"""After the rules of the settings. What a phone wants is allowed before these are looked at where it only reads, or
where what it changes stays in a place of its own."""


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody wants done. `argv` is empty for agents that are told in words."""

    agent: str
    argv: tuple[str, ...]
    workspace: str | None
    reads_only: bool
    contained: bool = False


class Policy:
    """The rules of one server."""

    def __init__(self, rules: Sequence[PolicyRule]) -> None:
        self._rules = tuple(rules)

    def decide(self, caller: Caller, action: Action) -> Decision:
        """What the first matching rule says."""
        for rule in self._rules:
            if _matches(rule, caller, action):
                return rule.decision
        if caller.level == "phone" and (action.reads_only or action.contained):
            return "allow"
        return next(rule.decision for rule in BUILT_IN_RULES if _matches(rule, caller, action))

    def leans_on_containment(self, caller: Caller, action: Action) -> bool:
        """Whether it is allowed only because what it changes stays in a place of its own."""
        return action.contained and self.decide(caller, replace(action, contained=False)) != "allow"

    def asks(self, caller: Caller, action: Action) -> bool:
        """Whether the user must be asked first.

        Raises:
            ForbiddenError: it is not allowed at all.
        """
        decision = self.decide(caller, action)
        if decision == "deny":
            what = "This command" if action.argv else f"Work for {action.agent}"
            raise ForbiddenError(
                f"{what} is denied by the policy.", field="agent", fix="Change the [[policy]] rules in offhand.toml."
            )
        return decision == "ask"


def require_scope(caller: Caller, scope: Scope) -> None:
    """Pass, or raise ForbiddenError: the key was not made for this."""
    if scope not in caller.scopes:
        raise ForbiddenError(
            f"This needs the scope {scope}; the key {caller.name} does not have it.",
            field="X-API-Key",
            fix=f"Make a key for it on the machine: offhand key create NAME --scope {scope}.",
            say="That key may not do this.",
        )


def _matches(rule: PolicyRule, caller: Caller, action: Action) -> bool:
    return (
        rule.level in (None, caller.level)
        and rule.agent in (None, action.agent)
        and rule.workspace in (None, action.workspace)
        and (rule.command is None or command_matches(rule.command, action.argv))
    )


def command_matches(pattern: Sequence[str], argv: Sequence[str]) -> bool:
    """A last `*` stands for any rest, also for none; any other `*` for exactly one argument."""
    if not argv:
        return False
    if pattern[-1] == "*":
        head = pattern[:-1]
        return len(argv) >= len(head) and _each(head, argv[: len(head)])
    return len(argv) == len(pattern) and _each(pattern, argv)


def _each(pattern: Sequence[str], argv: Sequence[str]) -> bool:
    return all(wanted in ("*", given) for wanted, given in zip(pattern, argv, strict=True))
