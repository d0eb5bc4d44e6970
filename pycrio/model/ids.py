"""Identifiers of pods, containers, images and layers."""

from __future__ import annotations

import os
import re

_HEX = re.compile(r"[0-9a-f]+\Z")


def new_id() -> str:
    """A fresh pod or container id: 64 lower-case hex characters from the kernel's random source."""
    return os.urandom(32).hex()


def is_id(text: str) -> bool:
    """True for a complete id (64 lower-case hex characters)."""
    return len(text) == 64 and bool(_HEX.match(text))


def is_id_prefix(text: str, least: int = 1) -> bool:
    """True when text could be the beginning of an id with at least ``least`` characters."""
    return least <= len(text) <= 64 and bool(_HEX.match(text))


def pod_name(name: str, namespace: str, uid: str, attempt: int) -> str:
    """The pod's unique name, ``k8s_<pod>_<namespace>_<uid>_<attempt>`` (what other tools see in the store)."""
    return f"k8s_{name}_{namespace}_{uid}_{attempt}"


def infra_name(name: str, namespace: str, uid: str, attempt: int) -> str:
    """The name of a pod's infra container in the store."""
    return f"k8s_POD_{name}_{namespace}_{uid}_{attempt}"


def container_name(container: str, name: str, namespace: str, uid: str, attempt: int) -> str:
    """A container's unique name, ``k8s_<container>_<pod>_<namespace>_<pod uid>_<attempt>``."""
    return f"k8s_{container}_{name}_{namespace}_{uid}_{attempt}"
