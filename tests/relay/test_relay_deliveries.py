"""The same delivery again, at once, after a crash, and without anybody listening: done once, answered every time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from mcp.types import CallToolResult

from relay_adapter.answers import Answer
from relay_adapter.commands import derived_id
from relay_adapter.errors import ConflictError, UnavailableError
from relay_adapter.inflight import InFlight
from relay_adapter.settings import RelaySettings
from tests.relay.harness import OTHER_KEY, Arguments, RelayClient, problem_result, served, task_record

DEADLINE_SECONDS = 5
NOTE = {"command": "store_memory", "delivery_id": "d-1", "data": {"type": "idea", "content": "x"}}
GIT = {"command": "delegate_task", "delivery_id": "d-1", "data": {"agent": "git"}}


class Gate:
    """A tool that waits to be let through."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, arguments: Arguments) -> dict[str, Any]:
        self.entered.set()
        await self.opened.wait()
        self.left.set()
        return task_record(arguments.get("task_id", "made_up"))


async def test_the_same_delivery_again_gets_the_same_answer(relay_client: RelayClient) -> None:
    first = await relay_client.post(NOTE)
    second = await relay_client.post(NOTE)
    assert first.json() == second.json()
    assert first.status_code == second.status_code == 200
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert len(relay_client.calls) == 1


@pytest.mark.parametrize("header", ["d-1", '"d-1"'])
async def test_the_header_and_the_field_name_the_same_delivery(relay_client: RelayClient, header: str) -> None:
    by_header = {name: value for name, value in NOTE.items() if name != "delivery_id"}
    await relay_client.post(by_header, headers={"Idempotency-Key": header})
    again = await relay_client.post(by_header, headers={"Idempotency-Key": "d-1"})
    assert again.headers["idempotency-replayed"] == "true"
    both = await relay_client.post(NOTE | {"delivery_id": "d-2"}, headers={"Idempotency-Key": "d-2"})
    assert both.status_code == 200
    differing = await relay_client.post(NOTE, headers={"Idempotency-Key": "other"})
    assert differing.status_code == 422
    assert differing.json()["errors"][0]["field"] == "delivery_id"


@pytest.mark.parametrize("header", ["", "a b", "x" * 201])
async def test_an_idempotency_key_that_is_none_is_refused(relay_client: RelayClient, header: str) -> None:
    response = await relay_client.post({"text": "x"}, headers={"Idempotency-Key": header})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "Idempotency-Key"
    assert relay_client.calls == []


async def test_the_delivery_travels_with_the_call(relay_client: RelayClient) -> None:
    await relay_client.post(NOTE)
    await relay_client.post({"command": "list_agents"})
    assert relay_client.tools.acting == [("key_phone", "d-1"), ("key_phone", None)]


async def test_the_same_delivery_with_another_body_is_a_conflict(relay_client: RelayClient) -> None:
    await relay_client.post(NOTE)
    response = await relay_client.post(NOTE | {"data": {"type": "idea", "content": "y"}})
    assert response.status_code == 409
    assert response.json()["type"] == "urn:offhand:problem:conflict"
    assert len(relay_client.calls) == 1


async def test_the_same_body_in_another_spelling_is_the_same_delivery(relay_client: RelayClient) -> None:
    await relay_client.post(content=b'{"command":"list_agents","delivery_id":"d-1"}')
    again = await relay_client.post(content=b'{ "delivery_id": "d-1",\n "command": "list_agents" }')
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_delivery_id_belongs_to_its_key(relay_client: RelayClient) -> None:
    await relay_client.post(GIT)
    other = await relay_client.post(NOTE, headers={"X-API-Key": OTHER_KEY})
    assert other.status_code == 200
    await relay_client.post(GIT | {"delivery_id": "d-2"}, headers={"X-API-Key": OTHER_KEY})
    assert len({arguments.get("task_id", arguments.get("memory_id")) for _, arguments in relay_client.calls}) == 3


