"""CNI network configurations: parsing and search, without running anything (CNI spec, section 1)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pycrio.errors import InvalidRequest

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conf", ".conflist", ".json")
MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class NetworkConf:
    """A network: its plugins in order, as their configuration objects.

    ``versions`` are those that the file offers and we speak, the highest first; ``version`` is the one in use. ``raw``
    is the list document with that version and every plugin in it: it means the same wherever it is read again.
    """

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]
    raw: bytes
    path: str = ""
    disable_check: bool = False
    disable_gc: bool = False
    versions: tuple[str, ...] = ()

    @property
    def number(self) -> tuple[int, ...]:
        """The version for comparisons."""
        return version_number(self.version)

    def pinned(self, version: str) -> NetworkConf:
        """The same network used with one of its other versions."""
        document = {**json.loads(self.raw), "cniVersion": version}
        return replace(self, version=version, raw=json.dumps(document).encode())


def version_number(text: str) -> tuple[int, ...]:
    """``1.1.0`` as (1, 1, 0); InvalidRequest for anything else."""
    parts = text.split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() for p in parts):
        raise InvalidRequest(f"{text!r} is not a CNI version")
    return tuple(int(p) for p in parts)


def parse(text: bytes, path: str = "", more: Sequence[object] = ()) -> NetworkConf:
    """A .conflist, or a .conf with a single plugin; ``more`` plugins come after those of a list.

    InvalidRequest says what is wrong.
    """
    what = path or "network configuration"
    document = decode(text, what)
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{what} has no name")
    if "/" in name or "\0" in name or name in (".", ".."):
        raise InvalidRequest(f"network name {name!r} in {what} could not be part of a file name")
    versions = _spoken(document, what)
    if "type" in document and "plugins" not in document:
        document = {"name": name, "plugins": [document]}
    plugins = document.get("plugins", [])
    if not isinstance(plugins, list):
        raise InvalidRequest(f"plugins of {what} are not a list")
    plugins = [*plugins, *more]
    if not plugins:
        raise InvalidRequest(f"{what} has no plugins")
    for plugin in plugins:
        _check_plugin(plugin, what)
    whole = {k: v for k, v in document.items() if k != "cniVersions"}
    whole |= {"cniVersion": versions[0], "plugins": plugins}
    if more:
        whole["loadOnlyInlinedPlugins"] = True
    return NetworkConf(
        name=name,
        version=versions[0],
        plugins=tuple(plugins),
        raw=json.dumps(whole).encode(),
        path=path,
        disable_check=_truth(document.get("disableCheck")),
        disable_gc=_truth(document.get("disableGC")),
        versions=versions,
    )


def decode(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object; InvalidRequest for anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidRequest(f"{what} is not JSON: {e}") from e
    if not isinstance(document, dict):
        raise InvalidRequest(f"{what} is not a JSON object")
    return document


def _check_plugin(plugin: object, what: str) -> None:
    if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or not plugin["type"]:
        raise InvalidRequest(f"{what} has a plugin without a type")
    if "/" in plugin["type"] or "\0" in plugin["type"]:
        raise InvalidRequest(f"plugin type {plugin['type']!r} in {what} is not a plain file name")
    wanted = plugin.get("capabilities") or {}
    if not isinstance(wanted, dict) or not all(isinstance(on, bool) for on in wanted.values()):
        raise InvalidRequest(f"capabilities of plugin {plugin['type']!r} in {what} are not names with true or false")


def _truth(value: object) -> bool:
    return value is True or value == "true"


def _spoken(document: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """The versions that the file offers and we speak, the highest first."""
    version = document.get("cniVersion") or "0.1.0"
    more = document.get("cniVersions")
    offered = [version, *(more if isinstance(more, list) else ())]
    spoken = {v for v in offered if isinstance(v, str) and v in VERSIONS}
    if not spoken:
        raise InvalidRequest(f"CNI version {version!r} of {what} is not supported: {', '.join(VERSIONS)} are")
    return tuple(sorted(spoken, key=version_number, reverse=True))


def runtime_conf(network: NetworkConf, index: int, given: Mapping[str, Any], prev: object = None) -> bytes:
    """What one plugin reads: its object with name and version of the list, the capabilities that it asked for and the
    result of the plugin before it."""
    plugin = dict(network.plugins[index])
    plugin["name"], plugin["cniVersion"] = network.name, network.version
    plugin.pop("cniVersions", None)
    wanted = plugin.pop("capabilities", None) or {}
    args = {k: given[k] for k, on in wanted.items() if on and k in given}
    if args:
        plugin["runtimeConfig"] = args
    if prev is not None:
        plugin["prevResult"] = prev
    return json.dumps(plugin).encode()


@dataclass(frozen=True, slots=True)
class Found:
    """What a directory holds: valid networks in lexical order of their files, what is wrong with the other files, and
    which directories beside it were looked into."""

    networks: tuple[NetworkConf, ...] = ()
    faults: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()


def load(directory: str, plugin_dirs: Sequence[str]) -> Found:
    """Read every network of a directory whose plugins are all there."""
    networks: list[NetworkConf] = []
    faults: list[str] = []
    directories: list[str] = []
    try:
        names = sorted(n for n in os.listdir(directory) if n.endswith(SUFFIXES))
    except OSError as e:
        return Found(faults=(f"network directory {directory} cannot be read: {e.strerror}",))
    for name in names:
        path = os.path.join(directory, name)
        try:
            network = _read(path, directory, directories)
            missing = [p["type"] for p in network.plugins if not find_plugin(p["type"], plugin_dirs)]
            if missing:
                raise InvalidRequest(f"{path}: plugin {missing[0]!r} is in none of {', '.join(plugin_dirs)}")
        except OSError as e:
            faults.append(f"{path}: {e.strerror}")
        except InvalidRequest as e:
            faults.append(str(e))
        else:
            networks.append(network)
    return Found(tuple(networks), tuple(faults), tuple(directories))


def _read(path: str, directory: str, directories: list[str]) -> NetworkConf:
    text = _content(path)
    document = decode(text, path)
    if "type" in document and "plugins" not in document:
        return parse(text, path)
    name = document.get("name")
    if (
        document.get("loadOnlyInlinedPlugins") is True
        or not isinstance(name, str)
        or "/" in name
        or not name.strip(".")
    ):
        return parse(text, path)
    # Further plugins of a list lie in a directory of the network's name (CNI spec 1.1).
    beside = os.path.join(directory, name)
    directories.append(beside)
    try:
        files = [os.path.join(beside, n) for n in sorted(os.listdir(beside)) if n.endswith(".conf")]
    except (FileNotFoundError, NotADirectoryError):
        files = []
    return parse(text, path, [decode(_content(file), file) for file in files])


def _content(path: str) -> bytes:
    # Non-blocking: a fifo in the directory must not stop us.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as f:
        return f.read(MAX_FILE)


def find_plugin(kind: str, directories: Sequence[str]) -> str:
    """The executable of a plugin type; "" when no directory has it."""
    for directory in directories:
        path = os.path.join(directory, kind)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""
