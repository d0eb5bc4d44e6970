"""Pure: model to OCI runtime config (runtime-spec, config.md and config-linux.md).

``build.py`` gives the order of the parts; each other module makes one part. Nothing here asks the host: what
depends on it (propagation of a source, known capabilities, the daemon's limits) comes in as an argument.
"""
