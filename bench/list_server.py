"""A daemon's API on a host of fakes with many pods of one container each, for bench_list.py: socket path, number.

Behind the native front like the real one. Prints "ready" and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from pycrio._native.calls import CallServer, Limits
from pycrio._native.front import Front
from pycrio.api.http import Pages
from pycrio.api.image import ImageService
from pycrio.api.runtime import RuntimeService
from pycrio.api.server import MAX_MESSAGE, Server
from pycrio.api.sockets import Listener
from pycrio.flows.containers.query import status
from pycrio.flows.node_state import Node
from pycrio.flows.views import Inspection
from pycrio.model.container import ContainerRecord, ContainerState
from pycrio.model.image import ImageSpec
from pycrio.model.pod import PodRecord
from tests.fakes.node import container_config, fake_node, pod_config

POD_LABELS = ("io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid", "app", "hash")
CONTAINER_ANNOTATIONS = ("hash", "restartCount", "terminationMessagePath", "terminationMessagePolicy", "ports")


def fill(node: Node, count: int) -> None:
    """Pods and containers with the labels and annotations that a kubelet gives them."""
    for i in range(count):
        pod_id, container_id = f"{i:064x}", f"{i + 2**40:064x}"
        labels = {key: f"value-{i}-of-{key}" for key in POD_LABELS}
        config = pod_config(
            f"pod-{i}", labels=labels, annotations={"kubernetes.io/config.seen": "2026", "source": "api"}
        )
        node.pods.put(PodRecord(pod_id, f"k8s_pod-{i}", config, "runc", "", i + 1, "/run/p", ips=("10.0.0.2",)))
        wanted = container_config(
            "app",
            image=ImageSpec(f"sha256:{i:064x}", user_specified_image="registry.example/app:1"),
            labels={**labels, "io.kubernetes.container.name": "app"},
            annotations={f"io.kubernetes.container.{key}": f"{i}" for key in CONTAINER_ANNOTATIONS},
        )
        node.containers.put(
            ContainerRecord(
                id=container_id,
                name=f"k8s_app-{i}",
                pod_id=pod_id,
                config=wanted,
                handler="runc",
                image_id=f"{i:064x}",
                image_ref=f"registry.example/app@sha256:{i:064x}",
                image_name="registry.example/app:1",
                created_at=i + 1,
                bundle="/run/c",
                persist_dir="/var/c",
                rootfs="/merged",
                state=ContainerState.RUNNING,
            )
        )


async def main(path: str, count: int) -> None:
    """Serve until standard input ends."""
    async with fake_node(f"{path}.state") as (node, _):
        fill(node, count)

        async def inspect(ident: str) -> Inspection:
            record = (await status(node, ident, False)).record
            return Inspection(record.name, 1, "", "", 1, {}, {}, {}, "", "", record.pod_id)

        async def nothing(ident: str) -> None:
            return None

        pages = Pages(lambda: "", dict, inspect, nothing, nothing)
        listener = Listener(path)
        limits = Limits(MAX_MESSAGE, MAX_MESSAGE)
        services = [RuntimeService(node), ImageService(node)]
        server = Server(f"{path}.inner", services, pages, lambda table, quick: CallServer(table, limits, quick))
        targets = await server.start()
        with Front(listener.fileno(), targets.grpc, targets.http):
            print("ready", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await server.stop(1)
        listener.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
