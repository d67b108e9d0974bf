"""Bubblewrap around an agent: it sees the machine read-only, writes in its place of work alone, and not ours at all.

The network is shared: an agent must reach its model. `docs/security.md` says what that leaves open.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mcp_server.drivers.clone import KEPT, WORK
from mcp_server.drivers.job import Job, Sandbox

TEMPORARY = "/tmp/agent"  # noqa: S108  # in a /tmp that only this sandbox has
"""TMPDIR inside. Not /tmp itself: an agent whose state lies below TMPDIR takes that for an unsafe place."""

CACHES = "caches"
"""Beside the clone: what package managers keep, for this conversation alone."""

STATE = "state"
"""Beside the clone: copies of single files of the agent's state."""

_ALONE = (
    "--unshare-user-try",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--cap-drop",
    "ALL",
    # Else no sandbox within this one can be root, and Codex makes one for each command.
    *(("--cap-add", "CAP_SETFCAP") if os.geteuid() == 0 else ()),
    "--new-session",
    "--die-with-parent",
)
_MACHINE = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys")
"""The last: root needs no rights at all to write there, and could have the kernel run a program outside."""

PROBE = (*_ALONE, *_MACHINE, "--tmpfs", "/tmp")  # noqa: S108
"""What must work for a sandbox to work."""

_EMPTIED = ("/tmp", "/var/tmp", "/run", "/var/run")  # noqa: S108  # hidden, not used
"""Sockets lie there by which others would act for the agent: the session's bus, containers, keys, the X server."""

_KEPT_OF_RUN = (
    "/run/NetworkManager/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/booted-system",
    "/run/connman/resolv.conf",
    "/run/current-system",
    "/run/nscd",
    "/run/opengl-driver",
    "/run/resolvconf",
    "/run/systemd/resolve",
)
"""How names are looked up, and where some systems have their programs."""

_NOT_INSIDE = (
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "GPG_AGENT_INFO",
    "SSH_AUTH_SOCK",
    "WAYLAND_DISPLAY",
    "WSL_INTEROP",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
)
_CACHE_VARIABLES = {
    "XDG_CACHE_HOME": "",
    "CARGO_HOME": "cargo",
    "GOMODCACHE": "go-mod",
    "GRADLE_USER_HOME": "gradle",
    "npm_config_cache": "npm",
}
"""Package managers write into the home folder, which is read-only, unless they are told another place."""


def wrapped(argv: Sequence[str], job: Job, place: Path) -> list[str]:
    """The argument vector that runs `argv` in the sandbox of `job`, with `place` writable (not for `review`).

    `argv` as it is where the job has no sandbox.

    Raises:
        OSError: the place is gone.
    """
    if job.sandbox.bubblewrap is None:
        return list(argv)
    words = [job.sandbox.bubblewrap, *_ALONE, *_layout(argv[0], job, place), *_variables(job)]
    return [*words, "--chdir", str(place), "--", *argv]


def _layout(program: str, job: Job, place: Path) -> Iterator[str]:
    """The mounts, in their order: what is hidden comes after what is shown, and what is needed comes last."""
    sandbox = job.sandbox
    home = _real(job.env.get("HOME") or Path.home())
    emptied = list(dict.fromkeys(map(_real, _EMPTIED)))
    yield from _MACHINE
    for path in emptied:
        if os.path.isdir(path):
            yield from ("--tmpfs", path)
    yield from ("--dir", TEMPORARY)
    yield from _shown(_KEPT_OF_RUN)
    if sandbox.strict:
        yield from ("--tmpfs", home)
    elif _is_below(home, emptied):
        yield from ("--ro-bind", home, home)
    out_of_sight = [*emptied, home] if sandbox.strict else emptied
    yield from _shown(path for path in _needed(program, job, place) if _is_below(path, out_of_sight))
    for path in sandbox.hidden:
        yield from _hidden(_real(path))
    for path in sandbox.writable:
        yield from _state(_real(path), job)
    for path in sandbox.readonly:
        _make_if_missing(Path(path))
    yield from _shown(sandbox.readonly)
    for path in _sockets():
        in_sight = not _is_below(path, out_of_sight) or (not sandbox.strict and _is_below(path, [home]))
        if in_sight and not _is_below(path, map(_real, sandbox.hidden)):
            yield from _hidden(path)
    yield from _place(job, place)


def _sockets() -> Iterator[str]:
    """The unix sockets of this machine that have a path: a read-only mount keeps nobody from talking to them.

    Whoever listens acts for the agent: containers, agents of keys, editors. Most lie in folders that are emptied.
    """
    try:
        lines = Path("/proc/net/unix").read_bytes().splitlines()[1:]
    except OSError:
        return
    named = {os.fsdecode(fields[7]) for line in lines if len(fields := line.split(b" ", 7)) == 8}
    for path in sorted(named):
        with contextlib.suppress(OSError):
            if os.path.isabs(path) and stat.S_ISSOCK(os.stat(path).st_mode):
                yield _real(path)


