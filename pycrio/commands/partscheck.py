"""What the configuration names and the host must have: runtimes, monitors, networks, helper programs, directories."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator

from pycrio import wiring
from pycrio._native.base import NativeError
from pycrio._native.run import run
from pycrio.commands import hostcheck, trial
from pycrio.commands.finding import Finding, Place, fail, ok, warn
from pycrio.config.values import Config, HandlerConf
from pycrio.drivers.network import conf as networks
from pycrio.drivers.runtime.handlers import probe
from pycrio.drivers.security.host import held_capabilities
from pycrio.errors import ConfigError

VERSION_TIMEOUT = 10.0
PLUGIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")  # where packages put CNI plugins


async def runtimes(config: Config) -> AsyncIterator[Finding]:
    """Every handler: its program, its version, what it can do, whether it does it here; its monitor."""
    default = config.text("crio.runtime.default_runtime")
    for name, handler in config.handlers.items():
        subject = f"runtime {name}" + (" (default)" if name == default else "")
        bad = fail if name == default else warn
        try:
            made = wiring.make_handler(name, handler, config)
        except ConfigError as e:
            yield bad(subject, str(e), f"install it, or set crio.runtime.runtimes.{name}.runtime_path")
            continue
        version = await _version(made.path)
        if not version:
            yield bad(subject, f"{made.path} does not tell its version", "reinstall it: it may be for another machine")
            continue
        able = await probe(made)
        lacks = [
            text
            for there, text in (
                (able.recursive_read_only, "recursive read-only mounts"),
                (able.idmap_mounts, "id-mapped mounts for user namespaces"),
            )
            if not there
        ]
        said = f"{made.path}, {version}"
        if made.type == "vm":  # what its guests can do a shim does not tell
            yield ok(subject, f"{said} shim")
        elif lacks:
            yield warn(subject, f"{said}; does not report {' and '.join(lacks)}", "pods that ask for them are refused")
        else:
            yield ok(subject, said)
        if made.type != "vm" and "CAP_SYS_ADMIN" in held_capabilities("CapEff"):
            failure = await trial.attempt(made, config.text("crio.runtime.cgroup_manager"))
            subject = f"container by {name}"
            remedy = "mend that, or choose another runtime with crio.runtime.default_runtime"
            yield bad(subject, f"cannot be made: {failure}", remedy) if failure else ok(subject, "can be made")
        yield _monitor(config, handler, made.monitor_path)


async def _version(path: str) -> str:
    """The first line of ``<runtime> --version``; "" when it cannot be run."""
    try:
        done = await run([path, "--version"], timeout=VERSION_TIMEOUT, cap=1 << 16)
    except NativeError:
        return ""
    lines = done.stdout.decode("utf-8", "replace").split("\n")
    return lines[0].strip() if done.code == 0 else ""


def _monitor(config: Config, handler: HandlerConf, chosen: str) -> Finding:
    wanted = handler.monitor_path or config.text("crio.runtime.conmon")
    subject = f"monitor of {handler.name}"
    if not os.access(chosen, os.X_OK):
        return fail(subject, f"{chosen} is not executable", "reinstall pycrio")
    if wanted and not shutil.which(wanted):
        return warn(subject, f"{wanted} is not there, so {chosen} is used", "install it, or leave monitor_path empty")
    return ok(subject, chosen)


def network(config: Config) -> Iterator[Finding]:
    """Network configurations and their plugins. A node may get its network later: that is no failure."""
    directory = config.text("crio.network.network_dir")
    plugin_dirs = config.texts("crio.network.plugin_dirs")
    default = config.text("crio.network.cni_default_network")
    found = networks.load(directory, plugin_dirs)
    for fault in found.faults:
        yield warn("network", fault, "such a file is passed over")
    chosen = next((n for n in found.networks if default in ("", n.name)), None)
    if chosen is None:
        what = f"no network named {default!r}" if default else "no network configuration"
        remedy = "install a CNI network: until then only pods with the host's network start"
        elsewhere = [d for d in PLUGIN_DIRS if _has_plugins(d) and d not in (p.rstrip("/") for p in plugin_dirs)]
        if elsewhere:
            remedy += f"; there are plugins in {', '.join(elsewhere)}, which crio.network.plugin_dirs does not name"
        yield warn("network", f"{what} in {directory}", remedy)
        return
    kinds = [str(p["type"]) for p in chosen.plugins]
    yield ok("network", f"{chosen.name} (CNI {chosen.version}) from {chosen.path}: {', '.join(kinds)}")


def _has_plugins(directory: str) -> bool:
    return bool(networks.find_plugin("host-local", (directory,)))


def programs(config: Config) -> Iterator[Finding]:
    """Helper programs, each with what needs it."""
    if not config.flag("crio.runtime.disable_hostport_mapping"):
        tools = [t for t in ("nft", "iptables") if shutil.which(t)]
        if tools:
            yield ok("host ports", f"by {tools[0]}")
        else:
            remedy = "install nftables, or set crio.runtime.disable_hostport_mapping if the network does it"
            yield warn("host ports", "neither nft nor iptables is there", remedy)
        if not shutil.which("conntrack"):
            yield warn("host ports", "no conntrack: stale UDP flows may outlive a port", "install conntrack")
    if not shutil.which("criu"):
        yield warn("checkpoints", "no criu", "install it if containers are to be checkpointed")
    else:
        yield ok("checkpoints", shutil.which("criu") or "")
    if config.text("crio.runtime.infra_ctr_cpuset") and not shutil.which("taskset"):
        yield fail("taskset", "is missing, but infra_ctr_cpuset needs it", "install util-linux")
    policy = config.text("crio.image.signature_policy") or "/etc/containers/policy.json"
    if not os.path.exists(policy):
        remedy = f'write {policy}, e.g. {{"default": [{{"type": "insecureAcceptAnything"}}]}}'
        yield fail("signature policy", f"{policy} is missing: no image can be pulled", remedy)
    else:
        yield ok("signature policy", policy)


def directories(config: Config) -> Iterator[Finding]:
    """Space below the directories that grow, each file system once; what kind the volatile ones are on."""
    seen: set[int] = set()
    for what, path in (
        ("store", config.text("crio.root")),
        ("images", config.text("crio.imagestore") or config.text("crio.root")),
        ("logs", config.text("crio.log_dir")),
        ("run root", config.text("crio.runroot")),
    ):
        finding = hostcheck.space(path, what)
        device = os.stat(_nearest(path)).st_dev
        if device not in seen:
            seen.add(device)
            yield finding
    run_root = config.text("crio.runroot")
    kind = filesystem(_nearest(run_root))
    if kind not in ("tmpfs", "ramfs"):
        remedy = "keep it on a tmpfs: what it says has no meaning after a reboot"
        yield warn("run root", f"{run_root} is on {kind or 'an unknown file system'}", remedy)


def socket_state(path: str) -> Finding:
    """Whether a daemon serves the socket now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe_socket:
        probe_socket.settimeout(2.0)
        try:
            probe_socket.connect(path)
        except FileNotFoundError:
            return ok("socket", f"{path} is free")
        except ConnectionRefusedError:
            return ok("socket", f"{path} is left over from a daemon that ended; the next one replaces it")
        except OSError as e:
            return fail("socket", f"{path}: {e.strerror or e}", "choose another path with crio.api.listen")
    return ok("socket", f"a daemon serves {path}")


def filesystem(path: str, place: Place | None = None) -> str:
    """The type of the file system that holds a path (man 5 proc, mountinfo); "" when unknown."""
    best, kind = "", ""
    for line in ((place or Place()).text("/proc/self/mountinfo") or "").splitlines():
        words = line.split()
        point = words[4].encode().decode("unicode_escape")
        inside = point == "/" or path == point or path.startswith(point + "/")
        if inside and len(point) >= len(best) and "-" in words:
            best, kind = point, words[words.index("-") + 1]
    return kind


def _nearest(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
