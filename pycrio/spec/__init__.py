"""Pure: model to OCI runtime config."""
