"""The parts that a daemon leans on fail it: CNI plugins, the OCI runtime, the monitor. They break, hang, lie or vanish;
the request fails by name, what was half-made is undone, nobody else notices."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
from collections.abc import Iterator

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.isolation import Isolation
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, assert_nothing_new, eventually, linux, refused

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks", "others_untouched")]
Code = grpc.StatusCode

# The daemon as always, but with seconds where it is otherwise patient for minutes.
IMPATIENT = """
import sys
from dataclasses import replace
from functools import partial
from pycrio import wiring
from pycrio.drivers.network.cni import Limits
from pycrio.flows import exits, janitor
wiring.NetworkSettings = partial(wiring.NetworkSettings, limits=Limits(add=1.5, delete=1.5, turn=1.0))
wiring.RuntimeSettings = partial(wiring.RuntimeSettings, call_timeout=4.0)
exits.REPORT_WAIT, janitor.PERIOD = 1.0, 0.5
make = wiring.make_handler
wiring.make_handler = lambda name, conf, config: replace(make(name, conf, config), create_timeout=2)
from pycrio.__main__ import main
sys.exit(main())
"""
DROP_IN = """
[crio.runtime.runtimes.odd]
runtime_path = "{d}/odd/runtime"
runtime_root = "{d}/rt"
[crio.runtime.runtimes.watched]
runtime_path = "/usr/sbin/runc"
runtime_root = "{d}/rt"
monitor_path = "{d}/odd/monitor"
"""
# Does what the file mode.<verb> says, or what the real one does.
ODD = """#!/bin/sh
for word in "$@"; do
  if [ -e {d}/odd/mode.$word ]; then . {d}/odd/mode.$word; fi
done
exec {real} "$@"
"""
PLUGIN = """#!{python} -I
import json, os, signal, sys, time
mode = "{d}/odd/cni." + os.environ["CNI_COMMAND"]
document = json.load(sys.stdin)
result = document.get("prevResult", {{}})
if os.path.exists(mode):
    exec(open(mode).read())
elif os.environ["CNI_COMMAND"] == "ADD":
    print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def node(images: Pushed, isolation: Isolation) -> Iterator[Node]:
    node = make_node(images, isolation, program=("-c", IMPATIENT), prepare=odd_parts)
    yield node
    end_node(node)


def odd_parts(directory: str) -> str:
    """Scripts in the place of runtime, monitor and plugin; the configuration that names them."""
    place = pathlib.Path(directory, "odd")
    place.mkdir()
    monitor = pathlib.Path(__file__).parents[2] / "pycrio" / "_native" / "bin" / "pycrio-monitor"
    texts = {
        "runtime": ODD.format(d=directory, real="/usr/sbin/runc"),
        "monitor": ODD.format(d=directory, real=monitor),
        "flaky": PLUGIN.format(d=directory, python=sys.executable),
    }
    for name, text in texts.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return DROP_IN.format(d=directory) + f'[crio.network]\nplugin_dirs = ["/usr/lib/cni", "{place}"]\n'


@pytest.fixture
def odd(node: Node) -> Iterator[pathlib.Path]:
    """Where modes are written; they end with the test."""
    place = pathlib.Path(node.dir, "odd")
    saved = {p.name: (p.read_text(), p.stat().st_mode) for p in place.iterdir()}
    yield place
    for path in place.iterdir():
        if path.name not in saved:
            path.unlink()
    for name, (text, mode) in saved.items():
        (place / name).write_text(text)
        (place / name).chmod(mode)


# --- CNI --------------------------------------------------------------------------------------------------------------


def use_network(node: Node, name: str) -> None:
    """Wait until new pods get this network."""
    eventually(lambda: f"network={name} " in node.daemon.log.rpartition('msg="Pod network"')[2])


