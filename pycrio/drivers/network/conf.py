"""CNI network configurations: parsing and choice, without running anything (CNI spec, section 1)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycrio.errors import InvalidRequest

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conf", ".conflist", ".json")
MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class NetworkConf:
    """A network: its plugins in order, as their configuration objects. ``raw`` is the list document."""

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]
    raw: bytes
    path: str = ""
    disable_check: bool = False
    disable_gc: bool = False

    @property
    def number(self) -> tuple[int, ...]:
        """The version for comparisons."""
        return version_number(self.version)


def version_number(text: str) -> tuple[int, ...]:
    """``1.1.0`` as (1, 1, 0); InvalidRequest for anything else."""
    parts = text.split(".")
    if len(parts) != 3 or not all(p.isdigit() for p in parts):
        raise InvalidRequest(f"{text!r} is not a CNI version")
    return tuple(int(p) for p in parts)


def parse(text: bytes, path: str = "") -> NetworkConf:
    """A .conflist, or a .conf with a single plugin. InvalidRequest says what is wrong."""
    try:
        document = json.loads(text)
    except ValueError as e:
        raise InvalidRequest(f"{path or 'network configuration'} is not JSON: {e}") from e
    if not isinstance(document, dict):
        raise InvalidRequest(f"{path or 'network configuration'} is not a JSON object")
    name, version = document.get("name"), document.get("cniVersion") or "0.1.0"
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path or 'network configuration'} has no name")
    if "/" in name or name in (".", ".."):
        raise InvalidRequest(f"network name {name!r} in {path} could not be part of a file name")
    version = _best(version, document.get("cniVersions"))
    if "plugins" in document:
        plugins = document["plugins"]
    else:
        plugins = [document]
        text = json.dumps({"cniVersion": version, "name": name, "plugins": plugins}).encode()
    if not isinstance(plugins, list) or not plugins:
        raise InvalidRequest(f"{path or name} has no plugins")
    for plugin in plugins:
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise InvalidRequest(f"{path or name} has a plugin without a type")
        if "/" in plugin["type"]:
            raise InvalidRequest(f"plugin type {plugin['type']!r} in {path or name} contains a path separator")
    return NetworkConf(
        name=name,
        version=version,
        plugins=tuple(plugins),
        raw=text,
        path=path,
        disable_check=_truth(document.get("disableCheck")),
        disable_gc=_truth(document.get("disableGC")),
    )


def _truth(value: object) -> bool:
    return value is True or value == "true"


def _best(version: object, more: object) -> str:
    """The highest version that we speak among those that the file offers."""
    offered = [version, *(more if isinstance(more, list) else ())]
    spoken = [v for v in offered if isinstance(v, str) and v in VERSIONS]
    if not spoken:
        raise InvalidRequest(f"CNI version {version!r} is not supported: {', '.join(VERSIONS)} are")
    return max(spoken, key=version_number)


def runtime_conf(network: NetworkConf, index: int, given: Mapping[str, Any], prev: object = None) -> bytes:
    """What one plugin reads: its object with name and version of the list, the capabilities that it asked for and the
    result of the plugin before it."""
    plugin = dict(network.plugins[index])
    plugin["name"], plugin["cniVersion"] = network.name, network.version
    wanted = plugin.pop("capabilities", None) or {}
    args = {k: given[k] for k, on in wanted.items() if on and k in given}
    if args:
        plugin["runtimeConfig"] = args
    if prev is not None:
        plugin["prevResult"] = prev
    return json.dumps(plugin).encode()


@dataclass(frozen=True, slots=True)
class Choice:
    """The network to use, or why there is none. ``networks`` has every valid one by name."""

    network: NetworkConf | None
    reason: str
    networks: Mapping[str, NetworkConf]


def load(directory: str, plugin_dirs: Sequence[str], default: str) -> Choice:
    """Read a directory: the first valid file in lexical order is the default, unless one is named."""
    found: dict[str, NetworkConf] = {}
    first: NetworkConf | None = None
    faults = []
    try:
        names = sorted(n for n in os.listdir(directory) if n.endswith(SUFFIXES))
    except OSError as e:
        return Choice(None, f"network directory {directory} cannot be read: {e.strerror}", {})
    for name in names:
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as f:
                network = parse(f.read(MAX_FILE), path)
            missing = [p["type"] for p in network.plugins if not find_plugin(p["type"], plugin_dirs)]
            if missing:
                raise InvalidRequest(f"{path}: plugin {missing[0]!r} is in none of {', '.join(plugin_dirs)}")
        except OSError as e:
            faults.append(f"{path}: {e.strerror}")
            continue
        except InvalidRequest as e:
            faults.append(str(e))
            continue
        found.setdefault(network.name, network)
        first = first or network
    chosen = found.get(default) if default else first
    if chosen is not None:
        return Choice(chosen, "", found)
    what = f"no network named {default!r}" if default else "no CNI configuration file"
    return Choice(None, f"{what} in {directory}" + (f": {'; '.join(faults)}" if faults else ""), found)


def find_plugin(kind: str, directories: Sequence[str]) -> str:
    """The executable of a plugin type; "" when no directory has it."""
    for directory in directories:
        path = os.path.join(directory, kind)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""
