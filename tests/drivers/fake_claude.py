"""A Claude Code that does what the last line of its prompt says: a list of steps in JSON.

A step is a line of stdout as a string, an event as an object with `type`, or one of

    {"use": [TOOL, INPUT]}             by the hook; with "asks" by can_use_tool instead; both as Claude Code does it
    {"say": TEXT}                      an answer of the model
    {"result": {…}}                    the end, with these fields over those of a success
    {"exit": CODE, "stderr": TEXT}     the end of the process
    {"stay": true}                     it does not end when it has answered

What it was started with and told is noted down in HOME/noted.jsonl, its conversations in HOME/.claude. A prompt without
a script goes on with the one before.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HOME = Path(os.environ["HOME"])
MODEL_USAGE = {"model-1": {"inputTokens": 10, "cacheReadInputTokens": 90, "outputTokens": 7, "costUSD": 0.5}}


def note(**what: Any) -> None:
    with (HOME / "noted.jsonl").open("a") as file:
        file.write(json.dumps(what) + "\n")


def put(message: Any) -> None:
    print(message if isinstance(message, str) else json.dumps(message), flush=True)


def option(name: str) -> str | None:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


class Conversation:
    def __init__(self, id: str) -> None:
        self.id = id
        self.file = HOME / ".claude" / f"{id}.json"
        self.steps: list[Any] = []
        self.deferred: list[Any] | None = None
        self.cost = 0.0
        self.count = 0
        self.stays = False
        if self.file.exists():
            kept = json.loads(self.file.read_text())
            self.steps, self.deferred, self.cost = kept["steps"], kept["deferred"], kept["cost"]

    def keep(self) -> None:
        self.file.write_text(json.dumps({"steps": self.steps, "deferred": self.deferred, "cost": self.cost}))

    def go_on(self) -> None:
        while self.steps:
            step = self.steps.pop(0)
            self.keep()
            match step:
                case {"use": [tool, given]}:
                    self.use(tool, given, asks="asks" in step)
                case {"say": text}:
                    self.say({"type": "text", "text": text})
                    self.last = text
                case {"exit": code}:
                    print(step.get("stderr", ""), file=sys.stderr, flush=True)
                    os._exit(code)
                case {"result": fields}:
                    self.end(**fields)
                    return
                case {"stay": _}:
                    self.stays = True
                case _:
                    put(step)
        self.end()

    def use(self, tool: str, given: Any, *, asks: bool = False, again: bool = False) -> None:
        self.count += 1
        use_id = f"toolu_{self.count}"
        if not again:
            self.say({"type": "tool_use", "id": use_id, "name": tool, "input": given})
        wish = {"tool_name": tool, "tool_input": given, "input": given, "tool_use_id": use_id}
        if asks:
            answer = request({"subtype": "can_use_tool", **wish})
            decision = answer["behavior"]
            if answer.get("interrupt"):
                self.end(subtype="error_during_execution", is_error=True)
                sys.exit(1)
        else:
            place = {"cwd": os.getcwd(), "transcript_path": str(self.file.with_suffix(".jsonl"))}
            helper = {"agent_id": "helper"} if tool == "Bash" and "by a helper" in given["command"] else {}
            asked = {"subtype": "hook_callback", "callback_id": "tools", "input": {**wish, **place, **helper}}
            answer = request(asked)["hookSpecificOutput"]
            decision = answer["permissionDecision"]
        if decision == "defer":
            self.deferred = [tool, given]
            self.end(stop_reason="tool_deferred", result="")
            sys.exit(0)
        note(used=tool, input=given, decision=decision)
        content = {"type": "tool_result", "tool_use_id": use_id, "content": "1 failed, 2 passed", "is_error": False}
        put({"type": "user", "message": {"role": "user", "content": [content]}})

    def say(self, block: Any) -> None:
        usage = {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 1}
        message = {"id": f"msg_{time.monotonic_ns()}", "model": "model-1", "content": [block], "usage": usage}
        put({"type": "assistant", "message": message, "parent_tool_use_id": None, "session_id": self.id})

    last = "done"

    def end(self, **fields: Any) -> None:
        self.cost += 0.5
        self.keep()
        result = {"type": "result", "subtype": "success", "is_error": False, "result": self.last}
        usage = {"total_cost_usd": self.cost, "model_usage_since_last_result": MODEL_USAGE, "permission_denials": []}
        put(result | usage | fields)


def receive() -> Any:
    line = sys.stdin.readline()
    if not line:
        note(stdin="closed")
        sys.exit(0)
    message = json.loads(line)
    note(told=message)
    return message


def request(content: Any) -> Any:
    put({"type": "control_request", "request_id": "r", "request": content})
    while (answer := receive())["type"] != "control_response":
        pass
    assert answer["response"]["subtype"] == "success", answer
    return answer["response"]["response"]


def main() -> None:
    known, new = option("--resume"), option("--session-id")
    conversation = Conversation(known or new or "")
    if known and not conversation.file.exists():
        text = f"No conversation found with session ID: {known}"
        print(text, file=sys.stderr)
        put({"type": "result", "subtype": "error_during_execution", "is_error": True, "errors": [text]})
        sys.exit(1)
    if conversation.deferred and "CLAUDE_CODE_DISABLE_DEFERRED_TOOL_RESUME" not in os.environ:
        put({"type": "command_lifecycle", "state": "started"})
        put({"type": "control_response", "response": {"subtype": "success", "request_id": receive()["request_id"]}})
        tool, given = conversation.deferred
        conversation.deferred = None
        conversation.use(tool, given, again=True)
        conversation.go_on()
    while message := receive():
        if message["type"] == "control_request":
            put({"type": "control_response", "response": {"subtype": "success", "request_id": message["request_id"]}})
            put({"type": "system", "subtype": "init", "model": "model-1", "session_id": conversation.id})
            continue
        last = message["message"]["content"].splitlines()[-1]
        if last.startswith("["):
            conversation.steps = json.loads(last)
        conversation.go_on()
        if conversation.stays:
            time.sleep(600)


if __name__ == "__main__":
    note(argv=sys.argv[1:], env=dict(os.environ), cwd=os.getcwd())
    main()
