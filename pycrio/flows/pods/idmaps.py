"""Id maps of user namespaces: what the kernel and every OCI runtime want of them (man 7 user_namespaces)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import attrgetter

from pycrio.errors import InvalidRequest
from pycrio.model.security import IdMapping

IDS = (1 << 32) - 1
LINES = 340


def check(kind: str, maps: Sequence[IdMapping]) -> None:
    """InvalidRequest unless the ``kind`` (uid, gid) maps can be written for one namespace with a root.

    The kernel's own refusal is a bare EINVAL, and a runtime's comes only after the pod has been made.
    """
    if len(maps) > LINES:
        raise InvalidRequest(f"{len(maps)} {kind} mappings of a user namespace, the kernel takes {LINES}")
    for m in maps:
        if m.length <= 0:
            raise InvalidRequest(f"a {kind} mapping of a user namespace has no length")
        if m.container_id + m.length > IDS or m.host_id + m.length > IDS:
            raise InvalidRequest(f"{kind} mapping {_text(m)} goes beyond the highest id")
    for side in ("container_id", "host_id"):
        first: Callable[[IdMapping], int] = attrgetter(side)
        ordered = sorted(maps, key=first)
        for one, other in pairwise(ordered):
            if first(one) + one.length > first(other):
                raise InvalidRequest(f"{kind} mappings {_text(one)} and {_text(other)} of a user namespace overlap")
    if not any(m.container_id == 0 for m in maps):
        raise InvalidRequest(f"the {kind} mappings of a user namespace leave out id 0, its root")


def _text(m: IdMapping) -> str:
    return f"{m.container_id}:{m.host_id}:{m.length}"
