"""Google's generateContent: POST /v1beta/models/M:streamGenerateContent. Pointed here by GOOGLE_GEMINI_BASE_URL."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.acceptance.models.script import Asked, Call, Replies, Reply, flat, halves

USAGE = {"promptTokenCount": 100, "candidatesTokenCount": 7, "totalTokenCount": 107}
SIDE_ANSWER = {
    "reasoning": "scripted",
    "model_choice": "flash",
    "next_speaker": "user",
    "complexity_reasoning": "scripted",
    "complexity_score": 1,
}
"""For its router and its classifier, which want JSON."""


def handles(path: str) -> bool:
    """Whether a request to this path is of this protocol."""
    return "enerateContent" in path


def asked(path: str, body: dict[str, Any]) -> Asked:
    """What the agent asks."""
    turns: list[tuple[str, str]] = []
    for content in body.get("contents", []):
        parts = content.get("parts", [])
        if any("functionResponse" in part for part in parts):
            turns.append(("tool", json.dumps(parts)))
        else:
            turns.append(("assistant" if content.get("role") == "model" else "user", flat(parts)))
    declared = [item for tool in body.get("tools") or [] for item in tool.get("functionDeclarations", [])]
    return Asked(_model(path), tuple(item["name"] for item in declared), tuple(turns))


def answer(path: str, body: dict[str, Any], reply: Reply, out: Replies) -> None:
    """Send the reply, streamed where the agent wants it so."""
    text = reply.text
    if (body.get("generationConfig") or {}).get("responseMimeType") == "application/json":
        text = json.dumps(SIDE_ANSWER)
    calls = [_call_part(call) for call in reply.calls]
    if "stream" not in path:
        out.json(_chunk(path, calls or [{"text": text}], "STOP"))
    elif calls:
        out.event(_chunk(path, calls, "STOP"))
    else:
        first, second = halves(text)
        out.event(_chunk(path, [{"text": first}]))
        out.hang(reply.hang)
        out.event(_chunk(path, [{"text": second}], "STOP"))


def _chunk(path: str, parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": USAGE,
        "modelVersion": _model(path),
        "responseId": uuid.uuid4().hex,
    }


def _call_part(call: Call) -> dict[str, Any]:
    return {"functionCall": {"name": call.tool, "args": call.input}}


def _model(path: str) -> str:
    return path.rpartition("/")[2].partition(":")[0]
