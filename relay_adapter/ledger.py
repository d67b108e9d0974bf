"""What the relay must remember but does not keep itself: keys, and deliveries already answered.

The composition root fills this Protocol from the store. An implementation may raise the errors of `errors.py`
(`UnavailableError` for "not now"); anything else is answered with 500 and logged.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: the key, the name it was given, what it may do."""

    key_id: str
    name: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is known of a delivery. `answered` comes with the status and the answer that were given.

    `new` also stands for one that was begun with the same body and never ended: the server died in between.
    """

    state: Literal["new", "answered", "conflict"]
    status: int | None = None
    answer: dict[str, Any] | None = None


class Ledger(Protocol):
    """Keys and deliveries. Idempotency keys belong to their caller: the same id of two keys are two deliveries."""

    async def authenticate(self, token: str) -> Principal | None:
        """The owner of the key, or None where there is no such key."""
        ...

    def acting_as(self, principal: Principal, delivery_id: str | None) -> AbstractContextManager[None]:
        """Tool calls awaited inside are made for this principal."""
        ...

    async def begin_delivery(self, principal: Principal, delivery_id: str, fingerprint: str) -> Delivery:
        """`conflict` where the same id came before with another fingerprint."""
        ...

    async def end_delivery(self, principal: Principal, delivery_id: str, status: int, answer: dict[str, Any]) -> None:
        """Keep the answer, so that the same delivery gets it again."""
        ...
