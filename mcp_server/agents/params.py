"""Reading what a caller put in `params`: every refusal names the field and shows what would be right."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from mcp_server.errors import FieldIssue, InvalidError

COMMAND_LIMIT_BYTES = 120 * 1024
"""Linux takes at most 128 KiB in one argument; a longer text belongs in a file."""


def refuse_unknown(params: Mapping[str, Any], known: Collection[str]) -> None:
    """Every name that is not in `known` is an error of its own."""
    unknown = [name for name in params if name not in known]
    if not unknown:
        return
    issues = [
        FieldIssue(f"params.{name}", f"There is no parameter {name!r}.", _remedy(name, known)) for name in unknown
    ]
    message = f"Unknown in params: {', '.join(repr(name) for name in unknown)}."
    raise InvalidError(message, issues=issues, say=f"This agent does not know the parameter {unknown[0]}.")


def command_from(params: Mapping[str, Any], example: Sequence[str]) -> tuple[str, ...]:
    """`params.command`: a list of strings that a program can be started with. `example` is shown in the remedies."""
    refuse_unknown(params, ("command",))
    if "command" not in params:
        raise _refused(
            "A command is needed.", f"Give the program and its arguments as a list, such as {json.dumps(example)}."
        )
    value: object = params["command"]
    if isinstance(value, str):
        raise _refused(
            "The command is one string; a list is due.", f"Write {json.dumps(_as_list(value) or list(example))}."
        )
    if not isinstance(value, (list, tuple)):
        raise _refused("The command is not a list.", f"Give a list of strings, such as {json.dumps(example)}.")
    items = cast("Sequence[object]", value)
    if not items:
        raise _refused("The command is empty.", f"Give the program and its arguments, such as {json.dumps(example)}.")
    command = tuple(item for item in items if isinstance(item, str))
    if len(command) < len(items):
        at = next(at for at, item in enumerate(items) if not isinstance(item, str))
        raise _refused(f"Item {at} of the command is not a string.", f'Write it in quotes: "{str(items[at])[:100]}".')
    _refuse_unpassable(command)
    return command


def _refuse_unpassable(command: tuple[str, ...]) -> None:
    for at, item in enumerate(command):
        if "\0" in item:
            position = item.index("\0")
            raise _refused(f"Item {at} of the command has U+0000 at position {position}.", "Leave that character out.")
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise _refused(
                f"Item {at} of the command has a lone surrogate at position {error.start}.", "Leave it out."
            ) from None
    if sum(len(item.encode()) + 1 for item in command) > COMMAND_LIMIT_BYTES:
        raise _refused(f"The command has more than {COMMAND_LIMIT_BYTES:,} bytes.", "Put the long part into a file.")


def _refused(message: str, fix: str) -> InvalidError:
    return InvalidError(message, field="params.command", fix=fix, say=f"{message} A list of words is due.")


def _as_list(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _remedy(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Leave it out; known are: {', '.join(known)}."