async def test_a_create_under_a_delivery_gets_the_id_that_follows_from_it(relay_client: RelayClient) -> None:
    await relay_client.post(GIT)
    await relay_client.post({"command": "delegate_task", "data": {"agent": "git"}})
    assert [arguments.get("task_id") for _, arguments in relay_client.calls] == [
        derived_id("key_phone", "d-1", 0),
        None,
    ]


async def test_a_delivery_that_died_half_way_makes_nothing_twice(relay_client: RelayClient) -> None:
    commands = [
        {"command": "create_session"},
        {"text": "hello"},
        {"command": "store_memory", "data": {"type": "idea", "content": "x"}},
    ]
    body = {"command": "batch", "delivery_id": "d-9", "data": {"commands": commands}}
    await relay_client.post(body)
    first = list(relay_client.calls)
    relay_client.calls.clear()
    # The server died before it could keep the answer.
    relay_client.ledger.kept.clear()
    again = await relay_client.post(body)
    assert "idempotency-replayed" not in again.headers
    assert relay_client.calls == first
    ids = [arguments[name] for (_, arguments), name in zip(first, ("session_id", "task_id", "memory_id"), strict=True)]
    assert ids == [derived_id("key_phone", "d-9", index) for index in range(3)]


async def test_a_field_error_uses_no_delivery_up(relay_client: RelayClient) -> None:
    wrong = await relay_client.post(GIT | {"data": {"agent": 7}})
    assert wrong.status_code == 422
    assert (await relay_client.post(GIT)).status_code == 200


@pytest.mark.parametrize(
    ("status", "kept"), [(403, True), (404, True), (409, True), (422, True), (429, False), (503, False)]
)
async def test_only_answers_that_will_not_change_are_kept(relay_client: RelayClient, status: int, kept: bool) -> None:
    async def refuse(_: Arguments) -> CallToolResult:
        return problem_result(status, "any")

    relay_client.tools.script["store_memory"] = refuse
    first = await relay_client.post(NOTE)
    assert first.status_code == status
    relay_client.tools.script.clear()
    second = await relay_client.post(NOTE)
    assert second.status_code == (status if kept else 200)
    if kept:
        assert second.headers["content-type"] == "application/problem+json"
        assert second.json() == first.json()


async def test_a_fault_of_ours_is_not_kept(relay_client: RelayClient) -> None:
    async def fail(_: Arguments) -> dict[str, Any]:
        raise RuntimeError

    relay_client.tools.script["store_memory"] = fail
    assert (await relay_client.post(NOTE)).status_code == 500
    relay_client.tools.script.clear()
    assert (await relay_client.post(NOTE)).status_code == 200


async def test_a_batch_with_a_passing_fault_is_not_kept(relay_client: RelayClient) -> None:
    async def busy(_: Arguments) -> CallToolResult:
        return problem_result(503, "unavailable")

    body = {"command": "batch", "delivery_id": "d-1", "data": {"commands": [{"command": "list_agents"}]}}
    relay_client.tools.script["list_agents"] = busy
    assert (await relay_client.post(body)).json()["ok"] is False
    relay_client.tools.script.clear()
    assert (await relay_client.post(body)).json()["ok"] is True


async def test_an_answer_is_given_although_it_could_not_be_kept(
    relay_client: RelayClient, caplog: pytest.LogCaptureFixture
) -> None:
    relay_client.ledger.broken_end = RuntimeError("disk")
    assert (await relay_client.post(NOTE)).status_code == 200
    assert "could not be kept" in caplog.text


async def test_a_ledger_that_cannot_now_is_503(relay_client: RelayClient) -> None:
    relay_client.ledger.broken = UnavailableError()
    response = await relay_client.post(NOTE)
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert relay_client.calls == []


# Work that was unfinished when it was first answered


