"""A connection of the store that fails at one chosen commit, put in the place of sqlite3's own by a test."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Fault = Literal["killed_before", "killed_after", "no_space", "hangs"]
HANG_SECONDS = 20.0
NO_SPACE_COMMITS = 3
"""So many commits in a row find the disk full."""


@dataclass
class Commits:
    """Counts commits of the writer. At number `at` (from 1) the `fault` comes; 0: never."""

    fault: Fault
    at: int = 0
    count: int = 0
    hanging: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)

    def around(self, commit: Callable[[], Any]) -> Any:
        self.count += 1
        if self.fault == "hangs" and self.count == self.at:
            self.hanging.set()
            self.goes_on.wait(HANG_SECONDS)
        if self.fault == "no_space" and 0 < self.at <= self.count < self.at + NO_SPACE_COMMITS:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        if self.fault == "killed_before" and self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        result = commit()
        if self.fault == "killed_after" and self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def connect_through(commits: Commits) -> Callable[..., sqlite3.Connection]:
    """A `sqlite3.connect` whose writing connections commit through `commits`."""
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "COMMIT":
                return commits.around(lambda: super(Connection, self).execute(sql, *values))
            return super().execute(sql, *values)

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        own = {} if options.get("uri") else {"factory": Connection}
        return connect(*arguments, **own, **options)

    return connected
