"""The git agent at work: what it answers, and what it says."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.agent import Exit, WorkOrder
from mcp_server.agents import git_refused
from mcp_server.agents.git import GitAgent
from mcp_server.errors import ForbiddenError

GitIn = Callable[..., str]


def folder_of(bench: Any) -> Path:
    return bench.workspace


def test_status_of_a_clean_repository_is_said_in_a_sentence(repo: Any):
    outcome = repo.run("git", "status")
    assert outcome.completed
    assert outcome.say == "On branch main, everything committed."
    assert outcome.text.startswith("On branch main")


@pytest.mark.parametrize(
    "form", [(), ("-s", "-b"), ("--porcelain", "--branch"), ("--porcelain=v2", "--branch"), ("-zb",)]
)
def test_status_counts_what_changed_in_every_form(repo: Any, git_in: GitIn, form: tuple[str, ...]):
    folder = folder_of(repo)
    (folder / "one.txt").write_text("other\n")
    (folder / "new one.txt").write_text("new\n")
    git_in(folder, "mv", "two.txt", "drei ü.txt")
    assert repo.run("git", "status", *form).say == "On branch main, 2 files changed, 1 untracked."


def test_a_file_that_is_staged_and_changed_again_counts_once(repo: Any, git_in: GitIn):
    folder = folder_of(repo)
    (folder / "one.txt").write_text("a\n")
    git_in(folder, "add", ".")
    (folder / "one.txt").write_text("b\n")
    assert repo.run("git", "status").say == "On branch main, 1 file changed."


def test_status_before_the_first_commit(bench: Any, git_in: GitIn):
    git_in(folder_of(bench), "init", "-q")
    for form in ([], ["-sb"], ["--porcelain=v2", "--branch"]):
        assert bench.run("git", "status", *form).say == "On branch main, no commits yet, nothing to commit."


def test_status_on_no_branch(repo: Any, git_in: GitIn):
    git_in(folder_of(repo), "checkout", "-q", "--detach")
    for form in ([], ["-sb"], ["--porcelain=v2", "--branch"]):
        assert repo.run("git", "status", *form).say == "On no branch, everything committed."


@pytest.mark.parametrize("form", [(), ("-sb",), ("--porcelain=v2", "--branch")])
def test_status_tells_conflicts(repo: Any, git_in: GitIn, form: tuple[str, ...]):
    folder = folder_of(repo)
    git_in(folder, "checkout", "-qb", "side", "HEAD~1")
    (folder / "two.txt").write_text("side\n")
    git_in(folder, "add", ".")
    git_in(folder, "commit", "-qm", "Side")
    git_in(folder, "merge", "main", fails=True)
    assert "1 file in conflict" in repo.run("git", "status", *form).say


def test_status_tells_how_far_ahead_the_branch_is(repo: Any, git_in: GitIn, tmp_path: Path):
    folder = folder_of(repo)
    git_in(folder, "clone", "-q", "--bare", ".", str(tmp_path / "remote.git"))
    git_in(folder, "remote", "add", "origin", str(tmp_path / "remote.git"))
    git_in(folder, "fetch", "-q")
    git_in(folder, "branch", "-q", "-u", "origin/main")
    git_in(folder, "commit", "-q", "--allow-empty", "-m", "More")
    for form in ([], ["-sb"]):
        assert repo.run("git", "status", *form).say == "On branch main, 1 ahead, everything committed."


@pytest.mark.parametrize(
    "form", [[], ["--oneline"], ["--graph"], ["--oneline", "--graph", "--decorate"], ["-p"], ["--stat"]]
)
def test_log_says_how_many_and_the_latest(repo: Any, form: list[str]):
    assert repo.run("git", "log", *form).say == "2 commits. The latest: Add the second file."


def test_log_of_one(repo: Any):
    assert repo.run("git", "log", "-1").say == "1 commit: Add the second file."


def test_log_from_the_start_says_the_first(repo: Any):
    assert repo.run("git", "log", "--reverse").say == "2 commits. The first: Begin."


def test_log_in_a_form_of_the_users_own_is_its_first_line(repo: Any):
    assert repo.run("git", "log", "--format=%s by %an").say == "Add the second file by Ada. And 1 more line."


def test_diff_says_how_much(repo: Any):
    folder = folder_of(repo)
    (folder / "one.txt").write_text("-- not a header\n++ neither\n")
    (folder / "two.txt").write_text("two\n")
    said = "2 files differ, 2 lines added, 2 removed."
    assert repo.run("git", "diff").say == said
    assert repo.run("git", "diff", "--stat").say == said
    assert repo.run("git", "diff", "--name-only").say == "2 files differ."


def test_diff_of_nothing(repo: Any):
    assert repo.run("git", "diff").say == "No differences."


def test_diff_that_answers_by_its_exit_code_is_no_failure(repo: Any):
    (folder_of(repo) / "one.txt").write_text("x\n")
    outcome = repo.run("git", "diff", "--quiet")
    assert outcome.completed
    assert outcome.say == "There are differences."


def test_grep_without_a_match_is_an_answer(repo: Any):
    outcome = repo.run("git", "grep", "nowhere")
    assert outcome.completed
    assert outcome.say == "No matches."
    assert repo.run("git", "grep", "two").say == "2 lines found."


def test_show_and_branch(repo: Any, git_in: GitIn):
    git_in(folder_of(repo), "branch", "side")
    assert repo.run("git", "show").say == "Add the second file. 1 file differs, 2 lines added."
    assert repo.run("git", "branch").say == "2 branches, on main."
    assert repo.run("git", "branch", "--show-current").say == "On branch main."


def test_shortlog_counts_from_head_and_does_not_wait_for_stdin(repo: Any):
    assert "Ada" in repo.run("git", "shortlog", "-ns").text


def test_hashes_are_not_spoken(repo: Any):
    said = repo.run("git", "rev-parse", "HEAD").say
    assert said
    assert not any(len(word) > 20 for word in said.split())


def test_a_folder_that_is_no_repository_is_a_failure_in_gits_words(bench: Any):
    outcome = bench.run("git", "status")
    assert not outcome.completed
    assert outcome.reason == "exit_code"
    assert not outcome.may_pass
    assert outcome.say == "git says: not a git repository."


@pytest.mark.parametrize("name", ["plain", "with:colon"])
def test_a_repository_above_the_workspace_is_not_found(repo: Any, make_bench: Any, git_in: GitIn, name: str):
    inner = folder_of(repo) / name
    inner.mkdir()
    bench = make_bench(GitAgent((), lambda: [inner]), inner)
    assert bench.run("git", "log").say.startswith("git says: not a git repository")


def test_the_repository_is_found_from_a_folder_below(repo: Any):
    below = folder_of(repo) / "a" / "b"
    below.mkdir(parents=True)
    assert repo.run("git", "log", cwd=below).completed


def test_a_held_lock_may_pass(repo: Any):
    (folder_of(repo) / ".git" / "index.lock").touch()
    outcome = repo.run("git", "add", ".")
    assert not outcome.completed
    assert outcome.may_pass
    assert str(folder_of(repo)) not in outcome.say


def test_a_failure_names_no_path(repo: Any):
    said = repo.run("git", "log", "/etc/passwd").say
    assert said.startswith("git says: ")
    assert "/etc" not in said


def test_work_that_changes_things_works(repo: Any):
    (folder_of(repo) / "three.txt").write_text("3\n")
    assert repo.run("git", "add", "three.txt").say == "Done."
    assert repo.run("git", "commit", "-m", "Third").completed
    assert repo.run("git", "log", "--oneline").say == "3 commits. The latest: Third."
    assert not repo.reads("git", "commit", "-m", "x")


def test_a_commit_without_a_message_fails_and_opens_no_editor(repo: Any, git_in: GitIn):
    git_in(folder_of(repo), "config", "core.editor", "touch edited; false")
    (folder_of(repo) / "one.txt").write_text("x\n")
    outcome = repo.run("git", "commit", "-a")
    assert not outcome.completed
    assert not (folder_of(repo) / "edited").exists()
    assert "empty commit message" in outcome.text


def test_a_rebase_opens_no_editor(repo: Any, git_in: GitIn):
    git_in(folder_of(repo), "config", "sequence.editor", "touch edited; false")
    assert repo.run("git", "rebase", "-i", "HEAD~1").completed
    assert not (folder_of(repo) / "edited").exists()


class _Locked(BaseHTTPRequestHandler):
    """A server that wants a password for everything."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_nobody_is_asked_for_a_password(repo: Any, git_in: GitIn):
    program = folder_of(repo).parent / "askpass"
    program.write_text(f"#!/bin/sh\ntouch '{folder_of(repo) / 'asked'}'\necho x\n")
    program.chmod(0o755)
    git_in(folder_of(repo), "config", "core.askPass", str(program))
    with HTTPServer(("127.0.0.1", 0), _Locked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            outcome = repo.run("git", "fetch", f"http://127.0.0.1:{server.server_port}/x")
        finally:
            server.shutdown()
            thread.join()
    assert "terminal prompts disabled" in outcome.text
    assert "127" not in outcome.say
    assert not (folder_of(repo) / "asked").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("GIT_PAGER", "cat"), ("SSH_ASKPASS_REQUIRE", "never"), ("LANGUAGE", ""), ("GIT_NO_LAZY_FETCH", "1")],
)
def test_what_git_here_would_not_do_anyway_is_off_too(repo: Any, name: str, value: str):
    """Pagers need a terminal, and translations and newer versions of git are not on every machine that tests."""
    assert repo.agent.invocation(repo.order("git", "log")).env[name] == value


