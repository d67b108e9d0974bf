"""`python -I -m mcp_server.drivers`: drive one attempt; the job comes on stdin."""

from __future__ import annotations

from mcp_server.drivers.host import main

if __name__ == "__main__":
    main()
