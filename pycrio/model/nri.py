"""What plugins of the Node Resource Interface are told, and what they answer (NRI v1alpha1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pycrio.model.container import ContainerRecord
from pycrio.model.pod import PodRecord


class NriEvent(Enum):
    """What a plugin can subscribe to (values are the wire numbers)."""

    RUN_POD = 1
    STOP_POD = 2
    REMOVE_POD = 3
    CREATE = 4
    POST_CREATE = 5
    START = 6
    POST_START = 7
    UPDATE = 8
    POST_UPDATE = 9
    STOP = 10
    REMOVE = 11
    UPDATE_POD = 12
    POST_UPDATE_POD = 13
    VALIDATE = 14


@dataclass(frozen=True, slots=True)
class NriContainer:
    """A container as plugins see it: its record and its OCI config, with the limits that hold now."""

    record: ContainerRecord
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NriState:
    """The pods and containers that a joining plugin learns of."""

    pods: tuple[PodRecord, ...] = ()
    containers: tuple[NriContainer, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitChange:
    """New limits for a container, as an OCI linux.resources document that holds only what changes.

    ``tolerated``: a failure to apply them does not fail what the plugin was asked about.
    """

    container_id: str
    resources: Mapping[str, Any]
    tolerated: bool = False


@dataclass(frozen=True, slots=True)
class Eviction:
    """A container that a plugin wants stopped."""

    container_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NriAnswer:
    """What all plugins together answered.

    ``resources`` are the limits for the container in question (None: as asked), ``changes`` those for others.
    ``relabel`` are host paths that need the container's mount label.
    """

    changes: tuple[LimitChange, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    resources: Mapping[str, Any] | None = None
    relabel: tuple[str, ...] = field(default=())
