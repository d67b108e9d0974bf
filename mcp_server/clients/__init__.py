"""The configuration files of MCP clients: which there are, what we write, and how."""
