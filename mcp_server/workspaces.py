"""Workspaces: the named folders in which tasks may work.

A task's folder is resolved, symlinks and all, and must lie in one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_server.errors import ForbiddenError, InvalidError
from mcp_server.values import check_text

PATH_LIMIT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task works: the workspace's name, its resolved root, and a resolved folder in it."""

    workspace: str
    root: Path
    cwd: Path


class Workspaces:
    """The workspaces of the settings, in their order."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)

    def roots(self) -> list[Path]:
        """The resolved roots."""
        return [Path(os.path.realpath(folder)) for folder in self._folders.values()]

    def names(self) -> list[str]:
        """What a caller may say."""
        return list(self._folders)

    def root(self, name: str | None) -> Path | None:
        """The resolved root of one workspace; None where it is not known (any more)."""
        return Path(os.path.realpath(self._folders[name])) if name in self._folders else None

    def resolve(self, workspace: str | None, working_dir: str | None) -> Place:
        """The place that a caller means: a workspace by name or path, a folder in it; the only one where none is named.

        Raises:
            InvalidError: no such workspace or folder, or several and none was named.
            ForbiddenError: the folder lies outside, also through a symlink.
        """
        if workspace is not None:
            check_text(workspace, "workspace", limit=PATH_LIMIT_BYTES)
        if working_dir is not None:
            check_text(working_dir, "working_dir", limit=PATH_LIMIT_BYTES)
            path = os.path.expanduser(working_dir)
            if workspace is None and os.path.isabs(path):
                return self._by_path(path, "working_dir")
            named = self._named(workspace)
            place = self._by_path(os.path.join(named.root, path), "working_dir")
            if not place.cwd.is_relative_to(named.root):
                raise self._outside("working_dir")
            return Place(named.workspace, named.root, place.cwd)
        return self._named(workspace)

    def _named(self, workspace: str | None) -> Place:
        known = ", ".join(self._folders) or "none yet"
        if workspace is None:
            if len(self._folders) == 1:
                (workspace,) = self._folders
            elif not self._folders:
                raise InvalidError(
                    "No workspace is known, so there is no folder to work in.",
                    field="workspace",
                    fix="Add one on the machine: offhand workspace add NAME PATH.",
                )
            else:
                raise InvalidError(
                    "There are several workspaces, and none was named.",
                    field="workspace",
                    fix=f"Name one of them: {known}.",
                )
        if workspace not in self._folders:
            path = os.path.expanduser(workspace)
            if os.path.isabs(path):
                return self._by_path(path, "workspace")
            raise InvalidError(f"There is no workspace {workspace!r}.", field="workspace", fix=f"Known are: {known}.")
        root = Path(os.path.realpath(self._folders[workspace]))
        if not root.is_dir():
            raise InvalidError(
                f"The folder of workspace {workspace} is gone.",
                field="workspace",
                fix="Bring it back, or remove the workspace with offhand workspace remove.",
            )
        return Place(workspace, root, root)

    def _by_path(self, path: str, field: str) -> Place:
        cwd = Path(os.path.realpath(path))
        candidates = [
            (name, root)
            for name, root in zip(self._folders, self.roots(), strict=True)
            if cwd == root or cwd.is_relative_to(root)
        ]
        if not candidates:
            raise self._outside(field)
        if not os.path.isdir(cwd):  # Path.is_dir raises where a name is too long
            raise InvalidError("There is no such folder in the workspace.", field=field, fix="Name one that exists.")
        name, root = max(candidates, key=lambda candidate: len(candidate[1].parts))
        return Place(name, root, cwd)

    def _outside(self, field: str) -> ForbiddenError:
        known = ", ".join(self._folders) or "none yet"
        return ForbiddenError(
            "That folder lies outside the workspaces.",
            field=field,
            fix=f"Name a workspace ({known}), or a folder in one.",
        )
