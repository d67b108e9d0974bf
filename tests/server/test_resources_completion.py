"""`completion/complete`: what an argument may become, for templates and prompts alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from mcp import Client, MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from mcp_server.callers import DESK, calling_as
from mcp_server.resources.completion import PROMPT_ARGUMENTS
from mcp_server.runtime import Runtime
from mcp_server.server import build_server
from mcp_server.settings import Settings
from tests.hosting import hosted
from tests.server.doors import Door, ask, in_memory
from tests.server.test_tools import fresh
from tests.store.house import new_task

SESSION = "session://{session_id}{?offset,length}"
TASK = "task://{task_id}{?offset,length}"
OUTPUT = "task://{task_id}/output{?stream,offset,length}"
MEMORY = "memory://{memory_id}{?offset,length}"
ARTIFACT = "artifact://{artifact_id}{?offset,length}"


@pytest.fixture
async def client(runtime: Runtime) -> AsyncGenerator[Client]:
    with calling_as(DESK):
        async with hosted(Client(build_server(runtime))) as opened:
            yield opened


async def completed(client: Client, uri: str, name: str, text: str) -> list[str]:
    """The values, of which there are no more."""
    found = (await client.complete(ResourceTemplateReference(uri=uri), {"name": name, "value": text})).completion
    assert found.has_more is False
    assert found.total == len(found.values)
    return found.values


async def test_ids_and_names_of_every_kind_are_completed(connect: Door):
    session, memory, artifact, task = fresh("ses"), fresh("mem"), fresh("art"), fresh("task")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session, title=f"Around {session[-8:]}: the lake")
        await ask(client, "store_memory", type="fact", content="x", memory_id=memory, key=f"key {memory}")
        await ask(client, "add_artifact", name=f"File {artifact}", content="x", artifact_id=artifact)
        made = await ask(client, "delegate_task", agent="echo", description="x", task_id=task)

        assert await completed(client, SESSION, "session_id", session[:-2]) == [session]
        assert await completed(client, SESSION, "session_id", session[-8:].upper()) == [session]
        assert await completed(client, "session://{session_id}/conversation", "session_id", session) == [session]
        assert await completed(client, MEMORY, "memory_id", memory[:-2]) == [memory]
        assert await completed(client, MEMORY, "memory_id", f"Key {memory[:-2]}") == [memory]
        assert await completed(client, ARTIFACT, "artifact_id", artifact[:-2]) == [artifact]
        assert await completed(client, ARTIFACT, "artifact_id", f"file {artifact[:-2]}") == [artifact]
        assert await completed(client, TASK, "task_id", task[:-2]) == [task]
        assert await completed(client, OUTPUT, "task_id", task) == [task]
        assert str(made["number"]) in await completed(client, TASK, "task_id", str(made["number"]))
        assert await completed(client, "agent://{agent}", "agent", "c") == ["claude_code", "codex"]
        assert await completed(client, "schema://{schema}", "schema", "A") == ["artifact", "agent"]
        assert await completed(client, OUTPUT, "stream", "std") == ["stdout", "stderr"]


async def test_prompt_arguments_are_completed_by_their_name(connect: Door):
    session = fresh("ses")
    async with connect.open() as client:
        await ask(client, "create_session", session_id=session, title="Walk")
        found = {}
        for prompt, name, text in (
            ("recap", "session_id", session[:-1]),
            ("delegate_work", "agent", "git"),
            ("delegate_work", "workspace", "wo"),
            ("delegate_work", "what", ""),
            ("delegate_work", "session_id", ""),
            ("guide", "agent", ""),
        ):
            answer = await client.complete(PromptReference(name=prompt), {"name": name, "value": text})
            found[prompt, name] = answer.completion.values

    assert list(found.values()) == [[session], ["git"], ["work"], [], [], []]


async def test_the_prompts_have_the_arguments_that_are_completed(client: Client):
    listed = {
        prompt.name: {argument.name for argument in prompt.arguments or []}
        for prompt in (await client.list_prompts()).prompts
    }
    for prompt, arguments in PROMPT_ARGUMENTS.items():
        assert arguments <= listed[prompt]
    known = set[str]().union(*PROMPT_ARGUMENTS.values())
    for prompt, arguments in listed.items():
        assert arguments & known == PROMPT_ARGUMENTS.get(prompt, frozenset())


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("nothing://{id}", "id"),
        (SESSION, "task_id"),
        (SESSION, "offset"),
        (OUTPUT, "length"),
        (SESSION, "nonsense"),
        (TASK, "stream"),
        ("session://walks", "session_id"),
        ("", ""),
    ],
)
async def test_what_is_unknown_becomes_nothing(client: Client, uri: str, name: str):
    await ask(client, "create_session", session_id="walks", title="Walk")
    assert await completed(client, uri, name, "") == []


async def test_nothing_that_is_typed_is_taken_for_a_pattern(client: Client, runtime: Runtime):
    for name in ("ses_a", "ses.a", "sesXa"):
        await runtime.sessions.create(id=name, title=f"100% of_{name}\\")
    assert await completed(client, SESSION, "session_id", "ses_") == ["ses_a"]
    assert await completed(client, SESSION, "session_id", "100%") == ["sesXa", "ses.a", "ses_a"]
    for text in ("%", "_", "ses%", "s_s", "\\", "of_ses_a\\\\", "'", '"', "*", "ses*", "[s]es", "\x00", "ses\x00",
                 "s" * 100_000, "ſes", "\U0001f600", " ses"):  # fmt: skip
        assert await completed(client, SESSION, "session_id", text) == [], text


async def test_the_newest_come_first_and_archived_sessions_not_at_all(client: Client):
    for name in ("ses_b", "ses_a", "ses_c"):
        await ask(client, "create_session", session_id=name, title="Walk")
    await ask(client, "update_session", session_id="ses_c", status="archived")
    for text in ("", "ses", "wal"):
        assert await completed(client, SESSION, "session_id", text) == ["ses_a", "ses_b"]


async def test_a_number_is_completed_to_longer_ones(client: Client, runtime: Runtime):
    for number in range(1, 113):
        await runtime.tasks.create(new_task(str(number), agent="git", run_after=2**60), id=f"t{number}")
    await runtime.tasks.create(new_task("113", agent="git", run_after=2**60), id="11a")

    assert await completed(client, TASK, "task_id", "11") == ["11a", "113", "112", "111", "110", "11"]
    assert await completed(client, TASK, "task_id", "7") == [*map(str, range(79, 69, -1)), "7"]
    for text in ("0", "07", "114", "9" * 40, "٧"):
        assert await completed(client, TASK, "task_id", text) == [], text


async def test_of_more_than_a_hundred_the_newest_hundred_are_told(client: Client, runtime: Runtime):
    for number in range(102):
        await runtime.sessions.create(id=f"s{number:03}", title="Walk")
    ref = ResourceTemplateReference(uri=SESSION)
    for text in ("", "s", "walk"):
        found = (await client.complete(ref, {"name": "session_id", "value": text})).completion
        assert found.values == [f"s{number:03}" for number in range(101, 1, -1)]
        assert found.has_more is True
        assert found.total is None
    fewer = (await client.complete(ref, {"name": "session_id", "value": "s0"})).completion
    assert (len(fewer.values), fewer.total, fewer.has_more) == (100, 100, False)


async def test_completion_is_for_keys_that_may_read(settings: Settings):
    async with in_memory(settings, caller=replace(DESK, scopes=frozenset({"submit"}))) as client:
        with pytest.raises(MCPError) as caught:
            await client.complete(PromptReference(name="recap"), {"name": "session_id", "value": ""})
    assert caught.value.data["status"] == 403
