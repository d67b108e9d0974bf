"""OpenAI's Responses: POST …/responses."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from tests.acceptance.models.script import Asked, Call, Replies, Reply, flat, halves

USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 107,
}


def handles(path: str) -> bool:
    """Whether a request to this path is of this protocol."""
    return path.endswith("/responses")


def asked(path: str, body: dict[str, Any]) -> Asked:
    """What the agent asks."""
    del path
    given = body.get("input", [])
    turns: list[tuple[str, str]] = []
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        kind = item.get("type", "message")
        if kind.endswith("_call_output"):
            turns.append(("tool", flat(item.get("output"))))
        elif kind.endswith("_call"):
            turns.append(("assistant", ""))
        elif kind == "message":
            turns.append((item["role"], flat(item.get("content"))))
    tools = tuple(tool.get("name") or tool["type"] for tool in body.get("tools") or [])
    return Asked(body["model"], tools, tuple(turns), body.get("instructions") or "")


def limit(reply: Reply) -> dict[str, Any]:
    """What an error says of a quota that is used up."""
    if reply.resets_at is None:
        return {}
    name = "usage_limit_reached"
    return {"type": name, "code": name, "plan_type": "plus", "resets_at": reply.resets_at}


def answer(path: str, body: dict[str, Any], reply: Reply, out: Replies) -> None:
    """Send the reply, streamed where the agent wants it so."""
    del path
    response = {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "model": body["model"],
        "status": "in_progress",
        "output": [],
    }
    items = [_call_item(call) for call in reply.calls] or [_message_item(reply.text)]
    final = response | {"status": "completed", "output": items, "usage": USAGE}
    if not body.get("stream"):
        out.json(final)
        return
    number = 0

    def event(kind: str, **fields: Any) -> None:
        nonlocal number
        out.event({"type": kind, "sequence_number": number, **fields}, kind)
        number += 1

    event("response.created", response=response)
    for index, item in enumerate(items):
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "function_call":
            added = item | {"arguments": "", "status": "in_progress"}
            event("response.output_item.added", output_index=index, item=added)
            event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            event("response.function_call_arguments.done", **place, arguments=item["arguments"])
        else:
            place |= {"content_index": 0}
            event("response.output_item.added", output_index=index, item=item | {"content": []})
            part = {"type": "output_text", "text": "", "annotations": []}
            event("response.content_part.added", **place, part=part)
            for half in halves(reply.text):
                event("response.output_text.delta", **place, delta=half)
                out.hang(reply.hang)
            event("response.output_text.done", **place, text=reply.text)
        event("response.output_item.done", output_index=index, item=item)
    event("response.completed", response=final)


def _call_item(call: Call) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{uuid.uuid4().hex}",
        "call_id": f"call_{uuid.uuid4().hex[:20]}",
        "name": call.tool,
        "arguments": json.dumps(call.input),
        "status": "completed",
    }


def _message_item(text: str) -> dict[str, Any]:
    return {
        "type": "message",
        "id": f"msg_{uuid.uuid4().hex}",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
