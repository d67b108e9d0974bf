"""Any agent that speaks the Agent Client Protocol (version 1), by the official Python client.

What the agent wants to do it asks us by `session/request_permission`, and `permissions.decide` answers. Where the user
must be asked, the turn is cancelled and the process ends: later another one loads the session, is told what was
allowed, and asks again for the same thing, which is let through by its fingerprint alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import acp
from acp import schema
from acp.client.connection import ClientSideConnection

from mcp_server.drivers import gemini_sessions
from mcp_server.drivers.acp_calls import Call
from mcp_server.drivers.job import Job
from mcp_server.drivers.permissions import decide
from mcp_server.drivers.process import LINE_LIMIT_BYTES, STDERR_KEPT_BYTES
from mcp_server.drivers.prompts import further, let_through, opening
from mcp_server.drivers.records import Ask, End, Records
from mcp_server.drivers.sandbox import wrapped
from mcp_server.drivers.trouble import trouble
from mcp_server.fingerprint import fingerprint

START_SECONDS = 120.0
"""For the agent to say who it is and to open a session; some install things at their first start."""

CANCEL_SECONDS = 10.0
"""For the agent to end a turn that the user must be asked in; then its process is ended."""

SILENCE_SECONDS = 0.5
_COMMAND = re.compile(r"[\s\ufeff]*[/$]")
"""How a prompt begins that agents take for a command of their own, which they do without asking."""

HTTP_ERRORS = (400, 599)
"""Codes of errors that are their model's, passed on."""

_NO_SESSION = {
    "cancelled": "It was cancelled.",
    "refusal": "It refuses to do this.",
    "max_tokens": "It ran out of room.",
}


