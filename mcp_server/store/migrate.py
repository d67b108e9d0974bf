"""Numbered, forward-only migrations, each in one transaction with its number and checksum."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mcp_server.errors import ForeignStoreError, NewerStoreError, StoreError

APPLICATION_ID = 0x4F464844
"""`OFHD` in the file's header: how a store of ours is told from any other SQLite file."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Of the text: a step that was edited after it ran is found."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """The steps that this release knows, in order."""
    found = [
        Migration(int(file.name.split("_", 1)[0]), file.name, file.read_text("utf-8"))
        for file in files("mcp_server.store").joinpath("migrations").iterdir()
        if file.name.endswith(".sql")
    ]
    return sorted(found, key=lambda step: step.version)


def migrate(connection: sqlite3.Connection, path: Path, steps: list[Migration]) -> None:
    """Bring the open store at `path` to the last of `steps`; an older one is first copied beside itself.

    Raises:
        ForeignStoreError: the file belongs to somebody else. It is left untouched.
        NewerStoreError: the store knows steps that this release does not. It is left untouched.
        StoreError: a step that has run was changed afterwards.
    """
    done = _applied(connection, path)
    known = {step.version: step for step in steps}
    newer = max(done, default=0) - max(known, default=0)
    if newer > 0:
        raise NewerStoreError(
            f"{path} was written by a newer Offhand ({newer} steps ahead of this one). Nothing was changed.",
            field="OFFHAND_HOME",
            fix="Upgrade Offhand, or use another OFFHAND_HOME.",
        )
    for version, checksum in done.items():
        if known[version].checksum != checksum:
            raise StoreError(
                f"{path} was made by another text of {known[version].name}. Nothing was changed.",
                field="OFFHAND_HOME",
                fix="Use the release of Offhand that made it, or another OFFHAND_HOME.",
            )
    missing = [step for step in steps if step.version not in done]
    if done and missing:
        # Named by the first missing step: an upgrade that is broken off and begun again keeps the copy of the original.
        backup = path.with_name(f"{path.name}.before-{missing[0].version}")
        backup.unlink(missing_ok=True)
        os.close(os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection.execute("VACUUM INTO ?", (str(backup),))
    for step in missing:
        _run(connection, step)


def foreign_store(path: Path, what: str = "is not an Offhand store") -> ForeignStoreError:
    """The error for a file at `path` that is not ours to open."""
    return ForeignStoreError(
        f"{path} {what}. It was left as it is.",
        field="OFFHAND_HOME",
        fix="Move that file away, or use another OFFHAND_HOME.",
    )


def _applied(connection: sqlite3.Connection, path: Path) -> dict[int, str]:
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if not tables and application == 0:
            return {}
        if application != APPLICATION_ID or "migration" not in tables:
            raise foreign_store(path)
        return dict(connection.execute("SELECT version, checksum FROM migration ORDER BY version"))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise foreign_store(path) from None
        raise


def _run(connection: sqlite3.Connection, step: Migration) -> None:
    script = (
        f"BEGIN IMMEDIATE;\nPRAGMA application_id = {APPLICATION_ID};\n{step.text}\n"
        f"INSERT INTO migration (version, name, checksum, applied_at) VALUES "
        f"({step.version}, '{step.name}', '{step.checksum}', {time.time_ns() // 1000});\nCOMMIT;"
    )
    try:
        connection.executescript(script)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
