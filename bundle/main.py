"""What a desktop app starts when Offhand was installed from the bundle: the shim."""

from __future__ import annotations

import json
import os
import re
import sys

from mcp_server.transports.shim import main

LONGEST_NAME = 64


def add_workspace(environment: dict[str, str]) -> None:
    """Give the folder that the user chose in the app to the server, under its own name.

    It is for the server that this shim may start. One that runs already has the workspaces of its settings.
    """
    folder = environment.pop("OFFHAND_BUNDLE_WORKSPACE", "")
    # An app leaves the variable as it stands in the manifest where nothing was chosen.
    if os.path.isabs(folder) and os.path.isdir(folder):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(folder.rstrip("/")))[:LONGEST_NAME].strip("-")
        environment.setdefault("OFFHAND_WORKSPACES", json.dumps({name or "work": folder}))


if __name__ == "__main__":
    own = dict(os.environ)
    add_workspace(own)
    os.environ.clear()
    os.environ.update(own)
    sys.exit(main([]))
