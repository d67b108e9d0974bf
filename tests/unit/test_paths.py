"""Where our files lie."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import platformdirs
import pytest

from mcp_server.paths import SOCKET_PATH_LIMIT_BYTES, home_folder, make_private, read_server_file, socket_folder


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OFFHAND_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("data_home", [None, "", "  ", "relative/folder", "/somewhere/data", "/somewhere/data/"])
def test_the_default_is_the_platforms_folder_for_a_users_data(
    data_home: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    if data_home is not None:
        monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert home_folder() == Path(platformdirs.user_data_dir("offhand", appauthor=False))
    if data_home is None and sys.platform == "linux":
        assert home_folder() == tmp_path / ".local" / "share" / "offhand"


def test_offhand_home_wins_and_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    monkeypatch.setenv("OFFHAND_HOME", "~/mine")
    assert home_folder() == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFHAND_HOME", "here/../there")
    assert home_folder() == tmp_path / "there"


def test_the_folder_is_not_made_by_asking(tmp_path: Path):
    assert not home_folder().exists()


def test_a_private_folder_is_private_whatever_it_was(tmp_path: Path):
    new = make_private(tmp_path / "a" / "b")
    assert new.stat().st_mode & 0o777 == 0o700
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o755)
    wide.chmod(0o755)
    assert make_private(wide).stat().st_mode & 0o777 == 0o700


def test_sockets_stay_at_home_while_their_path_is_short_enough():
    home = Path("/" + "h" * (SOCKET_PATH_LIMIT_BYTES - len("//mcp.sock")))
    assert len(os.fsencode(home / "mcp.sock")) == SOCKET_PATH_LIMIT_BYTES
    assert socket_folder(home) == home


@pytest.mark.parametrize("letter", ["h", "é"])
def test_sockets_move_to_the_runtime_folder_where_their_path_would_be_too_long(
    letter: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    home = Path("/" + letter * (SOCKET_PATH_LIMIT_BYTES // len(letter.encode())))
    folder = socket_folder(home)
    assert folder.parent == Path("/run/user/1000")
    assert folder.name.startswith(f"offhand-{os.getuid()}-")
    assert len(os.fsencode(folder / "mcp.sock")) <= SOCKET_PATH_LIMIT_BYTES
    assert socket_folder(home) == folder
    assert socket_folder(home.with_name(home.name + "2")) != folder, "two homes never share their sockets"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b"7"])
def test_a_damaged_server_file_is_as_good_as_none(content: bytes | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "server.json").write_bytes(content)
    assert read_server_file(tmp_path) is None


def test_the_server_file_is_read(tmp_path: Path):
    (tmp_path / "server.json").write_text(json.dumps({"pid": 1, "port": 8787}))
    assert read_server_file(tmp_path) == {"pid": 1, "port": 8787}
