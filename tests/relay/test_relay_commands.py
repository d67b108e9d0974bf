"""The pure table: what each command becomes, and what it can never become."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay_adapter.commands import COMMANDS, TASK_COMMAND, Command, Session, derived_id, text_command, translate
from relay_adapter.errors import FieldIssue, InvalidError, RelayError
from relay_adapter.tools import TOOLS
from tests.relay.harness import CONTRACT, TASK_TOOLS


def refused(command: str | Command, data: dict[str, Any]) -> dict[str, FieldIssue]:
    with pytest.raises(InvalidError) as caught:
        translate(COMMANDS[command] if isinstance(command, str) else command, data)
    return {issue.field: issue for issue in caught.value.issues}


def asked(command: str, data: dict[str, Any], session_id: str | None = None) -> tuple[str, dict[str, Any]]:
    session = Session(session_id, "session_id") if session_id else None
    call = translate(COMMANDS[command], data, session)
    return call.tool.name, call.arguments


def test_the_tools_are_those_of_the_contract() -> None:
    here = {
        name: " ".join(f"{field.name}!" if field.required else field.name for field in tool.fields)
        for name, tool in TOOLS.items()
    }
    assert {name: set(fields.split()) for name, fields in here.items()} == {
        name: set(fields.split()) for name, fields in CONTRACT.items()
    }
    assert {name for name, tool in TOOLS.items() if tool.answers_task} == set(TASK_TOOLS)


def test_every_tool_is_a_command() -> None:
    for name in CONTRACT:
        assert COMMANDS[name].tool == name


@pytest.mark.parametrize(
    ("command", "tool", "fixed"),
    [
        ("conversation_chunk", "add_conversation", {}),
        ("pause_session", "update_session", {"status": "paused"}),
        ("resume_session", "update_session", {"status": "active"}),
        ("complete_session", "update_session", {"status": "completed"}),
        ("archive_session", "update_session", {"status": "archived"}),
        ("get_session_summary", "get_session", {}),
        ("cancel_task", "update_task", {"action": "cancel"}),
        ("retry_task", "update_task", {"action": "retry"}),
    ],
)
def test_the_fields_own_words_stand_for_a_tool(command: str, tool: str, fixed: dict[str, Any]) -> None:
    data = {"content": "…"} if tool == "add_conversation" else {"task_id": "t"} if tool == "update_task" else {}
    session = None if tool == "update_task" else "s1"
    assert asked(command, data, session) == (tool, data | ({"session_id": session} if session else {}) | fixed)


@pytest.mark.parametrize("name", ["agent", "agent_name"])
@pytest.mark.parametrize("words", ["description", "task", "prompt"])
def test_delegate_task_takes_its_aliases(name: str, words: str) -> None:
    call = ("delegate_task", {"agent": "git", "description": "look"})
    assert asked("delegate_task", {name: "git", words: "look"}) == call


def test_two_names_for_one_thing_must_agree() -> None:
    assert set(refused("delegate_task", {"agent": "git", "agent_name": "shell"})) == {"data.agent_name"}
    both = {"agent": "git", "task": "a", "prompt": "b"}
    assert set(refused("delegate_task", both)) == {"data.prompt"}
    assert asked("delegate_task", {"agent": "git", "agent_name": "git"})[1] == {"agent": "git"}


def test_agent_name_is_an_alias_in_lists_too() -> None:
    assert asked("list_tasks", {"agent_name": "git"}) == ("list_tasks", {"agent": "git"})


def test_a_missing_agent_is_named_as_the_sender_would_write_it() -> None:
    assert set(refused("delegate_task", {"task": "look"})) == {"data.agent"}
    assert set(refused(TASK_COMMAND, {"task": "look"})) == {"data.action_type"}


def test_a_task_command_has_action_type_for_the_agent() -> None:
    call = translate(TASK_COMMAND, {"action_type": "git", "prompt": "look"})
    assert call.arguments == {"agent": "git", "description": "look"}
    assert "data.agent" in refused(TASK_COMMAND, {"agent": "git"})


@pytest.mark.parametrize("command", [COMMANDS["delegate_task"], TASK_COMMAND], ids=lambda command: command.name)
def test_a_callback_is_refused_and_polling_is_named(command: Command) -> None:
    issue = refused(command, {"agent": "git", "action_type": "git", "callback_url": "https://a.test"})[
        "data.callback_url"
    ]
    assert "not called yet" in issue.message
    assert "status_url" in issue.fix


def test_the_place_beside_the_command_is_lifted_to_the_top() -> None:
    params = {"command": ["git", "status"], "working_dir": "/repo", "workspace": "offhand"}
    assert asked("delegate_task", {"agent": "git", "params": params})[1] == {
        "agent": "git",
        "params": {"command": ["git", "status"]},
        "working_dir": "/repo",
        "workspace": "offhand",
    }
    assert asked("delegate_task", {"agent": "git", "params": {"working_dir": "/repo"}})[1] == {
        "agent": "git",
        "working_dir": "/repo",
    }


def test_two_places_that_differ_are_refused() -> None:
    data = {"agent": "git", "working_dir": "/a", "params": {"working_dir": "/b"}}
    assert set(refused("delegate_task", data)) == {"data.params.working_dir"}
    data["params"] = {"working_dir": "/a"}
    assert asked("delegate_task", data)[1] == {"agent": "git", "working_dir": "/a"}
    assert set(refused("delegate_task", {"agent": "git", "params": {"workspace": 7}})) == {"data.params.workspace"}


def test_other_params_are_passed_on_as_they_are() -> None:
    params = {"steps": 3, "nested": {"a": [1, None]}}
    assert asked("delegate_task", {"agent": "echo", "params": params})[1]["params"] == params


def test_translating_leaves_the_body_as_it_was() -> None:
    data = {"agent": "git", "params": {"command": ["git"], "working_dir": "/repo"}}
    translate(COMMANDS["delegate_task"], data)
    assert data == {"agent": "git", "params": {"command": ["git"], "working_dir": "/repo"}}


@pytest.mark.parametrize(
    ("command", "field", "fix"),
    [
        ("git log -5", "data.params.command", 'Write it as ["git", "log", "-5"].'),
        ('git commit -m "two words"', "data.params.command", 'Write it as ["git", "commit", "-m", "two words"].'),
        ('git "unbalanced', "data.params.command", 'Write it as ["git", "status"].'),
        ("", "data.params.command", 'Write it as ["git", "status"].'),
        ("git " * 1000, "data.params.command", 'Write it as ["git", "status"].'),
        ([], "data.params.command", 'Write it as ["git", "status"].'),
        (7, "data.params.command", 'Write it as ["git", "status"].'),
        (["git", 5], "data.params.command[1]", 'Write it as ["git", "status"].'),
    ],
)
def test_a_command_that_is_no_list_of_words_is_shown_as_one(command: Any, field: str, fix: str) -> None:
    issues = refused("delegate_task", {"agent": "git", "params": {"command": command}})
    assert {name: issue.fix for name, issue in issues.items()} == {field: fix}


def test_a_command_beside_params_is_told_where_it_belongs() -> None:
    issue = refused("delegate_task", {"agent": "git", "command": ["git", "status"]})["data.command"]
    assert '"params"' in issue.fix


@pytest.mark.parametrize(
    ("command", "data", "field"),
    [
        ("create_session", {"title": 1}, "data.title"),
        ("create_session", {"participants": "claude"}, "data.participants"),
        ("create_session", {"participants": [1]}, "data.participants"),
        ("create_session", {"metadata": []}, "data.metadata"),
        ("store_memory", {"type": "idea", "content": ["a"]}, "data.content"),
        ("store_memory", {"type": "idea", "content": 5}, "data.content"),
        ("list_sessions", {"include_archived": "yes"}, "data.include_archived"),
        ("list_sessions", {"limit": "5"}, "data.limit"),
        ("list_sessions", {"limit": 1.5}, "data.limit"),
        ("list_sessions", {"limit": True}, "data.limit"),
        ("search", {"kind": "memories"}, "data.kind"),
        ("delegate_task", {"agent": "git", "priority": "high"}, "data.priority"),
        ("delegate_task", {"agent": "git", "params": []}, "data.params"),
        ("delegate_task", {"agent": "git", "timeout_seconds": "60"}, "data.timeout_seconds"),
        ("delegate_task", {"agent": "git", "timeout_seconds": False}, "data.timeout_seconds"),
        ("delegate_task", {"agent": "git", "run_after": []}, "data.run_after"),
        ("delegate_task", {"agent": "git", "wait": 45.5}, "data.wait"),
        ("delegate_task", {"agent": "git", "task_id": 7}, "data.task_id"),
        ("get_task", {"task_id": 0}, "data.task_id"),
        ("get_task", {"task_id": 1.5}, "data.task_id"),
        ("get_task", {"task_id": True}, "data.task_id"),
        ("get_task", {"task_id": ""}, "data.task_id"),
        ("get_task", {"task_id": "t", "stream": "out"}, "data.stream"),
        ("add_artifact", {"name": "a", "content": "b", "encoding": "hex"}, "data.encoding"),
        ("update_session", {"session_id": "s", "status": "done"}, "data.status"),
        ("update_task", {"task_id": "t", "action": "stop"}, "data.action"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_field_and_the_remedy(
    command: str, data: dict[str, Any], field: str
) -> None:
    issues = refused(command, data)
    assert set(issues) == {field}
    assert issues[field].fix


@pytest.mark.parametrize(
    "odd", ["a b", "a/b", "a\nb", "a\u0007", "x" * 10_000, "x" * 129, "", "123", "é", "a\n", "..%2f"]
)
def test_an_id_that_is_none_is_refused(odd: str) -> None:
    assert "data.task_id" in refused("delegate_task", {"agent": "git", "task_id": odd})
    assert "data.session_id" in refused("create_session", {"session_id": odd})


def test_a_task_is_named_by_its_number_too() -> None:
    assert asked("get_task", {"task_id": 7}) == ("get_task", {"task_id": "7"})
    assert asked("get_task", {"task_id": "7"}) == ("get_task", {"task_id": "7"})


@pytest.mark.parametrize(
    ("command", "starts"),
    [
        ("delegate_task", True),
        ("continue_task", True),
        ("retry_task", True),
        ("cancel_task", False),
        ("get_task", False),
        ("update_task", False),
        ("create_session", False),
    ],
)
def test_only_commands_that_start_work_answer_202(command: str, starts: bool) -> None:
    data = {"agent": "a"} if command == "delegate_task" else {"task_id": "t"} if "task" in command else {}
    data |= {"message": "m"} if command == "continue_task" else {}
    assert translate(COMMANDS[command], data).starts_work is starts


def test_update_task_starts_work_when_it_retries() -> None:
    assert translate(COMMANDS["update_task"], {"task_id": "t", "action": "retry"}).starts_work
    assert not translate(COMMANDS["update_task"], {"task_id": "t", "action": "cancel"}).starts_work


@pytest.mark.parametrize(
    ("command", "data", "argument"),
    [
        ("create_session", {}, "session_id"),
        ("add_conversation", {"session_id": "s", "content": "c"}, "chunk_id"),
        ("conversation_chunk", {"session_id": "s", "content": "c"}, "chunk_id"),
        ("store_memory", {"type": "idea", "content": "c"}, "memory_id"),
        ("add_artifact", {"name": "n", "content": "c"}, "artifact_id"),
        ("delegate_task", {"agent": "a"}, "task_id"),
        ("continue_task", {"task_id": "t", "message": "m"}, "new_task_id"),
    ],
)
def test_a_create_gets_an_id_from_its_delivery_unless_it_has_one(
    command: str, data: dict[str, Any], argument: str
) -> None:
    call = translate(COMMANDS[command], data)
    derived = call.with_derived_id("key", "delivery", 3).arguments
    assert derived == call.arguments | {argument: derived_id("key", "delivery", 3)}
    own = translate(COMMANDS[command], data | {argument: "mine"})
    assert own.with_derived_id("key", "delivery", 3) == own


def test_what_creates_nothing_gets_no_id() -> None:
    for command, data in (("list_tasks", {}), ("retry_task", {"task_id": "t"}), ("delete", {"memory_id": "m"})):
        call = translate(COMMANDS[command], data)
        assert call.with_derived_id("key", "delivery", 0) == call


def test_a_memory_with_a_key_keeps_the_id_it_has() -> None:
    call = translate(COMMANDS["store_memory"], {"type": "idea", "content": "c", "key": "k"})
    assert call.with_derived_id("key", "delivery", 0) == call


def test_derived_ids_differ_by_key_delivery_and_place() -> None:
    ids = {derived_id(key, delivery, index) for key in ("a", "ab") for delivery in ("b", "bb") for index in (0, 1)}
    assert len(ids) == 8
    assert all(len(each) == 26 and each.startswith("d-") for each in ids)
    assert derived_id("a", "b", 0) == derived_id("a", "b", 0)


NAMES = sorted({name for command in COMMANDS.values() for name in command.names()} | {"callback_url", "foo", "command"})
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["command", "working_dir", "workspace", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
WORDS = st.sampled_from(["git", "s1", "t-1", "text", "cancel", "active", "memory"])
DATA = st.dictionaries(st.sampled_from(NAMES), WORDS | VALUES, max_size=8)
ANY_COMMAND = st.sampled_from([*COMMANDS.values(), TASK_COMMAND, text_command("claude_code")])
# Slow only where Hypothesis builds its table of characters for the first time.
PATIENT = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
SESSIONS = st.none() | st.builds(Session, st.just("s9"), st.just("session_id"), st.booleans())


@PATIENT
@given(ANY_COMMAND, DATA, SESSIONS)
def test_translating_raises_nothing_but_errors_of_ours_and_invents_nothing(
    command: Command, data: dict[str, Any], session: Session | None
) -> None:
    call = refusal = None
    try:
        call = translate(command, data, session)
    except RelayError as error:
        refusal = error
    if call is None:
        assert refusal
        assert refusal.issues
        assert all(issue.field and issue.message and issue.fix for issue in refusal.issues)
        assert len(refusal.say.split()) <= 41
        return
    known = {name.rstrip("!") for name in CONTRACT[call.tool.name].split()}
    assert set(call.arguments) <= known
    required = {name.rstrip("!") for name in CONTRACT[call.tool.name].split() if name.endswith("!")}
    assert required <= set(call.arguments)
    assert set(call.sources) <= set(call.arguments)
    params = data.get("params")
    lifted = list(params.values()) if isinstance(params, dict) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    from_body: list[Any] = [*data.values(), *lifted]
    for name, value in call.arguments.items():
        if name == "params":
            assert value.items() <= data["params"].items()
        elif name == "session_id" and session and value == session.value:
            continue
        elif name in command.fixed:
            assert value == command.fixed[name]
        else:
            assert value in from_body or (name == "task_id" and int(value) in from_body)


@PATIENT
@given(st.data())
def test_what_is_valid_translates_to_exactly_what_was_given(data: st.DataObject) -> None:
    command = data.draw(st.sampled_from([each for each in COMMANDS.values() if "params" not in each.names()]))
    sample = {
        "id": st.from_regex(r"[a-z][A-Za-z0-9._:-]{0,20}", fullmatch=True),
        "task": st.from_regex(r"[A-Za-z0-9._:-]{1,20}", fullmatch=True),
        "text": st.text(),
        "number": st.floats(allow_nan=False) | st.integers(),
        "wait": st.floats(0, 45),
        "integer": st.integers(),
        "boolean": st.booleans(),
        "texts": st.lists(st.text()),
        "object": st.dictionaries(st.text(), st.integers()),
        "text or object": st.text() | st.dictionaries(st.text(), st.integers()),
        "moment": st.text(),
    }
    given_fields = {
        field.name: data.draw(st.sampled_from(field.choices) if field.choices else sample[field.kind])
        for field in command.fields
        if field.required or data.draw(st.booleans())
    }
    assert translate(command, given_fields).arguments == given_fields | dict(command.fixed)
