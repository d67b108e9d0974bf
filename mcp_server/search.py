"""Search: one full-text index over conversation, memories, artifacts and tasks.

A record is put in, changed and taken out in the transaction that changes it. Filters are words of
the index too (`facets`), so that they narrow before anything is ranked or capped.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

from mcp_server.clock import iso
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.values import check_text, make_cursor, read_cursor

Kind = Literal["conversation", "memory", "artifact", "task"]
KINDS: tuple[Kind, ...] = ("conversation", "memory", "artifact", "task")

TERMS_LIMIT = 32
PREFIX_CHARACTERS = 3
"""A last word of fewer is taken as it is: "issue 2" means no year, and 2* would read half of the index."""

EXCERPT_SOURCE_CHARACTERS = 20_000
EXCERPT_CHARACTERS = 240
NEWEST = 2**62

_WORD = re.compile(r"[\w\u0300-\u036f]+")  # an accent that stands by itself is part of its word, as in the index


class Search:
    """One query over everything that is kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self,
        *,
        query: str | None = None,
        kind: Kind | None = None,
        type: str | None = None,
        tag: str | None = None,
        session_id: str | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> tuple[list[Row], str | None]:
        """The best matches first; without a query the newest first. Returns the page and the cursor of the next."""
        filters = [facet("k", kind)] if kind else []
        filters += [
            facet(letter, check_text(value, field))
            for letter, field, value in (("y", "type", type), ("t", "tag", tag), ("s", "session_id", session_id))
            if value is not None
        ]
        position = read_cursor(cursor)
        if query is None:
            # Sessions are in the index too, but are no finds. The ranked statement leaves them out by itself.
            everything = [] if kind else [f"({' OR '.join(facet('k', each) for each in KINDS)})"]
            page = {"before": position or NEWEST, "limit": limit + 1}
            hits = await self._database.search("search_newest", match=" AND ".join(everything + filters), **page)
            following = make_cursor(hits[limit - 1]["rowid"]) if len(hits) > limit else None
        else:
            terms = await searched_terms(self._database, check_text(query, "query", limit=4096))
            if not terms:
                return [], None
            match = " AND ".join([*filters, terms])
            page = {"offset": position or 0, "limit": limit + 1}
            hits = await self._database.search("search_ranked", match=match, **page)
            following = make_cursor((position or 0) + limit) if len(hits) > limit else None
        return await self._shown(hits[:limit], query or ""), following

    async def _shown(self, hits: list[Row], query: str) -> list[Row]:
        """What a list shows of `hits`: one query a kind, because each is a hop to the reader's thread and back."""
        records: dict[tuple[str, int], Row] = {}
        for kind in {hit["kind"]: None for hit in hits}:
            refs = json.dumps([hit["ref"] for hit in hits if hit["kind"] == kind])
            for row in await self._database.search(f"search_{kind}", refs=refs):
                records[kind, row.pop("ref")] = row
        rowids = json.dumps([hit["rowid"] for hit in hits])
        found = await self._database.search("search_text_of", rowids=rowids, clip=EXCERPT_SOURCE_CHARACTERS)
        texts = {row["rowid"]: row for row in found}
        return [
            _find(hit["kind"], records.get((hit["kind"], hit["ref"]), {}), texts.get(hit["rowid"]), query)
            for hit in hits
        ]


def _find(kind: str, record: Row, text: Row | None, query: str) -> Row:
    shown: Row = {name: iso(value) if name.endswith("_at") else value for name, value in record.items()}
    if "tags" in shown:
        shown["tags"] = json.loads(shown["tags"])
    title = {"title": text["title"][:EXCERPT_CHARACTERS]} if text and text["title"] else {}
    return {"kind": kind, **shown, **title, "excerpt": _excerpt(text["body"] if text else "", query)}


def facet(letter: str, value: str) -> str:
    """A filter as the index knows it: hexadecimal, so that any value is one word."""
    word = value if letter == "k" else value.encode().hex().upper()
    return f'facets : "{letter}{word}"'


async def searched_terms(database: Database, query: str) -> str:
    """`match_terms`, but a last word that is common by itself is taken as it is.

    To go on from it, the index reads all words that begin so, and there is enough to show without them.
    """
    terms = match_terms(query)
    if terms.endswith("*)"):
        word = match_terms(_words(query)[-1], may_go_on=False)
        (found,) = await database.search("search_is_common", match=word)
        if found["is_common"]:
            return match_terms(query, may_go_on=False)
    return terms


def match_terms(query: str, *, may_go_on: bool = True) -> str:
    """What a person typed, as a query that has no syntax to get wrong: every word must occur, a long last may go on."""
    words = _words(query)
    if not words:
        return ""
    quoted = " AND ".join(f'"{word}"' for word in words)
    more = "*" if may_go_on and len(words[-1]) >= PREFIX_CHARACTERS else ""
    return f"{{title body}} : ({quoted}{more})"


def _words(query: str) -> list[str]:
    # What holds no letter and no digit is no word of the index, and would match nothing.
    return [word for word in _WORD.findall(query) if any(map(str.isalnum, word))][:TERMS_LIMIT]


async def index_document(transaction: Transaction, kind: str, ref: int) -> None:
    """Put a new record into the index."""
    await transaction.run("document_insert", kind=kind, ref=ref)
    await transaction.run("document_index", kind=kind, ref=ref)


@asynccontextmanager
async def reindexed(transaction: Transaction, kind: str, ref: int) -> AsyncGenerator[None]:
    """Around a change of a record's text."""
    await transaction.run("document_unindex", kind=kind, ref=ref)
    yield
    await transaction.run("document_index", kind=kind, ref=ref)


async def drop_document(transaction: Transaction, kind: str, ref: int) -> None:
    """Before a record is deleted."""
    await transaction.run("document_unindex", kind=kind, ref=ref)
    await transaction.run("document_delete", kind=kind, ref=ref)


async def drop_session_documents(transaction: Transaction, session_id: str, ref: int) -> None:
    """Before a session is deleted with everything in it."""
    await transaction.run("document_unindex_session", session_id=session_id)
    await transaction.run("document_delete_session", session_id=session_id)
    await drop_document(transaction, "session", ref)


def _excerpt(body: str, query: str) -> str:
    """Some words around the first match, on one line."""
    words: list[Any] = _WORD.findall(query)
    found = re.search("|".join(map(re.escape, words)), body, re.IGNORECASE) if words else None
    start = max(0, found.start() - EXCERPT_CHARACTERS // 3) if found else 0
    piece = " ".join(body[start : start + EXCERPT_CHARACTERS].split())
    return f"{'…' if start else ''}{piece}{'…' if start + EXCERPT_CHARACTERS < len(body) else ''}"
