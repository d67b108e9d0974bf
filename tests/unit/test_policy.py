"""Who may do what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.callers import DESK, SCOPES, Caller, Level, Scope
from mcp_server.errors import ForbiddenError
from mcp_server.policy import Action, Policy, command_matches, require_scope
from mcp_server.settings import Decision, PolicyRule

PHONE = Caller("phone", "my phone", frozenset({"read", "submit"}), key_id="key_1")
HOOK = Caller("hook", "github", frozenset({"submit"}))
CALLERS = {"desk": DESK, "phone": PHONE, "hook": HOOK}

GIT_STATUS = Action("git", ("git", "status"), "work", reads_only=True)
GIT_PUSH = Action("git", ("git", "push"), "work", reads_only=False)
RM = Action("shell", ("rm", "-rf", "x"), "work", reads_only=False)
CLAUDE = Action("claude_code", (), "work", reads_only=False, contained=True)
CLAUDE_AT_LARGE = Action("claude_code", (), "work", reads_only=False)


@pytest.mark.parametrize(
    ("level", "action", "decision"),
    [
        ("desk", RM, "allow"),
        ("desk", GIT_PUSH, "allow"),
        ("phone", GIT_STATUS, "allow"),
        ("phone", GIT_PUSH, "ask"),
        ("phone", RM, "ask"),
        ("phone", CLAUDE, "allow"),
        ("phone", CLAUDE_AT_LARGE, "ask"),
        ("desk", CLAUDE_AT_LARGE, "allow"),
        ("phone", Action("echo", ("echo",), None, reads_only=True), "allow"),
        ("phone", Action("something new", (), None, reads_only=False), "ask"),
        ("hook", GIT_STATUS, "deny"),
        ("hook", CLAUDE, "deny"),
    ],
)
def test_the_built_in_rules(level: Level, action: Action, decision: Decision):
    assert Policy([]).decide(CALLERS[level], action) == decision


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (PolicyRule(decision="deny"), True),
        (PolicyRule(decision="deny", level="phone"), True),
        (PolicyRule(decision="deny", level="desk"), False),
        (PolicyRule(decision="deny", agent="git"), True),
        (PolicyRule(decision="deny", agent="shell"), False),
        (PolicyRule(decision="deny", workspace="work"), True),
        (PolicyRule(decision="deny", workspace="other"), False),
        (PolicyRule(decision="deny", command=("git", "*")), True),
        (PolicyRule(decision="deny", command=("git", "log", "*")), False),
        (PolicyRule(decision="deny", level="phone", agent="git", workspace="work", command=("git", "status")), True),
        (PolicyRule(decision="deny", level="phone", agent="git", workspace="other", command=("git", "status")), False),
    ],
)
def test_a_rule_matches_where_all_that_it_names_matches(rule: PolicyRule, matches: bool):
    assert Policy([rule]).decide(PHONE, GIT_STATUS) == ("deny" if matches else "allow")


def test_the_users_rules_come_before_ours_and_the_first_that_matches_decides():
    allow = PolicyRule(decision="allow", agent="shell", command=("pytest", "*"))
    deny = PolicyRule(decision="deny", agent="shell")
    pytest_run = Action("shell", ("pytest", "-q"), "work", reads_only=False)
    assert Policy([allow, deny]).decide(PHONE, pytest_run) == "allow"
    assert Policy([allow, deny]).decide(PHONE, RM) == "deny"
    assert Policy([deny, allow]).decide(PHONE, pytest_run) == "deny"
    assert Policy([PolicyRule(decision="deny")]).decide(DESK, RM) == "deny", "also at the desk"
    assert Policy([PolicyRule(decision="ask")]).decide(PHONE, GIT_STATUS) == "ask", "also what only reads"
    assert Policy([PolicyRule(decision="allow", level="hook")]).decide(HOOK, GIT_STATUS) == "allow"


@pytest.mark.parametrize(
    ("pattern", "argv", "matches"),
    [
        (("pytest", "*"), ("pytest",), True),
        (("pytest", "*"), ("pytest", "-q", "x"), True),
        (("pytest", "*"), ("pytest-evil",), False),
        (("pytest",), ("pytest", "-q"), False),
        (("git", "*", "x"), ("git", "log", "x"), True),
        (("git", "*", "x"), ("git", "x"), False),
        (("git", "*", "x"), ("git", "a", "b", "x"), False),
        (("*",), ("anything", "at", "all"), True),
        (("*",), (), False),
        (("git",), (), False),
        (("git", "log"), ("git log",), False),
        (("g*",), ("git",), False),
        (("*", "*"), ("git",), True),
        (("*", "status"), ("git", "status"), True),
    ],
)
def test_patterns_are_on_argv(pattern: tuple[str, ...], argv: tuple[str, ...], matches: bool):
    assert command_matches(pattern, argv) is matches


@given(st.lists(st.text(), min_size=1), st.lists(st.text()))
def test_a_pattern_without_stars_matches_itself_and_with_a_last_star_any_rest(head: list[str], rest: list[str]):
    plain = [word.replace("*", "x") for word in head]
    assert command_matches(plain, plain)
    assert command_matches([*plain, "*"], plain + rest)
    assert not command_matches(plain, [*plain, "more"])


def test_a_rule_of_the_users_holds_also_for_what_is_contained():
    assert Policy([PolicyRule(decision="ask", agent="claude_code")]).decide(PHONE, CLAUDE) == "ask"
    assert Policy([PolicyRule(decision="deny", level="phone")]).decide(PHONE, CLAUDE) == "deny"
    assert Policy([PolicyRule(decision="allow", level="phone")]).decide(PHONE, CLAUDE_AT_LARGE) == "allow"
    assert Policy([PolicyRule(decision="ask")]).decide(DESK, CLAUDE) == "ask", "also at the desk"


def test_a_rule_about_commands_says_nothing_of_an_agent_that_is_told_in_words():
    rule = PolicyRule(decision="allow", agent="claude_code", command=("*",))
    assert Policy([rule]).decide(PHONE, CLAUDE_AT_LARGE) == "ask"


def test_the_user_is_asked_where_the_rules_say_so():
    assert Policy([]).asks(PHONE, RM)
    assert not Policy([]).asks(PHONE, GIT_STATUS)
    assert not Policy([]).asks(DESK, RM)


def test_what_is_denied_is_refused_and_says_where_the_rules_are():
    with pytest.raises(ForbiddenError) as caught:
        Policy([]).asks(HOOK, CLAUDE)
    assert "denied" in caught.value.message
    assert "offhand.toml" in caught.value.issues[0].fix


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_may_only_do_what_it_was_made_for(scope: Scope):
    require_scope(DESK, scope)
    if scope in PHONE.scopes:
        require_scope(PHONE, scope)
        return
    with pytest.raises(ForbiddenError) as caught:
        require_scope(PHONE, scope)
    assert f"--scope {scope}" in caught.value.issues[0].fix
