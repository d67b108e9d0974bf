"""The agent `files`: what it takes, what it does, and that it stays in the workspace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mcp_server.agent import Outcome
from mcp_server.agents.files import FilesAgent
from mcp_server.errors import InvalidError
from tests.agents.conftest import Bench


@pytest.fixture
def files(workspace: Path) -> Bench:
    """A workspace with a few files, links that lead out of it, and a secret beside it."""
    (workspace / "src").mkdir()
    (workspace / "src" / "app.py").write_text("import os\n\ndef main():\n    return 'Hello'\n")
    (workspace / "notes.md").write_text("# Notes\nhello there\n")
    (workspace / "picture.png").write_bytes(b"\x89PNG\r\n\0\0hello")
    (workspace / ".git").mkdir()
    (workspace / ".git" / "config").write_text("hello = 1\n")
    outside = workspace.parent / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("hello secret\n")
    (workspace / "link").symlink_to(outside)
    (workspace / "src" / "secret.txt").symlink_to(outside / "secret.txt")
    return Bench(FilesAgent(), workspace)


def run(files: Bench, action: str, **params: Any) -> Outcome:
    cwd = params.pop("cwd", None)
    return files.run(params={"action": action, **params}, cwd=cwd)


def refusal(files: Bench, **params: Any) -> tuple[str, str]:
    with pytest.raises(InvalidError) as caught:
        files.agent.check(files.order(params=params))
    issue = caught.value.issues[0]
    assert issue.fix
    return issue.field, issue.message


def test_a_folder_is_listed(files: Bench):
    listed = run(files, "list")
    assert listed.completed
    assert listed.text.splitlines() == [
        ".git/",
        "link (a link)",
        "notes.md (20 bytes)",
        "picture.png (13 bytes)",
        "src/",
    ]
    assert listed.say == "5 entries."
    deep = run(files, "list", depth=3).text.splitlines()
    assert "src/app.py (42 bytes)" in deep
    assert not any(line.startswith((".git/c", "link/")) for line in deep)
    assert run(files, "list", path="src").text.splitlines()[0] == "app.py (42 bytes)"


def test_a_list_is_cut_and_says_so(files: Bench):
    assert files.workspace is not None
    for number in range(1100):
        (files.workspace / "src" / f"{number:04}").touch()
    listed = run(files, "list", path="src")
    assert len(listed.text.splitlines()) == 1000
    assert "more than the first 1000" in listed.say


def test_a_file_is_read_in_parts(files: Bench):
    whole = run(files, "read", path="src/app.py")
    assert whole.text == "import os\n\ndef main():\n    return 'Hello'\n"
    assert whole.say.startswith("4 lines. It begins: import os")
    part = run(files, "read", path="./src//app.py", offset=7, limit=2)
    assert part.text == "os"
    assert "Read on with offset 9." in part.say
    assert run(files, "read", path="src/app.py", offset=10**9).text == ""


def test_a_search_finds_lines_and_leaves_out_what_is_no_text(files: Bench):
    found = run(files, "search", query="hello")
    assert found.text.splitlines() == ["notes.md:2: hello there"]
    found = run(files, "search", query="hello", ignore_case=True)
    assert found.text.splitlines() == ["notes.md:2: hello there", "src/app.py:4: return 'Hello'"]
    assert found.say.startswith("2 lines found. Files that are no text")
    assert run(files, "search", query="hello", path="src").say == "Nothing was found."
    assert run(files, "search", query=".*").text == "", "it is no pattern"


def test_a_file_is_made_and_only_replaced_on_request(files: Bench):
    assert files.workspace is not None
    place = files.workspace / "docs" / "new" / "a.md"
    assert run(files, "write", path="docs/new/a.md", content="one\n").text == "Made docs/new/a.md: 4 bytes."
    again = run(files, "write", path="docs/new/a.md", content="two\n")
    assert not again.completed
    assert "there already" in again.say
    assert place.read_text() == "one\n"
    assert run(files, "write", path="docs/new/a.md", content="two\n", if_exists="append").completed
    assert place.read_text() == "one\ntwo\n"
    place.chmod(0o755)
    assert run(files, "write", path="docs/new/a.md", content="ümlaut", if_exists="replace").completed
    assert place.read_text() == "ümlaut"
    assert place.stat().st_mode & 0o777 == 0o755
    assert os.listdir(place.parent) == ["a.md"]


@pytest.mark.parametrize("path", ["link/secret.txt", "src/secret.txt", "link/new.txt", "src/secret.txt/x"])
def test_no_link_is_followed(files: Bench, path: str):
    assert files.workspace is not None
    for action, more in (("read", {}), ("write", {"content": "x", "if_exists": "replace"})):
        outcome = run(files, action, path=path, **more)
        assert not outcome.completed
        assert "secret\n" not in outcome.text
    outside = files.workspace.parent / "outside"
    assert os.listdir(outside) == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "hello secret\n"
    assert "link" in run(files, "list", path="link").text
    assert not run(files, "list", path="link").completed
    assert "secret" not in run(files, "search", query="hello").text


def test_a_working_folder_that_became_a_link_is_not_followed(files: Bench):
    assert files.workspace is not None
    outcome = run(files, "read", path="secret.txt", cwd=files.workspace / "link")
    assert not outcome.completed
    assert "link" in outcome.text


def test_what_is_no_file_is_not_waited_for(files: Bench):
    assert files.workspace is not None
    os.mkfifo(files.workspace / "pipe")
    assert "no file" in run(files, "read", path="pipe").text
    assert "no file" in run(files, "write", path="pipe", content="x", if_exists="append").text
    assert "no file" in run(files, "read", path="src").text
    assert "no text" in run(files, "read", path="picture.png").text
    assert "There is no nowhere" in run(files, "read", path="nowhere").text
    assert run(files, "search", query="hello").completed


def test_odd_names_stay_on_one_line(files: Bench):
    assert files.workspace is not None
    (files.workspace / "a\nb\x1b[31m").write_text("hello")
    os.close(os.open(os.fsencode(files.workspace) + b"/\xff", os.O_CREAT))
    lines = run(files, "list").text.splitlines()
    assert len(lines) == 7
    assert not any("\x1b" in line for line in lines)
    assert "a\\nb\\x1b[31m (5 bytes)" in lines


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "action"),
        ({"action": "delete"}, "action"),
        ({"action": ["read"]}, "action"),
        ({"action": "read"}, "path"),
        ({"action": "read", "path": "/etc/passwd"}, "path"),
        ({"action": "read", "path": "~/x"}, "path"),
        ({"action": "read", "path": "src/../../x"}, "path"),
        ({"action": "read", "path": "a\0b"}, "path"),
        ({"action": "read", "path": 7}, "path"),
        ({"action": "read", "path": "x", "offset": -1}, "offset"),
        ({"action": "read", "path": "x", "limit": 2**21}, "limit"),
        ({"action": "read", "path": "x", "limit": True}, "limit"),
        ({"action": "read", "path": "x", "content": "y"}, "content"),
        ({"action": "list", "depth": 11}, "depth"),
        ({"action": "search"}, "query"),
        ({"action": "search", "query": ""}, "query"),
        ({"action": "search", "query": "a\nb"}, "query"),
        ({"action": "search", "query": "a", "ignore_case": "yes"}, "ignore_case"),
        ({"action": "write", "path": "x"}, "content"),
        ({"action": "write", "path": "x", "content": "y", "if_exists": "maybe"}, "if_exists"),
        ({"action": "write", "path": "x", "content": "y" * (2**20 + 1)}, "content"),
        ({"action": "write", "path": ".git/hooks/pre-commit", "content": "y"}, "path"),
        ({"action": "write", "path": "sub/.GIT/config", "content": "y"}, "path"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_field(files: Bench, params: dict[str, Any], field: str):
    assert refusal(files, **params)[0] == f"params.{field}"


def test_only_writing_counts_as_a_change(files: Bench):
    for params in ({"action": "list"}, {"action": "read", "path": "x"}, {"action": "search", "query": "x"}):
        assert files.reads(params=params)
    checked = files.agent.check(files.order(params={"action": "write", "path": "a//b", "content": ""}))
    assert (checked.argv, checked.reads_only, checked.contained) == (("files", "write", "a/b"), False, False)
