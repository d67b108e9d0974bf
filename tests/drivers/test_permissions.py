"""Whether an agent may use a tool: rules, what was approved, profiles; and what a plain command is."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_server.drivers.commands import plain_command
from mcp_server.drivers.job import CommandRule, Decision, Job, Profile
from mcp_server.drivers.permissions import ToolRequest, decide
from mcp_server.fingerprint import fingerprint


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A clone with a few files, and a link that leads out of it to a folder with a secret."""
    folder = tmp_path / "clone"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "app.py").write_text("print()\n")
    (tmp_path / "secret.txt").write_text("secret\n")
    (folder / "out").symlink_to(tmp_path)
    return folder


def job(profile: Profile = "edit", **fields: Any) -> Job:
    basic: dict[str, Any] = {"clone": "/clones/1", **fields}
    return Job(
        driver="x",
        agent="probe",
        title="Probe",
        program=("/bin/probe",),
        prompt="x",
        task_id="t",
        task_number=1,
        profile=profile,
        folder="/",
        **basic,
    )


def command(place: Path, line: str, cwd: str = "") -> ToolRequest:
    return ToolRequest("Bash", "command", {"command": line}, cwd or str(place), argv=plain_command(line))


def by_profile(place: Path, request: ToolRequest, **fields: Any) -> tuple[Decision, Decision, Decision]:
    return (
        decide(job("review", **fields), request, place),
        decide(job("edit", **fields), request, place),
        decide(job("full", **fields), request, place),
    )


READS = ("allow", "allow", "allow")
WORKS = ("deny", "allow", "allow")
ASKS = ("deny", "ask", "allow")


@pytest.mark.parametrize(
    "line",
    [
        "ls -la",
        "cat src/app.py",
        "head -n 5 ./src/app.py",
        "grep -rn 'def (a|b)' src",
        'rg "foo|bar" --type py',
        "grep '/api/users' -r src",
        "find . -name '*.py' -newer src/app.py",
        "sed -n '1,$p' src/app.py",
        "git log --oneline -5",
        "git diff --stat HEAD",
        "git show HEAD:src/app.py",
    ],
)
def test_reading_is_allowed_in_every_profile(place: Path, line: str):
    assert by_profile(place, command(place, line)) == READS


@pytest.mark.parametrize(
    "line",
    [
        "make test",
        "pytest -q tests/test_a.py::test_b",
        "python -m pytest",
        "npm run build",
        "cargo test",
        "mkdir -p src/new",
        "mv src/app.py src/main.py",
        "git add -A",
        "git commit -m 'Say why; and how'",
        "rm -rf src",
    ],
)
def test_the_projects_own_commands_run_where_editing_is_allowed(place: Path, line: str):
    assert by_profile(place, command(place, line)) == WORKS


@pytest.mark.parametrize(
    "line",
    [
        "",
        "curl https://example.org",
        "git push",
        "git -c alias.x=!id log",
        "git log --output=x",
        "git log --outp=x",
        "git diff --no-index /etc/passwd x",
        "git grep -O x",
        "cat /etc/passwd",
        "cat ../secret.txt",
        "cat out/secret.txt",
        "grep -f../secret.txt x",
        "grep --file=/etc/passwd x",
        "grep -rR x .",
        "rg -nL x",
        "rg --pre=id x",
        "diff -ur . src",
        "wc --files0-from=/etc/passwd",
        "find . -exec id ;",
        "find . '-exec' id ';'",
        "find src -delete",
        "sed -n '1w x' src/app.py",
        "sed -i 1d src/app.py",
        "sed -n 1p /etc/passwd",
        "make -C /",
        "make -C ..",
        "make --directory=/tmp",
        "make -f/tmp/Makefile",
        "make PREFIX=/usr install",
        "cp src/app.py /tmp/x",
        "cp src/app.py out/x",
        "cp src/app.py .git/hooks/pre-commit",
        "cp src/app.py .GIT/hooks/pre-commit",
        "rm -rf ..",
        "cargo publish",
        "npm install left-pad",
        "pip install x",
        "PATH=. ls",
        "'PATH'=. ls",
        "ls; id",
        "ls && id",
        "ls | sh",
        "ls > x",
        "ls $(id)",
        "ls `id`",
        'ls "$(id)"',
        'ls "`id`"',
        "ls ~",
        "ls *",
        "ls {a,b}",
        "ls \\x",
        "ls\nid",
        "ls &",
        "ls # x",
        "ls 'x",
        "ls \x00",
        "ls\u00a0-la",
        "eval ls",
        "/tmp/ls",
        "./ls",
    ],
)
def test_everything_else_is_asked_about(place: Path, line: str):
    assert by_profile(place, command(place, line)) == ASKS


