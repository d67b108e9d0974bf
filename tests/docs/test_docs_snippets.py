"""Every block of the README and the docs is run, or parsed by what it is meant for."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mcp_server.agent import Exit as Ended
from mcp_server.agent import WorkOrder
from mcp_server.cli.app import offhand
from mcp_server.cli.serve import FIRST_KEY
from mcp_server.clients.known import CLIENTS
from mcp_server.settings import SETTINGS_FILE, Settings, load_settings
from tests.docs.conftest import Served, clean_environment
from tests.docs.pages import PAGES, ROOT, Block, blocks, blocks_in, documents, page, shell_commands

SHELL = blocks("sh", "bash", "console")
COMMAND_SECONDS = 60
CALLERS_VARIABLE = "OFFHAND_KEY"
"""Not ours: where our docs keep the key of who calls."""


def first_words(block: Block) -> set[str]:
    return {shlex.split(command)[0] for command in shell_commands(block)}


def run(block: Block, env: dict[str, str], scripts: Path, text: str) -> str:
    """What a shell prints that runs the block in the checkout."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=ROOT,
        env=env | {"PATH": f"{scripts}{os.pathsep}{env['PATH']}"},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, f"{block}: {done.stderr}"
    return done.stdout


def test_every_block_has_a_language_that_these_tests_know() -> None:
    found = {block.language for path in PAGES for block in blocks_in(path.read_text("utf-8"), path)}
    assert found <= {"", "sh", "bash", "console", "json", "toml", "python"}


def test_every_shell_command_is_one_that_these_tests_know() -> None:
    assert SHELL
    for block in SHELL:
        unknown = first_words(block) - {"make", "offhand", "curl", "sed", "claude", "export"}
        assert not unknown, f"{block}: {unknown} are neither run nor checked"


@pytest.mark.parametrize("block", [block for block in SHELL if "curl" in first_words(block)], ids=str)
def test_a_curl_of_the_docs_is_answered_by_a_real_server(block: Block, served: Served, scripts: Path) -> None:
    text = block.text.replace("http://127.0.0.1:8787", served.url).replace(
        "the key that make run has shown", served.key
    )
    env = clean_environment(served.home) | {CALLERS_VARIABLE: served.key}
    answers = documents(run(block, env, scripts, text))
    assert len(answers) == len(re.findall(r"^curl ", block.text, re.MULTILINE))
    for answer in answers:
        assert answer["say"]
        # Other pages may show what fails, or name a record that a reader's own server does not have.
        if block.page == "README.md":
            assert answer["ok"], answer


def test_the_readme_tells_a_phone_the_truth(served: Served, scripts: Path) -> None:
    first, second = (block for block in blocks_in(page("README.md")) if "curl" in block.text)
    for block in (first, second):
        text = block.text.replace("http://127.0.0.1:8787", served.url)
        env = clean_environment(served.home) | {CALLERS_VARIABLE: served.key}
        answers = documents(run(block, env, scripts, text.replace("the key that make run has shown", served.key)))
        assert {"say", "result", "link"} <= set(answers[0])
        if block is first:
            assert answers[0]["result"]["status"] == "completed"
            assert re.search("On branch|HEAD", answers[0]["result"]["result"]["text"])
        else:
            assert answers[1]["result"]["items"][0]["key"] == "dog"


@pytest.mark.parametrize("block", [block for block in SHELL if "sed" in first_words(block)], ids=str)
def test_the_printed_client_configuration_names_the_command_of_this_checkout(
    block: Block, scripts: Path, tmp_path: Path
) -> None:
    printed = json.loads(run(block, clean_environment(tmp_path), scripts, block.text))
    assert printed["mcpServers"]["offhand"] == {"command": f"{ROOT}/.venv/bin/offhand", "args": ["mcp"]}


