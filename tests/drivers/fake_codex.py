"""A Codex that does what the last line of its prompt says: a list of steps in JSON.

A step is a line of stdout as a string, or an object: a message, or one of

    {"ask": METHOD, "params": {…}}     a request to the driver; the answer is noted down, `cancel` ends the turn
    {"usage": [INPUT, OUTPUT]}         what the conversation used so far
    {"exit": CODE, "stderr": TEXT}     the end of the process
    {"hang": true}                     nothing more

What it was started with and told is noted down in HOME/noted.jsonl. It knows the conversation "thread-1" alone; what it
is to do without a script in the prompt is what it was to do before. A turn is completed after its last step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(os.environ["HOME"])
THREAD = "thread-1"
TURN = {"threadId": THREAD, "turnId": "turn-1"}
LOST = "no rollout found for thread id"


def note(**what: Any) -> None:
    with (HOME / "noted.jsonl").open("a") as file:
        file.write(json.dumps(what) + "\n")


def put(message: Any) -> None:
    print(message if isinstance(message, str) else json.dumps(message), flush=True)


def steps(prompt: str) -> Iterator[Any]:
    note(prompt=prompt)
    last = prompt.splitlines()[-1]
    kept = HOME / "script.json"
    if last.startswith("["):
        kept.write_text(last)
    for step in json.loads(kept.read_text()):
        if isinstance(step, dict) and "hang" in step:
            time.sleep(600)
        if isinstance(step, dict) and "exit" in step:
            print(step.get("stderr", ""), file=sys.stderr, flush=True)
            os._exit(step["exit"])
        yield step


def run_exec(arguments: list[str]) -> None:
    if "resume" in arguments and THREAD not in arguments:
        print(f"Error: thread/resume failed: {LOST}", file=sys.stderr, flush=True)
        sys.exit(1)
    put({"type": "thread.started", "thread_id": THREAD})
    usage = [100, 10]
    for step in steps(sys.stdin.read()):
        if isinstance(step, dict) and "usage" in step:
            usage = step["usage"]
        else:
            put(step)
    put({"type": "turn.completed", "usage": {"input_tokens": usage[0], "output_tokens": usage[1]}})


def run_app_server() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        note(message=message)
        params = message.get("params", {})
        match message.get("method"):
            case "initialize":
                put({"id": message["id"], "result": {"userAgent": "offhand/0.169.0 (Debian 12; x86_64)"}})
            case "thread/start" | "thread/resume" if params.get("threadId", THREAD) == THREAD:
                put({"id": message["id"], "result": {"thread": {"id": THREAD}, "model": "model-1"}})
            case "thread/resume":
                put({"id": message["id"], "error": {"code": -32600, "message": LOST}})
            case "turn/start":
                put({"id": message["id"], "result": {}})
                put({"method": "turn/started", "params": {"threadId": THREAD, "turn": {"id": "turn-1"}}})
                status, error = work(params["input"][0]["text"])
                turn = {"id": "turn-1", "status": status, "error": error}
                put({"method": "turn/completed", "params": {"threadId": THREAD, "turn": turn}})
            case _:
                pass
    note(stdin="closed")


def work(prompt: str) -> tuple[str, Any]:
    for number, step in enumerate(steps(prompt)):
        if not isinstance(step, dict):
            put(step)
        elif "fail" in step:
            return "failed", {"message": step["fail"]}
        elif "usage" in step:
            total = {"inputTokens": step["usage"][0], "outputTokens": step["usage"][1]}
            put({"method": "thread/tokenUsage/updated", "params": TURN | {"tokenUsage": {"total": total}}})
        elif "ask" in step:
            put({"id": number, "method": step["ask"], "params": TURN | step["params"]})
            answer = json.loads(sys.stdin.readline())
            interrupted = answer.get("method") == "turn/interrupt"
            if interrupted:
                answer = json.loads(sys.stdin.readline())
            note(answer=answer)
            if interrupted or answer.get("result", {}).get("decision") == "cancel":
                return "interrupted", None
        elif "until interrupted" in step:
            note(message=json.loads(sys.stdin.readline()))
            return "interrupted", None
        else:
            put(step)
    return "completed", None


if __name__ == "__main__":
    note(argv=sys.argv[1:], pid=os.getpid())
    if sys.argv[1] == "exec":
        run_exec(sys.argv[2:])
    else:
        run_app_server()
