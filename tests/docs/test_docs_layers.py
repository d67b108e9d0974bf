"""The layers of docs/architecture.md hold in the code."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.docs.pages import ROOT, names, page, section, table

CONFIGURATION = ROOT / ".importlinter"


def contract(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser()
    parser.read(CONFIGURATION)
    return parser[f"importlinter:contract:{name}"]


def test_every_import_goes_the_way_that_the_contracts_say() -> None:
    # In a process of its own: it sets up logging for the whole process, and switches every logger of ours off.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    options = ["--config", str(CONFIGURATION), "--no-cache"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_names_every_layer_from_top_to_bottom() -> None:
    wanted = [
        name for line in contract("layers")["layers"].split() for name in line.split("|") if name and name != "__main__"
    ]
    rows = table(section(page("docs/architecture.md"), "## Layers"), "layer")
    shown = [name for row in rows for name in names(row[0])]
    assert set(shown) | {"instructions"} == set(wanted)
    layer_of = {
        name: number
        for number, line in enumerate(contract("layers")["layers"].strip().splitlines())
        for name in line.replace("|", " ").split()
    }
    # Neighbours may share a row in any order; what stands rows apart must stand layers apart.
    for upper, lower in pairwise(rows):
        assert min(layer_of[name] for name in names(upper[0])) <= min(layer_of[name] for name in names(lower[0]))


@pytest.mark.parametrize("module", contract("small")["source_modules"].split())
def test_what_must_start_at_once_imports_the_standard_library_and_its_like(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    with open(found.origin, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    others = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others <= set(contract("small")["source_modules"].split())