def _state(path: str, job: Job) -> Iterator[str]:
    """A folder itself, made if it is missing. Of a file a copy: what it says holds for the user's own sessions too."""
    if not os.path.lexists(path) and not os.path.splitext(os.path.basename(path).lstrip("."))[1]:
        with contextlib.suppress(FileNotFoundError):
            os.mkdir(path, 0o700)
    if os.path.isdir(path):
        yield from ("--bind", path, path)
    elif os.path.exists(path) and job.clone is not None:
        copies = Path(job.clone) / STATE
        copies.mkdir(mode=0o700, exist_ok=True)
        copy = copies / os.path.basename(path).lstrip(".")
        shutil.copyfile(path, copy)
        yield from ("--bind", str(copy), path)
    elif os.path.exists(path):
        yield from ("--bind", path, path)


def _make_if_missing(path: Path) -> None:
    """What is not there cannot be made read-only, and an agent that makes it would be obeyed outside of the sandbox."""
    if os.path.lexists(path) or not path.parent.is_dir():
        return
    if path.suffix:
        path.write_text("{}\n" if path.suffix == ".json" else "", "utf-8")
    else:
        path.mkdir()


def _place(job: Job, place: Path) -> Iterator[str]:
    bind = "--ro-bind" if job.profile == "review" else "--bind"
    if job.clone is None:
        yield from (bind, str(place), str(place))
        # Whoever may write there names programs for the user's next git command to run.
        yield from _shown([place / ".git"])
        return
    home = Path(job.clone)
    yield from (bind, str(home / WORK), str(home / WORK))
    yield from _shown([home / KEPT / "objects"])
    caches = home / CACHES
    caches.mkdir(exist_ok=True)
    yield from ("--bind", str(caches), str(caches))


def _needed(program: str, job: Job, place: Path) -> Iterator[str]:
    """What the agent cannot do without: its program, what runs that, and the objects that its clone borrows."""
    path = job.env.get("PATH", os.defpath)
    found = shutil.which(program, path=path) or program
    for start in (found, *(shutil.which(name, path=path) for name in ("node", "python3", "git"))):
        if start is not None:
            yield os.path.dirname(os.path.abspath(start))
            yield _package(os.path.realpath(start))
    yield from (folder for folder in path.split(os.pathsep) if os.path.isabs(folder))
    if job.clone is not None:
        yield from _borrowed(Path(job.clone) / KEPT / "objects", job.sandbox)
    del place


def _package(real: str) -> str:
    """The folder in which a program lies with what belongs to it."""
    head, found, _ = real.rpartition("/node_modules/")
    if found:
        return f"{head}/node_modules"
    folder = os.path.dirname(real)
    parent = os.path.dirname(folder)
    return parent if os.path.basename(folder) == "bin" and os.path.basename(parent) != ".local" else folder


def _borrowed(objects: Path, sandbox: Sandbox) -> Iterator[str]:
    """The folders of objects that a clone's are borrowed from, and those that these borrow from in turn.

    The user's repository names the latter, so only what looks like such a folder counts, and nothing hidden.
    """
    waiting, seen = [objects], {objects}
    while waiting and len(seen) < 20:
        folder = waiting.pop()
        try:
            lines = (folder / "info/alternates").read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            named = (folder / os.fsdecode(line)).resolve()
            looks_right = named.name == "objects" and (named.parent / "HEAD").is_file()
            if named in seen or not looks_right or _is_below(str(named), map(_real, sandbox.hidden)):
                continue
            seen.add(named)
            waiting.append(named)
            yield str(named)


def _variables(job: Job) -> Iterator[str]:
    for name in _NOT_INSIDE:
        yield from ("--unsetenv", name)
    yield from ("--setenv", "TMPDIR", TEMPORARY)
    caches = f"{TEMPORARY}/caches" if job.clone is None else f"{job.clone}/{CACHES}"
    for name, below in _CACHE_VARIABLES.items():
        yield from ("--setenv", name, f"{caches}/{below}".rstrip("/"))


def _shown(paths: Iterable[str | Path]) -> Iterator[str]:
    for path in dict.fromkeys(_real(each) for each in paths):
        if os.path.exists(path):
            yield from ("--ro-bind", path, path)


def _hidden(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        yield from ("--tmpfs", path)
    elif os.path.exists(path):
        yield from ("--ro-bind", os.devnull, path)


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _real(path: str | Path) -> str:
    return os.path.realpath(path)
