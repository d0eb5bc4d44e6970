"""pycrio beside Debian's containerd: scratch roots on one fresh file system, same runc, same CNI plugins, one run.

Everything happens in private mount and network namespaces and goes with them. `make bench-peers` calls this; further
arguments go to compare_cri.py.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.cri import Cri
from tests.daemon import BRIDGE, Daemon
from tests.fixtures_registry import busybox_layer, push_image, start_registry

CONTAINERD = """
version = 2
root = "{d}/root"
state = "{d}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "{d}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{d}/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."{registry}"]
endpoint = ["http://{registry}"]
"""


def isolated() -> None:
    """Re-execute in namespaces of our own."""
    if os.environ.get("PYCRIO_BENCH_INSIDE"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    env = {**os.environ, "PYCRIO_BENCH_INSIDE": "1"}
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["--propagation", "shared", sys.executable, *sys.argv]
    os.execvpe("unshare", command, env)


def volatile(directory: pathlib.Path, *kept: str) -> None:
    """Make a directory whose content is in memory, as that of /run on a node, except for its parts in ``kept``."""
    directory.mkdir()
    disk = directory.with_name(f"{directory.name}.disk")
    for name in kept:
        (disk / name).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory], check=True)
    for name in kept:
        (directory / name).mkdir()
        subprocess.run(["mount", "--bind", disk / name, directory / name], check=True)


def many_files(count: int, size: int) -> dict[str, bytes | str | None]:
    """A layer of many files with content that compresses like text."""
    words = (b"alpha beta gamma delta %d\n" * (size // 24))[:size]
    return {f"usr/share/f{i // 200}/n{i}": words.replace(b"%d", b"%d" % i) for i in range(count)}


def main() -> int:
    isolated()
    base = pathlib.Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
    disk = base / "disk"
    with open(disk, "wb") as f:
        f.truncate(12 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    work = base / "w"
    work.mkdir()
    subprocess.run(["mount", "-o", "loop", disk, work], check=True)
    registry = daemon = peer = None
    try:
        registry = start_registry(base / "reg")
        image = push_image(registry, "busybox:1", [busybox_layer()]) and f"{registry.address}/busybox:1"
        push_image(registry, "pause:1", [busybox_layer()], config={"Entrypoint": ["/bin/sleep", "1000000"]})
        layers = [busybox_layer(), many_files(14000, 9000), many_files(12000, 8000), many_files(6000, 14000)]
        push_image(registry, "many:1", layers, compression="gzip")
        volatile(work / "p", "root", "logs")
        volatile(work / "c", "root")
        pathlib.Path("/run/containerd").mkdir(exist_ok=True)  # runc's, for containerd
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/containerd"], check=True)
        daemon = Daemon(str(work / "p"))
        daemon.insecure(registry.address)
        daemon.start()
        peer = start_containerd(work / "c", registry.address, f"{registry.address}/pause:1")
        wait(f"unix://{work}/c/c.sock")
        assert daemon.process is not None
        arguments = [sys.executable, str(HERE / "compare_cri.py"), "--image", image]
        arguments += ["--pull-image", f"{registry.address}/many:1"]
        arguments += ["--endpoint", f"containerd=unix://{work}/c/c.sock@{peer.pid}"]
        arguments += ["--endpoint", f"pycrio={daemon.endpoint}@{daemon.process.pid}", *sys.argv[1:]]
        return subprocess.run(arguments, check=False).returncode
    finally:
        if daemon is not None:
            daemon.clean()
        if peer is not None:
            peer.send_signal(signal.SIGTERM)
            peer.wait(20)
        if registry is not None:
            registry.stop()
        subprocess.run(["umount", "-R", "-l", work], check=False)
        shutil.rmtree(base, ignore_errors=True)


def start_containerd(directory: pathlib.Path, registry: str, pause: str) -> subprocess.Popen[bytes]:
    """containerd with nothing of the machine's own."""
    (directory / "net.d").mkdir(parents=True)
    conflist = (BRIDGE % f"{directory}/ipam").replace("pycrio-t0", "peer-t0").replace("10.99.", "10.98.")
    (directory / "net.d" / "10-test.conflist").write_text(conflist.replace('"name":"test"', '"name":"peer"'))
    text = CONTAINERD.format(d=directory, pause=pause, registry=registry, runc=shutil.which("runc"))
    (directory / "config.toml").write_text(text)
    with open(directory / "log", "wb") as log:
        return subprocess.Popen(["containerd", "-c", directory / "config.toml"], stdout=log, stderr=log)


def wait(endpoint: str) -> None:
    """Until the socket answers a CRI call."""
    end = time.monotonic() + 30
    while True:
        try:
            with Cri(endpoint, 2) as cri:
                cri.wait_ready(1)
                cri.Version()
            return
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
