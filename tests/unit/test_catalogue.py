"""What menus show: ids are found among all records, names among the newest."""

from __future__ import annotations

import pytest

from mcp_server import catalogue
from tests.store.house import House


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "WINDOW", 3)


async def test_an_id_is_found_however_old_it_is_and_a_name_among_the_newest(house: House):
    for number in range(6):
        await house.memories.store(type="fact", content="x", id=f"m{number}", key=f"key {number}")

    assert (await house.catalogue.complete("memory", "m")).values == ["m5", "m4", "m3", "m2", "m1", "m0"]
    assert (await house.catalogue.complete("memory", "M")).values == ["m5", "m4", "m3"]
    assert (await house.catalogue.complete("memory", "key")).values == ["m5", "m4", "m3"]
    assert (await house.catalogue.complete("memory", "m0")).values == ["m0"]
    assert (await house.catalogue.complete("memory", "key 0")).values == []


async def test_what_was_deleted_is_neither_found_nor_in_the_way(house: House):
    for number in range(4):
        await house.artifacts.add(name=f"name {number}", content="x", id=f"a{number}")
    await house.artifacts.delete("a3")

    assert not await house.catalogue.has("artifact", "a3")
    assert await house.catalogue.has("artifact", "a2")
    assert (await house.catalogue.complete("artifact", "name")).values == ["a2", "a1", "a0"]
    assert [row["id"] for row in await house.catalogue.page("artifact", 2**40, 2)] == ["a2", "a1"]


async def test_an_empty_store_has_nothing_to_offer(house: House):
    for kind in ("session", "task", "memory", "artifact"):
        assert await house.catalogue.page(kind, 2**40, 10) == []
        for text in ("", "a", "1"):
            choices = await house.catalogue.complete(kind, text)
            assert (choices.values, choices.total, choices.has_more) == ([], 0, False)
