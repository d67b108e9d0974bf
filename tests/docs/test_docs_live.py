"""docs/live.md says what the server does."""

from __future__ import annotations

from mcp_server import subscriptions
from mcp_server.live import LIST_PAUSE_SECONDS, OUTPUT_PAUSE_SECONDS
from mcp_server.resources.addresses import KINDS, PARTS, parse_address
from mcp_server.tools.progress import LINE_CHARACTERS, PAUSE_SECONDS
from mcp_server.web.app import SESSION_IDLE_SECONDS
from tests.docs.pages import names, page, table

LIVE = page("docs/live.md")


def test_every_kind_of_address_that_can_change_is_on_the_page() -> None:
    rows = [names(row[0]) for row in table(LIVE, "address")]
    addresses = [parse_address(found[0]) for found in rows if found]
    assert {(address.kind, address.part) for address in addresses} == {
        *((kind, None) for kind in KINDS if kind != "schema"),
        *PARTS.items(),
    }


def test_the_limits_on_the_page_are_those_of_the_server() -> None:
    limits = [int(row[1].replace(",", "")) for row in table(LIVE, "what")]
    assert limits == [
        subscriptions.FOLLOWED_LIMIT,
        subscriptions.STREAMS_PER_CALLER_LIMIT,
        subscriptions.SUBSCRIPTIONS_LIMIT,
    ]


def test_the_pauses_on_the_page_are_those_of_the_server() -> None:
    text = " ".join(LIVE.split())
    assert "at most once a second" in text
    assert LIST_PAUSE_SECONDS == 1
    assert f"at most {1 / OUTPUT_PAUSE_SECONDS:.0f} times a second" in text
    assert "at most four times a second" in text
    assert PAUSE_SECONDS == 1 / 4
    assert f"cut at {LINE_CHARACTERS} characters" in text
    assert f"within {subscriptions.REACH_PAUSES_SECONDS[1]:.0f} seconds" in text
    assert f"{SESSION_IDLE_SECONDS / 60:.0f} minutes" in text
