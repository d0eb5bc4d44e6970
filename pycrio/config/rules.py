"""Checks of single values: each takes a value of its row's kind and answers what is wrong, "" when nothing is."""

from __future__ import annotations

import re
from collections.abc import Callable

from pycrio.config import units
from pycrio.config.options.row import Rule, Value

ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack"),
)
_CAPABILITIES = """
    AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH
    FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE
    NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE
    SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"""
CAPABILITIES = frozenset(_CAPABILITIES.split())
# What a handler or workload may list in allowed_annotations; those that end in a dot are prefixes.
_ANNOTATIONS = """
    cgroup2-mount-hierarchy-rw.crio.io io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw cpu-c-states.crio.io
    cpu-freq-governor.crio.io cpu-load-balancing.crio.io cpu-quota.crio.io cpu-shared.crio.io devices.crio.io
    io.kubernetes.cri-o.Devices disable-fips.crio.io io.kubernetes.cri-o.DisableFIPS irq-load-balancing.crio.io
    link-logs.crio.io io.kubernetes.cri-o.LinkLogs platform-runtime-path.crio.io
    io.kubernetes.cri-o.PlatformRuntimePath pod-linux-overhead.crio.io io.kubernetes.cri-o.PodLinuxOverhead
    pod-linux-resources.crio.io io.kubernetes.cri-o.PodLinuxResources seccomp-notifier-action.crio.io
    io.kubernetes.cri-o.seccompNotifierAction seccomp-profile.crio.io seccomp-profile.kubernetes.cri-o.io
    shm-size.crio.io io.kubernetes.cri-o.ShmSize try-skip-volume-selinux-label.crio.io
    io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel umask.crio.io io.kubernetes.cri-o.umask unified-cgroup.crio.io
    io.kubernetes.cri-o.UnifiedCgroup userns-mode.crio.io io.kubernetes.cri-o.userns-mode io.containers.trace-syscall
    io.kubernetes.cri.rdt-class org.systemd.property. org.criu.config module.wasm.image/variant
    io.kubernetes.cri.container-type run.oci."""
ANNOTATIONS = frozenset(_ANNOTATIONS.split())
_PULLABLE = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])"
    r"(?::\d+)?/)[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::\w[\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)


def _str(value: Value) -> str:
    assert isinstance(value, str)
    return value


def one_of(*choices: str) -> Rule:
    """The value is one of the given words."""
    shown = ", ".join(choice or '""' for choice in choices)

    def rule(value: Value) -> str:
        return "" if value in choices else f"{value!r} is not one of {shown}"

    return rule


def at_least(low: int) -> Rule:
    """The number is not below ``low``."""

    def rule(value: Value) -> str:
        return "" if isinstance(value, int) and value >= low else f"{value} is less than {low}"

    return rule


def between(low: int, high: int) -> Rule:
    """The number lies in a closed range."""

    def rule(value: Value) -> str:
        return "" if isinstance(value, int) and low <= value <= high else f"{value} is not between {low} and {high}"

    return rule


def each(single: Callable[[str], str]) -> Rule:
    """Every item of a list passes a check; every bad one is told."""

    def rule(value: Value) -> str:
        assert isinstance(value, tuple)
        return "; ".join(fault for item in value if (fault := single(item)))

    return rule


def absolute(value: Value) -> str:
    """The path starts at the root."""
    return "" if _str(value).startswith("/") else f"{value!r} is not an absolute path"


def absolute_or_empty(value: Value) -> str:
    """The path starts at the root, or none is given."""
    return absolute(value) if value else ""


def program(value: Value) -> str:
    """An absolute path, or a bare name that is looked up in PATH, or none."""
    return absolute(value) if "/" in _str(value) else ""


def duration(value: Value) -> str:
    """A Go duration that is not negative."""
    try:
        return "" if units.nanoseconds(_str(value)) >= 0 else f"{value!r} is negative"
    except ValueError as error:
        return str(error)


def cpu_list(value: Value) -> str:
    """A CPU list, or none."""
    try:
        if value:
            units.cpus(_str(value))
    except ValueError as error:
        return str(error)
    return ""


def regex(value: Value) -> str:
    """A regular expression that compiles."""
    try:
        re.compile(_str(value))
    except re.error as error:
        return f"{value!r} is not a regular expression: {error}"
    return ""


