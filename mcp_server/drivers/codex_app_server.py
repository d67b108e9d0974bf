"""`codex app-server`: JSON-RPC over stdin and stdout, one message per line, in which Codex asks before it acts.

Where the user must be asked, the turn is cancelled and the process ends: later another one resumes the conversation, is
told what was allowed, and asks again for the same thing, which is let through by its fingerprint alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from mcp_server.drivers.codex_items import Item, change_request, command_request, named
from mcp_server.drivers.codex_turn import LOST, NOT_UNDERSTOOD, Turn
from mcp_server.drivers.job import Decision
from mcp_server.drivers.permissions import ToolRequest, decide
from mcp_server.drivers.process import AgentProcess, agent_process
from mcp_server.drivers.prompts import let_through
from mcp_server.drivers.records import Ask, End
from mcp_server.drivers.sandbox import wrapped
from mcp_server.fingerprint import fingerprint

Policy = Literal["untrusted", "on-request", "never"]
Message = Mapping[str, Any]

EXIT_SECONDS = 5.0
"""For it to write down the conversation, once stdin is closed."""

UNWANTED = (
    "item/agentMessage/delta",
    "item/commandExecution/outputDelta",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "item/reasoning/summaryTextDelta",
    "item/reasoning/textDelta",
    "turn/diff/updated",
)
"""Notifications of which the items tell the sum."""

NOBODY = "Nobody can answer now. Decide for yourself, and say in the end what you decided."
_INITIALIZE, _THREAD, _TURN, _INTERRUPT = range(4)
"""The ids of our requests."""

_METHOD_NOT_FOUND = -32601
_VERSION = re.compile(r"[^/ ]+/(\d\S*)")
"""In what Codex calls itself: our name, and its version."""


async def work(turn: Turn, options: Sequence[str], sandbox: str, policy: Policy) -> End:
    """Have the turn done. A conversation that Codex does not know is begun anew."""
    job = turn.job
    argv = [*job.program, "app-server", *options, *job.arguments]
    async with agent_process(wrapped(argv, job, turn.place), turn.place, job.env) as process:
        talk = _Talk(turn, process, sandbox, policy)
        await talk.begin()
        async for line in process.lines():
            if end := await talk.take(line):
                process.close_stdin()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), EXIT_SECONDS)
                return end
        await process.wait()
        return turn.paused() if turn.ask else turn.silent(process.stderr)


class _Talk:
    """Our side of the protocol."""

    def __init__(self, turn: Turn, process: AgentProcess, sandbox: str, policy: Policy) -> None:
        self._turn = turn
        self._process = process
        self._sandbox = sandbox
        self._policy = policy
        self._prompt = ""
        self._turn_id = ""
        self._changing: dict[str, Item] = {}
        """Changes of files by their id: a request to make them does not say what they are."""
        self._responses = 0
        self._acted = False
        """Whether a tool was used since the model's last response: then there will be another one."""

    async def begin(self) -> None:
        """Say who we are."""
        client = {"name": "offhand", "title": "Offhand", "version": "1"}
        capabilities = {"optOutNotificationMethods": UNWANTED}
        await self._request(_INITIALIZE, "initialize", {"clientInfo": client, "capabilities": capabilities})

    async def take(self, line: bytes) -> End | None:
        """One message. What is no JSON, or nothing that we know, is not our business. Returns the end, when it is."""
        message: Any = None
        try:
            message = json.loads(line)
            if "method" not in message:
                return await self._answered(message)
            if "id" not in message:
                return await self._notified(message["method"], message.get("params") or {})
            await self._asked(message["id"], message["method"], message.get("params") or {})
        except NOT_UNDERSTOOD:
            self._turn.records.line(line[:500].decode(errors="replace"))
            if isinstance(message, dict) and "method" in message and "id" in message:
                await self._refuse(cast(Message, message))
        return None

    async def _answered(self, message: Message) -> End | None:
        number, error = message.get("id"), message.get("error")
        if error is not None and number != _INTERRUPT:
            if number == _THREAD and self._turn.thread and LOST.search(str(error)):
                self._turn.lost(str(error))
                await self._open()
                return None
            return self._turn.failed(str(error.get("message")))
        if number == _INITIALIZE:
            if found := _VERSION.match(str(message["result"].get("userAgent"))):
                self._turn.records.agent(found[1])
            await self._send({"method": "initialized"})
            await self._open()
        elif number == _THREAD:
            opened: Message = message["result"]
            self._turn.began(opened["thread"]["id"], opened.get("model"))
            text = [{"type": "text", "text": self._prompt}]
            await self._request(_TURN, "turn/start", {"threadId": self._turn.thread, "input": text})
        return None

    async def _open(self) -> None:
        """Begin or resume the conversation.

        A new one is given no `cwd`: Codex would note it down as trusted, were it not named untrusted in the options.
        """
        self._prompt = self._turn.prompt
        # What a conversation was begun with holds when it is resumed, unless it is said anew here.
        how: dict[str, Any] = {"approvalPolicy": self._policy, "approvalsReviewer": "user", "sandbox": self._sandbox}
        if self._turn.job.model is not None:
            how["model"] = self._turn.job.model
        if self._turn.thread:
            how |= {"threadId": self._turn.thread, "excludeTurns": True, "cwd": str(self._turn.place)}
        await self._request(_THREAD, "thread/resume" if self._turn.thread else "thread/start", how)

    async def _notified(self, method: str, params: Message) -> End | None:
        match method:
            case "turn/started" if params.get("threadId") == self._turn.thread:
                self._turn_id = params["turn"]["id"]
            case "item/started" | "item/completed":
                self._item(Item.read(params["item"]), params.get("threadId") == self._turn.thread)
            case "thread/tokenUsage/updated" if params.get("turnId") == self._turn_id:
                await self._count(params["tokenUsage"]["total"])
            case "account/rateLimits/updated":
                self._turn.quota_until = _used_up_until(params["rateLimits"])
            case "error" if params.get("willRetry"):
                self._turn.records.progress("the model does not answer; trying again")
            case "turn/completed" if params["turn"]["id"] == self._turn_id:
                return self._ended(params["turn"])
            case _:
                pass
        return None

    def _ended(self, ended: Message) -> End:
        ask = self._turn.ask
        if ended["status"] == "completed" and (ask is None or ask.about == "budget"):
            return self._turn.completed()
        if ask:
            return self._turn.paused()
        error: Message = ended.get("error") or {}
        return self._turn.failed(str(error.get("message") or f"The turn was {ended['status']}."))

    def _item(self, item: Item, own: bool) -> None:
        """`own`: not of another agent that Codex has set to work."""
        if item.changes:
            self._changing[item.id] = item
        self._acted = self._acted or (own and item.uses_a_tool)
        if own or item.uses_a_tool:
            self._turn.does(item)

    async def _count(self, total: Message) -> None:
        """The model has answered once more."""
        self._responses += 1
        self._turn.used(int(total["inputTokens"]), int(total["outputTokens"]), None, self._responses)
        limit = self._turn.job.max_turns
        if limit is not None and self._responses >= limit and self._acted and not self._turn.ask:
            job = self._turn.job
            action = {"agent": job.agent, "task": job.task_id, "budget": {"max_turns": limit}}
            turns = "1 turn" if limit == 1 else f"{limit} turns"
            say = f"{job.title} has used {turns}. Shall it go on for as many again?"
            self._turn.asks(Ask("budget", action, say), "to go on")
            await self._interrupt()
        self._acted = False

    # What Codex asks us.

    async def _asked(self, number: Any, method: str, params: Message) -> None:
        place = self._turn.place.resolve()
        match method:
            case "item/commandExecution/requestApproval":
                request = command_request(params, place)
                wish = f"run {request.input['command']}" if request.kind == "command" else f"use {dict(request.input)}"
                leaving = " outside of its sandbox" if self._policy == "on-request" else ""
                await self._reply(number, {"decision": await self._decided(request, wish[:500] + leaving, None)})
            case "item/fileChange/requestApproval":
                item = self._changing.get(str(params.get("itemId")), Item.read({}))
                diff = "\n".join(change.shown for change in item.changes)
                wish = f"edit {named(item.changes, self._turn.place)}"
                await self._reply(number, {"decision": await self._decided(change_request(item, place), wish, diff)})
            case "item/permissions/requestApproval":
                wanted: Message = params.get("permissions") or {}
                request = ToolRequest("permissions", "other", {"permissions": wanted}, str(place))
                decision = await self._decided(request, f"be given {json.dumps(wanted)[:500]}", None)
                await self._reply(number, {"permissions": wanted if decision == "accept" else {}, "scope": "turn"})
            case "item/tool/requestUserInput":
                answers = {question["id"]: {"answers": [NOBODY]} for question in params.get("questions", ())}
                await self._reply(number, {"answers": answers})
            case "mcpServer/elicitation/request":
                await self._reply(number, {"action": "decline"})
            case _:
                await self._refuse({"id": number, "method": method})

    async def _decided(self, request: ToolRequest, wish: str, diff: str | None) -> str:
        """Codex's own word for the decision. `cancel` ends the turn: the user is asked, or was to be already."""
        job, records = self._turn.job, self._turn.records
        if self._turn.ask:
            return "cancel"
        decision: Decision = decide(job, request, self._turn.place.resolve())
        if decision == "allow":
            let_through(job, records, fingerprint(request.action(job)))
            return "accept"
        if decision == "deny":
            records.denied(request.tool, request.input, f"a rule, or the profile {job.profile}, does not allow it")
            return "decline"
        self._turn.asks(Ask("tool", request.action(job), f"{job.title} wants to {wish}.", diff), wish)
        await self._interrupt()
        return "cancel"

    async def _interrupt(self) -> None:
        params = {"threadId": self._turn.thread, "turnId": self._turn_id}
        await self._request(_INTERRUPT, "turn/interrupt", params)

    async def _request(self, number: int, method: str, params: Message) -> None:
        await self._send({"id": number, "method": method, "params": params})

    async def _refuse(self, asked: Message) -> None:
        error = {"code": _METHOD_NOT_FOUND, "message": f"Offhand does not understand this {asked['method']}."}
        await self._send({"id": asked["id"], "error": error})

    async def _reply(self, number: Any, result: Message) -> None:
        await self._send({"id": number, "result": result})

    async def _send(self, message: Message) -> None:
        await self._process.send(json.dumps(message) + "\n")


def _used_up_until(limits: Message) -> float | None:
    """When the last of the quotas that are used up is there again, in seconds since 1970."""
    windows: list[Message] = [limits[name] for name in ("primary", "secondary") if limits.get(name)]
    until = [window["resetsAt"] for window in windows if window["usedPercent"] >= 100 and window.get("resetsAt")]
    return float(max(until)) if until else None
