"""What the daemon tells about itself: log, metrics, step timings (leaf)."""
