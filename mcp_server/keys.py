"""API keys: random, kept as hashes, shown once. And the deliveries that were made with them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from mcp_server.callers import SCOPES, Caller, Scope
from mcp_server.clock import Clock, NewId, iso, new_id, now_us
from mcp_server.errors import ConflictError, InvalidError
from mcp_server.events import Events
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.values import check_text, missing

DEFAULT_SCOPES: tuple[Scope, ...] = ("read", "submit")
SEEDED_NAME = "environment"
TOKEN_BYTES = 24
SEED_MINIMUM_CHARACTERS = 20


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is known of a delivery: `new`, `answered` with its status and answer, or a `conflict`."""

    state: Literal["new", "answered", "conflict"]
    status: int | None = None
    answer: dict[str, Any] | None = None


class Keys:
    """The operations on API keys."""

    def __init__(self, database: Database, events: Events, now: Clock = now_us, make_id: NewId = new_id) -> None:
        self._database = database
        self._events = events
        self._now = now
        self._make_id = make_id
        self._lent: dict[str, Caller] = {}

    @contextmanager
    def lent(self, name: str) -> Generator[str]:
        """A key that is known to this process alone, and only inside: the server's own first webhook."""
        token = _new_token()
        caller = Caller("phone", name, frozenset(DEFAULT_SCOPES), key_id=self._make_id("key"))
        self._lent[_hash(token)] = caller
        try:
            yield token
        finally:
            del self._lent[_hash(token)]

    async def create(
        self, name: str, scopes: Iterable[str] = DEFAULT_SCOPES, *, token: str | None = None
    ) -> tuple[Row, str]:
        """A new key. Returns its record and the token, which is kept nowhere.

        Raises:
            InvalidError: an unknown scope, or scopes that no one key may hold together.
            ConflictError: a living key has this name.
        """
        check_text(name, "name", limit=128)
        held = _checked_scopes(scopes)
        token = token or _new_token()

        async def body(transaction: Transaction) -> Row:
            existing = await transaction.one("key_by_name", name=name, id=name)
            if existing is not None:
                raise ConflictError(
                    f"There is a key named {name} already.",
                    existing=key_record(existing),
                    field="name",
                    fix="Choose another name, or revoke that key first.",
                )
            row = await transaction.one(
                "key_insert",
                id=self._make_id("key"),
                name=name,
                hash=_hash(token),
                scopes=json.dumps(held),
                now=self._now(),
            )
            assert row is not None
            await self._events.append(transaction, "key.created", f"key://{row['id']}", name=name, scopes=held)
            return key_record(row)

        return await self._database.write(body), token

    async def authenticate(self, token: str) -> Caller | None:
        """The caller behind a token; None where it is unknown or revoked."""
        if lent := self._lent.get(_hash(token)):
            return lent
        row = await self._database.one("key_by_hash", hash=_hash(token))
        if row is None or row["revoked_at"] is not None:
            return None
        return Caller("phone", row["name"], frozenset(json.loads(row["scopes"])), key_id=row["id"])

    async def list(self) -> list[Row]:
        """All keys, revoked ones too, newest first."""
        return [key_record(row) for row in await self._database.all("key_list")]

    async def any(self) -> bool:
        """Whether there ever was a key."""
        row = await self._database.one("key_count")
        return bool(row and row["count"])

    async def revoke(self, name: str) -> Row:
        """End a key, by its name or id. Raises NotFoundError."""
        check_text(name, "name", limit=128)

        async def body(transaction: Transaction) -> Row:
            existing = await transaction.one("key_by_name", name=name, id=name)
            if existing is None:
                raise missing("key", "name", "Look in: offhand key list.")
            row = await transaction.one("key_revoke", id=existing["id"], now=self._now())
            assert row is not None
            await self._events.append(transaction, "key.revoked", f"key://{row['id']}", name=row["name"])
            return key_record(row)

        return await self._database.write(body)

    async def seed(self, token: str) -> None:
        """See that `token` is a key with scopes read and submit, named `environment`; an earlier one of that name ends.

        Raises:
            InvalidError: it is too short to be safe, or it was revoked.
        """
        if len(token) < SEED_MINIMUM_CHARACTERS:
            raise InvalidError(
                f"OFFHAND_API_KEY has fewer than {SEED_MINIMUM_CHARACTERS} characters.",
                field="OFFHAND_API_KEY",
                fix="Use a long random one, such as: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'.",
            )
        known = await self._database.one("key_by_hash", hash=_hash(token))
        if known is not None and known["revoked_at"] is None:
            return
        if known is not None:
            raise InvalidError(
                "OFFHAND_API_KEY holds a key that was revoked.",
                field="OFFHAND_API_KEY",
                fix="Use a new one; a revoked key does not come back.",
            )
        if await self._database.one("key_by_name", name=SEEDED_NAME, id=SEEDED_NAME) is not None:
            await self.revoke(SEEDED_NAME)
        await self.create(SEEDED_NAME, token=token)


class Deliveries:
    """Webhook deliveries that were answered, so that one that comes again gets the same answer."""

    def __init__(self, database: Database, now: Clock = now_us) -> None:
        self._database = database
        self._now = now

    async def begin(self, key_id: str, id: str, fingerprint: str) -> Delivery:
        """Note a delivery; ids belong to their key. One that was begun and never answered is `new` again."""

        async def body(transaction: Transaction) -> Delivery:
            now = self._now()
            await transaction.run("delivery_begin", key_id=key_id, id=id, fingerprint=fingerprint, now=now)
            row = await transaction.one("delivery_by_id", key_id=key_id, id=id)
            assert row is not None
            if row["fingerprint"] != fingerprint:
                return Delivery("conflict")
            if row["status"] is None:
                return Delivery("new")
            return Delivery("answered", row["status"], json.loads(row["answer"]))

        return await self._database.write(body)

    async def end(self, key_id: str, id: str, status: int, answer: dict[str, Any]) -> None:
        """Keep what was answered."""
        text = json.dumps(answer, ensure_ascii=False)

        async def body(transaction: Transaction) -> None:
            await transaction.run("delivery_answer", key_id=key_id, id=id, status=status, answer=text)

        await self._database.write(body)


def key_record(row: Row) -> Row:
    """A key as its owner sees it: never the token, never the hash."""
    return {
        "id": row["id"],
        "name": row["name"],
        "scopes": json.loads(row["scopes"]),
        "created_at": iso(row["created_at"]),
        "revoked_at": iso(row["revoked_at"]),
    }


def _new_token() -> str:
    return f"ofh_{secrets.token_urlsafe(TOKEN_BYTES)}"


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _checked_scopes(scopes: Iterable[str]) -> list[str]:
    held = list(dict.fromkeys(scopes)) or list(DEFAULT_SCOPES)
    known = ", ".join(SCOPES)
    for scope in held:
        if scope not in SCOPES:
            raise InvalidError(f"There is no scope {scope!r}.", field="scope", fix=f"Known are: {known}.")
    if "submit" in held and {"approve", "admin"} & set(held):
        raise InvalidError(
            "One key never holds submit together with approve or admin.",
            field="scope",
            fix="Make two keys: who asks for work must not be able to approve it.",
        )
    return held
