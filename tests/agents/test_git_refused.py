"""What git is never asked to do, and how that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_server.agent import WorkOrder
from mcp_server.errors import ForbiddenError, InvalidError, OffhandError


def refusal(bench: Any, *command: str) -> OffhandError:
    with pytest.raises((InvalidError, ForbiddenError)) as caught:
        bench.agent.check(bench.order(*command))
    error = caught.value
    assert error.issues[0].field == "params.command"
    assert error.issues[0].fix
    assert error.say
    return error


@pytest.mark.parametrize(
    "option",
    [
        "-c",
        "-calias.x=!sh",
        "-C",
        "-p",
        "--paginate",
        "--git-dir=/x",
        "--git-dir",
        "--work-tree=/x",
        "--exec-path=/x",
        "--exec-path",
        "--config-env=a=b",
        "--namespace=x",
        "--super-prefix=x",
        "--attr-source=x",
        "--bare",
        "--list-cmds=alias",
        "--html-path",
        "--help",
        "-h",
    ],
)
def test_options_before_the_subcommand_that_change_what_runs_are_refused(shared_repo: Any, option: str):
    assert "not taken before the subcommand" in refusal(shared_repo, "git", option, "status").message


def test_an_alias_on_the_command_line_does_not_run(shared_repo: Any):
    error = refusal(shared_repo, "git", "-c", "alias.x=!sh", "x")
    assert isinstance(error, ForbiddenError)


@pytest.mark.parametrize("option", ["--no-pager", "-P", "--literal-pathspecs", "--no-optional-locks"])
def test_harmless_options_before_the_subcommand_are_taken(shared_repo: Any, option: str):
    assert shared_repo.reads("git", option, "status")
    assert shared_repo.run("git", option, "status").completed


@pytest.mark.parametrize(
    "command",
    [
        ("grep", "-O", "x"),
        ("grep", "-Osh", "x"),
        ("grep", "-nO", "x"),
        ("grep", "--open-files-in-pager", "x"),
        ("grep", "--open-files-in-pager=sh", "x"),
        ("grep", "--op=sh", "x"),
        ("grep", "x", "-O"),
        ("grep", "-e", "--", "-Osh"),
        ("grep", "--no-index", "x"),
        ("grep", "--textconv", "x"),
        ("log", "--output=x"),
        ("log", "--outp=x"),
        ("log", "--output", "x"),
        ("log", "-p", "--ext-diff"),
        ("log", "-p", "--ext"),
        ("log", "--no-no-ext-diff"),
        ("diff", "--output=x"),
        ("diff", "--no-index", "a", "b"),
        ("diff", "--no-ind", "a", "b"),
        ("diff", "--textconv"),
        ("diff", "--textc"),
        ("show", "--output=x"),
        ("show", "--textconv", "HEAD:one.txt"),
        ("shortlog", "--output=x"),
        ("stash", "show", "--output=x"),
        ("format-patch", "-o", "/x", "HEAD"),
        ("format-patch", "-1o/x"),
        ("format-patch", "--output-directory=/x", "HEAD"),
        ("cat-file", "--textconv", "HEAD:one.txt"),
        ("cat-file", "--filters", "HEAD:one.txt"),
        ("fetch", "--upload-pack=x"),
        ("fetch", "--upl=x"),
        ("pull", "--upload-pack", "x"),
        ("clone", "-u", "x", "https://x.example/y"),
        ("clone", "-ux", "https://x.example/y"),
        ("clone", "-c", "core.fsmonitor=x", "https://x.example/y"),
        ("clone", "--config=core.fsmonitor=x", "https://x.example/y"),
        ("clone", "--template=/x", "https://x.example/y"),
        ("init", "--template=/x"),
        ("push", "--receive-pack=x"),
        ("push", "--exec=x"),
        ("ls-remote", "--exec=x", "."),
        ("ls-remote", "--upload-pack=x", "."),
        ("ls-remote", "ext::sh -c x"),
        ("fetch", "ext::sh -c x"),
        ("clone", "ext::sh -c x"),
        ("clone", "fd::3"),
        ("remote", "add", "x", "ext::sh -c x"),
        ("submodule", "add", "ext::sh -c x"),
        ("rebase", "-x", "sh", "HEAD~1"),
        ("rebase", "-ix", "sh", "HEAD~1"),
        ("rebase", "--exec=sh", "HEAD~1"),
        ("rebase", "--exe", "sh", "HEAD~1"),
        ("bisect", "run", "sh"),
        ("bisect", "visualize"),
        ("submodule", "foreach", "sh"),
        ("submodule", "--quiet", "foreach", "sh"),
        ("log", "--help"),
        ("config", "--global", "a.b", "c"),
        ("config", "--file=/x", "a.b", "c"),
        ("config", "-f", "/x", "a.b", "c"),
        ("init", "/elsewhere"),
        ("init", "../elsewhere"),
        ("init", "--separate-git-dir=/elsewhere"),
        ("clone", "https://x.example/y", "/elsewhere"),
        ("clone", "-b", "main", "https://x.example/y", "../elsewhere"),
        ("clone", "--separate-git-dir", "/elsewhere", "https://x.example/y"),
        ("worktree", "add", "/elsewhere"),
        ("worktree", "add", "-b", "x", "../elsewhere"),
        ("help", "log"),
        ("difftool",),
        ("mergetool",),
        ("filter-branch", "--tree-filter", "sh"),
        ("send-email",),
        ("instaweb",),
        ("whatchanged",),
        ("hook", "run", "pre-commit"),
        ("for-each-repo", "--config=x", "status"),
        ("credential", "fill"),
        ("archive", "--output=/x", "HEAD"),
        ("upload-pack", "."),
        ("remote-ext", "x", "sh"),
        ("x",),
        ("stat",),
        ("",),
        ("/usr/bin/env",),
        ("../git-x",),
    ],
)
def test_what_runs_other_programs_or_works_elsewhere_is_refused(shared_repo: Any, command: tuple[str, ...]):
    refusal(shared_repo, "git", *command)


@pytest.mark.parametrize(
    "command",
    [
        ("log", "--text", "-p"),
        ("grep", "--only-matching", "-e", "x"),
        ("grep", "-eO", "x"),
        ("grep", "ext::x"),
        ("clone", "https://x.example/y", "inside"),
        ("clone", "-b", "main", "https://x.example/y"),
        ("init", "inside"),
        ("worktree", "add", "-b", "x", "inside"),
        ("rebase", "-i", "HEAD~1"),
        ("config", "user.name"),
        ("config", "--get", "user.name"),
        ("push", "origin", "main"),
        ("commit", "-m", "ext::x and -O"),
        ("diff", "--", "./-O"),
        ("submodule", "update", "--init"),
    ],
)
def test_what_is_ordinary_work_is_not_refused(shared_repo: Any, command: tuple[str, ...]):
    shared_repo.agent.check(shared_repo.order("git", *command))


def test_a_folder_outside_is_refused_through_a_link(bench: Any, tmp_path: Path):
    (bench.workspace / "link").symlink_to(tmp_path)
    refusal(bench, "git", "init", "link/x")


def test_an_alias_of_the_repository_does_not_run(repo: Any, git_in: Any):
    git_in(repo.workspace, "config", "alias.hello", "!touch ran")
    assert "shell agent" in refusal(repo, "git", "hello").issues[0].fix


def test_a_misspelled_command_is_guessed(shared_repo: Any):
    assert "Did you mean 'status'?" in refusal(shared_repo, "git", "stauts").issues[0].fix


@pytest.mark.parametrize(
    ("params", "field", "right"),
    [
        ({}, "params.command", "git"),
        ({"command": "git log --format='%h %s'"}, "params.command", '["git", "log", "--format=%h %s"]'),
        ({"command": "git 'log"}, "params.command", "'log"),
        ({"command": ""}, "params.command", "git"),
        ({"command": []}, "params.command", "git"),
        ({"command": {"git": 1}}, "params.command", "list"),
        ({"command": None}, "params.command", "list"),
        ({"command": ["git", 5]}, "params.command", '"5"'),
        ({"command": ["git"]}, "params.command", "git"),
        ({"command": ["log"]}, "params.command", '["git", "status"]'),
        ({"command": ["/usr/bin/git", "log"]}, "params.command", "git"),
        ({"command": ["git", "log\0"]}, "params.command", "Leave"),
        ({"command": ["git", "log\ud800"]}, "params.command", "Leave"),
        ({"command": ["git", "log", "x" * 200_000]}, "params.command", "file"),
        ({"command": ["git", "log"], "comand": 1}, "params.comand", "'command'"),
        ({"command": ["git", "log"], "env": {}}, "params.env", "command"),
    ],
)
def test_a_command_of_the_wrong_form_names_its_field_and_the_remedy(
    shared_repo: Any, params: dict[str, Any], field: str, right: str
):
    with pytest.raises(InvalidError) as caught:
        shared_repo.agent.check(shared_repo.order(params=params))
    assert caught.value.issues[0].field == field
    assert right in caught.value.issues[0].fix


def test_every_unknown_parameter_is_named(shared_repo: Any):
    with pytest.raises(InvalidError) as caught:
        shared_repo.agent.check(shared_repo.order(params={"command": ["git", "log"], "a": 1, "b": 2}))
    assert [issue.field for issue in caught.value.issues] == ["params.a", "params.b"]


def test_without_a_workspace_git_has_no_place(shared_repo: Any):
    with pytest.raises(InvalidError) as caught:
        shared_repo.agent.check(WorkOrder(params={"command": ["git", "status"]}))
    assert caught.value.issues[0].field == "workspace"