@pytest.fixture
def flaky(node: Node, odd: pathlib.Path) -> Iterator[pathlib.Path]:
    """The bridge, and after it a plugin that does what the test wants."""
    net_d = pathlib.Path(node.dir, "net.d")
    document = json.loads((net_d / "10-test.conflist").read_text())
    document["name"] = "flaky"
    document["plugins"].append({"type": "flaky"})
    fresh = net_d / ".new"
    fresh.write_text(json.dumps(document))
    fresh.rename(net_d / "05-flaky.conflist")
    use_network(node, "flaky")
    yield odd
    (net_d / "05-flaky.conflist").unlink()
    use_network(node, "test")


ADD: dict[str, tuple[str, Code, str]] = {
    "error": ('print(json.dumps({"code": 7, "msg": "no more cables"})); sys.exit(1)', Code.UNKNOWN, "no more cables"),
    "garbage and failure": ('print("<html>"); sys.exit(1)', Code.UNKNOWN, "<html>"),
    "silent failure": ("sys.exit(3)", Code.UNKNOWN, "exit code 3"),
    "garbage": ('print("no json")', Code.UNKNOWN, "no json"),
    "nothing": ("pass", Code.UNKNOWN, ""),
    "no object": ("print([1, 2])", Code.UNKNOWN, ""),
    "no address": ('result.pop("ips"); print(json.dumps(result))', Code.UNKNOWN, "no address"),
    "strange addresses": ('result["ips"] = [{"a": 1}]; print(json.dumps(result))', Code.UNKNOWN, "addresses"),
    "signal": ("os.kill(os.getpid(), signal.SIGKILL)", Code.UNKNOWN, "137"),
    "too much": ('sys.stdout.write("x" * (9 << 20))', Code.UNKNOWN, ""),
    "hang": ("time.sleep(1000)", Code.DEADLINE_EXCEEDED, "did not end within"),
}


@pytest.mark.parametrize("what", ADD)
def test_plugin_fails_at_add(node: Node, flaky: pathlib.Path, what: str) -> None:
    action, code, words = ADD[what]
    (flaky / "cni.ADD").write_text(action)
    with refused(code, "flaky", words):
        node.pod(f"cabled-{what}")
    (flaky / "cni.ADD").unlink()
    assert "inet 10.99." in node.sh(node.pod(f"cabled-{what}"), "ip -o addr show eth0")  # the retry of the same request


def test_caller_leaves_while_a_plugin_hangs(node: Node, flaky: pathlib.Path) -> None:
    (flaky / "cni.ADD").write_text("time.sleep(1000)")
    before = node.picture()
    config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="gone", uid="u", namespace="n"), linux=linux())
    with refused(Code.DEADLINE_EXCEEDED):
        node.cri.RunPodSandbox(config=config, deadline=0.3)
    assert node.sh(node.pod(linux=linux(network="NODE")), "echo others") == "others\n"
    node.clear_made()
    assert_nothing_new(node, before)


def test_plugin_fails_at_del(node: Node, flaky: pathlib.Path) -> None:
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    (flaky / "cni.DEL").write_text('print(json.dumps({"code": 9, "msg": "cut"})); sys.exit(1)')
    node.cri.StopContainer(container_id=ctr, timeout=0)
    with refused(Code.UNKNOWN, "flaky", "cut"):
        node.cri.StopPodSandbox(pod_sandbox_id=pod)
    assert node.cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == pb.SANDBOX_NOTREADY
    (flaky / "cni.DEL").unlink()
    node.cri.StopPodSandbox(pod_sandbox_id=pod)  # tries again


def test_pods_are_removed_even_if_a_plugin_never_succeeds(node: Node, flaky: pathlib.Path) -> None:
    before = node.picture()
    pod = node.pod()
    (flaky / "cni.DEL").write_text("sys.exit(1)")
    node.cri.RemovePodSandbox(pod_sandbox_id=pod)
    assert pod not in {p.id for p in node.cri.ListPodSandbox().items}
    left = node.picture()
    assert left["addresses"] == before["addresses"]  # the other plugins of the network had their turn
    assert left["links"] == before["links"]
    (flaky / "cni.DEL").unlink()
    (cached,) = left["cni cache"] - before["cni cache"]
    os.unlink(f"/var/lib/cni/results/{cached}")  # else the next start of the daemon tries again


