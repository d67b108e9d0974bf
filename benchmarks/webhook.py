"""The phone's path: POST /webhook asks for `git status`, and the result comes in the same response.

Over one kept connection, with an API key, beside `git status` as a subprocess in the same repository. The promise is
about what we add, so the difference of each pair is a figure of its own.
"""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path

from benchmarks.figures import Figure, Goal, Series, alternate, script, timed
from benchmarks.processes import WORKSPACE, Offhand, repository, serving, temporary_folder

BODY = json.dumps(
    {
        "type": "task_command",
        "data": {"action_type": "git", "workspace": WORKSPACE, "params": {"command": ["git", "status"]}},
    }
).encode()


def measure(quick: bool) -> list[Figure]:
    """Figures of the webhook."""
    with temporary_folder() as home, repository() as workspace, serving(home, workspace) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            webhook, bare, readyz = alternate(
                10 if quick else 200,
                timed(lambda: _post(connection, server)),
                timed(lambda: _git_status(workspace)),
                timed(lambda: _get(connection)),
                warm_up=3,
            )
        finally:
            connection.close()
    added = [ours - theirs for ours, theirs in zip(webhook, bare, strict=True)]
    besides = (Series("git status by subprocess", bare), Series("GET /readyz, same connection", readyz))
    return [
        Figure("webhook to git status: response", "ms", webhook, beside=besides),
        Figure("webhook to git status: what we add", "ms", added, [Goal("median", 45)]),
    ]


def _post(connection: http.client.HTTPConnection, server: Offhand) -> None:
    connection.request("POST", "/webhook", BODY, {"Content-Type": "application/json", "X-API-Key": server.key})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200 or "nothing to commit" not in answer["result"]["result"]["stdout"]:
        raise RuntimeError(str(answer))


def _get(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/readyz")
    connection.getresponse().read()


def _git_status(workspace: Path) -> None:
    subprocess.run(["git", "status"], cwd=workspace, check=True, capture_output=True)


if __name__ == "__main__":
    script(measure)