async def test_a_delivery_whose_work_went_on_tells_its_present_state(relay_client: RelayClient) -> None:
    async def running(arguments: Arguments) -> dict[str, Any]:
        return task_record(arguments["task_id"], "running")

    relay_client.tools.script = {"delegate_task": running, "get_task": running}
    first = await relay_client.post(GIT, params={"wait": "0"})
    assert first.status_code == 202
    still = await relay_client.post(GIT, params={"wait": "0"})
    assert still.status_code == 202
    assert still.json() == first.json()
    assert still.headers["retry-after"]
    del relay_client.tools.script["get_task"]
    done = await relay_client.post(GIT)
    assert done.status_code == 200
    assert done.json()["result"]["status"] == "completed"
    assert done.json()["result"]["id"] == first.json()["task_id"]
    assert done.headers["idempotency-replayed"] == "true"
    assert [name for name, _ in relay_client.calls] == ["delegate_task", "get_task", "get_task"]


async def test_a_retry_that_comes_again_retries_once(relay_client: RelayClient) -> None:
    async def running(_: Arguments) -> dict[str, Any]:
        return task_record("t1", "running")

    relay_client.tools.script["update_task"] = running
    body = {"command": "retry_task", "delivery_id": "d-1", "data": {"task_id": "t1"}}
    assert (await relay_client.post(body)).status_code == 202
    assert (await relay_client.post(body)).status_code == 200
    assert [name for name, _ in relay_client.calls] == ["update_task", "get_task"]


async def test_a_batch_that_comes_again_tells_the_present_state_of_its_tasks(relay_client: RelayClient) -> None:
    async def running(arguments: Arguments) -> dict[str, Any]:
        return task_record(arguments["task_id"], "running")

    async def refuse(_: Arguments) -> CallToolResult:
        return problem_result(404, "not-found")

    relay_client.tools.script = {"delegate_task": running, "get_session": refuse}
    commands = [{"text": "hello"}, {"command": "list_agents"}, {"command": "get_session", "data": {"session_id": "s"}}]
    body = {"command": "batch", "delivery_id": "d-1", "data": {"commands": commands}}
    first = (await relay_client.post(body)).json()
    again = (await relay_client.post(body)).json()
    assert first["results"][0]["result"]["status"] == "running"
    assert again["results"][0]["result"]["status"] == "completed"
    assert "status_url" not in again["results"][0]
    assert again["results"][1:] == first["results"][1:]
    assert [result["command"] for result in again["results"]] == ["text", "list_agents", "get_session"]
    assert again["ok"] is False
    assert [name for name, _ in relay_client.calls] == ["delegate_task", "list_agents", "get_session", "get_task"]


async def test_a_replay_reads_on_until_the_task_ends_or_its_wait_is_over(relay_client: RelayClient) -> None:
    states = iter(["queued", "running", "completed"])

    async def changing(arguments: Arguments) -> dict[str, Any]:
        relay_client.clock.seconds += 2
        return task_record(arguments["task_id"], next(states))

    async def running(arguments: Arguments) -> dict[str, Any]:
        return task_record(arguments["task_id"], "running")

    relay_client.tools.script = {"delegate_task": running, "get_task": changing}
    await relay_client.post(GIT)
    done = await relay_client.post(GIT, params={"wait": "9"})
    assert done.status_code == 200
    assert [arguments["wait"] for _, arguments in relay_client.calls[1:]] == [9, 7, 5]


# At once


async def test_five_at_once_do_it_once_and_all_get_the_answer(relay_client: RelayClient) -> None:
    gate = Gate()
    relay_client.tools.script["delegate_task"] = gate
    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        posts = [group.create_task(relay_client.post(GIT)) for _ in range(5)]
        await gate.entered.wait()
        gate.opened.set()
    answers = [post.result() for post in posts]
    assert len(relay_client.calls) == 1
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 4
    assert len(relay_client.in_flight) == 0


async def test_another_body_at_the_same_time_is_a_conflict(relay_client: RelayClient) -> None:
    gate = Gate()
    relay_client.tools.script["delegate_task"] = gate
    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        first = group.create_task(relay_client.post(GIT))
        await gate.entered.wait()
        other = await relay_client.post(GIT | {"data": {"agent": "shell"}})
        gate.opened.set()
    assert other.status_code == 409
    assert first.result().status_code == 200


