from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types
import pytest
from anyio.abc import TaskGroup
from mcp.shared.message import ServerMessageMetadata, SessionMessage

from mcp_server.transports import intake as intake_module
from mcp_server.transports.intake import DuplicateIdError, Intake

DEADLINE_SECONDS = 10.0


def asked(request_id: int, method: str = "tools/call") -> mcp_types.JSONRPCRequest:
    return mcp_types.JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method)


def told(method: str, **params: Any) -> mcp_types.JSONRPCNotification:
    return mcp_types.JSONRPCNotification(jsonrpc="2.0", method=method, params=params)


class Loop:
    """The other side: what has come in, in order, taken only when the test says so."""

    def __init__(self) -> None:
        self.send, self.receive = anyio.create_memory_object_stream[SessionMessage | Exception]()

    async def next(self) -> SessionMessage:
        item = await self.receive.receive()
        assert isinstance(item, SessionMessage)
        return item

    async def ids(self, count: int) -> list[Any]:
        """The ids of the next requests, or the methods of notifications."""
        messages = [(await self.next()).message for _ in range(count)]
        return [
            message.method if isinstance(message, mcp_types.JSONRPCNotification) else message.id for message in messages
        ]

    def nothing(self) -> bool:
        return self.receive.statistics().tasks_waiting_send == 0


@asynccontextmanager
async def in_time() -> AsyncGenerator[TaskGroup]:
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            yield group


@pytest.fixture
def loop() -> Generator[Loop]:
    made = Loop()
    with made.send, made.receive:
        yield made


@pytest.fixture(autouse=True)
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "MAX_IN_FLIGHT", 2)
    monkeypatch.setattr(intake_module, "MAX_WAITING_BYTES", 100)


async def test_what_waits_starts_in_order_as_others_are_answered(loop: Loop) -> None:
    async with in_time() as group:
        intake = Intake(loop.send, group)
        for number in range(5):
            group.start_soon(intake.take, asked(number), 1)
        assert await loop.ids(2) == [0, 1]
        await anyio.wait_all_tasks_blocked()
        assert loop.nothing()
        intake.settle(1)
        assert await loop.ids(1) == [2]
        intake.settle(0)
        intake.settle(2)
        assert await loop.ids(2) == [3, 4]


async def test_a_notification_waits_behind_the_requests_before_it(loop: Loop) -> None:
    async with in_time() as group:
        intake = Intake(loop.send, group)
        for number in range(3):
            group.start_soon(intake.take, asked(number), 1)
        assert await loop.ids(2) == [0, 1]
        await intake.take(told("notifications/roots/list_changed"), 1)
        await anyio.wait_all_tasks_blocked()
        assert loop.nothing()
        intake.settle(0)
        assert await loop.ids(2) == [2, "notifications/roots/list_changed"]


async def test_a_cancellation_overtakes_all_that_waits(loop: Loop) -> None:
    async with in_time() as group:
        intake = Intake(loop.send, group)
        for number in range(4):
            group.start_soon(intake.take, asked(number), 1)
        assert await loop.ids(2) == [0, 1]
        await intake.take(told("notifications/cancelled", requestId=2), 1)
        group.start_soon(intake.take, told("notifications/cancelled", requestId=0), 1)
        assert await loop.ids(1) == ["notifications/cancelled"]
        await intake.take(asked(2), 1)
        intake.settle(0)
        intake.settle(1)
        assert await loop.ids(2) == [3, 2]


async def test_a_request_that_the_sdk_leaves_unanswered_makes_room(loop: Loop) -> None:
    async with in_time() as group:
        intake = Intake(loop.send, group)
        for number in range(3):
            group.start_soon(intake.take, asked(number), 1)
        metadata = (await loop.next()).metadata
        assert isinstance(metadata, ServerMessageMetadata)
        assert metadata.on_request_unanswered is not None
        assert await loop.ids(1) == [1]
        await metadata.on_request_unanswered()
        assert await loop.ids(1) == [2]


async def test_reading_goes_on_when_enough_of_what_waits_has_started(loop: Loop) -> None:
    taken: list[int] = []
    async with in_time() as group:
        intake = Intake(loop.send, group)

        async def read() -> None:
            for number in range(6):
                await intake.take(asked(number), 60)
                taken.append(number)

        group.start_soon(read)
        assert await loop.ids(2) == [0, 1]
        await anyio.wait_all_tasks_blocked()
        assert taken == [0, 1, 2]
        intake.settle(0)
        assert await loop.ids(1) == [2]
        await anyio.wait_all_tasks_blocked()
        assert taken == [0, 1, 2, 3]
        for number in (1, 2, 3):
            intake.settle(number)
            await loop.ids(1)
    assert taken == list(range(6))


async def test_what_is_enqueued_while_the_last_one_is_being_handed_over_is_not_lost(loop: Loop) -> None:
    async with in_time() as group:
        intake = Intake(loop.send, group)
        for number in range(3):
            group.start_soon(intake.take, asked(number), 1)
        assert await loop.ids(2) == [0, 1]
        await anyio.wait_all_tasks_blocked()
        intake.settle(0)
        await anyio.wait_all_tasks_blocked()
        await intake.take(asked(3), 1)
        await intake.take(asked(4), 1)
        assert await loop.ids(1) == [2]
        for number in (1, 2):
            await anyio.wait_all_tasks_blocked()
            intake.settle(number)
        assert await loop.ids(2) == [3, 4]


async def test_an_id_is_free_again_once_its_request_is_settled(loop: Loop) -> None:
    async with in_time() as group:
        intake = Intake(loop.send, group)
        group.start_soon(intake.take, asked(7, "subscriptions/listen"), 1)
        assert await loop.ids(1) == [7]
        with pytest.raises(DuplicateIdError):
            await intake.take(asked(7), 1)
        intake.settle(7)
        group.start_soon(intake.take, asked(7), 1)
        assert await loop.ids(1) == [7]
