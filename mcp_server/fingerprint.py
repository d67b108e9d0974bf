"""One name for one content: what was approved is recognised by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 in hexadecimal of a JSON object, the same for every order of its keys."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
