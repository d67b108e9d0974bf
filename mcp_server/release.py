"""The version that is running."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """As installed; 0.0.0 where the checkout is run without an installation."""
    try:
        return version("offhand")
    except PackageNotFoundError:
        return "0.0.0"
