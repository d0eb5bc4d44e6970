"""One row per option, one file per TOML table."""
