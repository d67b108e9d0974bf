"""Any command that prints an answer: its arguments are a template, its output text or JSON.

`job.options` has `args` and `continue_args` (templates, the latter None where it keeps no conversation), `output`
(`text`, `json` or `jsonl`) and `fields` (where in the JSON something stands, as `settings.OutputFields` has it).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mcp_server.drivers.job import Job
from mcp_server.drivers.process import AgentProcess, agent_process
from mcp_server.drivers.prompts import further
from mcp_server.drivers.records import TEXT_LIMIT_BYTES, End, Records
from mcp_server.drivers.sandbox import wrapped
from mcp_server.drivers.trouble import trouble

PLACEHOLDERS = ("prompt", "cwd", "model", "conversation", "profile", "task_id", "task_number")
JSON_LIMIT_BYTES = 64 * 1024 * 1024
SHOWN_CHARACTERS = 2000

_PART = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}|[{}]")
_USAGE = ("turns", "input_tokens", "output_tokens", "cost_usd")


async def drive(job: Job, place: Path, records: Records) -> End:
    """See `host.Driver`."""
    templates: Sequence[str] = job.options["args"]
    prompt = job.prompt
    if _goes_on(job):
        templates = job.options["continue_args"]
        prompt = further(job)
    values = {
        "prompt": prompt,
        "cwd": str(place),
        "model": job.model or "",
        "conversation": str(job.state.get("session", "")),
        "profile": job.profile,
        "task_id": job.task_id,
        "task_number": str(job.task_number),
    }
    argv = [*job.program, *(filled(template, values) for template in templates)]
    on_stdin = not any("prompt" in names_in(template) for template in templates)
    records.state(task=job.task_id)
    async with agent_process(wrapped(argv, job, place), place, job.env) as agent:
        telling = asyncio.create_task(_tell(agent, prompt if on_stdin else ""))
        try:
            read = _read_text if job.options["output"] == "text" else _read_json
            said = await read(job, agent, records)
            code = await agent.wait()
        finally:
            telling.cancel()
            await asyncio.wait([telling])
        return _end(job, said, code, agent.stderr)


def names_in(template: str) -> list[str]:
    """The placeholders of a template.

    Raises:
        ValueError: a brace stands alone; the message says where.
    """
    names: list[str] = []
    for part in _PART.finditer(template):
        if part.group() in "{}":
            raise ValueError(f"{part.group()!r} at position {part.start()} belongs to no placeholder")
        if part.group(1):
            names.append(part.group(1))
    return names


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with its values. One that would make the argument look like an option gets a space before it."""

    def fill(part: re.Match[str]) -> str:
        if not part.group(1):
            return part.group()[:1]
        value = values[part.group(1)]
        return f" {value}" if part.start() == 0 and value.startswith("-") else value

    return _PART.sub(fill, template)


def find(content: object, path: str) -> Any:
    """What stands there, or None: `choices.0.text` goes into an object, a list, an object."""
    for key in path.split("."):
        if isinstance(content, dict):
            content = cast("dict[str, Any]", content).get(key)
        elif isinstance(content, list) and key.isdecimal() and int(key) < len(cast("list[Any]", content)):
            content = cast("list[Any]", content)[int(key)]
        else:
            return None
    return content


class _Said:
    """What is known of the output: its last part as text, and the values of the fields, the latest of each."""

    def __init__(self, fields: Mapping[str, str | None]) -> None:
        self.text = bytearray()
        self.values: dict[str, Any] = {}
        self.is_json = False
        self._paths = {name: path.partition("=")[0] for name, path in fields.items() if path}

    def keep(self, data: bytes) -> None:
        """The end of it is what counts."""
        self.text += data
        del self.text[:-TEXT_LIMIT_BYTES]

    def take(self, content: object, records: Records) -> None:
        """What a JSON value says; the agent's conversation and its use of tokens are recorded."""
        self.is_json = True
        found = {name: find(content, path) for name, path in self._paths.items()}
        found = {name: value for name, value in found.items() if value is not None}
        self.values |= found
        if isinstance(found.get("progress"), str):
            records.progress(found["progress"])
        if isinstance(found.get("conversation"), str | int):
            records.state(session=str(found["conversation"]))
        if any(name in found for name in ("model", *_USAGE)):
            model = self.values.get("model")
            counts = {name: value for name in _USAGE if _is_count(value := self.values.get(name))}
            records.usage(model=model if isinstance(model, str) else None, **counts)


def _goes_on(job: Job) -> bool:
    if job.options["continue_args"] is None:
        return False
    return "session" in job.state if job.options["fields"].get("conversation") else "task" in job.state


async def _tell(agent: AgentProcess, prompt: str) -> None:
    if prompt:
        await agent.send(prompt)
    agent.close_stdin()


async def _read_text(job: Job, agent: AgentProcess, records: Records) -> _Said:
    said = _Said({})
    async for chunk in agent.chunks():
        said.keep(chunk)
        records.line(chunk.decode(errors="replace").rstrip("\n"))
    return said


async def _read_json(job: Job, agent: AgentProcess, records: Records) -> _Said:
    said = _Said(job.options["fields"])
    values = _lines(agent, said) if job.options["output"] == "jsonl" else _whole(agent, said)
    async for data in values:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            records.line(f"no JSON: {data[:SHOWN_CHARACTERS].decode(errors='replace')}")
            continue
        said.take(content, records)
        if "progress" not in said.values:
            records.line(data[:SHOWN_CHARACTERS].decode(errors="replace"))
    return said


async def _lines(agent: AgentProcess, said: _Said) -> AsyncIterator[bytes]:
    async for line in agent.lines():
        said.keep(line + b"\n")
        yield line


async def _whole(agent: AgentProcess, said: _Said) -> AsyncIterator[bytes]:
    whole = bytearray()
    async for chunk in agent.chunks():
        said.keep(chunk)
        if len(whole) <= JSON_LIMIT_BYTES:
            whole += chunk
    yield bytes(whole)


def _end(job: Job, said: _Said, code: int, stderr: str) -> End:
    """The fields decide where there are any; else the exit code can only say that it failed."""
    printed = said.text.decode(errors="replace").strip()
    fields = job.options["fields"]
    error = said.values.get("error")
    if error:
        return trouble(job.title, _text(error) if error is not True else _answer(said) or stderr.strip() or printed)
    if job.options["output"] != "text" and not said.is_json:
        text = f"{job.title} printed no JSON.\n{stderr.strip() or printed}".strip()
        return End(outcome="failed", text=text, reason="no_result", may_pass=code != 0)
    answer = _answer(said) if fields.get("answer") else printed
    if fields.get("success"):
        if "success" not in said.values:
            text = f"{job.title} ended without saying whether it succeeded.\n{answer or stderr.strip()}".strip()
            return End(outcome="failed", text=text, reason="no_result", may_pass=True)
        if _is_success(said.values["success"], fields["success"]):
            return End(outcome="completed", text=answer)
        return End(outcome="failed", text=answer or stderr.strip() or printed, reason="agent_error")
    if code:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        text = f"{job.title} {how}.\n{stderr.strip() or printed}".strip()
        return End(outcome="failed", text=text, reason="exit_code", verified=False)
    return End(outcome="completed", text=answer, verified=False)


def _answer(said: _Said) -> str:
    return _text(said.values.get("answer"))


def _text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_success(value: object, field: str) -> bool:
    _, has_value, wanted = field.partition("=")
    return _text(value) == wanted if has_value else value is True


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
