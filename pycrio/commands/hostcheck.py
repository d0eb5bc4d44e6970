"""What a node needs of its host, whatever the configuration says: kernel, cgroups, privileges, sysctls, space.

Features are probed; a kernel's version tells nothing, since distributions add and remove features.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from pycrio.commands.finding import Finding, Place, fail, ok, warn

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
# Without any of these the daemon or every pod fails.
VITAL_CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_MKNOD", "CAP_SETUID")
WITHOUT = {
    "CAP_SYS_RESOURCE": "rlimits of containers are kept within the daemon's own, oom_score_adj cannot be lowered",
    "CAP_SYS_PTRACE": "processes of user-namespaced pods cannot be looked at",
    "CAP_SYS_MODULE": "kernel modules must be loaded beforehand",
    "CAP_NET_RAW": "some CNI plugins cannot announce addresses",
    "CAP_SYS_NICE": "real-time scheduling of containers fails",
    "CAP_AUDIT_WRITE": "programs in containers cannot write audit records",
}
FEATURES = {
    "mount_api": ("fail", "the mount system calls fsopen and mount_setattr"),
    "overlay": ("fail", "overlay file systems"),
    "recursive_ro": ("warn", "recursive read-only mounts"),
    "idmap": ("warn", "id-mapped mounts, which user-namespaced pods need,"),
    "overlay_idmap": ("warn", "id-mapped overlay layers, so a user-namespaced pod's image is copied,"),
    "volatile": ("warn", "volatile overlay mounts"),
}


def kernel(place: Place, features: Mapping[str, bool]) -> Iterator[Finding]:
    """``features`` as of ``_native.mounts.probe`` on the store's file system, with id-mapping tried."""
    release = place.text("/proc/sys/kernel/osrelease") or "unknown"
    missing = [name for name in FEATURES if not features.get(name)]
    if not missing:
        yield ok("kernel", f"{release}: every mount feature is there")
    for name in missing:
        level, text = FEATURES[name]
        found = f"{text} are not offered by {release}"
        if level == "fail":
            yield fail("kernel", found, "boot a kernel of 5.15 or newer with overlay")
        else:
            yield warn("kernel", found, "use a newer kernel, or another file system below the store")
    lacking = [n for n in NAMESPACES if not place.exists(f"/proc/self/ns/{n}")]
    if lacking:
        yield fail("namespaces", f"the kernel has none of kind {', '.join(lacking)}", "enable them in the kernel")
    elif place.number("/proc/sys/user/max_user_namespaces") == 0:
        remedy = "set sysctl user.max_user_namespaces to 15000 if pods are to have user namespaces"
        yield warn("namespaces", "user namespaces are switched off", remedy)
    else:
        yield ok("namespaces", "every kind is there")
    actions = (place.text("/proc/sys/kernel/seccomp/actions_avail") or "").split()
    if "errno" not in actions:
        yield fail("seccomp", "the kernel cannot filter system calls", "enable CONFIG_SECCOMP_FILTER")
    elif "user_notif" not in actions:
        yield warn("seccomp", "filters, but no notifications", "the seccomp notifier annotation will not work")
    else:
        yield ok("seccomp", "filters and notifications")
    if place.exists("/proc/pressure/cpu"):
        yield ok("pressure", "stall information (PSI) is there")
    else:
        yield warn("pressure", "no stall information (PSI)", "boot with psi=1 if stats shall have it")


