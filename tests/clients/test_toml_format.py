"""Changing TOML as text: tables come and go, comments stay."""

from __future__ import annotations

import tomllib

import pytest

from mcp_server.clients.format import UnreadableError
from mcp_server.clients.formats.toml_format import TOML

KEYS = ("mcp_servers", "offhand")
ENTRY = {"command": "/opt/offhand-mcp", "args": [], "env": {"PATH": "/usr/bin:/bin"}}

FILES = {
    "empty": "",
    "comment": "# nothing yet\n",
    "values": 'model = "x"  # mine\n',
    "servers": '[mcp_servers.other]\ncommand = "y"\n\n# about profiles\n[profiles.a]\nx = 1\n',
    "parent": '[mcp_servers]\n# all of them\n[mcp_servers.other]\ncommand = "y"\n',
    "arrays": '[[things]]\na = [\n  ["x"],\n]\n\n[[things]]\n',
    "crlf": 'model = "x"\r\n\r\n[profiles.a]\r\nx = 1\r\n',
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_server_is_added_at_the_end_and_removed_again(text: str):
    changed = TOML.set(text, KEYS, ENTRY)

    assert changed.startswith(text.rstrip())
    assert tomllib.loads(changed)["mcp_servers"]["offhand"] == ENTRY
    assert TOML.read(changed) == tomllib.loads(changed)
    assert ("\r\n" in text) == ("\r\n" in changed)
    assert TOML.remove(changed, KEYS) == text


AMONG_OTHERS = """\
# mine
[mcp_servers.offhand] # old
command = "y"
args = [
  "a",
]

# about profiles
[profiles.a]
x = 1

[mcp_servers.'offhand'.env]
PATH = "b" # and this

# tail
[[things]]
command = "q"
"""


def test_comments_in_front_of_other_tables_stay_when_a_server_is_removed():
    assert TOML.remove(AMONG_OTHERS, KEYS) == (
        '# mine\n\n# about profiles\n[profiles.a]\nx = 1\n\n\n# tail\n[[things]]\ncommand = "q"\n'
    )


def test_a_value_of_the_entry_is_changed_in_its_place():
    changed = TOML.set(TOML.set(AMONG_OTHERS, (*KEYS, "command"), "c"), (*KEYS, "env", "PATH"), "d")

    assert changed == AMONG_OTHERS.replace('"y"', '"c"').replace('"b"', '"d"')


@pytest.mark.parametrize(
    "text",
    [
        'mcp_servers = { offhand = { command = "a" }, b = { command = "q" } } # c\nz = 1\n',
        'mcp_servers.offhand.command = "a" # c\nmcp_servers.b.command = "q"\nz = 1\n',
        'z = 1\n[mcp_servers]\noffhand.command = "a"\nb = { command = "q" }\n',
    ],
)
def test_other_ways_to_write_a_table_are_changed_too(text: str):
    changed = TOML.set(text, (*KEYS, "env", "PATH"), "/bin")
    removed = TOML.remove(changed, KEYS)

    assert tomllib.loads(changed)["mcp_servers"]["offhand"] == {"command": "a", "env": {"PATH": "/bin"}}
    assert tomllib.loads(removed) == {"z": 1, "mcp_servers": {"b": {"command": "q"}}}
    assert TOML.remove(removed, KEYS) == removed


@pytest.mark.parametrize("text", ["[open", "a = 1\na = 2\n", "x", "a = [" * 100_000])
def test_what_is_not_toml_is_refused_with_a_reason(text: str):
    for act in (TOML.read, lambda text: TOML.set(text, KEYS, ENTRY), lambda text: TOML.remove(text, KEYS)):
        with pytest.raises(UnreadableError, match=r"\w"):
            act(text)


def test_a_value_where_a_table_should_be_is_refused():
    with pytest.raises(UnreadableError, match=r"mcp_servers\.offhand is no table"):
        TOML.set("mcp_servers = { offhand = 3 }", (*KEYS, "command"), "x")
