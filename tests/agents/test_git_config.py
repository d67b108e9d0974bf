"""Our reading of a git configuration finds whatever git finds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcp_server.agents.git_config import ConfigError, Entry, read_config

PIECES = [
    "[filter]",
    "[filter.Low]",
    '[filter "Quoted"]',
    '[FILTER "a.b c=d"]',
    '[a.b "c"]',
    '[a "q\\"\\\\x"]',
    "[core",
    "]",
    "[",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\\\n",
    "clean",
    "Key-1",
    "=",
    " = value with  spaces ",
    '"',
    '"quo;ted"',
    "\\t",
    "\\q",
    "\\",
    "# comment",
    "; comment",
    "é",
    "1",
]


def as_git_reads_it(path: Path) -> set[tuple[str, str]] | None:
    done = subprocess.run(
        ["git", "config", "--file", str(path), "--null", "--list"], capture_output=True, timeout=30, check=False
    )
    if done.returncode:
        return None
    entries = [entry.partition("\n") for entry in done.stdout.decode().split("\0") if entry]
    return {(name, value) for name, _, value in entries}


def as_we_read_it(path: Path) -> set[tuple[str, str]] | None:
    def name(entry: Entry) -> str:
        return ".".join(part for part in (entry.section, entry.subsection, entry.key) if part)

    try:
        return {(name(entry), entry.value) for entry in read_config(path) if entry.key}
    except ConfigError:
        return None


@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "80")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example('[a]b=c # d\ne="f # g" h ; i\nj\n')
@example('[a][filter "x"]clean=y')
@example("[a]b=c\\\nd")
@example('[a]b=\\"c d\\"  \n')
@example("\ufeff[a]b=c")
def test_what_git_reads_we_read(tmp_path: Path, text: str):
    path = tmp_path / "config"
    path.write_bytes(text.encode())
    read = as_git_reads_it(path)
    if read is not None:
        assert as_we_read_it(path) in (read, None)


def test_an_ordinary_configuration_is_read_in_full(tmp_path: Path):
    path = tmp_path / "config"
    path.write_text(
        '[core]\n\tbare = false\n[remote "origin"]\n\turl = "a b" # c\n\tfetch = +refs/*:refs/*\n[x]\n\ty\n'
    )
    assert as_we_read_it(path) == as_git_reads_it(path)


def test_a_section_without_variables_is_told_too(tmp_path: Path):
    path = tmp_path / "config"
    path.write_text('[filter "x"]')
    assert read_config(path) == [Entry("filter", "x", "", "")]


@pytest.mark.parametrize("content", [b"\xff", b"\0", b"[a", b"x=y y=\\q"])
def test_what_git_would_refuse_is_refused(tmp_path: Path, content: Any):
    path = tmp_path / "config"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_config(path)
