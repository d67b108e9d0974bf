from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mcp_server.transports.lines import KEPT_BYTES, LineCutter, TooLong

LIMIT = 5


@given(
    data=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"0123456789"])).map(b"".join),
    cuts=st.lists(st.integers(0, 60)),
)
def test_lines_are_the_same_however_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    cutter = LineCutter(LIMIT)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    lines = [line for begin, end in itertools.pairwise(edges) for line in cutter.feed(data[begin:end])]
    whole = data.split(b"\n")[:-1]
    assert lines == [line if len(line) <= LIMIT else TooLong(line, line) for line in whole]


def test_both_ends_of_a_skipped_line_are_kept() -> None:
    cutter = LineCutter(LIMIT)
    head, tail = b"h" * KEPT_BYTES, b"t" * KEPT_BYTES
    lines = [line for part in (head, b"m" * 10_000, tail[:100], tail[100:], b"\nnext\n") for line in cutter.feed(part)]
    assert lines == [TooLong(head, tail), b"next"]
