"""The demonstration: pycrio's main job, step by step, on scratch directories in namespaces of its own (root).

A registry is filled, the daemon starts, an image is pulled, a pod with its own network runs a web server, which is
asked over the pod's address; log, exec and stats are shown; the daemon is killed and comes back while the container
goes on; everything is removed, and nothing is left behind. `make demo` runs it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from pycrio.api._pb import api_pb2 as pb
from tests.cri import Cri, container, pod
from tests.daemon import Daemon
from tests.fixtures_registry import RunningRegistry, busybox_layer, push_image, start_registry

COLOUR = sys.stdout.isatty()
PAGE = b"<h1>served from a pod</h1>\n"
INSIDE = "PYCRIO_DEMO_INSIDE"


def paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


class Show:
    """Numbered steps with their times."""

    def __init__(self) -> None:
        self.number = 0
        self.begin = time.monotonic()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.number += 1
        print(paint(f"\n{self.number:2}. {title}", "1;36"), flush=True)
        start = time.perf_counter()
        yield
        print(paint(f"    ✓ {(time.perf_counter() - start) * 1e3:.0f} ms", "32"), flush=True)

    def say(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            print(f"    {line}", flush=True)


def isolated() -> None:
    """Re-execute in private mount, network, ipc and uts namespaces: the machine's own network is never touched."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    if os.geteuid() != 0:
        sys.exit("the demonstration needs root: it makes namespaces, mounts and cgroups")
    command = ["unshare", "--mount", "--net", "--ipc", "--uts", "--propagation", "slave", sys.executable, *sys.argv]
    os.execvpe("unshare", command, {**os.environ, INSIDE: "1"})


def fill(registry: RunningRegistry) -> str:
    """An image of four layers: busybox, a web page, and two of data that does not compress away."""
    noise = random.Random(7)
    layers: list[Any] = [busybox_layer(), {"www/index.html": PAGE}]
    for part in range(2):
        layers.append({f"data/{part}/{n}": noise.randbytes(64 << 10) for n in range(400)})
    push_image(registry, "demo/web:1", layers, config={"Cmd": ["/bin/httpd", "-f", "-p", "80"], "Env": ["PATH=/bin"]})
    return f"{registry.address}/demo/web:1"


def pull(show: Show, cri: Cri, daemon: Daemon, image: str) -> None:
    """Pull in the background and draw what has been unpacked so far."""
    failure: list[BaseException] = []

    def work() -> None:
        try:
            cri.PullImage(image=pb.ImageSpec(image=image), deadline=120)
        except BaseException as e:
            failure.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    overlay = pathlib.Path(daemon.dir, "root")
    while thread.is_alive():
        files = sum(len(names) for _, _, names in os.walk(overlay / "overlay"))
        if COLOUR:
            print(f"\r    {files:5} files unpacked {'▇' * (files // 40)}", end="", flush=True)
        thread.join(0.05)
    if COLOUR:
        print()
    if failure:
        raise failure[0]
    found = cri.ImageStatus(image=pb.ImageSpec(image=image)).image
    show.say(f"image {found.id[:12]}  {found.size / 1e6:.1f} MB  {found.repo_tags[0]}\n{found.repo_digests[0]}")


def fetch(address: str) -> bytes:
    """Ask the pod's web server from the node; it may need a moment to listen."""
    end = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/", timeout=2) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def left_behind(base: str, before: set[str]) -> list[str]:
    """Mounts, cgroups and processes that should be gone."""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        found = [f"mount {line.split()[4]}" for line in f if base in line]
    found += [f"cgroup {path}" for path in cgroups() - before]
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                command = pathlib.Path("/proc", entry, "cmdline").read_bytes()
                if base.encode() in command and b"demo.py" not in command:
                    found.append(f"process {entry} {command[:80]!r}")
    return found


def cgroups() -> set[str]:
    return {str(p) for p in pathlib.Path("/sys/fs/cgroup").glob("*/pycrio-demo*")}


