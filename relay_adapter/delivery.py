"""One delivery, from the ledger's first word to its last: call the tools in order, answer, remember the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from relay_adapter.answers import (
    Answer,
    answer_of,
    batch_answer,
    problem_of,
    replayed,
    stored_answer,
    tool_problem,
)
from relay_adapter.commands import COMMANDS, ToolCall, translate
from relay_adapter.envelope import Order
from relay_adapter.errors import ConflictError, InternalError, RelayError
from relay_adapter.gateway import Gateway
from relay_adapter.ledger import Ledger, Principal

logger = logging.getLogger(__name__)

MAX_READS = 3
"""A read comes back at any change: queued, running, finished. Bounded, should a tool come back at once."""


async def call_tool(gateway: Gateway, call: ToolCall, base_url: str, wait: float, longest: float) -> Answer:
    """One tool call and its answer. A task is waited for `wait` seconds where nobody said; `longest` at most.

    Raises:
        InternalError: the tool gave no usable answer.
    """
    arguments = dict(call.arguments)
    if call.tool.answers_task:
        arguments["wait"] = min(arguments.get("wait", wait), longest)
    answer = await gateway.call(call.tool.name, arguments)
    return tool_problem(call, answer.record) if answer.failed else answer_of(call, answer.record, base_url)


@dataclass(frozen=True, slots=True)
class Job:
    """What one request asks for, and all it needs to be done when nobody listens any more.

    `wait` and `longest` are seconds, for `call_tool`; `clock` gives seconds, for the deadline that a batch shares.
    """

    gateway: Gateway
    ledger: Ledger
    principal: Principal
    order: Order
    delivery_id: str | None
    fingerprint: str
    base_url: str
    wait: float
    longest: float
    clock: Callable[[], float]

    async def run(self) -> Answer:
        """The answer; errors are answers too."""
        try:
            with self.ledger.acting_as(self.principal, self.delivery_id):
                if self.delivery_id is None:
                    return await self._do(self.order.calls)
                return await self._once(self.delivery_id)
        except RelayError as error:
            return problem_of(error)
        except Exception:
            logger.exception("A delivery failed")
            return problem_of(InternalError())

    async def _once(self, delivery_id: str) -> Answer:
        delivery = await self.ledger.begin_delivery(self.principal, delivery_id, self.fingerprint)
        if delivery.state == "conflict":
            raise ConflictError
        if delivery.state == "answered" and delivery.status is not None and delivery.answer is not None:
            return replayed(await self._brought_up_to_date(stored_answer(delivery.status, delivery.answer)))
        key_id = self.principal.key_id
        calls = (call.with_derived_id(key_id, delivery_id, index) for index, call in enumerate(self.order.calls))
        answer = await self._do(tuple(calls))
        if answer.final:
            await self._keep(delivery_id, answer)
        return answer

    async def _keep(self, delivery_id: str, answer: Answer) -> None:
        try:
            await self.ledger.end_delivery(self.principal, delivery_id, answer.status, answer.body)
        except Exception:
            # The work is done and its ids are derived from the delivery: coming again, it would find them.
            logger.exception("The answer of a delivery could not be kept")

    async def _do(self, calls: tuple[ToolCall, ...]) -> Answer:
        if not self.order.batch:
            return await call_tool(self.gateway, calls[0], self.base_url, self.wait, self.longest)
        deadline = self.clock() + self.wait
        answers: list[Answer] = []
        for call in calls:
            answers.append(await self._answer(call, self._left(deadline)))
            if not answers[-1].body["ok"] and not self.order.continue_on_error:
                break
        return batch_answer(calls, answers)

    def _left(self, deadline: float) -> float:
        return round(max(0.0, deadline - self.clock()), 3)

    async def _answer(self, call: ToolCall, left: float) -> Answer:
        """One of a batch: an error is its answer, and it waits for what is left of the deadline at most."""
        try:
            return await call_tool(self.gateway, call, self.base_url, left, left)
        except RelayError as error:
            return problem_of(error)

    async def _brought_up_to_date(self, stored: Answer) -> Answer:
        """The stored answer, with the present state of every task that was unfinished when it was given.

        Such a task is read, not asked for again: a retry must not be done a second time.
        """
        deadline = self.clock() + self.wait
        if "results" not in stored.body:
            return await self._task_now(stored, deadline)
        entries = [stored_answer(entry.get("status", 200), dict(entry)) for entry in stored.body["results"]]
        answers = [await self._task_now(entry, deadline) for entry in entries]
        return batch_answer(self.order.calls, answers)

    async def _task_now(self, stored: Answer, deadline: float) -> Answer:
        if "status_url" not in stored.body:
            return stored
        read = translate(COMMANDS["get_task"], {"task_id": stored.body["task_id"]})
        read = replace(read, starts_work=stored.status == 202)
        now = await self._answer(read, self._left(deadline))
        for _ in range(MAX_READS - 1):
            if "status_url" not in now.body or not self._left(deadline):
                break
            now = await self._answer(read, self._left(deadline))
        return now
