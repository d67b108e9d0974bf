"""Settings under which no coding agent is installed, whatever the machine has on its PATH."""

from __future__ import annotations

import json
from typing import Any

NO_CODING_AGENTS: dict[str, Any] = {
    name: {"program": f"/nowhere/{program}"}
    for name, program in (("claude_code", "claude"), ("codex", "codex"), ("gemini", "gemini"))
}
AS_VARIABLE = {
    "OFFHAND_AGENTS": json.dumps(NO_CODING_AGENTS),
    # Without bubblewrap a phone would be asked about for its tasks, and these tests are not about that.
    "OFFHAND_POLICY": json.dumps([{"level": "phone", "agent": "claude_code", "decision": "allow"}]),
}
