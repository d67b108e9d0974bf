"""Clones of real repositories, and agents in them that do everything they should not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from mcp_server.drivers.clone import PlaceError
from mcp_server.drivers.repository import Repository
from tests.drivers.repositories import DEADLINE_SECONDS, USER, Ground


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    # No settings of the machine that the tests run on.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return Ground(tmp_path)


def trap(ground: Ground) -> tuple[Path, str]:
    """A program that leaves a mark where it ran, and the mark."""
    mark = ground.root / "sprung"
    program = ground.write("trap.sh", f"#!/bin/sh\ntouch {mark}\nexec cat\n", under=ground.root)
    program.chmod(0o755)
    return mark, str(program)


async def test_work_comes_back_as_one_commit_on_a_branch(ground: Ground) -> None:
    before = ground.untouched()
    place = await ground.prepare()
    (place.folder / "app.py").write_text("print('one')\nprint('two')\n")
    (place.folder / "new file.txt").write_text("new\n")
    (place.folder / "lib/deep/part.py").unlink()
    work = await ground.keep(place)
    branch = "offhand/task-7-add-a-second-line"
    assert work["branch"] == branch
    assert work["commit"] == ground.git("rev-parse", branch)
    assert (
        ground.git("log", "-1", "--format=%an|%ae|%cn|%s", branch) == f"{USER[0]}|{USER[1]}|{USER[0]}|Add a second line"
    )
    assert ground.git("rev-parse", f"{branch}^") == work["base"] == ground.git("rev-parse", "main")
    assert {(file["path"], file["change"], file["insertions"], file["deletions"]) for file in work["files"]} == {
        ("app.py", "changed", 1, 0),
        ("new file.txt", "added", 1, 0),
        ("lib/deep/part.py", "deleted", 0, 1),
    }
    assert "+print('two')" in ground.diff
    assert ground.untouched() == before
    ground.git("fsck", "--strict")


async def test_many_files_come_back_as_one_pack(ground: Ground) -> None:
    place = await ground.prepare()
    for number in range(150):
        (place.folder / f"{number}").write_text(f"{number}\n")
    work = await ground.keep(place)
    assert len(work["files"]) == 150
    assert len(list((ground.repository / ".git/objects/pack").glob("*.pack"))) == 1
    ground.git("fsck", "--strict")


async def test_nothing_changed_leaves_no_branch(ground: Ground) -> None:
    place = await ground.prepare()
    os.utime(place.folder / "app.py")
    work = await ground.keep(place)
    assert (work["branch"], work["commit"], work["files"], work["diff"]) == (None, None, [], None)
    assert ground.git("branch", "--format=%(refname:short)") == "main"


async def test_a_task_with_pauses_is_one_commit_with_all_of_its_files(ground: Ground) -> None:
    before = ground.untouched()
    place = await ground.prepare()
    (place.folder / "first.txt").write_text("1\n")
    paused = await ground.pause(place)
    assert ground.git("branch", "--format=%(refname:short)") == "main"
    assert (paused["branch"], paused["commit"], paused["clone"]) == (
        None,
        None,
        str(ground.root / "ours/clones/7/work"),
    )
    assert [file["path"] for file in paused["files"]] == ["first.txt"]
    again = await ground.prepare()
    assert (again.folder / "first.txt").read_text() == "1\n"
    (again.folder / "second.txt").write_text("2\n")
    await ground.pause(again)
    again = await ground.prepare()
    (again.folder / "third.txt").write_text("3\n")
    work = await ground.keep(again)
    assert ground.git("rev-parse", f"{work['branch']}^") == work["base"] == ground.git("rev-parse", "main")
    assert [file["path"] for file in work["files"]] == ["first.txt", "second.txt", "third.txt"]
    assert all(name in ground.diff for name in ("first.txt", "second.txt", "third.txt"))
    assert "clone" not in work
    assert ground.untouched() == before


async def test_work_of_a_task_that_was_paused_and_never_went_on_comes_with_the_next(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "first.txt").write_text("1\n")
    await ground.pause(place)
    place = await ground.prepare(task_id="second", task_number=8)
    (place.folder / "second.txt").write_text("2\n")
    work = await ground.keep(place)
    assert [file["path"] for file in work["files"]] == ["first.txt", "second.txt"]
    assert ground.git("show", f"{work['branch']}:first.txt") == "1"


async def test_a_pause_in_review_has_nothing_to_note(ground: Ground) -> None:
    assert await ground.pause(await ground.prepare(profile="review")) == {}


async def test_review_keeps_nothing(ground: Ground) -> None:
    place = await ground.prepare(profile="review")
    (place.folder / "app.py").write_text("changed")
    assert await ground.keep(place) == {}
    assert ground.git("branch", "--format=%(refname:short)") == "main"


async def test_a_dirty_checkout_is_said_and_not_cloned(ground: Ground) -> None:
    ground.write("app.py", "print('mine')\n")
    place = await ground.prepare()
    assert (place.folder / "app.py").read_text() == "print('one')\n"
    assert any("uncommitted changes" in said for said in ground.said)
    assert (await ground.keep(place))["dirty"] is True


@pytest.mark.parametrize("what", ["untracked", "staged", "split index"])
async def test_each_kind_of_dirt_is_seen(ground: Ground, what: str) -> None:
    if what == "split index":
        ground.git("update-index", "--split-index")
        ground.write("app.py", "changed")
    else:
        ground.write("extra", "x")
        if what == "staged":
            ground.git("add", "extra")
    place = await ground.prepare()
    assert (await ground.keep(place))["dirty"] is True


async def test_a_clean_checkout_is_not_called_dirty(ground: Ground) -> None:
    ground.write(".gitignore", "build/\n")
    ground.commit("Ignore")
    ground.write("build/out", "x")
    ground.git("update-index", "--split-index")
    place = await ground.prepare()
    assert (await ground.keep(place))["dirty"] is False


async def test_conflicts_in_the_checkout_do_not_matter_but_are_said(ground: Ground) -> None:
    ground.git("checkout", "-q", "-b", "side")
    ground.write("app.py", "side\n")
    ground.commit("Side")
    ground.git("checkout", "-q", "main")
    ground.write("app.py", "main\n")
    ground.commit("Main")
    ground.git("merge", "side", fails=True)
    before = ground.untouched()
    place = await ground.prepare()
    assert (place.folder / "app.py").read_text() == "main\n"
    (place.folder / "app.py").write_text("agent\n")
    assert (await ground.keep(place))["dirty"] is True
    assert ground.untouched() == before


async def test_a_follow_up_goes_on_in_the_same_branch(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    first = await ground.keep(place)
    again = await ground.prepare(task_id="second", task_number=8, prompt="And a third", slug="and-a-third")
    assert (again.folder, again.branch) == (place.folder, place.branch)
    (again.folder / "app.py").write_text("three\n")
    second = await ground.keep(again)
    assert second["branch"] == first["branch"]
    assert second["base"] == first["commit"] == ground.git("rev-parse", f"{first['branch']}^")
    assert "-two" in ground.diff


async def test_a_second_attempt_of_a_task_reports_the_work_of_both(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "one").write_text("1\n")
    await ground.keep(place)
    again = await ground.prepare()
    (again.folder / "two").write_text("2\n")
    assert [file["path"] for file in (await ground.keep(again))["files"]] == ["one", "two"]


async def test_a_follow_up_takes_over_the_users_own_commits(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    ground.git("checkout", "-q", work["branch"])
    ground.write("mine.txt", "mine\n")
    mine = ground.commit("Mine")
    ground.git("checkout", "-q", "main")
    again = await ground.prepare(task_id="second", task_number=8)
    assert (again.folder / "mine.txt").read_text() == "mine\n"
    (again.folder / "app.py").write_text("three\n")
    after = await ground.keep(again)
    assert after["branch"] == work["branch"]
    assert ground.git("rev-parse", f"{work['branch']}^") == mine


async def test_a_branch_that_went_another_way_is_not_overwritten(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    ground.git("branch", "-f", work["branch"], "main")
    ground.git("checkout", "-q", work["branch"])
    ground.write("other", "other\n")
    theirs = ground.commit("Another way")
    ground.git("checkout", "-q", "main")
    again = await ground.prepare(task_id="second", task_number=8)
    (again.folder / "app.py").write_text("three\n")
    after = await ground.keep(again)
    assert after["branch"] == f"{work['branch']}-2"
    assert ground.git("rev-parse", work["branch"]) == theirs
    assert ground.git("show", f"{after['branch']}:app.py") == "three"
    third = await ground.prepare(task_id="third", task_number=9)
    assert third.branch == after["branch"]


async def test_a_branch_that_the_user_is_on_is_left_alone(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    ground.git("checkout", "-q", work["branch"])
    again = await ground.prepare(task_id="second", task_number=8)
    (again.folder / "app.py").write_text("three\n")
    after = await ground.keep(again)
    assert after["branch"] == f"{work['branch']}-2"
    assert ground.git("status", "--porcelain") == ""


async def test_a_clone_that_was_cleaned_away_is_made_again(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    assert place.clone is not None
    shutil.rmtree(place.clone)
    again = await ground.prepare(task_id="second", task_number=8)
    assert (again.folder / "app.py").read_text() == "two\n"
    (again.folder / "app.py").write_text("three\n")
    after = await ground.keep(again)
    assert (after["branch"], after["base"]) == (work["branch"], work["commit"])


async def test_a_clone_that_was_left_half_made_is_made_anew(ground: Ground) -> None:
    place = await ground.prepare()
    assert place.clone is not None
    (place.clone / "clone.json").unlink()
    (place.folder / "app.py").unlink()
    again = await ground.prepare()
    assert (again.folder / "app.py").is_file()


async def test_what_an_earlier_store_left_under_this_number_is_not_used(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("of an earlier store\n")
    again = await ground.prepare(task_id="other", state={})
    assert (again.folder / "app.py").read_text() == "print('one')\n"


async def test_a_conversation_does_not_go_over_to_another_repository(tmp_path: Path, ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    await ground.keep(place)
    other = tmp_path / "other"
    ground.git("init", "-q", str(other))
    with pytest.raises(PlaceError, match="another repository"):
        await ground.prepare(task_id="second", folder=str(other), workspace=str(other))


@pytest.mark.parametrize("end", ["\u2028", "\u0085", "\x1c"])
async def test_names_with_strange_ends_of_lines_are_names_like_others(tmp_path: Path, ground: Ground, end: str) -> None:
    if end != "\x1c":  # git takes no such character into the name of a branch
        ground.git("branch", f"on{end}it")
    folder = tmp_path / f"odd{end}name"
    ground.repository.rename(folder)
    ground.repository = folder
    place = await ground.prepare(folder=str(folder), workspace=str(folder))
    (place.folder / "app.py").write_text("changed\n")
    work = await ground.keep(place)
    assert ground.git("rev-parse", work["branch"]) == work["commit"]


async def test_a_folder_whose_name_has_a_line_break_is_refused_in_words(tmp_path: Path, ground: Ground) -> None:
    folder = tmp_path / "two\nlines"
    ground.repository.rename(folder)
    with pytest.raises(PlaceError, match="line break"):
        await ground.prepare(folder=str(folder), workspace=str(folder))


@pytest.mark.parametrize("note", [None, "{}", "[", '{"branch": 1}'])
async def test_without_the_note_of_its_clone_the_work_stays_there(ground: Ground, note: str | None) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("changed\n")
    path = ground.root / "ours/clones/7/clone.json"
    path.unlink()
    if note is not None:
        path.write_text(note)
    with pytest.raises(PlaceError, match=r"It is still in .*/clones/7/work"):
        await ground.keep(place)


async def test_a_broken_reference_keeps_no_work_back(ground: Ground) -> None:
    missing = "1" * 40
    (ground.repository / ".git/packed-refs").write_text(f"{missing} refs/heads/broken\n")
    ground.write(".git/refs/remotes/origin/broken", f"{missing}\n")
    place = await ground.prepare()
    (place.folder / "app.py").write_text("changed\n")
    work = await ground.keep(place)
    assert ground.git("rev-parse", work["branch"]) == work["commit"]


@pytest.mark.parametrize(
    "lock", ["kept.git/index.lock", "kept.git/HEAD.lock", "kept.git/refs/heads/offhand/task-7-add-a-second-line.lock"]
)
async def test_locks_of_a_killed_git_keep_no_work_back(ground: Ground, lock: str) -> None:
    place = await ground.prepare()
    ground.write(lock, "", under=ground.root / "ours/clones/7")
    theirs = ground.write(".git/refs/heads/offhand/task-7-add-a-second-line.lock", "")
    os.utime(theirs, (1, 1))
    place = await ground.prepare()
    (place.folder / "app.py").write_text("changed\n")
    work = await ground.keep(place)
    assert ground.git("rev-parse", "offhand/task-7-add-a-second-line") == work["commit"]


async def test_a_lock_that_somebody_may_hold_is_left(ground: Ground) -> None:
    place = await ground.prepare()
    theirs = ground.write(".git/refs/heads/offhand/task-7-add-a-second-line.lock", "")
    (place.folder / "app.py").write_text("changed\n")
    with pytest.raises(PlaceError, match="lock"):
        await ground.keep(place)
    assert theirs.exists()


async def test_a_driver_that_is_killed_with_the_branch_brought_brings_it_once(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Repository.take

    async def killed(*given: Any) -> None:
        await take(*given)
        raise asyncio.CancelledError

    place = await ground.prepare()
    (place.folder / "app.py").write_text("changed\n")
    monkeypatch.setattr(Repository, "take", killed)
    with pytest.raises(asyncio.CancelledError):
        await ground.keep(place)
    monkeypatch.setattr(Repository, "take", take)
    note = json.loads((ground.root / "ours/clones/7/clone.json").read_text())
    assert note["commit"] == ground.git("rev-parse", note["branch"])
    place = await ground.prepare()
    work = await ground.keep(place)
    assert ground.git("for-each-ref", "--format=%(refname:short)", "refs/heads/offhand") == work["branch"]
    assert ground.git("rev-parse", work["branch"]) == work["commit"]
    assert [file["path"] for file in work["files"]] == ["app.py"]


async def test_names_that_git_does_not_take_are_said(ground: Ground) -> None:
    place = await ground.prepare()
    for name in ("git~1", ".git /config", "app.py"):
        ground.write(name, "x\n", under=place.folder)
    (place.folder / ".gitmodules").symlink_to("app.py")
    work = await ground.keep(place)
    assert {file["path"] for file in work["files"]} == {"app.py"}
    assert sorted(work["skipped"]) == [
        f"{name}: git takes no such name" for name in (".git /config", ".gitmodules", "git~1")
    ]


async def test_taken_names_are_not_taken_again(ground: Ground) -> None:
    ground.git("branch", "offhand/task-7-add-a-second-line")
    place = await ground.prepare()
    assert place.branch == "offhand/task-7-add-a-second-line-2"


async def test_a_branch_named_offhand_is_no_obstacle(ground: Ground) -> None:
    ground.git("branch", "offhand")
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    assert (await ground.keep(place))["branch"] == "offhand-task-7-add-a-second-line"


async def test_without_an_identity_the_commit_says_who_made_it(ground: Ground) -> None:
    ground.git("config", "--unset", "user.name")
    ground.git("config", "--unset", "user.email")
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    assert ground.git("log", "-1", "--format=%an <%ae>", work["branch"]) == "Offhand <offhand@localhost>"


async def test_a_subfolder_is_where_the_agent_works(ground: Ground) -> None:
    place = await ground.prepare(folder=str(ground.repository / "lib"))
    assert place.folder.name == "lib"
    (place.folder / "x").write_text("x")
    assert [file["path"] for file in (await ground.keep(place))["files"]] == ["lib/x"]


async def test_a_subfolder_that_no_commit_has(ground: Ground) -> None:
    (ground.repository / "fresh").mkdir()
    with pytest.raises(PlaceError, match="never committed"):
        await ground.prepare(folder=str(ground.repository / "fresh"))


async def test_a_subfolder_that_is_a_link_out_of_the_branch(ground: Ground) -> None:
    ground.git("checkout", "-q", "-b", "hostile")
    shutil.rmtree(ground.repository / "lib")
    (ground.repository / "lib").symlink_to(ground.root)
    ground.commit("Link")
    ground.git("checkout", "-q", "main")
    with pytest.raises(PlaceError):
        await ground.prepare(folder=str(ground.repository / "lib"), base="hostile")


async def test_starting_from_a_branch_by_name(ground: Ground) -> None:
    ground.git("checkout", "-q", "-b", "feature/x")
    ground.write("feature", "f\n")
    tip = ground.commit("Feature")
    ground.git("checkout", "-q", "main")
    place = await ground.prepare(base="feature/x")
    assert (place.folder / "feature").is_file()
    (place.folder / "more").write_text("m\n")
    work = await ground.keep(place)
    assert ground.git("rev-parse", f"{work['branch']}^") == tip
    assert ground.git("rev-parse", "feature/x") == tip


@pytest.fixture
def upstream(ground: Ground) -> Path:
    """A remote of the repository, which has a branch and a pull request that the repository has not."""
    remote = ground.root / "upstream.git"
    ground.git("clone", "-q", "--bare", str(ground.repository), str(remote))
    ground.git("remote", "add", "origin", str(remote))
    ground.git("checkout", "-q", "-b", "pr")
    ground.write("from-the-pull-request", "pr\n")
    ground.commit("Pull request")
    ground.git("push", "-q", "origin", "pr:refs/pull/12/head", "pr:refs/heads/only-there")
    ground.git("checkout", "-q", "main")
    ground.git("branch", "-q", "-D", "pr")
    ground.git("remote", "set-url", "origin", str(remote))
    ground.git("update-ref", "-d", "refs/remotes/origin/only-there")
    ground.git("reflog", "expire", "--expire=now", "--all")
    ground.git("gc", "-q", "--prune=now")
    return remote


@pytest.mark.parametrize("base", ["pull/12", "only-there"])
async def test_starting_from_what_only_the_remote_has(ground: Ground, upstream: Path, base: str) -> None:
    before = ground.untouched()
    place = await ground.prepare(base=base)
    assert (place.folder / "from-the-pull-request").is_file()
    (place.folder / "more").write_text("m\n")
    work = await ground.keep(place)
    assert ground.git("log", "--format=%s", work["branch"]).splitlines() == [
        "Add a second line",
        "Pull request",
        "Begin",
    ]
    assert [file["path"] for file in work["files"]] == ["more"]
    assert ground.untouched() == before
    ground.git("fsck", "--strict")


async def test_a_pull_request_that_is_not_there(ground: Ground, upstream: Path) -> None:
    with pytest.raises(PlaceError, match="no pull request 99"):
        await ground.prepare(base="pull/99")


async def test_a_pull_request_without_a_remote(ground: Ground) -> None:
    with pytest.raises(PlaceError, match="git remote add"):
        await ground.prepare(base="pull/1")


async def test_a_remote_that_is_gone(ground: Ground, upstream: Path) -> None:
    shutil.rmtree(upstream)
    with pytest.raises(PlaceError, match="remote cannot be asked"):
        await ground.prepare(base="pull/12")


@pytest.mark.parametrize("base", ["nowhere", "-x", "a..b", "--upload-pack=x", "x\ny", ""])
async def test_branches_that_are_not_there_or_cannot_be(ground: Ground, base: str) -> None:
    with pytest.raises(PlaceError, match="branch"):
        await ground.prepare(base=base)


async def test_a_remote_whose_address_is_a_command(ground: Ground) -> None:
    mark, program = trap(ground)
    for address in (f"ext::{program}", f"--upload-pack={program}", f"ssh://-oProxyCommand={program}/x"):
        ground.git("config", "remote.origin.url", address)
        ground.git("config", "protocol.ext.allow", "always")
        with pytest.raises(PlaceError):
            await ground.prepare(base="pull/1")
    assert not mark.exists()


async def test_a_folder_that_is_no_repository(tmp_path: Path, ground: Ground) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    with pytest.raises(PlaceError, match="in_place"):
        await ground.prepare(folder=str(plain), workspace=str(plain))


async def test_a_repository_above_the_workspace_is_not_looked_for(ground: Ground) -> None:
    inner = ground.repository / "lib"
    with pytest.raises(PlaceError, match="no git repository"):
        await ground.prepare(folder=str(inner), workspace=str(inner))


async def test_a_repository_without_a_commit(tmp_path: Path, ground: Ground) -> None:
    fresh = tmp_path / "fresh"
    ground.git("init", "-q", str(fresh))
    with pytest.raises(PlaceError, match="no commit yet"):
        await ground.prepare(folder=str(fresh), workspace=str(fresh))


async def test_a_folder_that_vanished(tmp_path: Path, ground: Ground) -> None:
    with pytest.raises(PlaceError, match="is gone"):
        await ground.prepare(folder=str(tmp_path / "none"))


async def test_a_repository_that_vanishes_while_the_agent_works(ground: Ground) -> None:
    place = await ground.prepare()
    (place.folder / "app.py").write_text("two\n")
    shutil.rmtree(ground.repository)
    with pytest.raises(PlaceError, match="still in"):
        await ground.keep(place)


async def test_a_bare_repository(tmp_path: Path, ground: Ground) -> None:
    bare = tmp_path / "bare.git"
    ground.git("clone", "-q", "--bare", str(ground.repository), str(bare))
    place = await ground.prepare(folder=str(bare), workspace=str(bare))
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    assert ground.git("show", f"{work['branch']}:app.py", cwd=bare) == "two"


async def test_a_linked_worktree(tmp_path: Path, ground: Ground) -> None:
    linked = tmp_path / "linked"
    ground.git("worktree", "add", "-q", "-b", "beside", str(linked))
    ground.write("beside", "b\n", under=linked)
    ground.git("add", "-A", cwd=linked)
    ground.git("commit", "-q", "-m", "Beside", cwd=linked)
    place = await ground.prepare(folder=str(linked), workspace=str(linked))
    assert (place.folder / "beside").is_file()
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    assert ground.git("rev-parse", f"{work['branch']}^") == ground.git("rev-parse", "beside")


async def test_a_submodule_as_the_place_and_as_a_part(tmp_path: Path, ground: Ground) -> None:
    library = tmp_path / "library"
    ground.git("clone", "-q", str(ground.repository), str(library))
    ground.git("submodule", "--quiet", "add", str(library), "vendor/library")
    ground.commit("Add a submodule")
    inner = ground.repository / "vendor/library"
    place = await ground.prepare(folder=str(inner), workspace=str(inner), clone=str(tmp_path / "ours/clones/8"))
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    assert ground.git("show", f"{work['branch']}:app.py", cwd=inner) == "two"

    place = await ground.prepare(
        folder=str(ground.repository), workspace=str(ground.repository), clone=str(tmp_path / "ours/clones/9"), state={}
    )
    (place.folder / "outer").write_text("o\n")
    work = await ground.keep(place)
    assert [file["path"] for file in work["files"]] == ["outer"]


async def test_a_shallow_repository(tmp_path: Path, ground: Ground) -> None:
    ground.write("second", "2\n")
    ground.commit("Second")
    shallow = tmp_path / "shallow"
    ground.git("clone", "-q", "--depth=1", f"file://{ground.repository}", str(shallow))
    place = await ground.prepare(folder=str(shallow), workspace=str(shallow))
    assert ground.git("log", "--format=%s", cwd=place.folder) == "Second"
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    assert ground.git("log", "--format=%s", work["branch"], cwd=shallow).splitlines() == ["Add a second line", "Second"]
    ground.git("fsck", cwd=shallow)


async def test_a_partial_clone_without_the_files_that_are_needed(tmp_path: Path, ground: Ground) -> None:
    ground.git("checkout", "-q", "-b", "other")
    ground.write("big", "big\n")
    ground.commit("Other")
    ground.git("checkout", "-q", "main")
    ground.git("config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    ground.git("clone", "-q", "--filter=blob:none", f"file://{ground.repository}", str(partial))
    place = await ground.prepare(folder=str(partial), workspace=str(partial))
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    assert ground.git("show", f"{work['branch']}:app.py", cwd=partial) == "two"
    with pytest.raises(PlaceError, match="partial clone"):
        await ground.prepare(
            folder=str(partial), workspace=str(partial), clone=str(tmp_path / "ours/clones/8"), base="other", state={}
        )


async def test_a_repository_with_sha256(tmp_path: Path, ground: Ground) -> None:
    modern = tmp_path / "modern"
    ground.git("init", "-q", "--object-format=sha256", str(modern))
    ground.write("a", "a\n", under=modern)
    ground.git("add", "-A", cwd=modern)
    ground.git("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "-m", "Begin", cwd=modern)
    place = await ground.prepare(folder=str(modern), workspace=str(modern))
    assert len(ground.git("rev-parse", "HEAD", cwd=place.folder)) == 64
    (place.folder / "a").write_text("b\n")
    work = await ground.keep(place)
    assert ground.git("show", f"{work['branch']}:a", cwd=modern) == "b"


async def test_objects_are_not_copied(ground: Ground) -> None:
    ground.write("big", os.urandom(5_000_000))
    ground.commit("Big")
    place = await ground.prepare()
    assert place.clone is not None
    folders = (place.clone / "kept.git", place.folder / ".git")
    assert sum(path.stat().st_size for folder in folders for path in folder.rglob("*")) < 1_000_000


async def test_the_agent_sees_history_branches_and_tags_but_no_remote(ground: Ground) -> None:
    ground.git("tag", "v1")
    ground.git("remote", "add", "origin", "https://token@example.org/x")
    place = await ground.prepare()
    assert ground.git("describe", "--tags", cwd=place.folder) == "v1"
    assert ground.git("rev-parse", "main", cwd=place.folder) == ground.git("rev-parse", "HEAD")
    assert ground.git("remote", cwd=place.folder) == ""
    assert ground.git("status", "--porcelain", cwd=place.folder) == ""
    assert "token" not in (place.folder / ".git/config").read_text()


class TestHostileRepository:
    """What somebody could write into the user's `.git` to have a program run or a file read."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"core.fsmonitor": "{trap}"},
            {"core.hooksPath": "{hooks}"},
            {"filter.x.clean": "{trap}", "filter.x.smudge": "{trap}", "filter.x.required": "true"},
            {"filter.x.process": "{trap}"},
            {"diff.x.textconv": "{trap}", "diff.x.command": "{trap}", "diff.external": "{trap}"},
            {"core.sshCommand": "{trap}", "core.alternateRefsCommand": "{trap}", "core.gitProxy": "{trap}"},
            {"core.pager": "{trap}", "core.editor": "{trap}", "core.askPass": "{trap}", "gpg.program": "{trap}"},
            {"commit.gpgSign": "true", "gpg.program": "{trap}", "log.showSignature": "true"},
            {"hook.x.command": "{trap}", "hook.x.event": "reference-transaction"},
            {"uploadpack.packObjectsHook": "{trap}", "credential.helper": "!{trap}"},
            {"alias.update-ref": "!{trap}", "alias.rev-parse": "!{trap}", "alias.unpack-objects": "!{trap}"},
        ],
    )
    async def test_nothing_that_its_settings_name_is_run(self, ground: Ground, settings: dict[str, str]) -> None:
        mark, program = trap(ground)
        hooks = ground.root / "hooks"
        hooks.mkdir()
        for name in ("reference-transaction", "post-checkout", "post-index-change", "pre-commit", "post-commit"):
            shutil.copy(program, hooks / name)
            shutil.copy(program, ground.repository / ".git/hooks" / name)
        ground.write(".git/info/attributes", "* filter=x diff=x\n")
        for name, value in settings.items():
            ground.git("config", name, value.format(trap=program, hooks=hooks))
        mark.unlink(missing_ok=True)
        ground.write("extra", "x\n")
        place = await ground.prepare()
        (place.folder / "app.py").write_text("two\n")
        (place.folder / ".gitattributes").write_text("* filter=x diff=x\n")
        work = await ground.keep(place)
        assert work["branch"] is not None
        assert not mark.exists()

    async def test_the_same_settings_in_place(self, ground: Ground) -> None:
        mark, program = trap(ground)
        for name in ("core.fsmonitor", "filter.x.clean", "diff.x.textconv", "diff.external"):
            ground.git("config", name, program)
        ground.write(".git/info/attributes", "* filter=x diff=x\n")
        place = await ground.prepare(clone=None)
        ground.write("app.py", "two\n")
        work = await ground.keep(place)
        assert [file["path"] for file in work["files"]] == ["app.py"]
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["core.excludesFile", "include.path", "core.attributesFile"])
    async def test_no_file_that_it_names_is_shown_to_the_agent(self, ground: Ground, name: str) -> None:
        secret = ground.write("secret", "[user]\n\tname = hunter2\n", under=ground.root)
        ground.git("config", name, str(secret))
        place = await ground.prepare()
        if name != "include.path":
            assert "hunter2" not in "".join(
                path.read_text(errors="replace") for path in (place.folder / ".git").rglob("*") if path.is_file()
            )

    @pytest.mark.parametrize("name", ["info/exclude", "shallow"])
    async def test_no_file_that_it_links_to_is_shown_to_the_agent(self, ground: Ground, name: str) -> None:
        secret = ground.write("secret", "hunter2\n", under=ground.root)
        target = ground.repository / ".git" / name
        target.unlink(missing_ok=True)
        if name == "shallow":
            ground.write("secret", f"{'a' * 40}\n", under=ground.root)
        target.symlink_to(secret)
        try:
            place = await ground.prepare()
        except PlaceError:
            return
        shown = "".join(p.read_text(errors="replace") for p in (place.folder / ".git").rglob("*") if p.is_file())
        assert "hunter2" not in shown
        assert "a" * 40 not in shown

    async def test_a_git_file_that_names_another_repository(self, tmp_path: Path, ground: Ground) -> None:
        (tmp_path / "bait").mkdir()
        (tmp_path / "bait/.git").write_text(f"gitdir: {ground.repository}/.git\n")
        with pytest.raises(PlaceError, match="lies elsewhere"):
            await ground.prepare(folder=str(tmp_path / "bait"), workspace=str(tmp_path / "bait"))

    async def test_a_git_link_to_another_repository(self, tmp_path: Path, ground: Ground) -> None:
        (tmp_path / "bait").mkdir()
        (tmp_path / "bait/.git").symlink_to(ground.repository / ".git")
        with pytest.raises(PlaceError, match="lies elsewhere"):
            await ground.prepare(folder=str(tmp_path / "bait"), workspace=str(tmp_path / "bait"))

    async def test_a_git_folder_that_shares_anothers_objects_and_branches(self, tmp_path: Path, ground: Ground) -> None:
        bait = tmp_path / "bait"
        ground.git("init", "-q", str(bait))
        (bait / ".git/commondir").write_text(f"{ground.repository}/.git\n")
        with pytest.raises(PlaceError, match="lies elsewhere"):
            await ground.prepare(folder=str(bait), workspace=str(bait))

    async def test_a_work_tree_that_is_another_folder(self, tmp_path: Path, ground: Ground) -> None:
        ground.git("config", "core.worktree", str(tmp_path))
        with pytest.raises(PlaceError):
            await ground.prepare()
        ground.git("config", "core.worktree", "/usr")
        with pytest.raises(PlaceError):
            await ground.prepare()

    async def test_settings_that_are_no_settings(self, ground: Ground) -> None:
        ground.write(".git/config", "[core\nnonsense")
        with pytest.raises(PlaceError, match="git cannot use"):
            await ground.prepare()

    async def test_a_remote_that_is_really_the_path_of_ours(self, ground: Ground) -> None:
        """Rewriting of addresses would turn any path of ours into another repository or a command."""
        mark, program = trap(ground)
        ground.git("config", f"url.ext::{program}.insteadOf", "/")
        ground.git("config", f"remote.{ground.job.clone}/kept.git.uploadpack", program)
        place = await ground.prepare()
        (place.folder / "app.py").write_text("two\n")
        assert (await ground.keep(place))["branch"]
        assert not mark.exists()


