"""What one tool call costs that reads the store, and one that writes and is committed when it answers.

Our part of it by raw lines over the unix socket, beside raw lines to the bare SDK's server over pipes (the SDK has no
unix socket). `round_trips` has the other ways in.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack

from benchmarks.figures import Figure, Goal, Series, alternate, script
from benchmarks.processes import WORKSPACE, bare_stdio, ended, repository, serving, temporary_folder
from benchmarks.wire import Conversation, over_pipes, over_socket


def measure(quick: bool) -> list[Figure]:
    """Figures of tool calls."""
    with temporary_folder() as home, temporary_folder() as folder, repository() as workspace, ExitStack() as stack:
        server = stack.enter_context(serving(home, workspace))
        ours = stack.enter_context(over_socket(server.mcp_socket))
        bare = over_pipes(stack.enter_context(ended(bare_stdio(folder))))
        task = _fill(ours)
        return _raw(50 if quick else 1000, ours, bare, task)


def _fill(ours: Conversation) -> str:
    ours.call("create_session", session_id="s", title="Measured", participants=["claude", "user"])
    for number in range(10):
        ours.call("add_conversation", session_id="s", content=f"Some words of a chunk, {number}. " * 20)
        ours.call("store_memory", session_id="s", type="idea", key=f"k{number}", content="Something to keep.")
    params = {"command": ["git", "status"]}
    return ours.call("delegate_task", agent="git", params=params, workspace=WORKSPACE, session_id="s")["id"]


def _raw(rounds: int, ours: Conversation, bare: Conversation, task: str) -> list[Figure]:
    number = itertools.count()
    add, keep, session, known_task, memory, nothing = alternate(
        rounds,
        lambda: bare.time_call("add", a=1, b=2),
        lambda: bare.time_call("keep", text="Something to keep."),
        lambda: ours.time_call("get_session", session_id="s"),
        lambda: ours.time_call("get_task", task_id=task),
        lambda: ours.time_call("store_memory", type="idea", key=f"m{next(number)}", content="Something to keep."),
        lambda: _ping(ours),
        warm_up=20,
    )
    trivial = Series("bare SDK server, add(1, 2), pipes", add)
    empty = Series("our own ping, same socket", nothing)
    committed = Series("bare SDK server, one INSERT committed, pipes", keep)
    return [
        Figure("get_task over the socket, raw lines", "ms", known_task, [Goal("median", 1.5)], [trivial, empty]),
        Figure("get_session (6 queries) over the socket, raw lines", "ms", session, [Goal("median", 1.5)], [trivial]),
        Figure("store_memory over the socket, raw lines", "ms", memory, [Goal("median", 3)], [committed, trivial]),
    ]


def _ping(ours: Conversation) -> float:
    ours.request("ping")
    return ours.milliseconds


if __name__ == "__main__":
    script(measure)
