"""A program that waits for the test, and a test that waits for the program: two named pipes, and no sleeps."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path

DEADLINE_SECONDS = 15.0


class Gate:
    """`snippet` goes into a shell program: it says that it got there, and goes on when the test lets it.

    Both pipes are held open by the test, so that neither side waits for the other to open them.
    """

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self._said = folder / f"{name}.said"
        self._go = folder / f"{name}.go"
        os.mkfifo(self._said)
        os.mkfifo(self._go)
        self._reading = os.open(self._said, os.O_RDWR | os.O_NONBLOCK)
        self._writing = os.open(self._go, os.O_RDWR | os.O_NONBLOCK)
        self._unread = b""

    @property
    def snippet(self) -> str:
        """Says `here` and waits."""
        return f"{self.tell('here')}; {self.wait}"

    def tell(self, word: str) -> str:
        """Shell: say one word to the test."""
        return f"echo {word} > {shlex.quote(str(self._said))}"

    @property
    def wait(self) -> str:
        """Shell: wait for the test."""
        return f"read going < {shlex.quote(str(self._go))}"

    def go_on(self) -> None:
        """Let one who waits go on."""
        os.write(self._writing, b"\n")

    async def reached(self, word: str = "here") -> None:
        """Wait until the program says `word`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while b"\n" not in self._unread:
                readable = asyncio.Event()
                loop.add_reader(self._reading, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(self._reading)
                self._unread += os.read(self._reading, 4096)
        line, _, self._unread = self._unread.partition(b"\n")
        assert line.decode() == word

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)
