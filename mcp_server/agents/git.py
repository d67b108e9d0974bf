"""The agent that runs git, with everything switched off that would make git run something else.

What may be asked for is in `git_refused.py`, what only reads in `git_reading.py`, what is said about it
in `git_speech.py`. Here: the settings under which git runs.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mcp_server import git_reading
from mcp_server.agent import (
    Availability,
    Checked,
    Exit,
    Invocation,
    Outcome,
    WorkOrder,
    resolve_program,
    task_environment,
)
from mcp_server.agents import git_refused, git_speech
from mcp_server.agents.git_refused import GitCommand
from mcp_server.agents.git_repository import Repository, look_around
from mcp_server.agents.params import command_from
from mcp_server.agents.shell import place_of

OLDEST_VERSION = (2, 31)
"""Before that, git does not know GIT_CONFIG_COUNT, by which everything below is switched off."""
VERSION_TIMEOUT_SECONDS = 5.0

SETTINGS: Mapping[str, str] = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",
    "protocol.ext.allow": "never",
    "protocol.fd.allow": "never",
    # A clean-up in the background would outlive the task that is called completed. (The second since git 2.47.)
    "gc.autoDetach": "false",
    "maintenance.autoDetach": "false",
}
"""Settings of the command line win over those of any file; they reach git's own children and submodules too."""

READING_SETTINGS: Mapping[str, str] = {
    "diff.autoRefreshIndex": "false",
    "diff.submodule": "short",
    "status.submoduleSummary": "false",
    "submodule.recurse": "false",
    "format.pretty": "medium",
    "log.diffMerges": "separate",
    "log.showSignature": "false",
    # The openpgp one goes by this name too: the last that is set counts, and ours are last.
    "gpg.program": "false",
    "gpg.x509.program": "false",
    "gpg.ssh.program": "false",
    "core.alternateRefsCommand": "false",
    "i18n.logOutputEncoding": "UTF-8",
    "color.branch": "false",
    "color.diff": "false",
    "color.grep": "false",
    "color.status": "false",
    "column.ui": "never",
}

_HOOK_EVENTS = """
    applypatch-msg commit-msg fsmonitor-watchman p4-changelist p4-post-changelist p4-pre-submit p4-prepare-changelist
    post-applypatch post-checkout post-commit post-index-change post-merge post-receive post-rewrite post-update
    pre-applypatch pre-auto-gc pre-commit pre-merge-commit pre-push pre-rebase pre-receive prepare-commit-msg
    proc-receive push-to-checkout reference-transaction sendemail-validate update
"""
HOOK_EVENTS = tuple(_HOOK_EVENTS.split())
"""Since git 2.54 hooks can be configured as well; `hook.<event>.enabled` and `hook.<name>.enabled` switch them off."""

_QUIET_DIFF = ("--no-ext-diff", "--no-textconv")
_ADDED: Mapping[str, tuple[str, ...]] = {
    # The repository may name any file here, and git would complain about what stands in it, word for word.
    "blame": ("--no-textconv", "--no-ignore-revs-file"),
    "diff": (*_QUIET_DIFF, "--ignore-submodules=dirty"),
    "diff-files": (*_QUIET_DIFF, "--ignore-submodules=dirty"),
    "diff-index": (*_QUIET_DIFF, "--ignore-submodules=dirty"),
    "format-patch": _QUIET_DIFF,
    "log": _QUIET_DIFF,
    "range-diff": _QUIET_DIFF,
    "reflog": _QUIET_DIFF,
    "show": _QUIET_DIFF,
    "stash": _QUIET_DIFF,
    "status": ("--ignore-submodules=dirty",),
}
"""`--ignore-submodules=dirty`: looking for changes inside a submodule runs git there, with settings nobody has seen."""
_VERBS_SHOWING_DIFFS = {"reflog": ("show",), "stash": ("list", "show")}

_LOCKED = re.compile(
    r"Unable to create '.*\.lock': File exists|Another git process seems to be running|cannot lock ref"
)


