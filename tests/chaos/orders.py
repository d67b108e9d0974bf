"""What a chaos run asks for: tasks of mixed kinds, drawn from a seed, and what must come of each."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.program import foretold

PROGRAM = Path(__file__).with_name("program.py")
OUTPUT_LIMIT_BYTES = 1024 * 1024
ESCAPES = ("session", "twice", "relay")
GIT = (("status",), ("log", "-3"), ("show", "--stat"), ("rev-parse", "HEAD"))


@dataclass
class Order:
    """One task: what is asked for, what must come of it if nothing happens to it, and what has been done to it."""

    name: str
    kind: str
    arguments: dict[str, Any]
    ending: tuple[str, str | None] = ("completed", None)
    output: bytes | None = None
    """The whole of its standard output; None where it is not foretold."""

    attempts: int = 1
    """How many attempts it takes when nobody disturbs it."""

    cancel_after: float | None = None
    """Seconds after it was acknowledged."""

    retry: bool = False
    """Whether its user tries it again by hand when it has failed."""

    stubborn: bool = True
    """Whether its user asks again where no answer came."""

    acknowledged: bool = False
    cancel_sent: bool = False
    retried: int = 0
    seen: list[str] = field(default_factory=list[str])
    """The ends that its user was told of."""

    @property
    def has_program(self) -> bool:
        """Whether it is our own program that runs, which keeps a ledger."""
        return self.arguments["agent"] == "shell"


class Orders:
    """Draws orders."""

    def __init__(self, seed: int, ledger: Path, *, namespaces: bool) -> None:
        self._chance = random.Random(f"orders {seed}")
        self._ledger = ledger
        self._escapes = (*ESCAPES, "cleared") if namespaces else ESCAPES
        self._count = 0
        self._kinds: tuple[tuple[int, Callable[[str], Order]], ...] = (
            (14, self._echo),
            (6, self._slow_echo),
            (4, self._failing_echo),
            (5, self._flaky_echo),
            (5, self._long_echo),
            (12, self._git),
            (14, self._program),
            (6, self._failing_program),
            (6, self._loud_program),
            (2, self._program_beyond_the_limit),
            (3, self._mute_program),
            (10, self._program_with_children),
            (4, self._program_that_takes_too_long),
            (5, self._deaf_program),
        )

    def draw(self) -> Order:
        """The next order."""
        self._count += 1
        weights = [weight for weight, _ in self._kinds]
        (make,) = self._chance.choices([make for _, make in self._kinds], weights)
        order = make(f"t{self._count:05d}")
        order.kind = make.__name__.strip("_")
        order.arguments.update(self._circumstances())
        order.stubborn = self._chance.random() < 0.8
        order.retry = self._chance.random() < 0.3
        if order.cancel_after is None and self._chance.random() < 0.07:
            order.cancel_after = self._chance.uniform(0.0, 1.5)
        return order

    def _circumstances(self) -> dict[str, Any]:
        chance = self._chance
        return {
            "priority": chance.randint(-3, 3),
            "max_attempts": chance.choice((2, 3, 3, 5, 8)),
            **({"run_after": chance.uniform(0.05, 3.0)} if chance.random() < 0.1 else {}),
        }

    def _echo(self, name: str) -> Order:
        return Order(
            name,
            "",
            {"agent": "echo", "description": f"say {name}"},
            output=f"say {name}\n".encode(),
        )

    def _slow_echo(self, name: str) -> Order:
        params = {"sleep": self._chance.uniform(0.1, 1.5), "lines": 50}
        output = _numbers(50) + f"slowly {name}\n".encode()
        return Order(name, "", {"agent": "echo", "description": f"slowly {name}", "params": params}, output=output)

    def _long_echo(self, name: str) -> Order:
        lines = self._chance.randint(2_000, 60_000)
        output = _numbers(lines) + f"long {name}\n".encode()
        params = {"lines": lines, "sleep": self._chance.choice((0.0, 0.3))}
        return Order(name, "", {"agent": "echo", "description": f"long {name}", "params": params}, output=output)

    def _failing_echo(self, name: str) -> Order:
        arguments = {"agent": "echo", "description": name, "params": {"fail": "as it was told"}}
        return Order(name, "", arguments, ("failed", "exit_code"), output=b"")

    def _flaky_echo(self, name: str) -> Order:
        """Fails once, and may be tried again."""
        arguments = {"agent": "echo", "description": f"at last {name}", "params": {"flaky": 1}}
        return Order(name, "", arguments, output=f"at last {name}\n".encode(), attempts=2)

    def _git(self, name: str) -> Order:
        command = ["git", *self._chance.choice(GIT)]
        return Order(name, "", {"agent": "git", "params": {"command": command}})

    def _program(self, name: str) -> Order:
        return self._shell(name, size=self._chance.randint(0, 5_000), seconds=self._chance.choice((0, 0.1, 0.5, 1.0)))

    def _failing_program(self, name: str) -> Order:
        return self._shell(name, size=1_000, seconds=self._chance.choice((0, 0.3)), exit_code=3)

    def _loud_program(self, name: str) -> Order:
        return self._shell(name, size=self._chance.randint(100_000, OUTPUT_LIMIT_BYTES), seconds=0.4)

    def _program_beyond_the_limit(self, name: str) -> Order:
        return self._shell(name, size=OUTPUT_LIMIT_BYTES + self._chance.randint(1, 500_000), seconds=0.2)

    def _mute_program(self, name: str) -> Order:
        return self._shell(name, size=0, seconds=0.4, mute=True)

    def _program_with_children(self, name: str) -> Order:
        """They would live for ever; nothing outlives its attempt."""
        children = self._chance.choices(self._escapes, k=self._chance.randint(1, 4))
        return self._shell(name, size=2_000, seconds=self._chance.uniform(0.0, 1.0), children=children)

    def _program_that_takes_too_long(self, name: str) -> Order:
        order = self._shell(name, size=2_000, seconds=60, children=self._chance.choices(self._escapes, k=1))
        order.arguments["timeout_seconds"] = self._chance.uniform(0.3, 1.5)
        order.ending = ("failed", "timeout")
        return order

    def _deaf_program(self, name: str) -> Order:
        """Does not hear TERM, and its user gives up on it."""
        order = self._shell(name, size=2_000, seconds=100, deaf=True, children=self._chance.choices(self._escapes, k=2))
        order.cancel_after = self._chance.uniform(0.0, 1.5)
        order.ending = ("cancelled", "cancelled_by_user")
        return order

    def _shell(
        self,
        name: str,
        *,
        size: int,
        seconds: float,
        exit_code: int = 0,
        mute: bool = False,
        deaf: bool = False,
        children: list[str] | None = None,
    ) -> Order:
        lane = self._chance.choice(("lane-a", "lane-b")) if seconds < 1 and self._chance.random() < 0.15 else None
        plan = {
            "name": name,
            "ledger": str(self._ledger),
            "bytes": size,
            "seconds": seconds,
            "exit": exit_code,
            "mute": mute,
            "deaf": deaf,
            "children": children or [],
            "lane": lane,
        }
        command = [sys.executable, "-I", "-S", str(PROGRAM), json.dumps(plan)]
        arguments: dict[str, Any] = {"agent": "shell", "params": {"command": command}, "lane": lane}
        ending = ("failed", "exit_code") if exit_code else ("completed", None)
        return Order(name, "", arguments, ending, output=foretold(name, size))


def _numbers(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(1, count + 1))
