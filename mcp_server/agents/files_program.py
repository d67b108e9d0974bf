"""What the agent `files` runs: one action on the files of a workspace, standard library only.

The order comes as JSON on stdin: `root` (the workspace), `folder` (the working folder in it, as a list of names) and
what was asked. The answer goes to stdout, what was left out or went wrong to stderr. Exit code 1: it could not be done.

Every folder on the way is opened by its name in the one above, and no link is followed: whatever changes meanwhile,
nothing outside of the workspace is touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

LISTED = 1000
"""Entries of a list."""
MATCHES = 200
SEARCHED_FILES = 20_000
SEARCHED_BYTES = 8 * 1024 * 1024
"""Of one file; in a larger one nothing is searched."""
LINE_BYTES = 400
"""Of a line that matches."""
LOOKED_AT_BYTES = 8192
"""In which a U+0000 tells that a file is no text."""
DEPTH = 40

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


Found = tuple[tuple[str, ...], int, "os.DirEntry[str]"]
"""Where an entry is (the folders above it), the open folder that it is in, and the entry."""


class TroubleError(Exception):
    """It cannot be done; the message says why."""


def main() -> int:
    """Do what stdin says."""
    order: dict[str, Any] = json.load(sys.stdin.buffer)
    try:
        with _folder(order["root"], order["folder"], order["folder"]) as start:
            ACTIONS[order["action"]](start, order)
    except TroubleError as trouble:
        _say(str(trouble))
        return 1
    except OSError as error:
        _say(f"{'/'.join(order['path']) or 'The folder'}: {error.strerror}.")
        return 1
    return 0


def _list(start: int, order: dict[str, Any]) -> None:
    with _below(start, order["path"], order["path"]) as folder:
        lines: list[bytes] = []
        for place, _, entry in _walk(folder, order["depth"]):
            if len(lines) == LISTED:
                _say(f"There is more than the first {LISTED}.")
                break
            lines.append(_shown("/".join((*place, entry.name))) + _kind(entry))
    _write_out(b"".join(line + b"\n" for line in lines))


def _read(start: int, order: dict[str, Any]) -> None:
    with _opened(start, order["path"]) as file:
        size = os.fstat(file).st_size
        if b"\0" in os.pread(file, LOOKED_AT_BYTES, 0):
            raise TroubleError(f"{'/'.join(order['path'])} is no text; it has {size} bytes.")
        data = os.pread(file, order["limit"], order["offset"])
    _write_out(data)
    end = order["offset"] + len(data)
    if end < size:
        _say(f"These are the bytes {order['offset']} to {end} of {size}. Read on with offset {end}.")


def _search(start: int, order: dict[str, Any]) -> None:
    query = os.fsencode(order["query"])
    query = query.lower() if order["ignore_case"] else query
    found = searched = skipped = 0
    with _below(start, order["path"], order["path"]) as top:
        for place, folder, entry in _walk(top, DEPTH):
            if not entry.is_file(follow_symlinks=False):
                continue
            if searched == SEARCHED_FILES:
                _say(f"Only the first {SEARCHED_FILES} files were searched.")
                return
            searched += 1
            data = _searchable(folder, entry.name)
            if data is None:
                skipped += 1
                continue
            for number, line in _matching(data, query, order["ignore_case"]):
                if found == MATCHES:
                    _say(f"There are more than these {MATCHES} lines.")
                    return
                found += 1
                _write_out(_shown("/".join((*place, entry.name))) + b":%d: " % number + line[:LINE_BYTES] + b"\n")
    if skipped:
        _say(f"Files that are no text, cannot be read or are too large: {skipped}.")


def _write(start: int, order: dict[str, Any]) -> None:
    *folders, name = order["path"]
    content = order["content"].encode()
    with _below(start, folders, order["path"], make=True) as folder:
        old = _stat(folder, name)
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise TroubleError(f"{'/'.join(order['path'])} is there, and is no file.")
        if old is not None and order["if_exists"] == "refuse":
            raise TroubleError(f"{'/'.join(order['path'])} is there already. Say if_exists: replace, or append.")
        if old is not None and order["if_exists"] == "append":
            _append(folder, name, content)
        else:
            _replace(folder, name, content, stat.S_IMODE(old.st_mode) if old is not None else 0o644)
    done = "Made" if old is None else "Added to" if order["if_exists"] == "append" else "Replaced"
    _write_out(f"{done} {'/'.join(order['path'])}: {len(content)} bytes.\n".encode())


def _append(folder: int, name: str, content: bytes) -> None:
    file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise TroubleError(f"{name} is no file.")
        _write_all(file, content)
    finally:
        os.close(file)


def _replace(folder: int, name: str, content: bytes, mode: int) -> None:
    """At once: whoever reads meanwhile sees the old content or the new one."""
    temporary = f".{name[:100]}.{os.getpid()}.new"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
    try:
        try:
            os.fchmod(file, mode)
            _write_all(file, content)
        finally:
            os.close(file)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


@contextmanager
def _folder(root: str, names: Sequence[str], shown: Sequence[str]) -> Generator[int]:
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _below(top, names, shown) as folder:
            yield folder
    finally:
        os.close(top)


@contextmanager
def _below(start: int, names: Sequence[str], shown: Sequence[str], *, make: bool = False) -> Generator[int]:
    """The folder `names` below `start`, which stays open. `make`: what is missing of it is made."""
    here = os.dup(start)
    try:
        for name in names:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=here)
            try:
                below = os.open(name, _FOLDER, dir_fd=here)
            except OSError as error:
                raise _unopened(error, here, name, shown, "folder") from None
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


@contextmanager
def _opened(start: int, path: Sequence[str]) -> Generator[int]:
    *folders, name = path
    with _below(start, folders, path) as folder:
        try:
            file = os.open(name, _FILE, dir_fd=folder)
        except OSError as error:
            raise _unopened(error, folder, name, path, "file") from None
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise TroubleError(f"{'/'.join(path)} is no file.")
            yield file
        finally:
            os.close(file)


def _unopened(error: OSError, folder: int, name: str, shown: Sequence[str], wanted: str) -> TroubleError:
    path = "/".join(shown)
    found = _stat(folder, name)
    if found is not None and stat.S_ISLNK(found.st_mode):
        return TroubleError(f"{name} in {path} is a link, and links are not followed.")
    if error.errno == errno.ENOENT:
        return TroubleError(f"There is no {path}.")
    if error.errno in (errno.ENOTDIR, errno.ENXIO):
        return TroubleError(f"{name} in {path} is no {wanted}.")
    return TroubleError(f"{path}: {error.strerror}.")


def _stat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _walk(folder: int, depth: int, place: tuple[str, ...] = ()) -> Iterator[Found]:
    """What is in `folder`, and down to `depth` what is below; not what is in `.git`."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        yield place, folder, entry
        if depth <= 1 or entry.name == ".git" or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            below = os.open(entry.name, _FOLDER, dir_fd=folder)
        except OSError:
            continue
        try:
            yield from _walk(below, depth - 1, (*place, entry.name))
        finally:
            os.close(below)


def _searchable(folder: int, name: str) -> bytes | None:
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size > SEARCHED_BYTES:
            return None
        with os.fdopen(os.dup(file), "rb") as opened:
            data = opened.read(SEARCHED_BYTES)
        return None if b"\0" in data[:LOOKED_AT_BYTES] else data
    except OSError:
        return None
    finally:
        os.close(file)


def _matching(data: bytes, query: bytes, ignore_case: bool) -> Iterator[tuple[int, bytes]]:
    if query not in (data.lower() if ignore_case else data):
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if query in (line.lower() if ignore_case else line):
            yield number, line.strip()


def _kind(entry: os.DirEntry[str]) -> bytes:
    if entry.is_symlink():
        return b" (a link)"
    if entry.is_dir(follow_symlinks=False):
        return b"/"
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return b""
    return b" (%d bytes)" % found.st_size if stat.S_ISREG(found.st_mode) else b" (no file)"


def _shown(path: str) -> bytes:
    """On one line, whatever is in the name."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path).encode(errors="replace")


def _write_out(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    sys.stderr.buffer.write(_shown(text) + b"\n")


ACTIONS = {"list": _list, "read": _read, "search": _search, "write": _write}

if __name__ == "__main__":
    sys.exit(main())
