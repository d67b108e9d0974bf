"""The shell agent runs an argument vector, and no shell."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.agent import Exit, WorkOrder
from mcp_server.agents.shell import ShellAgent
from mcp_server.errors import ForbiddenError, InvalidError


@pytest.fixture
def shell(workspace: Path, make_bench: Any) -> Any:
    return make_bench(ShellAgent((), lambda: [workspace]), workspace)


def test_it_says_that_it_worked_and_the_last_line(shell: Any):
    outcome = shell.run("printf", "one\ntwo\n\n")
    assert outcome.completed
    assert outcome.text == "one\ntwo"
    assert outcome.say == "It worked: two."


def test_success_without_output_is_said(shell: Any):
    assert shell.run("true").say == "It worked."


def test_failure_is_told_by_the_exit_code_and_the_last_complaint(shell: Any):
    outcome = shell.run("sh", "-c", "echo out; echo first >&2; echo 'no such thing' >&2; exit 3")
    assert not outcome.completed
    assert outcome.reason == "exit_code"
    assert not outcome.may_pass
    assert outcome.say == "It failed with exit code 3: no such thing."


def test_an_end_by_a_signal_is_a_failure(shell: Any):
    outcome = shell.run("sh", "-c", "kill -9 $$")
    assert not outcome.completed
    assert outcome.reason == "signal"
    assert outcome.say == "It was stopped by a signal."


def test_nothing_is_expanded(shell: Any):
    assert shell.run("echo", "$HOME", "*", "; rm x").text == "$HOME * ; rm x"


def test_it_runs_in_the_folder_of_the_order(shell: Any, workspace: Path):
    below = workspace / "below"
    below.mkdir()
    assert shell.run("pwd", cwd=below).text == str(below)


def test_it_never_counts_as_reading(shell: Any):
    assert not shell.reads("true")
    assert shell.agent.check(shell.order("true", "x")).argv == ("true", "x")


def test_no_secret_of_the_server_reaches_the_program(workspace: Path, make_bench: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("PASSED", "on")
    text = make_bench(ShellAgent(("PASSED",), lambda: [workspace]), workspace).run("env").text
    assert "API_TOKEN" not in text
    assert "PASSED=on" in text


def refused(shell: Any, *command: str) -> InvalidError | ForbiddenError:
    with pytest.raises((InvalidError, ForbiddenError)) as caught:
        shell.agent.check(shell.order(*command))
    assert caught.value.issues[0].field == "params.command"
    assert caught.value.issues[0].fix
    return caught.value


@pytest.mark.parametrize("program", ["no-such-program", "/no/such", "./no-such", "", "dir/"])
def test_a_program_that_does_not_exist_is_refused(shell: Any, program: str):
    refused(shell, program)


def test_a_program_in_a_workspace_is_refused(shell: Any, workspace: Path):
    program = workspace / "run"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("./run", str(program), f"../{workspace.name}/run"):
        assert isinstance(refused(shell, name), ForbiddenError)


def test_a_program_in_a_workspace_is_refused_through_links_either_way(shell: Any, workspace: Path, tmp_path: Path):
    program = workspace / "run"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "out").symlink_to(program)
    (workspace / "in").symlink_to(shutil.which("true") or "")
    assert isinstance(refused(shell, str(tmp_path / "out")), ForbiddenError)
    assert isinstance(refused(shell, "./in"), ForbiddenError)


def test_a_program_in_a_workspace_is_refused_by_way_of_the_path(
    shell: Any, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    program = workspace / "true"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{workspace}:{os.environ['PATH']}")
    refused(shell, "true")


def test_the_program_is_looked_at_again_when_it_is_run(workspace: Path, make_bench: Any, tmp_path: Path):
    roots = [workspace]
    shell = make_bench(ShellAgent((), lambda: roots), workspace)
    program = tmp_path / "tools" / "run"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    order = shell.order(str(program))
    shell.agent.check(order)
    roots.append(program.parent)
    with pytest.raises(ForbiddenError):
        shell.agent.invocation(order)


@pytest.mark.parametrize("command", ["make test", [], None, 7, ["make", None], [["make"]]])
def test_a_command_that_is_no_list_of_strings_is_refused(shell: Any, command: Any):
    with pytest.raises(InvalidError) as caught:
        shell.agent.check(shell.order(params={"command": command}))
    assert caught.value.issues[0].field == "params.command"
    assert caught.value.issues[0].fix


def test_without_a_workspace_it_has_no_place(shell: Any):
    with pytest.raises(InvalidError) as caught:
        shell.agent.check(WorkOrder(params={"command": ["true"]}))
    assert caught.value.issues[0].field == "workspace"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["command", "x"]), JSON | st.lists(st.text()), max_size=2))
def test_whatever_params_are_given_the_refusal_is_ours(params: dict[str, Any]):
    agent = ShellAgent((), lambda: [Path("/nowhere")])
    order = WorkOrder(params=params, workspace=Path("/nowhere"), cwd=Path("/nowhere"))
    try:
        agent.check(order)
    except (InvalidError, ForbiddenError) as error:
        refusal = error
    else:
        return
    assert refusal.issues


@given(st.text(), st.text(), st.integers(0, 255))
def test_whatever_a_program_writes_something_short_is_said(stdout: str, stderr: str, returncode: int):
    outcome = ShellAgent((), list).judge(WorkOrder(), Exit("exited", returncode, stdout, stderr))
    assert outcome.completed == (returncode == 0)
    assert 0 < len(outcome.say.split()) <= 40
    assert not set(outcome.say) & set("*_#|<>[]{}`\n")
