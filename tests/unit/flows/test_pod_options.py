"""Id maps of pods: what the request, the annotation and the configuration say, in that order."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import pytest

from pycrio.errors import InvalidRequest
from pycrio.flows.pods.options import shm_size, user_maps
from pycrio.flows.pods.run import run
from pycrio.flows.ports import Labels, Options
from pycrio.model.node import Handler
from pycrio.model.pod import PodConfig
from pycrio.model.security import IdMapping, IdMaps, NamespaceMode, NamespaceOptions, PodSecurity, UserNamespace
from tests.fakes.node import fake_node, pod_config
from tests.fakes.surroundings import FakeSecurity

NODE_UIDS, NODE_GIDS = (IdMapping(0, 200000, 1000),), (IdMapping(0, 300000, 1000),)
AUTO = (IdMapping(0, 100000, 65536),)
GIVEN = "private:uidmapping=0:5000:10;gidmapping=0:6000:10"
HANDLER = Handler("runc", "/runc", "/run/runc", "/monitor", allowed_annotations=("userns-mode.crio.io",))
BASE = Options(log_dir="", exits_dir="", pause_image="", pause_command="/pause")
WHOLE_NODE = dataclasses.replace(BASE, uid_map=NODE_UIDS, gid_map=NODE_GIDS)


class Ranges:
    """Ranges that keep a list of what is out."""

    def __init__(self) -> None:
        self.out: list[IdMapping] = []

    def id_ranges(self, mode: str) -> IdMaps:
        maps = AUTO if mode.startswith("auto") else (IdMapping(0, 5000, 10),)
        self.out += maps
        return maps, maps

    def release_ids(self, uid_map: Sequence[IdMapping]) -> None:
        self.out = [m for m in self.out if m not in uid_map]


def asking(mode: str = "", user: int | None = None, userns: UserNamespace | None = None) -> PodConfig:
    security = PodSecurity(NamespaceOptions(userns=userns), run_as_user=user)
    return pod_config(security=security, annotations={"userns-mode.crio.io": mode} if mode else {})


def test_the_configuration_maps_every_pod_that_asks_for_nothing() -> None:
    assert user_maps(asking(), HANDLER, WHOLE_NODE, Ranges()) == (NODE_UIDS, NODE_GIDS)
    assert user_maps(asking(), HANDLER, BASE, Ranges()) == ((), ())
    assert user_maps(asking("private:keep-id=true"), HANDLER, WHOLE_NODE, Ranges()) == (NODE_UIDS, NODE_GIDS)
    assert user_maps(asking("auto"), HANDLER, WHOLE_NODE, Ranges()) == (AUTO, AUTO)


def test_the_request_wins() -> None:
    on_host = UserNamespace(NamespaceMode.NODE, (), ())
    assert user_maps(asking("auto", userns=on_host), HANDLER, WHOLE_NODE, Ranges()) == ((), ())
    own = UserNamespace(NamespaceMode.POD, AUTO, AUTO)
    assert user_maps(asking(userns=own), HANDLER, WHOLE_NODE, Ranges()) == (AUTO, AUTO)


def test_the_annotations_must_be_allowed() -> None:
    strict = dataclasses.replace(HANDLER, allowed_annotations=())
    assert user_maps(asking("auto"), strict, WHOLE_NODE, Ranges()) == (NODE_UIDS, NODE_GIDS)
    big = pod_config(annotations={"shm-size.crio.io": "1Gi"})
    assert shm_size(big, strict, BASE) == 64 << 20
    assert shm_size(big, dataclasses.replace(HANDLER, allowed_annotations=("shm-size.crio.io",)), BASE) == 1 << 30


@pytest.mark.parametrize(
    ("user", "lowest", "complaint"),
    [
        (None, -1, "needs run_as_user"),
        (7, -1, "unless minimum_mappable_uid is configured"),
        (7, 1000, "minimum_mappable_uid is 1000"),
        (0, 5001, "maps uid range 5000-5009 of the host, but minimum_mappable_uid is 5001"),
    ],
)
def test_maps_that_a_pod_may_not_give(user: int | None, lowest: int, complaint: str) -> None:
    ranges = Ranges()
    with pytest.raises(InvalidRequest, match=complaint):
        user_maps(asking(GIVEN, user), HANDLER, dataclasses.replace(BASE, lowest_uid=lowest), ranges)
    assert ranges.out == []


def test_the_bound_of_group_ids() -> None:
    with pytest.raises(InvalidRequest, match="minimum_mappable_gid is 6000"):
        user_maps(asking(GIVEN, 0), HANDLER, dataclasses.replace(BASE, lowest_gid=6000), Ranges())


def test_maps_that_a_pod_may_give() -> None:
    root, other = asking(GIVEN, 0), asking(GIVEN, 5000)
    maps = (IdMapping(0, 5000, 10),)
    assert user_maps(root, HANDLER, BASE, Ranges()) == (maps, maps)
    assert user_maps(other, HANDLER, dataclasses.replace(BASE, lowest_uid=5000, lowest_gid=0), Ranges()) == (maps, maps)


async def test_a_pod_of_a_mapped_node(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path), uid_map=NODE_UIDS, gid_map=NODE_GIDS) as (node, fake):
        pod = node.pods.get(await run(node, pod_config(), ""))
        assert (pod.uid_map, pod.gid_map) == (NODE_UIDS, NODE_GIDS)
        assert "user" in fake.namespaces.pinned.values()


@pytest.mark.effect("crio.runtime.hostnetwork_disable_selinux")
@pytest.mark.parametrize("without", [True, False])
async def test_labels_of_pods_in_the_hosts_network(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, without: bool
) -> None:
    monkeypatch.setattr(FakeSecurity, "labels", lambda self, options, handler: Labels("process", "mount"))
    on_host = PodSecurity(NamespaceOptions(network=NamespaceMode.NODE))
    async with fake_node(str(tmp_path), hostnetwork_disable_selinux=without) as (node, _):
        labels = []
        for security in (on_host, PodSecurity()):
            pod = node.pods.get(await run(node, pod_config(f"pod-{len(labels)}", security=security), ""))
            labels.append((pod.selinux_process_label, pod.selinux_mount_label))
    assert labels == [("", "") if without else ("process", "mount"), ("process", "mount")]
