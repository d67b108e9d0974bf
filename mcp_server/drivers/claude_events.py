"""What Claude Code writes, read with care: its events change from release to release, and none must make us fall."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

Event = Mapping[str, Any]


def parsed(line: bytes) -> Event | None:
    """The event of one line, which has a `type`; None for anything else."""
    try:
        event: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    found = object_of(event)
    return found if isinstance(found.get("type"), str) else None


def object_of(value: object) -> Event:
    """An object; empty where it is none."""
    return cast(Event, value) if isinstance(value, dict) else {}


def items(value: object) -> list[Event]:
    """The objects of a list; what is no object is left out."""
    return [cast(Event, item) for item in _list(value) if isinstance(item, dict)]


def texts(value: object) -> list[str]:
    """The texts of a list; what is no text is left out."""
    return [item for item in _list(value) if isinstance(item, str)]


def text_of(value: object) -> str:
    """A text; empty where it is none."""
    return value if isinstance(value, str) else ""


class Usage:
    """What this process used. `before_usd`: what the conversation had cost before it, where that is known.

    While it works, counts are of what each answer of the model says at its beginning; its result says them exactly.
    """

    def __init__(self, before_usd: object) -> None:
        self.model: str | None = None
        self.total_usd: float | None = None
        self._before_usd = _number(before_usd) or 0.0
        self._answers: dict[str, tuple[int, int]] = {}
        self._exact: tuple[int, int] | None = None
        self._cost_usd: float | None = None

    def took(self, message: Event) -> bool:
        """Count an answer of the model; it comes in several parts. Whether it is a new one."""
        name, usage = text_of(message.get("id")), object_of(message.get("usage"))
        new = name not in self._answers
        self._answers[name] = (_input(usage, INPUT), int(_number(usage.get("output_tokens")) or 0))
        self.model = self.model or text_of(message.get("model")) or None
        return new

    def ended(self, result: Event) -> None:
        """Take what the result says: of this process alone, or else of the conversation, less what it cost before."""
        self.total_usd = _number(result.get("total_cost_usd"))
        models = [object_of(used) for used in object_of(result.get("model_usage_since_last_result")).values()]
        if models:
            given, written = self._exact or (0, 0)
            given += sum(_input(used, MODEL_INPUT) for used in models)
            written += sum(int(_number(used.get("outputTokens")) or 0) for used in models)
            self._exact = (given, written)
            self._cost_usd = (self._cost_usd or 0.0) + sum(_number(used.get("costUSD")) or 0.0 for used in models)
        elif self._exact is None and self.total_usd is not None:
            usage = object_of(result.get("usage"))
            self._exact = (_input(usage, INPUT), int(_number(usage.get("output_tokens")) or 0))
            cost = self.total_usd - self._before_usd
            self._cost_usd = cost if cost >= 0 else self.total_usd

    def counts(self) -> dict[str, Any]:
        """As `Records.usage` takes it."""
        given = sum(count for count, _ in self._answers.values())
        written = sum(count for _, count in self._answers.values())
        given, written = self._exact or (given, written)
        return {
            "model": self.model,
            "turns": len(self._answers),
            "input_tokens": given,
            "output_tokens": written,
            "cost_usd": None if self._cost_usd is None else round(self._cost_usd, 6),
        }


INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
MODEL_INPUT = ("inputTokens", "cacheCreationInputTokens", "cacheReadInputTokens")


def _input(usage: Event, names: tuple[str, ...]) -> int:
    return sum(int(_number(usage.get(name)) or 0) for name in names)


def _list(value: object) -> list[object]:
    return cast(list[object], value) if isinstance(value, list) else []


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