def test_configurations_that_cannot_be_used_are_passed_over(node: Node) -> None:
    net_d = pathlib.Path(node.dir, "net.d")
    bad = {
        "01-bad.conflist": "{not json",
        "02-bad.conf": '{"cniVersion":"0.4.0","name":"b","type":"no-such-plugin"}',
        "03-bad.conflist": '{"cniVersion":"9.9.9","name":"c","plugins":[]}',
        "04-bad.conflist": "[]",
    }
    for name, text in bad.items():
        (net_d / name).write_text(text)
    assert "eth0" in node.sh(node.pod(), "ip -o link")
    for name in bad:
        (net_d / name).unlink()


def test_no_network_at_all(node: Node) -> None:
    def condition() -> object:
        return next(c for c in node.cri.Status().status.conditions if c.type == "NetworkReady")

    only = pathlib.Path(node.dir, "net.d", "10-test.conflist")
    aside = only.with_name("aside")
    only.rename(aside)
    found = eventually(lambda: None if condition().status else condition())
    assert found.reason == "NetworkPluginNotReady"
    assert node.dir in found.message
    with refused(Code.DEADLINE_EXCEEDED):
        node.cri.RunPodSandbox(
            config=pb.PodSandboxConfig(
                metadata=pb.PodSandboxMetadata(name="waits", uid="u", namespace="n"),
                log_directory=f"{node.dir}/pods/waits",
                linux=linux(),
            ),
            deadline=0.5,
        )
    assert node.sh(node.pod(linux=linux(network="NODE")), "echo here") == "here\n"
    aside.rename(only)
    eventually(lambda: condition().status)
    eventually(lambda: any(p.metadata.name == "waits" for p in node.cri.ListPodSandbox().items))  # it was not forgotten


# --- OCI runtime ------------------------------------------------------------------------------------------------------


def create_fails(node: Node, handler: str, mode: pathlib.Path, broken: tuple[str, Code, str]) -> None:
    """With ``mode`` scripted a create fails as told and leaves nothing; without it the same create works."""
    action, code, words = broken
    pod = node.pod(handler=handler)
    before = node.picture()
    mode.write_text(action)
    with refused(code, words):
        node.create(pod, "sleep", "1000", name="c")
    assert_nothing_new(node, before)
    mode.unlink()
    assert node.run(pod, "true", name="c") == (0, "")


CREATE: dict[str, tuple[str, Code, str]] = {
    "silent": ("exit 1", Code.UNKNOWN, "create failed"),
    "talking": ("echo boom boom >&2; exit 1", Code.UNKNOWN, "boom boom"),
    "signal": ("kill -9 $$", Code.UNKNOWN, "create failed"),
    "lying": ("exit 0", Code.UNKNOWN, ""),
    "strange pid": (
        'while [ "$1" != --pid-file ]; do shift; done; echo nonsense >$2; exit 0',
        Code.UNKNOWN,
        "",
    ),
    "hanging": ("while :; do sleep 0.1; done", Code.DEADLINE_EXCEEDED, "create container timeout"),
    "failing after its work": ('/usr/sbin/runc "$@"; exit 1', Code.UNKNOWN, "create failed"),
}


@pytest.mark.parametrize("what", CREATE)
def test_runtime_fails_at_create(node: Node, odd: pathlib.Path, what: str) -> None:
    create_fails(node, "odd", odd / "mode.create", CREATE[what])


