"""TOML, as Codex has it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import MutableMapping
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError

from mcp_server.clients.format import Keys, UnreadableError

_HEADER = re.compile(r"[ \t]*(\[(?!\[)[^\]\n]*\])[ \t]*(?:#.*)?$")


class TomlFormat:
    """See `Format`."""

    def read(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text.removeprefix("\ufeff"))
        except tomllib.TOMLDecodeError as error:
            raise UnreadableError(f"it is not TOML: {error}") from None
        except RecursionError:
            raise UnreadableError("it is nested too deeply") from None

    def set(self, text: str, keys: Keys, value: Any) -> str:
        if isinstance(value, dict) and _find(self.read(text), keys) is None:
            # A table may stand at the very end, so that nothing of what is there needs to be moved.
            end = "\r\n" if "\r\n" in text else "\n"
            kept = text.rstrip()
            gap = end * 2 if kept else ""
            return f"{kept}{gap}{self.show(keys, value).rstrip()}\n".replace("\r\n", "\n").replace("\n", end)
        document = self._parsed(text)
        owner: MutableMapping[str, Any] = document
        for depth, key in enumerate(keys[:-1], 1):
            found: Any = owner.setdefault(key, tomlkit.inline_table())
            if not isinstance(found, MutableMapping):
                raise UnreadableError(f"{'.'.join(keys[:depth])} is no table")
            owner = cast("MutableMapping[str, Any]", found)
        owner[keys[-1]] = value
        return tomlkit.dumps(document)  # pyright: ignore[reportUnknownMemberType]

    def remove(self, text: str, keys: Keys) -> str:
        if _find(self.read(text), keys) is None:
            return text
        # tomlkit takes the comments behind a table for a part of it, and would remove them too.
        kept = _without_tables(text, keys)
        if kept != text and _is_without(self.read(text), keys, self.read(kept)):
            return kept
        document = self._parsed(text)
        owner: Any = document
        for key in keys[:-1]:
            owner = owner[key]
        del owner[keys[-1]]
        return tomlkit.dumps(document)  # pyright: ignore[reportUnknownMemberType]

    def show(self, keys: Keys, value: Any) -> str:
        for key in reversed(keys):
            value = {key: value}
        return tomlkit.dumps(value).rstrip()  # pyright: ignore[reportUnknownMemberType]

    def _parsed(self, text: str) -> tomlkit.TOMLDocument:
        self.read(text)
        try:
            return tomlkit.parse(text)
        except TOMLKitError as error:
            raise UnreadableError(f"it cannot be changed: {error}") from None


TOML = TomlFormat()


def _find(values: Any, keys: Keys) -> Any:
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return None
        values = values[key]  # pyright: ignore[reportUnknownVariableType]
    return values  # pyright: ignore[reportUnknownVariableType]


def _is_without(before: dict[str, Any], keys: Keys, after: dict[str, Any]) -> bool:
    """Whether the two differ in the value at `keys` alone. Tables on the way that are empty by now may be gone."""
    if len(keys) == 1:
        return {name: value for name, value in before.items() if name != keys[0]} == after
    rest = {name: value for name, value in before.items() if name != keys[0]}
    if rest != {name: value for name, value in after.items() if name != keys[0]}:
        return False
    return _is_without(before[keys[0]], keys[1:], after.get(keys[0], {}))


def _without_tables(text: str, keys: Keys) -> str:
    """Without the table `keys` and those in it, by lines. Comments behind them stay: they are about what follows."""
    kept: list[str] = []
    pending: list[str] = []
    ours = False
    for line in text.splitlines(keepends=True):
        header = _header(line)
        if header is not None or line.lstrip().startswith("[["):
            ours = header is not None and header[: len(keys)] == keys
            kept += pending
            pending = []
        if not ours:
            kept.append(line)
        elif line.strip() and not line.lstrip().startswith("#"):
            pending = []
        else:
            pending.append(line)
    kept += pending
    left = "".join(kept)
    if not ours or any(line.strip() for line in pending) or not left.strip():
        return left.lstrip("\r\n") if not left.strip() else left
    return left.rstrip() + ("\r\n" if "\r\n" in text else "\n")


def _header(line: str) -> Keys | None:
    """The keys of a table's header."""
    found = _HEADER.match(line.rstrip("\r\n"))
    if found is None:
        return None
    try:
        table: dict[str, Any] = tomllib.loads(found[1])
    except tomllib.TOMLDecodeError:
        return None  # a line of a list
    keys: list[str] = []
    while table:
        ((key, table),) = table.items()
        keys.append(key)
    return tuple(keys)
