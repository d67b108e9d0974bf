"""Asking a program for its version: it may hang, print anything, or leave processes behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence

VERSION_SECONDS = 15.0
_VERSION = re.compile(r"\d+(?:\.\d+)+[0-9A-Za-z.+-]{0,40}")


def version_of(argv: Sequence[str], env: Mapping[str, str]) -> str | None:
    """The first thing in its output that looks like a version; None where there is none. Takes 15 seconds at most."""
    try:
        process = subprocess.Popen(
            argv,
            env=dict(env),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        printed, _ = process.communicate(timeout=VERSION_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Its whole session: some programs start themselves again below.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    found = _VERSION.search(printed[:10_000].decode(errors="replace"))
    return found.group() if found else None
