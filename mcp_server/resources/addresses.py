"""The addresses of resources: `session://ID`, `task://ID/output?offset=100`, and so on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args
from urllib.parse import parse_qsl, quote, unquote

from mcp_server.errors import InvalidError, NotFoundError
from mcp_server.values import check_known_id

Kind = Literal["session", "memory", "task", "artifact", "agent", "schema"]
Part = Literal["conversation", "output"]

KINDS: tuple[Kind, ...] = get_args(Kind)
PARTS: Mapping[str, Part] = {"session": "conversation", "task": "output"}
"""Which kind has which part."""

ADDRESS_LIMIT_CHARACTERS = 2048

_ADDRESS = re.compile(r"([A-Za-z]+)://([^/?#]*)(?:/([^/?#]*))?(?:\?([^#]*))?\Z")
_KNOWN = ", ".join(f"{kind}://ID" for kind in KINDS) + ", session://ID/conversation, task://ID/output"


@dataclass(frozen=True, slots=True)
class Address:
    """A resource that may or may not exist. `id` of a task may be its number."""

    kind: Kind
    id: str
    part: Part | None = None
    query: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def uri(self) -> str:
        """As clients write it, without the query: what an id may hold and a URI may not is quoted."""
        return f"{self.kind}://{quote(self.id, safe='')}{f'/{self.part}' if self.part else ''}"

    @property
    def subject(self) -> str:
        """As events name it."""
        return f"{self.kind}://{self.id}{f'/{self.part}' if self.part else ''}"


def parse_address(uri: str) -> Address:
    """Read `uri`. The scheme may be in any case, as everywhere; all else is taken as it is.

    Raises:
        NotFoundError: it is none of ours.
        InvalidError: it has an id or a query that cannot be.
    """
    found = _ADDRESS.match(uri) if len(uri) <= ADDRESS_LIMIT_CHARACTERS else None
    if found is None or found[1].lower() not in KINDS:
        raise NotFoundError("There is no resource at this address.", field="uri", fix=f"Addresses are {_KNOWN}.")
    kind, name, part = cast("Kind", found[1].lower()), unquote(found[2]), found[3]
    if not (kind == "task" and name.isascii() and name.isdigit()):
        check_known_id(name, "uri", kind)
    if part is not None and PARTS.get(kind) != part:
        raise NotFoundError(f"A {kind} has no such part.", field="uri", fix=f"Addresses are {_KNOWN}.")
    return Address(kind, name, PARTS.get(kind) if part else None, _query(found[4] or ""))


def _query(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=8)
    except ValueError:
        raise InvalidError("The query of this address cannot be read.", field="uri", fix="Leave it out.") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise InvalidError("The query of this address says something twice.", field="uri", fix="Say it once.")
    return query
