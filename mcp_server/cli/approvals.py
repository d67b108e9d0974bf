"""`offhand approvals`, `offhand approve`, `offhand deny`: what waits for your answer, and your answer.

What is shown was written by whoever asked, which may be an LLM that reads what strangers write. So nothing of it
reaches the terminal but as text on lines of its own, where it cannot pass for anything else.
"""

from __future__ import annotations

import json
import shlex
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import click

from mcp_server.cli.running import as_json_option, ask_server
from mcp_server.clock import MICROSECONDS, from_iso
from mcp_server.errors import InvalidError, NotFoundError, UnavailableError

PAGE = 100
UNDECIDED = 1
"""The exit code where the user did not say yes."""

BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and signs that look like nothing."""

Record = Mapping[str, Any]


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also what was decided, or expired; the newest hundred.")
@as_json_option
def approvals(everything: bool, as_json: bool) -> None:
    """What waits for your answer. No answer means no."""
    items = _items(everything=everything)
    if as_json:
        click.echo(json.dumps({"items": items}, indent=1))
    elif not items:
        click.echo("Nothing waits for your answer.")
    else:
        _print_list(items)


@click.command()
@click.argument("which", required=False, metavar="[ID|TASK]")
@click.option("--yes", is_flag=True, help="Do not ask again. Needs ID or TASK.")
@as_json_option
def approve(which: str | None, yes: bool, as_json: bool) -> None:
    """Allow exactly what is shown, once: by the id of the approval, or the id or number of its task."""
    if yes and which is None:
        raise click.UsageError("--yes needs the id of what you approve: see offhand approvals.")
    found = _named(which)
    if not yes and not sys.stdin.isatty():
        raise InvalidError(
            "There is no terminal to ask you on. Nothing was approved.",
            field="yes",
            fix=f"Say it with --yes: offhand approve {found['id']} --yes",
        )
    if not as_json or not yes:
        click.echo("\n".join(_shown(found)), err=as_json)
    if not yes and not click.confirm(f"Approve this for task {found['task_number']}?", default=False, err=as_json):
        click.echo(f"Left as it is. To refuse it: offhand deny {found['task_number']}", err=True)
        raise click.exceptions.Exit(UNDECIDED)
    _decide(found, "approve", as_json=as_json)


@click.command()
@click.argument("which", required=False, metavar="[ID|TASK]")
@as_json_option
def deny(which: str | None, as_json: bool) -> None:
    """Refuse what waits: its task is cancelled. By the id of the approval, or the id or number of its task."""
    _decide(_named(which), "deny", as_json=as_json)


def _decide(found: Record, decision: str, *, as_json: bool) -> None:
    """Send the hash of what was shown: if anything else is asked by now, the server refuses."""
    body = {"decision": decision, "hash": found["hash"]}
    decided = _ask("POST", f"/api/approvals/{quote(found['id'], safe='')}", body)
    if as_json:
        click.echo(json.dumps(decided, indent=1))
    elif decision == "approve":
        click.echo(f"Approved: task {decided['task_number']} goes on.")
    else:
        click.echo(f"Denied: task {decided['task_number']} is cancelled.")


def _named(which: str | None) -> dict[str, Any]:
    """What is meant, in full. Without a name the only one that waits; where there are several they are listed."""
    waiting = _items()
    if which is not None:
        for item in waiting:
            if which in (item["id"], item["task_id"], str(item["task_number"])):
                return _ask("GET", f"/api/approvals/{quote(item['id'], safe='')}")
        raise NotFoundError(
            f"Nothing waits for your answer by the name {plain(which)!r}.",
            field="approval_id",
            fix="Look in: offhand approvals --all",
        )
    if not waiting:
        raise NotFoundError("Nothing waits for your answer.", field="approval_id")
    if len(waiting) == 1:
        return _ask("GET", f"/api/approvals/{quote(waiting[0]['id'], safe='')}")
    click.echo("Several wait for your answer. Name one by its id or its task:\n")
    _print_list(waiting)
    raise click.exceptions.Exit(UNDECIDED)


def _items(*, everything: bool = False) -> list[dict[str, Any]]:
    """What waits, all of it, or the newest of everything; newest first."""
    items: list[dict[str, Any]] = []
    path = f"/api/approvals?limit={PAGE}{'&all=true' if everything else ''}"
    page = _ask("GET", path)
    items += page["items"]
    while page["next_cursor"] and not everything:
        page = _ask("GET", f"{path}&cursor={quote(page['next_cursor'], safe='')}")
        items += page["items"]
    return items


def _ask(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = ask_server(method, path, body)
    if answer is None:
        raise UnavailableError("No server runs, so nothing can be decided.", field="server", fix="Start: offhand serve")
    return answer


def _print_list(items: list[dict[str, Any]]) -> None:
    for item in items:
        state = f"until {_local(item['expires_at'])}" if item["status"] == "pending" else item["status"]
        click.echo(f"{item['id']}  task {item['task_number']}  {plain(item['agent'])}  {state}")
        click.echo(f"    {plain(item['say'])}")


def _shown(item: Record) -> Iterator[str]:
    """Everything that is approved, exactly. Long texts first, so that the facts stand right above the question."""
    action = dict(item["action"])
    texts = {name: action.pop(name) for name in ("description", "input") if action.get(name)}
    if item["diff"]:
        texts["diff"] = item["diff"]
    for name, text in texts.items():
        yield f"{name}:"
        written = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, indent=1)
        yield from (f"  | {plain(line)}" for line in written.split("\n"))
    argv = action.pop("argv", None)
    facts = {"task": item["task_number"], "about": item["about"], "asked by": _caller(item["asked_by"])}
    facts |= {name: value for name, value in action.items() if name != "task" and value not in (None, {}, [])}
    facts |= {"until": _local(item["expires_at"]), "hash": item["hash"]}
    if argv:
        facts["command"] = shlex.join(argv)
        facts["argv"] = argv
    for name, value in facts.items():
        written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"{plain(str(name)):>9}: {plain(written)}"


def plain(text: str) -> str:
    """`text` on one line, with everything that a terminal would act on, or not show, written as an escape."""
    return "".join(character if _shows(character) else ascii(character)[1:-1] for character in text)


def _shows(character: str) -> bool:
    return character == " " or (unicodedata.category(character)[0] not in "CZ" and character not in BLANK)


def _caller(caller: Record) -> str:
    return f"{caller['name']} ({caller['level']})"


def _local(moment: str) -> str:
    return datetime.fromtimestamp(from_iso(moment) / MICROSECONDS).astimezone().strftime("%Y-%m-%d %H:%M")
