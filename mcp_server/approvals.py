"""Approvals: what the user is asked before something is done. Only a person's yes lets it go on; no answer means no.

What is approved is one action, known by its fingerprint; another one needs another approval. A task has at most one
that is pending, and exactly while it is `waiting_approval`: see `tasks.move`, which withdraws what nobody needs to
answer any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_server.callers import Caller, current_caller
from mcp_server.clock import MICROSECONDS, Clock, NewId, iso, new_id, now_us
from mcp_server.errors import ConflictError, ForbiddenError
from mcp_server.events import Events
from mcp_server.fingerprint import fingerprint
from mcp_server.spoken import UNSPEAKABLE, spoken
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.tasks import Task, move, require_task
from mcp_server.values import make_cursor, missing, read_cursor

Status = Literal["pending", "approved", "denied", "expired", "withdrawn"]
Decision = Literal["approve", "deny"]

DECIDED: Mapping[Decision, Status] = {"approve": "approved", "deny": "denied"}

SILENT = "It does not say what it wants to do."
DIFF_LIMIT_BYTES = 256 * 1024
"""Of a diff that is shown; the rest is cut, and said so."""

NEWEST = 2**62
EXPIRED_AT_ONCE = 1000
"""How many expire in one transaction."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One question to the user. Times are microseconds.

    `about`: a `task` before it begins, a `tool` that an agent wants to use, a `budget` that is used up. `hash` is the
    fingerprint of `action`. `asked_by` is the caller of the task.
    """

    seq: int
    id: str
    task_number: int
    task_id: str
    agent: str
    session_id: str | None
    asked_by: Mapping[str, Any]
    about: str
    status: Status
    action: Mapping[str, Any]
    hash: str
    say: str
    diff: str | None
    created_at: int
    expires_at: int
    decided_at: int | None
    decided_by: Mapping[str, Any] | None

    @classmethod
    def of(cls, row: Row) -> Approval:
        """From a row of the store."""
        fields: dict[str, Any] = {name: row[name] for name in cls.__slots__}
        for name in ("asked_by", "action"):
            fields[name] = json.loads(row[name])
        fields["decided_by"] = json.loads(row["decided_by"]) if row["decided_by"] else None
        return cls(**fields)

    def brief(self) -> Row:
        """What an answer about its task shows."""
        return {name: getattr(self, name) for name in ("id", "about", "say", "hash")} | {
            "expires_at": iso(self.expires_at)
        }

    def summary(self) -> Row:
        """As a list shows it: without what may be long, and so without the hash of it."""
        names = ("id", "status", "about", "task_id", "task_number", "agent", "session_id", "asked_by", "say")
        return {
            **{name: getattr(self, name) for name in (*names, "decided_by")},
            "created_at": iso(self.created_at),
            "expires_at": iso(self.expires_at),
            "decided_at": iso(self.decided_at),
        }

    def record(self) -> Row:
        """As doors show it to whoever may decide."""
        return self.summary() | {"action": self.action, "hash": self.hash, "diff": self.diff}


class Approvals:
    """Asks, and takes the answer once. `waiting_reason` says of an agent why its tasks will wait, if that is known."""

    def __init__(
        self,
        database: Database,
        events: Events,
        seconds: float,
        now: Clock = now_us,
        make_id: NewId = new_id,
        waiting_reason: Callable[[str], str | None] = lambda _agent: None,
    ) -> None:
        self._database = database
        self._events = events
        self._microseconds = round(seconds * MICROSECONDS)
        self._now = now
        self._make_id = make_id
        self._waiting_reason = waiting_reason

    async def ask(
        self,
        transaction: Transaction,
        task: Task,
        about: str,
        action: Mapping[str, Any],
        say: str,
        diff: str | None,
        now: int,
    ) -> None:
        """Ask about `action`, in the transaction that makes `task` wait for the answer."""
        approval_id = self._make_id("apr")
        expires_at = now + self._microseconds
        await transaction.run(
            "approval_insert",
            id=approval_id,
            task_number=task.number,
            about=about,
            action=json.dumps(action),  # ASCII: whatever an agent wrote can be kept and shown
            hash=fingerprint(action),
            say=SILENT if spoken(say) in ("", UNSPEAKABLE) else spoken(say),
            diff=_shown(diff),
            now=now,
            expires_at=expires_at,
        )
        facts = {"about": about, "expires_at": iso(expires_at)}
        await self._tell(transaction, "approval.asked", approval_id, task, None, **facts)

    async def granted(self, task: Task) -> tuple[str, ...]:
        """Fingerprints of what the user approved for this task, since it was last retried by hand."""
        rows = await self._database.all("approval_granted", task_number=task.number)
        return tuple(row["hash"] for row in rows)

    async def pending_of(self, task: Task) -> Approval | None:
        """What a task waits for."""
        row = await self._database.one("approval_of_task", task_number=task.number)
        return Approval.of(row) if row else None

    async def get(self, approval_id: str) -> Approval:
        """One approval. Raises NotFoundError."""
        return _found(await self._database.one("approval_by_id", id=approval_id))

    async def list(
        self, *, decided: bool = False, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[Approval], str | None]:
        """What waits for the user, newest first; with `decided` also what does not any more. And the next cursor."""
        name = "approval_list" if decided else "approval_list_pending"
        rows = await self._database.all(name, before=read_cursor(cursor) or NEWEST, limit=limit + 1)
        following = make_cursor(rows[limit - 1]["seq"]) if len(rows) > limit else None
        return [Approval.of(row) for row in rows[:limit]], following

    async def decide(self, approval_id: str, decision: Decision, seen_hash: str) -> Approval:
        """Take the user's answer: the task goes on, or is cancelled. `seen_hash` names the action that was shown.

        Raises:
            ForbiddenError: the caller may not approve.
            NotFoundError: there is no such approval.
            ConflictError: it is decided, withdrawn or expired, or it is about another action than was shown.
        """
        caller = current_caller()
        if "approve" not in caller.scopes:
            raise ForbiddenError("This caller may not decide approvals.", field="X-API-Key")

        async def body(transaction: Transaction) -> Approval:
            approval = _found(await transaction.one("approval_by_id", id=approval_id))
            now = self._now()
            _check_open(approval, seen_hash, now)
            task = await require_task(transaction, approval.task_number)
            status = DECIDED[decision]
            decided = await self._settle(transaction, approval, task, status, now, caller)
            if status == "denied":
                await move(self._events, transaction, task, "cancelled", "denied", now, caller)
                return decided
            later = task.run_after is not None and task.run_after > now
            await move(
                self._events,
                transaction,
                task,
                "scheduled" if later else "queued",
                None if later else self._waiting_reason(task.agent),
                now,
                caller,
                run_after=task.run_after if later else None,
            )
            return decided

        return await self._database.write(body)

    async def expire_due(self) -> int | None:
        """Cancel what nobody answered in time. Returns when the next one expires (microseconds)."""

        async def body(transaction: Transaction) -> int | None:
            now = self._now()
            for row in await transaction.all("approval_due", now=now, limit=EXPIRED_AT_ONCE):
                approval = Approval.of(row)
                task = await require_task(transaction, approval.task_number)
                await self._settle(transaction, approval, task, "expired", now, None)
                await move(self._events, transaction, task, "cancelled", "expired", now)
            following = await transaction.one("approval_next_due")
            return following["expires_at"] if following else None

        return await self._database.write(body)

    async def _settle(
        self, transaction: Transaction, approval: Approval, task: Task, status: Status, now: int, caller: Caller | None
    ) -> Approval:
        changed = await transaction.run(
            "approval_settle",
            id=approval.id,
            status=status,
            now=now,
            decided_by=json.dumps(caller.record(), ensure_ascii=False) if caller else None,
        )
        if not changed:
            raise _settled(approval)
        kind = "approval.expired" if status == "expired" else "approval.decided"
        await self._tell(transaction, kind, approval.id, task, caller, about=approval.about, status=status)
        return _found(await transaction.one("approval_by_id", id=approval.id))

    async def _tell(
        self, transaction: Transaction, kind: str, approval_id: str, task: Task, caller: Caller | None, **facts: Any
    ) -> None:
        await self._events.append(
            transaction,
            kind,
            f"approval://{approval_id}",
            session_id=task.session_id,
            caller=caller,
            number=task.number,
            task_id=task.id,
            agent=task.agent,
            **facts,
        )


def _check_open(approval: Approval, seen_hash: str, now: int) -> None:
    """Pass where it can be decided now, about the action that was shown."""
    if approval.status != "pending":
        raise _settled(approval)
    if approval.expires_at <= now:
        raise ConflictError(
            f"The time to decide ended at {iso(approval.expires_at)}. No answer means no.",
            existing=approval.record(),
            field="decision",
            fix="Have the task retried with update_task; it asks again.",
        )
    if seen_hash != approval.hash:
        raise ConflictError(
            "The hash is another: what you looked at is not what is asked. Nothing was decided.",
            existing=approval.record(),
            field="hash",
            fix="Look at the action again, and send the hash that stands beside it.",
        )


def _settled(approval: Approval) -> ConflictError:
    when = f" at {iso(approval.decided_at)}" if approval.decided_at else ""
    return ConflictError(
        f"It was {approval.status} already{when}. Nothing was changed.",
        existing=approval.record(),
        field="decision",
        fix="An approval is decided once. Look at what waits: offhand approvals.",
    )


def _found(row: Row | None) -> Approval:
    if row is None:
        raise missing("approval", "approval_id", "Look at what waits: offhand approvals.")
    return Approval.of(row)


def _shown(diff: str | None) -> str | None:
    """A diff as text that can be kept, not too long."""
    if not diff:
        return None
    data = diff.replace("\0", "\N{SYMBOL FOR NULL}").encode(errors="replace")
    if len(data) <= DIFF_LIMIT_BYTES:
        return data.decode()
    return f"{data[:DIFF_LIMIT_BYTES].decode(errors='ignore')}\n[cut: {len(data) - DIFF_LIMIT_BYTES} bytes more]"
