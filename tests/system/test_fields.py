"""Every field of every request does something that a test has seen, or has a reason not to; every field of every answer
has been seen set, or has a reason too. A field of a newer proto without a row fails here."""

from __future__ import annotations

import contextlib
import json
import pathlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.cri import container as container_config
from tests.cri import pod as pod_config
from tests.fixtures_registry import push_image
from tests.isolation import Isolation, mount, unmount
from tests.system import fields
from tests.system.conftest import Pushed, end_node, make_node, system_layer
from tests.system.fields import Act, As, By, Container, Nothing, Pod, Recorder, Row
from tests.system.node import Node, eventually, linux, refused, secured

pytestmark = pytest.mark.system
MIB = 1 << 20
PARENT = "/fields-test/pod1"
HOG = 'BEGIN { x = "0123456789abcdef"; while (1) x = x x }'
CDI = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.example/dev",
    "containerEdits": {"env": ["CDI_SPEC=yes"]},
    "devices": [
        {"name": "one", "containerEdits": {"env": ["CDI_ONE=1"]}},
        {"name": "two", "containerEdits": {"deviceNodes": [{"path": "/dev/cdi", "hostPath": "/dev/full"}]}},
        {"name": "net", "containerEdits": {"netDevices": [{"hostInterfaceName": "ens1f0", "name": "net1"}]}},
    ],
}

# --- rows: containers -------------------------------------------------------------------------------------------------

WINDOWS = Nothing("Windows only")
ECHO = "told back as it was said, as clients expect; nothing is decided by it"
SELINUX = By("unit/drivers/security/test_labels.py::test_parts_of_a_request", "SELinuxOptions")
WIRE = "unit/api/test_wire.py"
LIFE = "system/test_container_life.py"
BOX = "system/test_container.py"
POD = "system/test_pod.py"
CHECKPOINT = "system/test_checkpoint.py"
STREAMS = "system/test_streaming.py"
V2 = "vm/guest/check_cgroups.py"
NRI = "unit/drivers/nri/test_hub.py::test_events_reach_those_who_want_them_in_order"
HERE = "system/test_fields.py::test_answers"

