"""The settings: from the command line, the environment and the file, in this order."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_server.errors import InvalidError
from mcp_server.settings import PolicyRule, Settings, load_settings, write_workspaces


@pytest.fixture
def file(home: Path) -> Path:
    """Where `offhand.toml` would be."""
    home.mkdir()
    return home / "offhand.toml"


def test_everything_has_a_default(home: Path):
    settings = load_settings()
    assert (settings.home, settings.host, settings.port) == (home, "127.0.0.1", 8787)
    assert (settings.public_url, settings.api_key, settings.workspaces, settings.policy) == (None, None, {}, ())
    assert (settings.default_agent, settings.limit, settings.idle_seconds) == ("claude_code", 4, 600.0)


def test_command_line_beats_environment_beats_file(file: Path, monkeypatch: pytest.MonkeyPatch):
    file.write_text('port = 1000\nhost = "::1"\nlimit = 7\n')
    assert (load_settings().port, load_settings().host, load_settings().limit) == (1000, "::1", 7)
    monkeypatch.setenv("OFFHAND_PORT", "2000")
    monkeypatch.setenv("OFFHAND_LIMIT", "8")
    assert (load_settings().port, load_settings().limit) == (2000, 8)
    assert load_settings(port=0, limit=None).port == 0
    assert load_settings(port=0, limit=None).limit == 8


def test_every_variable_of_the_contract_is_read(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("OFFHAND_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("OFFHAND_HOST", "0.0.0.0")
    monkeypatch.setenv("OFFHAND_PUBLIC_URL", "https://desk.example/offhand")
    monkeypatch.setenv("OFFHAND_API_KEY", "a-long-key-for-containers")
    monkeypatch.setenv("OFFHAND_PASS_ENV", "ANTHROPIC_API_KEY, GH_TOKEN,")
    settings = load_settings()
    assert (settings.home, settings.host) == (tmp_path / "other", "0.0.0.0")
    assert str(settings.public_url) == "https://desk.example/offhand"
    assert settings.api_key == "a-long-key-for-containers"
    assert settings.pass_env == ("ANTHROPIC_API_KEY", "GH_TOKEN")


def test_the_file_of_the_design_is_understood(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file.write_text(
        'default_agent = "echo"\n[workspaces]\noffhand = "~/src/offhand"\n'
        '[[policy]]\nlevel = "phone"\nagent = "shell"\ncommand = ["pytest", "*"]\ndecision = "allow"\n'
    )
    settings = load_settings()
    assert settings.workspaces == {"offhand": tmp_path / "src" / "offhand"}
    assert settings.policy == (PolicyRule(decision="allow", level="phone", agent="shell", command=("pytest", "*")),)


BAD = {
    "a port that is none": ("port = 70000", "port"),
    "a word for a number": ('limit = "many"', "limit"),
    "an unknown key": ("colour = 1", "colour"),
    "a level that is none": ('[[policy]]\ndecision = "allow"\nlevel = "guest"', "policy.0.level"),
    "a rule without a decision": ('[[policy]]\nagent = "git"', "policy.0.decision"),
    "an unknown key in a rule": ('[[policy]]\ndecision = "deny"\nargv = ["x"]', "policy.0.argv"),
    "an empty command": ('[[policy]]\ndecision = "deny"\ncommand = []', "policy.0.command"),
    "a command as a string": ('[[policy]]\ndecision = "deny"\ncommand = "rm *"', "policy.0.command"),
    "no address": ('public_url = "desk"', "public_url"),
    "no word for mcp_auth": ("mcp_auth = false", "mcp_auth"),
    "no key for who comes from elsewhere": ('host = "0.0.0.0"\nmcp_auth = "off"', "mcp_auth"),
    "a list of workspaces": ('workspaces = ["x"]', "workspaces"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_value_that_cannot_be_used_is_named_with_where_it_stands(kind: str, file: Path):
    text, field = BAD[kind]
    file.write_text(text)
    with pytest.raises(InvalidError) as caught:
        load_settings()
    assert field in [issue.field for issue in caught.value.issues], caught.value.issues
    assert all(str(file) in issue.fix for issue in caught.value.issues)
    assert field in caught.value.message


def test_a_secret_is_not_repeated_in_an_error(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OFFHAND_API_KEY", "hush-hush-hush-hush-hush")
    monkeypatch.setenv("OFFHAND_PORT", "none")
    with pytest.raises(InvalidError) as caught:
        load_settings()
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(load_settings(port=1)), "nor in a log of the settings"


@pytest.mark.parametrize("content", [b"port = ", b"= 1", b"[workspaces\n", b"port = 1\nport = 2", b"a = '\xff'"])
def test_a_file_that_is_not_toml_is_named(content: bytes, file: Path):
    file.write_bytes(content)
    with pytest.raises(InvalidError) as caught:
        load_settings()
    assert str(file) in caught.value.message
    assert caught.value.issues[0].fix


def test_a_variable_that_is_not_json_is_named(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OFFHAND_WORKSPACES", "not json")
    with pytest.raises(InvalidError, match="workspaces"):
        load_settings()


def test_settings_do_not_change(home: Path):
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_workspaces_are_written_and_the_users_comments_stay(file: Path):
    file.write_text("# my settings\nport = 1000  # mine\n\n[workspaces]\nold = '/old' # keep\n")
    assert write_workspaces({"new": "/new"}) == {"old": "/old", "new": "/new"}
    text = file.read_text()
    assert "# my settings\nport = 1000  # mine\n" in text
    assert "old = '/old' # keep\n" in text
    assert Settings().workspaces == {"old": Path("/old"), "new": Path("/new")}
    assert write_workspaces({"old": None, "unknown": None}) == {"new": "/new"}
    assert load_settings().port == 1000
    assert [entry.name for entry in file.parent.iterdir()] == ["offhand.toml"]


def test_the_first_workspace_makes_a_private_file(file: Path):
    assert write_workspaces({}) == {}
    assert not file.exists()
    assert write_workspaces({"a name with spaces": "/x"}) == {"a name with spaces": "/x"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_settings().workspaces == {"a name with spaces": Path("/x")}