def run(show: Show, base: str) -> None:
    """Every step."""
    with show.step("A registry on loopback, filled with an image of four layers (Debian's docker-registry)"):
        registry = start_registry(pathlib.Path(base, "registry"))
        image = fill(registry)
        show.say(f"listening on {registry.address}, serving {image}")
    daemon = Daemon(f"{base}/d")
    daemon.insecure(registry.address)
    try:
        with show.step("The daemon starts and answers on its socket"):
            daemon.start()
            cri = daemon.client()
            version = cri.Version()
            show.say(
                f"{version.runtime_name} {version.runtime_version}, CRI {version.runtime_api_version}\n"
                f"{daemon.endpoint}"
            )
            for condition in cri.Status().status.conditions:
                show.say(f"{condition.type}: {condition.status} {condition.message}")
        with show.step("Pull: layers are unpacked while they download"):
            pull(show, cri, daemon, image)
        options = pb.NamespaceOption(pid=pb.CONTAINER)
        linux = pb.LinuxPodSandboxConfig(
            cgroup_parent="/pycrio-demo", security_context=pb.LinuxSandboxSecurityContext(namespace_options=options)
        )
        config = pod("web", linux=linux, log_directory=f"{base}/logs", hostname="web")
        with show.step("RunPodSandbox: namespaces, CNI network, no pause process"):
            pod_id = cri.RunPodSandbox(config=config).pod_sandbox_id
            address = cri.PodSandboxStatus(pod_sandbox_id=pod_id).status.network.ip
            show.say(f"pod {pod_id[:12]} has the address {address}")
        script = "echo serving on $(hostname); echo a warning >&2; exec httpd -f -v -p 80 -h /www"
        with show.step("CreateContainer and StartContainer (runc, our monitor, our seccomp profile)"):
            seccomp = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
            resources = pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=256)
            security = pb.LinuxContainerSecurityContext(seccomp=seccomp, namespace_options=options)
            wanted = container("web", image, "sh", "-c", script)
            wanted.linux.CopyFrom(pb.LinuxContainerConfig(resources=resources, security_context=security))
            made = cri.CreateContainer(pod_sandbox_id=pod_id, config=wanted, sandbox_config=config).container_id
            cri.StartContainer(container_id=made)
            show.say(f"container {made[:12]} runs")
        with show.step(f"The node asks http://{address}/"):
            answer = fetch(address)
            assert answer == PAGE, answer
            show.say(answer.decode())
        with show.step("Its log, as the kubelet reads it"):
            show.say(pathlib.Path(base, "logs", "web.log").read_text())
        with show.step("ExecSync: ps inside"):
            done = cri.ExecSync(container_id=made, cmd=["ps"], timeout=10)
            show.say(done.stdout.decode())
        with show.step("Stats"):
            stats = cri.ContainerStats(container_id=made).stats
            show.say(
                f"cpu {stats.cpu.usage_core_nano_seconds.value / 1e6:.1f} ms   "
                f"memory {stats.memory.working_set_bytes.value / 1e3:.0f} kB   "
                f"writable layer {stats.writable_layer.used_bytes.value} bytes"
            )
        with show.step("kill -9 of the daemon; the container goes on; the daemon comes back and knows it"):
            daemon.kill()
            assert fetch(address) == PAGE
            show.say("without a daemon the page is still served")
            daemon.start()
            status = cri.ContainerStatus(container_id=made).status
            assert status.state == pb.CONTAINER_RUNNING, status
            show.say(f"after the restart: {pb.ContainerState.Name(status.state)}, started {status.started_at} ns")
        with show.step("Stop and remove: container, pod, image"):
            cri.StopContainer(container_id=made, timeout=2)
            status = cri.ContainerStatus(container_id=made).status
            show.say(f"exit code {status.exit_code}, reason {status.reason}")
            cri.StopPodSandbox(pod_sandbox_id=pod_id)
            cri.RemovePodSandbox(pod_sandbox_id=pod_id)
            cri.RemoveImage(image=pb.ImageSpec(image=image))
            assert not cri.ListPodSandbox().items
            assert not cri.ListContainers().containers
            assert not cri.ListImages().images
            cri.close()
        with show.step("The daemon ends on SIGTERM"):
            show.say(f"exit code {daemon.stop()}")
    finally:
        daemon.clean()
        registry.stop()


def main() -> int:
    isolated()
    show = Show()
    base = tempfile.mkdtemp(prefix="pycrio-demo-", dir="/tmp")
    before = cgroups()
    try:
        run(show, base)
        for path in sorted(cgroups() - before):
            os.rmdir(path)  # the parent that we, as the kubelet would, gave the pod
        with show.step("What is left behind?"):
            left = left_behind(base, before)
            show.say("\n".join(left) or "nothing: no mount, no cgroup, no process")
    finally:
        subprocess.run(["umount", "-l", f"{base}/d/root/overlay"], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(base, ignore_errors=True)
    print(paint(f"\nDone in {time.monotonic() - show.begin:.1f} s.", "1"))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