def cgroups(place: Place, manager: str, driver_root: str = "/sys/fs/cgroup") -> Iterator[Finding]:
    """Mode and controllers; whether the chosen manager can work."""
    lines = [line.split() for line in (place.text("/proc/self/mountinfo") or "").splitlines()]
    mounts = [(words[4], words[words.index("-") + 1], words[-1]) for words in lines if "-" in words]
    v2 = [point for point, kind, _ in mounts if kind == "cgroup2"]
    v1 = {name for _, kind, options in mounts if kind == "cgroup" for name in options.split(",")}
    beside: list[str] = []
    if driver_root in v2:
        found = set((place.text(f"{driver_root}/cgroup.controllers") or "").split())
        yield ok("cgroups", "version 2")
        wanted = ["cpu", "cpuset", "io", "memory", "pids"]
    elif v1:
        found = v1
        beside = (place.text(f"{v2[0]}/cgroup.controllers") or "").split() if v2 else []
        mode = "version 1 with a version 2 hierarchy beside it (hybrid)" if v2 else "version 1"
        if beside:
            mode += f", which has {', '.join(beside)}"
        remedy = "newer kubelets refuse version 1" + (", crun refuses controllers in both" if beside else "")
        yield warn("cgroups", mode, f"{remedy}: {_unified(place)}")
        wanted = ["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"]
    else:
        yield fail("cgroups", f"no control groups are mounted at {driver_root}", "mount cgroup2 there")
        return
    vital = {"cpu", "memory"} | ({"devices"} if "devices" in wanted else set())
    lacking = [c for c in wanted if c not in found]
    remedy = "enable them in the kernel and, for a daemon inside a container, delegate them to it"
    if vital & set(lacking):
        yield fail("cgroup controllers", f"missing: {', '.join(lacking)}", remedy)
    elif lacking:
        yield warn("cgroup controllers", f"missing: {', '.join(lacking)}", remedy)
    else:
        yield ok("cgroup controllers", ", ".join(wanted))
    if "hugetlb" not in found:
        where = "hugetlb is in the version 2 hierarchy, which runtimes do not use here" if "hugetlb" in beside else ""
        yield warn("cgroup controllers", where or "no hugetlb", "limits of huge pages are ignored")
    yield _manager(place, manager)


def _unified(place: Place) -> str:
    """How to get version 2 alone."""
    if place.exists("/run/systemd/system"):
        return "boot with systemd.unified_cgroup_hierarchy=1"
    return "mount cgroup2 alone on /sys/fs/cgroup at boot"


def _manager(place: Place, manager: str) -> Finding:
    booted = place.exists("/run/systemd/system")
    if manager == "systemd" and not booted:
        remedy = (
            'set crio.runtime.cgroup_manager = "cgroupfs", and cgroupDriver likewise in the kubelet\'s configuration'
        )
        return fail("cgroup manager", "systemd is configured, but this host was not booted with it", remedy)
    if manager == "systemd" and not place.exists("/run/dbus/system_bus_socket"):
        return fail("cgroup manager", "systemd is configured, but the system bus is not there", "start dbus.service")
    if manager == "cgroupfs" and booted:
        remedy = "two managers of one tree get in each other's way: prefer systemd, in the kubelet as well"
        return warn("cgroup manager", "cgroupfs on a host that systemd runs", remedy)
    return ok("cgroup manager", manager if booted else f"{manager}, on a host that was not booted with systemd")


def privileges(place: Place, effective: frozenset[str], nofile: int) -> Iterator[Finding]:
    """Capabilities and limits of this process, which a daemon started the same way would have.

    ``nofile`` is the hard limit of open files.
    """
    vital = [name for name in VITAL_CAPABILITIES if name not in effective]
    if vital:
        yield fail("capabilities", f"missing: {', '.join(vital)}", "run as root, with every capability")
    for name, effect in WITHOUT.items():
        if name not in effective:
            yield warn("capabilities", f"no {name}: {effect}", "start the daemon with it if that matters")
    if not vital and all(name in effective for name in WITHOUT):
        yield ok("capabilities", "all that are needed")
    if nofile < 65536:
        remedy = "raise it (LimitNOFILE=1048576 in the unit): pods and their pulls take hundreds"
        yield warn("open files", f"this process may have no more than {nofile}", remedy)
    else:
        yield ok("open files", f"limit {nofile}")
    adj = place.number("/proc/self/oom_score_adj")
    if adj is not None and adj > 0:
        yield warn("oom score", f"this process has oom_score_adj {adj}", "set OOMScoreAdjust=-999 in the unit")