CONTAINER: dict[str, Row] = {
    "metadata.name": Act("full", lambda c: c.status.metadata.name, "full"),
    "metadata.attempt": Act("full", lambda c: c.status.metadata.attempt, 3),
    "image.image": Act("full", lambda c: c.says("cat /srv/app"), "app"),
    "image.annotations": Act("full", lambda c: dict(c.status.image.annotations), {"i": "1"}),
    "image.user_specified_image": Act("full", lambda c: c.status.image.user_specified_image, "name/of:user"),
    "image.runtime_handler": Act("full", lambda c: c.status.image.runtime_handler, "runc"),
    "image.image_ref": Act("full", lambda c: c.status.image.image_ref, "ref"),
    "command": Act("full", lambda c: c.proc("cmdline").split("\0")[0], "tail"),
    "args": Act("full", lambda c: c.proc("cmdline").split("\0")[1:-1], ["-f", "/dev/null"]),
    "working_dir": Act("full", lambda c: c.link("cwd"), "/tmp/a/b"),
    "envs.key": Act("full", lambda c: "KEY" in c.env, True),
    "envs.value": Act("full", lambda c: c.env["KEY"], "a=b c"),
    "mounts.container_path": Act("full", lambda c: "/mnt" in c.mounts, True),
    "mounts.host_path": Act("full", lambda c: c.says("cat /mnt/file"), "on the node"),
    "mounts.readonly": Act("full", lambda c: "ro" in c.mounts["/mnt"].options, True),
    "mounts.selinux_relabel": By("unit/drivers/security/test_labels.py::test_a_tree_is_relabelled", "relabel"),
    "mounts.propagation": Act("full", lambda c: c.mounts["/mnt"].tags.partition(":")[0], "master"),
    "mounts.uidMappings": By("vm/guest/check_userns.py::check_root_of_the_pod_is_nobody_on_the_host"),
    "mounts.gidMappings": By("vm/guest/check_userns.py::check_root_of_the_pod_is_nobody_on_the_host"),
    "mounts.recursive_read_only": By(f"{BOX}::test_recursive_read_only"),
    "mounts.image.image": By(f"{BOX}::test_image_mounts"),
    "mounts.image.annotations": Nothing(ECHO),
    "mounts.image.user_specified_image": Nothing(ECHO),
    "mounts.image.runtime_handler": Nothing(ECHO),
    "mounts.image.image_ref": Nothing("the status has the id of the image that was mounted in its place"),
    "mounts.image_sub_path": By(f"{BOX}::test_image_mounts"),
    "mounts.mount_options": Act("full", lambda c: "noexec" in c.mounts["/mnt"].options, True),
    "devices.container_path": Act("full", lambda c: c.says("stat -c %t:%T /dev/mine"), "1:7"),
    "devices.host_path": By(f"{BOX}::test_devices"),
    "devices.permissions": By(f"{BOX}::test_devices"),
    "labels": Act("full", lambda c: dict(c.status.labels), {"l": "1"}),
    "annotations": Act("full", lambda c: c.status.annotations["a"], "1"),
    "log_path": Act("full", lambda c: pathlib.Path(c.status.log_path).parts[-2:], ("full", "3.log")),
    "stdin": Act("full", lambda c: c.link("fd/0").startswith("pipe:"), True),
    "stdin_once": By(f"{BOX}::test_input_once"),
    "tty": Act("terminal", lambda c: c.link("fd/0"), "/dev/pts/0"),
    "linux.resources.cpu_period": Act("full", lambda c: c.limit("cpu.period"), "50000"),
    "linux.resources.cpu_quota": Act("full", lambda c: c.limit("cpu.quota"), "40000"),
    "linux.resources.cpu_shares": Act("full", lambda c: c.limit("cpu.shares"), "512"),
    "linux.resources.memory_limit_in_bytes": Act("full", lambda c: c.limit("memory.max"), str(64 * MIB)),
    "linux.resources.memory_swap_limit_in_bytes": Act("full", lambda c: c.swap_limit(), 32 * MIB),
    "linux.resources.oom_score_adj": Act("full", lambda c: c.proc("oom_score_adj"), "321\n"),
    "linux.resources.cpuset_cpus": Act("full", lambda c: c.limit("cpuset.cpus"), "0"),
    "linux.resources.cpuset_mems": Act("full", lambda c: c.spec["linux"]["resources"]["cpu"]["mems"], "0"),
    "linux.resources.hugepage_limits": By(f"{V2}::check_limits_are_in_the_files"),
    "linux.resources.unified": By(f"{V2}::check_limits_are_in_the_files"),
    "linux.security_context.capabilities.add_capabilities": Act("full", lambda c: c.capability("CapBnd", 19), True),
    "linux.security_context.capabilities.drop_capabilities": Act("full", lambda c: c.capability("CapBnd", 5), False),
    "linux.security_context.capabilities.add_ambient_capabilities": Act(
        "full", lambda c: c.capability("CapAmb", 10), True
    ),
    "linux.security_context.privileged": Act("privileged", lambda c: "rw" in c.mounts["/sys"].options, True),
    "linux.security_context.namespace_options.network": Nothing("containers are in their pod's network namespace"),
    "linux.security_context.namespace_options.ipc": Nothing("containers are in their pod's ipc namespace"),
    "linux.security_context.namespace_options.pid": Act(
        "privileged", lambda c: c.link("ns/pid") == str(pathlib.Path("/proc/self/ns/pid").readlink()), True
    ),
    "linux.security_context.namespace_options.target_id": By(f"{POD}::test_target_pid_namespace"),
    "linux.security_context.namespace_options.userns_options": Nothing("containers are in their pod's user namespace"),
    "linux.security_context.selinux_options": SELINUX,
    "linux.security_context.run_as_user.value": Act("full", lambda c: c.state["Uid"].split()[0], "1234"),
    "linux.security_context.run_as_group.value": Act("full", lambda c: c.state["Gid"].split()[0], "7"),
    "linux.security_context.run_as_username": By(f"{BOX}::test_user"),
    "linux.security_context.readonly_rootfs": Act("full", lambda c: "ro" in c.mounts["/"].options, True),
    "linux.security_context.supplemental_groups": Act("full", lambda c: "5000" in c.state["Groups"].split(), True),
    "linux.security_context.supplemental_groups_policy": By(f"{BOX}::test_user"),
    "linux.security_context.apparmor_profile": By(
        "vm/guest/check_apparmor.py::check_containers_get_the_default_profile"
    ),
    "linux.security_context.apparmor.profile_type": By("vm/guest/check_apparmor.py::check_unconfined", "profile"),
    "linux.security_context.apparmor.localhost_ref": By(
        "vm/guest/check_apparmor.py::check_a_profile_that_is_not_loaded_is_refused", "profile"
    ),
    "linux.security_context.seccomp_profile_path": Act("terminal", lambda c: c.state["Seccomp"], "2"),
    "linux.security_context.seccomp.profile_type": Act("full", lambda c: c.state["Seccomp"], "2"),
    "linux.security_context.seccomp.localhost_ref": Act(
        "full", lambda c: "Function not implemented" in c.says("chroot / true 2>&1"), True
    ),
    "linux.security_context.no_new_privs": Act("full", lambda c: c.state["NoNewPrivs"], "1"),
    "linux.security_context.masked_paths": Act("full", lambda c: c.says("cat /proc/version"), ""),
    "linux.security_context.readonly_paths": Act("full", lambda c: "ro" in c.mounts["/proc/sys"].options, True),
    "windows": WINDOWS,
    "CDI_devices.name": Act("full", lambda c: (c.env["CDI_SPEC"], c.env["CDI_ONE"]), ("yes", "1")),
    "stop_signal": By(f"{LIFE}::test_stop_signals"),
}

# --- rows: pods -------------------------------------------------------------------------------------------------------

