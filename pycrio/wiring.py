"""The only module that names concrete drivers: option values → each driver's own Settings → the Host of the flows."""

from __future__ import annotations

import asyncio
import glob
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources

from pycrio.config.values import Config, HandlerConf, WorkloadConf
from pycrio.drivers.artifacts.settings import Settings as ArtifactSettings
from pycrio.drivers.artifacts.store import Artifacts
from pycrio.drivers.cgroups.cpus import CpuGroups
from pycrio.drivers.cgroups.manager import Cgroups
from pycrio.drivers.cgroups.manager import Settings as CgroupSettings
from pycrio.drivers.classes.classes import Classes
from pycrio.drivers.classes.classes import Settings as ClassSettings
from pycrio.drivers.cpus.tuner import CpuTuner
from pycrio.drivers.cpus.tuner import Settings as CpuSettings
from pycrio.drivers.devices.host import Devices
from pycrio.drivers.devices.host import Settings as DeviceSettings
from pycrio.drivers.hooks.oci import Hooks
from pycrio.drivers.hooks.oci import Settings as HookSettings
from pycrio.drivers.host.files import Files
from pycrio.drivers.host.mounting import Mounts
from pycrio.drivers.host.processes import Processes
from pycrio.drivers.kinds.monitors import MonitorsByKind
from pycrio.drivers.kinds.runtime import RuntimeByKind
from pycrio.drivers.kinds.shims import Late, Shims
from pycrio.drivers.kinds.tasks import TasksByKind
from pycrio.drivers.layers.apart import Groups
from pycrio.drivers.layers.settings import Settings as StoreSettings
from pycrio.drivers.layers.store import Store
from pycrio.drivers.monitor.client import Monitors
from pycrio.drivers.monitor.client import Settings as MonitorSettings
from pycrio.drivers.namespaces.pods import Namespaces
from pycrio.drivers.namespaces.pods import Settings as NamespaceSettings
from pycrio.drivers.network.cni import Network
from pycrio.drivers.network.cni import Settings as NetworkSettings
from pycrio.drivers.network.hostport import HostPorts
from pycrio.drivers.network.hostport import Settings as HostPortSettings
from pycrio.drivers.nri.nri import Nri
from pycrio.drivers.nri.settings import Settings as NriSettings
from pycrio.drivers.nri.settings import Validation
from pycrio.drivers.registry.client import Registry
from pycrio.drivers.registry.settings import Settings as RegistrySettings
from pycrio.drivers.runtime.checkpoint import Checkpoints
from pycrio.drivers.runtime.checkpoint import Settings as CheckpointSettings
from pycrio.drivers.runtime.cli import Runtime
from pycrio.drivers.runtime.cli import Settings as RuntimeSettings
from pycrio.drivers.runtime.handlers import Handlers, find_program, probe
from pycrio.drivers.security.host import Security
from pycrio.drivers.security.host import Settings as SecuritySettings
from pycrio.drivers.security.notifier import Notifier
from pycrio.drivers.security.notifier import Settings as NotifierSettings
from pycrio.errors import ConfigError
from pycrio.flows.ports import Host, Options, Workload
from pycrio.model.node import Handler, Identity
from pycrio.model.security import IdMapping
from pycrio.obs import log as obslog

log = obslog.get("wiring")


@dataclass(frozen=True, slots=True)
class Parts:
    """The host, and the drivers that must be opened and closed."""

    host: Host
    store: Store
    network: Network
    registry: Registry
    cgroups: Cgroups
    security: Security
    notifier: Notifier
    nri: Nri
    cpus: CpuTuner
    classes: Classes
    shims: Late


def program(name: str) -> str:
    """A program of the compiled core that ships inside the package."""
    return str(resources.files("pycrio").joinpath("_native", "bin", name))


