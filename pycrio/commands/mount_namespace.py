"""KUBENSMNT: the mount namespace that a node keeps for kubelet and container runtime, so that their many mounts do not
burden the service manager and everybody else."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pycrio.obs.log import Logger

VARIABLE = "KUBENSMNT"


def join(environ: Mapping[str, str]) -> str:
    """Go there, before any file is read and any thread started; "" or why not. What was asked for and cannot be is no
    failure: as with CRI-O, the daemon runs where it was started, and says so."""
    path = environ.get(VARIABLE, "")
    if not path:
        return ""
    from pycrio._native import ns  # late: few nodes have one
    from pycrio._native.base import NativeError

    try:
        ns.join_mount(path)
    except NativeError as error:
        return f"{error.step}: {os.strerror(error.errno or 0)}"
    return ""


def tell(log: Logger, environ: Mapping[str, str], failure: str) -> None:
    """What became of it, once there is a log."""
    path = environ.get(VARIABLE, "")
    if failure:
        log.warning(
            f"Mount namespace of {VARIABLE} is not joined, going on in that of the parent", path=path, error=failure
        )
    elif path:
        log.info("Joined mount namespace", path=path)
