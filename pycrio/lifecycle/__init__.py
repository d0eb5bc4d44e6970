"""Around the daemon's life: version and shutdown markers, the service manager."""
