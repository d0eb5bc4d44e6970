"""Rows of ``[crio.runtime.runtimes.<name>]`` and ``[crio.runtime.workloads.<name>]``.

A key holds ``*`` where the entry's name stands. Defaults are those of an entry that does not give the key.
"""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Kind, Reload, Row, Rule, Value

_H = "crio.runtime.runtimes.*."
_W = "crio.runtime.workloads.*."
MONITOR_PATH_VARIABLE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What the entry crun is unless a file declares it.
BUILT_IN: dict[str, dict[str, Value]] = {
    "crun": {
        "runtime_root": "/run/crun",
        "allowed_annotations": ("io.containers.trace-syscall", "devices.crio.io"),
        "monitor_env": (MONITOR_PATH_VARIABLE,),
        "container_min_memory": "500KiB",
    }
}


def _handler(
    name: str, kind: Kind, default: Value, doc: str, rules: tuple[Rule, ...] = (), later: str = "", deprecated: str = ""
) -> Row:
    reload: Reload = "sighup"
    return Row(_H + name, kind, default, doc, rules=rules, later=later, deprecated=deprecated, reload=reload)


HANDLER = (
    _handler(
        "runtime_path", "string", "", "OCI runtime program. Empty: the handler's name is looked up in PATH.",
        (rules.program,),
    ),
    _handler(
        "runtime_type", "string", "oci",
        "oci: a program such as runc or crun with a monitor per container; pod: the same here, for configurations with "
        "one monitor per pod (conmon-rs); vm: a containerd shim (runtime v2), such as that of Kata "
        "Containers.",
        (rules.one_of("oci", "vm", "pod"),),
    ),
    _handler(
        "runtime_root", "string", "", "State directory of the OCI runtime, its --root.", (rules.absolute_or_empty,)
    ),
    _handler(
        "runtime_config_path", "string", "", "Configuration file of a runtime of type vm.",
        (rules.absolute_or_empty,),
    ),
    _handler(
        "inherit_default_runtime", "bool", False,
        "Take runtime path, type, root and configuration from the default handler.",
    ),
    _handler(
        "privileged_without_host_devices", "bool", False, "Privileged containers do not get the devices of the host."
    ),
    _handler(
        "privileged_without_host_devices_all_devices_allowed", "bool", False,
        "With the former: they may still use every device that they make or mount themselves.",
    ),
    _handler(
        "allowed_annotations", "strings", (), "Pod annotations that take effect with this handler.",
        (rules.each(rules.annotation),), deprecated="use allowed_annotations of a workload",
    ),
    _handler(
        "default_annotations", "map", (), "Annotations that containers carry unless their pod says otherwise.",
    ),
    _handler(
        "monitor_path", "string", "",
        "Container monitor: conmon or a program with its command line. Empty: the one that comes with pycrio.",
        (rules.absolute_or_empty,),
    ),
    _handler(
        "monitor_cgroup", "string", "",
        "Cgroup of the monitors: pod for that of the pod; with the manager systemd also a name that ends in .slice "
        "(default system.slice).",
    ),
    _handler(
        "monitor_env", "strings", (), "Environment of the monitor.", (rules.each(rules.environment),),
    ),
    _handler(
        "monitor_exec_cgroup", "string", "", "container: monitors of execs count into the container's "
        "cgroup. Not used: execs have no monitor.",
        (rules.one_of("", "container"),),
    ),
    _handler(
        "platform_runtime_paths", "map", (), "Runtime programs for containers whose image is of another "
        "platform, such as linux/arm64. The annotation platform-runtime-path.crio.io names a platform instead.",
    ),
    _handler(
        "runtime_pull_image", "bool", False, "The runtime pulls the image itself. Only for type vm."
    ),
    _handler(
        "container_min_memory", "string", "12MiB", "Lowest memory limit that a container may have.",
    ),
    _handler(
        "no_sync_log", "bool", False, "The monitor does not sync a container's log at its end. Only for type oci."
    ),
    _handler(
        "stream_websockets", "bool", False,
        "The monitor of type pod would serve exec and attach. Not used: the daemon does, over WebSocket as well.",
    ),
    _handler(
        "exec_cpu_affinity", "string", "",
        "first: execs start on the first of the container's own CPUs. Empty: the runtime decides.",
        (rules.one_of("", "first"),),
    ),
    _handler(
        "seccomp_profile", "string", "", "Default seccomp profile with this handler, before that of crio.runtime."
    ),
    _handler(
        "container_create_timeout", "int", 240,
        "Seconds that the runtime may take to create a container; at least 30.", (rules.at_least(0),),
    ),
)  # fmt: skip

WORKLOAD = (
    Row(_W + "activation_annotation", "string", "", "Key of the pod annotation that chooses this workload. Required."),
    Row(
        _W + "annotation_prefix",
        "string",
        "",
        "Key, with /<container> behind it, of the annotation with a JSON object that changes resources of one "
        "container.",
    ),
    Row(
        _W + "allowed_annotations",
        "strings",
        (),
        "Pod annotations that take effect in this workload, besides those of the handler.",
        rules=(rules.each(rules.annotation),),
    ),
)

RESOURCES = (
    Row(_W + "resources.cpushares", "int", 0, "CPU shares.", rules=(rules.at_least(0),)),
    Row(_W + "resources.cpuquota", "int", 0, "CPU quota in microseconds per period."),
    Row(_W + "resources.cpuperiod", "int", 0, "CPU period in microseconds.", rules=(rules.at_least(0),)),
    Row(_W + "resources.cpuset", "string", "", "CPUs, such as 0-3,8.", rules=(rules.cpu_list,)),
    Row(
        _W + "resources.cpulimit",
        "int",
        0,
        "CPU limit in thousandths of a CPU; wins over cpuquota.",
        rules=(rules.at_least(0),),
    ),
)
