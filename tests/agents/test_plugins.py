"""Agents of other packages: the example is installed and used, and broken ones harm nobody."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from mcp_server.agent import Exit, WorkOrder
from mcp_server.agents.plugins import plugin_agents
from mcp_server.agents.registry import AgentRegistry, all_agents
from mcp_server.errors import UnavailableError
from mcp_server.settings import Settings
from tests.server.doors import ask, in_memory, refused

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "plugin"
TAKEN = ("git", "shell")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[..., None]]:
    """Put a package with one entry point, or the folder of an installed one, where Python looks."""
    known = set(sys.modules)

    def put(name: str, body: str, value: str = "") -> None:
        module = f"plugin_{name.replace('-', '_')}"
        folder = tmp_path / f"site-{name}"
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(body)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[offhand.agents]\n{name} = {value or f'{module}:Made'}\n")
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()

    yield put
    for module in set(sys.modules) - known:
        if module.startswith(("plugin_", "offhand_words")):
            del sys.modules[module]


GOOD = """
from mcp_server.agent import *

class Made:
    name = "mine"
    title = "Mine"
    description = "Does."
    default_timeout_seconds = 5
    default_limit = None
    needs_workspace = False
    continues = False
    def __init__(self, settings): pass
    def availability(self): return Availability(True)
    def look(self): pass
    def check(self, order): return Checked(("mine",), True)
    def invocation(self, order): raise RuntimeError("not yet")
    def judge(self, order, ended): return None
"""


def test_an_agent_of_a_plugin_is_one_like_the_others(install: Callable[..., None], settings: Settings):
    install("mine", GOOD)
    registry = AgentRegistry(all_agents(settings, list))
    assert [agent.name for agent in registry][-1] == "mine"
    agent = registry.get("mine")
    agent.look()
    assert agent.availability().installed
    assert agent.check(WorkOrder()).reads_only
    assert agent.default_timeout_seconds == 5.0


def test_what_a_plugin_does_wrong_is_told_with_its_name(install: Callable[..., None], settings: Settings):
    install(
        "mine", GOOD.replace("return Availability(True)", "return 1 / 0").replace("pass\n    def c", "1 / 0\n    def c")
    )
    (agent,) = plugin_agents(settings, TAKEN)
    agent.look()
    assert not agent.availability().installed
    assert "mine-package failed: ZeroDivisionError" in agent.availability().missing
    with pytest.raises(UnavailableError, match="mine-package failed: RuntimeError: not yet"):
        agent.invocation(WorkOrder())
    outcome = agent.judge(WorkOrder(), Exit("exited", 0, "", ""))
    assert (outcome.completed, outcome.reason) == (False, "internal")
    assert "NoneType" in outcome.text


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("def Made(:", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "AttributeError"),
        ("def Made(settings): return None", "AttributeError"),
        ("def Made(): pass", "TypeError"),
        (GOOD.replace('name = "mine"', 'name = "My Agent"'), "cannot be named"),
        (GOOD.replace('name = "mine"', 'name = "git"'), "another agent named git"),
        (GOOD.replace('title = "Mine"', "title = 5"), "TypeError"),
        (GOOD.replace("= 5\n", "= -5\n"), "out of range"),
        (GOOD.replace("default_limit = None", "default_limit = 'x'"), "TypeError"),
        (GOOD.replace("    def judge(self, order, ended): return None\n", ""), "judge"),
    ],
)
def test_a_broken_plugin_is_listed_with_what_is_wrong(
    install: Callable[..., None], settings: Settings, body: str, why: str
):
    install("mine", body)
    install("other", GOOD.replace('"mine"', '"other"'))
    broken, good = plugin_agents(settings, TAKEN)
    assert good.availability().installed
    assert (broken.name, broken.availability().installed) == ("mine", False)
    assert "mine-package cannot be used" in broken.availability().missing
    assert why in broken.availability().missing
    with pytest.raises(UnavailableError):
        broken.check(WorkOrder())


def test_a_broken_plugin_takes_nobodys_name(install: Callable[..., None], settings: Settings):
    install("git", "1 / 0")
    install("Odd", "1 / 0")
    assert [agent.name for agent in plugin_agents(settings, TAKEN)] == ["plugin", "git-2"]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., None]) -> None:
    """The example of the docs, built and installed by pip in a folder of its own."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run([*pip, *options], check=True, capture_output=True, timeout=120)
    monkeypatch.syspath_prepend(target)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("example")
async def test_the_example_is_installed_and_does_a_task(settings: Settings, workspace: Path):
    (workspace / "poem.txt").write_text("one two three\n")
    async with in_memory(settings) as client:
        listed = {item["name"]: item for item in (await ask(client, "list_agents"))["items"]}
        done = await ask(client, "delegate_task", agent="words", params={"file": "poem.txt"}, wait=30)
        wrong = await refused(client, "delegate_task", agent="words", params={"file": "../x"})

    assert listed["words"]["installed"]
    assert (done["status"], done["result"]["text"], done["say"]) == ("completed", "3", "It has 3 words.")
    assert wrong["errors"][0]["field"] == "params.file"
