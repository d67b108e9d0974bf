"""`offhand`, also as `python -m mcp_server`. The shim goes first and alone: it must not pay for the rest."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line."""
    if sys.argv[1:2] == ["mcp"] and sys.argv[2:3] not in (["--help"], ["-h"]):
        from mcp_server.transports import shim  # start-up time is the point

        return shim.main(sys.argv[2:])
    import gc  # start-up time is the point, of the shim above too

    # What the imports make lives as long as we do. To look through it for garbage costs a tenth of the start, and
    # 50 ms in which nobody is answered every time that a server collects.
    gc.disable()
    from mcp_server.cli import app  # start-up time is the point

    gc.freeze()
    # With 200 clients a look through everything takes tens of milliseconds, so it is done rarely. With the defaults the
    # slowest in a hundred of 200 followers were told after 58 to 76 ms; like this after 14 to 43. It costs a few MB.
    gc.set_threshold(5_000, 10, 20)
    gc.enable()
    return app.run()


if __name__ == "__main__":
    sys.exit(main())
