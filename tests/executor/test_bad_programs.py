"""Programs that do what no program should. Each ends and says how, and harms neither the server nor the next task."""

from __future__ import annotations

import sys

import pytest

from mcp_server.settings import Settings
from tests.executor.test_worker import finished, shell
from tests.server.doors import ask, in_memory, refused
from tests.server.gate import Gate
from tests.server.processes import Place

MIB = 1024 * 1024


async def test_a_program_that_closes_its_output_at_once_is_judged_by_its_exit(settings: Settings):
    async with in_memory(settings) as client:
        well = await shell(client, "exec >&- 2>&-; exit 0")
        badly = await shell(client, "exec >&- 2>&-; exit 3")

    assert (well["status"], well["result"]["stdout_bytes"]) == ("completed", 0)
    assert (badly["status"], badly["result"]["returncode"]) == ("failed", 3)


async def test_a_line_of_megabytes_is_kept_whole_and_answered_in_parts(settings: Settings):
    async with in_memory(settings) as client:
        done = await shell(client, f"head -c {6 * MIB} /dev/zero | tr '\\0' x; echo; echo end", wait=45)
        first = (await ask(client, "get_task", task_id=done["id"], output_offset=0))["output"]
        last = (await ask(client, "get_task", task_id=done["id"], output_offset=6 * MIB))["output"]

    assert done["result"]["stdout_bytes"] == 6 * MIB + 5
    assert done["result"]["truncated"]
    assert set(first["text"]) == {"x"}
    assert (last["text"], last["complete"]) == ("\nend\n", True)


async def test_a_gigabyte_of_output_neither_fills_the_disk_nor_holds_up_others(settings: Settings):
    async with in_memory(settings.model_copy(update={"output_limit_bytes": MIB})) as client:
        loud = await shell(client, f"head -c {1024 * MIB} /dev/zero; echo done >&2", wait=0)
        other = await shell(client, "echo here", wait=20)
        done = await finished(client, loud["id"])

    assert other["status"] == "completed"
    assert done["status"] == "completed"
    assert done["result"]["stdout_bytes"] == MIB
    assert done["result"]["dropped_bytes"] == 1023 * MIB
    assert done["result"]["stderr"] == "done\n"


@pytest.mark.parametrize("program", ['rm -rf "$PWD"; echo gone', 'mv "$PWD" "$PWD.away"; echo gone'])
async def test_a_program_that_takes_its_working_folder_away_ends_as_it_says(
    settings: Settings, place: Place, program: str
):
    (place.workspace / "inner").mkdir()
    async with in_memory(settings) as client:
        done = await shell(client, program, working_dir="inner")
        after = await shell(client, "pwd")

    assert (done["status"], done["result"]["stdout"]) == ("completed", "gone\n")
    assert (after["status"], after["result"]["stdout"]) == ("completed", f"{place.workspace}\n")


async def test_a_workspace_that_vanishes_in_mid_run_ends_nothing_but_what_comes_after(
    settings: Settings, place: Place, gate: Gate
):
    async with in_memory(settings) as client:
        await shell(client, f"{gate.snippet}; echo still here", task_id="t", wait=0)
        await gate.reached()
        place.workspace.rename(place.workspace.with_name("elsewhere"))
        later = await refused(client, "delegate_task", agent="shell", params={"command": ["true"]})
        gate.go_on()
        done = await finished(client, "t")
        place.workspace.with_name("elsewhere").rename(place.workspace)

    assert (done["status"], done["result"]["stdout"]) == ("completed", "still here\n")
    assert later["status"] == 422
    assert later["errors"][0]["field"] == "workspace"


async def test_a_program_that_needs_a_terminal_or_an_answer_is_told_that_there_is_none(settings: Settings):
    question = f"{sys.executable} -c 'input(\"Go on? \")'"
    async with in_memory(settings) as client:
        terminal = await shell(client, "tty; exec 3<>/dev/tty", wait=20)
        asked = await shell(client, question, wait=20)

    assert terminal["status"] == "failed"
    assert terminal["result"]["stdout"] == "not a tty\n"
    assert asked["status"] == "failed"
    assert "EOFError" in asked["result"]["stderr"]
    assert asked["result"]["stdout"] == "Go on? "
