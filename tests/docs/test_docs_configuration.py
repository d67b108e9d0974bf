"""docs/configuration.md is in step with the settings, the rules, the keys and what lies in a home."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from mcp_server.callers import DESK, SCOPES, Caller
from mcp_server.keys import DEFAULT_SCOPES, SEED_MINIMUM_CHARACTERS
from mcp_server.paths import home_folder
from mcp_server.policy import Action, Policy
from mcp_server.settings import PolicyRule, RetentionSettings, Settings, load_settings
from tests.docs.conftest import Served
from tests.docs.pages import blocks_in, names, page, section, table

PAGE = page("docs/configuration.md")
PHONE = Caller("phone", "phone", frozenset(DEFAULT_SCOPES), key_id="key")


def test_the_table_has_every_setting_with_its_variable_and_its_default() -> None:
    rows = {names(row[0])[0]: row for row in table(section(PAGE, "## Every setting"), "key in `offhand.toml`")}
    assert list(rows) == list(Settings.model_fields)
    for name, row in rows.items():
        assert row[1] == f"`OFFHAND_{name.upper()}`"
        default = Settings.model_fields[name].default
        if name == "home":
            assert row[2] == "the platform's folder for user data"
        elif name == "retention":
            assert names(row[0]) == ["retention"]
        elif default is None or default in ({}, ()):
            assert row[2] == "none"
        else:
            assert names(row[2]) == [f"{default:g}" if isinstance(default, float) else str(default)]


@pytest.mark.parametrize("given", ["~/trial", "trial", "./trial/../trial"])
def test_a_home_may_be_relative_or_begin_with_a_tilde(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFHAND_HOME", given)
    assert load_settings().home == home_folder() == tmp_path / "trial"


def test_the_complete_file_sets_every_setting_that_belongs_into_it() -> None:
    complete = tomllib.loads(next(block.text for block in blocks_in(PAGE) if block.language == "toml"))
    assert set(complete) == set(Settings.model_fields) - {"home", "api_key"}


def test_the_table_of_the_retention_has_every_key_with_its_default() -> None:
    rows = table(section(PAGE, "## What is kept for how long"), "key in `[retention]`")
    assert {names(row[0])[0]: int(row[1]) for row in rows} == RetentionSettings().model_dump()


def test_the_table_of_a_rule_has_every_field() -> None:
    rows = table(section(PAGE, "## Rules"), "field")
    assert {names(row[0])[0] for row in rows} == set(PolicyRule.model_fields)


def test_the_scopes_and_the_limits_of_keys_are_those_of_the_code() -> None:
    text = section(PAGE, "## Keys and scopes")
    assert [names(row[0])[0] for row in table(text, "scope")] == list(SCOPES)
    assert "Without `--scope` a key gets " + " and ".join(f"`{scope}`" for scope in DEFAULT_SCOPES) in text
    assert f"({SEED_MINIMUM_CHARACTERS} characters or more" in PAGE


@pytest.mark.parametrize(
    ("caller", "action", "decision"),
    [
        (PHONE, Action("git", ("git", "log"), "w", reads_only=True), "allow"),
        (DESK, Action("shell", ("rm",), "w", reads_only=False), "allow"),
        (PHONE, Action("echo", ("echo",), None, reads_only=False), "allow"),
        (PHONE, Action("claude_code", (), None, reads_only=False, contained=True), "allow"),
        (PHONE, Action("claude_code", (), None, reads_only=False), "ask"),
        (PHONE, Action("git", ("git", "push"), "w", reads_only=False), "ask"),
        (PHONE, Action("shell", ("ls",), "w", reads_only=False), "ask"),
        (Caller("hook", "github", frozenset(SCOPES)), Action("shell", ("ls",), "w", reads_only=False), "deny"),
    ],
)
def test_the_built_in_rules_decide_as_the_page_says(caller: Caller, action: Action, decision: str) -> None:
    assert Policy(()).decide(caller, action) == decision


def test_the_rules_of_the_examples_decide_as_the_page_says() -> None:
    shown = [tomllib.loads(block.text) for block in blocks_in(section(PAGE, "## Rules")) if block.language == "toml"]
    pytest_rule, pulling, diary = (Policy([PolicyRule(**rule) for rule in each["policy"]]) for each in shown)
    for command, decision in [(("pytest",), "allow"), (("pytest", "-k", "x"), "allow"), (("py", "test"), "ask")]:
        assert pytest_rule.decide(PHONE, Action("shell", command, "w", reads_only=False)) == decision
    for command, decision in [
        (("git", "fetch"), "allow"),
        (("git", "pull", "--ff-only"), "allow"),
        (("git", "pull"), "ask"),
    ]:
        assert pulling.decide(PHONE, Action("git", command, "offhand", reads_only=False)) == decision
    assert diary.decide(PHONE, Action("git", ("git", "log"), "diary", reads_only=True)) == "deny"


def test_everything_that_a_server_leaves_in_its_home_is_on_the_page(served: Served) -> None:
    rows = table(section(PAGE, "## What lies in OFFHAND_HOME"), "name")
    shown = {name.rstrip("/") for row in rows for name in names(row[0])}
    for name in list(shown):
        if name == "offhand.db":
            shown |= {f"{name}{suffix}" for suffix in ("-wal", "-shm", ".lock")}
    lying = {str(path.relative_to(served.home)) for path in _files(served.home)}
    assert lying <= shown, lying - shown
    (row,) = (row for row in rows if names(row[0]) == ["server.json"])
    running = json.loads((served.home / "server.json").read_text("utf-8"))
    assert set(names(row[1])) | {"mcp_socket", "http_socket"} == set(running)


def _files(home: Path) -> list[Path]:
    """What lies in a home; folders of attempts come and go."""
    return [path for path in home.iterdir() if path.name != "logs"] + list((home / "logs").iterdir())


def test_the_first_start_prints_what_the_readme_promises(served: Served) -> None:
    assert "shown only this once" in served.printed
    assert f"{served.url}/webhook" in served.printed
    assert f"curl -s {served.url}/webhook" in served.printed
