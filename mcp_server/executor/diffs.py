"""What an agent changed, kept as an artifact of its task."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mcp_server.artifacts import Artifacts
from mcp_server.callers import Caller, calling_as
from mcp_server.errors import ConflictError
from mcp_server.executor.records import read_diff
from mcp_server.tasks import Task

DIFF_TYPE = "text/x-diff"


class Diffs:
    """Keeps the diff of an attempt. The same again is the same artifact."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def keep(self, task: Task, folder: Path) -> dict[str, Any]:
        """What the result says of the diff beside the records in `folder`; nothing where there is none.

        Raises:
            NotFoundError: the session was deleted, and the task with it.
            StoreError: it could not be stored. It may be tried again.
        """
        diff, cut = read_diff(folder)
        if not diff:
            return {}
        if cut:
            diff += f"\n[cut: {cut} bytes more]\n"
        name = f"task-{task.number}-{task.attempt}-diff"
        try:
            artifact_id = await self._add(task, name, diff)
        except ConflictError:  # somebody had taken that id
            artifact_id = await self._add(task, f"{name}-{hashlib.sha256(diff.encode()).hexdigest()[:16]}", diff)
        return {"diff": artifact_id} | ({"diff_bytes_cut": cut} if cut else {})

    async def _add(self, task: Task, artifact_id: str, diff: str) -> str:
        with calling_as(_caller_of(task)):
            await self._artifacts.add(
                id=artifact_id,
                name=f"Changes of task {task.number}.diff",
                type=DIFF_TYPE,
                content=diff,
                session_id=task.session_id,
                task_id=task.id,
            )
        return artifact_id


def _caller_of(task: Task) -> Caller:
    """Whose task it is, with no right to anything."""
    fields = {name: task.caller.get(name) for name in ("key_id", "delivery_id")}
    return Caller(level=task.caller["level"], name=task.caller["name"], scopes=frozenset(), **fields)