class TestHostileAgent:
    """What an agent could leave in its clone to have a program run, or a file read, when its work is kept."""

    async def test_nothing_in_its_git_folder_is_run_or_believed(self, ground: Ground) -> None:
        mark, program = trap(ground)
        before = ground.untouched()
        place = await ground.prepare()
        own = place.folder / ".git"
        for name in ("core.fsmonitor", "filter.x.clean", "filter.x.process", "diff.external", "core.pager"):
            ground.git("config", name, program, cwd=place.folder)
        for name in ("pre-commit", "post-commit", "reference-transaction", "post-index-change", "pre-auto-gc"):
            ground.write(f"hooks/{name}", Path(program).read_text(), under=own).chmod(0o755)
        ground.write("info/attributes", "* filter=x\n", under=own)
        ground.write(".gitattributes", "* filter=x diff=x merge=x\n", under=place.folder)
        (place.folder / "app.py").write_text("two\n")
        (own / "index").write_bytes(b"nonsense")
        (own / "HEAD").write_text("ref: refs/heads/main\n")
        (own / "refs/heads/main").write_text("0" * 40)
        (own / "objects/info/alternates").write_text("/etc\n")
        work = await ground.keep(place)
        assert {file["path"] for file in work["files"]} == {"app.py", ".gitattributes"}
        assert ground.git("show", f"{work['branch']}:app.py") == "two"
        assert ground.untouched() == before
        assert not mark.exists()

    async def test_a_clone_without_its_git_folder_is_kept_and_mended(self, ground: Ground) -> None:
        place = await ground.prepare()
        shutil.rmtree(place.folder / ".git")
        (place.folder / "app.py").write_text("two\n")
        assert (await ground.keep(place))["branch"]
        again = await ground.prepare(task_id="second", task_number=8)
        assert ground.git("status", "--porcelain", cwd=again.folder) == ""

    @pytest.mark.parametrize("how", ["link", "file"])
    async def test_a_git_folder_that_points_elsewhere(self, ground: Ground, how: str) -> None:
        place = await ground.prepare()
        shutil.rmtree(place.folder / ".git")
        if how == "link":
            (place.folder / ".git").symlink_to(ground.repository / ".git")
        else:
            (place.folder / ".git").write_text(f"gitdir: {ground.repository}/.git\n")
        (place.folder / "app.py").write_text("two\n")
        before = ground.untouched()
        assert (await ground.keep(place))["branch"]
        again = await ground.prepare(task_id="second", task_number=8)
        assert ground.untouched() == before
        assert not (again.folder / ".git").is_symlink()

    async def test_its_own_commits_become_part_of_ours(self, ground: Ground) -> None:
        place = await ground.prepare()
        (place.folder / "app.py").write_text("two\n")
        ground.git("-c", "user.name=Mallory", "commit", "-q", "-am", "Agent's own", cwd=place.folder)
        ground.git("checkout", "-q", "-b", "own-branch", cwd=place.folder)
        (place.folder / "more").write_text("more\n")
        work = await ground.keep(place)
        log = ground.git("log", "--format=%an: %s", work["branch"]).splitlines()
        assert log == [f"{USER[0]}: Add a second line", f"{USER[0]}: Begin"]
        assert {file["path"] for file in work["files"]} == {"app.py", "more"}

    async def test_links_are_kept_as_links(self, ground: Ground) -> None:
        secret = ground.write("secret", "hunter2\n", under=ground.root)
        place = await ground.prepare()
        (place.folder / "link").symlink_to(secret)
        shutil.rmtree(place.folder / "lib")
        (place.folder / "lib").symlink_to(ground.root)
        work = await ground.keep(place)
        assert ground.git("ls-tree", work["branch"], "link", "lib").count("120000") == 2
        objects = ground.git("rev-list", "--objects", work["branch"]).splitlines()
        contents = [ground.git("cat-file", "-p", line.split()[0]) for line in objects]
        assert not any("hunter2" in content for content in contents)

    async def test_a_repository_inside_is_kept_as_files_and_never_run(self, ground: Ground) -> None:
        mark, program = trap(ground)
        place = await ground.prepare()
        inner = place.folder / "new project"
        inner.mkdir()
        ground.git("init", "-q", cwd=inner)
        ground.write("src/main.c", "int main;\n", under=inner)
        ground.write(".gitignore", "*.o\n", under=inner)
        ground.write("main.o", "o\n", under=inner)
        ground.git("add", "-A", cwd=inner)
        ground.git("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "-m", "Inner", cwd=inner)
        deeper = inner / "deeper"
        ground.git("init", "-q", str(deeper))
        ground.write("x", "x\n", under=deeper)
        for folder in (inner, deeper):
            ground.git("config", "core.fsmonitor", program, cwd=folder)
            ground.git("config", "filter.x.clean", program, cwd=folder)
            ground.write(".git/info/attributes", "* filter=x\n", under=folder)
        (inner / "src/main.c").write_text("int main();\n")
        work = await ground.keep(place)
        assert {file["path"] for file in work["files"]} == {
            "new project/.gitignore",
            "new project/src/main.c",
            "new project/deeper/x",
        }
        again = await ground.prepare()
        (again.folder / "new project/src/main.c").write_text("int main(void);\n")
        (again.folder / "new project/.gitignore").unlink()
        work = await ground.keep(again)
        assert ground.git("show", f"{work['branch']}:new project/src/main.c") == "int main(void);"
        assert not mark.exists()

    async def test_a_submodules_settings_are_never_run(self, tmp_path: Path, ground: Ground) -> None:
        mark, program = trap(ground)
        library = tmp_path / "library"
        ground.git("clone", "-q", str(ground.repository), str(library))
        ground.git("submodule", "--quiet", "add", str(library), "vendor/library")
        ground.commit("Add a submodule")
        place = await ground.prepare()
        inner = place.folder / "vendor/library"
        shutil.rmtree(inner)
        ground.git("clone", "-q", str(library), str(inner))
        (inner / "app.py").write_text("changed\n")
        ground.git("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "-am", "Inside", cwd=inner)
        (inner / "app.py").write_text("changed again\n")
        for name in ("core.fsmonitor", "filter.x.clean", "filter.x.process"):
            ground.git("config", name, program, cwd=inner)
        ground.write(".git/info/attributes", "* filter=x\n", under=inner)
        os.utime(inner / "app.py")
        (place.folder / "app.py").write_text("two\n")
        work = await ground.keep(place)
        assert [file["path"] for file in work["files"]] == ["app.py"]
        assert not mark.exists()

    async def test_ignored_files_and_what_sandboxes_leave_stay_out(self, ground: Ground) -> None:
        ground.write(".gitignore", "build/\n")
        ground.commit("Ignore")
        ground.write(".git/info/exclude", "*.mine\n")
        ground.write(".config/git/ignore", "*.swp\n", under=ground.root)
        place = await ground.prepare()
        for name in ("build/out", "x.swp", "x.mine"):
            ground.write(name, "x\n", under=place.folder)
        for name in (".bashrc", ".mcp.json", ".gitconfig", ".env"):
            ground.write(name, "", under=place.folder)
        ground.write(".claude/settings.local.json", "{}", under=place.folder)
        ground.write("lib/__init__.py", "", under=place.folder)
        work = await ground.keep(place)
        assert [file["path"] for file in work["files"]] == ["lib/__init__.py"]
        assert ground.git("status", "--porcelain", "lib", cwd=place.folder) == "?? lib/__init__.py"

    async def test_weird_names_and_weird_files(self, ground: Ground) -> None:
        place = await ground.prepare()
        names = ['a"quote', "-dash", "new\nline", "tab\tbed", "ünï", "\u202eevil", "--all", ":(top)x", "*", "a b "]
        for name in names:
            (place.folder / name).write_text("x\n")
        (place.folder / os.fsdecode(b"\xff\xfe")).touch()
        os.mkfifo(place.folder / "pipe")
        (place.folder / "app.py").unlink()
        os.mkfifo(place.folder / "app.py")
        ground.write("sub/.GIT/config", "[core]\n", under=place.folder)
        ground.write("git~1/x", "x", under=place.folder)
        work = await ground.keep(place)
        assert {file["path"] for file in work["files"]} >= {*names, "app.py"}
        assert next(file for file in work["files"] if file["path"] == "app.py")["change"] == "deleted"
        assert any("not UTF-8" in skipped for skipped in work["skipped"])
        assert not any(".git" in file["path"].lower() for file in work["files"])

    async def test_pipes_that_git_would_read_from_do_not_hold_us(self, ground: Ground) -> None:
        place = await ground.prepare()
        for name in (".gitignore", ".gitattributes", "lib/.gitignore", "lib/deep/.gitattributes"):
            os.mkfifo(place.folder / name)
        (place.folder / "app.py").write_text("two\n")
        async with asyncio.timeout(DEADLINE_SECONDS):
            work = await ground.keep(place)
        assert [file["path"] for file in work["files"]] == ["app.py"]

    async def test_files_become_folders_and_the_other_way_round(self, ground: Ground) -> None:
        place = await ground.prepare()
        (place.folder / "app.py").unlink()
        ground.write("app.py/inner", "x\n", under=place.folder)
        shutil.rmtree(place.folder / "lib")
        (place.folder / "lib").write_text("a file now\n")
        work = await ground.keep(place)
        listed = ground.git("ls-tree", "-r", "--name-only", work["branch"]).splitlines()
        assert listed == ["app.py/inner", "lib"]

    async def test_a_tracked_file_whose_folder_becomes_a_repository(self, ground: Ground) -> None:
        place = await ground.prepare()
        (place.folder / "app.py").unlink()
        ground.git("init", "-q", str(place.folder / "app.py"))
        ground.write("app.py/x", "x\n", under=place.folder)
        work = await ground.keep(place)
        assert "160000" not in ground.git("ls-tree", "-r", work["branch"])
        assert "app.py/x" in ground.git("ls-tree", "-r", "--name-only", work["branch"])

    async def test_huge_files_are_left_out_and_said(self, ground: Ground) -> None:
        place = await ground.prepare()
        with (place.folder / "huge").open("wb") as file:
            file.truncate(200 * 1024**2)
        (place.folder / "small").write_text("s\n")
        work = await ground.keep(place)
        assert [file["path"] for file in work["files"]] == ["small"]
        assert work["skipped"] == ["huge: larger than 100 MiB"]

    async def test_binary_files_are_named_and_not_shown(self, ground: Ground) -> None:
        place = await ground.prepare()
        (place.folder / "image").write_bytes(b"\0\1\2" * 1000)
        work = await ground.keep(place)
        assert (work["files"][0]["insertions"], work["files"][0]["deletions"]) == (None, None)
        assert "Binary files" in ground.diff

    async def test_a_change_that_hides_behind_its_time_and_size_is_seen(self, ground: Ground) -> None:
        place = await ground.prepare()
        path = place.folder / "app.py"
        was = path.stat()
        path.write_text("print('own')\n")
        assert path.stat().st_size == was.st_size
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert [file["path"] for file in (await ground.keep(place))["files"]] == ["app.py"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    async def test_what_may_not_be_read_is_left_out_and_said(self, ground: Ground) -> None:
        place = await ground.prepare()
        (place.folder / "locked").write_text("x")
        (place.folder / "locked").chmod(0)
        ground.write("closed/x", "x", under=place.folder)
        (place.folder / "closed").chmod(0)
        (place.folder / "open").write_text("x")
        work = await ground.keep(place)
        (place.folder / "closed").chmod(0o700)
        assert [file["path"] for file in work["files"]] == ["open"]
        assert work["skipped"] == ["locked: may not be read"]

    async def test_a_clone_that_the_agent_made_hard_to_remove_is_removed(self, ground: Ground) -> None:
        place = await ground.prepare()
        assert place.clone is not None
        ground.write("a/b/c", "x", under=place.folder)
        for path in (place.folder / "a/b/c", place.folder / "a/b", place.folder / "a"):
            path.chmod(0)
        (place.clone / "clone.json").unlink()
        again = await ground.prepare()
        assert not (again.folder / "a").exists()

    async def test_modes_and_renames(self, ground: Ground) -> None:
        place = await ground.prepare()
        (place.folder / "app.py").chmod(0o755)
        (place.folder / "lib/deep/part.py").rename(place.folder / "part.py")
        work = await ground.keep(place)
        changes = {file["path"]: file for file in work["files"]}
        assert changes["part.py"]["change"] == "renamed"
        assert changes["part.py"]["from"] == "lib/deep/part.py"
        assert ground.git("ls-tree", work["branch"], "app.py").startswith("100755")


async def test_a_prompt_that_looks_like_options_becomes_a_subject(ground: Ground) -> None:
    place = await ground.prepare(prompt="--amend\n\n#comment " + "x" * 300 + "\0\ud800")
    (place.folder / "app.py").write_text("two\n")
    work = await ground.keep(place)
    subject = ground.git("log", "-1", "--format=%s", work["branch"])
    assert subject.startswith("--amend #comment xxx")
    assert len(subject) <= 72


class TestInPlace:
    """Work in the user's own folder: seen, recorded, never committed."""

    async def test_the_difference_is_recorded_and_nothing_is_committed(self, ground: Ground) -> None:
        ground.write("app.py", "the user's own change\n")
        place = await ground.prepare(clone=None)
        assert place.folder == ground.repository
        ground.write("lib/deep/part.py", "part = 2\n")
        ground.write("new", "n\n")
        before = ground.untouched()
        work = await ground.keep(place)
        assert {file["path"] for file in work["files"]} == {"lib/deep/part.py", "new"}
        assert (work["commit"], work["branch"]) == (None, "main")
        assert "own change" not in ground.diff
        assert ground.untouched() == before
        assert [path.name for path in ground.records.folder.iterdir() if path.is_dir()] == []

    async def test_a_folder_without_a_repository(self, tmp_path: Path, ground: Ground) -> None:
        plain = tmp_path / "plain"
        plain.mkdir()
        place = await ground.prepare(clone=None, folder=str(plain), workspace=str(plain))
        assert any("not recorded" in said for said in ground.said)
        assert await ground.keep(place) == {}


async def test_a_clone_is_for_its_user_alone(ground: Ground) -> None:
    place = await ground.prepare()
    assert place.clone is not None
    assert stat.S_IMODE(place.clone.stat().st_mode) == 0o700
