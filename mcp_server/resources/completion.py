"""`completion/complete`: ids and names for the arguments of templates and prompts, by the argument's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mcp_types import Completion, PromptReference, ResourceTemplateReference

from mcp_server.catalogue import Choices, Kind
from mcp_server.resources.contents import STREAMS
from mcp_server.resources.schemas import SCHEMAS
from mcp_server.resources.templates import TEMPLATES
from mcp_server.runtime import Runtime

PROMPT_ARGUMENTS: Mapping[str, frozenset[str]] = {
    "delegate_work": frozenset({"agent", "workspace"}),
    "recap": frozenset({"session_id"}),
}
"""Which arguments of the prompts name something that is there."""

RECORD_ARGUMENTS: Mapping[str, Kind] = {
    "session_id": "session",
    "task_id": "task",
    "memory_id": "memory",
    "artifact_id": "artifact",
}

TEXT_LIMIT_CHARACTERS = 200
"""Whoever types more wants nothing that is there."""


class Completer:
    """Knows what the arguments may become."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def complete(self, ref: ResourceTemplateReference | PromptReference, argument: str, text: str) -> Completion:
        """At most 100 values, newest first; none where the reference or the argument is unknown."""
        found = Choices([], 0)
        if _has(ref, argument) and len(text) <= TEXT_LIMIT_CHARACTERS and "\x00" not in text:
            found = await self._choices(argument, text)
        return Completion(values=found.values, total=found.total, has_more=found.has_more)

    async def _choices(self, argument: str, text: str) -> Choices:
        if argument in RECORD_ARGUMENTS:
            return await self._runtime.catalogue.complete(RECORD_ARGUMENTS[argument], text)
        match argument:
            case "agent":
                return _among([agent["name"] for agent in await self._runtime.worker.agents()], text)
            case "workspace":
                return _among(self._runtime.workspaces.names(), text)
            case "schema":
                return _among(SCHEMAS, text)
            case "stream":
                return _among(STREAMS, text)
            case _:
                return Choices([], 0)


def _has(ref: ResourceTemplateReference | PromptReference, argument: str) -> bool:
    if isinstance(ref, PromptReference):
        return argument in PROMPT_ARGUMENTS.get(ref.name, ())
    return argument in _VARIABLES.get(ref.uri, ())


def _variables(template: str) -> frozenset[str]:
    return frozenset(name for group in re.findall(r"\{\??([a-z_,]+)\}", template) for name in group.split(","))


_VARIABLES = {
    name: _variables(template.uri_template)
    for template in TEMPLATES
    for name in (template.uri_template, template.uri_template.partition("{?")[0])
}
"""By template; each also without what may be left out of it, as some clients name them."""


def _among(names: Iterable[str], text: str) -> Choices:
    found = [name for name in names if name.casefold().startswith(text.casefold())]
    return Choices(found, len(found))
