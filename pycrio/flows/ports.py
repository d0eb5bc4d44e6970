"""What the flows need from the outside, as Protocols of at most eight methods; drivers satisfy them by shape.

``Host`` carries one implementation of each; ``wiring.py`` builds it from the configuration, tests build it from
``tests/fakes``. Every method may raise the classes of ``pycrio.errors``; a method that undoes something
(``remove``, ``release``, ``unmount``, ``delete``) succeeds when there is nothing left to undo.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pycrio.model.container import ExecResult, ExitReport
from pycrio.model.cpus import CpuTuning
from pycrio.model.image import (
    Artifact,
    Credentials,
    LayerDescriptor,
    RemoteImage,
    StoredImage,
    UnpackedLayer,
)
from pycrio.model.mount import DeviceNode, OciMount
from pycrio.model.node import Condition, Handler, Identity
from pycrio.model.nri import NriAnswer, NriContainer, NriEvent
from pycrio.model.pod import PodRecord, PortMapping
from pycrio.model.requests import (
    CaptureRequest,
    ContainerDirs,
    ExecRequest,
    Labels,
    MonitorReport,
    MonitorRequest,
    NamespaceRequest,
    NetworkRequest,
    NetworkResult,
    StoreEntry,
)
from pycrio.model.resources import Resources
from pycrio.model.security import IdMapping, IdMaps, SecurityProfile, SELinuxOptions
from pycrio.model.stats import CgroupStats, FsSpace, FsUsage, InterfaceStats, ProcessUsage

# --- images -----------------------------------------------------------------------------------------------------


class Registry(Protocol):
    """Finds images in registries and fetches their blobs (distribution-spec, registries.conf, auth files, policy)."""

    async def resolve(self, reference: str, credentials: Credentials | None, namespace: str) -> RemoteImage:
        """Find the image for this node's platform, verify manifests, config and signature policy.

        ``reference`` is what the request says (short names allowed), ``namespace`` the Kubernetes namespace ("" when
        unknown). Raises RegistryError, RegistryUnavailable, SignatureInvalid, BadImage, InvalidRequest.
        """

    async def fetch(
        self, image: RemoteImage, layer: LayerDescriptor, sink_fd: int, progress: Callable[[int], None]
    ) -> None:
        """Write the layer's blob to ``sink_fd`` (a pipe, left open), resuming cut transfers; ``progress`` gets the
        bytes so far. The blob's size is checked here, its digest by whoever unpacks it."""

    def names(self, reference: str) -> tuple[str, ...]:
        """Fully qualified candidates for a reference, the likeliest first; no network. InvalidRequest if malformed."""

    async def verify_stored(self, image: StoredImage, user_image: str, namespace: str) -> None:
        """Re-check the signature policy for an image of the store; SignatureInvalid if it is not accepted now."""

    async def reload(self) -> None:
        """Read the registry configuration and policies anew; ConfigError keeps the old ones."""


class Images(Protocol):
    """Image records of the containers/storage store."""

    async def all(self) -> Sequence[StoredImage]:
        """Every image, those of additional stores included."""

    async def find(self, names: Sequence[str], ident: str) -> StoredImage | None:
        """The image with the id (or unique id prefix of at least three characters) ``ident``, else by the first of the
        full ``names`` that is known; None when absent."""

    async def record(self, image: RemoteImage, top_layer: str, diff_size: int) -> StoredImage:
        """Write or complete the record of a pulled image: big data, names, signatures."""

    async def untag(self, image_id: str, name: str) -> None:
        """Take one name from an image."""

    async def remove(self, image_id: str) -> None:
        """Delete the record and every layer that nothing else needs; InUse when a container uses it."""

    async def users(self, image_id: str) -> Sequence[str]:
        """Ids of the store's containers that use the image."""

    async def disk_use(self) -> tuple[FsUsage, FsUsage]:
        """Use of the image file system and of the container file system."""


