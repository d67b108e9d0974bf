"""JSON, with and without comments, and TOML."""
