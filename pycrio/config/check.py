"""Pure validation: values in, every fault out, each with its place and key. Nothing on the host is touched.

What can only be known when the daemon really starts (programs, directories, devices) is the drivers' matter, except
for the few files that ``host_faults`` looks at so that they are told together with the rest.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pycrio.config.decode import RUNTIMES, WORKLOADS, nearest
from pycrio.config.options import HANDLER, RESOURCES, ROWS, WORKLOAD
from pycrio.config.options.api import CIPHER_SUITES
from pycrio.config.values import Config, Fault, HandlerConf, WorkloadConf
from pycrio.errors import ConfigError

_SHIM = re.compile(r"containerd-shim-[a-zA-Z0-9+-]+")
_MIN_PERIOD = 1000


@dataclass(slots=True)
class Report:
    """What validation found. ``dropped`` are handlers that cannot be used, but need not stop the daemon."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def checked(config: Config, faults: list[Fault]) -> Config:
    """``config`` without its unusable handlers and with the warnings of ``check``; ConfigError if there are faults.

    ``faults`` are those found while reading.
    """
    report = check(config)
    found = [*faults, *report.faults]
    if found:
        raise ConfigError([str(fault) for fault in dict.fromkeys(found)])
    handlers = {name: handler for name, handler in config.handlers.items() if name not in report.dropped}
    return replace(config, handlers=handlers, warnings=(*config.warnings, *report.warnings))


def check(config: Config) -> Report:
    """Every rule of every row, then the rules between keys."""
    report = Report()
    for row in ROWS:
        for rule in row.rules:
            fault = rule(config.values[row.key])
            if fault:
                report.faults.append(Fault(str(config.origin(row.key)), row.key, fault))
    _streaming(config, report)
    _id_maps(config, report)
    _handlers(config, report)
    for workload in config.workloads.values():
        report.faults += _workload(config, workload)
    return report


def _streaming(config: Config, report: Report) -> None:
    if config.flag("crio.api.stream_enable_tls"):
        for key in ("crio.api.stream_tls_cert", "crio.api.stream_tls_key"):
            if not config.text(key):
                place = str(config.origin("crio.api.stream_enable_tls"))
                report.faults.append(Fault(place, key, "must be given, because stream_enable_tls is true"))
    key = "crio.api.tls_cipher_suites"
    suites = config.texts(key)
    if suites and config.text("crio.api.tls_min_version") == "VersionTLS13":
        report.warnings.append(f"{config.origin(key)}: {key} has no effect: TLS 1.3 suites cannot be chosen")
        return
    for suite in suites:
        if suite not in CIPHER_SUITES:
            report.faults.append(Fault(str(config.origin(key)), key, f"{suite!r} is not a known TLS 1.2 cipher suite"))


def _id_maps(config: Config, report: Report) -> None:
    keys = ("crio.runtime.uid_mappings", "crio.runtime.gid_mappings")
    given = [key for key in keys if config.text(key)]
    if len(given) == 1:
        other = keys[1 - keys.index(given[0])]
        report.warnings.append(f"{config.origin(given[0])}: {given[0]} has no effect without {other}")


def _handlers(config: Config, report: Report) -> None:
    default = config.text("crio.runtime.default_runtime")
    if default not in config.handlers:
        near = nearest(default, config.handlers)
        hint = f"; did you mean {near!r}?" if near else f"; there are: {', '.join(sorted(config.handlers))}"
        place = str(config.origin("crio.runtime.default_runtime"))
        what = f"no handler is called {default!r}{hint}"
        report.faults.append(Fault(place, "crio.runtime.default_runtime", what))
    for name, handler in config.handlers.items():
        faults = _handler(config, handler)
        if name == default:
            report.faults += faults
        elif faults:
            report.dropped.append(name)
            report.warnings += [f"{fault}; the handler is left out" for fault in faults]


