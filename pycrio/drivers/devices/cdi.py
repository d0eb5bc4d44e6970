"""Container Device Interface: vendor specs from directories, edits for OCI configs (CDI spec 0.3 to 1.1).

A device is ``vendor/class=name``. A spec file (JSON or YAML) holds one kind with its devices; the same device in a
later directory replaces that of an earlier one, twice in one directory is a conflict and then unresolvable.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycrio.errors import InvalidRequest, NotFound
from pycrio.obs import log as obslog

log = obslog.get("cdi")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*/[A-Za-z][A-Za-z0-9_.-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*\Z")
MAX_SPEC = 4 << 20
_HOOKS = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})
_NO_ACCESS = "none"


@dataclass(frozen=True, slots=True)
class Device:
    """Edits of one device and of the spec that it is in."""

    edits: Mapping[str, Any]
    spec: str
    spec_edits: Mapping[str, Any]
    priority: int


class Registry:
    """Devices by qualified name, read anew when a directory has changed."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = tuple(directories)
        self._stamp: tuple[object, ...] = ()
        self._devices: dict[str, Device] = {}
        self._conflicts: set[str] = set()

    def load(self, directories: Sequence[str] | None = None) -> None:
        """Read every spec; a faulty one is warned of and left out."""
        if directories is not None:
            self._directories = tuple(directories)
        self._devices, self._conflicts = {}, set()
        for priority, directory in enumerate(self._directories):
            for path in _specs(directory):
                try:
                    self._add(path, parse(path), priority)
                except (OSError, ValueError, RecursionError, InvalidRequest) as e:
                    log.warning("CDI spec ignored", path=path, error=str(e))
        self._stamp = _stamp(self._directories)

    def _add(self, path: str, document: Mapping[str, Any], priority: int) -> None:
        for device in document["devices"]:
            name = f"{document['kind']}={device['name']}"
            edits = device.get("containerEdits") or {}
            known = self._devices.get(name)
            if known is not None and known.priority == priority:
                self._conflicts.add(name)
                continue
            self._conflicts.discard(name)
            self._devices[name] = Device(edits, path, document.get("containerEdits") or {}, priority)

    def inject(self, config: dict[str, Any], names: Sequence[str]) -> None:
        """Apply the edits of devices to an OCI config in place."""
        if _stamp(self._directories) != self._stamp:
            self.load()
        missing = [n for n in names if n not in self._devices or n in self._conflicts]
        if missing:
            raise NotFound(
                "CDI device", ", ".join(missing), f"no spec in {', '.join(self._directories)} defines it once"
            )
        done: set[str] = set()
        for name in dict.fromkeys(names):
            device = self._devices[name]
            try:
                if device.spec not in done:
                    done.add(device.spec)
                    apply(config, device.spec_edits)
                apply(config, device.edits)
            except (KeyError, TypeError, AttributeError) as e:
                raise InvalidRequest(
                    f"CDI device {name}: its edits in {device.spec} are malformed: {type(e).__name__}: {e}"
                ) from e
            except InvalidRequest as e:
                raise InvalidRequest(f"CDI device {name}: its edits in {device.spec} are malformed: {e}") from e


