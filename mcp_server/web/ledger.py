"""The relay's ledger, filled from the store. The relay knows nothing of us; here the two meet."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

from mcp_server.callers import Caller, Scope, calling_as
from mcp_server.errors import OffhandError
from mcp_server.runtime import Runtime
from relay_adapter.errors import UnavailableError
from relay_adapter.ledger import Delivery, Principal


class StoreLedger:
    """Keys and deliveries of a runtime, as the relay asks for them."""

    def __init__(self, runtime: Runtime) -> None:
        self._keys = runtime.keys
        self._deliveries = runtime.deliveries

    async def authenticate(self, token: str) -> Principal | None:
        caller = await self._keys.authenticate(token)
        if caller is None or caller.key_id is None:
            return None
        return Principal(key_id=caller.key_id, name=caller.name, scopes=frozenset(caller.scopes))

    def acting_as(self, principal: Principal, delivery_id: str | None) -> AbstractContextManager[None]:
        scopes = cast("frozenset[Scope]", principal.scopes)
        return calling_as(Caller("phone", principal.name, scopes, principal.key_id, delivery_id))

    async def begin_delivery(self, principal: Principal, delivery_id: str, fingerprint: str) -> Delivery:
        try:
            known = await self._deliveries.begin(principal.key_id, delivery_id, fingerprint)
        except OffhandError as error:
            raise UnavailableError(error.message, say=error.say) from error
        return Delivery(state=known.state, status=known.status, answer=known.answer)

    async def end_delivery(self, principal: Principal, delivery_id: str, status: int, answer: dict[str, Any]) -> None:
        await self._deliveries.end(principal.key_id, delivery_id, status, answer)