async def test_without_a_delivery_id_nothing_is_taken_for_the_same(relay_client: RelayClient) -> None:
    await relay_client.post({"text": "hello"})
    await relay_client.post({"text": "hello"})
    assert len(relay_client.calls) == 2


async def test_who_hangs_up_takes_nothing_back(relay_client: RelayClient) -> None:
    gate = Gate()
    relay_client.tools.script["delegate_task"] = gate
    async with asyncio.timeout(DEADLINE_SECONDS):
        post = asyncio.create_task(relay_client.post(GIT))
        await gate.entered.wait()
        post.cancel()
        await asyncio.wait({post})
        assert post.cancelled()
        gate.opened.set()
        await gate.left.wait()
        again = await relay_client.post(GIT)
    assert again.status_code == 200
    assert again.headers["idempotency-replayed"] == "true"
    assert len(relay_client.calls) == 1
    assert ("key_phone", "d-1") in relay_client.ledger.kept


async def test_who_joined_gets_the_answer_although_the_first_hung_up(relay_client: RelayClient) -> None:
    gate = Gate()
    relay_client.tools.script["delegate_task"] = gate
    async with asyncio.timeout(DEADLINE_SECONDS):
        first = asyncio.create_task(relay_client.post(GIT))
        await gate.entered.wait()
        second = asyncio.create_task(relay_client.post(GIT))
        first.cancel()
        await asyncio.wait({first})
        gate.opened.set()
        answer = await second
    assert answer.status_code == 200
    assert len(relay_client.calls) == 1


async def test_too_much_at_once_is_told_to_come_again() -> None:
    gate = Gate()
    async with served(RelaySettings(public_url=None, default_agent="echo"), limit=1) as client:
        client.tools.script["delegate_task"] = gate
        async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
            first = group.create_task(client.post(GIT))
            await gate.entered.wait()
            second = await client.post({"command": "list_agents"})
            gate.opened.set()
        assert second.status_code == 503
        assert second.headers["retry-after"]
        assert first.result().status_code == 200
        assert (await client.post({"command": "list_agents"})).status_code == 200


async def test_a_server_that_stops_tells_who_still_waits(relay_client: RelayClient) -> None:
    gate = Gate()
    relay_client.tools.script["delegate_task"] = gate
    async with asyncio.timeout(DEADLINE_SECONDS):
        post = asyncio.create_task(relay_client.post(GIT))
        await gate.entered.wait()
        await relay_client.in_flight.aclose(0)
        assert (await post).status_code == 503
    assert (await relay_client.post(NOTE)).status_code == 503


# The primitive itself


def work(
    event: asyncio.Event, status: int = 200, begun: asyncio.Event | None = None
) -> Callable[[], Coroutine[Any, Any, Answer]]:
    async def do() -> Answer:
        if begun is not None:
            begun.set()
        await event.wait()
        return Answer(status, {"ok": True})

    return do


async def test_work_in_flight_is_forgotten_when_it_ends() -> None:
    in_flight, event = InFlight(), asyncio.Event()
    event.set()
    for _ in range(3):
        answer, joined = await in_flight.run(work(event), key="k", fingerprint="f")
        assert answer.status == 200
        assert not joined
    assert len(in_flight) == 0


async def test_closing_gives_work_its_time_to_end() -> None:
    in_flight, event, begun = InFlight(), asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        waiting = group.create_task(in_flight.run(work(event, begun=begun)))
        await begun.wait()
        closing = group.create_task(in_flight.aclose(DEADLINE_SECONDS))
        event.set()
    assert closing.done()
    assert waiting.result()[0].status == 200


async def test_a_key_in_flight_is_one_piece_of_work() -> None:
    in_flight, event, begun = InFlight(), asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        first = group.create_task(in_flight.run(work(event, 200, begun), "k", "f"))
        second = group.create_task(in_flight.run(work(event, 201), "k", "f"))
        await begun.wait()
        with pytest.raises(ConflictError):
            await in_flight.run(work(event), "k", "other")
        event.set()
    assert [first.result(), second.result()] == [(Answer(200, {"ok": True}), False), (Answer(200, {"ok": True}), True)]