async def build(config: Config, version: str) -> Parts:
    """Make every driver. ConfigError when the default handler is unusable or the store options are faulty."""
    handlers = await make_handlers(config)
    store = Store(store_settings(config))
    cgroups = Cgroups(CgroupSettings(config.text("crio.runtime.cgroup_manager")))
    systemd = cgroups.driver() == "systemd"
    store.layers.groups = Groups(cgroups.take_in, cgroups.let_go)
    prefix = taskset(config)
    artifacts = Artifacts(
        ArtifactSettings(config.text("crio.root"), config.texts("crio.runtime.additional_artifact_stores"))
    )

    async def stored_document(digest: str) -> bytes | None:
        return await store.images.document(digest) or await artifacts.document(digest)

    registry = Registry(
        replace(
            registry_settings(config),
            stored_signatures=store.images.signatures,
            stored_document=stored_document,
        )
    )
    network = Network(
        NetworkSettings(
            network_dir=config.text("crio.network.network_dir"),
            plugin_dirs=config.texts("crio.network.plugin_dirs"),
            default_network=config.text("crio.network.cni_default_network"),
            status_grace_period=config.seconds("crio.network.cni_status_grace_period"),
            owner=config.text("crio.runroot"),
        )
    )
    security = Security(security_settings(config))
    notifier = Notifier(NotifierSettings(os.path.join(os.path.dirname(config.text("crio.api.listen")), "seccomp")))
    monitors = Monitors(
        MonitorSettings(
            exits_dir=config.text("crio.runtime.container_exits_dir"),
            attach_dir=config.text("crio.runtime.container_attach_socket_dir"),
            log_level=config.text("crio.runtime.log_level"),
            log_size_max=config.number("crio.runtime.log_size_max"),
            log_to_journald=config.flag("crio.runtime.log_to_journald"),
            systemd_cgroup=systemd,
            no_pivot=config.flag("crio.runtime.no_pivot"),
            prefix=prefix,
        ),
        cgroups,
    )
    late = shims(config, systemd, cgroups)
    scratch = os.path.join(config.text("crio.runroot"), "pycrio", "exec")
    oci = Runtime(RuntimeSettings(scratch, program("pycrio-exec"), systemd, prefix))
    processes = Processes()
    runtime, tasks = RuntimeByKind(oci, late), TasksByKind(cgroups, processes, late)
    devices, mounts = Devices(DeviceSettings(config.texts("crio.runtime.cdi_spec_dirs"))), Mounts()
    classes = Classes(class_settings(config))
    nri = Nri(nri_settings(config, version), devices.inject, mounts.propagation, classes.block_io_known)
    cpus = CpuTuner(
        CpuSettings(
            irqbalance=config.text("crio.runtime.irqbalance_config_file"),
            restore=config.text("crio.runtime.irqbalance_config_restore_file"),
            claims=os.path.join(config.text("crio.runroot"), "pycrio", "cpus"),
        )
    )
    host = Host(
        identity=Identity("cri-o", version),
        options=make_options(config),
        handlers=handlers,
        registry=registry,
        images=store.images,
        artifacts=artifacts,
        layers=store.layers,
        rootfs=store.rootfs,
        changes=store.changes,
        monitors=MonitorsByKind(monitors, late),
        runtime=runtime,
        tasks=tasks,
        checkpoints=Checkpoints(
            CheckpointSettings(config.text("crio.checkpoint_restore.container_level_enabled") != "none"), oci
        ),
        network=network,
        hostports=HostPorts(HostPortSettings()),
        namespaces=Namespaces(NamespaceSettings(config.text("crio.runtime.namespaces_dir"))),
        cgroups=cgroups,
        cpus=cpus,
        cpu_groups=CpuGroups(cgroups),
        security=security,
        notifier=notifier,
        classes=classes,
        devices=devices,
        hooks=Hooks(HookSettings(config.texts("crio.runtime.hooks_dir"))),
        files=Files(),
        nri=nri,
        mounts=mounts,
        processes=processes,
    )
    return Parts(host, store, network, registry, cgroups, security, notifier, nri, cpus, classes, late)


def store_settings(config: Config) -> StoreSettings:
    """Settings of the store; ConfigError when its options are faulty."""
    settings = StoreSettings.from_options(
        config.text("crio.root"),
        config.text("crio.runroot"),
        config.text("crio.imagestore"),
        config.text("crio.storage_driver"),
        config.texts("crio.storage_option"),
    )
    return replace(settings, decryption_keys=config.text("crio.runtime.decryption_keys_path"))