def log_size(value: Value) -> str:
    """A log cap: negative for none, else at least one write buffer."""
    ok = isinstance(value, int) and (value < 0 or value >= 8192)
    return "" if ok else f"{value} is neither negative (no cap) nor at least 8192"


def port_text(value: Value) -> str:
    """A port number written as a string."""
    ok = _str(value).isdecimal() and int(_str(value)) <= 65535
    return "" if ok else f"{value!r} is not a port number between 0 and 65535"


def image_reference(value: Value) -> str:
    """A full registry reference (host/name, with tag or digest as one likes)."""
    text = _str(value)
    if _PULLABLE.fullmatch(text):
        return ""
    # A familiar name without a host normalises to docker.io, so only its grammar is looked at.
    return "" if _PULLABLE.fullmatch(f"docker.io/{text}") else f"{value!r} is not an image reference"


def ulimit(item: str) -> str:
    """``name=soft[:hard]`` with a known name; -1 is unlimited."""
    name, equals, limits = item.partition("=")
    if not equals or name.lower() not in ULIMITS:
        return f"{item!r} is not a ulimit such as nofile=1024:2048 (names: {', '.join(ULIMITS)})"
    parts = limits.split(":")
    try:
        numbers = [units.integer(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2 or len(numbers) != len(parts) or min(numbers) < -1:
        return f"{item!r}: the limits must be one or two integers, soft:hard"
    soft, hard = numbers[0], numbers[-1]
    if hard != -1 and (soft == -1 or soft > hard):
        return f"{item!r}: the soft limit exceeds the hard limit"
    return ""


def sysctl(item: str) -> str:
    """``key=value`` without blanks around the equals sign; an empty item is skipped."""
    key, equals, value = item.partition("=")
    if not item:
        return ""
    if not equals or not key or key != key.strip() or value != value.strip():
        return f"{item!r} is not key=value without blanks around ="
    return ""


def device(item: str) -> str:
    """``host[:container][:rwm]``; the container's path is below /dev."""
    parts = item.split(":")
    modes = [p for p in parts[1:] if not p.startswith("/")]
    paths = [p for p in parts[1:] if p.startswith("/")]
    if not parts[0].startswith("/") or len(parts) > 3 or len(modes) > 1 or len(paths) > 1:
        return f"{item!r} is not a device such as /dev/sdb:/dev/xvdb:rwm"
    if len(parts) == 3 and (parts[1] not in paths or parts[2] not in modes):
        return f"{item!r}: the order is host:container:mode"
    if paths and not paths[0].startswith("/dev/"):
        return f"{item!r}: the path in the container must be below /dev/"
    if modes and (not modes[0] or set(modes[0]) - set("rwm") or len(set(modes[0])) != len(modes[0])):
        return f"{item!r}: the mode consists of r, w and m"
    return ""


def capability(item: str) -> str:
    """The name of a Linux capability, with or without CAP_ in front."""
    name = item.upper().removeprefix("CAP_")
    return "" if name in CAPABILITIES else f"{item!r} is not a capability"


def environment(item: str) -> str:
    """``NAME=value``."""
    return "" if item.find("=") > 0 else f"{item!r} is not NAME=value"


def absolute_item(item: str) -> str:
    """An absolute path."""
    return absolute(item)


def id_maps(value: Value) -> str:
    """``container:host:size`` triples separated by commas, or none."""
    for part in _str(value).split(",") if value else ():
        numbers = part.split(":")
        if len(numbers) != 3 or not all(n.isdecimal() and int(n) < 1 << 32 for n in numbers) or int(numbers[2]) == 0:
            return f"{part!r} is not a mapping container:host:size"
    return ""


def annotation(item: str) -> str:
    """An annotation that a handler or workload may admit."""
    ok = item in ANNOTATIONS or any(item.startswith(known) for known in ANNOTATIONS if known.endswith("."))
    return "" if ok else f"{item!r} is not an annotation that pycrio acts on"


def timezone(value: Value) -> str:
    """Empty, ``local`` in any case, or a name that the host's zone database has."""
    text = _str(value)
    if not text or text.lower() == "local":
        return ""
    import zoneinfo  # late: heavy, and only for the few who set it

    try:
        zoneinfo.ZoneInfo(text)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return f"{value!r} is not a time zone of this host"
    return ""