class Artifacts(Protocol):
    """OCI artifacts, kept as an image layout (image-spec, image-layout.md); additional stores come before our own."""

    async def all(self) -> Sequence[Artifact]:
        """Every artifact, each digest once. The same objects come back while nothing changes."""

    async def find(self, names: Sequence[str], ident: str) -> Artifact | None:
        """The artifact by the first of the full ``names`` that is known, else the one with the digest (hex, or a unique
        prefix of it) ``ident``; None when absent."""

    async def present(self, digests: Sequence[str]) -> frozenset[str]:
        """Those of the blobs that need not be fetched."""

    async def receive(self, layer: LayerDescriptor, source_fd: int) -> str:
        """Stage a blob from a pipe; what to call it. BadImage when digest or size differ from the descriptor's;
        nothing stays behind on failure or cancellation."""

    async def discard(self, staged: str) -> None:
        """Drop a staged blob; fine when it is part of the store by now."""

    async def record(self, image: RemoteImage, staged: Sequence[str]) -> Artifact:
        """Make the staged blobs, config and manifest part of the store, known by the image's name."""

    async def remove(self, ident: str, name: str = "") -> None:
        """Delete an artifact (full digest in hex) with the blobs that no other needs, or only one of its names. Denied
        for those of additional stores; absent is fine."""

    async def garbage(self) -> int:
        """Remove what crashes left; number of things removed."""


