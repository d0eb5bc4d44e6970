"""Addresses that the IPAM plugin host-local has lost track of.

It keeps a file per address, named by it, whose content is the container and interface. A machine that loses power may
keep the file and lose the content, because the plugin does not sync it. Such an address belongs to nobody that a DEL
or GC could name, and would stay taken for ever.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os

from pycrio._native.base import Fd
from pycrio.drivers.network.conf import NetworkConf

DATA_DIR = "/var/lib/cni/networks"
_LOCK = "lock"


def release_nameless(network: NetworkConf) -> list[str]:
    """Free the addresses of a network whose files are empty; which ones.

    Under the plugin's own lock, within which it makes and fills such a file. Nothing when somebody holds that now: the
    next start tries again. OSError when files cannot be removed.
    """
    freed: list[str] = []
    for plugin in network.plugins:
        ipam = plugin.get("ipam")
        if isinstance(ipam, dict) and ipam.get("type") == "host-local":
            data_dir = ipam.get("dataDir") or DATA_DIR
            if isinstance(data_dir, str):
                freed += _release(os.path.join(data_dir, network.name))
    return freed


def _release(directory: str) -> list[str]:
    try:
        lock = Fd(os.open(os.path.join(directory, _LOCK), os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return []  # no address was ever given
    with lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        nameless = [
            e for e in os.scandir(directory) if _is_address(e.name) and e.stat(follow_symlinks=False).st_size == 0
        ]
        for entry in nameless:
            os.unlink(entry.path)
        return sorted(entry.name for entry in nameless)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
