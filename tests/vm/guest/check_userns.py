"""User namespaces of pods, where kernel and OCI runtime can."""

from __future__ import annotations

import os
import pathlib

import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.system.node import linux, secured
from tests.vm.guest.service import Vm

HANDLER = os.environ.get("HANDLER", "crun")
MAPS = [pb.IDMapping(host_id=1 << 20, container_id=0, length=65536)]


def check_root_of_the_pod_is_nobody_on_the_host(node: Vm, tmp_path: pathlib.Path) -> None:
    features = {h.name: h.features.user_namespaces for h in node.cri.Status().runtime_handlers}
    print("FEATURES", features)
    if not features.get(HANDLER):
        pytest.skip(f"{HANDLER} says that it cannot")
    userns = pb.UserNamespace(mode=pb.NamespaceMode.POD, uids=MAPS, gids=MAPS)
    options = pb.NamespaceOption(userns_options=userns)
    pod = node.pod(handler=HANDLER, linux=linux(userns=userns))
    os.chmod(tmp_path, 0o755)
    (tmp_path / "given").write_text("given\n")
    mounts = [pb.Mount(host_path=str(tmp_path), container_path="/mnt", uidMappings=MAPS, gidMappings=MAPS)]
    security = secured(namespace_options=options)
    box = node.start(pod, "sleep", "100000", linux=security, mounts=mounts)
    assert pathlib.Path(f"/proc/{node.pid_of(box)}").stat().st_uid == 1 << 20
    assert node.exec(box, "cat", "/proc/self/uid_map").stdout.split() == [b"0", b"1048576", b"65536"]
    assert node.exec(box, "sh", "-c", "id -u; touch /root/x /mnt/made && ls -n /mnt").exit_code == 0
    assert (tmp_path / "made").stat().st_uid == 0
    node.remove_pod(pod)
