"""An agent that speaks the Agent Client Protocol, and does what the last JSON list in its prompt says.

Its sessions are files below `HOME`, so that another process can load them. Standard library alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

SESSIONS = Path(os.environ["HOME"]) / "sessions"
Json = dict[str, Any]


def send(message: Json) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def receive() -> Json:
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)


class Session:
    def __init__(self, id: str) -> None:
        self.id = id
        self.file = SESSIONS / f"{id}.json"
        self.prompts: list[str] = json.loads(self.file.read_text()) if self.file.exists() else []

    def update(self, kind: str, /, **fields: Any) -> None:
        send(
            {"method": "session/update", "params": {"sessionId": self.id, "update": {"sessionUpdate": kind, **fields}}}
        )

    def say(self, text: str) -> None:
        self.update("agent_message_chunk", content={"type": "text", "text": text})

    def allowed(self, call: Json) -> str:
        """What the client answers to a request for permission: allow, reject or cancelled."""
        options = [
            {"optionId": "always", "name": "Always", "kind": "allow_always"},
            {"optionId": "allow", "name": "Allow", "kind": "allow_once"},
            {"optionId": "reject", "name": "Reject", "kind": "reject_once"},
        ]
        params = {"sessionId": self.id, "toolCall": call, "options": options}
        send({"id": "p", "method": "session/request_permission", "params": params})
        while (answer := receive()).get("id") != "p":
            pass
        outcome = answer["result"]["outcome"]
        return outcome.get("optionId", outcome["outcome"])

    def prompt(self, text: str) -> Json:
        """Do what it says; returns the result of the prompt."""
        self.prompts.append(text)
        SESSIONS.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(self.prompts))
        scripts = [line for said in self.prompts for line in said.splitlines() if line.startswith("[[")]
        for number, (verb, *words) in enumerate(json.loads(scripts[-1])):
            call: Json = {"toolCallId": f"call-{len(self.prompts)}-{number}"}
            if verb == "first":
                if len(self.prompts) > 1:
                    continue
                verb, *words = words[0]
            match verb:
                case "say":
                    self.say(words[0])
                case "run":
                    call |= {
                        "title": "shell",
                        "kind": "execute",
                        "status": "pending",
                        "rawInput": {"command": words[0]},
                    }
                    if (answer := self.allowed(call)) == "cancelled":
                        return {"stopReason": "cancelled"}
                    if answer == "allow":
                        output = {"type": "content", "content": {"type": "text", "text": words[1]}}
                        self.update("tool_call_update", **call | {"status": "completed", "content": [output]})
                case "run_deaf":
                    call |= {"title": "shell", "kind": "execute", "rawInput": {"command": words[0]}}
                    self.allowed(call)
                    if words[1] == "error":
                        return {"error": {"code": 500, "message": "the tool was taken away"}}
                    while True:  # deaf to the cancel
                        receive()
                case "edit":
                    diff = {"type": "diff", "path": words[0], "oldText": None, "newText": words[1]}
                    call |= {"title": "edit", "kind": "edit", "status": "pending", "content": [diff]}
                    if (answer := self.allowed(call)) == "cancelled":
                        return {"stopReason": "cancelled"}
                    if answer == "allow":
                        Path(words[0]).write_text(words[1])
                        self.update("tool_call_update", **call | {"status": "completed"})
                case "work":
                    call |= {"title": words[0], "kind": words[1] if len(words) > 1 else "execute"}
                    self.update("tool_call", **call | {"status": "in_progress"})
                    if len(words) > 2:
                        Path(words[2]).read_text()
                    self.update("tool_call_update", **call | {"status": "completed"})
                case "cost":
                    self.update("usage_update", used=1, size=2, cost={"amount": words[0], "currency": "USD"})
                case "unknown":
                    self.update("something_new", what=[1, 2])
                case "print":
                    sys.stdout.write(words[0])
                    sys.stdout.flush()
                case "complain":
                    sys.stderr.write(words[0])
                    sys.stderr.flush()
                case "exit":
                    sys.exit(words[0])
                case "wait":
                    Path(words[0]).read_text()
                case "sh":
                    subprocess.run(["/bin/sh", "-c", words[0]], stdin=subprocess.DEVNULL, check=True)
                case "fail":
                    return {"error": {"code": words[0], "message": words[1]}}
                case "await_cancel":
                    while receive().get("method") != "session/cancel":
                        pass
                    return {"stopReason": "cancelled"}
                case "usage":
                    usage = {"totalTokens": 30, "inputTokens": 20, "outputTokens": 10}
                    return {"stopReason": "end_turn", "usage": usage}
                case "stop":
                    return {"stopReason": words[0]}
                case "env":
                    self.say(json.dumps(dict(os.environ)))
                case _:
                    raise AssertionError(verb)
        return {"stopReason": "end_turn"}


def main() -> None:
    if "--exit-at-once" in sys.argv:
        sys.stderr.write("no such model\n")
        sys.exit(3)
    sessions: dict[str, Session] = {}
    while True:
        message = receive()
        params = message.get("params", {})
        result: Json = {}
        match message.get("method"):
            case "initialize":
                capable = {"loadSession": "--no-load" not in sys.argv}
                result = {"result": {"protocolVersion": 1, "agentCapabilities": capable, "authMethods": []}}
                result["result"]["agentInfo"] = {"name": "tester", "version": "1.2.3"}
            case "session/new":
                session = Session(str(uuid.uuid4()))
                sessions[session.id] = session
                result = {"result": {"sessionId": session.id}}
            case "session/load":
                session = Session(params["sessionId"])
                sessions[session.id] = session
                if not session.file.exists():
                    result = {"error": {"code": -32603, "message": "Internal error", "data": {"details": "not found"}}}
                else:
                    for told in session.prompts:
                        session.update("user_message_chunk", content={"type": "text", "text": told})
                        session.say("an answer of the past")
                    result = {"result": {}}
            case "session/prompt":
                answer = sessions[params["sessionId"]].prompt(params["prompt"][0]["text"])
                result = answer if "error" in answer else {"result": answer}
            case _:
                continue
        send({"id": message["id"], **result})


main()