async def drive(job: Job, place: Path, records: Records) -> End:
    """See `host.Driver`. `gemini` in `job.options`: it is the Gemini CLI, whose stored sessions need care."""
    known: Any = job.state.get("session")
    if job.options.get("gemini") and isinstance(known, str):
        await gemini_sessions.prepare(known, job, records)  # before it starts, since it cleans up then
    argv = wrapped([*job.program, *job.arguments], job, place)
    turn = _Turn(job, place, records)
    stderr = bytearray()
    spawned = acp.spawn_agent_process(
        cast(acp.Client, turn), argv[0], *argv[1:], env=job.env, cwd=place, transport_kwargs={"limit": LINE_LIMIT_BYTES}
    )
    async with spawned as (agent, process):
        assert process.stderr is not None
        keeping = asyncio.create_task(_keep(process.stderr, stderr))
        dying = asyncio.create_task(process.wait())
        working = asyncio.create_task(turn.work(agent))
        try:
            await asyncio.wait([working, dying], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():  # an answer that was written before its end may still be on the way
                await asyncio.wait([working], timeout=1)
            if not working.done():
                return _died(job, await dying, stderr)
            return working.result()
        except acp.RequestError as error:
            return trouble(job.title, _detail(error))
        except ConnectionError:
            return _died(job, await dying, stderr)
        except TimeoutError:
            text = f"{job.title} did not open a session within {START_SECONDS:g} seconds.\n{_text(stderr)}".strip()
            return End(outcome="failed", text=text, reason="no_answer", may_pass=True)
        finally:
            for task in (working, dying, keeping):
                task.cancel()
            await asyncio.wait([working, dying, keeping])


class _Turn:
    """One prompt and its answer, and the client's side of the protocol meanwhile."""

    def __init__(self, job: Job, place: Path, records: Records) -> None:
        self._job = job
        self._place = place
        self._records = records
        self._agent: ClientSideConnection | None = None
        self._session = ""
        self._live = False
        self._heard_at = 0.0
        self._answer: list[str] = []
        self._calls: dict[str, Call] = {}
        self._ask: Ask | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._asking = asyncio.Event()
        self._cost: float | None = None

    async def work(self, agent: ClientSideConnection) -> End:
        """Open or load the session, send the prompt, wait for its end."""
        self._agent = agent
        async with asyncio.timeout(START_SECONDS):
            prompt = await self._open(agent)
        self._records.state(session=self._session, task=self._job.task_id)
        self._live = True
        answer = await self._answered(agent, prompt)
        if answer is not None:
            self._count(answer)
        return self._ended(answer.stop_reason if answer is not None else "cancelled")

    async def _answered(self, agent: ClientSideConnection, prompt: str) -> schema.PromptResponse | None:
        """How the turn ended. None: it was to end for a question to the user, and did not, or not well."""
        asking = asyncio.create_task(self._asking.wait())
        turn = asyncio.create_task(agent.prompt(session_id=self._session, prompt=[acp.text_block(_as_text(prompt))]))
        try:
            await asyncio.wait([turn, asking], return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                await asyncio.wait([turn], timeout=CANCEL_SECONDS)
            if self._ask is not None and (not turn.done() or turn.exception() is not None):
                return None
            return turn.result()
        finally:
            for task in (turn, asking):
                task.cancel()
            await asyncio.wait([turn, asking])

    async def _open(self, agent: ClientSideConnection) -> str:
        """Make `self._session` the conversation to go on in. Returns what to tell the agent."""
        hello = await agent.initialize(
            protocol_version=acp.PROTOCOL_VERSION,
            client_capabilities=schema.ClientCapabilities(),
            client_info=schema.Implementation(name="offhand", version="1"),
        )
        if hello.agent_info is not None:
            self._records.agent(hello.agent_info.version)
        known: Any = self._job.state.get("session")
        capable = hello.agent_capabilities is not None and hello.agent_capabilities.load_session
        if isinstance(known, str) and capable and await self._loaded(agent, known):
            return further(self._job)
        opened = await agent.new_session(cwd=str(self._place), mcp_servers=[])
        self._session = opened.session_id
        return opening(self._job)

    async def _loaded(self, agent: ClientSideConnection, known: str) -> bool:
        try:
            await agent.load_session(cwd=str(self._place), session_id=known, mcp_servers=[])
        except acp.RequestError as error:
            self._records.line(f"{self._job.title} does not find its conversation again: {_detail(error)}")
            return False
        self._session = known
        await self._silence()
        return True

    async def _silence(self) -> None:
        """Some agents go on telling the session's past after they have said that it is loaded."""
        while self._heard_at + SILENCE_SECONDS > (now := time.monotonic()):
            await asyncio.sleep(self._heard_at + SILENCE_SECONDS - now)

    # What the agent calls; the names are the protocol's.

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        """Something happened. What we do not know is none of our business."""
        self._heard_at = time.monotonic()
        if not self._live or session_id != self._session:
            return  # a session that is loaded tells its whole past
        match update:
            case schema.AgentMessageChunk(content=schema.TextContentBlock(text=text)):
                self._answer.append(text)
                self._records.ended()  # the model goes on once it has what its tools found
            case schema.ToolCallStart() | schema.ToolCallProgress():
                call = self._hear(update)
                self._tell(call)
                self._follow(update.tool_call_id, call)
            case schema.UsageUpdate(cost=cost) if cost is not None and cost.currency.upper() == "USD":
                self._cost = cost.amount
                self._watch_cost()
            case _:
                pass

    async def request_permission(
        self, session_id: str, tool_call: schema.ToolCallUpdate, options: Sequence[schema.PermissionOption], **_: Any
    ) -> schema.RequestPermissionResponse:
        """Whether the agent may do something."""
        call = self._hear(tool_call)
        request = call.request(self._place)
        decision = "deny" if self._ask else decide(self._job, request, self._place)
        if decision == "ask" and session_id == self._session:
            say = f"{self._job.title} wants to {call.wish}."
            self._stop_to_ask(Ask("tool", request.action(self._job), say, call.diff), call.wish)
        if decision == "deny" and not self._ask:
            self._records.denied(request.tool, request.input, f"the profile {self._job.profile} does not allow it")
        if decision == "allow":
            self._tell(call)
            call.allowed = True
            let_through(self._job, self._records, fingerprint(request.action(self._job)))
        self._follow(tool_call.tool_call_id, call)
        wanted = "allow_once" if decision == "allow" else "reject_once"
        chosen = next((option for option in options if option.kind == wanted), None)
        if chosen is None or self._ask:
            return schema.RequestPermissionResponse(outcome=schema.DeniedOutcome(outcome="cancelled"))
        return schema.RequestPermissionResponse(
            outcome=schema.AllowedOutcome(outcome="selected", option_id=chosen.option_id)
        )

    async def ext_method(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """We know no extensions."""
        raise acp.RequestError.method_not_found(method)

    async def ext_notification(self, method: str, params: dict[str, Any]) -> None:
        """Nor do we need to know."""

    def on_connect(self, conn: Any) -> None:
        """The connection is given to `work`."""

    def _hear(self, update: schema.ToolCallStart | schema.ToolCallProgress | schema.ToolCallUpdate) -> Call:
        """Put together what is known of a use of a tool."""
        call = self._calls.get(update.tool_call_id)
        if call is None:
            call = self._calls[update.tool_call_id] = Call()
            self._answer.clear()  # the answer is what is said after the last tool
            self._check_turns()
        call.take(update)
        return call

    def _tell(self, call: Call) -> None:
        if call.telling and call.telling != call.told:
            call.told = call.telling
            self._records.progress(call.telling)

    def _follow(self, use: str, call: Call) -> None:
        """Whether it is at work now. A helper waits for the model itself."""
        if call.works and call.kind != "think":
            self._records.began(use, call.telling)
        else:
            self._records.ended(use)

    def _check_turns(self) -> None:
        limit = self._job.max_turns
        if limit is not None and len(self._calls) > limit and not self._ask:
            self._spent(f"{limit} steps", {"max_turns": limit})

    def _watch_cost(self) -> None:
        limit, spent = self._job.max_cost_usd, self._spent_usd()
        if limit is not None and spent is not None and spent > limit and not self._ask:
            self._spent(f"{spent:.2f} of {limit:.2f} dollars", {"max_cost_usd": limit})

    def _spent(self, what: str, budget: Mapping[str, Any]) -> None:
        action = {"agent": self._job.agent, "task": self._job.task_id, "budget": dict(budget), "spent": what}
        say = f"{self._job.title} has used {what}. Shall it go on for as much again?"
        self._stop_to_ask(Ask("budget", action, say), "to go on")

    def _stop_to_ask(self, ask: Ask, what: str) -> None:
        self._ask = ask
        self._records.state(asked={"hash": fingerprint(ask.action), "about": ask.about, "what": what})
        self._cancelling = asyncio.create_task(self._cancel())  # held: the event loop alone would forget it
        self._asking.set()

    async def _cancel(self) -> None:
        assert self._agent is not None
        with contextlib.suppress(acp.RequestError, ConnectionError):
            await self._agent.cancel(session_id=self._session)

    def _count(self, answer: schema.PromptResponse) -> None:
        meta: Any = (answer.field_meta or {}).get("quota")
        usage = answer.usage
        if usage is not None:
            self._records.usage(
                turns=len(self._calls) + 1,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cost_usd=self._spent_usd(),
            )
        elif isinstance(meta, dict):
            self._records.usage(**_gemini_usage(cast(dict[str, Any], meta)), turns=len(self._calls) + 1)
        else:
            self._records.usage(turns=len(self._calls) + 1, cost_usd=self._spent_usd())
        if self._cost is not None:
            self._records.state(cost_usd=self._cost)

    def _spent_usd(self) -> float | None:
        """Of this attempt: what agents tell is of the whole session."""
        if self._cost is None:
            return None
        state = self._job.state
        before = float(state.get("cost_usd", 0.0)) if self._session == state.get("session") else 0.0
        return max(0.0, self._cost - before)

    def _ended(self, stop_reason: str) -> End:
        if self._ask is not None:
            return End(outcome="asks", text=self._ask.say, say=self._ask.say, ask=self._ask)
        text = "".join(self._answer).strip()
        if stop_reason == "end_turn":
            return End(outcome="completed", text=text)
        if stop_reason == "max_turn_requests":
            return End(outcome="failed", text=text or "It took more steps than it allows itself.", reason="max_turns")
        return End(outcome="failed", text=text or _NO_SESSION.get(stop_reason, stop_reason), reason=stop_reason)


def _as_text(prompt: str) -> str:
    return f"The task: {prompt}" if _COMMAND.match(prompt) else prompt


def _gemini_usage(quota: Mapping[str, Any]) -> dict[str, Any]:
    count = cast(dict[str, int], quota.get("token_count") or {})
    models = cast(list[dict[str, Any]], quota.get("model_usage") or [])
    return {
        "model": models[0].get("model") if models else None,
        "input_tokens": count.get("input_tokens"),
        "output_tokens": count.get("output_tokens"),
    }


def _detail(error: acp.RequestError) -> str:
    data: Any = error.data
    detail: Any = data
    if isinstance(data, dict):
        known = cast(dict[str, Any], data)
        detail = known.get("details") or known.get("message")
    said = f"{error}: {detail}" if detail else str(error)
    return f"{said} (HTTP {error.code})" if HTTP_ERRORS[0] <= error.code <= HTTP_ERRORS[1] else said


def _died(job: Job, returncode: int, stderr: bytearray) -> End:
    last = _text(stderr)
    text = f"{job.title} ended (exit code {returncode}) without an answer.\n{last}".strip()
    found = trouble(job.title, last)
    if found.reason in ("not_signed_in", "quota"):
        return found
    return End(outcome="failed", text=text, reason="agent_ended", may_pass=True)


def _text(stderr: bytearray) -> str:
    return stderr.decode(errors="replace").strip()


async def _keep(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while chunk := await stream.read(64 * 1024):
        kept += chunk
        del kept[:-STDERR_KEPT_BYTES]
