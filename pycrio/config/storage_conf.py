"""Defaults of the store from containers-storage.conf(5)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pycrio.config import documents
from pycrio.config.options import Value
from pycrio.config.values import Origin
from pycrio.errors import ConfigError

FILES = ("/etc/containers/storage.conf", "/usr/share/containers/storage.conf")
# storage.conf key in [storage] → key of ours
_PLAIN = {
    "driver": "crio.storage_driver",
    "graphroot": "crio.root",
    "runroot": "crio.runroot",
    "imagestore": "crio.imagestore",
}
# driver options that [storage.options.<driver>] may hold, else [storage.options]
_OPTIONS = (
    *("ignore_chown_errors", "force_mask", "inodes", "mount_program", "mountopt", "size", "skip_mount_home"),
    *("sync", "use_composefs"),
)


def defaults(environ: Mapping[str, str], files: tuple[str, ...] = FILES) -> dict[str, tuple[Value, Origin]]:
    """Values that storage.conf gives to keys of [crio], each with its origin; empty when there is no such file.

    ConfigError when the file is not TOML. ``environ`` may name another file (CONTAINERS_STORAGE_CONF), the driver
    (STORAGE_DRIVER) and its options (STORAGE_OPTS).
    """
    named = environ.get("CONTAINERS_STORAGE_CONF", "")
    out: dict[str, tuple[Value, Origin]] = {}
    for path in (named,) if named else files:
        try:
            document = documents.read(path)
        except FileNotFoundError:
            if named:
                raise ConfigError([f"{path}: named by CONTAINERS_STORAGE_CONF, but not there"]) from None
            continue
        except OSError as error:
            raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
        if document.fault:
            raise ConfigError([f"{path}:{document.fault_line}: {document.fault}"])
        out = _from_document(document)
        break
    if environ.get("STORAGE_DRIVER"):
        out["crio.storage_driver"] = (environ["STORAGE_DRIVER"], Origin("storage.conf", "$STORAGE_DRIVER"))
    if environ.get("STORAGE_OPTS"):
        options = tuple(part for part in environ["STORAGE_OPTS"].split(",") if part)
        out["crio.storage_option"] = (options, Origin("storage.conf", "$STORAGE_OPTS"))
    return out


def _from_document(document: documents.Document) -> dict[str, tuple[Value, Origin]]:
    out: dict[str, tuple[Value, Origin]] = {}
    storage = _table(document.data.get("storage"))

    def origin(*path: str) -> Origin:
        return Origin("storage.conf", document.path, document.line(("storage", *path)))

    for name, key in _PLAIN.items():
        value = storage.get(name)
        if isinstance(value, str) and value:
            out[key] = (os.path.expandvars(value), origin(name))
    driver = str(storage.get("driver") or "overlay")
    options = _table(storage.get("options"))
    special = _table(options.get(driver))
    flat = [f"{driver}.imagestore={store}" for store in _texts(options.get("additionalimagestores"))]
    flat += [f"{driver}.additionallayerstore={store}" for store in _texts(options.get("additionallayerstores"))]
    for name in _OPTIONS:
        value = special.get(name, options.get(name))
        if value not in (None, ""):
            flat.append(f"{driver}.{name}={str(value).lower() if isinstance(value, bool) else value}")
    if flat:
        out["crio.storage_option"] = (tuple(flat), origin("options"))
    return out


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
