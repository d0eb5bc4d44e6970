"""Results of attachments, in libcni's place and form, so that DEL uses the configuration that ADD used."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pycrio.drivers.network.conf import NetworkConf, parse
from pycrio.drivers.network.plugins import Attachment
from pycrio.errors import InvalidRequest, StoreFailure
from pycrio.obs import log as obslog

log = obslog.get("cni")
KIND = "cniCacheV1"


@dataclass(frozen=True, slots=True)
class Entry:
    """A cached attachment: network as it was, arguments, result."""

    network: NetworkConf
    attachment: Attachment
    result: Any
    path: str


class Cache:
    """Files ``<dir>/<network>-<container>-<interface>``."""

    def __init__(self, directory: str) -> None:
        self._dir = directory

    def _path(self, network: str, container_id: str, ifname: str) -> str:
        return os.path.join(self._dir, f"{network}-{container_id}-{ifname}")

    def put(self, network: NetworkConf, attachment: Attachment, result: Any) -> None:
        """Remember an attachment; StoreFailure when it cannot be written."""
        document = {
            "kind": KIND,
            "containerId": attachment.container_id,
            "config": base64.b64encode(network.raw).decode("ascii"),
            "ifName": attachment.ifname,
            "networkName": network.name,
            "netns": attachment.netns,
            "cniArgs": [list(pair) for pair in attachment.args],
            "capabilityArgs": dict(attachment.capabilities),
            "result": result,
        }
        path = self._path(network.name, attachment.container_id, attachment.ifname)
        try:
            os.makedirs(self._dir, 0o700, exist_ok=True)
            with open(f"{path}.tmp", "w", encoding="utf-8") as f:
                json.dump(document, f)
            os.replace(f"{path}.tmp", path)
        except OSError as e:
            raise StoreFailure(f"CNI result {path} cannot be written: {e.strerror}") from e

    def drop(self, network: str, container_id: str, ifname: str) -> None:
        """Forget an attachment."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(network, container_id, ifname))

    def entries(self, container_id: str = "") -> Iterator[Entry]:
        """Every readable attachment, or those of one container."""
        try:
            names = sorted(os.listdir(self._dir))
        except FileNotFoundError:
            return
        for name in names:
            if name.endswith(".tmp") or (container_id and f"-{container_id}-" not in name):
                continue
            path = os.path.join(self._dir, name)
            try:
                with open(path, "rb") as f:
                    entry = _decode(json.loads(f.read()), path)
            except (OSError, ValueError, KeyError, TypeError, InvalidRequest) as e:
                log.warning("CNI result is unreadable, skipped", path=path, error=str(e))
                continue
            if entry is not None and container_id in ("", entry.attachment.container_id):
                yield entry


def _decode(document: dict[str, Any], path: str) -> Entry | None:
    if document.get("kind") != KIND:
        return None
    network = parse(base64.b64decode(document["config"]), path)
    attachment = Attachment(
        container_id=document["containerId"],
        netns=document.get("netns") or "",
        ifname=document["ifName"],
        args=tuple((str(k), str(v)) for k, v in document.get("cniArgs") or ()),
        capabilities=document.get("capabilityArgs") or {},
    )
    return Entry(network, attachment, document.get("result"), path)
