"""From a change until those who follow it are told: one subscriber, and 200, in both protocol eras.

The clock starts when the request goes out that changes a session, so the change itself and its commit are part of
it; so they are beside it, where the bare SDK's server commits one row and tells its listeners (the SDK serves only the
later era's subscriptions, and those of many clients over HTTP). The changing client's own answer stands beside too.
"""

from __future__ import annotations

import itertools
import json
import selectors
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from benchmarks.figures import MILLISECONDS, Figure, Goal, Series, script
from benchmarks.processes import bare_http, serving, temporary_folder
from benchmarks.wire import ANSWER_SECONDS, READ_BYTES, UPDATED, Connection, connect_to_http, connect_to_socket

MANY = 200
GOALS = (Goal("p99", 50),)
SESSION = "session://s"
NOTE = "note://1"
WARM_UP = 3
METHOD = b'"method"'
TOLD = f'"{UPDATED}"'.encode()


def measure(quick: bool) -> list[Figure]:
    """Figures of being told."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(stack.enter_context(temporary_folder())))
        _, bare = stack.enter_context(bare_http(stack.enter_context(temporary_folder())))
        changing = stack.enter_context(_closed(connect_to_socket(server.mcp_socket)))
        changing.call("create_session", session_id="s", title="Followed")
        ways: dict[str, Callable[[], Connection]] = {
            "socket, handshake": lambda: connect_to_socket(server.mcp_socket, "handshake"),
            "socket, modern": lambda: connect_to_socket(server.mcp_socket, "modern"),
            "HTTP, modern": lambda: connect_to_http(server.port, server.key, "modern"),
        }
        figures: list[Figure] = []
        for count in (1, MANY):
            rounds = (10 if count == 1 else 3) if quick else (500 if count == 1 else 100)
            with _following(count, lambda: connect_to_http(bare), NOTE) as listeners:
                for way, connect in ways.items():
                    # The noting client last: HTTP servers close what is idle for some seconds.
                    with _following(count, connect, SESSION) as followers, _closed(connect_to_http(bare)) as noting:
                        ours = _Told(_Change(changing, "update_session", session_id="s"), SESSION, followers)
                        beside = _Told(_Change(noting, "change"), NOTE, listeners)
                        for number in range(rounds + WARM_UP):
                            ours.once(kept=number >= WARM_UP)
                            beside.once(kept=number >= WARM_UP)
                    figures += _figures(way, count, ours, beside)
    return figures


class _Change:
    """A call that changes something at every turn."""

    def __init__(self, client: Connection, tool: str, /, **arguments: str) -> None:
        self.client = client
        self._tool = tool
        self._arguments = arguments
        self._numbers = itertools.count()

    def prepared(self) -> bytes:
        text = f"Change {next(self._numbers)}"
        changed = {"title" if self._tool == "update_session" else "text": text}
        return self.client.prepared("tools/call", {"name": self._tool, "arguments": self._arguments | changed})


class _Told:
    """How long it took until each was told, the last of them, and the one that made the change."""

    def __init__(self, change: _Change, uri: str, followers: Sequence[Connection]) -> None:
        self._change = change
        self._uri = uri
        self._followers = followers
        self.each: list[float] = []
        self.last: list[float] = []
        self.answer: list[float] = []

    def once(self, *, kept: bool) -> None:
        """Change it, and wait for all to be told.

        Raises:
            TimeoutError: somebody is not.
            RuntimeError: the change failed, or somebody was told something else, or twice.
        """
        message = self._change.prepared()
        with selectors.DefaultSelector() as ready:
            for client in (self._change.client, *self._followers):
                ready.register(client.socket, selectors.EVENT_READ, client)
            self._refuse_old_news(ready)
            begin = time.perf_counter()
            self._change.client.socket.sendall(message)
            arrivals = self._arrivals(ready, begin)
        answer = json.loads(arrivals[self._change.client][1])
        if "result" not in answer or answer["result"].get("isError"):
            raise RuntimeError(str(answer))
        for follower in self._followers:
            said = json.loads(arrivals[follower][1])
            if said["params"]["uri"] != self._uri:
                raise RuntimeError(str(said))
        if kept:
            told = [arrivals[follower][0] for follower in self._followers]
            self.each += told
            self.last.append(max(told))
            self.answer.append(arrivals[self._change.client][0])

    def _refuse_old_news(self, ready: selectors.BaseSelector) -> None:
        for key, _ in ready.select(0):
            if self._awaited(key.data):
                raise RuntimeError("a subscriber was told twice")

    def _arrivals(self, ready: selectors.BaseSelector, begin: float) -> dict[Connection, tuple[float, bytes]]:
        """When each has read what it waits for (milliseconds since `begin`), and that."""
        arrivals: dict[Connection, tuple[float, bytes]] = {}
        while waiting := len(ready.get_map()):
            found = ready.select(begin + ANSWER_SECONDS - time.perf_counter())
            if not found:
                raise TimeoutError(f"{waiting} of {waiting + len(arrivals)} were told nothing")
            for key, _ in found:
                awaited = self._awaited(key.data)
                if awaited:
                    arrivals[key.data] = ((time.perf_counter() - begin) * MILLISECONDS, awaited[0])
                    ready.unregister(key.fileobj)
        return arrivals

    def _awaited(self, client: Connection) -> list[bytes]:
        """Of what has come for `client`: its answer, or that the resource changed."""
        messages = client.framing.feed(client.socket.recv(READ_BYTES))
        if client is self._change.client:
            return [message for message in messages if METHOD not in message]
        return [message for message in messages if TOLD in message]


@contextmanager
def _closed(client: Connection) -> Generator[Connection]:
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _following(count: int, connect: Callable[[], Connection], uri: str) -> Generator[list[Connection]]:
    """So many connections that have asked to be told of `uri`."""
    followers: list[Connection] = []
    try:
        for _ in range(count):
            followers.append(connect())
            followers[-1].follow(uri)
        yield followers
    finally:
        for follower in followers:
            with suppress(OSError):
                follower.close(politely=False)


def _figures(way: str, count: int, ours: _Told, beside: _Told) -> list[Figure]:
    answered = Series("the answer to who changed it", ours.answer)
    if count == 1:
        bare = Series("bare SDK, HTTP, modern", beside.each)
        return [Figure(f"change to its subscriber, {way}", "ms", ours.each, GOALS, [bare, answered])]
    each, last = Series("bare SDK, HTTP, modern", beside.each), Series("bare SDK, HTTP, modern, last", beside.last)
    return [
        Figure(f"change to each of {count} subscribers, {way}", "ms", ours.each, GOALS, [each, answered]),
        Figure(f"change to the last of {count}, {way}", "ms", ours.last, GOALS, [last]),
    ]


if __name__ == "__main__":
    script(measure)
