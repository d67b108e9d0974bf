"""Every form of a webhook, as the design prints it, becomes the right tool calls; everything else names its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relay_adapter.commands import COMMANDS
from relay_adapter.envelope import MAX_BATCH_COMMANDS, Order, read_order
from relay_adapter.errors import FieldIssue, InvalidError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

# The design's block of forms, character for character, each with what it means.
PRINTED: dict[str, tuple[str, list[tuple[str, dict[str, Any]]]]] = {
    "create_session": (
        """{"type": "collaborative_session_command", "command": "create_session", "session_id": "test_001",
 "data": {"title": "Test Session", "participants": ["claude", "user"]}}""",
        [
            (
                "create_session",
                {"session_id": "test_001", "title": "Test Session", "participants": ["claude", "user"]},
            )
        ],
    ),
    "conversation_chunk": (
        """{"type": "collaborative_session_command", "command": "conversation_chunk", "session_id": "test_001",
 "data": {"chunk_id": "chunk_001", "content": "…", "format": "dialogue"}}""",
        [
            (
                "add_conversation",
                {"session_id": "test_001", "chunk_id": "chunk_001", "content": "…", "format": "dialogue"},
            )
        ],
    ),
    "store_memory": (
        """{"type": "collaborative_session_command", "command": "store_memory", "session_id": "test_001",
 "data": {"type": "idea", "key": "carbon_tracking", "content": {"description": "…", "priority": "high"},
          "tags": ["sustainability", "feature"]}}""",
        [
            (
                "store_memory",
                {
                    "session_id": "test_001",
                    "type": "idea",
                    "key": "carbon_tracking",
                    "content": {"description": "…", "priority": "high"},
                    "tags": ["sustainability", "feature"],
                },
            )
        ],
    ),
    "delegate_task": (
        """{"type": "collaborative_session_command", "command": "delegate_task", "session_id": "test_001",
 "data": {"task_id": "task_001", "agent_name": "claude_code", "task_type": "code",
          "description": "Implement carbon tracking API", "priority": 1}}""",
        [
            (
                "delegate_task",
                {
                    "session_id": "test_001",
                    "task_id": "task_001",
                    "agent": "claude_code",
                    "task_type": "code",
                    "description": "Implement carbon tracking API",
                    "priority": 1,
                },
            )
        ],
    ),
    "batch": (
        """{"type": "collaborative_session_command", "command": "batch", "session_id": "test_001",
 "data": {"commands": [{"command": "store_memory", "data": {"type": "decision", "key": "db", "content": "SQLite"}},
                       {"command": "delegate_task", "data": {"agent_name": "git", "params": {"command": ["git", "log", "-5"]}}}]}}""",  # noqa: E501
        [
            ("store_memory", {"session_id": "test_001", "type": "decision", "key": "db", "content": "SQLite"}),
            (
                "delegate_task",
                {"session_id": "test_001", "agent": "git", "params": {"command": ["git", "log", "-5"]}},
            ),
        ],
    ),
    "voice_delegate_task": (
        """{"command": "delegate_task", "session_id": "voice_001",
 "data": {"agent_name": "claude_code", "task_type": "code", "task": "Build a React dashboard component"}}""",
        [
            (
                "delegate_task",
                {
                    "session_id": "voice_001",
                    "agent": "claude_code",
                    "task_type": "code",
                    "description": "Build a React dashboard component",
                },
            )
        ],
    ),
    "task_command": (
        """{"type": "task_command", "data": {"task_id": "git_status_001", "action_type": "git",
 "params": {"command": ["git", "status"], "working_dir": "/path/to/repo"}}}""",
        [
            (
                "delegate_task",
                {
                    "task_id": "git_status_001",
                    "agent": "git",
                    "params": {"command": ["git", "status"]},
                    "working_dir": "/path/to/repo",
                },
            )
        ],
    ),
    "webhook": (
        """{"type": "webhook", "event": "task", "delivery_id": "d-1", "timestamp": "2026-11-21T08:00:00Z",
 "payload": {"type": "task_command", "data": {"task_id": "s2", "action_type": "git", "params": {"command": ["git", "status"]}}}}""",  # noqa: E501
        [("delegate_task", {"task_id": "s2", "agent": "git", "params": {"command": ["git", "status"]}})],
    ),
    "text": (
        """{"text": "review the open PR in offhand and tell me what is risky"}""",
        [
            (
                "delegate_task",
                {"agent": "default_agent", "description": "review the open PR in offhand and tell me what is risky"},
            )
        ],
    ),
}


def order_of(body: Any) -> Order:
    return read_order(body, "default_agent")


def asked(body: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(call.tool.name, call.arguments) for call in order_of(body).calls]


def refused(body: Any) -> dict[str, FieldIssue]:
    with pytest.raises(InvalidError) as caught:
        order_of(body)
    return {issue.field: issue for issue in caught.value.issues}


@pytest.mark.parametrize("name", PRINTED)
def test_a_printed_form_becomes_its_tool_calls(name: str) -> None:
    text, calls = PRINTED[name]
    assert asked(json.loads(text)) == calls


@pytest.mark.parametrize("name", PRINTED)
def test_the_examples_hold_the_printed_forms_character_for_character(name: str) -> None:
    assert (EXAMPLES / f"{name}.json").read_text("utf-8") == PRINTED[name][0] + "\n"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_every_example_is_understood(path: Path) -> None:
    assert asked(json.loads(path.read_text("utf-8")))


def test_every_command_has_an_example() -> None:
    shown: set[str] = set()
    for path in EXAMPLES.glob("*.json"):
        shown |= {call.command for call in order_of(json.loads(path.read_text("utf-8"))).calls}
    # These two are the tool's own names for commands that have an example each.
    assert set(COMMANDS) - shown == {"add_conversation", "get_session", "update_task"}


def test_only_the_forms_with_several_commands_are_batches() -> None:
    assert order_of(json.loads(PRINTED["batch"][0])).batch
    assert not order_of(json.loads(PRINTED["webhook"][0])).batch


def test_a_webhook_hands_its_delivery_id_on() -> None:
    assert order_of(json.loads(PRINTED["webhook"][0])).delivery_id == "d-1"
    assert order_of({"text": "hello", "delivery_id": "d-7"}).delivery_id == "d-7"
    assert order_of({"type": "webhook", "payload": {"text": "x", "delivery_id": "d-8"}}).delivery_id == "d-8"


def test_a_delivery_id_that_differs_inside_and_outside_is_refused() -> None:
    body = {"type": "webhook", "delivery_id": "one", "payload": {"text": "x", "delivery_id": "two"}}
    assert "payload.delivery_id" in refused(body)


@pytest.mark.parametrize("delivery_id", ["", "with space", "x" * 201, "é", 7])
def test_a_delivery_id_that_cannot_be_a_header_is_refused(delivery_id: Any) -> None:
    assert "delivery_id" in refused({"text": "x", "delivery_id": delivery_id})


def test_type_decides_before_command_and_command_before_text() -> None:
    both = {"type": "task_command", "command": "list_tasks", "data": {"action_type": "git"}}
    assert set(refused(both)) == {"command"}
    assert set(refused({"command": "list_tasks", "text": "hello"})) == {"text"}


def test_an_unknown_type_names_the_known_ones() -> None:
    issue = refused({"type": "task_comand", "data": {}})["type"]
    assert 'Did you mean "task_command"?' in issue.fix
    assert "collaborative_session_command" in issue.fix
    assert "webhook" in issue.fix


def test_a_command_written_as_type_is_told_where_it_belongs() -> None:
    assert refused({"type": "create_session"})["type"].fix == 'Put "create_session" into "command".'


def test_an_unknown_command_names_all_commands_and_the_nearest() -> None:
    issue = refused({"command": "create_sesion", "data": {}})["command"]
    assert 'Did you mean "create_session"?' in issue.fix
    assert all(name in issue.fix for name in [*COMMANDS, "batch"])


def test_a_body_that_says_nothing_names_what_to_send() -> None:
    issue = refused({})["type"]
    assert '{"text": "…"}' in issue.fix
    assert "type" in refused({"text": None})


def test_a_command_form_without_a_command_is_refused() -> None:
    assert "command" in refused({"type": "collaborative_session_command", "data": {}})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": 7}, "type"),
        ({"command": ["list_tasks"]}, "command"),
        ({"command": "list_tasks", "data": []}, "data"),
        ({"command": "list_tasks", "data": "x"}, "data"),
        ({"command": "list_tasks", "session_id": 7}, "session_id"),
        ({"command": "list_tasks", "session_id": "has space"}, "session_id"),
        ({"command": "list_tasks", "session_id": "12345"}, "session_id"),
        ({"command": "list_tasks", "timestamp": []}, "timestamp"),
        ({"text": 7}, "text"),
        ({"text": ["a"]}, "text"),
        ({"text": "x", "wait": "10"}, "wait"),
        ({"text": "x", "wait": 46}, "wait"),
        ({"text": "x", "wait": -1}, "wait"),
        ({"text": "x", "wait": True}, "wait"),
        ({"text": "x", "workspace": 1}, "workspace"),
        ({"type": "webhook"}, "payload"),
        ({"type": "webhook", "payload": "x"}, "payload"),
        ({"type": "webhook", "event": 1, "payload": {"text": "x"}}, "event"),
        ({"type": "webhook", "payload": {"type": "webhook", "payload": {}}}, "payload.type"),
        ({"type": "webhook", "payload": {"command": "get_task", "data": {"task_id": "a/b"}}}, "payload.data.task_id"),
        ({"command": "batch", "data": {"commands": "x"}}, "data.commands"),
        ({"command": "batch", "data": {}}, "data.commands"),
        ({"command": "batch", "data": {"commands": ["x"]}}, "data.commands[0]"),
        ({"command": "batch", "data": {"commands": [{"command": "list_agents"}, {}]}}, "data.commands[1].type"),
        ({"command": "batch", "data": {"commands": [{"text": "x"}], "continue_on_error": 1}}, "data.continue_on_error"),
    ],
)
def test_a_wrong_type_names_its_path(body: Any, field: str) -> None:
    issues = refused(body)
    assert set(issues) == {field}
    assert issues[field].message
    assert issues[field].fix


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"command": "create_session", "colour": 1}, "colour"),
        ({"command": "create_session", "data": {"foo": 1}}, "data.foo"),
        ({"type": "task_command", "data": {"action_type": "git", "foo": 1}}, "data.foo"),
        ({"type": "webhook", "sender": "x", "payload": {"text": "x"}}, "sender"),
        ({"type": "webhook", "payload": {"text": "x", "foo": 1}}, "payload.foo"),
        ({"type": "webhook", "payload": {"command": "list_agents", "data": {"foo": 1}}}, "payload.data.foo"),
        ({"text": "x", "foo": 1}, "foo"),
        ({"command": "batch", "data": {"commands": [{"text": "x"}], "foo": 1}}, "data.foo"),
        ({"command": "batch", "foo": 1, "data": {"commands": [{"text": "x"}]}}, "foo"),
        (
            {"command": "batch", "data": {"commands": [{"text": "x"}, {"command": "list_agents", "data": {"foo": 1}}]}},
            "data.commands[1].data.foo",
        ),
        ({"command": "batch", "data": {"commands": [{"command": "list_agents", "id": 1}]}}, "data.commands[0].id"),
        (
            {"command": "batch", "data": {"commands": [{"command": "list_agents", "delivery_id": "d"}]}},
            "data.commands[0].delivery_id",
        ),
        ({"command": "pause_session", "session_id": "s", "data": {"status": "archived"}}, "data.status"),
        ({"command": "cancel_task", "data": {"task_id": "t", "action": "retry"}}, "data.action"),
    ],
)
def test_an_unknown_field_is_named_with_its_full_path(body: Any, field: str) -> None:
    issues = refused(body)
    assert set(issues) == {field}
    assert "not known" in issues[field].message
    assert issues[field].fix


def test_a_field_beside_data_that_belongs_into_it_is_told_so() -> None:
    issue = refused({"command": "delegate_task", "agent": "git", "data": {"agent": "git"}})["agent"]
    assert issue.fix == 'Put it inside "data": {"data": {"agent": …}}.'


def test_all_that_is_wrong_is_named_at_once() -> None:
    body = {"command": "add_artifact", "extra": 1, "data": {"name": 1, "foo": 2}}
    assert set(refused(body)) == {"extra", "data.name", "data.foo", "data.content"}


def test_no_more_issues_are_listed_than_anyone_reads() -> None:
    body = {"command": "create_session", "data": {f"foo{number}": 1 for number in range(1000)}}
    assert len(refused(body)) == 20


def test_a_name_of_ten_thousand_letters_is_not_echoed_whole() -> None:
    (field,) = refused({"command": "create_session", "data": {"x" * 10_000: 1}})
    assert len(field) < 100


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_a_blank_text_is_refused(text: str) -> None:
    assert "text" in refused({"text": text})


def test_a_text_may_name_a_session_a_workspace_and_a_wait() -> None:
    body = {"text": "hello", "session_id": "voice_001", "workspace": "offhand", "wait": 3}
    expected = {
        "agent": "default_agent",
        "description": "hello",
        "session_id": "voice_001",
        "workspace": "offhand",
        "wait": 3,
    }
    assert asked(body) == [("delegate_task", expected)]


def test_a_null_is_the_same_as_a_field_left_out() -> None:
    body = {"type": None, "command": "list_tasks", "session_id": None, "data": {"agent": None, "nothing": None}}
    assert set(refused(body)) == {"data.nothing"}
    assert asked({"type": None, "command": "list_tasks", "session_id": None, "data": None}) == [("list_tasks", {})]


def test_the_commands_of_a_batch_inherit_its_session_unless_they_have_their_own() -> None:
    commands = [
        {"command": "complete_session"},
        {"command": "complete_session", "session_id": "own"},
        {"command": "complete_session", "data": {"session_id": "inside"}},
        {"command": "list_agents"},
        {"text": "hello"},
    ]
    calls = asked({"command": "batch", "session_id": "shared", "data": {"commands": commands}})
    assert [arguments.get("session_id") for _, arguments in calls] == ["shared", "own", "inside", None, "shared"]


def test_two_sessions_that_differ_are_refused() -> None:
    assert "data.session_id" in refused({"command": "list_tasks", "session_id": "a", "data": {"session_id": "b"}})
    assert asked({"command": "list_tasks", "session_id": "a", "data": {"session_id": "a"}})


def test_a_session_around_a_delete_is_never_what_is_deleted() -> None:
    memory = {"command": "delete", "session_id": "s", "data": {"memory_id": "m"}}
    assert asked(memory) == [("delete", {"memory_id": "m"})]
    inherited = {"command": "batch", "session_id": "s", "data": {"commands": [{"command": "delete"}]}}
    assert asked(inherited) == [("delete", {})]
    assert asked({"command": "delete", "session_id": "s"}) == [("delete", {"session_id": "s"})]


def test_a_batch_in_a_batch_is_refused() -> None:
    inner = {"command": "batch", "data": {"commands": [{"text": "x"}]}}
    assert set(refused({"command": "batch", "data": {"commands": [inner]}})) == {"data.commands[0].command"}


def test_a_webhook_in_a_batch_is_refused() -> None:
    inner = {"type": "webhook", "payload": {"text": "x"}}
    assert set(refused({"command": "batch", "data": {"commands": [inner]}})) == {"data.commands[0].type"}


def test_an_empty_batch_is_refused() -> None:
    assert "data.commands" in refused({"command": "batch", "data": {"commands": []}})


def test_a_batch_has_a_limit() -> None:
    most = [{"command": "list_agents"}] * MAX_BATCH_COMMANDS
    assert MAX_BATCH_COMMANDS == 100
    assert len(asked({"command": "batch", "data": {"commands": most}})) == 100
    assert "data.commands" in refused({"command": "batch", "data": {"commands": [*most, most[0]]}})


def test_a_batch_names_what_is_wrong_in_every_command() -> None:
    commands: list[dict[str, Any]] = [
        {"command": "nope"},
        {"command": "list_agents"},
        {"command": "get_task", "data": {}},
    ]
    body = {"command": "batch", "data": {"commands": commands}}
    assert set(refused(body)) == {"data.commands[0].command", "data.commands[2].data.task_id"}
