"""The main job, shown step by step: `make demo`, as root. Scratch directories, private namespaces, nothing stays.

The same calls that a kubelet makes, against a daemon, a registry, an OCI runtime and CNI plugins that are all real.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from pycrio.api._pb import api_pb2 as pb
from tests.daemon import Daemon
from tests.fixtures_registry import RunningRegistry, busybox_layer, free_port, push_image, start_registry
from tests.isolation import Isolation, mounts_below, short_directory
from tests.system.node import Node, eventually, linux

TTY = sys.stdout.isatty()
PARENT = "/kubepods/pod-of-the-demo"
MEMORY = 64 << 20
PAGE = "hello from a container run by pycrio"
SERVE = f"""
mkdir -p /srv/www; echo '{PAGE}' >/srv/www/index.html
echo "serving on port 80 as $(hostname)"
httpd -f -v -p 80 -h /srv/www 2>&1 &
trap 'echo goodbye; exit 0' TERM
n=0; while :; do n=$((n+1)); echo "tick $n"; sleep 0.2; done
"""


def paint(text: str, code: str) -> str:
    """Colour on a terminal, plain text elsewhere."""
    return f"\x1b[{code}m{text}\x1b[0m" if TTY else text


class Show:
    """Numbered steps, each with the time that it took."""

    def __init__(self) -> None:
        self.number = 0
        self.began = time.monotonic()

    @contextlib.contextmanager
    def step(self, title: str, call: str = "") -> Iterator[None]:
        self.number += 1
        head = paint(f"{self.number:2}. {title}", "1")
        print(f"\n{head}{paint(f'  [{call}]', '2') if call else ''}", flush=True)
        started = time.monotonic()
        yield
        print(paint(f"    took {(time.monotonic() - started) * 1000:.0f} ms", "32"), flush=True)

    def say(self, text: str) -> None:
        for line in text.splitlines():
            print(f"    {line}", flush=True)


def build(registry: RunningRegistry) -> tuple[str, int, int]:
    """An image of a base and five layers, about 60 MB compressed; its reference, bytes and layers."""
    dice = random.Random(1)
    applets = dict.fromkeys(("bin/httpd", "bin/mkdir", "bin/wget", "bin/nc", "bin/head", "bin/cut"), "busybox")
    layers = [{**busybox_layer(), **applets, "srv": None}]
    for number in range(5):
        files = {f"usr/share/l{number}/f{i}": dice.randbytes(60_000) for i in range(200)}
        layers.append(dict(files))
    image = push_image(registry, "demo/web:1", layers, compression="gzip")
    sizes = [layer["size"] for layer in image.document["layers"]]
    return f"{registry.address}/demo/web:1", sum(sizes), len(sizes)


def counted(port: int, name: str) -> float:
    """The sum of a metric over its labels, from the daemon's own metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    rows = [line.rpartition(" ") for line in lines if line.startswith(f"container_runtime_crio_{name}")]
    return sum(float(value) for key, _, value in rows if key.partition("{")[0].endswith(name))


def pull(node: Node, show: Show, name: str, size: int, layers: int, port: int) -> None:
    """Pull, and meanwhile draw how far it is."""
    done = threading.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            node.cri.PullImage(image={"image": name}, deadline=300)
        except BaseException as e:
            failure.append(e)
        finally:
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    shown = -1
    while True:
        ended = done.wait(0.05 if TTY else 0.1)
        have, complete = counted(port, "image_pulls_bytes_total"), counted(port, "image_pulls_layer_size_count")
        part = min(1.0, have / size)
        line = f"{have / 1e6:6.1f} of {size / 1e6:.1f} MB   {min(int(complete), layers)} of {layers} layers"
        if TTY:
            bar = "█" * int(part * 40)
            print(f"\r    {bar:<40} {line}", end="\n" if ended else "", flush=True)
        elif ended or int(part * 4) > shown:
            shown = int(part * 4)
            print(f"    {line}", flush=True)
        if ended:
            break
    thread.join()
    if failure:
        raise failure[0]


def fetch(ip: str) -> str:
    with urllib.request.urlopen(f"http://{ip}/", timeout=10) as answer:
        return answer.read().decode().strip()