def nri_settings(config: Config, version: str) -> NriSettings:
    """Settings of the NRI driver; a timeout of 0 means the default."""
    reject = "crio.nri.default_validator.nri_validator_reject_"
    return NriSettings(
        enabled=config.flag("crio.nri.enable_nri"),
        listen=config.text("crio.nri.nri_listen"),
        plugin_dir=config.text("crio.nri.nri_plugin_dir"),
        config_dir=config.text("crio.nri.nri_plugin_config_dir"),
        registration_timeout=config.seconds("crio.nri.nri_plugin_registration_timeout") or 5.0,
        request_timeout=config.seconds("crio.nri.nri_plugin_request_timeout") or 2.0,
        connections=not config.flag("crio.nri.nri_disable_connections"),
        version=version,
        validation=Validation(
            enabled=config.flag("crio.nri.default_validator.nri_enable_default_validator"),
            oci_hooks=config.flag(f"{reject}oci_hook_adjustment"),
            runtime_default_seccomp=config.flag(f"{reject}runtime_default_seccomp_adjustment"),
            unconfined_seccomp=config.flag(f"{reject}unconfined_seccomp_adjustment"),
            custom_seccomp=config.flag(f"{reject}custom_seccomp_adjustment"),
            namespaces=config.flag(f"{reject}namespace_adjustment"),
            required=config.texts("crio.nri.default_validator.nri_validator_required_plugins"),
            tolerate=config.text("crio.nri.default_validator.nri_validator_tolerate_missing_plugins_annotation"),
        ),
    )


def registry_settings(config: Config) -> RegistrySettings:
    """Settings of the registry driver."""
    return RegistrySettings(
        registries_conf=config.text("cli.registries_conf"),
        registries_conf_dir=config.text("cli.registries_conf_dir"),
        short_name_mode=config.text("crio.image.short_name_mode"),
        policy=config.text("crio.image.signature_policy"),
        policy_dir=config.text("crio.image.signature_policy_dir"),
        global_auth_file=config.text("crio.image.global_auth_file"),
        namespaced_auth_dir=config.text("crio.image.namespaced_auth_dir"),
        pause_image=config.text("crio.image.pause_image"),
        pause_image_auth_file=config.text("crio.image.pause_image_auth_file"),
        pull_progress_timeout=config.seconds("crio.image.pull_progress_timeout"),
        follow=config.flag("crio.image.auto_reload_registries"),
    )


def security_settings(config: Config) -> SecuritySettings:
    """Settings of the security driver."""
    return SecuritySettings(
        seccomp_profile=config.text("crio.runtime.seccomp_profile"),
        privileged_seccomp_profile=config.text("crio.runtime.privileged_seccomp_profile"),
        apparmor_profile=config.text("crio.runtime.apparmor_profile"),
        selinux=config.flag("crio.runtime.selinux"),
    )


def class_settings(config: Config) -> ClassSettings:
    """Settings of the driver for block I/O and RDT classes."""
    return ClassSettings(
        blockio=config.text("crio.runtime.blockio_config_file"),
        follow=config.flag("crio.runtime.blockio_reload"),
        rdt=config.text("crio.runtime.rdt_config_file"),
    )


def taskset(config: Config) -> tuple[str, ...]:
    """What goes before helper programs so that they stay on the infra CPUs."""
    cpus = config.text("crio.runtime.infra_ctr_cpuset")
    return ("taskset", "--cpu-list", cpus) if cpus else ()


async def make_handlers(config: Config) -> Handlers:
    """The usable handlers. One that is unusable is left out with a warning; for the default one it is an error."""
    default = config.text("crio.runtime.default_runtime")
    found: dict[str, Handler] = {}
    faults: list[str] = []

    async def add(name: str, conf: HandlerConf) -> None:
        try:
            found[name] = await probe(make_handler(name, conf, config))
        except ConfigError as e:
            if name == default:
                faults.extend(e.faults)
            else:
                log.warning("Runtime handler is unusable, left out", handler=name, error=str(e))

    # All at once: each is asked by running it, and one that hangs must not delay the others.
    await asyncio.gather(*(add(name, conf) for name, conf in config.handlers.items()))
    if faults:
        raise ConfigError(faults)
    if default not in found:
        raise ConfigError([f"crio.runtime.default_runtime {default!r} is not among the runtimes"])
    return Handlers({name: found[name] for name in config.handlers if name in found}, default)


