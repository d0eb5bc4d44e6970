"""Room 2: what the daemon does, one verb per file."""
