"""The answers of several plugins to one request, put together in the order of the plugins.

Each answer is noted in ``Owners``, so that two plugins that set the same thing are a failure and not a matter of luck,
and is folded into the request, so that the next plugin sees the container as the ones before have made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.owners import REMOVED, Owners, bare
from pycrio.errors import PluginFailure

_MEMORY = {
    "limit": pb.MemLimit,
    "reservation": pb.MemReservation,
    "swap": pb.MemSwapLimit,
    "kernel": pb.MemKernelLimit,
    "kernel_tcp": pb.MemTCPLimit,
    "swappiness": pb.MemSwappiness,
    "disable_oom_killer": pb.MemDisableOomKiller,
    "use_hierarchy": pb.MemUseHierarchy,
}
_CPU = {
    "shares": pb.CPUShares,
    "quota": pb.CPUQuota,
    "period": pb.CPUPeriod,
    "realtime_runtime": pb.CPURealtimeRuntime,
    "realtime_period": pb.CPURealtimePeriod,
}
_CPU_SETS = {"cpus": pb.CPUSetCPUs, "mems": pb.CPUSetMems}
_WHOLE = {"blockio_class": pb.BlockioClass, "rdt_class": pb.RdtClass, "pids": pb.PidsLimit}
_HOOKS = ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")


class Updates:
    """Changes of limits, per container; plugins may contribute to the same one as long as they do not overlap."""

    def __init__(self, owners: Owners, creating: str = "") -> None:
        self.by_id: dict[str, pb.ContainerUpdate] = {}
        self._owners = owners
        self._creating = creating

    def take(self, updates: Iterable[pb.ContainerUpdate], plugin: str) -> None:
        """Note what a plugin asks; PluginFailure on a contradiction, unless the plugin tolerates failure."""
        for asked in updates:
            ident = asked.container_id
            if ident and ident == self._creating:
                raise PluginFailure(
                    f"NRI plugin {plugin!r} asked for an update of container {ident} while it is created"
                )
            known = self.by_id.get(ident)
            merged = pb.ContainerUpdate(container_id=ident, ignore_failure=asked.ignore_failure)
            if known is not None:
                merged.CopyFrom(known)
                merged.ignore_failure = known.ignore_failure and asked.ignore_failure
            try:
                merge_resources(self._owners, ident, plugin, asked.linux.resources, [merged.linux.resources])
            except PluginFailure:
                if not asked.ignore_failure:
                    raise
                continue  # the plugin can do without; what others asked stays
            self.by_id[ident] = merged


def merge_resources(
    owners: Owners, ident: str, plugin: str, asked: pb.LinuxResources, targets: Iterable[pb.LinuxResources]
) -> None:
    """Claim every limit that is set in ``asked`` and copy it to each target."""
    targets = list(targets)
    for part, fields in (("memory", _MEMORY), ("cpu", _CPU)):
        source = getattr(asked, part)
        for name, field in fields.items():
            if source.HasField(name):
                owners.claim(ident, field, plugin)
                for target in targets:
                    getattr(getattr(target, part), name).CopyFrom(getattr(source, name))
    for name, field in _CPU_SETS.items():
        if value := getattr(asked.cpu, name):
            owners.claim(ident, field, plugin)
            for target in targets:
                setattr(target.cpu, name, value)
    for name, field in _WHOLE.items():
        if asked.HasField(name):
            owners.claim(ident, field, plugin)
            for target in targets:
                getattr(target, name).CopyFrom(getattr(asked, name))
    for page in asked.hugepage_limits:
        owners.claim(ident, pb.HugepageLimits, plugin, page.page_size)
        for target in targets:
            _replace(target.hugepage_limits, [page], lambda p: p.page_size)
    for key, value in asked.unified.items():
        owners.claim(ident, pb.CgroupsUnified, plugin, key)
        for target in targets:
            target.unified[key] = value


def _replace(entries: Any, added: Iterable[Any], key: Callable[[Any], str], gone: Iterable[str] = ()) -> None:
    """Put ``added`` at the end of a repeated field, instead of entries with the same key or a key in ``gone``."""
    added = list(added)
    drop = {key(a) for a in added} | set(gone)
    kept = [e for e in entries if key(e) not in drop]
    del entries[:]
    entries.extend(kept)
    entries.extend(added)


class Creation:
    """A CreateContainer request on its way through the plugins."""

    def __init__(self, pod: pb.PodSandbox, container: pb.Container) -> None:
        self.request = pb.CreateContainerRequest(pod=pod, container=container)
        self.adjust = pb.ContainerAdjustment()
        self.owners = Owners()
        self.updates = Updates(self.owners, container.id)
        self.evictions: list[pb.ContainerEviction] = []
        self._id = container.id

    def take(self, answer: pb.CreateContainerResponse, plugin: str) -> None:
        """Fold a plugin's answer in; PluginFailure when it contradicts an earlier one."""
        asked, linux = answer.adjust, answer.adjust.linux
        container, made = self.request.container, self.adjust
        self._map(pb.Annotations, plugin, asked.annotations, container.annotations, made.annotations)
        self._list(pb.Mounts, plugin, asked.mounts, (container.mounts, made.mounts), "destination")
        self._env(plugin, asked.env)
        self._args(plugin, list(asked.args))
        self._hooks(plugin, asked.hooks)
        self._list(pb.Devices, plugin, linux.devices, (container.linux.devices, made.linux.devices), "path")
        if linux.HasField("resources"):
            both = [container.linux.resources, made.linux.resources]
            merge_resources(self.owners, self._id, plugin, linux.resources, both)
            for limits in both:
                limits.devices.extend(linux.resources.devices)
        self._scalars(plugin, linux)
        self._namespaces(plugin, linux.namespaces)
        self._map(pb.Sysctl, plugin, linux.sysctl, container.linux.sysctl, made.linux.sysctl)
        self._net_devices(plugin, linux)
        if linux.HasField("rdt"):
            self._rdt(plugin, linux.rdt)
        for limit in asked.rlimits:
            self.owners.claim(self._id, pb.Rlimits, plugin, limit.type)
            for target in (container.rlimits, made.rlimits):
                _replace(target, [limit], lambda entry: entry.type)
        for device in asked.CDI_devices:
            self.owners.claim(self._id, pb.CdiDevices, plugin, device.name)
            made.CDI_devices.append(device)
        self.updates.take(answer.update, plugin)
        self.evictions.extend(answer.evict)

    def _map(self, field: pb.Field, plugin: str, asked: Any, seen: Any, made: Any) -> None:
        gone = [bare(k)[0] for k in asked if bare(k)[1]]
        for key in gone:
            self.owners.clear(self._id, field, plugin, key)
            for target in (seen, made):
                if key in target:
                    del target[key]
            made[REMOVED + key] = ""
        for key, value in asked.items():
            if not bare(key)[1]:
                self.owners.claim(self._id, field, plugin, key)
                seen[key] = made[key] = value

    def _list(self, field: pb.Field, plugin: str, asked: Any, targets: tuple[Any, Any], name: str) -> None:
        """Entries by key. Removals stay in the adjustment, before what is set anew: the OCI config may have them."""

        def key(entry: Any) -> str:
            return str(getattr(entry, name))

        gone = [e for e in asked if bare(key(e))[1]]
        added = [e for e in asked if not bare(key(e))[1]]
        for entry in gone:
            self.owners.clear(self._id, field, plugin, bare(key(entry))[0])
        for entry in added:
            self.owners.claim(self._id, field, plugin, key(entry))
        names = [bare(key(e))[0] for e in gone]
        seen, made = targets
        _replace(seen, added, key, names)
        _replace(made, [*gone, *added], key, names)

    def _env(self, plugin: str, asked: Iterable[pb.KeyValue]) -> None:
        entries = list(asked)
        self._list(pb.Env, plugin, entries, (pb.ContainerAdjustment().env, self.adjust.env), "key")
        touched = {bare(e.key)[0] for e in entries}
        kept = [e for e in self.request.container.env if e.partition("=")[0] not in touched]
        del self.request.container.env[:]
        self.request.container.env.extend(kept)
        self.request.container.env.extend(f"{e.key}={e.value}" for e in entries if not bare(e.key)[1])

    def _args(self, plugin: str, asked: list[str]) -> None:
        if not asked:
            return
        if asked[0] == "":
            self.owners.clear(self._id, pb.Args, plugin)
            asked = asked[1:]
        self.owners.claim(self._id, pb.Args, plugin)
        for target in (self.request.container.args, self.adjust.args):
            del target[:]
            target.extend(asked)

    def _hooks(self, plugin: str, asked: pb.Hooks) -> None:
        stages = [stage for stage in _HOOKS if getattr(asked, stage)]
        for stage in stages:
            for target in (self.request.container.hooks, self.adjust.hooks):
                getattr(target, stage).extend(getattr(asked, stage))
        if stages:
            self.owners.share(self._id, pb.OciHooks, plugin)

    def _scalars(self, plugin: str, asked: pb.LinuxContainerAdjustment) -> None:
        seen, made = self.request.container.linux, self.adjust.linux
        if asked.cgroups_path:
            self.owners.claim(self._id, pb.CgroupsPath, plugin)
            seen.cgroups_path = made.cgroups_path = asked.cgroups_path
        for name, field in (
            ("oom_score_adj", pb.OomScoreAdj),
            ("io_priority", pb.IoPriority),
            ("seccomp_policy", pb.SeccompPolicy),
            ("scheduler", pb.LinuxSched),
            ("memory_policy", pb.MemoryPolicy),
        ):
            if asked.HasField(name):
                self.owners.claim(self._id, field, plugin)
                for target in (made, seen) if name != "memory_policy" else (made,):
                    getattr(target, name).CopyFrom(getattr(asked, name))

    def _namespaces(self, plugin: str, asked: Iterable[pb.LinuxNamespace]) -> None:
        for entry in asked:
            kind, gone = bare(entry.type)
            self.owners.claim(self._id, pb.Namespace, plugin, kind)
            _replace(self.request.container.linux.namespaces, [] if gone else [entry], lambda n: n.type, [kind])
            _replace(self.adjust.linux.namespaces, [entry], lambda n: n.type)

    def _net_devices(self, plugin: str, asked: pb.LinuxContainerAdjustment) -> None:
        seen, made = self.request.container.linux.net_devices, self.adjust.linux.net_devices
        for key in asked.net_devices:
            name, gone = bare(key)
            if gone:
                self.owners.clear(self._id, pb.LinuxNetDevices, plugin, name)
                for target in (seen, made):
                    if name in target:
                        del target[name]
                made[key].SetInParent()
        for key, device in asked.net_devices.items():
            if not bare(key)[1]:
                self.owners.claim(self._id, pb.LinuxNetDevices, plugin, key)
                for target in (seen, made):
                    target[key].CopyFrom(device)

    def _rdt(self, plugin: str, asked: pb.LinuxRdt) -> None:
        fields = (
            ("clos_id", pb.RdtClosID),
            ("schemata", pb.RdtSchemata),
            ("enable_monitoring", pb.RdtEnableMonitoring),
        )
        made = self.adjust.linux.rdt
        if asked.remove:
            for _, field in fields:
                self.owners.clear(self._id, field, plugin)
            made.CopyFrom(pb.LinuxRdt(remove=True))
            self.request.container.linux.ClearField("rdt")
        for name, field in fields:
            if asked.HasField(name):
                self.owners.claim(self._id, field, plugin)
                for target in (made, self.request.container.linux.rdt):
                    getattr(target, name).CopyFrom(getattr(asked, name))


class Change:
    """An UpdateContainer request on its way through the plugins."""

    def __init__(self, pod: pb.PodSandbox, container: pb.Container, asked: pb.LinuxResources) -> None:
        self.request = pb.UpdateContainerRequest(pod=pod, container=container, linux_resources=asked)
        self.owners = Owners()
        self.updates = Updates(self.owners)
        self.evictions: list[pb.ContainerEviction] = []
        self.changed = False
        self._id = container.id

    def take(self, answer: pb.UpdateContainerResponse, plugin: str) -> None:
        """Fold a plugin's answer in; PluginFailure when it contradicts an earlier one."""
        for update in answer.update:
            if update.container_id != self._id:
                self.updates.take([update], plugin)
                continue
            merged = pb.LinuxResources()
            merged.CopyFrom(self.request.linux_resources)
            try:
                merge_resources(self.owners, self._id, plugin, update.linux.resources, [merged])
            except PluginFailure:
                if not update.ignore_failure:
                    raise
                continue
            self.request.linux_resources.CopyFrom(merged)
            self.changed = True
        self.evictions.extend(answer.evict)
