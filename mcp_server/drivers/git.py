"""Running git for a driver: with settings of our own, and with nothing that a repository or an agent configures.

Two kinds of git folder are looked at. Those of ours (`Git.ours`) hold no settings but ours. The user's
(`Git.theirs`) may have settings that name programs, so only commands that run none are used on it: looking up
references and settings, taking in objects, and setting one branch.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

ERROR_CHARACTERS = 500
GIT_SECONDS = 300.0
"""A pipe in the place of a settings file would have git wait for ever."""
FETCH_SECONDS = 500.0

_SETTINGS: Mapping[str, str] = {
    "core.alternateRefsCommand": "false",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.logAllRefUpdates": "true",
    "core.quotePath": "false",
    "core.safecrlf": "false",
    "core.splitIndex": "false",
    "core.untrackedCache": "false",
    "diff.ignoreSubmodules": "all",
    "gc.auto": "0",
    "hook.reference-transaction.enabled": "false",
    "maintenance.auto": "false",
    "protocol.ext.allow": "never",
    "protocol.fd.allow": "never",
    "submodule.recurse": "false",
}
_ALONE: Mapping[str, str] = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    # A repository that lacks objects would fetch them, by a program that it names.
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_LAZY_FETCH": "1",
}
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK")


class GitError(Exception):
    """git refused; the text is what it said last."""


@dataclass(frozen=True, slots=True)
class Git:
    """git on one git folder, and on one work tree where it has to do with files."""

    git_dir: Path | None
    work_tree: Path | None = None
    cwd: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    settings: Mapping[str, str] = field(default_factory=lambda: dict(_SETTINGS))

    @classmethod
    def ours(cls, git_dir: Path, work_tree: Path | None = None) -> Git:
        """On a git folder that only we write: neither the user's settings nor the system's are read."""
        return cls(git_dir, work_tree, env={**_environment(), **_ALONE})

    @classmethod
    def theirs(cls, git_dir: Path | None, cwd: Path = Path("/")) -> Git:
        """On the user's own git folder, or to look for it from `cwd` on."""
        env = {**_environment(), "GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1", "GIT_OPTIONAL_LOCKS": "0"}
        # Without this the user's own list of ignored files could not be asked for.
        return cls(git_dir, cwd=cwd, env=env, settings=_without(_SETTINGS, "core.excludesFile"))

    def over_the_network(self) -> Git:
        """As the user: with their settings for the whole machine (logins, proxies), which no repository can change."""
        ssh = {} if "GIT_SSH_COMMAND" in os.environ else {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
        env = {**_environment(), **ssh, "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh"}
        return replace(self, env=env)

    def with_env(self, **env: str) -> Git:
        """The same with further variables."""
        return replace(self, env={**self.env, **env})

    def with_settings(self, settings: Mapping[str, str]) -> Git:
        """The same with further settings."""
        return replace(self, settings={**self.settings, **settings})

    async def run(self, *words: str, stdin: bytes | int = b"", seconds: float = GIT_SECONDS) -> bytes:
        """What the command prints.

        Raises:
            GitError: it ended with another code than 0, or did not end in time.
        """
        code, out, err = await self.outcome(*words, stdin=stdin, seconds=seconds)
        if code:
            raise GitError(last_words(err) or f"git {words[0]} ended with code {code}")
        return out

    async def text(self, *words: str) -> str:
        """What the command prints, as text without the line's end. Raises GitError as `run` does."""
        return (await self.run(*words)).decode(errors="surrogateescape").rstrip("\n")

    async def answers(self, *words: str) -> bool:
        """Whether the command ends with 0."""
        return (await self.outcome(*words))[0] == 0

    async def commit_of(self, name: str) -> str | None:
        """The id of the commit that `name` stands for; None where there is none."""
        code, out, _ = await self.outcome("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return out.decode().strip() or None if code == 0 else None

    async def outcome(
        self, *words: str, stdin: bytes | int = b"", seconds: float = GIT_SECONDS, into: int | None = None
    ) -> tuple[int, bytes, bytes]:
        """Exit code, stdout and stderr. `into`: a file descriptor that takes stdout instead; `stdin` may be one too."""
        process = await asyncio.create_subprocess_exec(
            program(),
            *words,
            cwd=self.cwd,
            env=self._environment(),
            stdin=stdin if isinstance(stdin, int) else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if into is None else into,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(seconds):
                out, err = await process.communicate(None if isinstance(stdin, int) else stdin)
        except TimeoutError:
            raise GitError(f"git {words[0]} took more than {seconds:.0f} seconds") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, out or b"", err

    def _environment(self) -> dict[str, str]:
        env = dict(self.env)
        if self.git_dir is not None:
            env["GIT_DIR"] = str(self.git_dir)
        if self.work_tree is not None:
            env["GIT_WORK_TREE"] = str(self.work_tree)
        env["GIT_CONFIG_COUNT"] = str(len(self.settings))
        for at, (name, value) in enumerate(self.settings.items()):
            env |= {f"GIT_CONFIG_KEY_{at}": name, f"GIT_CONFIG_VALUE_{at}": value}
        return env


def program() -> str:
    """The path of git.

    Raises:
        GitError: it is not installed.
    """
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(folder)]
    found = shutil.which("git", path=os.pathsep.join(folders))
    if found is None:
        raise GitError("git is not installed")
    return found


def last_words(err: bytes) -> str:
    """The line of an error output that says most, without git's own prefix."""
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    telling = next(
        (line for line in reversed(lines) if line.startswith(("fatal:", "error:"))), lines[-1] if lines else ""
    )
    return telling.removeprefix("fatal:").removeprefix("error:").strip()[:ERROR_CHARACTERS]


def make_git_folder(
    folder: Path, *, head: str, object_format: str, borrowed: Path, shallow: bytes, ignored: str
) -> None:
    """A git folder without hooks that borrows its objects from another folder of objects.

    `head` is the full name of the reference that HEAD names, `shallow` the content of that file, `ignored` the
    patterns of files that are left out.
    """
    for name in ("objects/info", "objects/pack", "refs/heads", "info"):
        (folder / name).mkdir(parents=True)
    extension = "" if object_format == "sha1" else f"[extensions]\n\tobjectFormat = {object_format}\n"
    version = 0 if object_format == "sha1" else 1
    (folder / "config").write_text(
        f"[core]\n\trepositoryFormatVersion = {version}\n\tbare = false\n{extension}", "utf-8"
    )
    (folder / "objects/info/alternates").write_bytes(os.fsencode(borrowed) + b"\n")
    (folder / "info/exclude").write_text(ignored, "utf-8", errors="surrogateescape")
    if shallow:
        (folder / "shallow").write_bytes(shallow)
    (folder / "HEAD").write_text(f"ref: {head}\n", "utf-8")


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | {
        "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8",
        "LANGUAGE": "",
        "GIT_PAGER": "cat",
        "GIT_EDITOR": ":",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS_REQUIRE": "never",
    }


def _without(settings: Mapping[str, str], name: str) -> dict[str, str]:
    return {each: value for each, value in settings.items() if each != name}
