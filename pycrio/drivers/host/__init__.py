"""Plain files, mounts and processes of the host."""
