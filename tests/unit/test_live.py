"""Who is told in this process that something changed, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from mcp_server import live as live_module
from mcp_server.events import Events
from mcp_server.live import LIST_PAUSE_SECONDS, OUTPUT_PAUSE_SECONDS, RESOURCE_LIST, Live, Subscription
from mcp_server.store.database import Event

DEADLINE_SECONDS = 5.0


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def live(events: Events) -> Live:
    # Nothing is started in it here: what runs there belongs to who subscribes.
    return Live(events, anyio.create_task_group())


def changed(subject: str, kind: str = "session.updated", session_id: str | None = None, **data: Any) -> Event:
    return Event(1, 1, kind, subject, session_id, {"changed": []} | data)


async def following(subscription: Subscription) -> str | None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await subscription.changed()


async def pending(subscription: Subscription) -> list[str]:
    """What it can tell now."""
    found: list[str] = []
    while (subject := await first(subscription)) is not None:
        found.append(subject)
    return found


async def first(subscription: Subscription) -> str | None:
    told = asyncio.ensure_future(subscription.changed())
    await asyncio.sleep(0)
    if told.done():
        return told.result()
    told.cancel()
    return None


async def test_who_follows_is_told_of_that_and_of_nothing_else(events: Events, live: Live):
    with live.subscribe("session://a") as mine, live.subscribe("session://b") as other:
        events.publish(changed("session://a"))
        assert await following(mine) == "session://a"
        assert await pending(other) == []


async def test_what_changed_often_before_it_was_told_is_told_once_in_the_order_of_the_first_changes(
    events: Events, live: Live
):
    with live.subscribe("session://a", "session://b") as subscription:
        for _ in range(1000):
            events.publish(changed("session://b"))
            events.publish(changed("session://a"))
        assert await pending(subscription) == ["session://b", "session://a"]
        events.publish(changed("session://b"))
        assert await pending(subscription) == ["session://b"]


async def test_what_is_followed_no_more_is_not_told_even_if_it_had_changed(events: Events, live: Live):
    with live.subscribe("session://a", RESOURCE_LIST) as subscription:
        events.publish(changed("session://a", "session.created"))
        subscription.unfollow("session://a")
        assert await pending(subscription) == [RESOURCE_LIST]
        events.publish(changed("session://a", "session.created"))
        subscription.unfollow(RESOURCE_LIST)
        assert subscription.subjects == set()
        assert live.followed == 0


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            changed("task://t", "task.running", "s", agent="echo"),
            ["agent://echo", "session://s", "task://t", "task://t/output"],
        ),
        (changed("task://t", "task.queued", agent="echo"), ["agent://echo", "list", "task://t", "task://t/output"]),
        (changed("memory://m", "memory.stored", "s"), ["list", "memory://m", "session://s"]),
        (changed("session://s", "session.created", "s"), ["list", "session://s"]),
        (changed("session://s", "session.updated", "s", changed=["title"]), ["session://s"]),
        (changed("session://s", "session.updated", "s", changed=["status"]), ["list", "session://s"]),
        (
            changed("session://s", "session.deleted", "s"),
            ["list", "memory://m", "session://s", "task://t", "task://t/output"],
        ),
    ],
)
async def test_an_event_tells_of_all_that_reads_otherwise_after_it(
    events: Events, live: Live, event: Event, told: list[str]
):
    subjects = ["task://t", "task://t/output", "session://s", "agent://echo", "memory://m", "key://k", RESOURCE_LIST]
    with live.subscribe(*subjects) as subscription:
        events.publish(event)
        assert sorted(subject.removesuffix(":resources") for subject in await pending(subscription)) == told


async def test_output_that_grows_is_told_of_the_output_alone(events: Events, live: Live):
    with live.subscribe("task://t", "task://t/output") as subscription:
        events.grew("task://t")
        assert await pending(subscription) == ["task://t/output"]


@pytest.mark.parametrize(
    ("subject", "pause", "event"),
    [
        (RESOURCE_LIST, LIST_PAUSE_SECONDS, changed("memory://m", "memory.stored")),
        ("task://t/output", OUTPUT_PAUSE_SECONDS, changed("task://t", "task.running", agent="echo")),
    ],
)
async def test_what_changes_all_the_time_is_told_at_once_and_then_after_a_pause_for_all_that_happened_in_it(
    events: Events, live: Live, subject: str, pause: float, event: Event
):
    loop = asyncio.get_running_loop()
    with live.subscribe(subject, "memory://m", "task://t") as subscription:
        began = loop.time()
        events.publish(event)
        assert subject in await pending(subscription)
        for _ in range(10):
            events.publish(event)
        assert await following(subscription) == event.subject, "all else does not wait"
        assert await following(subscription) == subject
        # A timer may come a hair early.
        assert pause * 0.98 <= loop.time() - began < pause + DEADLINE_SECONDS / 2
        assert await pending(subscription) == []


async def test_what_is_followed_no_more_is_not_told_after_the_pause_either(
    events: Events, live: Live, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live_module, "LIST_PAUSE_SECONDS", 0.01)
    with live.subscribe(RESOURCE_LIST) as left, live.subscribe(RESOURCE_LIST) as stayed:
        events.publish(changed("memory://m", "memory.stored"))
        assert [await following(left), await following(stayed)] == [RESOURCE_LIST] * 2
        for _ in range(3):
            events.publish(changed("memory://m", "memory.stored"))
        left.unfollow(RESOURCE_LIST)
        assert await following(stayed) == RESOURCE_LIST
        assert await pending(left) == []


async def test_after_the_pause_a_change_is_told_at_once_again(
    events: Events, live: Live, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live_module, "LIST_PAUSE_SECONDS", 0.01)
    with live.subscribe(RESOURCE_LIST) as subscription:
        for _ in range(3):
            events.publish(changed("memory://m", "memory.stored"))
            assert await following(subscription) == RESOURCE_LIST


async def test_who_has_left_is_forgotten_with_all_that_it_followed(events: Events, live: Live):
    with live.subscribe("session://a", RESOURCE_LIST) as subscription, live.subscribe("session://a"):
        assert (live.subscriptions, live.followed) == (2, 2)
        for _ in range(2):
            events.publish(changed("session://a", "session.created"))
            await pending(subscription)
    assert (live.subscriptions, live.followed) == (0, 0)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await live.ended(DEADLINE_SECONDS)


async def test_closing_tells_what_is_left_without_a_pause_and_then_ends(events: Events, live: Live):
    with live.subscribe(RESOURCE_LIST) as subscription:
        events.publish(changed("memory://m", "memory.stored"))
        assert await following(subscription) == RESOURCE_LIST
        events.publish(changed("memory://m", "memory.stored"))
        live.close()
        assert await pending(subscription) == [RESOURCE_LIST]
        assert await following(subscription) is None
    with live.subscribe(RESOURCE_LIST) as late:
        assert await following(late) is None


async def test_closing_wakes_who_waits(live: Live):
    with live.subscribe("session://a") as subscription:
        waiting = asyncio.ensure_future(following(subscription))
        await asyncio.sleep(0)
        live.close()
        assert await waiting is None


async def test_who_does_not_leave_is_waited_for_only_so_long(live: Live):
    with live.subscribe("session://a"):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await live.ended(0.01)
        assert live.subscriptions == 1


async def test_a_changed_limit_is_told_to_who_follows_an_agent(events: Events, live: Live):
    with live.subscribe("agent://shell", "agent://git", "task://t") as subscription:
        events.publish(changed("agent://shell", "limit.changed"))
        of_one = await pending(subscription)
        events.publish(changed("server", "limit.changed"))
        of_all = await pending(subscription)

    assert set(of_one) >= {"agent://shell"}
    assert set(of_all) == {"agent://shell", "agent://git"}
