"""ExecSync beside the OCI runtime's own exec: what the daemon adds to a probe.

    python bench/bench_exec.py [--rounds 100]

One container; rounds alternate between ExecSync of ``true`` over the socket and ``runc exec`` of the same process
document, started the cheapest way there is (posix_spawn by a small process). Milliseconds: medians, p99, and the
difference of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench.compare_cri import Peer, Pods
from bench.peers import isolated, volatile
from tests.cri import Cri
from tests.daemon import Daemon
from tests.fixtures_registry import busybox_layer, push_image, start_registry


def process_of(daemon: Daemon, container: str) -> str:
    """A file with the process document of an exec of ``true`` in a container."""
    bundle = next(p for p in pathlib.Path(daemon.dir, "run").rglob("config.json") if container in str(p))
    process = json.loads(bundle.read_text())["process"] | {"args": ["true"], "terminal": False}
    path = pathlib.Path(daemon.dir, "process.json")
    path.write_text(json.dumps(process))
    return str(path)


def bare(command: list[str]) -> None:
    """Run a program with its output thrown away; raises when it fails."""
    null = os.open("/dev/null", os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
    _, status = os.waitpid(os.posix_spawn(command[0], command, os.environ, file_actions=actions), 0)
    os.close(null)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    isolated()
    base = pathlib.Path(tempfile.mkdtemp(prefix="pe-", dir="/tmp"))
    registry = start_registry(base / "reg")
    push_image(registry, "busybox:1", [busybox_layer()])
    volatile(base / "p", "root", "logs")
    daemon = Daemon(str(base / "p"))
    daemon.insecure(registry.address)
    try:
        daemon.start()
        with Cri(daemon.endpoint, 60) as cri:
            image = f"{registry.address}/busybox:1"
            cri.PullImage(image={"image": image})
            pods = Pods(Peer("pycrio", cri), image, "exec")
            _, container = pods.start()
            runc = shutil.which("runc") or "runc"
            command = [runc, f"--root={daemon.dir}/rt", "exec", "--process", process_of(daemon, container), container]
            taken: dict[str, list[float]] = {"runc exec": [], "ExecSync": []}
            for number in range(args.rounds + 5):
                for name in sorted(taken, reverse=bool(number % 2)):
                    begin = time.perf_counter()
                    if name == "ExecSync":
                        assert cri.ExecSync(container_id=container, cmd=["true"], timeout=10).exit_code == 0
                    else:
                        bare(command)
                    if number >= 5:
                        taken[name].append((time.perf_counter() - begin) * 1e3)
            pods.clean()
        for name, values in taken.items():
            p99 = statistics.quantiles(values, n=100)[98]
            print(f"{name:10} median {statistics.median(values):6.2f} ms  p99 {p99:6.2f} ms")
        difference = statistics.median(taken["ExecSync"]) - statistics.median(taken["runc exec"])
        print(f"ExecSync adds {difference:.2f} ms")
    finally:
        daemon.clean()
        registry.stop()
        subprocess.run(["umount", "-R", "-l", base / "p"], check=False)
        shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