class GitAgent:
    """Runs git in a workspace. Reading commands read; nothing that the repository configures is run by them."""

    name = "git"
    title = "Git"
    description = 'Runs git in a workspace: params {"command": ["git", "status"]}, a list. No aliases, hooks or pagers.'
    default_timeout_seconds = 60.0
    default_limit: int | None = None
    needs_workspace = True
    continues = False

    def __init__(self, pass_env: tuple[str, ...], workspaces: Callable[[], Iterable[Path]]) -> None:
        self._pass_env = pass_env
        self._workspaces = workspaces

    def availability(self) -> Availability:
        program = shutil.which("git", path=self._environment()["PATH"])
        if program is None:
            return Availability(installed=False, missing="git is not installed.")
        return _availability_of(program, os.stat(program).st_mtime_ns)

    def look(self) -> None:
        """`availability` is quick enough to look each time."""

    def check(self, order: WorkOrder) -> Checked:
        command = command_from(order.params, git_refused.EXAMPLE)
        parsed = self._parsed(order)
        reads = git_reading.reads_only(parsed.subcommand, parsed.words) and self._may_be_read(parsed, order)
        return Checked(argv=command, reads_only=reads)

    def invocation(self, order: WorkOrder) -> Invocation:
        parsed = self._parsed(order)
        cwd = place_of(order)
        env = self._environment()
        program = resolve_program("git", cwd, env["PATH"], self._roots(), field="params.command")
        reads = git_reading.reads_only(parsed.subcommand, parsed.words)
        repository = self._repository(order)
        env |= _switched_off(reads=reads) | _discovery(cwd, _top(order), repository)
        env |= _as_environment(_settings(parsed, repository, at_top=cwd == _top(order), reads=reads))
        return Invocation(argv=(str(program), *_arguments(parsed)), cwd=cwd, env=env)

    def judge(self, order: WorkOrder, ended: Exit) -> Outcome:
        parsed = git_refused.parse(command_from(order.params, git_refused.EXAMPLE))
        if ended.how == "exited" and (ended.returncode == 0 or _means_no(parsed, ended)):
            text = ended.stdout.strip() or ended.stderr.strip()
            return Outcome(completed=True, text=text, say=git_speech.say_done(parsed.subcommand, parsed.words, ended))
        return Outcome(
            completed=False,
            text=ended.stdout.strip() or ended.stderr.strip(),
            say=git_speech.say_failed(ended),
            reason="signal" if ended.how == "signaled" else "exit_code",
            may_pass=_LOCKED.search(ended.stderr) is not None,
        )

    def _parsed(self, order: WorkOrder) -> GitCommand:
        command = command_from(order.params, git_refused.EXAMPLE)
        parsed = git_refused.parse(command)
        git_refused.refuse_places(parsed, place_of(order), self._roots())
        return parsed

    def _may_be_read(self, parsed: GitCommand, order: WorkOrder) -> bool:
        repository = self._repository(order)
        # Without a repository `git diff a b` compares any two files, also through symlinks.
        return not repository.doubt and (repository.found or parsed.subcommand != "diff" or not parsed.words)

    def _repository(self, order: WorkOrder) -> Repository:
        return look_around(place_of(order), _top(order), self._roots())

    def _roots(self) -> tuple[Path, ...]:
        return tuple(self._workspaces())

    def _environment(self) -> dict[str, str]:
        """The user's, without the folders of PATH in which a task could leave a program for git to find."""
        env = task_environment(self._pass_env)
        roots = self._roots()
        folders = [folder for folder in env["PATH"].split(os.pathsep) if os.path.isabs(folder)]
        outside = [
            folder
            for folder in folders
            if not any(Path(os.path.realpath(folder)).is_relative_to(root) for root in roots)
        ]
        return env | {"PATH": os.pathsep.join(outside)}


def _top(order: WorkOrder) -> Path:
    return order.workspace or place_of(order)