def test_output_is_english_and_names_are_as_they_are(repo: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    (folder_of(repo) / "größe.txt").touch()
    text = repo.run("git", "status").text
    assert "Untracked files" in text
    assert "größe.txt" in text


def test_what_was_typed_is_what_is_recorded(repo: Any):
    assert repo.agent.check(repo.order("git", "diff")).argv == ("git", "diff")
    assert repo.agent.invocation(repo.order("git", "diff")).argv[1:] != ("diff",)


def test_a_git_that_lies_in_a_workspace_is_not_used(repo: Any, monkeypatch: pytest.MonkeyPatch):
    planted = folder_of(repo) / "git"
    planted.write_text("#!/bin/sh\ntouch planted\n")
    planted.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder_of(repo)}:.:{os.environ['PATH']}")
    assert repo.run("git", "status").completed
    assert not (folder_of(repo) / "planted").exists()


def test_git_linked_from_elsewhere_into_a_workspace_is_refused(
    repo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    planted = folder_of(repo) / "evil"
    planted.write_text("#!/bin/sh\n")
    planted.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to(planted)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ForbiddenError):
        repo.agent.invocation(repo.order("git", "status"))


def test_a_secret_of_the_server_does_not_reach_git(repo: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("PASSED", "on")
    assert "API_TOKEN" not in repo.agent.invocation(repo.order("git", "status")).env
    agent = GitAgent(("PASSED",), lambda: [folder_of(repo)])
    assert agent.invocation(repo.order("git", "status")).env["PASSED"] == "on"


def test_git_is_available_with_its_version(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = bench.agent.availability()
    assert found.installed
    assert found.version
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not bench.agent.availability().installed


@pytest.mark.parametrize(("answer", "missing"), [("git version 2.25.1", "2.31"), ("hello", "not git")])
def test_a_git_that_is_too_old_is_said_to_be_missing(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, missing: str
):
    program = tmp_path / "git"
    program.write_text(f"#!/bin/sh\necho {answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = bench.agent.availability()
    assert not found.installed
    assert missing in found.missing


def test_an_end_by_a_signal_is_a_failure(repo: Any):
    outcome = repo.agent.judge(repo.order("git", "log"), Exit("signaled", -9, "", ""))
    assert not outcome.completed
    assert outcome.reason == "signal"


def test_a_cut_log_is_not_taken_for_the_whole(repo: Any):
    ended = Exit("exited", 0, "    end of one\n\ncommit " + "a" * 40 + "\n\n    Begin\n", "", truncated=True)
    assert repo.agent.judge(repo.order("git", "log"), ended).say == "More than 1 commit."


LINES = st.lists(
    st.sampled_from(
        [
            "On branch main",
            "## main",
            "\tmodified:   x",
            "Unmerged paths:",
            "R  a\0b",
            "commit " + "a" * 40,
            "    Begin",
            "diff --git a/x b/x",
            "@@ -1,2 +1 @@",
            "-a",
            "+b",
            "* main",
            "* (HEAD detached)",
            "? x",
            "fatal: (no) /a/b: .git",
        ]
    )
    | st.text()
).map("\n".join)


@given(st.sampled_from(sorted(git_refused.SUBCOMMANDS)), LINES, LINES, st.integers(0, 2), st.booleans())
def test_whatever_git_writes_something_short_and_plain_is_said(
    subcommand: str, stdout: str, stderr: str, returncode: int, truncated: bool
):
    ended = Exit("exited", returncode, stdout, stderr, truncated=truncated)
    outcome = GitAgent((), list).judge(WorkOrder(params={"command": ["git", subcommand]}), ended)
    assert 0 < len(outcome.say.split()) <= 40
    assert not set(outcome.say) & set("*_#|<>[]{}`\n")
