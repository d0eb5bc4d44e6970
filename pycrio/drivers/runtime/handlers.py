"""Runtime handlers: configuration plus what each runtime says of itself (``<runtime> features``)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pycrio._native.base import NativeError
from pycrio._native.run import run
from pycrio.errors import InvalidRequest
from pycrio.model.node import Handler
from pycrio.obs import log as obslog

log = obslog.get("runtime")
PROBE_TIMEOUT = 10.0
_RUNC = "org.opencontainers.runc.version"


class Handlers:
    """The usable handlers; the default one must be among them."""

    def __init__(self, handlers: Mapping[str, Handler], default: str) -> None:
        self._handlers = dict(handlers)
        self._default = default

    def get(self, name: str) -> Handler:
        """By name, "" for the default."""
        found = self._handlers.get(name or self._default)
        if found is None:
            raise InvalidRequest(
                f"failed to find runtime handler {name} from runtime list: configured are {', '.join(self._handlers)}"
            )
        return found

    def all(self) -> Sequence[Handler]:
        """Every handler, the default first."""
        first = self._handlers[self._default]
        return [first, *(h for h in self._handlers.values() if h is not first)]

    def replace(self, handlers: Mapping[str, Handler], default: str) -> None:
        """Take over another set (reload)."""
        self._handlers, self._default = dict(handlers), default


async def probe(handler: Handler) -> Handler:
    """The handler with the features that its runtime reports; a runtime without the command has none, and neither has a
    shim: what a guest can do nobody tells."""
    if handler.type == "vm":
        return handler
    document = await _features(handler)
    linux = document.get("linux") or {}
    extensions = linux.get("mountExtensions") or {}
    idmap = (extensions.get("idmap") or {}).get("enabled")
    # runc 1.1 and crun take the maps of a namespace that is joined from the config; runc since 1.2, which is the first
    # to tell about mount extensions, reads them from the namespace and warns of both.
    reads_maps = bool(extensions) and _RUNC in (document.get("annotations") or {})
    return replace(
        handler,
        oci_max=str(document.get("ociVersionMax", "")),
        recursive_read_only="rro" in (document.get("mountOptions") or ()),
        idmap_mounts=bool(idmap),
        net_devices=bool((linux.get("netDevices") or {}).get("enabled")),
        wants_joined_maps=not reads_maps,
    )


async def _features(handler: Handler) -> dict[str, Any]:
    try:
        done = await run([handler.path, "features"], timeout=PROBE_TIMEOUT, cap=1 << 20)
    except NativeError as e:
        log.warning("OCI runtime cannot be asked for its features", handler=handler.name, error=str(e))
        return {}
    if done.code != 0:
        log.debug("OCI runtime has no features command", handler=handler.name, path=handler.path)
        return {}
    try:
        document = json.loads(done.stdout)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        log.warning("OCI runtime's features are not a JSON object", handler=handler.name, path=handler.path)
        return {}
    return document


def find_program(path: str, name: str) -> str:
    """``path`` if given, else the program ``name`` along PATH; "" when there is none."""
    return shutil.which(path or name) or ""