NOBODY_THERE = "the pause process, if there is one, has an empty read-only root, no groups and no capabilities"
PODS: dict[str, Row] = {
    "metadata.name": Act("full", lambda p: p.status.metadata.name, "full"),
    "metadata.uid": Act("full", lambda p: p.status.metadata.uid, "uid-full"),
    "metadata.namespace": Act("full", lambda p: p.status.metadata.namespace, "elsewhere"),
    "metadata.attempt": Act("full", lambda p: p.status.metadata.attempt, 2),
    "hostname": Act("full", lambda p: p.box.says("hostname"), "a-name"),
    "log_directory": By(f"{POD}::test_log_directories"),
    "dns_config.servers": By(f"{POD}::test_hostname_and_resolv_conf"),
    "dns_config.searches": By(f"{POD}::test_hostname_and_resolv_conf"),
    "dns_config.options": By(f"{POD}::test_hostname_and_resolv_conf"),
    "port_mappings.protocol": By(f"{POD}::test_host_ports"),
    "port_mappings.container_port": By(f"{POD}::test_host_ports"),
    "port_mappings.host_port": By(f"{POD}::test_host_ports"),
    "port_mappings.host_ip": By("system/test_network.py::test_host_addresses_restrict_and_come_first", "127.0.0.1"),
    "labels": By(f"{POD}::test_labels_and_annotations_come_back_verbatim"),
    "annotations": By(f"{POD}::test_labels_and_annotations_come_back_verbatim"),
    "linux.cgroup_parent": Act("full", lambda p: f":{PARENT}/" in p.box.proc("cgroup"), True),
    "linux.sysctls": Act("full", lambda p: p.box.says("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "7"),
    "linux.overhead": By(NRI, "overhead_linux_resources"),
    "linux.resources": By(NRI, "linux_resources"),
    "linux.security_context.namespace_options.network": By(f"{POD}::test_host_network"),
    "linux.security_context.namespace_options.pid": By(f"{POD}::test_host_pid_and_ipc"),
    "linux.security_context.namespace_options.ipc": By(f"{POD}::test_host_pid_and_ipc"),
    "linux.security_context.namespace_options.target_id": Nothing("a pod is made before there is anything to join"),
    "linux.security_context.namespace_options.userns_options": By(f"{POD}::test_user_namespace"),
    "linux.security_context.selinux_options": SELINUX,
    "linux.security_context.run_as_user": By("unit/flows/test_pod_options.py::test_maps_that_a_pod_may_not_give"),
    "linux.security_context.run_as_group": Nothing(f"refused without a user; {NOBODY_THERE}"),
    "linux.security_context.readonly_rootfs": Nothing(NOBODY_THERE),
    "linux.security_context.supplemental_groups": Nothing(NOBODY_THERE),
    "linux.security_context.supplemental_groups_policy": Nothing(NOBODY_THERE),
    "linux.security_context.privileged": By(f"{BOX}::test_privileged_needs_a_privileged_pod"),
    "linux.security_context.seccomp_profile_path": Act("old", lambda p: p.infra["Seccomp"], "0"),
    "linux.security_context.seccomp.profile_type": Act("full", lambda p: p.filter["defaultAction"], "SCMP_ACT_LOG"),
    "linux.security_context.seccomp.localhost_ref": Act("full", lambda p: p.filter["defaultAction"], "SCMP_ACT_LOG"),
    "linux.security_context.apparmor": Nothing(f"CRI-O sets none for its pause process either; {NOBODY_THERE}"),
    "windows": WINDOWS,
}

# --- rows: the other calls --------------------------------------------------------------------------------------------

UPDATE = "UpdateContainerResourcesRequest"
LISTED = "system/test_image.py::test_list_and_what_images_say"
ONLY_NAME = Nothing("one image is one, whatever else a request says of it: the name alone finds it")
ROWS: dict[str, Row] = {
    **{f"CreateContainerRequest.config.{path}": row for path, row in CONTAINER.items()},
    **{f"RunPodSandboxRequest.config.{path}": row for path, row in PODS.items()},
    "VersionRequest.version": Nothing("what the caller speaks; the answer is the same to all"),
    "RunPodSandboxRequest.runtime_handler": By(f"{CHECKPOINT}::test_a_runtime_without_criu", "handler"),
    "StopPodSandboxRequest.pod_sandbox_id": By(f"{POD}::test_stop_and_remove_bear_repetition"),
    "RemovePodSandboxRequest.pod_sandbox_id": By(f"{POD}::test_stop_and_remove_bear_repetition"),
    "PodSandboxStatusRequest.pod_sandbox_id": By(f"{POD}::test_host_network"),
    "PodSandboxStatusRequest.verbose": By(HERE),
    "ListPodSandboxRequest.filter.id": By(f"{POD}::test_list_filters"),
    "ListPodSandboxRequest.filter.state": By(f"{POD}::test_list_filters"),
    "ListPodSandboxRequest.filter.label_selector": By(f"{POD}::test_list_filters"),
    "StreamPodSandboxesRequest.filter": As("ListPodSandboxRequest.filter"),
    "CreateContainerRequest.pod_sandbox_id": By("system/test_bad_requests.py::test_containers_in_no_pod"),
    "CreateContainerRequest.sandbox_config": Nothing("repeats what made the pod; the pod is asked instead"),
    "StartContainerRequest.container_id": By(f"{LIFE}::test_states"),
    "StopContainerRequest.container_id": By(f"{LIFE}::test_stop_kills_after_its_timeout"),
    "StopContainerRequest.timeout": By(f"{LIFE}::test_stop_kills_after_its_timeout"),
    "RemoveContainerRequest.container_id": By(f"{LIFE}::test_removal"),
    "ListContainersRequest.filter.id": By(f"{LIFE}::test_lists"),
    "ListContainersRequest.filter.state": By(f"{LIFE}::test_lists"),
    "ListContainersRequest.filter.pod_sandbox_id": By(f"{LIFE}::test_lists"),
    "ListContainersRequest.filter.label_selector": By(f"{LIFE}::test_lists"),
    "StreamContainersRequest.filter": As("ListContainersRequest.filter"),
    "ContainerStatusRequest.container_id": By(f"{LIFE}::test_states"),
    "ContainerStatusRequest.verbose": By(HERE),
    f"{UPDATE}.container_id": By(f"{BOX}::test_limits_on_the_cgroup_and_their_update"),
    f"{UPDATE}.linux.cpu_period": Act("updated", lambda c: c.limit("cpu.period"), "20000"),
    f"{UPDATE}.linux.cpu_quota": Act("updated", lambda c: c.limit("cpu.quota"), "10000"),
    f"{UPDATE}.linux.cpu_shares": Act("updated", lambda c: c.limit("cpu.shares"), "333"),
    f"{UPDATE}.linux.memory_limit_in_bytes": Act("updated", lambda c: c.limit("memory.max"), str(32 * MIB)),
    f"{UPDATE}.linux.memory_swap_limit_in_bytes": Act("updated", lambda c: c.swap_limit(), 8 * MIB),
    f"{UPDATE}.linux.oom_score_adj": Nothing("fixed when the process starts; kubelets repeat what it was"),
    f"{UPDATE}.linux.cpuset_cpus": Act("updated", lambda c: c.limit("cpuset.cpus"), "1"),
    f"{UPDATE}.linux.cpuset_mems": Act("updated", lambda c: c.status.resources.linux.cpuset_mems, "0"),
    f"{UPDATE}.linux.hugepage_limits": By(f"{V2}::check_huge_pages_are_counted_and_limited"),
    f"{UPDATE}.linux.unified": By(f"{V2}::check_limits_change_and_stay_changed"),
    f"{UPDATE}.windows": WINDOWS,
    f"{UPDATE}.annotations": Nothing("for experiments of runtimes; no OCI runtime's update takes any"),
    "ReopenContainerLogRequest.container_id": By(f"{LIFE}::test_log_rotation"),
    "ExecSyncRequest.container_id": By(f"{LIFE}::test_exec_that_cannot_be", "NOBODY"),
    "ExecSyncRequest.cmd": By(f"{LIFE}::test_exec", "exec"),
    "ExecSyncRequest.timeout": By(f"{LIFE}::test_exec_timeout_kills_the_tree"),
    "ExecRequest.container_id": By(f"{STREAMS}::test_exec"),
    "ExecRequest.cmd": By(f"{STREAMS}::test_exec"),
    "ExecRequest.tty": By(f"{STREAMS}::test_terminal"),
    "ExecRequest.stdin": By(f"{STREAMS}::test_large_transfer_both_ways"),
    "ExecRequest.stdout": By(f"{STREAMS}::test_exec"),
    "ExecRequest.stderr": By(f"{STREAMS}::test_exec"),
    "AttachRequest.container_id": By(f"{STREAMS}::test_attach_and_stdin_once"),
    "AttachRequest.stdin": By(f"{STREAMS}::test_attach_and_stdin_once"),
    "AttachRequest.tty": By(f"{STREAMS}::test_terminal_of_a_container"),
    "AttachRequest.stdout": By(f"{STREAMS}::test_several_clients_see_the_same"),
    "AttachRequest.stderr": By(f"{STREAMS}::test_several_clients_see_the_same"),
    "PortForwardRequest.pod_sandbox_id": By(f"{STREAMS}::test_port_forward_to_pods_that_are_not_there"),
    "PortForwardRequest.port": By(f"{STREAMS}::test_port_forward_over_websocket"),
    "ContainerStatsRequest.container_id": By(f"{LIFE}::test_stats"),
    "ListContainerStatsRequest.filter.id": By(f"{LIFE}::test_stats"),
    "ListContainerStatsRequest.filter.pod_sandbox_id": By(HERE),
    "ListContainerStatsRequest.filter.label_selector": By(f"{LIFE}::test_stats"),
    "StreamContainerStatsRequest.filter": As("ListContainerStatsRequest.filter"),
    "PodSandboxStatsRequest.pod_sandbox_id": By(f"{POD}::test_pod_stats"),
    "ListPodSandboxStatsRequest.filter.id": By(f"{POD}::test_pod_stats"),
    "ListPodSandboxStatsRequest.filter.label_selector": By(HERE),
    "StreamPodSandboxStatsRequest.filter": As("ListPodSandboxStatsRequest.filter"),
    "UpdateRuntimeConfigRequest": Nothing(
        "the network of pods is the CNI configuration's; CRI-O takes no notice either"
    ),
    "StatusRequest.verbose": By(HERE),
    "CheckpointContainerRequest.container_id": By(f"{CHECKPOINT}::test_what_cannot_be_checkpointed"),
    "CheckpointContainerRequest.location": By(f"{CHECKPOINT}::test_an_archive_holds_what_tools_expect"),
    "CheckpointContainerRequest.timeout": Nothing("as with CRI-O: a dump that is cut off would break the container"),
    "CheckpointPodRequest": By(f"{CHECKPOINT}::test_members_of_a_pod_checkpoint_are_checked", "CheckpointPod"),
    "RestorePodRequest.checkpoint_path": By(f"{CHECKPOINT}::test_a_pod_goes_on"),
    "RestorePodRequest.config": As("RunPodSandboxRequest.config"),
    "RestorePodRequest.runtime_handler": By(f"{CHECKPOINT}::test_a_pod_goes_on"),
    "RestorePodRequest.options": By(f"{CHECKPOINT}::test_a_pod_goes_on"),
    "RestorePodRequest.container_configs": As("CreateContainerRequest.config"),
    "UpdatePodSandboxResourcesRequest.pod_sandbox_id": By("system/test_bad_requests.py::test_ids_of_nothing"),
    "UpdatePodSandboxResourcesRequest.overhead": By(NRI, "overhead_linux_resources"),
    "UpdatePodSandboxResourcesRequest.resources": By(NRI, "linux_resources"),
    "ListImagesRequest.filter.image.image": By(LISTED),
    "ListImagesRequest.filter.image": ONLY_NAME,
    "StreamImagesRequest.filter": As("ListImagesRequest.filter"),
    "ImageStatusRequest.image.image": By("system/test_image.py::test_pull_by_tag_and_by_digest"),
    "ImageStatusRequest.image.user_specified_image": By(HERE),
    "ImageStatusRequest.image.runtime_handler": By(HERE),
    "ImageStatusRequest.image": ONLY_NAME,
    "ImageStatusRequest.verbose": By(LISTED),
    "PullImageRequest.image.image": By("system/test_image.py::test_pull_by_tag_and_by_digest"),
    "PullImageRequest.image": Nothing("the name alone says what to pull; one store serves all handlers"),
    "PullImageRequest.auth.username": By("system/test_image.py::test_logins"),
    "PullImageRequest.auth.password": By("system/test_image.py::test_logins"),
    "PullImageRequest.auth.auth": By("system/test_image.py::test_logins"),
    "PullImageRequest.auth.server_address": Nothing("the request is about one image: whom it is for is plain"),
    "PullImageRequest.auth.identity_token": By("unit/drivers/registry/test_auth.py::test_request"),
    "PullImageRequest.auth.registry_token": By(
        "unit/drivers/registry/test_auth.py::test_a_registry_token_that_no_header_can_carry"
    ),
    "PullImageRequest.sandbox_config.metadata.namespace": By(
        "unit/drivers/registry/test_auth.py::test_namespaced_file_is_used_up"
    ),
    "PullImageRequest.sandbox_config.linux.cgroup_parent": By(
        "unit/flows/test_pull_group.py::test_the_group", "parent"
    ),
    "PullImageRequest.sandbox_config": Nothing(
        "namespace (credentials, policy) and cgroup matter to a pull, nothing else"
    ),
    "RemoveImageRequest.image.image": By("system/test_image.py::test_removal_by_name_and_by_id"),
    "RemoveImageRequest.image": ONLY_NAME,
}


def test_every_field_of_a_request_has_its_row() -> None:
    assert fields.faults(ROWS) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"VersionRequest.version": None}, "VersionRequest.version: no row"),
        ({"VersionRequest.verse": Nothing("")}, "VersionRequest.verse: there is no such field"),
        ({"UpdateRuntimeConfigRequest.runtime_config": Nothing("")}, "UpdateRuntimeConfigRequest: rows below"),
        ({"VersionRequest.version": By("system/test_pod.py::test_nothing", "POD")}, "no test test_nothing"),
        ({"VersionRequest.version": By("system/none.py::test_nothing")}, "no file tests/system/none.py"),
        ({"VersionRequest.version": By(f"{POD}::test_shm_size", "nonsense")}, "does not know nonsense"),
        ({"StreamContainersRequest.filter": As("ListPodSandboxRequest.filter")}, "is not the same message"),
    ],
)
def test_a_table_with_a_gap_is_found(change: dict[str, Row | None], fault: str) -> None:
    rows = {path: row for path, row in {**ROWS, **change}.items() if row is not None}
    (found,) = fields.faults(rows)
    assert fault in found