def test_runtime_is_missing(node: Node, odd: pathlib.Path) -> None:
    pod = node.pod(handler="odd")
    ctr = node.start(pod, "sleep", "1000")
    (odd / "runtime").rename(odd / "away")
    with refused(Code.UNKNOWN, "odd/runtime"):
        node.create(pod, "true")
    with refused(Code.UNKNOWN, "odd/runtime", "cannot be executed"):
        node.exec(ctr, "true")
    with refused(Code.UNKNOWN, "odd/runtime"):
        node.cri.RemoveContainer(container_id=ctr, deadline=1.5)
    assert node.status(ctr).state == pb.CONTAINER_EXITED  # it was stopped; what is left of it needs its runtime
    (odd / "away").rename(odd / "runtime")
    node.cri.RemoveContainer(container_id=ctr)


def test_runtime_fails_at_start(node: Node, odd: pathlib.Path) -> None:
    pod = node.pod(handler="odd")
    ctr = node.create(pod, "sleep", "1000")
    (odd / "mode.start").write_text("echo no start >&2; exit 1")
    with refused(Code.UNKNOWN, "no start"):
        node.cri.StartContainer(container_id=ctr)
    with refused(Code.NOT_FOUND):
        node.status(ctr)


def test_runtime_fails_at_exec_and_update(node: Node, odd: pathlib.Path) -> None:
    pod = node.pod(handler="odd")
    ctr = node.start(pod, "sleep", "1000")
    for verb in ("exec", "update"):
        (odd / f"mode.{verb}").write_text(f"echo no {verb} >&2; exit 1")
    with refused(Code.UNKNOWN, "no exec"):
        node.exec(ctr, "true")
    before = node.status(ctr).resources
    with refused(Code.UNKNOWN, "no update"):
        node.cri.UpdateContainerResources(container_id=ctr, linux={"cpu_shares": 99})
    assert node.status(ctr).resources == before


def test_runtime_fails_at_delete(node: Node, odd: pathlib.Path) -> None:
    pod = node.pod(handler="odd")
    ctr = node.start(pod, "sleep", "1000")
    (odd / "mode.delete").write_text("echo stays >&2; exit 1")
    with refused(Code.UNKNOWN, "stays"):
        node.cri.RemoveContainer(container_id=ctr, deadline=1.5)
    with refused(Code.UNKNOWN, "stays"):
        node.cri.RemovePodSandbox(pod_sandbox_id=pod, deadline=1.5)
    (odd / "mode.delete").unlink()
    node.cri.RemovePodSandbox(pod_sandbox_id=pod)


def test_runtime_fails_for_the_pods_init(node: Node, odd: pathlib.Path) -> None:
    before = node.picture()
    (odd / "mode.create").write_text("echo no init >&2; exit 1")
    with refused(Code.UNKNOWN, "no init"):
        node.pod(handler="odd", linux=linux(pid="POD"))
    assert_nothing_new(node, before)


HANGS = "exec sleep 1000"
LOUD = "head -c 50000000 /dev/zero | tr '\\0' x; head -c 50000000 /dev/zero | tr '\\0' y >&2; exit 1"


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [(HANGS, Code.DEADLINE_EXCEEDED, "did not end within 4 s"), (LOUD, Code.UNKNOWN, "yyy")],
    ids=["hangs", "floods"],
)
@pytest.mark.parametrize("verb", ["start", "update", "delete"])
def test_runtime_hangs_or_floods(node: Node, odd: pathlib.Path, verb: str, what: str, code: Code, words: str) -> None:
    """Costs its own request, for a bounded time and in bounded memory; then all is well."""
    pod = node.pod(handler="odd")
    ctr = node.create(pod, "sleep", "1000")
    if verb != "start":
        node.cri.StartContainer(container_id=ctr)
    if verb == "delete":
        node.cri.StopContainer(container_id=ctr, timeout=0)
    (odd / f"mode.{verb}").write_text(what)
    with refused(code, words):
        if verb == "start":
            node.cri.StartContainer(container_id=ctr)
        elif verb == "update":
            node.cri.UpdateContainerResources(container_id=ctr, linux={"cpu_shares": 99})
        else:
            node.cri.RemoveContainer(container_id=ctr)
    (odd / f"mode.{verb}").unlink()
    if verb == "start":
        with refused(Code.NOT_FOUND):  # one that does not start is removed
            node.status(ctr)
    else:
        node.cri.StopContainer(container_id=ctr, timeout=0)
        node.cri.RemoveContainer(container_id=ctr)
    assert node.sh(pod, "echo well") == "well\n"


