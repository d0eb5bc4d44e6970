"""No command: the daemon."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pycrio.commands import mount_namespace
from pycrio.config import load, render
from pycrio.config.load import Settings
from pycrio.config.options import ROWS, Row
from pycrio.config.values import Config
from pycrio.errors import ConfigError
from pycrio.obs import log

_log = log.get("daemon")


def run(settings: Settings, environ: Mapping[str, str]) -> int:
    """Load the configuration, start the log, hand over to the daemon; the exit code."""
    os.umask(0o022)
    config = prepare(settings, environ)
    if config is None:
        return 1
    for row in ROWS:
        for flag in row.flags[:1]:
            _log.info(f'FLAG: {flag}="{_shown(config, row)}"')
    _log.info("Effective configuration:\n" + render.document(config))
    from pycrio.commands import node  # late: node looks back at us

    return node.daemon().run(config)


def _shown(config: Config, row: Row) -> str:
    value = config.values[row.key] if row.kind != "table" else tuple(config.handlers)
    if isinstance(value, tuple):
        return ",".join(value)
    return value if isinstance(value, str) else render.literal(value)


def prepare(settings: Settings, environ: Mapping[str, str]) -> Config | None:
    """Configuration and log of a command that works on the node; None after every fault has been logged."""
    failure = mount_namespace.join(environ)
    try:
        config = load.load(settings, environ)
        log.setup(
            config.text("crio.runtime.log_level"),
            config.text("cli.log_format"),
            config.text("crio.runtime.log_filter"),
            config.text("cli.log"),
        )
    except ConfigError as error:
        for fault in error.faults:
            _log.error("Configuration fault", fault=fault)
        _log.fatal("The configuration is faulty, not starting")
        return None
    except OSError as error:
        _log.fatal("The log file cannot be opened", error=error)
        return None
    mount_namespace.tell(_log, environ, failure)
    for warning in config.warnings:
        _log.warning(warning)
    return config