class Layers(Protocol):
    """Read-only layers of images."""

    def chain_ids(self, diff_ids: Sequence[str]) -> tuple[str, ...]:
        """Layer ids for a list of diff IDs, base first."""

    async def present(self, layer_ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids that the store holds completely."""

    async def unpack(self, layer: LayerDescriptor, source_fd: int, group: str = "") -> UnpackedLayer:
        """Extract a blob from a pipe into a staging place while it arrives; with ``group`` by a process below that
        control group. BadImage when the stream is malformed or digest, size or diff ID differ from the descriptor's;
        Denied when it is encrypted and none of our keys opens it; nothing stays behind on failure or cancellation."""

    async def commit(self, layer: UnpackedLayer, layer_id: str, parent: str) -> None:
        """Make a staged layer part of the store (already there: the staged copy is dropped)."""

    async def discard(self, layer: UnpackedLayer) -> None:
        """Drop a staged layer."""

    async def garbage(self) -> int:
        """Remove what crashes left (incomplete layers, staging, temporary files); number of things removed."""

    async def sweep(self) -> int:
        """Remove staging and deleted files whose owners died or gave up, while others work; number removed."""


class Rootfs(Protocol):
    """Writable root file systems of containers, as containers of the shared store."""

    async def create(self, entry: StoreEntry) -> ContainerDirs:
        """Make the read-write layer above the image and the container's record and directories."""

    async def mount(self, container_id: str) -> str:
        """Mount the root file system; its path."""

    async def unmount(self, container_id: str) -> None:
        """Unmount the root file system."""

    async def remove(self, container_id: str) -> None:
        """Unmount and delete layer, record and directories."""

    async def usage(self, container_id: str) -> FsUsage | None:
        """Use of the writable layer; None when the container is gone."""

    async def mount_image(self, image_id: str, target: str, label: str, maps: IdMaps = ((), ())) -> None:
        """Mount an image's content read-only on an existing directory; with maps, with shifted ids where the kernel
        can show them."""

    async def unmount_image(self, target: str) -> None:
        """Undo mount_image."""

    async def entries(self) -> Sequence[StoreEntry]:
        """Every container of the store that belongs to us (its metadata has pod-name and pod-id)."""

    async def known(self, container_id: str) -> bool:
        """True when the store has a container of that id, whoever made it."""


class Changes(Protocol):
    """What containers changed in their root file systems, as files that other engines read and write as well:
    ``rootfs-diff.tar`` and ``deleted.files`` (a JSON list of paths)."""

    async def save(self, container_id: str, directory: str) -> None:
        """Write the two files; the root file system is mounted and nobody changes it."""

    async def load(self, container_id: str, directory: str) -> None:
        """Make the same changes in a new root file system that is not mounted yet; BadImage when the files are
        malformed. Files that are absent change nothing."""


# --- processes --------------------------------------------------------------------------------------------------


class Monitors(Protocol):
    """Container monitors (pycrio-monitor or conmon): one process per container that outlives the daemon."""

    async def create(self, request: MonitorRequest) -> MonitorReport:
        """Start a monitor, which creates the container by its runtime. RuntimeFailure carries what the runtime said,
        Timeout after the handler's create time; nothing of monitor or container stays behind."""

    async def reopen_log(self, bundle: str, log_path: str) -> None:
        """Have the log reopened; returns when the new file exists."""

    async def resize(self, bundle: str, width: int, height: int) -> None:
        """Set the size of the container's terminal."""

    async def attach(self, container_id: str, bundle: str) -> int:
        """A connected SOCK_SEQPACKET descriptor of the attach socket; the caller owns it."""

    def exits(self) -> AsyncIterator[ExitReport]:
        """Exits as they are recorded, those recorded while nobody listened first. Each exit file is removed by
        ``forget_exit`` after handling, so that a crash repeats rather than loses it."""

    async def exit_of(self, container_id: str, persist_dir: str) -> ExitReport | None:
        """The recorded exit of one container, None when there is none."""

    def oom_recorded(self, persist_dir: str, bundle: str) -> bool:
        """True when the monitor saw an out-of-memory kill."""

    async def forget_exit(self, container_id: str) -> None:
        """Remove the exit file."""


class ExecSession(Protocol):
    """A running streaming exec. Descriptors are blocking pipe ends or, with a terminal, one pty master."""

    stdin_fd: int
    stdout_fd: int
    stderr_fd: int
    pty_fd: int

    async def wait(self) -> int:
        """Exit code (128 + signal when killed)."""

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size."""

    def close_stdin(self) -> None:
        """End the process's input (pipes only)."""

    async def close(self) -> None:
        """Kill what still runs and release everything."""


class Runtime(Protocol):
    """Verbs of an OCI runtime on an existing container (runtime-spec, runtime.md)."""

    async def start(self, handler: Handler, container_id: str) -> None:
        """Start a created container."""

    async def delete(self, handler: Handler, container_id: str) -> None:
        """Delete the container in the runtime, killing what still runs."""

    async def state(self, handler: Handler, container_id: str) -> Mapping[str, Any] | None:
        """The runtime's state document; None for an unknown container."""

    async def update(self, handler: Handler, container_id: str, resources: Mapping[str, Any]) -> None:
        """Apply an OCI linux.resources document."""

    async def pause(self, handler: Handler, container_id: str, frozen: bool) -> None:
        """Freeze or thaw the container."""

    async def exec_sync(self, request: ExecRequest) -> ExecResult:
        """Run a process to its end without a monitor. Timeout when it took too long (its tree is then killed)."""

    async def exec_stream(self, request: ExecRequest, tty: bool, stdin: bool) -> ExecSession:
        """Start a process with its stdio in our hands."""

    async def garbage(self) -> int:
        """Remove what execs of an earlier run left; number of things removed."""


class Tasks(Protocol):
    """Processes of containers, which with some handlers are not the host's. ``pid`` and ``start_time`` are those of a
    record, ``cgroup_path`` its container's."""

    async def kill(self, container_id: str, pid: int, start_time: int, signal: int) -> bool:
        """Signal the container's first process; False when it is gone."""

    async def end_rest(self, container_id: str, cgroup_path: str, shared: bool) -> None:
        """End what is left of a container whose first process has gone; ``shared``: its pid namespace is not its own,
        so that the kernel does not."""

    async def oom_killed(self, container_id: str, cgroup_path: str) -> bool:
        """True when it is known, other than by the monitor, that an ended container had an out-of-memory kill."""

    async def stats(self, container_id: str, cgroup_path: str) -> CgroupStats | None:
        """Readings of a container; None when it is gone."""


class Checkpoints(Protocol):
    """Checkpoint images by CRIU through the OCI runtime, and the archives that they travel in."""

    async def available(self, handler: Handler) -> str:
        """Empty when usable, else the reason why not."""

    async def capture(self, request: CaptureRequest) -> None:
        """Write the checkpoint of a paused container and leave it as it is. Never interrupted: a cancelled caller
        waits for the end. RuntimeFailure says what CRIU cannot do."""

    async def pack(self, directory: str, target: str) -> None:
        """Make an archive of what ``capture`` wrote and what was put beside it; there completely or not at all."""

    async def documents(self, source: str, names: Sequence[str]) -> Mapping[str, bytes]:
        """Small members of an archive, or of a directory with the same content, as far as they exist; BadImage when
        it is neither."""

    async def unpack(self, source: str, directory: str, log_path: str) -> None:
        """Take an archive (or such a directory) apart below a new directory; its log becomes ``log_path`` unless that
        is there. BadImage when it holds no checkpoint."""


# --- surroundings -----------------------------------------------------------------------------------------------


class Network(Protocol):
    """Pod networks by CNI plugins (CNI spec 0.3.1 to 1.1)."""

    async def ready(self) -> None:
        """Return when a usable network configuration is there."""

    async def add(self, request: NetworkRequest) -> NetworkResult:
        """Attach a pod; on failure everything is detached again."""

    async def check(self, request: NetworkRequest) -> None:
        """Verify an attachment; NetworkFailure when it is damaged."""

    async def delete(self, request: NetworkRequest) -> None:
        """Detach a pod; the namespace may be gone already."""

    async def gc(self, valid: Sequence[NetworkRequest]) -> None:
        """Release attachments of pods that are not in ``valid``."""

    def condition(self) -> Condition:
        """The NetworkReady condition."""


class HostPorts(Protocol):
    """Port rules of the host (nftables, else iptables)."""

    async def add(self, pod_id: str, pod_name: str, ips: Sequence[str], ports: Sequence[PortMapping]) -> None:
        """Open host ports to a pod; AlreadyExists when another pod holds one."""

    async def remove(self, pod_id: str) -> None:
        """Close every host port of a pod."""

    async def sweep(self, valid: Sequence[str]) -> None:
        """Close host ports of pods that are not in ``valid`` (ids)."""


class Namespaces(Protocol):
    """Namespaces of pods, held by bind mounts (man 7 namespaces)."""

    async def create(self, request: NamespaceRequest) -> Mapping[str, str]:
        """Make and pin; kind → path of the pin. Loopback is up in a net namespace."""

    async def remove(self, paths: Sequence[str]) -> None:
        """Unpin."""

    async def pins(self) -> Mapping[str, str]:
        """Every pin of ours that exists: path → kind."""

    async def interfaces(self, netns: str) -> Sequence[InterfaceStats]:
        """Counters of the interfaces of a net namespace ("": the host's), in index order."""

    async def connect(self, netns: str, port: int) -> int:
        """A descriptor connected to TCP ``localhost:port`` inside a net namespace ("": the host's)."""

    def id_ranges(self, mode: str) -> IdMaps:
        """uid and gid maps for a userns-mode annotation value (``auto:size=65536``)."""

    def reserve_ids(self, uid_map: Sequence[IdMapping]) -> None:
        """Book the ranges of a pod that is known from before a restart."""

    def release_ids(self, uid_map: Sequence[IdMapping]) -> None:
        """Give the ranges of a pod back."""


class Cgroups(Protocol):
    """The control group tree under the chosen manager, v1 or v2."""

    def driver(self) -> str:
        """``systemd`` or ``cgroupfs``."""

    def check_parent(self, parent: str) -> str:
        """The pod's parent, "" replaced by the default; InvalidRequest when it does not fit the manager."""

    def container_path(self, parent: str, container_id: str) -> str:
        """``linux.cgroupsPath`` of the OCI config for a container."""

    async def make_pod(self, parent: str, pod_id: str) -> str:
        """Make the pod's own group below its parent; its path."""

    async def remove_pod(self, parent: str, pod_id: str) -> None:
        """Remove the pod's own group and what is left below it."""

    async def leave(self, parent: str, container_id: str) -> None:
        """Remove the group that a container's monitor had, if it had one."""

    async def stats(self, path: str) -> CgroupStats | None:
        """Readings of a group given as ``container_path`` gives it, or as a parent; None when it is gone."""

    async def processes(self, path: str) -> Sequence[int]:
        """Pids in a group and below; empty when it is gone."""

    async def thaw(self, path: str) -> bool:
        """Let a group and those below it run; True when one was frozen, by whomever."""

    async def sweep(self, valid: Sequence[str]) -> None:
        """Remove empty groups of pods and containers (``crio-<id>``) whose id is not in ``valid``."""

    def controllers(self) -> frozenset[str]:
        """Controllers that are mounted and usable (``memory``, ``hugetlb`` …), ``swap`` where that can be limited."""

    def unified(self) -> bool:
        """True on cgroup v2."""


class CpuTuner(Protocol):
    """CPUs of the host: where interrupts go, how deep they idle, how their frequency is governed.

    What containers hold survives the daemon and is known to the next one. InvalidRequest, Unsupported or
    ExternalFailure when CPUs cannot do it, nothing is changed then.
    """

    async def siblings(self, cpus: str) -> str:
        """Those CPUs of a list that share a core with the first of them."""

    async def tune(self, container_id: str, wanted: CpuTuning) -> None:
        """Make a container's CPUs quiet, shallow or fast as it wants them."""

    async def restore(self, container_id: str) -> None:
        """Put back what ``tune`` changed, but for what another container holds as well."""

    async def sweep(self, valid: Sequence[str]) -> None:
        """Put back what containers hold that are not in ``valid``."""


class CpuGroups(Protocol):
    """CPUs of containers in the control group tree; groups are named as by ``Cgroups.container_path``.

    ExternalFailure says what the kernel refused.
    """

    async def apply(self, path: str, wanted: CpuTuning) -> None:
        """Isolate a container's CPUs from load balancing, lift its quota and its pod's, add shared CPUs."""

    async def release(self, path: str, wanted: CpuTuning) -> None:
        """Take back what outlives the container's group."""

    async def unbalance(self, path: str) -> None:
        """Keep an ended container's group from balancing load over CPUs that may have a new owner."""


class Security(Protocol):
    """Profiles and labels of the host's security modules."""

    def seccomp(
        self, profile: SecurityProfile | None, privileged: bool, handler: Handler, capabilities: Sequence[str] = ()
    ) -> Mapping[str, Any] | None:
        """The OCI linux.seccomp document, reduced to machine and capabilities; None: unconfined."""

    def apparmor(self, profile: SecurityProfile | None, privileged: bool) -> str:
        """The AppArmor profile name for a process; "" for none. NotFound when a profile is not loaded."""

    def labels(self, options: SELinuxOptions | None, handler: Handler) -> Labels:
        """Fresh SELinux labels for a pod."""

    def container_labels(self, pod: Labels, options: SELinuxOptions | None, init: bool = False) -> Labels:
        """Labels for a container of a pod; ``init``: for a systemd."""

    async def relabel(self, path: str, label: str, recursive: bool) -> None:
        """Set the label of a host path."""

    def reserve(self, labels: Labels) -> None:
        """Book the MCS pair of a pod that is known from before a restart."""

    def release(self, labels: Labels) -> None:
        """Give the MCS pair of a pod back."""

    def seccomp_document(self, name: str, content: bytes, capabilities: Sequence[str] = ()) -> Mapping[str, Any] | None:
        """The OCI document of a profile of this content; ``name`` is for messages. InvalidRequest unless it is one."""

    def known_capabilities(self) -> frozenset[str]:
        """Names (``CAP_…``) in the daemon's own bounding set."""


class Notifier(Protocol):
    """Tells of forbidden system calls in containers."""

    def profile(self, document: Mapping[str, Any], container_id: str) -> Mapping[str, Any]:
        """An OCI linux.seccomp document whose refusals are told."""

    async def listen(self, container_id: str, told: Callable[[str], None]) -> None:
        """From now on ``told`` hears the name of each forbidden call."""

    async def forget(self, container_id: str) -> None:
        """Listen to a container no more; absent is fine."""


class Classes(Protocol):
    """Classes of service by name, as the operator configured them."""

    async def block_io(self, name: str) -> Mapping[str, Any] | None:
        """The OCI linux.resources.blockIO document of a class; None when there is no such class."""

    async def rdt(self, name: str, by_pod: bool) -> str:
        """The closID of an RDT class, "" for the host's own. ``by_pod``: a pod's annotation asks, not a container's.
        Unsupported where RDT is not in use, InvalidRequest when there is no such class or it may not be asked for."""


class Devices(Protocol):
    """Device nodes of the host, and specs of the Container Device Interface."""

    def nodes(self, host_path: str, container_path: str, access: str) -> Sequence[DeviceNode]:
        """The device at a path, or every device below a directory."""

    def host_nodes(self) -> Sequence[DeviceNode]:
        """Every device of the host that a privileged container gets."""

    def inject(self, config: dict[str, Any], names: Sequence[str]) -> None:
        """Apply the edits of CDI devices to an OCI config in place; NotFound names the unresolvable ones."""

    async def reload(self, directories: Sequence[str]) -> None:
        """Read the CDI directories anew."""


class Hooks(Protocol):
    """OCI hooks from directories (hooks.d schema 1.0.0)."""

    def apply(self, config: dict[str, Any], annotations: Mapping[str, str], has_bind_mounts: bool) -> None:
        """Add the hooks that match to an OCI config in place."""


class Nri(Protocol):
    """Plugins of the Node Resource Interface (NRI v1alpha1). PluginFailure: one refused, failed or contradicts another.

    A plugin that does not answer in its time is dropped, which is no failure.
    """

    def wanted(self, event: NriEvent) -> bool:
        """True when a plugin is to be told: asked before anything is gathered for it."""

    async def pod(
        self,
        event: NriEvent,
        pod: PodRecord,
        overhead: Resources | None = None,
        resources: Resources | None = None,
    ) -> None:
        """Tell of a pod; the two limits go with UPDATE_POD."""

    async def container(self, event: NriEvent, pod: PodRecord, container: NriContainer) -> None:
        """Tell of a container; not for CREATE, UPDATE and STOP."""

    async def create(self, pod: PodRecord, container: NriContainer, permitted: Callable[[str], bool]) -> NriAnswer:
        """Ask about a container that is being made and apply what plugins adjust to its OCI config in place;
        ``permitted`` tells whether an annotation may be set."""

    async def update(self, pod: PodRecord, container: NriContainer, asked: Mapping[str, Any]) -> NriAnswer:
        """Ask what a container's limits (OCI linux.resources) shall be."""

    async def stop(self, pod: PodRecord, container: NriContainer) -> NriAnswer:
        """Tell that a container has stopped."""


class Files(Protocol):
    """Plain files of ours; paths inside a container's root are resolved from that root, never from the host's."""

    async def write(self, path: str, content: bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        """Create or replace atomically."""

    async def read(self, path: str, limit: int) -> bytes | None:
        """At most ``limit`` bytes; None when absent."""

    async def make_dirs(self, path: str, mode: int = 0o755, owner: tuple[int, int] | None = None) -> None:
        """Make a directory and its parents; an existing one is left as it is."""

    async def let_through(self, path: str, top: str) -> None:
        """Let everybody walk through a directory of ours and its parents up to ``top``, for user namespaces' roots."""

    async def remove(self, path: str) -> None:
        """Remove a file, link or tree of ours; never crosses into a mount."""

    async def real_path(self, path: str) -> str | None:
        """Where a host path leads; None when absent."""

    async def read_in_root(self, root: str, path: str, limit: int) -> bytes | None:
        """A file of a container's root, at most ``limit`` bytes; None when absent."""

    async def make_dir_in_root(self, root: str, path: str, mode: int, owner: tuple[int, int]) -> str:
        """Make a directory (and its parents) inside a root; its path on the host."""

    async def resolve_in_root(self, root: str, path: str) -> str | None:
        """Where a path leads inside a root, as a path on the host; None when absent."""

    async def symlink_in_root(self, root: str, path: str, target: str) -> None:
        """Make a symbolic link unless something is there."""

    async def check_dir(self, path: str) -> bool:
        """True when the host path is a directory."""

    async def names(self, path: str) -> Sequence[str]:
        """Names in a directory, sorted; empty when absent."""


class Mounts(Protocol):
    """Mounts on the host that belong to pods and containers."""

    async def shm(self, path: str, size: int, label: str, owner: tuple[int, int]) -> None:
        """A tmpfs for /dev/shm (mode 1777) on a new directory."""

    async def bind(self, mount: OciMount) -> None:
        """A bind mount on the host, made now."""

    async def unmount(self, path: str) -> None:
        """Detach whatever is mounted at a path, once per mount."""

    async def unmount_top(self, path: str) -> None:
        """Detach the mount that was made last at a path, and none below it."""

    async def below(self, path: str) -> Sequence[str]:
        """Mount points at and below a path, deepest first."""

    async def binds(self, path: str) -> Sequence[tuple[str, str]]:
        """Mount points at and below a path, each with what it shows, as a path within that file system."""

    def propagation(self, path: str) -> str:
        """``shared``, ``slave`` or ``private`` for the mount that holds a path."""

    async def space(self, path: str) -> FsSpace | None:
        """Size and free room of the file system at a path; None when the path is gone."""


class Processes(Protocol):
    """Processes of the host by pid and start time."""

    def alive(self, pid: int, start_time: int) -> bool:
        """False for zombies, for reused pids and for absent ones."""

    def ending(self, pid: int, start_time: int) -> bool:
        """True for what is not alive, and for what is on its way to that and cannot turn back."""

    def start_time(self, pid: int) -> int:
        """Field 22 of /proc/<pid>/stat, 0 when absent."""

    async def wait_gone(self, pid: int, start_time: int, timeout: float | None) -> bool:
        """Wait until a process has ended (pidfd); False when the time passed first."""

    def kill(self, pid: int, start_time: int, signal: int) -> bool:
        """Signal exactly that process; False when it is gone."""

    def ulimits(self) -> Mapping[str, tuple[int, int]]:
        """The daemon's own rlimits (``RLIMIT_…`` → soft, hard), bounds for those of containers."""

    def oom_score_adj(self) -> int:
        """The daemon's own oom_score_adj: the lowest that children may get without CAP_SYS_RESOURCE."""

    def may_raise_limits(self) -> bool:
        """True with CAP_SYS_RESOURCE in the effective set."""

    async def usage(self, pids: Sequence[int]) -> ProcessUsage:
        """Threads and open files of processes; those that are gone count nothing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A class of pods chosen by an annotation (config.md section 4)."""

    name: str
    activation_annotation: str
    annotation_prefix: str = ""
    allowed_annotations: tuple[str, ...] = ()
    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    cpuset: str = ""
    cpu_limit: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """What the flows need of the configuration, in their own terms (``wiring.py`` fills it)."""

    log_dir: str
    exits_dir: str
    pause_image: str
    pause_command: str
    image_volumes: str = "mkdir"
    default_env: tuple[str, ...] = ()
    default_ulimits: tuple[tuple[str, int, int], ...] = ()
    default_capabilities: tuple[str, ...] = ()
    add_inheritable_capabilities: bool = False
    default_sysctls: Mapping[str, str] = field(default_factory=dict)
    allowed_devices: tuple[str, ...] = ()
    additional_devices: tuple[str, ...] = ()
    device_ownership_from_security_context: bool = False
    bind_mount_prefix: str = ""
    read_only: bool = False
    absent_mount_sources_to_reject: tuple[str, ...] = ()
    default_mounts: tuple[tuple[str, str], ...] = ()
    timezone: str = ""
    pids_limit: int = -1
    log_size_max: int = -1
    drop_infra_ctr: bool = True
    infra_ctr_cpuset: str = ""
    shared_cpuset: str = ""
    unbalance_ended: bool = False
    separate_pull_cgroup: str = ""
    enable_pod_events: bool = False
    disable_hostport_mapping: bool = False
    hostnetwork_disable_selinux: bool = True
    pinned_images: tuple[str, ...] = ()
    artifact_mounts: bool = True
    pull_progress_timeout: float = 0.0
    min_injected_gomaxprocs: int = 0
    collection_period: int = 0
    included_pod_metrics: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_restore"
    signature_checked_at_create: bool = False
    masked_paths: tuple[str, ...] = ()
    storage_root: str = ""
    run_root: str = ""
    pause_program: str = ""
    workloads: tuple[Workload, ...] = ()
    uid_map: tuple[IdMapping, ...] = ()
    gid_map: tuple[IdMapping, ...] = ()
    lowest_uid: int = -1
    lowest_gid: int = -1


class Handlers(Protocol):
    """The configured runtime handlers."""

    def get(self, name: str) -> Handler:
        """By name, "" for the default; InvalidRequest for an unknown one."""

    def all(self) -> Sequence[Handler]:
        """Every handler, the default first."""


@dataclass(slots=True)
class Host:
    """One implementation of every port. Mutable only so that a reload can replace ``options``."""

    identity: Identity
    options: Options
    handlers: Handlers
    registry: Registry
    images: Images
    artifacts: Artifacts
    layers: Layers
    rootfs: Rootfs
    changes: Changes
    monitors: Monitors
    runtime: Runtime
    tasks: Tasks
    checkpoints: Checkpoints
    network: Network
    hostports: HostPorts
    namespaces: Namespaces
    cgroups: Cgroups
    cpus: CpuTuner
    cpu_groups: CpuGroups
    security: Security
    notifier: Notifier
    classes: Classes
    devices: Devices
    hooks: Hooks
    nri: Nri
    files: Files
    mounts: Mounts
    processes: Processes


__all__ = [
    "Artifacts",
    "CaptureRequest",
    "Cgroups",
    "Changes",
    "Checkpoints",
    "Classes",
    "ContainerDirs",
    "CpuGroups",
    "CpuTuner",
    "Devices",
    "ExecRequest",
    "ExecSession",
    "Files",
    "Handlers",
    "Hooks",
    "Host",
    "HostPorts",
    "Images",
    "Labels",
    "Layers",
    "MonitorReport",
    "MonitorRequest",
    "Monitors",
    "Mounts",
    "NamespaceRequest",
    "Namespaces",
    "Network",
    "NetworkRequest",
    "NetworkResult",
    "Notifier",
    "Nri",
    "Options",
    "Processes",
    "Registry",
    "Rootfs",
    "Runtime",
    "Security",
    "StoreEntry",
    "Tasks",
    "Workload",
]
