"""What a body asks for. The forms that exist in the field, in the order of the design: the first matching one wins.

The form is decided by `type`, `command` and `text` alone. What it does not know is refused, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from relay_adapter.commands import COMMANDS, TASK_COMMAND, Command, Session, ToolCall, text_command, translate
from relay_adapter.errors import FieldIssue, InvalidError, invalid, shown
from relay_adapter.fields import Field, nearest, read_member, unknown

Form = Literal["collaborative_session_command", "command", "task_command", "webhook", "text"]

MAX_BATCH_COMMANDS = 100
MAX_ISSUES = 20
DELIVERY_ID_PATTERN = r"[!-~]{1,200}"

TYPES: tuple[Form, ...] = ("collaborative_session_command", "task_command", "webhook")
_COMMAND_NAMES = (*COMMANDS, "batch")

_TYPE = Field("type", "text")
_COMMAND = Field("command", "text", f"Known here: {', '.join(sorted(_COMMAND_NAMES))}.", required=True)
_SESSION = Field("session_id", "id")
_DATA = Field("data", "object")
_ALWAYS = ("delivery_id", "timestamp")
_BATCH_FIELDS = ("commands", "continue_on_error")
_ENVELOPE: dict[Form, tuple[str, ...]] = {
    "collaborative_session_command": ("type", "command", "session_id", "data"),
    "command": ("command", "session_id", "data"),
    "task_command": ("type", "session_id", "data"),
    "webhook": ("type", "event", "payload"),
}
_WHAT_TO_SEND = 'Send {"text": "…"} or {"command": "…", "data": {…}}, or one of the types ' + ", ".join(TYPES) + "."


@dataclass(frozen=True, slots=True)
class Order:
    """The calls that a body asks for, in order."""

    calls: tuple[ToolCall, ...]
    delivery_id: str | None = None
    batch: bool = False
    continue_on_error: bool = False


def read_order(body: Mapping[str, Any], default_agent: str) -> Order:
    """Everything that the body asks for, checked as a whole before the first of it is done.

    Raises:
        InvalidError: names each field that is wrong by its full path.
    """
    present = _present(body)
    form = form_of(present, "")
    delivery_id = read_delivery_id(present, "")
    _read_timestamp(present, "")
    if form != "webhook":
        return _read(form, present, "", delivery_id, default_agent)
    _refuse_unknown(form, present, "", _ALWAYS)
    read_member(present, Field("event", "text"), "")
    payload = _present(read_member(present, Field("payload", "object", _WHAT_TO_SEND, required=True), ""))
    inner = form_of(payload, "payload.")
    if inner == "webhook":
        raise invalid("payload.type", "A webhook cannot carry another webhook.", "Send the inner one by itself.")
    inner_id = read_delivery_id(payload, "payload.")
    _read_timestamp(payload, "payload.")
    return _read(inner, payload, "payload.", agreed_delivery_id(delivery_id, inner_id, "payload."), default_agent)


def form_of(body: Mapping[str, Any], at: str) -> Form:
    """The first form that matches.

    Raises:
        InvalidError: none does.
    """
    kind = read_member(dict(body), _TYPE, at)
    if kind is None:
        if "command" in body:
            return "command"
        if "text" in body:
            return "text"
        raise invalid(f"{at}type", "The request does not say what to do.", _WHAT_TO_SEND)
    for known in TYPES:
        if kind == known:
            return known
    fix = f'Put "{kind}" into "command".' if kind in _COMMAND_NAMES else nearest(kind, TYPES)
    raise invalid(f"{at}type", f"The type {shown(kind)} is not known.", fix)


def read_delivery_id(body: Mapping[str, Any], at: str) -> str | None:
    """The id under which the sender may send this again."""
    return check_delivery_id(read_member(dict(body), Field("delivery_id", "text"), at), f"{at}delivery_id")


def check_delivery_id(value: str | None, path: str) -> str | None:
    """Ids are chosen by senders of every kind: anything visible in ASCII, up to 200 characters."""
    if value is None or re.fullmatch(DELIVERY_ID_PATTERN, value):
        return value
    message = "The delivery id must be 1 to 200 visible characters without spaces."
    raise invalid(path, message, "A UUID is a good one.")


def agreed_delivery_id(one: str | None, other: str | None, at: str) -> str | None:
    """One delivery has one id, wherever it is written."""
    if one is not None and other is not None and one != other:
        raise invalid(f"{at}delivery_id", "The delivery id is given twice, and differs.", "Give it once.")
    return one if one is not None else other


def _present(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _read_timestamp(body: Mapping[str, Any], at: str) -> None:
    read_member(dict(body), Field("timestamp", "moment"), at)


def _read(form: Form, body: dict[str, Any], at: str, delivery_id: str | None, default_agent: str) -> Order:
    if form in ("collaborative_session_command", "command") and body.get("command") == "batch":
        return _read_batch(form, body, at, delivery_id, default_agent)
    return Order((_read_call(form, body, at, None, default_agent, _ALWAYS),), delivery_id)


def _read_batch(form: Form, body: dict[str, Any], at: str, delivery_id: str | None, default_agent: str) -> Order:
    _refuse_unknown(form, body, at, _ALWAYS)
    session = _read_session(body, at)
    data: dict[str, Any] = read_member(body, _DATA, at) or {}
    issues = [unknown(name, _BATCH_FIELDS, f"{at}data.") for name in data if name not in _BATCH_FIELDS]
    if issues:
        raise InvalidError(issues[:MAX_ISSUES])
    continue_on_error = bool(read_member(data, Field("continue_on_error", "boolean"), f"{at}data."))
    path = f"{at}data.commands"
    inherited = Session(session.value, session.path, own=False) if session else None
    calls: list[ToolCall] = []
    for index, item in enumerate(_read_commands(data.get("commands"), path)):
        try:
            calls.append(_read_item(item, f"{path}[{index}]", inherited, default_agent))
        except InvalidError as error:
            issues.extend(error.issues)
    if issues:
        raise InvalidError(issues[:MAX_ISSUES])
    return Order(tuple(calls), delivery_id, batch=True, continue_on_error=continue_on_error)


def _read_commands(commands: Any, path: str) -> list[Any]:
    example = 'Write it as [{"command": "list_tasks"}].'
    if commands is None:
        raise invalid(path, "The field commands is missing.", example)
    if not isinstance(commands, list):
        raise invalid(path, "The field commands must be a list.", example)
    items = cast("list[Any]", commands)
    if not items:
        raise invalid(path, "The batch holds no commands.", example)
    if len(items) > MAX_BATCH_COMMANDS:
        raise invalid(path, f"A batch holds at most {MAX_BATCH_COMMANDS} commands.", "Send several batches.")
    return items


def _read_item(item: Any, path: str, inherited: Session | None, default_agent: str) -> ToolCall:
    if not isinstance(item, dict):
        raise invalid(path, "Each command must be an object.", 'Write it as {"command": "list_tasks"}.')
    body = _present(cast("dict[str, Any]", item))
    form = form_of(body, f"{path}.")
    if form == "webhook":
        raise invalid(f"{path}.type", "A batch cannot carry a webhook.", "Put its payload there instead.")
    if body.get("command") == "batch":
        raise invalid(f"{path}.command", "A batch cannot hold another batch.", "Put its commands into this one.")
    return _read_call(form, body, f"{path}.", inherited, default_agent, ())


def _read_call(
    form: Form, body: dict[str, Any], at: str, inherited: Session | None, default_agent: str, always: tuple[str, ...]
) -> ToolCall:
    session = _read_session(body, at) or inherited
    if form == "text":
        return _read_text(body, at, session, default_agent, always)
    command = TASK_COMMAND if form == "task_command" else _command_named(body, at)
    data: dict[str, Any] = read_member(body, _DATA, at) or {}
    issues = _unknown_fields(form, body, at, always, command)
    try:
        call = translate(command, data, session, f"{at}data.")
    except InvalidError as error:
        raise InvalidError([*issues, *error.issues][:MAX_ISSUES]) from None
    if issues:
        raise InvalidError(issues[:MAX_ISSUES])
    return call


def _read_text(
    body: dict[str, Any], at: str, session: Session | None, default_agent: str, always: tuple[str, ...]
) -> ToolCall:
    given = {name: value for name, value in body.items() if name not in (*always, "session_id")}
    call = translate(text_command(default_agent), given, session, at)
    if not call.arguments["description"].strip():
        raise invalid(f"{at}text", "The text is empty.", "Say what is to be done.")
    return call


def _command_named(body: dict[str, Any], at: str) -> Command:
    name: str = read_member(body, _COMMAND, at)
    if name not in COMMANDS:
        raise invalid(f"{at}command", f"The command {shown(name)} is not known.", nearest(name, _COMMAND_NAMES))
    return COMMANDS[name]


def _read_session(body: dict[str, Any], at: str) -> Session | None:
    value = read_member(body, _SESSION, at)
    return Session(value, f"{at}session_id") if value is not None else None


def _refuse_unknown(form: Form, body: dict[str, Any], at: str, always: tuple[str, ...]) -> None:
    issues = _unknown_fields(form, body, at, always, None)
    if issues:
        raise InvalidError(issues[:MAX_ISSUES])


def _unknown_fields(
    form: Form, body: dict[str, Any], at: str, always: tuple[str, ...], command: Command | None
) -> list[FieldIssue]:
    known = (*_ENVELOPE[form], *always)
    inside = command.names() if command else dict.fromkeys(_BATCH_FIELDS, "")
    return [
        unknown(name, known, at, f'Put it inside "data": {{"data": {{"{name}": …}}}}.' if name in inside else None)
        for name in body
        if name not in known
    ]
