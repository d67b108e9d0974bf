"""Anthropic's Messages: POST /v1/messages. Agents are pointed here by ANTHROPIC_BASE_URL."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.acceptance.models.script import Asked, Call, Replies, Reply, flat, halves

USAGE = {
    "input_tokens": 100,
    "output_tokens": 7,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}


def handles(path: str) -> bool:
    """Whether a request to this path is of this protocol."""
    return path.endswith("/messages")


def asked(path: str, body: dict[str, Any]) -> Asked:
    """What the agent asks."""
    del path
    turns: list[tuple[str, str]] = []
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        results = [block for block in blocks if block.get("type") == "tool_result"]
        if results:
            turns.append(("tool", flat(results)))
        text = flat([block for block in blocks if block.get("type") == "text"])
        if text.strip() or message["role"] == "assistant":
            turns.append((message["role"], text))
    tools = tuple(tool["name"] for tool in body.get("tools") or [])
    return Asked(body["model"], tools, tuple(turns), flat(body.get("system")))


def answer(path: str, body: dict[str, Any], reply: Reply, out: Replies) -> None:
    """Send the reply, streamed where the agent wants it so."""
    del path
    message = {
        "id": f"msg_{uuid.uuid4().hex[:20]}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "stop_sequence": None,
    }
    blocks = [_call_block(call) for call in reply.calls] or [{"type": "text", "text": reply.text}]
    stop = "tool_use" if reply.calls else "end_turn"
    if not body.get("stream"):
        out.json(message | {"content": blocks, "stop_reason": stop, "usage": USAGE})
        return
    started = message | {"content": [], "stop_reason": None, "usage": USAGE | {"output_tokens": 1}}
    out.event({"type": "message_start", "message": started}, "message_start")
    for index, block in enumerate(blocks):
        _block(index, block, reply, out)
    delta = {"stop_reason": stop, "stop_sequence": None}
    out.event({"type": "message_delta", "delta": delta, "usage": USAGE}, "message_delta")
    out.event({"type": "message_stop"}, "message_stop")


def _block(index: int, block: dict[str, Any], reply: Reply, out: Replies) -> None:
    empty = {"input": {}} if block["type"] == "tool_use" else {"text": ""}
    start = {"type": "content_block_start", "index": index, "content_block": block | empty}
    out.event(start, "content_block_start")
    if block["type"] == "tool_use":
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    else:
        deltas = [{"type": "text_delta", "text": part} for part in halves(block["text"])]
    for delta in deltas:
        out.event({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")
        out.hang(reply.hang)
    out.event({"type": "content_block_stop", "index": index}, "content_block_stop")


def _call_block(call: Call) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": call.tool, "input": call.input}