# --- what requests do -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    def prepare(directory: str) -> str:
        path = pathlib.Path(directory, "net.d", "10-test.conflist")  # addresses of both families
        one = '[{"subnet":"10.99.0.0/16"}]'
        assert one in path.read_text()
        path.write_text(path.read_text().replace(one, f'{one},[{{"subnet":"fd00:99::/64"}}]'))
        pathlib.Path(directory, "cdi", "vendor.json").write_text(json.dumps(CDI))
        return f'[crio.image]\npinned_images = ["{images.busy}"]\n'

    node = make_node(images, isolation, prepare=prepare)
    yield node
    end_node(node)


@dataclass
class Made:
    """Requests by name, and what each of them made."""

    node: Node
    images: Pushed
    asked: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)

    def pod(self, name: str, config: Any) -> str:
        self.asked[f"pod {name}"] = pb.RunPodSandboxRequest(config=config)
        ident = str(self.node.cri.RunPodSandbox(self.asked[f"pod {name}"]).pod_sandbox_id)
        self.pods[name] = ident
        return ident

    def container(self, name: str, pod: str, config: Any, start: bool = True) -> Container:
        request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=self.node.config_of(pod))
        self.asked[f"container {name}"] = request
        ident = str(self.node.cri.CreateContainer(request).container_id)
        self.found[f"container {name}"] = made = Container(self.node, ident)
        if start:
            self.node.cri.StartContainer(container_id=ident)
        return made


