"""Results of attachments, in libcni's place and form, so that DEL uses the configuration that ADD used and other tools
can tell what is attached."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pycrio._native.files import replace_file
from pycrio.drivers.network.conf import NetworkConf, parse
from pycrio.drivers.network.plugins import Attachment
from pycrio.errors import InvalidRequest, StoreFailure
from pycrio.obs import log as obslog

log = obslog.get("cni")
KIND = "cniCacheV1"
_TEMPORARY = ".pycrio-tmp"


@dataclass(frozen=True, slots=True)
class Entry:
    """A cached attachment: network as it was, arguments, result (None: the ADD never ended), and who made it."""

    network: NetworkConf
    attachment: Attachment
    result: Any
    path: str
    owner: str


class Cache:
    """Files ``<dir>/<network>-<container>-<interface>``. Other programs keep theirs in the same directory; ``owner``
    marks ours, in a field that libcni passes over."""

    def __init__(self, directory: str, owner: str) -> None:
        self._dir = directory
        self._owner = owner

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
            "owner": self._owner,
        }
        path = self._path(network.name, attachment.container_id, attachment.ifname)
        try:
            os.makedirs(self._dir, 0o700, exist_ok=True)
            replace_file(path, json.dumps(document).encode(), path + _TEMPORARY)
        except OSError as e:
            raise StoreFailure(f"CNI result {path} cannot be written: {e.strerror}") from e

    def drop(self, network: str, container_id: str, ifname: str) -> None:
        """Forget an attachment; StoreFailure when it cannot be removed."""
        self._unlink(self._path(network, container_id, ifname))

    def forget(self, container_id: str) -> None:
        """Remove whatever is left of a container, unreadable files included."""
        for name in self._names():
            if f"-{container_id}-" in name:
                self._unlink(os.path.join(self._dir, name))

    def tidy(self) -> None:
        """Remove what a crash left half written."""
        for name in self._names():
            if name.endswith(_TEMPORARY):
                self._unlink(os.path.join(self._dir, name))

    def _unlink(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # forgotten already
        except OSError as e:
            raise StoreFailure(f"CNI result {path} cannot be removed: {e.strerror}") from e

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._dir))
        except FileNotFoundError:
            return []
        except OSError as e:
            raise StoreFailure(f"CNI results in {self._dir} cannot be read: {e.strerror}") from e

    def ours(self, entry: Entry) -> bool:
        """Whether this daemon made the attachment."""
        return entry.owner == self._owner

    def entries(self, container_id: str = "") -> Iterator[Entry]:
        """Every readable attachment, or those of one container."""
        for name in self._names():
            if name.endswith(_TEMPORARY) or (container_id and f"-{container_id}-" not in name):
                continue
            path = os.path.join(self._dir, name)
            try:
                with open(path, "rb") as f:
                    entry = _decode(json.loads(f.read()), path)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidRequest) as e:
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
    return Entry(network, attachment, document.get("result"), path, str(document.get("owner") or ""))
