"""Who is calling. Each door says it once; it travels with the call into the record."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from mcp_server.errors import UnauthenticatedError

Level = Literal["desk", "phone", "hook"]
Scope = Literal["read", "submit", "approve", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "submit", "approve", "admin")

CALLER_KEY = "offhand.caller"
"""Where the HTTP door leaves the caller in a request's ASGI scope."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity behind one call.

    `key_id` is None at the desk: the operating system vouches for the user there.
    """

    level: Level
    name: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    delivery_id: str | None = None

    def record(self) -> dict[str, Any]:
        """What is kept with the records that this call makes."""
        facts = {"level": self.level, "name": self.name, "key_id": self.key_id, "delivery_id": self.delivery_id}
        return {name: value for name, value in facts.items() if value is not None}


DESK = Caller(level="desk", name="desk", scopes=frozenset(SCOPES))

_current: ContextVar[Caller | None] = ContextVar("offhand_caller", default=None)


def current_caller() -> Caller:
    """The caller of the running call. Fails closed where no door has said who it is."""
    caller = _current.get()
    if caller is None:
        raise UnauthenticatedError("Nobody said who is calling.")
    return caller


@contextmanager
def calling_as(caller: Caller) -> Generator[None]:
    """Everything awaited inside is done for `caller`."""
    token = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(token)
