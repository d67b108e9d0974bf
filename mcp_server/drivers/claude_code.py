"""Claude Code: `claude -p`, in stream-json both ways.

Every use of a tool is put to us by a PreToolUse hook of the Agent SDK's protocol, which needs no process of its own,
and `permissions.decide` answers. Where the user must be asked, the answer is `defer`: the process ends, and when it is
resumed later, that very call comes first, and is let through by its fingerprint. Where Claude Code does not defer,
`can_use_tool` asks: then the turn is interrupted, and the agent is told on resume to do it again.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp_server.drivers import claude_tools
from mcp_server.drivers.claude_ends import ended, is_lost, not_signed_in, quota, without_result
from mcp_server.drivers.claude_events import Event, Usage, items, object_of, parsed, text_of
from mcp_server.drivers.claude_start import GO_ON, Start, afresh, arguments, environment, make_state_folder, start_of
from mcp_server.drivers.job import Decision, Job
from mcp_server.drivers.permissions import decide
from mcp_server.drivers.process import AgentProcess, agent_process
from mcp_server.drivers.prompts import let_through
from mcp_server.drivers.records import Ask, End, Records
from mcp_server.drivers.sandbox import wrapped
from mcp_server.fingerprint import fingerprint

EXIT_SECONDS = 20.0
"""After its result: for what it still has to write down."""

LONG_WAIT_SECONDS = 90.0
"""A limit that lasts longer is not waited for by a process."""

REFUSED_TRIES = 2
"""So often a login may be refused: the first time it may only have to be renewed."""

SPOKEN_LINE_CHARACTERS = 4000

_ONE_AT_A_TIME = "The user is being asked about another use of a tool first. Do this one later."
_NOT_BY_HELPERS = "The user must be asked for this, and a sub-agent cannot ask. Report that the main agent is to do it."


async def drive(job: Job, place: Path, records: Records) -> End:
    """See `host.Driver`. A conversation that Claude Code has lost is begun anew, with what was said in it."""
    place = Path(os.path.realpath(place))
    start = start_of(job)
    end = await _run(job, place, records, start)
    if end is None:
        records.line(f"{job.title} does not find its conversation again; a new one begins")
        end = await _run(job, place, records, afresh(job))
    return end or End(outcome="failed", text=f"{job.title} finds no conversation.", reason="agent_error")


async def _run(job: Job, place: Path, records: Records, start: Start) -> End | None:
    """One process, from start to end. None: it does not know the conversation."""
    records.state(session=start.session)
    make_state_folder(job.env)
    argv = wrapped(arguments(job, place, start), job, place)
    async with agent_process(argv, place, environment(job, start)) as process:
        turn = _Turn(job, place, records, process, start)
        greeting = asyncio.create_task(turn.greet())
        try:
            await turn.follow()
        finally:
            greeting.cancel()
            await asyncio.wait([greeting])
        return turn.end()


class _Turn:
    """What the process says, and what we answer."""

    def __init__(self, job: Job, place: Path, records: Records, process: AgentProcess, start: Start) -> None:
        self._job = job
        self._place = place
        self._records = records
        self._process = process
        self._start = start
        self._usage = Usage(job.state.get("cost_usd"))
        self._uses: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._refused: set[str] = set()
        self._begun = False
        self._known = False
        self._ask: Ask | None = None
        self._asked_id = ""
        self._wish = ""
        self._told = ""
        self._limit_until: float | None = None
        self._result: Event | None = None
        self._given_up: End | None = None
        self._unread = 0

    async def greet(self) -> None:
        """Say who we are, and what is to be done. Beside reading: neither side may wait for the other to read."""
        hooks = {"PreToolUse": [{"matcher": None, "hookCallbackIds": ["tools"]}]}
        await self._send(
            {
                "type": "control_request",
                "request_id": "initialize",
                "request": {"subtype": "initialize", "hooks": hooks},
            }
        )
        if self._start.prompt is not None:
            await self._prompt(self._start.prompt)

    async def follow(self) -> None:
        """Until it ends, or there is nothing to wait for."""
        try:
            async with asyncio.timeout(None) as waiting:
                async for line in self._process.lines():
                    await self._take(line)
                    if self._given_up is not None:
                        return
                    if self._result is not None and waiting.when() is None:
                        self._process.close_stdin()
                        waiting.reschedule(asyncio.get_running_loop().time() + EXIT_SECONDS)
                await self._process.wait()
        except TimeoutError:
            self._records.line(f"{self._job.title} has answered but does not end; it is stopped")

    async def _take(self, line: bytes) -> None:
        event = parsed(line)
        if event is None:
            self._unread += 1
        else:
            await self._handle(event)

    async def _handle(self, event: Event) -> None:
        match event["type"]:
            case "control_request":
                await self._answer(event)
            case "control_response":
                await self._greeted()
            case "command_lifecycle":
                self._begun = True
            case "assistant":
                self._said(event)
            case "user":
                self._came_back(event)
            case "rate_limit_event":
                limit = object_of(event.get("rate_limit_info"))
                if limit.get("status") == "rejected" and isinstance(until := limit.get("resetsAt"), int | float):
                    self._limit_until = float(until)
            case "system":
                self._system(event)
            case "result":
                self._ended(event)
            case _:
                pass

    async def _greeted(self) -> None:
        """It has read our greeting. If it was to go on by itself and does not, it has done that call already."""
        if self._start.prompt is None and not self._begun:
            await self._prompt(GO_ON)

    async def _answer(self, event: Event) -> None:
        request = object_of(event.get("request"))
        response: dict[str, Any] = {"subtype": "success", "request_id": event.get("request_id")}
        match request.get("subtype"):
            case "hook_callback":
                self._begun = True
                response["response"] = self._hook(object_of(request.get("input")))
            case "can_use_tool":
                self._begun = True
                response["response"] = self._permission(request)
            case unknown:
                response |= {"subtype": "error", "error": f"{unknown} is not known here"}
        await self._send({"type": "control_response", "response": response})

    def _hook(self, given: Event) -> dict[str, Any]:
        tool, use_id = text_of(given.get("tool_name")), text_of(given.get("tool_use_id"))
        own = Path(text_of(given.get("transcript_path"))).with_suffix("") if given.get("transcript_path") else None
        cwd = text_of(given.get("cwd")) or str(self._place)
        decision, why = self._decide(
            tool, object_of(given.get("tool_input")), use_id, cwd, own, bool(given.get("agent_id"))
        )
        answer = {"hookEventName": "PreToolUse", "permissionDecision": "defer" if decision == "ask" else decision}
        if decision == "ask" and self._ask is not None:
            self._remember(self._ask, deferred=True)
        return {"hookSpecificOutput": answer | ({"permissionDecisionReason": why} if why else {})}

    def _permission(self, request: Event) -> dict[str, Any]:
        tool, use_id = text_of(request.get("tool_name")), text_of(request.get("tool_use_id"))
        given, helper = object_of(request.get("input")), bool(request.get("agent_id"))
        decision, why = self._decide(tool, given, use_id, str(self._place), None, helper)
        if decision == "allow":
            return {"behavior": "allow", "updatedInput": dict(given)}
        if decision == "ask" and self._ask is not None:
            self._remember(self._ask, deferred=False)
        return {"behavior": "deny", "message": why or "The user is asked first.", "interrupt": decision == "ask"}

    def _decide(
        self, tool: str, given: Event, use_id: str, cwd: str, own: Path | None, helper: bool
    ) -> tuple[Decision, str]:
        """What holds for this use of a tool, and for a refusal, why. For `ask`, `self._ask` is what is asked."""
        asked = claude_tools.tool_request(tool, given, cwd, own)
        decision = decide(self._job, asked, self._place)
        if decision != "allow":
            self._refused.add(use_id)
        if decision == "deny":
            why = f"The profile {self._job.profile} or a rule of the user's does not allow it."
            self._records.denied(tool, given, why)
            return "deny", why
        if decision == "allow":
            let_through(self._job, self._records, fingerprint(asked.action(self._job)))
            if use_id not in self._uses:
                self._uses[use_id] = (tool, given)
                self._tell("")
                doing = claude_tools.doing(tool, given, self._place)
                self._records.progress(doing)
                if tool not in claude_tools.HARMLESS:
                    self._records.began(use_id, doing)
            return "allow", ""
        if helper:
            return "deny", _NOT_BY_HELPERS
        if self._ask is not None and use_id != self._asked_id:
            return "deny", _ONE_AT_A_TIME
        self._wish, self._asked_id = claude_tools.wish(tool, given, self._place), use_id
        say = f"{self._job.title} wants to {self._wish}."
        self._ask = Ask("tool", asked.action(self._job), say, claude_tools.diff(tool, given))
        return "ask", ""

    def _remember(self, ask: Ask, *, deferred: bool) -> None:
        asked = {"hash": fingerprint(ask.action), "about": ask.about, "what": self._wish, "deferred": deferred}
        self._records.state(asked=asked)

    def _said(self, event: Event) -> None:
        message = object_of(event.get("message"))
        if message.get("model") != "<synthetic>" and self._usage.took(message):
            self._records.usage(**self._usage.counts())
            if event.get("parent_tool_use_id") is None:
                self._records.ended()  # the model goes on once it has what its tools found
        if not self._known:  # from here on the conversation is on the agent's disk, and knows the task
            self._known = True
            self._records.state(task=self._job.task_id)
        for block in items(message.get("content")):
            if block.get("type") == "text" and event.get("parent_tool_use_id") is None:
                self._tell(text_of(block.get("text")))

    def _tell(self, text: str) -> None:
        """Show people what was said before this: the last that is said is the answer, which is shown in the end."""
        if self._told:
            self._records.line(self._told[:SPOKEN_LINE_CHARACTERS])
        self._told = text

    def _came_back(self, event: Event) -> None:
        for block in items(object_of(event.get("message")).get("content")):
            use_id = text_of(block.get("tool_use_id"))
            self._records.ended(use_id)
            use = self._uses.pop(use_id, None)
            if block.get("type") == "tool_result" and use is not None:
                output = "\n".join(text_of(part.get("text")) for part in items(block.get("content")))
                failed = block.get("is_error") is True
                self._records.progress(claude_tools.done(*use, text_of(block.get("content")) or output, failed))

    def _system(self, event: Event) -> None:
        match event.get("subtype"):
            case "init":
                self._usage.model = text_of(event.get("model")) or None
                if version := text_of(event.get("claude_code_version")):
                    self._records.agent(version)
                session = text_of(event.get("session_id"))
                if session and session != self._start.session:
                    self._records.state(session=session)
            case "api_retry":
                self._retry(event)
            case _:
                pass

    def _retry(self, event: Event) -> None:
        """It tries again by itself, which is not waited for where it is no use."""
        status, tries = event.get("error_status"), event.get("attempt")
        delay = event.get("retry_delay_ms")
        seconds = delay / 1000 if isinstance(delay, int | float) else 0.0
        why = text_of(event.get("error")).replace("_", " ") or "no answer"
        if status in (401, 403) and isinstance(tries, int) and tries >= REFUSED_TRIES:
            self._given_up = not_signed_in(self._job, f"The model refuses the login ({status}, {why}).")
        elif status == 429 and seconds > LONG_WAIT_SECONDS:
            self._given_up = quota(self._job, f"The model gives no more for now ({why}).", time.time() + seconds)
        else:
            self._records.progress(f"waits for the model ({why}), try {tries} of {event.get('max_retries')}")

    def _ended(self, event: Event) -> None:
        self._result = event
        self._usage.ended(event)
        if not is_lost(event, ""):
            self._records.usage(**self._usage.counts())
        if self._usage.total_usd is not None:
            self._records.state(cost_usd=self._usage.total_usd)
        for denial in items(event.get("permission_denials")):
            use_id = text_of(denial.get("tool_use_id"))
            if use_id not in self._refused:
                self._refused.add(use_id)
                given = object_of(denial.get("tool_input"))
                self._records.denied(text_of(denial.get("tool_name")), given, "its own settings do not allow it")

    def end(self) -> End | None:
        """What it all means. None: there is no such conversation."""
        stderr = self._process.stderr.strip()
        if self._given_up is not None:
            return self._given_up
        if self._ask is not None:
            return End(outcome="asks", text=self._ask.say, say=self._ask.say, ask=self._ask)
        if self._start.resumes and is_lost(self._result or {}, stderr):
            return None
        if self._result is None:
            return without_result(self._job, self._process.returncode, stderr, self._unread, began=self._known)
        end = ended(self._job, self._result, stderr, self._limit_until)
        if end.ask is not None:
            self._remember(end.ask, deferred=False)
        return end

    async def _prompt(self, text: str) -> None:
        # A leading slash would make it a command of Claude Code's own.
        text = f"\n{text}" if text.lstrip().startswith("/") else text
        message = {"role": "user", "content": text}
        await self._send({"type": "user", "session_id": "", "parent_tool_use_id": None, "message": message})

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._process.send(json.dumps(message) + "\n")