def full_pod(node: Node) -> Any:
    profile = pathlib.Path(node.dir, "log.json")
    profile.write_text('{"defaultAction":"SCMP_ACT_LOG"}')
    seccomp = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=str(profile))
    part = linux(pid="POD", cgroup_parent=PARENT, sysctls={"net.ipv4.ip_unprivileged_port_start": "7"}, seccomp=seccomp)
    return pod_config("full", namespace="elsewhere", attempt=2, hostname="a-name", linux=part)


def full_container(made: Made, source: pathlib.Path) -> Any:
    profile = pathlib.Path(made.node.dir, "no-chroot.json")
    rule = {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    limits = pb.LinuxContainerResources(
        cpu_period=50_000,
        cpu_quota=40_000,
        cpu_shares=512,
        memory_limit_in_bytes=64 * MIB,
        memory_swap_limit_in_bytes=96 * MIB,
        oom_score_adj=321,
        cpuset_cpus="0",
        cpuset_mems="0",
    )
    security = secured(
        resources=limits,
        capabilities=pb.Capability(
            add_capabilities=["SYS_PTRACE"],
            drop_capabilities=["KILL"],
            add_ambient_capabilities=["NET_BIND_SERVICE"],
        ),
        run_as_user=pb.Int64Value(value=1234),
        run_as_group=pb.Int64Value(value=7),
        supplemental_groups=[5000],
        readonly_rootfs=True,
        no_new_privs=True,
        masked_paths=["/proc/version"],
        readonly_paths=["/proc/sys"],
        seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=str(profile)),
    )
    mounts = [
        pb.Mount(
            container_path="/mnt",
            host_path=str(source),
            readonly=True,
            propagation=pb.PROPAGATION_HOST_TO_CONTAINER,
            mount_options=["noexec"],
        )
    ]
    config = container_config(
        "full",
        made.images.app,
        "tail",
        attempt=3,
        args=["-f", "/dev/null"],
        working_dir="/tmp/a/b",
        envs=[pb.KeyValue(key="KEY", value=b"a=b c")],
        mounts=mounts,
        devices=[pb.Device(container_path="/dev/mine", host_path="/dev/full", permissions="r")],
        labels={"l": "1"},
        annotations={"a": "1", "cdi.k8s.io/test": "vendor.example/dev=two"},
        log_path="full/3.log",
        stdin=True,
        linux=security,
        CDI_devices=[pb.CDIDevice(name="vendor.example/dev=one")],
    )
    more = pb.ImageSpec(annotations={"i": "1"}, user_specified_image="name/of:user", runtime_handler="runc")
    config.image.MergeFrom(more)
    config.image.image_ref = "ref"
    return config


