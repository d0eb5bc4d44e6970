"""What attaching a pod costs beyond the plugins themselves: our ADD and DEL beside bare executions of the same plugins.

    unshare -n python bench/bench_cni.py [--rounds 60] [--plugins /usr/lib/cni]

Run in a network namespace of its own. ``bare`` starts each plugin with posix_spawn, its input and output in memory
files, and waits for it: nothing that calls plugins can be faster. Host ports: a pod with one TCP port, and one without
any.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pycrio._native import ns
from pycrio.drivers.network.cni import Network, Settings
from pycrio.drivers.network.hostport import HostPorts
from pycrio.drivers.network.hostport import Settings as PortSettings
from pycrio.model.pod import PortMapping, Protocol
from pycrio.model.requests import NetworkRequest


def bare(path: str, verb: str, netns: str, plugin: dict[str, Any], prev: object, directory: str) -> Any:
    """One plugin with nothing around it."""
    document = {**plugin, "name": "bench", "cniVersion": "1.0.0"} | ({"prevResult": prev} if prev else {})
    stdin, stdout = os.memfd_create("in"), os.memfd_create("out")
    try:
        os.write(stdin, json.dumps(document).encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "bare", "CNI_NETNS": netns, "CNI_IFNAME": "eth0"}
        env |= {"CNI_PATH": directory, "PATH": os.environ["PATH"]}
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        pid = os.posix_spawn(path, [path], env, file_actions=actions)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError(os.pread(stdout, 1 << 16, 0).decode())
        answer = os.pread(stdout, 1 << 16, 0)
        return json.loads(answer) if answer else None
    finally:
        os.close(stdin)
        os.close(stdout)


def bare_round(chain: list[dict[str, Any]], netns: str, directory: str) -> tuple[float, float]:
    """Seconds of the ADDs and of the DELs."""
    start = time.perf_counter()
    prev: Any = None
    for plugin in chain:
        prev = bare(f"{directory}/{plugin['type']}", "ADD", netns, plugin, prev, directory)
    middle = time.perf_counter()
    for plugin in reversed(chain):
        bare(f"{directory}/{plugin['type']}", "DEL", netns, plugin, prev, directory)
    return middle - start, time.perf_counter() - middle


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


async def cni(name: str, chain: list[dict[str, Any]], rounds: int, directory: str, scratch: Path) -> None:
    """Bare and ours in turn, so that both see the same machine."""
    net_d = scratch / name / "net.d"
    net_d.mkdir(parents=True)
    document = {"cniVersion": "1.0.0", "name": "bench", "plugins": chain}
    (net_d / "10-bench.conflist").write_text(json.dumps(document))
    network = Network(Settings(str(net_d), (directory,), cache_dir=str(scratch / name / "cache")))
    await network.open()
    await network.ready()
    times: dict[str, list[float]] = {"bare ADD": [], "bare DEL": [], "ADD": [], "DEL": []}
    netns = str(scratch / f"{name}.ns")
    ns.create({"net": netns})
    request = NetworkRequest("f" * 64, "pod", "ns", "uid", netns)
    try:
        for index in range(rounds + 3):
            add, delete = bare_round(chain, netns, directory)
            ours = await timed(lambda: network.add(request)), await timed(lambda: network.delete(request))
            if index >= 3:
                for key, value in zip(times, (add, delete, *ours), strict=True):
                    times[key].append(value)
    finally:
        ns.unpin(netns)
        await network.close()
    for verb in ("ADD", "DEL"):
        left, right = statistics.median(times[f"bare {verb}"]), statistics.median(times[verb])
        print(
            f"{name:24} {verb}  bare {left * 1e3:7.2f} ms  ours {right * 1e3:7.2f} ms"
            f"  more {(right - left) * 1e3:5.2f} ms  ratio {right / left:5.2f}"
        )


async def hostports(rounds: int) -> None:
    """A change of rules beside one nft that lists nothing, and pods without ports."""
    driver = HostPorts(PortSettings())
    await driver.sweep([])
    port = [PortMapping(Protocol.TCP, 80, 8080)]
    opened, closed, spent, without = [], [], [], []
    # Another pod's port stays, as on a node in use.
    await driver.add("e" * 64, "other", ["10.78.0.9"], [PortMapping(Protocol.TCP, 80, 8081)])
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(["nft", "list", "tables"], check=True, capture_output=True)
        spent.append(time.perf_counter() - start)
        opened.append(await timed(lambda: driver.add("f" * 64, "pod", ["10.78.0.2"], port)))
        closed.append(await timed(lambda: driver.remove("f" * 64)))
        without.append(await timed(lambda: driver.remove("d" * 64)))
    await driver.sweep([])
    for name, values in (("nft list", spent), ("open", opened), ("close", closed), ("remove, no ports", without)):
        print(f"host port: {name:18} {statistics.median(values) * 1e3:8.4f} ms")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--plugins", default="/usr/lib/cni")
    options = parser.parse_args()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="bench-cni-") as directory:
        scratch = Path(directory)
        ipam = {"type": "host-local", "ranges": [[{"subnet": "10.78.0.0/24"}]], "dataDir": str(scratch / "ipam")}
        bridge = {"type": "bridge", "bridge": "bench78", "isGateway": True, "ipam": ipam}
        ranges = [[{"subnet": "10.79.0.0/24"}]]
        ptp = {"type": "ptp", "ipam": {"type": "host-local", "ranges": ranges, "dataDir": str(scratch / "ipam2")}}
        await cni("ptp", [ptp], options.rounds, options.plugins, scratch)
        await cni("bridge+host-local", [bridge], options.rounds, options.plugins, scratch)
        await cni(
            "bridge+tuning+firewall",
            [bridge, {"type": "tuning"}, {"type": "firewall"}],
            options.rounds,
            options.plugins,
            scratch,
        )
    await hostports(options.rounds)


if __name__ == "__main__":
    asyncio.run(main())
