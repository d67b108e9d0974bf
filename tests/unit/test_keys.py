"""API keys, and the deliveries made with them."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from mcp_server.errors import ConflictError, InvalidError, NotFoundError, OffhandError
from mcp_server.keys import Delivery
from tests.store.house import House, StillClock


async def test_a_key_is_shown_once_and_kept_as_a_hash(house: House):
    record, token = await house.keys.create("my phone")
    assert record == {
        "id": "key_made1",
        "name": "my phone",
        "scopes": ["read", "submit"],
        "created_at": "2026-11-21T08:00:00.000Z",
        "revoked_at": None,
    }
    assert token.startswith("ofh_")
    assert len(token) > 30
    connection = sqlite3.connect(house.path)
    kept = "\n".join(connection.iterdump())
    connection.close()
    assert token not in kept
    assert token.removeprefix("ofh_") not in kept
    assert await house.keys.list() == [record]
    assert house.told[-1].data == {"name": "my phone", "scopes": ["read", "submit"]}


async def test_two_tokens_are_never_the_same(house: House):
    assert len({(await house.keys.create(f"key {number}"))[1] for number in range(20)}) == 20


async def test_a_token_says_who_is_calling(house: House):
    record, token = await house.keys.create("my phone", ["read"])
    caller = await house.keys.authenticate(token)
    assert caller is not None
    assert (caller.level, caller.name, caller.scopes, caller.key_id) == (
        "phone",
        "my phone",
        frozenset({"read"}),
        record["id"],
    )


@pytest.mark.parametrize("token", ["", "ofh_", "nonsense", "\ud800", "\x00", "x" * 100_000, "é"])
async def test_a_wrong_token_is_nobodys(token: str, house: House):
    _, right = await house.keys.create("my phone")
    assert await house.keys.authenticate(token) is None
    assert await house.keys.authenticate(right + " ") is None
    assert await house.keys.authenticate(right.upper()) is None


async def test_a_revoked_key_ends_at_once_and_stays_on_the_list(house: House, clock: StillClock):
    record, token = await house.keys.create("my phone")
    clock.advance(60)
    revoked = await house.keys.revoke("my phone")
    assert revoked == record | {"revoked_at": "2026-11-21T08:01:00.000Z"}
    assert await house.keys.authenticate(token) is None
    assert await house.keys.list() == [revoked]
    with pytest.raises(NotFoundError) as caught:
        await house.keys.revoke("my phone")
    assert caught.value.issues[0].field == "name"
    assert house.kinds() == ["key.created", "key.revoked"]


async def test_a_key_can_be_revoked_by_its_id(house: House):
    record, token = await house.keys.create("my phone")
    await house.keys.revoke(record["id"])
    assert await house.keys.authenticate(token) is None


async def test_a_name_belongs_to_one_living_key(house: House):
    record, _ = await house.keys.create("my phone")
    with pytest.raises(ConflictError) as caught:
        await house.keys.create("my phone")
    assert caught.value.existing == record
    assert "revoke" in caught.value.issues[0].fix
    await house.keys.revoke("my phone")
    await house.keys.create("my phone")
    assert len(await house.keys.list()) == 2


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (["read"], True),
        (["read", "submit"], True),
        (["approve"], True),
        (["read", "approve"], True),
        (["admin"], True),
        (["submit", "approve"], False),
        (["submit", "admin"], False),
        (["read", "submit", "approve", "admin"], False),
        (["everything"], False),
        ([""], False),
    ],
)
async def test_one_key_never_holds_both_submit_and_approve(scopes: list[str], allowed: bool, house: House):
    if allowed:
        record, _ = await house.keys.create("k", scopes)
        assert record["scopes"] == scopes
        return
    with pytest.raises(InvalidError) as caught:
        await house.keys.create("k", scopes)
    assert caught.value.issues[0].field == "scope"
    assert caught.value.issues[0].fix
    assert await house.keys.list() == []


@pytest.mark.parametrize("name", ["", " ", "a\x00", "x" * 129])
async def test_a_bad_name_is_refused(name: str, house: House):
    for operation in (house.keys.create, house.keys.revoke):
        with pytest.raises(OffhandError) as caught:
            await operation(name)
        assert caught.value.issues[0].field == "name"


async def test_whether_there_ever_was_a_key(house: House):
    assert not await house.keys.any()
    await house.keys.create("k")
    await house.keys.revoke("k")
    assert await house.keys.any()


SEED = "a key from the environment"


async def test_a_seeded_key_may_read_and_submit(house: House):
    await house.keys.seed(SEED)
    await house.keys.seed(SEED)
    caller = await house.keys.authenticate(SEED)
    assert caller is not None
    assert (caller.name, caller.scopes) == ("environment", frozenset({"read", "submit"}))
    assert len(await house.keys.list()) == 1


async def test_another_seed_ends_the_earlier_one(house: House):
    await house.keys.seed(SEED)
    await house.keys.seed(SEED + " 2")
    assert await house.keys.authenticate(SEED) is None
    assert await house.keys.authenticate(SEED + " 2") is not None


async def test_a_seed_that_was_revoked_does_not_come_back(house: House):
    await house.keys.seed(SEED)
    await house.keys.seed(SEED + " 2")
    with pytest.raises(InvalidError) as caught:
        await house.keys.seed(SEED)
    assert caught.value.issues[0].field == "OFFHAND_API_KEY"
    assert caught.value.issues[0].fix
    assert await house.keys.authenticate(SEED) is None
    assert await house.keys.authenticate(SEED + " 2") is not None, "nothing is half done"


async def test_a_short_seed_is_refused(house: House):
    with pytest.raises(InvalidError) as caught:
        await house.keys.seed("x" * 19)
    assert caught.value.issues[0].field == "OFFHAND_API_KEY"
    assert "xxx" not in str(caught.value)
    assert await house.keys.list() == []


async def test_a_delivery_that_comes_again_gets_the_same_answer(house: House):
    begin = house.deliveries.begin
    assert await begin("key_1", "d-1", "f") == Delivery("new")
    assert await begin("key_1", "d-1", "f") == Delivery("new"), "it was never answered"
    await house.deliveries.end("key_1", "d-1", 200, {"ok": True, "say": "é"})
    assert await begin("key_1", "d-1", "f") == Delivery("answered", 200, {"ok": True, "say": "é"})
    assert await begin("key_1", "d-1", "g") == Delivery("conflict")
    assert await begin("key_2", "d-1", "g") == Delivery("new"), "ids belong to their key"


async def test_a_delivery_of_other_content_changes_nothing(house: House):
    await house.deliveries.begin("key_1", "d-1", "f")
    await house.deliveries.begin("key_1", "d-1", "g")
    await house.deliveries.end("key_1", "d-1", 202, {})
    assert await house.deliveries.begin("key_1", "d-1", "f") == Delivery("answered", 202, {})


async def test_the_same_delivery_five_times_at_once_is_one_row(house: House):
    found = await asyncio.gather(*(house.deliveries.begin("key_1", "d-1", "f") for _ in range(5)))
    assert set(found) == {Delivery("new")}
    connection = sqlite3.connect(house.path)
    assert connection.execute("SELECT count(*) FROM delivery").fetchone() == (1,)
    connection.close()
