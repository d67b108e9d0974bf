"""The driver for commands: templates, output, what counts as success."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp_server.drivers.command import drive, filled, find, names_in
from mcp_server.drivers.job import Job
from mcp_server.drivers.records import End, Records


def program(folder: Path, body: str) -> str:
    """An agent that is a few lines of Python."""
    path = folder / "agent.py"
    path.write_text(f"#!{sys.executable} -IS\nimport json, os, signal, sys\n{body}\n")
    path.chmod(0o755)
    return str(path)


def job_of(tmp_path: Path, body: str, **fields: Any) -> Job:
    options = {"args": [], "continue_args": None, "output": "text", "fields": {}} | fields.pop("options", {})
    basic: dict[str, Any] = {"prompt": "Do it", "task_id": "t", "task_number": 7, "env": {"PATH": os.defpath}}
    return Job(
        driver="command",
        agent="probe",
        title="Probe",
        program=(program(tmp_path, body),),
        options=options,
        folder=str(tmp_path),
        **(basic | fields),
    )


async def run(tmp_path: Path, body: str, **fields: Any) -> tuple[End, list[dict[str, Any]]]:
    job = job_of(tmp_path, body, **fields)
    path = tmp_path / "records.jsonl"
    path.unlink(missing_ok=True)
    end = await drive(job, tmp_path, Records(path))
    return end, [json.loads(line) for line in path.read_text().splitlines()]


async def test_the_prompt_comes_on_stdin_and_the_text_is_the_answer(tmp_path: Path):
    prompt = "-- '\"`$\n" * 30_000
    end, records = await run(
        tmp_path, "told = sys.stdin.read()\nprint(len(told), sys.argv[1:], '\\n\\nend')", prompt=prompt
    )
    assert (end.outcome, end.text, end.verified) == ("completed", f"{len(prompt)} [] \n\nend", False)
    assert records == [{"type": "state", "state": {"task": "t"}}]


async def test_a_template_is_filled(tmp_path: Path):
    args = ["--cwd={cwd}", "--model", "{model}", "{{{profile}}}", "{task_id}-{task_number}", "{prompt}", "-m={prompt}"]
    body = "print(json.dumps([sys.argv[1:], sys.stdin.read()]))"
    end, _ = await run(tmp_path, body, prompt="--help {cwd}", model="m", options={"args": args})
    argv, stdin = json.loads(end.text)
    assert argv == [f"--cwd={tmp_path}", "--model", "m", "{edit}", "t-7", " --help {cwd}", "-m=--help {cwd}"]
    assert stdin == ""


async def test_a_failure_is_told_with_what_it_said(tmp_path: Path):
    end, _ = await run(tmp_path, "print('half'); print('no key', file=sys.stderr); sys.exit(3)")
    assert (end.outcome, end.reason, end.verified) == ("failed", "exit_code", False)
    assert "exit code 3" in end.text
    assert "no key" in end.text
    end, _ = await run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert "signal 9" in end.text


async def test_a_program_that_is_not_there_cannot_be_started(tmp_path: Path):
    job = job_of(tmp_path, "")
    os.unlink(job.program[0])
    with pytest.raises(OSError, match=r"agent\.py"):
        await drive(job, tmp_path, Records(tmp_path / "records.jsonl"))


FIELDS = {
    "answer": "result.text",
    "conversation": "session",
    "error": "error",
    "success": "status=ok",
    "progress": "doing",
    "model": "model",
    "input_tokens": "usage.0.in",
    "cost_usd": "cost",
}


async def test_json_says_how_it_went(tmp_path: Path):
    said = {"result": {"text": "Done"}, "session": 5, "status": "ok", "usage": [{"in": 9}], "cost": True, "model": "m"}
    end, records = await run(
        tmp_path, f"print(json.dumps({said!r}, indent=1)); sys.exit(1)", options={"output": "json", "fields": FIELDS}
    )
    assert (end.outcome, end.text, end.verified) == ("completed", "Done", True)
    assert records[1] == {"type": "state", "state": {"session": "5"}}
    usage = {"model": "m", "turns": None, "input_tokens": 9, "output_tokens": None, "cost_usd": None}
    assert records[2] == {"type": "usage"} | usage


async def test_of_many_lines_the_latest_counts(tmp_path: Path):
    lines = [
        {"doing": "editing a.py"},
        {"result": {"text": "first"}, "session": "s"},
        {"odd": [1, None]},
        {"result": {"text": "x" * 3_000_000}},
        {"result": {"text": "last"}},
        {"status": "ok"},
    ]
    body = f"for line in {lines!r}: print(json.dumps(line))\nprint('no json')\nprint('{{\"half')\nprint('[' * 9999)"
    end, records = await run(tmp_path, body, options={"output": "jsonl", "fields": FIELDS})
    assert (end.outcome, end.text, end.verified) == ("completed", "last", True)
    assert [record["say"] for record in records if record["type"] == "progress"] == ["editing a.py"]


@pytest.mark.parametrize(
    ("printed", "outcome", "reason"),
    [
        ('{"status": "failed", "result": {"text": "no"}}', "failed", "agent_error"),
        ('{"result": {"text": "no"}}', "failed", "no_result"),
        ('{"status": "ok", "error": "cannot"}', "failed", "agent_error"),
        ('{"status": "ok", "error": false}', "completed", None),
        ('{"error": "429 rate limit, try again in 5 minutes"}', "quota", "quota"),
        ("plain words", "failed", "no_result"),
        ("", "failed", "no_result"),
        ("[]", "failed", "no_result"),
        ("{'half", "failed", "no_result"),
    ],
)
async def test_success_is_what_the_fields_say(tmp_path: Path, printed: str, outcome: str, reason: str | None):
    end, _ = await run(tmp_path, f"print({printed!r})", options={"output": "json", "fields": FIELDS})
    assert (end.outcome, end.reason) == (outcome, reason)
    assert end.text or outcome == "completed"


async def test_without_a_field_for_success_it_stays_unverified(tmp_path: Path):
    options = {"output": "json", "fields": {"answer": "a"}}
    end, _ = await run(tmp_path, 'print(\'{"a": {"b": 1}}\')', options=options)
    assert (end.outcome, end.text, end.verified) == ("completed", '{"b": 1}', False)
    end, _ = await run(tmp_path, "print('{\"a\": 1}'); sys.exit(2)", options=options)
    assert (end.outcome, end.reason) == ("failed", "exit_code")


BODY = "print(json.dumps([sys.argv[1:], sys.stdin.read()]))"


@pytest.mark.parametrize(
    ("state", "argv", "prompt"),
    [
        ({}, ["new"], "Do it"),
        ({"task": "earlier"}, ["new"], "Do it"),
        ({"task": "earlier", "session": "s-1"}, ["resume", "s-1"], "Do it"),
        ({"task": "t", "session": "s-1"}, ["resume", "s-1"], "You were interrupted"),
    ],
)
async def test_a_conversation_is_gone_on_with(tmp_path: Path, state: dict[str, Any], argv: list[str], prompt: str):
    options = {
        "args": ["new"],
        "continue_args": ["resume", "{conversation}"],
        "output": "jsonl",
        "fields": {"conversation": "id", "answer": "0"},
    }
    end, _ = await run(
        tmp_path, "print(json.dumps([json.dumps([sys.argv[1:], sys.stdin.read()])]))", state=state, options=options
    )
    told, stdin = json.loads(end.text)
    assert told == argv
    assert stdin.startswith(prompt)


async def test_a_command_that_knows_its_conversation_by_the_folder_is_told_to_go_on(tmp_path: Path):
    options = {"args": ["new"], "continue_args": ["again"]}
    for state, argv in (({}, ["new"]), ({"task": "earlier"}, ["again"])):
        end, _ = await run(tmp_path, BODY, state=state, options=options)
        assert json.loads(end.text)[0] == argv


@pytest.mark.parametrize("template", ["{", "}", "a{b", "{Prompt}", "{a b}", '{"json": 1}', "{}", "}{"])
def test_a_brace_that_stands_alone_is_an_error(template: str):
    with pytest.raises(ValueError, match="position"):
        names_in(template)


def test_values_are_not_filled_again():
    assert filled("{a}{{x}}{b}", {"a": "{b}", "b": "{{"}) == "{b}{x}{{"
    assert names_in("{a}{{x}}{b}") == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("a.b", 1), ("l.1", 3), ("l.2", None), ("l.x", None), ("a.b.c", None), ("x", None), ("l.-1", None)],
)
def test_what_is_not_there_is_nothing(path: str, value: object):
    assert find({"a": {"b": 1}, "l": [2, 3]}, path) == value


async def test_a_program_that_does_not_read_its_prompt_is_not_waited_for(tmp_path: Path):
    end, _ = await run(tmp_path, "print('Done.')", prompt="x" * 2_000_000)
    assert (end.outcome, end.text) == ("completed", "Done.")