@pytest.fixture(scope="module")
def made(node: Node, images: Pushed) -> Iterator[Made]:
    """A bare pod and container, and those that the rows are about."""
    source = pathlib.Path(node.dir, "source")
    source.mkdir()
    mount("tmpfs", source, "tmpfs")
    mount("none", source, flags=0x100000)  # shared
    (source / "file").write_text("on the node\n")
    made = Made(node, images)
    bare = made.pod("bare", pod_config("bare", linux=linux(pid="POD")))
    made.pod("old", pod_config("old", linux=linux(pid="POD", seccomp_profile_path="unconfined")))
    made.pod("full", full_pod(node))
    for name, pod in made.pods.items():
        box = made.container(f"in {name}", pod, container_config("box", images.busy, "sleep", "1000"))
        made.found[f"pod {name}"] = Pod(node, pod, box)
    bare = made.pod("containers", pod_config("containers", linux=linux(privileged=True)))
    made.container("bare", bare, container_config("bare", images.busy, "sleep", "1000"))
    made.container("full", bare, full_container(made, source))
    part = secured(seccomp_profile_path="runtime/default")
    made.container("terminal", bare, container_config("t", images.busy, "sleep", "1000", tty=True, linux=part))
    part = secured(privileged=True, pid="NODE")
    made.container("privileged", bare, container_config("p", images.busy, "sleep", "1000", linux=part))
    limits = pb.LinuxContainerResources(
        memory_limit_in_bytes=32 * MIB,
        memory_swap_limit_in_bytes=40 * MIB,
        cpu_shares=333,
        cpu_period=20_000,
        cpu_quota=10_000,
        cpuset_cpus="1",
        cpuset_mems="0",
    )
    box = made.container("updated", bare, container_config("u", images.busy, "sleep", "1000"))
    made.asked["container updated"] = pb.UpdateContainerResourcesRequest(container_id=box.id, linux=limits)
    node.cri.UpdateContainerResources(made.asked["container updated"])
    yield made
    for item in node.cri.ListPodSandbox().items:
        node.remove_pod(item.id)
    for top in node.isolation.hierarchies():
        for group in (PARENT, PARENT.rpartition("/")[0]):
            pathlib.Path(f"{top}{group}").rmdir()  # the parent is the caller's own, and empty
    unmount(source)
    source.rmdir()


ACTS = {path: row for path, row in ROWS.items() if isinstance(row, Act)}


@pytest.mark.parametrize("path", ACTS)
def test_what_a_field_does(made: Made, path: str) -> None:
    row = ACTS[path]
    kind = "pod" if path.startswith("RunPodSandbox") else "container"
    asked, thing = made.asked[f"{kind} {row.request}"], made.found[f"{kind} {row.request}"]
    assert fields.given(asked, path.partition(".")[2]), "the request does not say it"
    assert row.look(thing) == row.found
    with contextlib.suppress(KeyError, FileNotFoundError):  # nothing of the kind is there
        assert row.look(made.found[f"{kind} bare"]) != row.found, "it is so without the field"


def test_both_forms_of_cdi_devices(made: Made) -> None:
    """The field and the annotation; a device without an owner of its own belongs to the process's user."""
    assert made.found["container full"].says("stat -c %t:%T:%u:%g /dev/cdi") == "1:7:1234:7"
    assert not made.found["container bare"].says("ls /dev/cdi 2>/dev/null")


def test_an_interface_that_the_runtime_cannot_move(made: Made) -> None:
    """Debian's runc would leave it out without a word."""
    with refused(grpc.StatusCode.UNIMPLEMENTED, "network interface ens1f0 of a CDI device", "install a newer"):
        made.node.start(made.node.pod(), "true", CDI_devices=[{"name": "vendor.example/dev=net"}])


# --- what answers say -------------------------------------------------------------------------------------------------

