"""Search: one full-text index over conversation, memories, artifacts and tasks.

A record is put in, changed and taken out in the transaction that changes it. Filters are words of
the index too (`facets`), so that they narrow before anything is ranked or capped.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from mcp_server.clock import iso
from mcp_server.store.database import Database, Row, Transaction
from mcp_server.values import check_text, make_cursor, read_cursor

Kind = Literal["conversation", "memory", "artifact", "task"]
KINDS: tuple[Kind, ...] = ("conversation", "memory", "artifact", "task")

TERMS_LIMIT = 32
EXCERPT_SOURCE_CHARACTERS = 20_000
EXCERPT_CHARACTERS = 240
NEWEST = 2**62

_WORD = re.compile(r"\w+")


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
        filters = [facet("k", kind)] if kind else [f"({' OR '.join(facet('k', each) for each in KINDS)})"]
        filters += [
            facet(letter, check_text(value, field))
            for letter, field, value in (("y", "type", type), ("t", "tag", tag), ("s", "session_id", session_id))
            if value is not None
        ]
        position = read_cursor(cursor)
        if query is None:
            page = {"before": position or NEWEST, "limit": limit + 1}
            hits = await self._database.search("search_newest", match=" AND ".join(filters), **page)
            following = make_cursor(hits[limit - 1]["rowid"]) if len(hits) > limit else None
        else:
            terms = match_terms(check_text(query, "query", limit=4096))
            if not terms:
                return [], None
            match = " AND ".join([*filters, terms])
            page = {"offset": position or 0, "limit": limit + 1}
            hits = await self._database.search("search_ranked", match=match, **page)
            following = make_cursor((position or 0) + limit) if len(hits) > limit else None
        return [await self._shown(hit, query) for hit in hits[:limit]], following

    async def _shown(self, hit: Row, query: str | None) -> Row:
        (record,) = await self._database.search(f"search_{hit['kind']}", ref=hit["ref"]) or [{}]
        (text,) = await self._database.search(
            "search_text_of", rowid=hit["rowid"], clip=EXCERPT_SOURCE_CHARACTERS
        ) or [{"title": "", "body": ""}]
        shown = {name: iso(value) if name.endswith("_at") else value for name, value in record.items()}
        if "tags" in shown:
            shown["tags"] = json.loads(shown["tags"])
        title = {"title": text["title"][:EXCERPT_CHARACTERS]} if text["title"] else {}
        return {"kind": hit["kind"], **shown, **title, "excerpt": _excerpt(text["body"], query or "")}


def facet(letter: str, value: str) -> str:
    """A filter as the index knows it: hexadecimal, so that any value is one word."""
    word = value if letter == "k" else value.encode().hex().upper()
    return f'facets : "{letter}{word}"'


def match_terms(query: str) -> str:
    """What a person typed, as a query that has no syntax to get wrong: every word must occur, the last may go on."""
    words = _WORD.findall(query)[:TERMS_LIMIT]
    if not words:
        return ""
    quoted = " AND ".join(f'"{word}"' for word in words)
    return f"{{title body}} : ({quoted}*)"


async def index_document(transaction: Transaction, kind: str, ref: int) -> None:
    """Put a new record into the index."""
    await transaction.run("document_insert", kind=kind, ref=ref)
    await transaction.run("document_index", kind=kind, ref=ref)


@asynccontextmanager
async def reindexed(transaction: Transaction, kind: str, ref: int) -> AsyncIterator[None]:
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