def run(show: Show, node: Node, registry: RunningRegistry, port: int) -> None:
    """From the image to its removal."""
    with show.step("An image of several layers is built and pushed to a registry on this machine"):
        name, size, layers = build(registry)
        show.say(f"{name}: {layers} layers, {size / 1e6:.1f} MB compressed")
    with show.step("The daemon starts"):
        node.daemon.start()
    version = node.cri.Version()
    status = node.cri.Status().status
    ready = {c.type: c.status for c in status.conditions}
    show.say(
        f"{version.runtime_name} {version.runtime_version}, CRI {version.runtime_api_version}, pid {node.pid}, {ready}"
    )
    with show.step("The image is pulled, its layers unpacked while they arrive", "PullImage"):
        pull(node, show, name, size, layers, port)
    with show.step("A pod with a network of its own", "RunPodSandbox"):
        pod = node.pod("web", linux=linux(cgroup_parent=PARENT), labels={"app": "web"})
    ip = node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.network.ip
    show.say(f"pod {pod[:12]} has the address {ip}")
    with show.step("A container in it", "CreateContainer, StartContainer"):
        limits = pb.LinuxContainerResources(memory_limit_in_bytes=MEMORY)
        security = pb.LinuxContainerConfig(resources=limits)
        ctr = node.start(pod, "sh", "-c", SERVE, name="server", image=name, linux=security)
    show.say(f"container {ctr[:12]}, process {node.pid_of(ctr)}")
    with show.step("The node asks the pod over HTTP"):
        eventually(lambda: "tick 2" in node.output(ctr))
        show.say(f"GET http://{ip}/  →  {fetch(ip)}")
    with show.step("Its log, as kubectl logs reads it"):
        show.say("\n".join(pathlib.Path(node.status(ctr).log_path).read_text().splitlines()[:4]))
    with show.step("A command in the container", "ExecSync"):
        done = node.exec(ctr, "sh", "-c", "id -un; ps | head -n 4 | cut -c -70; exit 3")
        show.say(f"{bytes(done.stdout).decode()}exit code {done.exit_code}")
    with show.step("What it uses", "ContainerStats, PodSandboxStats"):
        stats = node.cri.ContainerStats(container_id=ctr).stats
        traffic = node.cri.PodSandboxStats(pod_sandbox_id=pod).stats.linux.network
        eth = next(i for i in (traffic.default_interface, *traffic.interfaces) if i.name == "eth0")
        show.say(f"cpu {stats.cpu.usage_core_nano_seconds.value / 1e6:.1f} ms")
        show.say(f"memory {stats.memory.working_set_bytes.value / 1e6:.1f} MB of {MEMORY / 1e6:.1f} MB allowed")
        show.say(f"writable layer {stats.writable_layer.used_bytes.value} bytes")
        show.say(f"eth0 received {eth.rx_bytes.value}, sent {eth.tx_bytes.value} bytes")
    crash(show, node, ctr, ip)
    with show.step("The container is stopped: SIGTERM, and time to say goodbye", "StopContainer"):
        node.cri.StopContainer(container_id=ctr, timeout=5)
        end = node.status(ctr)
        show.say(f"it said {node.output(ctr).splitlines()[-1]!r}, exit code {end.exit_code}, reason {end.reason}")
    with show.step("Everything is removed", "RemovePodSandbox, RemoveImage"):
        node.cri.StopPodSandbox(pod_sandbox_id=pod)
        node.cri.RemovePodSandbox(pod_sandbox_id=pod)
        node.cri.RemoveImage(image={"image": name})
        pods, images = len(node.cri.ListPodSandbox().items), len(node.cri.ListImages().images)
        show.say(f"{pods} pods, {images} images")


def crash(show: Show, node: Node, ctr: str, ip: str) -> None:
    """The daemon is killed; the container does not notice."""
    process = node.pid_of(ctr)
    with show.step(
        "The daemon is killed with SIGKILL; the container goes on, served and logged by nobody but its monitor"
    ):
        node.daemon.kill()
        path = next(pathlib.Path(node.dir, "pods", "web").iterdir())
        lines = len(path.read_text().splitlines())
        show.say(f"GET http://{ip}/  →  {fetch(ip)}")
        eventually(lambda: len(path.read_text().splitlines()) > lines + 2)
        show.say(f"its log has grown from {lines} to {len(path.read_text().splitlines())} lines meanwhile")
    with show.step("A new daemon takes over"):
        node.daemon.start()
        node.cri.close()
        node.cri = node.daemon.client()
        status = node.status(ctr)
        state = pb.ContainerState.Name(status.state)
        show.say(f"container {ctr[:12]} is {state}, still process {node.pid_of(ctr)} (was {process})")
        ticks = [line.text for line in node.log(ctr) if line.text.startswith("tick")]
        whole = ticks == [f"tick {n}" for n in range(1, len(ticks) + 1)]
        show.say(f"its log from tick 1 to {ticks[-1]} is {'without a gap' if whole else 'DAMAGED'}")


def what_is_left(isolation: Isolation, directory: str) -> dict[str, list[str]]:
    """Mounts, namespaces, cgroups, processes, interfaces and port rules that should not be there any more."""
    for top in isolation.hierarchies():
        path = PARENT
        while path != "/":  # the parents are the kubelet's to remove; the kernel refuses if something is in them
            with contextlib.suppress(OSError):
                os.rmdir(top + path)
            path = os.path.dirname(path)
    return {
        "mounts": mounts_below(directory),
        "namespaces": [str(p) for p in pathlib.Path(directory).glob("ns/*ns/*")],
        "cgroups": isolation.cgroups(),
        "processes": list(isolation.processes().values()),
        "interfaces": [n for n in os.listdir("/proc/sys/net/ipv4/conf") if n.startswith("veth")],
        "addresses": [p.name for p in pathlib.Path(directory).glob("ipam/*/10.*")],
    }


def main() -> int:
    """The exit code: 0 when everything worked and nothing is left."""
    if os.geteuid() != 0:
        print("the demonstration makes namespaces, mounts and cgroups: run it as root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    show = Show()
    with Isolation() as isolation:
        directory = short_directory()
        show.say(f"scratch directory {directory}, private mount, network and cgroup namespaces")
        port = free_port()
        daemon = Daemon(directory)
        pathlib.Path(directory, "conf.d", "10-demo.conf").write_text(
            f"[crio.metrics]\nenable_metrics = true\nmetrics_port = {port}\n"
        )
        registry = start_registry(pathlib.Path(directory, "registry"))
        daemon.insecure(registry.address)
        node = Node(daemon, isolation, registry.address)
        try:
            run(show, node, registry, port)
            with show.step("The daemon ends"):
                code = daemon.stop()
                show.say(f"exit code {code}")
        except BaseException:
            print(daemon.log[-3000:], file=sys.stderr)
            raise
        finally:
            node.cri.close()
            registry.stop()
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.clean()
        left = what_is_left(isolation, directory)
        shutil.rmtree(directory)
    took = time.monotonic() - show.began
    if any(left.values()):
        print(paint(f"\nLEFT BEHIND: { {k: v for k, v in left.items() if v} }", "31"))
        return 1
    print(paint(f"\nDone in {took:.1f} s. Nothing is left: " + ", ".join(f"0 {kind}" for kind in left) + ".", "1;32"))
    return 0 if code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