@pytest.mark.parametrize("what", [HANGS, LOUD], ids=["hangs", "floods"])
def test_runtime_hangs_or_floods_at_exec(node: Node, odd: pathlib.Path, what: str) -> None:
    pod = node.pod(handler="odd")
    ctr = node.start(pod, "sleep", "1000")
    (odd / "mode.exec").write_text(what)
    with refused(Code.DEADLINE_EXCEEDED if what is HANGS else Code.UNKNOWN, ctr):
        node.exec(ctr, "true", timeout=1 if what is HANGS else 60)
    if what is HANGS:  # a probe without a timeout ends with its caller
        with refused(Code.DEADLINE_EXCEEDED):
            node.cri.ExecSync(container_id=ctr, cmd=["true"], deadline=0.5)
    (odd / "mode.exec").unlink()
    assert bytes(node.exec(ctr, "echo", "well").stdout) == b"well\n"


# --- monitor ----------------------------------------------------------------------------------------------------------


MONITOR: dict[str, tuple[str, Code, str]] = {
    "failing": ("exit 3", Code.UNKNOWN, "ended with code 3"),
    "signal": ("kill -9 $$", Code.UNKNOWN, "ended with code 137"),
    "silent": ("exit 0", Code.UNKNOWN, ""),
    "garbage": ("echo nonsense >&3; exit 0", Code.UNKNOWN, "nonsense"),
    "no pid": ('echo \'{"data": -1, "message": "sorry"}\' >&3; exit 0', Code.UNKNOWN, "sorry"),
    "hanging": ("while :; do sleep 0.1; done", Code.DEADLINE_EXCEEDED, "create container timeout"),
}


@pytest.mark.parametrize("what", MONITOR)
def test_monitor_fails(node: Node, odd: pathlib.Path, what: str) -> None:
    create_fails(node, "watched", odd / "mode.-b", MONITOR[what])


@pytest.mark.effect("crio.runtime.runtimes.*.monitor_path")
def test_monitor_is_missing(node: Node, odd: pathlib.Path) -> None:
    pod = node.pod(handler="watched")
    (odd / "monitor").rename(odd / "away")
    with refused(Code.UNKNOWN, "odd/monitor", "cannot be executed"):
        node.create(pod, "true")
    (odd / "away").rename(odd / "monitor")


def monitor_of(node: Node, ctr: str) -> int:
    return int(pathlib.Path(node.dir, "run/overlay-containers", ctr, "userdata/conmon-pidfile").read_text())


def test_monitor_dies_and_the_container_later(node: Node) -> None:
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    os.kill(monitor_of(node, ctr), signal.SIGKILL)
    assert bytes(node.exec(ctr, "echo", "on").stdout) == b"on\n"
    eventually(lambda: f'monitor died: its log and its exit code are lost" id={ctr}' in node.daemon.log)
    os.kill(node.pid_of(ctr), signal.SIGKILL)
    status = node.ended(ctr)
    assert (status.exit_code, status.reason) == (255, "Error")


def test_stop_without_a_monitor(node: Node) -> None:
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    os.kill(monitor_of(node, ctr), signal.SIGKILL)
    node.cri.StopContainer(container_id=ctr, timeout=0)
    status = node.status(ctr)
    assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 255)
    with refused(Code.FAILED_PRECONDITION):
        node.cri.ReopenContainerLog(container_id=ctr)


def test_log_of_a_container_without_a_monitor_cannot_be_reopened(node: Node) -> None:
    pod = node.pod()
    ctr = node.start(pod, "sleep", "1000")
    os.kill(monitor_of(node, ctr), signal.SIGKILL)
    with refused(Code.NOT_FOUND, "monitor"):
        node.cri.ReopenContainerLog(container_id=ctr, deadline=20)
