"""What questions ask for and what their answers carry: filters and views (frozen, no protobuf).

A view joins records and readings for one answer and lives no longer than it. ``info`` maps are the verbose answers:
key to text, or to a value that is sent as JSON; empty unless they were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.event import Event
from pycrio.model.image import StoredImage
from pycrio.model.node import Condition
from pycrio.model.pod import PodRecord, PodState
from pycrio.model.stats import ContainerUsage, PodUsage


@dataclass(frozen=True, slots=True)
class PodFilter:
    """Conditions on pods, all of which must hold; empty ones do not count. ``id`` may be a prefix."""

    id: str = ""
    state: PodState | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContainerFilter:
    """Conditions on containers, all of which must hold; empty ones do not count. Ids may be prefixes."""

    id: str = ""
    pod_id: str = ""
    state: ContainerState | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodStatusView:
    """One pod. ``containers`` and ``timestamp`` (ns) are filled when pod events are on."""

    record: PodRecord
    info: Mapping[str, object] = field(default_factory=dict)
    containers: tuple[ContainerRecord, ...] = ()
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class ContainerStatusView:
    """One container."""

    record: ContainerRecord
    info: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageView:
    """One image: ``tags`` are its names with a tag, ``digests`` its ``repository@digest`` names."""

    image: StoredImage
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class ImageStatusView:
    """One image and what was asked for about it."""

    view: ImageView
    info: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HandlerView:
    """What a runtime handler can do; the one with the empty name is the default."""

    name: str
    recursive_read_only: bool = False
    user_namespaces: bool = False


@dataclass(frozen=True, slots=True)
class NodeStatusView:
    """Condition of the node, its handlers (with the unnamed one) and the features that all of them share."""

    conditions: tuple[Condition, ...]
    handlers: tuple[HandlerView, ...] = ()
    info: Mapping[str, object] = field(default_factory=dict)
    supplemental_groups_policy: bool = True
    user_namespaces_host_network: bool = True
    mount_options: bool = False


@dataclass(frozen=True, slots=True)
class ContainerStatsView:
    """Readings of one container."""

    record: ContainerRecord
    usage: ContainerUsage


@dataclass(frozen=True, slots=True)
class PodStatsView:
    """Readings of one pod; ``containers`` stand for ``usage.containers``, with their records."""

    record: PodRecord
    usage: PodUsage
    containers: tuple[ContainerStatsView, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricDescriptor:
    """Name, help and label keys of a CRI metric; every sample's label values follow the keys' order."""

    name: str
    help: str
    label_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One sample of a CRI metric; whole numbers only. ``timestamp`` in ns since the epoch."""

    name: str
    counter: bool
    label_values: tuple[str, ...]
    value: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class ContainerMetrics:
    """Samples of one container."""

    container_id: str
    samples: tuple[MetricSample, ...]


@dataclass(frozen=True, slots=True)
class PodMetrics:
    """Samples of one pod and of its containers."""

    pod_id: str
    samples: tuple[MetricSample, ...] = ()
    containers: tuple[ContainerMetrics, ...] = ()


@dataclass(frozen=True, slots=True)
class EventView:
    """An event with the pod and the pod's containers as they were then; ``pod`` None: unknown by now."""

    event: Event
    pod: PodRecord | None
    containers: tuple[ContainerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoredPod:
    """A pod made from a checkpoint: its id, and (name, id) of each of its containers."""

    pod_id: str
    containers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the HTTP status API tells of a container; ``created`` in ns since the epoch, ``root`` the mounted rootfs."""

    name: str
    pid: int
    image: str
    image_ref: str
    created: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec_annotations: Mapping[str, str]
    log_path: str
    root: str
    pod_id: str
    ips: tuple[str, ...] = ()
    host_network: bool = False