def _arguments(parsed: GitCommand) -> tuple[str, ...]:
    """What the user typed, with the options that switch off what a repository may configure."""
    words = list(parsed.words)
    verb: list[str] = []
    if parsed.subcommand in _VERBS_SHOWING_DIFFS:
        if words and words[0] in _VERBS_SHOWING_DIFFS[parsed.subcommand]:
            verb = [words.pop(0)]
        elif parsed.subcommand == "stash" or (words and not words[0].startswith("-")):
            return (*parsed.options, parsed.subcommand, *words)
    if parsed.subcommand == "shortlog" and all(word.startswith("-") and word != "--" for word in words):
        words.append("HEAD")  # else it would wait for a log on stdin
    return (*parsed.options, parsed.subcommand, *verb, *_ADDED.get(parsed.subcommand, ()), *words)


def _settings(parsed: GitCommand, repository: Repository, *, at_top: bool, reads: bool) -> dict[str, str]:
    settings = dict(SETTINGS)
    settings |= {f"hook.{name}.enabled": "false" for name in (*HOOK_EVENTS, *sorted(repository.hooks))}
    settings |= {f"submodule.{name}.update": "checkout" for name in sorted(repository.submodules)}
    # No alias can take the name of git's own command, unless a later version gives that command up.
    settings[f"alias.{parsed.subcommand}"] = ""
    if not at_top:
        # A folder inside of a working tree may be made to look like a repository, with settings of its own.
        settings["safe.bareRepository"] = "explicit"
    if reads:
        settings |= READING_SETTINGS
        for name in sorted(repository.filters):
            settings |= {f"filter.{name}.{key}": "" for key in ("clean", "smudge", "process")}
            settings[f"filter.{name}.required"] = "false"
    return settings


def _as_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """By the environment and not by `-c`, where a name with an equals sign could not be told from its value."""
    env = {"GIT_CONFIG_COUNT": str(len(settings))}
    for at, (name, value) in enumerate(settings.items()):
        env |= {f"GIT_CONFIG_KEY_{at}": name, f"GIT_CONFIG_VALUE_{at}": value}
    return env


def _switched_off(*, reads: bool) -> dict[str, str]:
    env = {
        # English, so that we understand it, and UTF-8, so that file names and patterns are.
        "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8",
        "LANGUAGE": "",
        "GIT_PAGER": "cat",
        "GIT_EDITOR": ":",
        "GIT_SEQUENCE_EDITOR": ":",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS_REQUIRE": "never",
    }
    if reads:
        # The empty list of protocols: a repository that lacks objects would fetch them, by a program that it names.
        env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": ""}
    return env


def _discovery(cwd: Path, top: Path, repository: Repository) -> dict[str, str]:
    """Keep git from finding a repository above the workspace."""
    if os.pathsep not in str(top.parent):
        return {"GIT_CEILING_DIRECTORIES": str(top.parent)}
    # Such a path cannot be a ceiling. Where nothing is below it, nothing may be found.
    return {} if repository.found else {"GIT_DIR": str(cwd / ".git")}


def _means_no(parsed: GitCommand, ended: Exit) -> bool:
    """Some commands answer "no" or "they differ" by exit code 1."""
    answers = ("grep", "diff", "diff-files", "diff-index", "diff-tree", "merge-base", "check-ignore")
    return ended.returncode == 1 and not ended.stderr.strip() and parsed.subcommand in answers


@functools.lru_cache(maxsize=8)
def _availability_of(program: str, changed_at: int) -> Availability:
    """Asks the program once for each change of it: agents are listed often."""
    del changed_at
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Availability(installed=False, missing=f"git does not answer: {error}")
    found = re.search(r"(\d+)\.(\d+)[\w.]*", answer)
    if found is None:
        return Availability(installed=False, missing="The program named git is not git.")
    if (int(found[1]), int(found[2])) < OLDEST_VERSION:
        return Availability(installed=False, version=found[0], missing="git 2.31 or newer is needed.")
    return Availability(installed=True, version=found[0])
