"""Reading commands: known ones count, and none runs, writes or reads elsewhere, whatever the repository says."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from mcp_server import git_reading
from mcp_server.agents import git_refused
from mcp_server.agents.git import GitAgent
from mcp_server.errors import ForbiddenError, InvalidError

GitIn = Callable[..., str]

READING = [
    "status",
    "status -s",
    "status -sb",
    "status --porcelain=v2 --branch -z",
    "status -uno",
    "log",
    "log -5",
    "log -p -m",
    "log -p --cc",
    "log -p --diff-merges=on",
    "log -p --diff-merges combined",
    "log -p --cherry-mark main...side",
    "show -m HEAD~1",
    "log -n 5 --oneline --graph --decorate --all",
    "log --since=yesterday --author=Ada -- one.txt",
    "log -p -U1 -M90% --stat HEAD~1..HEAD",
    "log -p -G two",
    "log -S two",
    "log --format=%h%x09%s%x20%(trailers)",
    "log --pretty=fuller",
    "log --pretty",
    "log -L1,1:one.txt",
    "log --follow one.txt",
    "log main..HEAD",
    "log @{u}..",
    "log -g",
    "log --no-walk --tags --branches=ma*",
    "diff",
    "diff --cached --stat",
    "diff HEAD~1 HEAD -- two.txt",
    "diff --name-only HEAD~1..HEAD",
    "diff HEAD~1...HEAD",
    "diff --word-diff=color --color",
    "diff --ignore-submodules",
    "show",
    "show HEAD~1:one.txt",
    "show --stat HEAD",
    "show -p HEAD~1",
    "branch",
    "branch -a -vv",
    "branch -avv",
    "branch --list m*",
    "branch -l m*",
    "branch --contains HEAD",
    "branch --merged main",
    "branch --show-current",
    "branch --sort=-committerdate --format=%(refname)",
    "tag",
    "tag -l v*",
    "tag --list v* --sort=version:refname",
    "tag -n3",
    "tag --points-at HEAD",
    "remote",
    "remote -v",
    "remote get-url origin",
    "remote get-url --all origin",
    "ls-files",
    "ls-files -m",
    "ls-files -om --exclude-standard",
    "ls-files --eol",
    "ls-tree -r HEAD",
    "ls-tree --name-only HEAD one.txt",
    "rev-parse HEAD",
    "rev-parse --abbrev-ref HEAD",
    "rev-parse --show-toplevel",
    "rev-list --count HEAD",
    "rev-list --all --objects",
    "describe --always",
    "describe --all --long",
    "blame one.txt",
    "blame -L 1,1 -w HEAD -- one.txt",
    "shortlog -sn",
    "shortlog -sne --all",
    "grep two",
    "grep -n -i -e two --and -e t",
    "grep -rnI two HEAD -- *.txt",
    "grep -C2 two",
    "grep --untracked two",
    "cat-file -p HEAD",
    "cat-file -t HEAD",
    "cat-file blob HEAD:one.txt",
    "name-rev HEAD",
    "merge-base HEAD HEAD~1",
    "merge-base --is-ancestor HEAD HEAD~1",
    "reflog",
    "reflog -3",
    "reflog -p",
    "reflog show -p main",
    "reflog show main",
    "stash list",
    "stash list -p",
    "worktree list",
    "worktree list --porcelain",
    "for-each-ref",
    "for-each-ref --format %(refname) --sort=refname refs/heads",
    "show-ref",
    "show-ref --heads -d",
    "count-objects -vH",
    "diff-tree -p HEAD",
    "diff-tree -r --root HEAD",
    "diff-index HEAD",
    "diff-index -p HEAD",
    "diff-index -p --cached HEAD",
    "version",
    "--version",
]

NOT_READING = [
    "add .",
    "commit -m x",
    "checkout main",
    "fetch",
    "ls-remote",
    "config --list",
    "config --get remote.origin.url",
    "branch new",
    "branch -v new",
    "branch --sort --list new",
    "branch --format --list new",
    "branch --show new",
    "branch --color new",
    "branch -d main",
    "branch -D main",
    "branch -lD main",
    "branch --list -m a b",
    "branch -u origin/main",
    "branch --set-upstream-to=x",
    "branch --edit-description",
    "branch --unset-upstream",
    "tag v1",
    "tag -d v1",
    "tag -ld v1",
    "tag -v v1",
    "tag -a v1 -m x",
    "tag --sort --list v1",
    "remote add x y",
    "remote show origin",
    "remote update",
    "remote prune origin",
    "remote -v update",
    "remote set-url origin x",
    "remote set-head origin -a",
    "stash",
    "stash push",
    "stash pop",
    "stash drop",
    "stash -p list",
    "reflog expire --all",
    "reflog -3 expire --all",
    "reflog delete HEAD@{0}",
    "worktree add x",
    "worktree prune",
    "worktree --porcelain list",
    "symbolic-ref HEAD refs/heads/x",
    "log --show-signature",
    "status -v",
    "status -vv",
    "status --verbose",
    "log -p --diff-merges=remerge",
    "log -p --diff-merges remerge",
    "log -p --diff-merges=r",
    "log -p --remerge-diff",
    "log --format=%G?",
    "log --format=%h%+GS",
    "log --pretty=format:%-GK",
    "log --pretty=evil",
    "log --format=evil",
    "for-each-ref --format=%(signature:grade)",
    "for-each-ref --format %(signature)",
    "for-each-ref --stdin",
    "branch --format=%(*signature)",
    "branch --sort=signature:grade",
    "log --alternate-refs",
    "log --stdin",
    "log -O/etc/passwd",
    "log --submodule=log",
    "log --end-of-options --x",
    "log --al",
    "diff /etc/passwd /etc/hostname",
    "diff ../a ../b",
    "diff a/../../b one.txt",
    "diff -- /etc/passwd /etc/hostname",
    "diff - one.txt",
    "diff -O/etc/passwd",
    "diff --submodule",
    "diff --submodule=diff",
    "diff --ignore-submodules=none",
    "status --ignore-submodules=none",
    "blame --contents /etc/passwd one.txt",
    "blame --contents=/etc/passwd one.txt",
    "blame --ignore-revs-file=/etc/passwd one.txt",
    "blame -S /etc/passwd one.txt",
    "blame -S/etc/passwd one.txt",
    "grep -f /etc/passwd",
    "grep -f/etc/passwd",
    "grep -nf/etc/passwd",
    "grep --recurse-submodules x",
    "grep x /etc/passwd",
    "grep x -- ../y",
    "ls-files -X /etc/passwd",
    "ls-files --exclude-from=/etc/passwd",
    "ls-files --exclude-per-directory=x",
    "ls-files --recurse-submodules",
    "ls-files --with-tree=HEAD -X/etc/passwd",
    "rev-parse --parseopt",
    "rev-parse --show-superproject-working-tree",
    "rev-parse --resolve-git-dir /x",
    "rev-list --stdin",
    "describe --dirty",
    "describe --broken",
    "cat-file --batch",
    "name-rev --stdin",
    "name-rev --annotate-stdin",
    "show-ref --exclude-existing",
    "diff-tree --stdin",
    "diff-files",
    "show --pathspec-from-file=/x",
    "merge main",
    "gc",
    "fsck",
    "bisect log",
    "submodule status",
    "notes list",
]


@pytest.mark.parametrize("line", READING)
def test_reading_commands_count_and_git_understands_them(shared_repo: Any, line: str):
    command = ["git", *line.split()]
    assert shared_repo.reads(*command)
    ended = shared_repo.end(shared_repo.order(*command))
    assert "usage:" not in ended.stderr
    assert "unknown option" not in ended.stderr
    assert "unrecognized argument" not in ended.stderr


@pytest.mark.parametrize("line", NOT_READING)
def test_anything_else_does_not_count_as_reading(shared_repo: Any, line: str):
    assert not shared_repo.reads("git", *line.split())


def test_no_option_that_counts_is_short_for_one_that_is_refused():
    """A git that does not know an option of our list takes it for a beginning of another one."""
    for subcommand, form in git_reading._FORMS.items():  # pyright: ignore[reportPrivateUsage]
        for name in form.long - {"text"}:
            git_refused.parse(["git", subcommand, f"--{name}"])


# --- a repository that does all it can to run a program of its own


def plant(workspace: Path, git_in: GitIn) -> Path:
    """Make a repository whose configuration names our program wherever git takes one; the file that it would touch."""
    marker = workspace.parent / "marker"
    program = workspace.parent / "evil"
    program.write_text(f'#!/bin/sh\necho "$@" >> "{marker}"\ncat\n')
    program.chmod(0o755)
    run = str(program)
    git_in(workspace, "init", "-q")
    (workspace / "one.txt").write_text("one\n")
    git_in(workspace, "add", ".")
    _sign_commit(workspace, git_in)
    (workspace / ".gitattributes").write_text(
        "*.txt filter=x diff=x merge=x\n*.dat filter=a=b.c\n*.inc filter=Included\n"
    )
    (workspace / "two.txt").write_text("two\n")
    (workspace / "three.dat").write_text("three\n")
    (workspace / "four.inc").write_text("four\n")
    git_in(workspace, "add", ".")
    git_in(workspace, "commit", "-qm", "Add more")
    git_in(workspace, "tag", "v1")
    _merge_with_conflict(workspace, git_in)
    (workspace / "two.txt").write_text("two and more\n")
    git_in(workspace, "stash", "-q")
    _add_submodule(workspace, git_in, run)
    _add_alternate(workspace, git_in)
    with (workspace / ".git" / "config").open("a") as config:
        for name, value in _hostile_settings(run).items():
            section, _, rest = name.partition(".")
            subsection, _, key = rest.rpartition(".")
            config.write(f'[{section} "{subsection}"]' if subsection else f"[{section}]")
            config.write(f'\n\t{key} = "{value}"\n')
    (workspace.parent / "included").write_text(f'[filter "Included"]\n\tclean = {run}\n')
    hooks = workspace / ".git" / "hooks"
    for hook in ("post-index-change", "reference-transaction", "pre-commit", "post-checkout", "fsmonitor-watchman"):
        hooks.mkdir(exist_ok=True)
        shutil.copy(program, hooks / hook)
    for name in ("one.txt", "two.txt", "three.dat", "four.inc"):
        text = (workspace / name).read_text()
        (workspace / name).write_text(text.upper())  # of the same size: git must look inside, through the filter
    (workspace / "untracked.txt").write_text("new\n")
    (workspace / "link").symlink_to("/etc")
    marker.unlink(missing_ok=True)
    return marker


def _sign_commit(workspace: Path, git_in: GitIn) -> None:
    """Only a commit that seems to be signed makes git run gpg."""
    git_in(workspace, "commit", "-q", "-m", "Begin")
    for what in ("PGP SIGNATURE", "SIGNED MESSAGE", "SSH SIGNATURE"):
        head, _, message = git_in(workspace, "cat-file", "commit", "HEAD").partition("\n\n")
        head = (
            f"tree {git_in(workspace, 'write-tree').strip()}\nparent {git_in(workspace, 'rev-parse', 'HEAD')}"
            + "\n".join(line for line in head.splitlines() if line.startswith(("author ", "committer ")))
        )
        signed = workspace.parent / "signed"
        signed.write_text(f"{head}\ngpgsig -----BEGIN {what}-----\n x\n -----END {what}-----\n\n{message}")
        commit = git_in(workspace, "hash-object", "-t", "commit", "-w", str(signed)).strip()
        git_in(workspace, "reset", "-q", "--soft", commit)


def _merge_with_conflict(workspace: Path, git_in: GitIn) -> None:
    """Only a merge with a conflict makes git run a merge program, when it does the merge again to show it."""
    git_in(workspace, "checkout", "-q", "-b", "side", "HEAD~1")
    (workspace / "one.txt").write_text("side\n")
    git_in(workspace, "commit", "-qam", "Side")
    git_in(workspace, "checkout", "-q", "main")
    (workspace / "one.txt").write_text("main\n")
    git_in(workspace, "commit", "-qam", "Main")
    git_in(workspace, "merge", "-q", "side", fails=True)
    (workspace / "one.txt").write_text("both\n")
    git_in(workspace, "commit", "-qam", "Merge side")


def _add_submodule(workspace: Path, git_in: GitIn, run: str) -> None:
    origin = workspace.parent / "origin"
    origin.mkdir()
    git_in(origin, "init", "-q")
    (origin / "inner.txt").write_text("inner\n")
    (origin / ".gitattributes").write_text("*.txt filter=sub diff=sub\n")
    git_in(origin, "add", ".")
    git_in(origin, "commit", "-qm", "Inner")
    git_in(workspace, "submodule", "--quiet", "add", str(origin), "sub")
    git_in(workspace, "commit", "-qm", "Add a submodule")
    for name in ("filter.sub.clean", "core.fsmonitor", "diff.external", "diff.sub.textconv"):
        git_in(workspace / "sub", "config", name, run)
    (workspace / "sub" / "inner.txt").write_text("inside\n")
    git_in(workspace / "sub", "-c", "core.fsmonitor=", "-c", "filter.sub.clean=", "commit", "-qam", "Inside")
    (workspace / "sub" / "inner.txt").write_text("INSIDE\n")


def _add_alternate(workspace: Path, git_in: GitIn) -> None:
    git_in(workspace.parent, "clone", "-q", "--bare", "origin", "alternate")
    objects = workspace / ".git" / "objects"
    (objects / "info" / "alternates").write_text(f"{workspace.parent / 'alternate' / 'objects'}\n")


def _hostile_settings(run: str) -> dict[str, str]:
    programs = """
        core.fsmonitor core.pager core.editor core.sshCommand core.askPass core.gitProxy core.alternateRefsCommand
        sequence.editor diff.external diff.x.command diff.x.textconv merge.x.driver filter.x.clean filter.x.smudge
        filter.x.process filter.a=b.c.clean gpg.program gpg.ssh.program gpg.x509.program gpg.openpgp.program
        pager.log pager.status pager.diff pager.branch credential.helper interactive.diffFilter
        remote.origin.uploadpack remote.origin.receivepack hook.mine.command
    """
    settings = dict.fromkeys(programs.split(), run)
    aliases = dict.fromkeys((f"alias.{name}" for name in ("log", "status", "whatchanged", "x")), f"!{run}")
    return (
        settings
        | aliases
        | {
            "hook.mine.event": "post-index-change",
            "filter.x.required": "true",
            "gpg.ssh.allowedSignersFile": run,
            "log.showSignature": "true",
            "log.diffMerges": "remerge",
            "format.pretty": "%G?",
            "pretty.evil": "%G?",
            "color.ui": "always",
            "status.submoduleSummary": "true",
            "diff.submodule": "diff",
            "diff.ignoreSubmodules": "none",
            "submodule.sub.ignore": "none",
            "submodule.recurse": "true",
            "include.path": "../../included",
            "remote.origin.url": f"ext::{run}",
            "remote.origin.promisor": "true",
            "protocol.allow": "always",
            "protocol.ext.allow": "always",
            "extensions.partialClone": "origin",
            "grep.fallbackToNoIndex": "true",
            "core.untrackedCache": "true",
        }
    )


def snapshot(root: Path) -> dict[str, str]:
    """Every file below `root` with a hash of what is in it."""
    files: dict[str, str] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            files[str(path)] = hashlib.sha256(content).hexdigest()
    return files


@pytest.fixture
def hostile(bench: Any, git_in: GitIn) -> tuple[Any, Path]:
    return bench, plant(bench.workspace, git_in)


@pytest.fixture(scope="module")
def trap(module_user: Path, make_bench: Any, git_in: GitIn) -> tuple[Any, Path]:
    """The same for many tests: that none of them changes it is what they test."""
    workspace = module_user / "trap" / "work"
    workspace.mkdir(parents=True)
    return make_bench(GitAgent((), lambda: [workspace]), workspace), plant(workspace, git_in)


def test_the_trap_works(hostile: tuple[Any, Path], git_in: GitIn):
    """Without our settings the planted program runs: else the tests below would prove nothing."""
    bench, marker = hostile
    for command in ("status", "diff", "log -p", "log -p -m", "log --format=%G?", "blame two.txt", "status -vv"):
        marker.unlink(missing_ok=True)
        git_in(bench.workspace, *command.split(), fails=None)
        assert marker.exists(), command


@pytest.mark.parametrize("line", READING)
def test_a_reading_command_runs_nothing_and_changes_nothing(trap: tuple[Any, Path], line: str):
    bench, marker = trap
    marker.unlink(missing_ok=True)
    command = ["git", *line.split()]
    assert bench.reads(*command)
    before = snapshot(bench.workspace.parent)
    bench.end(bench.order(*command))
    assert not marker.exists(), marker.read_text()
    assert snapshot(bench.workspace.parent) == before


@pytest.mark.parametrize("url", ["ext", "file"])
def test_a_missing_object_is_not_fetched(hostile: tuple[Any, Path], git_in: GitIn, url: str):
    bench, marker = hostile
    if url == "file":
        git_in(bench.workspace, "config", "remote.origin.url", str(bench.workspace.parent / "origin"))
    blob = git_in(bench.workspace, "rev-parse", "HEAD~1:two.txt").strip()
    (bench.workspace / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    marker.unlink(missing_ok=True)
    for command in (["log", "-p"], ["cat-file", "-p", blob], ["grep", "two", "HEAD~1"]):
        assert bench.reads("git", *command)
        bench.end(bench.order("git", *command))
        assert not marker.exists(), command


def test_status_still_tells_the_truth_where_filters_are_switched_off(hostile: tuple[Any, Path]):
    bench, _ = hostile
    assert bench.run("git", "status", "-s", "-b").say == "On branch main, 5 files changed, 2 untracked."


def test_hooks_stay_off_for_commands_that_change_things(hostile: tuple[Any, Path], git_in: GitIn):
    bench, marker = hostile
    git_in(bench.workspace, "config", "--remove-section", "filter.x")
    git_in(bench.workspace, "config", "--remove-section", "filter.a=b.c")
    (bench.workspace.parent / "included").unlink()
    marker.unlink(missing_ok=True)
    assert bench.run("git", "add", "two.txt").completed
    assert bench.run("git", "commit", "-m", "More").completed
    assert bench.run("git", "checkout", "-b", "other").completed
    assert not marker.exists(), marker.read_text()


def test_the_ext_protocol_stays_off_for_commands_that_fetch(hostile: tuple[Any, Path]):
    bench, marker = hostile
    outcome = bench.run("git", "fetch", "origin")
    assert not outcome.completed
    assert not marker.exists()


SECOND_LINE = [
    "log --format=%G?",
    "log --show-signature",
    "log --alternate-refs",
    "fetch",
    "status --ignore-submodules=all",
]


@pytest.mark.parametrize("line", SECOND_LINE)
def test_even_what_does_not_count_would_run_nothing_as_a_reading_command(trap: tuple[Any, Path], line: str):
    """The settings alone: should the list of options ever let one of these through, it is still harmless."""
    bench, marker = trap
    marker.unlink(missing_ok=True)
    invocation = bench.agent.invocation(bench.order("git", "log"))
    subprocess.run(
        [invocation.argv[0], *line.split()],
        cwd=invocation.cwd,
        env=dict(invocation.env),
        capture_output=True,
        timeout=30,
    )
    assert not marker.exists(), marker.read_text()


def test_the_second_line_is_tried_with_what_would_run(trap: tuple[Any, Path], git_in: GitIn):
    bench, marker = trap
    for line in SECOND_LINE[:3]:
        marker.unlink(missing_ok=True)
        git_in(bench.workspace, *line.split(), fails=None)
        assert marker.exists(), line


def test_the_form_that_a_repository_prefers_is_not_taken(trap: tuple[Any, Path]):
    bench, _ = trap
    outcome = bench.run("git", "log")
    assert outcome.say == "9 commits. The latest: Add a submodule."
    assert "ignature" not in outcome.text


def test_grep_stays_out_of_submodules(trap: tuple[Any, Path]):
    bench, _ = trap
    assert bench.run("git", "grep", "-i", "inside").say == "No matches."


def test_status_does_not_tell_the_story_of_submodules(trap: tuple[Any, Path]):
    bench, _ = trap
    text = bench.run("git", "status").text
    assert "modified:   sub" in text
    assert "Submodule" not in text


def test_signatures_are_not_even_looked_at(trap: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bench, _ = trap
    program = tmp_path / "false"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'looked'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert bench.run("git", "log").completed
    assert not (tmp_path / "looked").exists()


@pytest.mark.parametrize(
    "command",
    ["status", "diff", "diff --stat", "grep -n one", "branch", "log -p"],
)
def test_output_has_no_colours_whatever_the_repository_prefers(repo: Any, git_in: GitIn, command: str):
    for name in ("ui", "branch", "diff", "grep", "status"):
        git_in(repo.workspace, "config", f"color.{name}", "always")
    (repo.workspace / "one.txt").write_text("one more\n")
    assert "\x1b" not in repo.run("git", *command.split()).text


def test_lists_stay_lists_whatever_the_repository_prefers(repo: Any, git_in: GitIn):
    git_in(repo.workspace, "config", "column.ui", "always")
    git_in(repo.workspace, "branch", "side")
    assert repo.run("git", "branch").say == "2 branches, on main."


def test_text_is_utf_8_whatever_the_repository_prefers(repo: Any, git_in: GitIn):
    git_in(repo.workspace, "config", "i18n.logOutputEncoding", "latin1")
    git_in(repo.workspace, "commit", "-q", "--allow-empty", "-m", "Größe")
    assert repo.run("git", "log", "-1").say == "1 commit: Größe."


def test_blame_shows_nothing_of_a_file_elsewhere(repo: Any, git_in: GitIn):
    git_in(repo.workspace, "config", "blame.ignoreRevsFile", "/etc/passwd")
    outcome = repo.run("git", "blame", "one.txt")
    assert outcome.completed
    assert "root" not in outcome.text


@pytest.mark.parametrize(
    "command", ["diff", "status", "describe --always", "diff-index HEAD", "ls-files -m", "blame one.txt"]
)
def test_reading_does_not_refresh_the_index(repo: Any, command: str):
    os.utime(repo.workspace / "one.txt", (1, 1))
    before = snapshot(repo.workspace)
    assert repo.run("git", *command.split()).completed
    assert snapshot(repo.workspace) == before


def test_the_fd_protocol_stays_off(repo: Any, git_in: GitIn):
    git_in(repo.workspace, "remote", "add", "origin", "fd::9")
    git_in(repo.workspace, "config", "protocol.fd.allow", "always")
    assert "not allowed" in repo.run("git", "fetch").text


def test_a_clean_up_does_not_go_on_in_the_background(repo: Any, git_in: GitIn):
    """git looks at the objects whose names begin with 17, and takes their number for a sample."""
    found = 0
    for number in range(10_000):
        content = f"{number}".encode()
        if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest().startswith("17"):
            (repo.workspace / "loose").write_bytes(content)
            git_in(repo.workspace, "hash-object", "-w", "loose")
            found += 1
            if found == 3:
                break
    git_in(repo.workspace, "config", "gc.auto", "1")
    git_in(repo.workspace, "config", "gc.autoDetach", "true")
    ended = repo.end(repo.order("git", "gc", "--auto"))
    assert "Auto packing" in ended.stderr
    assert "background" not in ended.stderr


def test_a_submodule_is_not_updated_by_a_command(hostile: tuple[Any, Path], git_in: GitIn):
    bench, _ = hostile
    git_in(bench.workspace, "config", "submodule.sub.update", f"!{bench.workspace.parent / 'evil'}")
    settings = bench.agent.invocation(bench.order("git", "submodule", "update")).env
    named = {
        settings[f"GIT_CONFIG_KEY_{at}"]: settings[f"GIT_CONFIG_VALUE_{at}"]
        for at in range(int(settings["GIT_CONFIG_COUNT"]))
    }
    assert named["submodule.sub.update"] == "checkout"


# --- repositories that we cannot vouch for


def test_a_repository_elsewhere_is_not_read(repo: Any, git_in: GitIn, tmp_path: Path):
    private = tmp_path / "private"
    private.mkdir()
    git_in(private, "init", "-q")
    folder = repo.workspace / "folder"
    folder.mkdir()
    (folder / ".git").write_text(f"gitdir: {private / '.git'}\n")
    assert not repo.reads("git", "log", cwd=folder)
    (folder / ".git").unlink()
    (folder / ".git").symlink_to(private / ".git")
    assert not repo.reads("git", "log", cwd=folder)


def test_a_repository_that_shares_with_one_elsewhere_is_not_read(repo: Any, git_in: GitIn, tmp_path: Path):
    private = tmp_path / "private"
    private.mkdir()
    git_in(private, "init", "-q")
    (repo.workspace / ".git" / "commondir").write_text(str(private / ".git"))
    assert not repo.reads("git", "log")


def test_a_repository_that_links_to_a_private_file_is_not_read(repo: Any):
    assert repo.reads("git", "log")
    (repo.workspace / ".git" / "shallow").symlink_to("/etc/passwd")
    assert not repo.reads("git", "log")


def test_a_worktree_of_a_repository_elsewhere_is_read(repo: Any, make_bench: Any, git_in: GitIn, tmp_path: Path):
    linked = tmp_path / "linked"
    git_in(repo.workspace, "worktree", "add", "-q", str(linked))
    bench = make_bench(GitAgent((), lambda: [linked]), linked)
    assert bench.reads("git", "log")
    assert bench.run("git", "log").completed


def test_a_forged_worktree_is_not_read(repo: Any, git_in: GitIn, make_bench: Any, tmp_path: Path):
    git_in(repo.workspace, "worktree", "add", "-q", str(tmp_path / "linked"))
    forged = tmp_path / "forged"
    forged.mkdir()
    shutil.copy(tmp_path / "linked" / ".git", forged / ".git")
    assert not make_bench(GitAgent((), lambda: [forged]), forged).reads("git", "log")


def test_a_working_tree_elsewhere_is_not_read(repo: Any, git_in: GitIn):
    git_in(repo.workspace, "config", "core.worktree", "/etc")
    assert not repo.reads("git", "status")


def test_a_working_tree_in_the_workspace_is_read(repo: Any, git_in: GitIn):
    git_in(repo.workspace, "config", "core.worktree", str(repo.workspace))
    assert repo.reads("git", "status")


@pytest.mark.parametrize(
    "config",
    [
        b'[filter "x\n',
        b"[core]\n\tx = \xff\n",
        b'[core]\n\tx = "open\n',
        b"[core]\n\tx = \\q\n",
        b"[core]\n\tx y\n",
        b"[core]\n\t1x = y\n",
        b"[include]\n\tpath = .\n",
        b"[include]\n\tpath = %(prefix)/x\n",
        b"#" * (1024 * 1024 + 1),
        b"[core]\n\tx = \0\n",
    ],
)
def test_a_configuration_that_cannot_be_read_is_not_trusted(repo: Any, config: bytes):
    with (repo.workspace / ".git" / "config").open("ab") as file:
        file.write(config)
    assert not repo.reads("git", "status")


def test_includes_are_followed_and_end(repo: Any):
    config = repo.workspace / ".git" / "config"
    config.write_text(config.read_text() + '[includeIf "gitdir:/nowhere"]\n\tpath = "a;b"  ; comment\n')
    (repo.workspace / ".git" / "a;b").write_text(
        '[Include] path = config\n[FILTER "In\\"side"] clean = x\n[filter.Low]\n'
    )
    assert repo.reads("git", "status")
    env = repo.agent.invocation(repo.order("git", "status")).env
    assert {'filter.In"side.clean', "filter.low.clean"} <= set(env.values())
    assert repo.run("git", "status").completed


def test_a_folder_that_looks_like_a_repository_is_looked_into(repo: Any, git_in: GitIn):
    bare = repo.workspace / "bare"
    git_in(repo.workspace, "init", "-q", "--bare", "bare")
    git_in(bare, "config", "filter.y.clean", "x")
    assert "filter.y.clean" in repo.agent.invocation(repo.order("git", "status", cwd=bare)).env.values()


def test_two_files_are_not_compared_where_there_is_no_repository(bench: Any):
    assert not bench.reads("git", "diff", "link/passwd", "link/hostname")
    assert bench.reads("git", "diff")
    assert bench.reads("git", "status")


# --- whatever comes

SUBCOMMANDS = sorted(git_refused.SUBCOMMANDS | set(git_refused.INSTEAD) | {"x", "", "-c", "--git-dir"})
SAFE_TO_TRY = sorted(git_reading.READING_SUBCOMMANDS)
WORDS = sorted(
    {f"--{name}" for form in git_reading._FORMS.values() for name in form.long}  # pyright: ignore[reportPrivateUsage]
    | {word for line in READING + NOT_READING for word in line.split()[1:]}
    | {f"-{letter}" for letter in "abcdefghilmnopqrstuvwxyzABCDEFGHILMOPRSTUWXZ"}
    | {"--output=out", "--outp=out", "--output", "out", "--ext-diff", "--textconv", "-Oout", "--open-files-in-pager=sh"}
    | {
        "--",
        "HEAD",
        "main",
        "v1",
        "stash@{0}",
        "one.txt",
        ".",
        "*.txt",
        "new",
        "sub",
        "link",
        "link/passwd",
        ":/",
        ":!x",
    }
    | {
        "expire",
        "delete",
        "drop",
        "prune",
        "add",
        "update",
        "show",
        "list",
        "--no-list",
        "--delete",
        "--move",
        "-vd",
        "-lm",
    }
    | {
        "--format=%G?",
        "--format=%(describe)",
        "--all",
        "--stdin",
        "--no-index",
        "--recurse-submodules",
        "--submodule=diff",
    }
)


FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@FUZZ
@given(command=st.lists(st.sampled_from(["git", *SUBCOMMANDS, *WORDS]) | st.text(), max_size=6))
@example(command=["git", "clone", "::"])
@example(command=["git", "clone"])
@example(command=["git", "init", "a\nb", "~"])
@example(command=["git", "init", "x" * 5000])
def test_checking_raises_only_what_we_can_explain(shared_repo: Any, command: list[str]):
    order = shared_repo.order(params={"command": command})
    try:
        shared_repo.agent.check(order)
    except (InvalidError, ForbiddenError) as error:
        refused = error
    else:
        return
    assert refused.issues
    assert all(issue.fix for issue in refused.issues)


VALUES = [
    "",
    "=",
    "=HEAD",
    "=3",
    "=new",
    "=out",
    "=/etc/passwd",
    "=../x",
    "=%G?",
    "=evil",
    "=%(signature)",
    "=none",
    "=log",
]


def words_for(subcommand: str) -> st.SearchStrategy[list[str]]:
    """Mostly what the subcommand knows, in every form, or hardly anything would count."""
    form = git_reading._FORMS[subcommand]  # pyright: ignore[reportPrivateUsage]
    letters = sorted(form.flags | form.values) or ["v"]
    options = [
        st.lists(st.sampled_from(letters), min_size=1, max_size=3).map(lambda some: "-" + "".join(some)),
        st.sampled_from(["HEAD", "one.txt", "main", "side", "main...side", "--", "v1", "sub", "."]),
        st.sampled_from(WORDS),
    ]
    if form.long:
        names = st.sampled_from(sorted(form.long))
        options.insert(0, st.tuples(names, st.sampled_from(VALUES)).map(lambda pair: f"--{pair[0]}{pair[1]}"))
    return st.lists(st.one_of(options), max_size=5)


COMMANDS = st.sampled_from(SAFE_TO_TRY).flatmap(lambda name: st.tuples(st.just(name), words_for(name)))


@FUZZ
@given(command=COMMANDS)
@example(command=("branch", ["--sort", "--list", "new"]))
@example(command=("reflog", ["-3", "expire", "--all"]))
@example(command=("grep", ["-e", "--", "-Osh"]))
def test_whatever_counts_as_reading_runs_nothing_and_changes_nothing(
    trap: tuple[Any, Path], command: tuple[str, list[str]]
):
    bench, marker = trap
    marker.unlink(missing_ok=True)
    order = bench.order("git", command[0], *command[1])
    try:
        reads = bench.agent.check(order).reads_only
    except (InvalidError, ForbiddenError):
        return
    event("reads" if reads else "does not count as reading")
    if not reads:
        return
    before = snapshot(bench.workspace.parent)
    ended = bench.end(order)
    bench.agent.judge(order, ended)
    assert not marker.exists(), marker.read_text()
    assert snapshot(bench.workspace.parent) == before
    assert "root:x:0" not in ended.stdout + ended.stderr