def make_handler(name: str, conf: HandlerConf, config: Config) -> Handler:
    """A handler with its programs found; ConfigError names what is missing."""
    path = find_program(conf.runtime_path, name)
    if not path:
        raise ConfigError([f"crio.runtime.runtimes.{name}: runtime {conf.runtime_path or name!r} is not executable"])
    manager = config.text("crio.runtime.cgroup_manager")
    cgroup = conf.monitor_cgroup or config.text("crio.runtime.conmon_cgroup")
    if manager == "cgroupfs" and cgroup == "system.slice":
        cgroup = ""
    return Handler(
        name=name,
        path=path,
        root=conf.runtime_root or f"/run/{os.path.basename(path)}",
        monitor_path=monitor_path(conf, config),
        monitor_cgroup=cgroup,
        monitor_env=(*config.texts("crio.runtime.conmon_env"), *conf.monitor_env),
        type=conf.runtime_type or "oci",
        privileged_without_host_devices=conf.privileged_without_host_devices,
        privileged_without_host_devices_all_devices_allowed=conf.privileged_without_host_devices_all_devices_allowed,
        allowed_annotations=conf.allowed_annotations,
        default_annotations=dict(conf.default_annotations),
        container_min_memory=conf.min_memory,
        no_sync_log=conf.no_sync_log,
        create_timeout=max(30, conf.container_create_timeout or 240),
        seccomp_profile=conf.seccomp_profile,
        exec_cpu_affinity=conf.exec_cpu_affinity,
        monitor_exec_cgroup=conf.monitor_exec_cgroup,
        platform_runtime_paths=dict(conf.platform_runtime_paths),
        config_path=_config_path(conf),
        pull_image=conf.runtime_pull_image,
    )


def _config_path(conf: HandlerConf) -> str:
    """The file that a shim reads; ConfigError when it is not there."""
    if conf.runtime_config_path and not os.path.isfile(conf.runtime_config_path):
        key = f"crio.runtime.runtimes.{conf.name}.runtime_config_path"
        raise ConfigError([f"{key}: {conf.runtime_config_path} is not a file"])
    return conf.runtime_config_path


def shims(config: Config, systemd: bool, cgroups: Cgroups) -> Late:
    """The driver for handlers of type vm, loaded when there is one."""
    state_dir = os.path.join(config.text("crio.runroot"), "pycrio", "tasks")

    def make() -> Shims:
        from pycrio.drivers.shim.shims import Settings as ShimSettings
        from pycrio.drivers.shim.shims import Shims as ShimDriver

        settings = ShimSettings(
            state_dir=state_dir,
            program=program("pycrio-task"),
            publish=own_program(),
            systemd_cgroup=systemd,
            no_pivot=config.flag("crio.runtime.no_pivot"),
            debug=config.text("crio.runtime.log_level") in ("debug", "trace"),
            prefix=taskset(config),
        )
        return ShimDriver(settings, cgroups)

    return Late(make, state_dir)


def own_program() -> str:
    """What shims may run with the command ``publish``: this program as it was installed; "" where it was not."""
    beside = os.path.join(os.path.dirname(sys.executable), "pycrio")
    return beside if os.access(beside, os.X_OK) else shutil.which("pycrio") or ""


def monitor_path(conf: HandlerConf, config: Config) -> str:
    """The configured monitor; ours when none is configured or the configured one is not there. A handler of type pod
    names one that speaks another protocol (conmon-rs): its containers have our monitor each, as those of type oci."""
    wanted = conf.monitor_path or config.text("crio.runtime.conmon")
    if wanted and conf.runtime_type != "pod":
        path = shutil.which(wanted)
        if path:
            return path
        log.warning("Configured monitor is not executable, ours is used", path=wanted, handler=conf.name)
    return program("pycrio-monitor")


