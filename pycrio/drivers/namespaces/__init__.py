"""Namespaces, mounts and processes of the host."""