@pytest.mark.parametrize("block", [block for block in SHELL if "offhand" in first_words(block)], ids=str)
def test_the_commands_of_offhand_work_as_shown(block: Block, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a home that has seen its first start. `serve` never ends, so only its options are read; `setup` asks."""
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.chdir(ROOT)
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME"):
        monkeypatch.delenv(name, raising=False)
    for client in CLIENTS:
        client.folder().mkdir(parents=True)
    (home.parent / "src" / "offhand").mkdir(parents=True)
    runner = CliRunner()
    assert runner.invoke(offhand, ["key", "create", FIRST_KEY]).exit_code == 0
    for command in shell_commands(block):
        words = [os.path.expanduser(word) for word in shlex.split(command)]
        if words[:2] == ["offhand", "serve"]:
            serve = offhand.commands["serve"]
            assert isinstance(serve, click.Command)
            serve.make_context("serve", words[2:], parent=click.Context(offhand, **offhand.context_settings))
        elif words[0] == "offhand":
            words += ["--dry-run"] if words[1] == "setup" and len(words) > 2 else []
            done = runner.invoke(offhand, words[1:], catch_exceptions=False)
            assert done.exit_code == 0, f"{command}: {done.output}"


def test_every_exported_variable_is_a_setting_or_the_callers_key() -> None:
    known = {f"OFFHAND_{name.upper()}" for name in Settings.model_fields} | {CALLERS_VARIABLE}
    exported = {name for block in SHELL for name in re.findall(r"^export (\w+)=", block.text, re.MULTILINE)}
    assert exported
    assert exported <= known


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", page("Makefile"), re.MULTILINE))
    named = {
        word for path in PAGES for word in re.findall(r"(?:`|^)make ([a-z]+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert {"run", "test"} <= named
    assert named <= targets


def test_every_claude_command_adds_a_server_in_one_of_its_two_forms() -> None:
    commands = [shlex.split(line) for block in SHELL for line in shell_commands(block) if line.startswith("claude ")]
    assert commands
    for words in commands:
        assert words[:3] == ["claude", "mcp", "add"]
        if "--" in words:
            assert words[words.index("--") + 1 :] == ["$PWD/.venv/bin/offhand", "mcp"]
        else:
            at = words.index("--transport")
            assert words[at + 1] == "http"
            assert words[at + 3].startswith("https://")
            assert words[at + 4] == "--header"
            assert words[at + 5].startswith("Authorization: Bearer ")


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_every_json_block_is_json(block: Block) -> None:
    for document in documents(block.text):
        if "mcpServers" in document:
            assert document["mcpServers"] == json.loads(page("mcp-config.json"))["mcpServers"]


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_toml_block_is_a_settings_file_that_loads(block: Block, home: Path) -> None:
    parsed: dict[str, Any] = tomllib.loads(block.text)
    if "mcp_servers" in parsed:  # Codex's file
        assert parsed["mcp_servers"]["offhand"] == json.loads(page("mcp-config.json"))["mcpServers"]["offhand"]
        return
    home.mkdir()
    (home / SETTINGS_FILE).write_text(block.text, "utf-8")
    loaded = load_settings()
    assert set(parsed) <= loaded.model_fields_set
    assert len(loaded.policy) == len(parsed.get("policy", []))


def test_the_agent_of_the_contributing_page_works() -> None:
    (block,) = blocks("python")
    shown: dict[str, Any] = {}
    exec(compile(f"from __future__ import annotations\n{block.text}", str(block), "exec"), shown)
    agent, order = shown["DateAgent"](), WorkOrder()
    assert agent.availability().installed
    assert agent.check(order).reads_only
    asked = agent.invocation(order)
    done = subprocess.run(asked.argv, cwd=asked.cwd, env=asked.env, capture_output=True, text=True, timeout=10)
    outcome = agent.judge(order, Ended("exited", done.returncode, done.stdout, done.stderr))
    assert outcome.completed
    assert outcome.text == done.stdout.strip()
    assert not agent.judge(order, Ended("exited", 1, "", "no")).completed