def _specs(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [os.path.join(directory, n) for n in names if n.endswith((".json", ".yaml", ".yml"))]


def _stamp(directories: Sequence[str]) -> tuple[object, ...]:
    """What changes when a spec is added, replaced or removed: names, inodes, times and sizes."""
    out: list[object] = []
    for directory in directories:
        for path in _specs(directory):
            try:
                info = os.stat(path)
            except OSError:
                continue
            out.append((path, info.st_ino, info.st_mtime_ns, info.st_size))
    return tuple(out) or ("empty",)


def parse(path: str) -> Mapping[str, Any]:
    """Read and check one spec."""
    with open(path, "rb") as f:
        text = f.read(MAX_SPEC + 1)
    if len(text) > MAX_SPEC:
        raise InvalidRequest(f"larger than {MAX_SPEC} bytes")
    if path.endswith(".json"):
        document = json.loads(text)
    else:
        import yaml  # seldom needed: most vendors write JSON

        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise InvalidRequest(f"not YAML: {e}") from e
    if not isinstance(document, dict) or not document.get("cdiVersion"):
        raise InvalidRequest("no cdiVersion")
    devices = document.get("devices")
    if not isinstance(devices, list) or not all(isinstance(d, dict) and d.get("name") for d in devices):
        raise InvalidRequest("devices is not a list of named devices")
    for device in devices:
        if not NAME.match(f"{document.get('kind')}={device['name']}"):
            raise InvalidRequest(f"{document.get('kind')}={device['name']} is not a qualified device name")
    return document


def apply(config: dict[str, Any], edits: Mapping[str, Any]) -> None:
    """One set of container edits."""
    process, linux = config.setdefault("process", {}), config.setdefault("linux", {})
    for item in edits.get("env") or ():
        key, sign, _ = item.partition("=")
        if not key or not sign:
            raise InvalidRequest(f"environment variable {item!r} is not of the form NAME=value")
        process["env"] = [e for e in process.get("env", ()) if e.partition("=")[0] != key] + [item]
    for gid in edits.get("additionalGids") or ():
        groups = process.setdefault("user", {}).setdefault("additionalGids", [])
        if gid and gid not in groups:
            groups.append(gid)
    for node in edits.get("deviceNodes") or ():
        _device(linux, node, process.get("user") or {})
    for mount in edits.get("mounts") or ():
        entry = {
            "destination": mount["containerPath"],
            "source": mount["hostPath"],
            "type": mount.get("type") or "bind",
            "options": mount.get("options") or ["rbind", "rprivate", "ro"],
        }
        kept = [m for m in config.get("mounts", ()) if m["destination"] != entry["destination"]]
        config["mounts"] = sorted([*kept, entry], key=lambda m: m["destination"].rstrip("/").count("/"))
    for hook in edits.get("hooks") or ():
        if hook["hookName"] not in _HOOKS:
            raise InvalidRequest(f"{hook['hookName']!r} is no name of a hook")
        entry = {k: hook[k] for k in ("path", "args", "env", "timeout") if hook.get(k)}
        config.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(entry)
    for interface in edits.get("netDevices") or ():
        _net_device(linux.setdefault("netDevices", {}), interface["hostInterfaceName"], interface["name"])
    rdt = edits.get("intelRdt")
    if rdt:
        linux["intelRdt"] = {k: v for k, v in rdt.items() if v}


def _net_device(devices: dict[str, Any], host: str, name: str) -> None:
    """A network interface that moves into the container, under another name (OCI config-linux.md, network devices)."""
    for other, known in devices.items():
        if (other == host) != (known["name"] == name):
            raise InvalidRequest(f"network interface {host!r} as {name!r} contradicts {other!r} as {known['name']!r}")
    devices[host] = {"name": name}


def _device(linux: dict[str, Any], node: Mapping[str, Any], user: Mapping[str, Any]) -> None:
    """A device node. What kind it is and its numbers are read from the host where the spec leaves them open; whose it
    is then follows from who runs, so that a process that is not root can use what it was given."""
    host = node.get("hostPath") or node["path"]
    kind, major, minor = node.get("type"), node.get("major"), node.get("minor")
    entry: dict[str, Any] = {"path": node["path"]} | {key: user[key] for key in ("uid", "gid") if user.get(key)}
    if kind is None or (kind != "p" and (major is None or minor is None)):
        try:
            info = os.stat(host)
        except OSError as e:
            raise NotFound("device", host, f"a CDI spec needs it: {e.strerror}") from e
        kind = "b" if stat.S_ISBLK(info.st_mode) else "c" if stat.S_ISCHR(info.st_mode) else "p"
        major, minor = os.major(info.st_rdev), os.minor(info.st_rdev)
    entry |= {"type": kind, "major": major or 0, "minor": minor or 0}
    for key in ("fileMode", "uid", "gid"):
        if node.get(key) is not None:
            entry[key] = node[key]
    linux["devices"] = [d for d in linux.get("devices", ()) if d["path"] != entry["path"]] + [entry]
    if kind != "p":
        rules = linux.setdefault("resources", {}).setdefault("devices", [])
        access = node.get("permissions") or "rwm"
        if access == _NO_ACCESS:
            access = ""
        elif access.strip("rwm"):
            raise InvalidRequest(f"device {node['path']} has permissions {access!r}: letters of rwm are expected")
        rules.append({"allow": True, "type": kind, "major": major, "minor": minor, "access": access})
