"""One walk through everything that the nouns write: what crash and query tests are played with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mcp_server.attempts import Ending
from mcp_server.store.database import Transaction
from mcp_server.tasks import Task
from tests.store.house import APPROVAL_SECONDS, House, new_task

Chapter = Callable[[House, Callable[[str], None]], Awaitable[None]]

DONE = Ending(status="completed", reason=None, result={"text": "the carbon is counted", "returncode": 0}, returncode=0)


async def _keep(house: House, done: Callable[[str], None]) -> None:
    await house.sessions.create(id="s1", title="Carbon", participants=["claude", "user"])
    done("session s1")
    await house.conversations.add("s1", "we talked about carbon", id="c1", format="dialogue")
    done("chunk c1")
    for version, content in enumerate(("PostgreSQL", "SQLite", {"engine": "SQLite"}), 1):
        await house.memories.store(type="decision", key="db", content=content, session_id="s1", id="m1", tags=["t"])
        done(f"version {version}")
    await house.artifacts.add(name="notes.txt", content="carbon notes", session_id="s1", id="a1")
    done("artifact a1")
    await house.sessions.update("s1", title="Carbon tracking", metadata={"a": 1})
    done("title")


async def _work(house: House, done: Callable[[str], None]) -> None:
    await house.tasks.create(new_task("count carbon", session_id="s1", run_after=house.clock() + 1_000_000), id="t1")
    done("task t1")
    house.clock.advance(2)
    await house.attempts.promote_due(["echo"])
    done("queued t1")
    first = await house.attempts.claim(["echo"])
    assert first is not None
    await house.attempts.append_output(first, [("stdout", 0, b"one "), ("stdout", 4, b"two"), ("stderr", 0, b"oh")])
    done("output t1")
    later = Ending(status="interrupted", reason="crash", result={}, retry_at=house.clock() + 2_000_000)
    await house.attempts.finish(first, later)
    done("scheduled t1")
    house.clock.advance(3)
    await house.attempts.promote_due(["echo"])
    second = await house.attempts.claim(["echo"])
    assert second is not None
    await house.attempts.finish(await house.attempts.adopt(second.number), DONE)
    done("completed t1")
    await house.tasks.create(new_task("never begun", session_id="s1"), id="t2")
    third = await house.attempts.claim(["echo"])
    assert third is not None
    await house.attempts.forget(third)
    done("queued t2")
    await house.tasks.requeue("t2", priority=5, lane="slow")
    await house.tasks.cancel("t2")
    done("cancelled t2")
    await house.tasks.retry("t2")
    fourth = await house.attempts.claim(["echo"])
    assert fourth is not None
    await house.tasks.cancel("t2")
    await house.attempts.finish(fourth, Ending(status="cancelled", reason="cancelled_by_user", result={"text": ""}))
    done("cancelled t2")


async def _approve(house: House, done: Callable[[str], None]) -> None:
    async def ask(transaction: Transaction, task: Task) -> None:
        action = {"agent": "echo", "task": task.id}
        await house.approvals.ask(transaction, task, "task", action, "May it?", "+carbon", house.clock())

    for name in ("p1", "p2", "p3", "p4"):
        await house.tasks.create(new_task("weigh carbon"), name, ask)
    done("asked p1")
    approvals, _ = await house.approvals.list()
    fourth, third, second, first = approvals
    await house.approvals.decide(first.id, "approve", first.hash)
    done("approved p1")
    await house.approvals.decide(second.id, "deny", second.hash)
    done("denied p2")
    await house.tasks.cancel("p3")
    done("withdrawn p3")
    house.clock.advance(APPROVAL_SECONDS)
    await house.approvals.expire_due()
    done("expired p4")
    await house.tasks.cancel("p1")
    for id in ("p1", "p2"):
        await house.tasks.retry(id, asking=ask)
        await house.tasks.cancel(id)
    done("asked again")
    assert {third.task_id, fourth.task_id} == {"p3", "p4"}


async def _administer(house: House, done: Callable[[str], None]) -> None:
    await house.keys.create("phone", token="a token that is long enough")
    done("key phone")
    await house.keys.revoke("phone")
    done("revoked phone")
    await house.deliveries.begin("key_1", "d-1", "fingerprint")
    await house.deliveries.end("key_1", "d-1", 200, {"ok": True})
    done("delivery d-1")


async def _together(house: House, done: Callable[[str], None]) -> None:
    """Several callers at once, so that they share a commit; one of them fails."""
    await house.sessions.create(id="s2", title="Held")
    results = await asyncio.gather(
        *(house.conversations.add("s2", f"chunk {number}", id=f"g{number}") for number in range(3)),
        house.conversations.add("nobody", "lost", id="lost"),
        *(house.memories.store(type="fact", key="k", content=f"fact {number}", session_id="s2") for number in range(2)),
        return_exceptions=True,
    )
    assert [isinstance(result, Exception) for result in results] == [False, False, False, True, False, False]
    done("group")


async def _delete(house: House, done: Callable[[str], None]) -> None:
    await house.memories.store(type="fact", content="loose", id="m9")
    await house.memories.delete("m9")
    done("no memory m9")
    await house.artifacts.add(name="loose", content="loose", id="a9")
    await house.artifacts.delete("a9")
    done("no artifact a9")
    await house.sessions.delete("s1")
    done("no session s1")


CHAPTERS = (_keep, _work, _approve, _administer, _together, _delete)
"""In this order; each needs what the earlier ones left."""


async def tour(house: House, done: Callable[[str], None], chapters: Sequence[Chapter] = CHAPTERS) -> None:
    """Every kind of write once at least; `done` hears of each as soon as it is acknowledged."""
    for chapter in chapters:
        await chapter(house, done)
