"""What the records of a coding agent's attempt mean: its report, its outcome, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from mcp_server.agent import Exit, Outcome, Pause
from mcp_server.drivers.job import Profile
from mcp_server.spoken import WORDS, spoken

DENIALS_KEPT = 50
FILES_KEPT = 500

Record = Mapping[str, Any]


def report_of(records: Iterable[Record]) -> dict[str, Any]:
    """What the records of one attempt say, as fields of its result; also of one that did not come to its end.

    `agent_conversation_id`, `agent_version`, `model`, `turns`, `input_tokens`, `output_tokens`, `cost_usd`; `denials`
    (the first 50, with `denials_count`); `branch`, `base`, `commit`, `clone`, `dirty`, `files` (the first 500, with
    `files_count`). What nobody said is left out.
    """
    report: dict[str, Any] = {}
    denials: list[Record] = []
    for record in records:
        fields = {name: value for name, value in record.items() if name != "type" and value is not None}
        match record.get("type"):
            case "usage":
                report |= fields
            case "agent":
                report["agent_version"] = record["version"]
            case "denied":
                denials.append(fields)
            case "work":
                report |= _work(fields)
            case "state":
                report |= _remembered(record["state"])
            case _:
                pass
    if denials:
        report |= {"denials": denials[:DENIALS_KEPT], "denials_count": len(denials)}
    return report


def _remembered(state: Record) -> dict[str, Any]:
    session, clone = state.get("session"), state.get("clone")
    report: dict[str, Any] = {"agent_conversation_id": session} if session else {}
    return report | ({"dirty": True} if isinstance(clone, dict) and cast(Record, clone).get("dirty") is True else {})


def _work(fields: Record) -> dict[str, Any]:
    work = {name: value for name, value in fields.items() if name != "diff"}
    files = list(work.get("files", ()))
    return work | {"files": files[:FILES_KEPT], "files_count": len(files)}


def judged(title: str, profile: Profile, ended: Exit) -> Outcome:
    """What the end of an attempt means, by its driver's last record. `title` is the agent's."""
    report = report_of(ended.records)
    end = next((record for record in reversed(ended.records) if record.get("type") == "end"), None)
    if end is None:
        say = f"{title} ended without a word about how it went."
        text = ended.stderr.strip() or ended.stdout.strip() or say
        return Outcome(False, text, say, reason="no_result", may_pass=True, details=report)
    text, outcome = end["text"], end["outcome"]
    ask: Record | None = end["ask"]
    if outcome == "quota" or (outcome == "asks" and ask):
        pause = Pause(ask=ask, until=end["until"])
        say = spoken(end["say"] or (ask["say"] if ask else "") or text) or f"{title} waits."
        return Outcome(False, text, say, reason=outcome, details=report, pause=pause)
    if outcome == "completed":
        unsure = _unsure(title, end, report)
        say = _said(_done(title, profile, report, unsure), end["say"] or text)
        details = report | ({"unverified": unsure} if unsure else {})
        return Outcome(True, text, say, end["reason"], details=details)
    said = end["say"] or text
    say = spoken(said) if said.startswith(title) else _said(f"{title} failed.", said)
    if report.get("branch"):
        say = _said(say, f"What it did is on branch {report['branch']}.")
    return Outcome(False, text, say, end["reason"] or "agent_error", may_pass=end["may_pass"], details=report)


def _unsure(title: str, end: Record, report: Record) -> str:
    """Why it is not certain that the work was done; empty where it is."""
    if not end["verified"]:
        return f"{title} does not say whether it succeeded."
    if count := report.get("denials_count"):
        uses = "1 use of a tool was" if count == 1 else f"{count} uses of tools were"
        return f"{uses} not allowed, so part of the work may be missing."
    return ""


def _done(title: str, profile: Profile, report: Record, unsure: str) -> str:
    count = report.get("files_count", 0)
    if count:
        where = f" on branch {report['branch']}" if report.get("branch") else ""
        done = f"{title} is done: {count} {'file' if count == 1 else 'files'} changed{where}."
    elif profile == "review":
        done = f"{title} is done."
    else:
        done = f"{title} is done and changed no files."
    if report.get("dirty") and (report.get("base") or "files" not in report):  # in place it sees them
        done += " It did not see your uncommitted changes."
    return f"{done} {unsure}" if unsure else done


def _said(first: str, rest: str) -> str:
    """Both, to be spoken: of `rest` as much as there is room for."""
    first = spoken(first)
    room = WORDS - len(first.split())
    return f"{first} {spoken(rest, room)}".strip() if room > 0 else first