def sysctls(place: Place) -> Iterator[Finding]:
    """Kernel settings that pod networks and large numbers of pods need."""
    if place.number("/proc/sys/net/ipv4/ip_forward") == 1:
        yield ok("sysctl", "net.ipv4.ip_forward = 1")
    else:
        remedy = "sysctl -w net.ipv4.ip_forward=1 (some CNI plugins do it themselves)"
        yield warn("sysctl", "net.ipv4.ip_forward is off: pods reach nothing outside of the node", remedy)
    bridged = place.number("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged is None:
        yield warn("module", "br_netfilter is not loaded: services may not be reachable from pods", "modprobe it")
    elif bridged != 1:
        remedy = "sysctl -w net.bridge.bridge-nf-call-iptables=1"
        yield warn("sysctl", "net.bridge.bridge-nf-call-iptables is off", remedy)
    else:
        yield ok("sysctl", "net.bridge.bridge-nf-call-iptables = 1")
    for key, least in (
        ("fs.inotify.max_user_instances", 512),
        ("fs.inotify.max_user_watches", 65536),
        ("kernel.pid_max", 32768),
        ("net.netfilter.nf_conntrack_max", 65536),
    ):
        value = place.number("/proc/sys/" + key.replace(".", "/"))
        if value is not None and value < least:
            yield warn("sysctl", f"{key} is {value}, little for a node", f"sysctl -w {key}={least} or more")
    swap = len((place.text("/proc/swaps") or "").splitlines()) > 1
    if swap:
        yield warn("swap", "is in use", "the kubelet refuses it unless failSwapOn is false")


def modules(place: Place) -> Iterator[Finding]:
    """File systems and modules that may be missing although the kernel was built with them."""
    types = {line.split()[-1] for line in (place.text("/proc/filesystems") or "").splitlines() if line.split()}
    for kind in ("overlay", "mqueue", "tmpfs"):
        if kind in types:
            continue
        remedy = f"modprobe {kind}" if kind == "overlay" else f"boot a kernel with {kind}"
        yield fail("module", f"no file system of type {kind}", remedy)


def confinement(place: Place, wanted_selinux: bool) -> Iterator[Finding]:
    """AppArmor and SELinux."""
    apparmor = (place.text("/sys/module/apparmor/parameters/enabled") or "").startswith("Y")
    selinux = place.exists("/sys/fs/selinux/enforce")
    if apparmor:
        loaded = place.text("/sys/kernel/security/apparmor/profiles") is not None
        if loaded:
            yield ok("AppArmor", "enabled")
        else:
            yield warn(
                "AppArmor", "enabled, but its profiles cannot be read", "mount securityfs at /sys/kernel/security"
            )
    if selinux and not wanted_selinux:
        yield warn("SELinux", "enabled, but crio.runtime.selinux is false", "set it: containers are not confined")
    elif selinux:
        mode = "enforcing" if place.number("/sys/fs/selinux/enforce") == 1 else "permissive"
        yield ok("SELinux", mode)
    elif wanted_selinux:
        yield warn("SELinux", "crio.runtime.selinux is true, but the kernel has none", "labels of pods are ignored")
    if not apparmor and not selinux:
        remedy = "pods that ask for a profile of their own are refused"
        yield warn("security modules", "neither AppArmor nor SELinux", remedy)


def space(path: str, what: str) -> Finding:
    """Bytes and inodes left on the file system that holds ``path`` or, while it is absent, its nearest parent."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    info = os.statvfs(path)
    free = info.f_bavail / info.f_blocks * 100 if info.f_blocks else 100.0
    inodes = info.f_favail / info.f_files * 100 if info.f_files else 100.0
    text = f"{info.f_bavail * info.f_frsize / 1e9:.1f} GB ({free:.0f} %) and {inodes:.0f} % of the inodes are free"
    subject = f"{what} {path}"
    if info.f_bavail * info.f_frsize < 100e6 or inodes < 1:
        return fail(subject, text, "make room: nothing can be pulled or started")
    if min(free, inodes) < 15:
        return warn(subject, text, "make room: the kubelet begins to evict pods and images at 15 %")
    return ok(subject, text)
