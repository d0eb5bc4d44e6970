"""SIGHUP: the files are read again and what may change live is taken over, all of it or nothing.

First everything that can fail: reading, checking against the host, loading what the values name. Each part answers with
a function that swaps the new in; only when all are there are these called, in one breath, in which nothing can fail and
nobody else runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pycrio import wiring
from pycrio.config import check as config_check
from pycrio.config import reload as config_reload
from pycrio.config.values import Config, Fault
from pycrio.errors import ConfigError
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics


async def reload(
    config: Config, environ: Mapping[str, str], parts: wiring.Parts
) -> tuple[Config, tuple[config_reload.Change, ...]]:
    """The configuration that holds from now on, and what has changed. ConfigError and others of PycrioError: nothing
    has."""
    fresh, changes = config_reload.reread(config, environ)
    faults = [*config_check.host_faults(fresh, environ), *_missing(fresh)]
    if faults:
        raise ConfigError([str(fault) for fault in faults])
    handlers = await wiring.make_handlers(fresh)
    options = wiring.make_options(fresh)
    commits = [
        await parts.security.prepare(wiring.security_settings(fresh)),
        await parts.registry.prepare(wiring.registry_settings(fresh)),
        await parts.classes.prepare(wiring.class_settings(fresh)),  # the last: it sets groups of the kernel up
    ]
    for commit in commits:
        commit()
    parts.store.layers.keys = fresh.text("crio.runtime.decryption_keys_path")
    parts.host.handlers = handlers
    parts.host.options = options
    await parts.host.devices.reload(fresh.texts("crio.runtime.cdi_spec_dirs"))  # leaves faulty specs out, cannot fail
    metrics.default_runtime(handlers.get("").name)
    obslog.set_level(fresh.text("crio.runtime.log_level"))
    obslog.set_filter(fresh.text("crio.runtime.log_filter"))
    return fresh, changes


def _missing(config: Config) -> list[Fault]:
    """Files that a running daemon is only given when they are there."""
    key = "crio.image.pause_image_auth_file"
    path = config.text(key)
    if not path or os.path.isfile(path):
        return []
    return [Fault(str(config.origin(key)), key, f"{path!r} is not a file")]