def test_in_the_users_own_folder_git_and_deleting_are_asked_about(place: Path):
    for line in ("git status", "git commit -m x", "rm src/app.py"):
        assert by_profile(place, command(place, line), clone=None) == ASKS
    assert by_profile(place, command(place, "cat src/app.py"), clone=None) == READS
    assert by_profile(place, command(place, "make test"), clone=None) == WORKS


def test_a_command_elsewhere_is_asked_about(place: Path):
    for cwd in ("/", str(place.parent), str(place / ".."), str(place / "out")):
        assert by_profile(place, command(place, "ls", cwd)) == ASKS
        assert by_profile(place, command(place, "make test", cwd)) == ASKS
    assert by_profile(place, command(place, "ls", str(place / "src"))) == READS
    assert by_profile(place, command(place, "cat ../src/app.py", str(place / "src"))) == READS


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("src/app.py", True),
        ("src/../new.txt", True),
        ("", True),
        ("..", False),
        ("../clone-of-another/x", False),
        ("/etc/passwd", False),
        ("out/secret.txt", False),
        ("out/clone/src/app.py", True),
    ],
)
def test_files_in_the_place_are_read_and_edited(place: Path, path: str, inside: bool):
    for given_path in (path, str(place / path)):
        read = ToolRequest("Read", "read", {}, str(place), paths=("src/app.py", given_path))
        edit = ToolRequest("Edit", "edit", {}, str(place), paths=("src/app.py", given_path))
        assert by_profile(place, read) == (READS if inside else ASKS)
        assert by_profile(place, edit) == (WORKS if inside else ASKS)


def test_what_git_would_run_and_what_names_no_path_is_asked_about(place: Path):
    for paths in ((".git/hooks/pre-commit",), (".Git/config",), ("sub/.git/config",), ()):
        assert by_profile(place, ToolRequest("Edit", "edit", {}, str(place), paths=paths)) == ASKS
    assert by_profile(place, ToolRequest("Edit", "edit", {}, str(place), paths=(".gitignore",))) == WORKS
    assert by_profile(place, ToolRequest("WebFetch", "other", {"url": "x"}, str(place))) == ASKS


def test_exactly_what_was_approved_is_allowed(place: Path):
    asked = command(place, "git push origin main")
    approved = job(granted=(fingerprint(asked.action(job())),))
    assert decide(approved, asked, place) == "allow"
    assert decide(replace(approved, profile="review"), asked, place) == "allow"
    for other in (
        command(place, "git push origin main --force"),
        replace(asked, cwd=str(place / "src")),
        replace(asked, tool="Shell"),
        replace(asked, input={**asked.input, "timeout": 1}),
        replace(asked, argv=None),
    ):
        assert decide(approved, other, place) == "ask"
    assert decide(replace(approved, agent="another"), asked, place) == "ask"


def test_the_first_rule_that_matches_decides_in_every_profile(place: Path):
    rules = (
        CommandRule(("git", "push", "*", "main"), "deny"),
        CommandRule(("git", "push", "*"), "allow"),
        CommandRule(("make", "*"), "ask"),
        CommandRule(("gh", "pr", "view", "*"), "allow"),
    )
    expected: dict[str, Decision] = {
        "git push origin main": "deny",
        "git push origin main --force": "allow",
        "git push": "allow",
        "make test": "ask",
        "gh pr view 7": "allow",
    }
    for line, decision in expected.items():
        assert by_profile(place, command(place, line), rules=rules) == (decision,) * 3
    assert by_profile(place, command(place, "git push && id"), rules=rules) == ASKS


@given(st.text(alphabet=st.sampled_from(list("ab -='\"\\$`*~#!;|&<>(){}[]?^%@,./\n\t\r\x00\u00e9\u00a0")), max_size=24))
def test_a_plain_command_is_what_a_shell_makes_of_it(line: str):
    argv = plain_command(line)
    if argv is None:
        return
    # `set --` takes the words as they are: none of them is run.
    script = f'set -- {line}\nfor word do printf "%s\\0" "$word"; done'
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, cwd="/", env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode().split("\0")[:-1] == list(argv)
