"""Which sandbox an agent gets, and what is said where it gets none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcp_server.agents import isolation
from mcp_server.agents.isolation import SETTINGS_OF_AGENTS, bubblewrap, sandbox_for
from mcp_server.settings import Settings


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Of an agent, with a program named bwrap that works."""
    return {"PATH": str(program(tmp_path / "bin", "exit 0")), "HOME": str(tmp_path / "user")}


def program(folder: Path, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bwrap").chmod(0o755)
    return folder


def test_an_agent_is_kept_from_what_is_ours_and_from_secrets(settings: Settings, env: dict[str, str]) -> None:
    found = sandbox_for(settings, (".claude", ".claude.json"), env)
    assert found.contained
    assert (found.note, found.missing) == ("", "")
    home = Path(env["HOME"])
    assert found.sandbox.bubblewrap == f"{env['PATH']}/bwrap"
    assert {str(settings.home), str(home / ".ssh"), str(home / ".config/gh"), str(home / ".codex")} <= set(
        found.sandbox.hidden
    )
    assert found.sandbox.writable == (str(home / ".claude"), str(home / ".claude.json"))
    assert str(home / ".claude/settings.json") in found.sandbox.readonly
    assert not found.sandbox.strict


def test_the_folder_of_the_sockets_is_hidden_where_it_is_another(tmp_path: Path, env: dict[str, str]) -> None:
    deep = tmp_path / ("x" * 100)
    hidden = sandbox_for(Settings(home=deep), (), env).sandbox.hidden
    assert len([path for path in hidden if "offhand-" in path and not path.startswith(str(deep))]) == 1


def test_state_that_the_user_moved_is_found(settings: Settings, env: dict[str, str]) -> None:
    found = sandbox_for(settings, (".codex",), env | {"CODEX_HOME": "/elsewhere/codex"}).sandbox
    assert found.writable == ("/elsewhere/codex",)
    assert "/elsewhere/codex/config.toml" in found.readonly


def test_own_state_is_never_hidden(settings: Settings, env: dict[str, str]) -> None:
    for name in SETTINGS_OF_AGENTS:
        found = sandbox_for(settings, (name,), env).sandbox
        assert not set(found.writable) & set(found.hidden)


def test_off_is_said(settings: Settings, env: dict[str, str]) -> None:
    found = sandbox_for(settings.model_copy(update={"sandbox": "off"}), (), env)
    assert (found.sandbox.bubblewrap, found.contained, found.missing) == (None, False, "")
    assert "without a sandbox" in found.note


@pytest.mark.parametrize("how", ["not there", "does not work", "does not start"])
def test_without_bubblewrap_auto_goes_on_and_strict_does_not(
    settings: Settings, env: dict[str, str], tmp_path: Path, how: str
) -> None:
    match how:
        case "not there":
            env["PATH"] = str(tmp_path)
        case "does not work":
            program(tmp_path / "bin", "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
        case _:
            (tmp_path / "bin/bwrap").write_bytes(b"\x7fELF nonsense")
    auto = sandbox_for(settings, (), env)
    assert (auto.sandbox.bubblewrap, auto.contained, auto.missing) == (None, False, "")
    assert "without a sandbox" in auto.note
    assert "bubblewrap" in auto.note
    strict = sandbox_for(settings.model_copy(update={"sandbox": "strict"}), (), env)
    assert not strict.contained
    assert 'sandbox = "strict"' in strict.missing
    if how == "does not work":
        assert "No permissions to create new namespace" in strict.missing


def test_strict_hides_the_home(settings: Settings, env: dict[str, str]) -> None:
    assert sandbox_for(settings.model_copy(update={"sandbox": "strict"}), (), env).sandbox.strict


def test_it_is_tried_once_for_each_program(tmp_path: Path, env: dict[str, str]) -> None:
    count = tmp_path / "count"
    program(tmp_path / "bin", f"echo x >> {count}")
    for _ in range(3):
        assert bubblewrap(env["PATH"])[0]
    assert count.read_text() == "x\n"
    os.utime(tmp_path / "bin/bwrap", (1, 1))
    assert bubblewrap(env["PATH"])[0]
    assert count.read_text() == "x\nx\n"


def test_macos_has_no_bubblewrap(settings: Settings, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.sys, "platform", "darwin")
    assert "for Linux" in sandbox_for(settings, (), env).note


def test_a_program_in_a_folder_that_is_no_full_path_is_not_used() -> None:
    assert bubblewrap("bin:.")[0] is None