PRESSURE = By(f"{V2}::check_stats_have_pressure", "psi")
SIGNALS = By(f"{WIRE}::test_signal_round_trip", "signals")
NO_STATE = Nothing("the daemon always knows: what it cannot find any more has ended")
UNSEEN: dict[str, Row] = {
    "ContainerStatus.state=CONTAINER_UNKNOWN": NO_STATE,
    "ContainerStatus.message": By("system/test_annotations.py::test_a_container_is_stopped_after_forbidden_calls"),
    "Container.state=CONTAINER_UNKNOWN": NO_STATE,
    **{f"ContainerStatus.stop_signal={name}": SIGNALS for name in pb.Signal.DESCRIPTOR.values_by_name},
    "RestorePodResponse": By(f"{CHECKPOINT}::test_a_pod_goes_on", "restored_containers"),
    "RestoredContainer": By(f"{CHECKPOINT}::test_a_pod_goes_on", "restored_containers"),
    "LinuxRuntimeConfiguration.cgroup_driver=SYSTEMD": By(
        "vm/guest/check_unit.py::check_the_status_command_reaches_the_daemon", "systemd"
    ),
    "LinuxContainerResources.unified": By(f"{V2}::check_limits_are_in_the_files"),
    "Mount.uidMappings": By(f"{WIRE}::test_mount_round_trip", "Mount"),
    "Mount.gidMappings": By(f"{WIRE}::test_mount_round_trip", "Mount"),
    "CpuUsage.psi": PRESSURE,
    "MemoryUsage.psi": PRESSURE,
    "IoUsage": PRESSURE,
    "ContainerStats.io": PRESSURE,
    "LinuxPodSandboxStats.io": PRESSURE,
    "PsiStats": PRESSURE,
    "PsiData": PRESSURE,
    **{
        f"NamespaceOption.{kind}=TARGET": Nothing("a pod has nothing to join; of containers no answer tells the modes")
        for kind in ("network", "pid", "ipc")
    },
    "NamespaceOption.network=CONTAINER": Nothing("no kubelet asks for it: a pod's containers share its network"),
    "NamespaceOption.ipc=CONTAINER": Nothing("no kubelet asks for it: a pod's containers share its ipc namespace"),
    "NamespaceOption.target_id": Nothing("of containers, whose modes no answer tells"),
    "RuntimeHandlerFeatures.user_namespaces": By(
        "vm/guest/check_userns.py::check_root_of_the_pod_is_nobody_on_the_host", "user_namespaces"
    ),
    "UserNamespace.mode=CONTAINER": By(f"{POD}::test_user_namespace", "CONTAINER"),
    "UserNamespace.mode=TARGET": By(f"{WIRE}::test_bad_pods", "userns_options"),
}


def unseen(field: str) -> Row | None:
    """Why a field, or a value of one, may be missing."""
    message, _, rest = field.partition(".")
    if message.startswith("Windows") or rest == "windows":
        return WINDOWS
    return UNSEEN.get(field) or UNSEEN.get(message)


def dying(recorder: Recorder, pod: str, *command: str, **more: Any) -> Any:
    """A container's status after its end."""
    ident = recorder.node.start(pod, *command, **more)
    recorder.node.ended(ident)
    return recorder.ContainerStatus(container_id=ident).status


@contextlib.contextmanager
def listening(recorder: Recorder, until: Callable[[Any], bool]) -> Iterator[None]:
    """Note events until the one that is waited for has come."""
    stream = recorder.node.cri.GetContainerEvents(deadline=120)
    came = threading.Event()

    def listen() -> None:
        with contextlib.suppress(grpc.RpcError):  # that it was ended is looked at below
            for event in stream:
                recorder.note(event)
                if until(event):
                    came.set()
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    eventually(lambda: recorder.node.cri.ListPodSandbox() is not None)  # the stream's request travels before this one
    try:
        yield
        assert came.wait(30)
    finally:
        stream.cancel()
        thread.join()


def test_answers(node: Node, images: Pushed, made: Made) -> None:
    r = Recorder(node)
    gone: list[str] = []
    with listening(r, lambda e: e.container_event_type == pb.CONTAINER_DELETED_EVENT and e.container_id in gone):
        of_node(r, images)
        pod = pods(r)
        containers(r, pod, images)
        readings(r, pod)
        for call, more in (("Exec", {"cmd": ["true"]}), ("Attach", {})):
            assert getattr(r, call)(container_id=made.found["container bare"].id, stdout=True, **more).url
        assert r.PortForward(pod_sandbox_id=pod, port=[80]).url
        # To be seen while they are gone:
        ended = node.start(pod, "true")
        gone.append(ended)
        node.ended(ended)
        r.RemoveContainer(container_id=ended)
    r.StopPodSandbox(pod_sandbox_id=pod)
    r.PodSandboxStatus(pod_sandbox_id=pod)
    r.ListPodSandbox()
    every = fields.answer_fields()
    assert r.seen <= every | {f.partition("=")[0] for f in every}
    assert sorted(f for f in every - r.seen if unseen(f) is None) == []
    # Neither may a reason outlive what it was for. (What is proved elsewhere may be there on other hosts.)
    assert sorted(f for f, row in UNSEEN.items() if f in r.seen and isinstance(row, Nothing)) == []
    assert [fault for f, row in UNSEEN.items() if isinstance(row, By) for fault in fields.missing(row, f)] == []


