"""OCI hook directories."""
