"""Workspaces: where tasks may work, symlinks and all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_server.errors import ForbiddenError, InvalidError, TooLargeError
from mcp_server.workspaces import Workspaces


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace `work` with a folder, a file, and symlinks in and out; beside it lies what is not ours."""
    root = tmp_path / "work"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "file").write_text("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "work-evil").mkdir()
    (root / "inner").symlink_to(root / "sub")
    (root / "escape").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    return root


@pytest.fixture
def workspaces(root: Path) -> Workspaces:
    """The only workspace is `work`."""
    return Workspaces({"work": root})


def test_the_only_workspace_is_the_default(workspaces: Workspaces, root: Path):
    place = workspaces.resolve(None, None)
    assert (place.workspace, place.root, place.cwd) == ("work", root, root)


@pytest.mark.parametrize(
    ("workspace", "working_dir", "cwd"),
    [
        ("work", None, "."),
        ("work", "sub", "sub"),
        ("work", "./sub/../sub/deep", "sub/deep"),
        (None, "sub", "sub"),
        ("work", "inner/deep", "sub/deep"),
        ("work", ".", "."),
        ("work", "sub/..", "."),
    ],
)
def test_a_folder_in_a_workspace_is_resolved(
    workspace: str | None, working_dir: str | None, cwd: str, workspaces: Workspaces, root: Path
):
    place = workspaces.resolve(workspace, working_dir)
    assert (place.workspace, place.root, place.cwd) == ("work", root, root / cwd)


def test_a_workspace_can_be_named_by_path(workspaces: Workspaces, root: Path):
    for place in (
        workspaces.resolve(str(root), None),
        workspaces.resolve(None, str(root)),
        workspaces.resolve("work", str(root)),
    ):
        assert (place.workspace, place.cwd) == ("work", root)
    assert workspaces.resolve(None, str(root / "sub")).cwd == root / "sub"
    assert workspaces.resolve(str(root / "sub"), None).cwd == root / "sub"


OUTSIDE: dict[str, Callable[[Path], str]] = {
    "an absolute path": lambda root: str(root.parent / "outside"),
    "the folder above": lambda _root: "..",
    "far above": lambda _root: "../../../../../../etc",
    "a symlink": lambda _root: "escape",
    "a symlink to the folder above": lambda _root: "up",
    "a sibling with the same beginning": lambda root: str(root.parent / "work-evil"),
    "a sibling by a relative path": lambda _root: "../work-evil",
    "the root": lambda _root: "/",
    "the user's home": lambda _root: "~",
    "a folder that does not exist": lambda _root: "/nowhere/at/all",
}


@pytest.mark.parametrize("kind", OUTSIDE)
@pytest.mark.parametrize("workspace", ["work", None])
def test_a_folder_outside_is_refused(kind: str, workspace: str | None, workspaces: Workspaces, root: Path):
    with pytest.raises(ForbiddenError) as caught:
        workspaces.resolve(workspace, OUTSIDE[kind](root))
    (issue,) = caught.value.issues
    assert issue.field == "working_dir"
    assert "work" in issue.fix


@pytest.mark.parametrize("working_dir", ["nothing", "file", "file/x", "loop", "x" * 300])
def test_what_is_no_folder_in_the_workspace_is_refused(working_dir: str, workspaces: Workspaces):
    with pytest.raises(InvalidError) as caught:
        workspaces.resolve("work", working_dir)
    assert caught.value.issues[0].field == "working_dir"


@pytest.mark.parametrize("value", ["a\x00b", "\ud800", "", " "])
def test_a_path_that_is_no_text_is_refused(value: str, workspaces: Workspaces):
    for arguments, field in (((None, value), "working_dir"), ((value, None), "workspace")):
        with pytest.raises(InvalidError) as caught:
            workspaces.resolve(*arguments)
        assert caught.value.issues[0].field == field
    with pytest.raises(TooLargeError):
        workspaces.resolve(None, "x" * 10_000)


def test_an_unknown_workspace_is_named_with_those_that_exist(workspaces: Workspaces):
    with pytest.raises(InvalidError) as caught:
        workspaces.resolve("wrok", None)
    assert "'wrok'" in caught.value.message
    assert caught.value.issues[0].fix == "Known are: work."


def test_of_several_workspaces_one_must_be_named(root: Path):
    several = Workspaces({"work": root, "outside": root.parent / "outside"})
    with pytest.raises(InvalidError) as caught:
        several.resolve(None, None)
    assert caught.value.issues[0].fix == "Name one of them: work, outside."
    assert several.resolve("outside", None).workspace == "outside"
    assert several.resolve("work", "sub").workspace == "work"


def test_a_named_workspace_does_not_let_into_another(root: Path):
    several = Workspaces({"work": root, "outside": root.parent / "outside"})
    for working_dir in (str(root.parent / "outside"), "escape"):
        with pytest.raises(ForbiddenError):
            several.resolve("work", working_dir)
    assert several.resolve(None, str(root.parent / "outside")).workspace == "outside"


def test_without_workspaces_there_is_a_way_to_add_one():
    with pytest.raises(InvalidError) as caught:
        Workspaces({}).resolve(None, None)
    assert "offhand workspace add" in caught.value.issues[0].fix


def test_the_innermost_workspace_owns_a_path(root: Path):
    nested = Workspaces({"work": root, "sub": root / "sub"})
    assert nested.resolve(None, str(root / "sub" / "deep")).workspace == "sub"
    assert nested.resolve(None, str(root)).workspace == "work"


def test_a_workspace_behind_a_symlink_is_its_target(root: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(root)
    workspaces = Workspaces({"work": link})
    assert workspaces.resolve("work", "sub").cwd == root / "sub"
    assert workspaces.resolve(None, str(root / "sub")).cwd == root / "sub"
    assert workspaces.roots() == [root]


def test_a_workspace_that_is_gone_says_so(tmp_path: Path):
    gone = Workspaces({"work": tmp_path / "gone"})
    with pytest.raises(InvalidError) as caught:
        gone.resolve("work", None)
    assert "gone" in caught.value.message
    assert "offhand workspace remove" in caught.value.issues[0].fix
    assert gone.root("work") == tmp_path / "gone"
    assert gone.root("unknown") is None
    assert gone.names() == ["work"]
