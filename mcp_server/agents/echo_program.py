"""What the echo agent runs: it reads what to do as JSON from stdin. Standard library only, run with `-I -S`."""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO

SPREAD_LINES = 1000
"""Up to so many lines, the sleep is spread between them; more are written at once, before the sleep."""


def main() -> int:
    told = json.loads(sys.stdin.buffer.read())
    lines, sleep = told["lines"], told["sleep"]
    pause = sleep / (lines + 1) if lines <= SPREAD_LINES else 0.0
    for number in range(1, lines + 1):
        write(sys.stdout, f"{number}\n", at_once=pause > 0)
        if pause:  # even a sleep of nothing costs more than the line
            time.sleep(pause)
    sys.stdout.flush()
    time.sleep(pause or sleep)
    write(sys.stderr, told["stderr"])
    write(sys.stdout, told["answer"])
    return int(told["exit_code"])


def write(stream: TextIO, text: str, *, at_once: bool = True) -> None:
    stream.buffer.write(text.encode("utf-8", "replace"))
    if at_once:
        stream.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