def _handler(config: Config, handler: HandlerConf) -> list[Fault]:
    prefix = f"{RUNTIMES}.{handler.name}"
    faults: list[Fault] = []

    def say(name: str, what: str) -> None:
        key = f"{prefix}.{name}"
        origin = config.origins.get(key) or config.origin(prefix)
        faults.append(Fault(str(origin), key, what))

    for row in HANDLER:
        for rule in row.rules:
            fault = rule(getattr(handler, row.name))
            if fault:
                say(row.name, fault)
    if handler.privileged_without_host_devices_all_devices_allowed and not handler.privileged_without_host_devices:
        name = "privileged_without_host_devices_all_devices_allowed"
        say(name, "has a meaning only together with privileged_without_host_devices")
    kind = handler.runtime_type
    if handler.runtime_config_path and kind != "vm":
        say("runtime_config_path", "is only for handlers of type vm")
    if kind == "vm" and not _SHIM.fullmatch(os.path.basename(handler.runtime_path)):
        say("runtime_path", "the program of a handler of type vm is called containerd-shim-<name>")
    if handler.no_sync_log and kind != "oci":
        say("no_sync_log", "is only for handlers of type oci")
    if handler.stream_websockets and kind != "pod":
        say("stream_websockets", "is only for handlers of type pod")
    cgroup = handler.monitor_cgroup
    if config.text("crio.runtime.cgroup_manager") == "systemd":
        if cgroup != "pod" and not cgroup.endswith(".slice"):
            say("monitor_cgroup", f"{cgroup!r} is neither pod nor the name of a slice")
    elif cgroup not in {"", "pod"}:
        say("monitor_cgroup", f"{cgroup!r} is not pod; cgroupfs knows no other")
    for platform, path in handler.platform_runtime_paths.items():
        if platform.count("/") not in {1, 2} or not path.startswith("/"):
            say("platform_runtime_paths", f"{platform} = {path!r} is not os/architecture and an absolute path")
    return faults


def _workload(config: Config, workload: WorkloadConf) -> list[Fault]:
    prefix = f"{WORKLOADS}.{workload.name}"
    faults: list[Fault] = []

    def say(name: str, what: str) -> None:
        key = f"{prefix}.{name}"
        origin = config.origins.get(key) or config.origin(prefix)
        faults.append(Fault(str(origin), key, what))

    for row in WORKLOAD:
        for rule in row.rules:
            if fault := rule(getattr(workload, row.name)):
                say(row.name, fault)
    if not workload.activation_annotation:
        say("activation_annotation", "must be given")
    resources = workload.resources
    if resources is None:
        return faults
    for row in RESOURCES:
        for rule in row.rules:
            if fault := rule(getattr(resources, row.name)):
                say(f"resources.{row.name}", fault)
    if resources.cpuquota and resources.cpuquota < resources.cpushares:
        say("resources.cpuquota", f"{resources.cpuquota} is less than cpushares ({resources.cpushares})")
    if 0 < resources.cpuperiod < _MIN_PERIOD:
        say("resources.cpuperiod", f"{resources.cpuperiod} is less than {_MIN_PERIOD} µs")
    return faults


def host_faults(config: Config, environ: Mapping[str, str]) -> list[Fault]:
    """What does not fit this host, for a daemon that is about to start: devices, helper programs, optional
    parts of Python, the default handler.

    A configured monitor that is not there is no fault: pycrio brings its own, and takes it with a warning. Reads the
    file system, changes nothing.
    """
    import shutil  # late: brings compression libraries along

    faults: list[Fault] = []
    path = environ.get("PATH", os.defpath)

    def say(key: str, what: str) -> None:
        faults.append(Fault(str(config.origin(key)), key, what))

    for item in config.texts("crio.runtime.additional_devices"):
        source = item.split(":")[0]
        if not _is_device(source):
            say("crio.runtime.additional_devices", f"{source!r} is neither a device nor a directory of devices")
    if config.text("crio.runtime.infra_ctr_cpuset") and shutil.which("taskset", path=path) is None:
        say("crio.runtime.infra_ctr_cpuset", "needs the program taskset in PATH")
    if config.flag("crio.tracing.enable_tracing") and not _tracing_installed():
        say("crio.tracing.enable_tracing", "needs OpenTelemetry, which is not installed: pip install 'pycrio[tracing]'")
    group = config.text("crio.runtime.separate_pull_cgroup")
    if group not in ("", "pod") and group.endswith(".slice") != (
        config.text("crio.runtime.cgroup_manager") == "systemd"
    ):
        wanted = "slice" if not group.endswith(".slice") else "cgroup, which the manager cgroupfs could make"
        say("crio.runtime.separate_pull_cgroup", f"{group!r} is neither pod nor the name of a {wanted}")
    handler = config.default_handler
    prefix = f"{RUNTIMES}.{handler.name}"
    program = handler.runtime_path or handler.name
    if shutil.which(program, path=path) is None:
        say(prefix + ".runtime_path", f"the OCI runtime {program!r} is not an executable program")
    if handler.seccomp_profile and not os.access(handler.seccomp_profile, os.R_OK):
        say(prefix + ".seccomp_profile", f"{handler.seccomp_profile!r} cannot be read")
    return faults


def _tracing_installed() -> bool:
    from importlib.util import find_spec  # late: only where tracing is on

    try:
        return all(map(find_spec, ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.grpc")))
    except ModuleNotFoundError:  # of a package above
        return False


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)
