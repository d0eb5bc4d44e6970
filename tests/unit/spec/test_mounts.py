"""Mounts of requests: options, refusals, order."""

from __future__ import annotations

import pytest

from pycrio.errors import InvalidRequest
from pycrio.model.mount import Mount, OciMount, Propagation
from pycrio.model.security import IdMapping
from pycrio.spec.mounts import DefaultParts, HostView, combine, defaults, document, requested, rootfs_propagation

PRIVATE, SLAVE, SHARED = Propagation.PRIVATE, Propagation.HOST_TO_CONTAINER, Propagation.BIDIRECTIONAL
MAP = (IdMapping(0, 1000, 10),)
ABLE = HostView(
    propagation={"/s": "shared", "/v": "slave"},
    storage_root="/var/lib/containers/storage",
    recursive_read_only=True,
    idmap_mounts=True,
)


@pytest.mark.parametrize(
    ("mount", "source", "options"),
    [
        (Mount("/c", "/p"), "/p", ("rbind", "rprivate", "rw")),
        (Mount("/c", "/p", readonly=True), "/p", ("rbind", "rprivate", "ro")),
        (Mount("/c", "/p", readonly=True, recursive_read_only=True), "/p", ("rbind", "rprivate", "rro")),
        (Mount("/c", "/s", propagation=SLAVE), "/s", ("rbind", "rslave", "rw")),
        (Mount("/c", "/v", propagation=SLAVE), "/v", ("rbind", "rslave", "rw")),
        (Mount("/c", "/s", propagation=SHARED), "/s", ("rbind", "rshared", "rw")),
        (Mount("/c", "/p", mount_options=("noexec", "nosuid")), "/p", ("rbind", "noexec", "nosuid", "rprivate", "rw")),
        (Mount("/c", "/"), "/", ("rbind", "rslave", "rw")),
        (Mount("/c", "/var/lib"), "/var/lib", ("rbind", "rslave", "rw")),
        (Mount("/c", "/var/lib/containers/storage"), "/var/lib/containers/storage", ("rbind", "rslave", "rw")),
        (Mount("/c", "/var/lib/containers/storage/x"), "/var/lib/containers/storage/x", ("rbind", "rprivate", "rw")),
        (Mount("/c", "/var/library"), "/var/library", ("rbind", "rprivate", "rw")),
    ],
)
def test_options(mount: Mount, source: str, options: tuple[str, ...]) -> None:
    assert requested(mount, source, ABLE) == OciMount("/c", "bind", source, options)


@pytest.mark.parametrize(
    ("mount", "source", "host", "text"),
    [
        (Mount("", "/p"), "/p", ABLE, "ContainerPath is empty"),
        (Mount("/c", "/p", propagation=SHARED), "/p", ABLE, "not a shared mount"),
        (Mount("/c", "/v", propagation=SHARED), "/v", ABLE, "not a shared mount"),
        (Mount("/c", "/p", propagation=SLAVE), "/p", ABLE, "not a shared or slave mount"),
        (Mount("/c", "/p", recursive_read_only=True), "/p", ABLE, "requires readonly"),
        (
            Mount("/c", "/s", readonly=True, recursive_read_only=True, propagation=SLAVE),
            "/s",
            ABLE,
            "requires private propagation",
        ),
        (Mount("/c", "/p", readonly=True, recursive_read_only=True), "/p", HostView(), "does not support recursive"),
        (Mount("/c", "/p", uid_mappings=MAP, gid_mappings=MAP), "/p", HostView(), "does not support id-mapped"),
        (Mount("/c", "/p", uid_mappings=MAP), "/p", ABLE, "need uid and gid mappings"),
        (Mount("/c", "/p", mount_options=("suid=1",)), "/p", ABLE, "'suid=1' of /c is not supported"),
    ],
)
def test_refusals(mount: Mount, source: str, host: HostView, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        requested(mount, source, host)


def test_paths_are_normal() -> None:
    assert requested(Mount("/a/../b//c/", "/p"), "/p", ABLE).destination == "/b/c"


def test_id_maps_are_written() -> None:
    found = document(requested(Mount("/c", "/p", uid_mappings=MAP, gid_mappings=MAP), "/p", ABLE))
    assert found["uidMappings"] == found["gidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 10}]
    assert "uidMappings" not in document(OciMount("/x", "tmpfs", "tmpfs"))


def destinations(wanted: list[OciMount]) -> list[str]:
    return [m.destination for m in combine(defaults(DefaultParts(shm="/shm", resolv_conf="/r")), wanted)]


def test_parents_come_first() -> None:
    found = destinations([OciMount(d, "bind", "/") for d in ("/a/b/c", "/a", "/a/b", "/")])
    for number, path in enumerate(found):
        assert not any(later != path and (later == "/" or path.startswith(f"{later}/")) for later in found[number:])
    assert found[0] == "/"


def test_requests_replace_defaults() -> None:
    found = destinations([OciMount("/dev/shm", "bind", "/mine")])
    assert found.count("/dev/shm") == 1
    found = destinations([OciMount("/dev", "bind", "/dev")])
    assert [d for d in found if d.startswith("/dev")] == ["/dev"]
    found = destinations([OciMount("/sys", "bind", "/sys")])
    assert [d for d in found if d.startswith("/sys")] == ["/sys"]
    assert "/etc/resolv.conf" in destinations([OciMount("/etc", "bind", "/etc")])


def test_the_root_s_propagation() -> None:
    one, two, three = Mount("/a"), Mount("/b", propagation=SLAVE), Mount("/c", propagation=SHARED)
    assert [rootfs_propagation(m) for m in ([one], [one, two], [three, two], [])] == ["", "rslave", "rshared", ""]


@pytest.mark.parametrize(
    ("parts", "destination", "kind", "option"),
    [
        (DefaultParts(host_network=True, user_namespace=True), "/sys", "bind", "rro"),
        (DefaultParts(host_network=True), "/sys", "sysfs", "ro"),
        (DefaultParts(privileged=True), "/sys", "sysfs", "rslave"),
        (DefaultParts(cgroup_writable=True), "/sys/fs/cgroup", "cgroup", "rw"),
        (DefaultParts(), "/sys/fs/cgroup", "cgroup", "ro"),
        (DefaultParts(host_ipc=True, user_namespace=True), "/dev/mqueue", "bind", "rbind"),
        (DefaultParts(host_ipc=True), "/dev/mqueue", "mqueue", "nosuid"),
        (DefaultParts(hosts="/etc/hosts", readonly_files=True), "/etc/hosts", "bind", "ro"),
    ],
)
def test_defaults(parts: DefaultParts, destination: str, kind: str, option: str) -> None:
    (found,) = [m for m in defaults(parts) if m.destination == destination]
    assert found.type == kind
    assert option in found.options
