"""A pull of an image that the node has: by digest, by tag, and of an artifact; median milliseconds.

``python -m bench.bench_pull_again`` prints for each the time that the client waits, the daemon's own CPU time (all its
threads), and how many requests the registry saw per pull. The bar: by digest below 10 ms.
"""

from __future__ import annotations

import glob
import json
import pathlib
import statistics
import sys
import time

from tests.cri import Cri
from tests.daemon import Daemon
from tests.fixtures_registry import RunningRegistry, digest_of, push_image, start_registry
from tests.isolation import Isolation, short_directory

ROUNDS = 60
LAYERS = 12


def own_time(pid: int) -> float:
    """CPU seconds of every thread that lives."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with open(path) as f:
            total += int(f.read().split()[0])
    return total / 1e9


def push_artifact(registry: RunningRegistry) -> str:
    data, empty = b"content" * 1000, b"{}"
    for blob in (data, empty):
        registry.push_blob("again/artifact", blob)
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/x-bench",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(empty), "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": digest_of(data), "size": len(data)}],
    }
    body = json.dumps(document).encode()
    return registry.push_manifest("again/artifact", "1", body, str(document["mediaType"]))


def measure(cri: Cri, daemon: Daemon, registry: RunningRegistry, name: str) -> tuple[float, float, float]:
    """Milliseconds waited (median), CPU milliseconds and requests per pull."""
    assert daemon.process is not None
    log = registry.directory / "log"
    cri.PullImage(image={"image": name})
    waits = []
    requests, before = log.read_text().count('"GET /v2/again/'), own_time(daemon.process.pid)
    for _ in range(ROUNDS):
        start = time.perf_counter()
        cri.PullImage(image={"image": name})
        waits.append(time.perf_counter() - start)
    used = own_time(daemon.process.pid) - before
    asked = log.read_text().count('"GET /v2/again/') - requests
    return statistics.median(waits) * 1e3, used / ROUNDS * 1e3, asked / ROUNDS


def main() -> int:
    with Isolation():
        directory = short_directory()
        daemon = Daemon(directory)
        place = pathlib.Path(directory, "registry")
        registry = start_registry(place)
        try:
            layers = [{f"f{n}": b"x" * 1000} for n in range(LAYERS)]
            image = push_image(registry, "again/image:1", layers)
            artifact = push_artifact(registry)
            daemon.insecure(registry.address)
            daemon.start()
            with daemon.client() as cri:
                for title, name in (
                    ("image by digest", f"{registry.address}/again/image@{image.digest}"),
                    ("image by tag", f"{registry.address}/again/image:1"),
                    ("artifact by digest", f"{registry.address}/again/artifact@{artifact}"),
                    ("artifact by tag", f"{registry.address}/again/artifact:1"),
                ):
                    waited, used, asked = measure(cri, daemon, registry, name)
                    print(f"{title:20} waited {waited:6.2f} ms, own CPU {used:6.2f} ms, requests {asked:.1f}")
        finally:
            registry.stop()
            daemon.clean()
    return 0


if __name__ == "__main__":
    sys.exit(main())