def of_node(r: Recorder, images: Pushed) -> None:
    """The node and its images."""
    node = r.node
    assert r.Version(version="v1").runtime_name
    assert r.Status().info == {}
    assert "config" in r.Status(verbose=True).info
    conf = pathlib.Path(node.dir, "net.d", "10-test.conflist")
    text = conf.read_text()
    conf.unlink()
    eventually(lambda: not all(c.status for c in r.Status().status.conditions))
    conf.write_text(text)
    eventually(lambda: all(c.status for c in r.Status().status.conditions))
    r.RuntimeConfig()
    r.UpdateRuntimeConfig(runtime_config={"network_config": {"pod_cidr": "10.0.0.0/8"}})
    push_image(images.registry, "fields/numbered:1", [system_layer()], config={"User": "1000:5", "Cmd": ["true"]})
    name = f"{images.registry.address}/fields/numbered:1"
    r.PullImage(image={"image": name})
    asked = {"image": name, "user_specified_image": "as/written", "runtime_handler": "runc"}
    found = r.ImageStatus(image=asked, verbose=True)
    assert (found.image.spec.user_specified_image, found.image.spec.runtime_handler) == ("as/written", "runc")
    assert found.info
    r.ListImages()
    r.StreamImages()
    r.RemoveImage(image={"image": name})
    r.ImageFsInfo()
    r.ListMetricDescriptors()


def pods(r: Recorder) -> str:
    """Pods of all kinds; one for containers."""
    maps = [pb.IDMapping(container_id=c, host_id=200_000 + c, length=1000) for c in (0, 1000)]
    mapped = pb.UserNamespace(mode=pb.POD, uids=maps, gids=maps)
    pod = ""
    for name, part in (
        ("host", linux(network="NODE", pid="NODE", ipc="NODE", userns=pb.UserNamespace(mode=pb.NODE))),
        ("mapped", linux(pid="POD", userns=mapped)),
        ("plain", linux(privileged=True, cgroup_parent=PARENT)),
    ):
        config = pod_config(f"answers-{name}", attempt=1, linux=part, labels={"of": "answers"}, annotations={"a": "1"})
        pod = str(r.RunPodSandbox(config=config, runtime_handler="runc").pod_sandbox_id)
        assert r.PodSandboxStatus(pod_sandbox_id=pod).info == {}
        assert r.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info
    r.UpdatePodSandboxResources(pod_sandbox_id=pod, overhead={"cpu_shares": 2}, resources={"cpu_shares": 3})
    r.ListPodSandbox()
    r.StreamPodSandboxes()
    return pod


def containers(r: Recorder, pod: str, images: Pushed) -> None:
    """Containers in every state, of every fate."""
    node = r.node
    limits = pb.LinuxContainerResources(
        cpu_period=100_000,
        cpu_quota=50_000,
        cpu_shares=512,
        memory_limit_in_bytes=24 * MIB,
        memory_swap_limit_in_bytes=32 * MIB,
        oom_score_adj=500,
        cpuset_cpus="0",
        cpuset_mems="0",
        hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=1 << 21)],
    )
    shared = pathlib.Path(node.dir, "source")
    mounts = [
        pb.Mount(container_path=f"/{kind}", host_path=str(shared), propagation=kind, selinux_relabel=True)
        for kind in pb.MountPropagation.values()
    ]
    mounts[0].MergeFrom(pb.Mount(readonly=True, recursive_read_only=True, mount_options=["noexec"]))
    image = pb.ImageSpec(image=images.app, annotations={"a": "1"}, user_specified_image="u", runtime_handler="runc")
    mounts.append(pb.Mount(container_path="/image", image=image, image_sub_path="srv", readonly=True))
    config = container_config(
        "all",
        images.busy,
        *("sh", "-c", "head -c 100000 /dev/zero >/tmp/x; sleep 1000"),
        attempt=1,
        labels={"l": "1"},
        annotations={"a": "1"},
        mounts=mounts,
        linux=secured(resources=limits, run_as_user=pb.Int64Value(value=5), run_as_group=pb.Int64Value(value=6)),
    )
    config.image.MergeFrom(pb.ImageSpec(annotations={"a": "1"}, user_specified_image="u", runtime_handler="runc"))
    config.image.image_ref = "ref"
    ident = r.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=node.config_of(pod)).container_id
    r.ContainerStatus(container_id=ident)
    r.ListContainers()
    r.StartContainer(container_id=ident)
    assert r.ContainerStatus(container_id=ident).info == {}
    assert r.ContainerStatus(container_id=ident, verbose=True).info
    r.UpdateContainerResources(container_id=ident, linux={"cpu_shares": 600})
    r.ReopenContainerLog(container_id=ident)
    done = r.ExecSync(container_id=ident, cmd=["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (bytes(done.stdout), bytes(done.stderr), done.exit_code) == (b"out\n", b"err\n", 3)
    assert dying(r, pod, "false").reason == "Error"
    assert dying(r, pod, "awk", HOG, linux=secured(resources=limits)).reason == "OOMKilled"
    r.ListContainers()
    r.StreamContainers()


def readings(r: Recorder, pod: str) -> None:
    """Stats and metrics."""
    (ident,) = (c.id for c in r.ListContainers(filter={"pod_sandbox_id": pod, "label_selector": {"l": "1"}}).containers)
    assert r.ContainerStats(container_id=ident).stats.attributes.id == ident
    eventually(lambda: r.ContainerStats(container_id=ident).stats.cpu.HasField("usage_nano_cores"))  # a rate takes two
    of_pod = {s.attributes.id for s in r.ListContainerStats(filter={"pod_sandbox_id": pod}).stats}
    assert of_pod == {c.id for c in r.ListContainers(filter={"pod_sandbox_id": pod}).containers}
    r.StreamContainerStats()
    r.PodSandboxStats(pod_sandbox_id=pod)
    assert len(r.ListPodSandboxStats(filter={"label_selector": {"of": "answers"}}).stats) == 3
    r.StreamPodSandboxStats()
    r.ListPodSandboxMetrics()
    r.StreamPodSandboxMetrics()