def make_options(config: Config) -> Options:
    """What the flows need of the configuration."""
    return Options(
        log_dir=config.text("crio.log_dir"),
        exits_dir=config.text("crio.runtime.container_exits_dir"),
        pause_image=config.text("crio.image.pause_image"),
        pause_command=config.text("crio.image.pause_command"),
        image_volumes=config.text("crio.image.image_volumes"),
        default_env=config.texts("crio.runtime.default_env"),
        default_ulimits=tuple(map(parse_ulimit, config.texts("crio.runtime.default_ulimits"))),
        default_capabilities=config.texts("crio.runtime.default_capabilities"),
        add_inheritable_capabilities=config.flag("crio.runtime.add_inheritable_capabilities"),
        default_sysctls=pairs(config.texts("crio.runtime.default_sysctls")),
        allowed_devices=config.texts("crio.runtime.allowed_devices"),
        additional_devices=config.texts("crio.runtime.additional_devices"),
        device_ownership_from_security_context=config.flag("crio.runtime.device_ownership_from_security_context"),
        bind_mount_prefix=config.text("crio.runtime.bind_mount_prefix"),
        read_only=config.flag("crio.runtime.read_only"),
        absent_mount_sources_to_reject=config.texts("crio.runtime.absent_mount_sources_to_reject"),
        default_mounts=default_mounts(config.text("crio.runtime.default_mounts_file")),
        timezone=config.text("crio.runtime.timezone"),
        pids_limit=config.number("crio.runtime.pids_limit"),
        log_size_max=config.number("crio.runtime.log_size_max"),
        drop_infra_ctr=config.flag("crio.runtime.drop_infra_ctr"),
        infra_ctr_cpuset=config.text("crio.runtime.infra_ctr_cpuset"),
        shared_cpuset=config.text("crio.runtime.shared_cpuset"),
        unbalance_ended=any(
            "cpu-load-balancing.crio.io" in allowed
            for allowed in (
                *(h.allowed_annotations for h in config.handlers.values()),
                *(w.allowed_annotations for w in config.workloads.values()),
            )
        ),
        separate_pull_cgroup=config.text("crio.runtime.separate_pull_cgroup"),
        enable_pod_events=config.flag("crio.runtime.enable_pod_events"),
        disable_hostport_mapping=config.flag("crio.runtime.disable_hostport_mapping"),
        hostnetwork_disable_selinux=config.flag("crio.runtime.hostnetwork_disable_selinux"),
        pinned_images=config.texts("crio.image.pinned_images"),
        artifact_mounts=config.flag("crio.image.oci_artifact_mount_support"),
        pull_progress_timeout=config.seconds("crio.image.pull_progress_timeout"),
        min_injected_gomaxprocs=config.number("crio.runtime.min_injected_gomaxprocs"),
        collection_period=config.number("crio.stats.collection_period"),
        included_pod_metrics=config.texts("crio.stats.included_pod_metrics"),
        checkpoint=config.text("crio.checkpoint_restore.container_level_enabled"),
        signature_checked_at_create=bool(config.text("crio.image.signature_policy")),
        masked_paths=tuple(sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"))),
        storage_root=config.text("crio.root"),
        run_root=config.text("crio.runroot"),
        pause_program=program("pycrio-pause"),
        workloads=tuple(make_workload(name, w) for name, w in config.workloads.items()),
        uid_map=id_map(config.text("crio.runtime.uid_mappings")),
        gid_map=id_map(config.text("crio.runtime.gid_mappings")),
        lowest_uid=config.number("crio.runtime.minimum_mappable_uid"),
        lowest_gid=config.number("crio.runtime.minimum_mappable_gid"),
    )


def make_workload(name: str, conf: WorkloadConf) -> Workload:
    """A workload class in the flows' terms."""
    r = conf.resources
    return Workload(
        name=name,
        activation_annotation=conf.activation_annotation,
        annotation_prefix=conf.annotation_prefix,
        allowed_annotations=conf.allowed_annotations,
        cpu_shares=r.cpushares if r else 0,
        cpu_quota=r.cpuquota if r else 0,
        cpu_period=r.cpuperiod if r else 0,
        cpuset=r.cpuset if r else "",
        cpu_limit=r.cpulimit if r else 0,
    )


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """``name=soft:hard`` (checked by the configuration already); -1 is unlimited."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")

    def number(word: str) -> int:
        return (1 << 64) - 1 if int(word) < 0 else int(word)

    return f"RLIMIT_{name.strip().upper()}", number(soft), number(hard or soft)


def id_map(text: str) -> tuple[IdMapping, ...]:
    """``container:host:size`` triples, separated by commas (checked by the configuration already)."""
    return tuple(IdMapping(*map(int, item.split(":"))) for item in text.split(",") if item)


def pairs(items: tuple[str, ...]) -> Mapping[str, str]:
    """``key=value`` items as a mapping; empty items are skipped."""
    return dict(item.partition("=")[::2] for item in items if item)


def default_mounts(path: str) -> tuple[tuple[str, str], ...]:
    """``/SRC:/DST`` lines of the configured file, else of the first of the usual ones that exists. A source that the
    host lacks is left out, as other engines do."""
    usual = ("/etc/containers/mounts.conf", "/usr/share/containers/mounts.conf")
    for candidate in (path,) if path else usual:
        try:
            with open(candidate, encoding="utf-8") as f:
                lines = [line.strip() for line in f]
        except OSError as e:
            if path:
                raise ConfigError([f"crio.runtime.default_mounts_file {path} cannot be read: {e.strerror}"]) from e
            continue
        found = []
        for line in lines:
            source, colon, target = line.partition(":")
            if source.startswith("/") and os.path.exists(source):
                found.append((source, target if colon else source))
        return tuple(found)
    return ()
