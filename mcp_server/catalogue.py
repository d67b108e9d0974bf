"""What there is, as menus show it: pages of every kind of record, and what a text that somebody types may become."""

from __future__ import annotations

from typing import Literal

from mcp_server.store.database import Database, Row

Kind = Literal["session", "task", "memory", "artifact"]

CLIP_CHARACTERS = 120
"""Of long texts; a menu shows a line."""

CHOICES_LIMIT = 100
WINDOW = 5_000
"""Names and titles are looked for in so many of the newest records of a kind; ids in all of them."""

NUMBER_DIGITS = 18


class Choices:
    """What a text may become, newest first: at most 100. `total` is None where only "more than these" is known."""

    def __init__(self, values: list[str], total: int | None = None) -> None:
        self.values = values[:CHOICES_LIMIT]
        self.total = total
        self.has_more = total is None or total > len(self.values)


class Catalogue:
    """Reads of the newest, for lists that somebody pages through or types into."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, kind: Kind, before: int, limit: int) -> list[Row]:
        """Newest first; `seq` of the last one is `before` of the next page, whatever is added meanwhile."""
        clip = {"clip": CLIP_CHARACTERS} if kind in ("task", "memory") else {}
        return await self._database.all(f"catalogue_{kind}", before=before, limit=limit, **clip)

    async def has(self, kind: Literal["session", "memory", "artifact"], id: str) -> bool:
        """Whether there is such a record."""
        return await self._database.one(f"known_{kind}", id=id) is not None

    async def complete(self, kind: Kind, text: str) -> Choices:
        """Ids of records whose id, name, key, or a word of whose title begins with `text`, whatever its case.

        All ids count that begin with exactly `text`; the rest counts in the newest 5,000. Of tasks, numbers count too.
        """
        seqs: dict[str, int] = {}
        is_all = True
        for rows in (await self._newest(kind, text), await self._by_id(kind, text)):
            seqs |= {row["id"]: row["seq"] for row in rows}
            is_all = is_all and len(rows) <= CHOICES_LIMIT
        if kind == "task" and text.isascii() and text.isdigit():
            numbers = await self._numbers(text)
            seqs |= {str(number): number for number in numbers}
            is_all = is_all and len(numbers) <= CHOICES_LIMIT
        values = sorted(seqs, key=lambda id: seqs[id], reverse=True)
        return Choices(values, len(values) if is_all else None)

    async def _newest(self, kind: Kind, text: str) -> list[Row]:
        begins = _escaped(text) + "%"
        words = {"has_word": f"% {begins}"} if kind == "session" else {}
        return await self._database.all(
            f"complete_{kind}", begins=begins, window=WINDOW, limit=CHOICES_LIMIT + 1, **words
        )

    async def _by_id(self, kind: Kind, text: str) -> list[Row]:
        if not text or not text.isascii():
            return []
        beyond = text[:-1] + chr(ord(text[-1]) + 1)
        return await self._database.all(f"complete_{kind}_ids", begins=text, beyond=beyond, limit=CHOICES_LIMIT + 1)

    async def _numbers(self, digits: str) -> list[int]:
        """Every number that begins so, the largest first: 7, 70 to 79, 700 to 799, and so on."""
        newest = await self.page("task", 10**NUMBER_DIGITS, 1)
        found: list[int] = []
        number = int(digits)
        ranges = [
            (number * 10**more, 10**more) for more in range(NUMBER_DIGITS) if number and not digits.startswith("0")
        ]
        for first, size in reversed(ranges):
            if not newest or first > newest[0]["seq"] or len(found) > CHOICES_LIMIT:
                continue
            rows = await self._database.all(
                "complete_task_numbers", number=first, beyond=first + size, limit=CHOICES_LIMIT + 1
            )
            found += [row["number"] for row in rows]
        return found[: CHOICES_LIMIT + 1]


def _escaped(text: str) -> str:
    """`text` as LIKE takes it literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
