"""What happened to a pod or container; one event object feeds CRI events, metrics and cached answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class EventType(Enum):
    """CRI ContainerEventType (values are the wire numbers)."""

    CREATED = 0
    STARTED = 1
    STOPPED = 2
    DELETED = 3


@dataclass(frozen=True, slots=True)
class Event:
    """``container_id`` equals ``pod_id`` for events of the pod itself; ``at`` in ns since the epoch."""

    type: EventType
    pod_id: str
    container_id: str
    at: int
