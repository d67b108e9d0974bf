"""The contract of a file format: read it, and change one place in it while everything else stays as it was written."""

from __future__ import annotations

from typing import Any, Protocol

Keys = tuple[str, ...]
"""From the top of the file to one value."""


class UnreadableError(ValueError):
    """The text is not of this format, or the place that is to be changed cannot be changed. The message says where."""


class Format(Protocol):
    """How text of one format is read and changed. Each method raises UnreadableError.

    A change works on the text: comments, order, indentation and line ends of everything else stay.
    """

    def read(self, text: str) -> dict[str, Any]:
        """What the text says. Nothing at all says nothing."""
        ...

    def set(self, text: str, keys: Keys, value: Any) -> str:
        """`text` with `value` at `keys`; what is missing on the way there is made."""
        ...

    def remove(self, text: str, keys: Keys) -> str:
        """`text` without what stands at `keys`, if anything does."""
        ...

    def show(self, keys: Keys, value: Any) -> str:
        """`value` at `keys` alone, for somebody who adds it by hand."""
        ...
