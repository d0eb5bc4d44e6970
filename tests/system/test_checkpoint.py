"""Checkpoint and restore through the daemon: archives, images, pods, and what is said where CRIU cannot do it.

Every test runs with a runtime that plays CRIU's part (``fake``): it writes images and later starts the container anew,
so that all but the memory of the processes is put to the test on any kernel. Where CRIU itself works, the same tests
run with it (``criu``), and processes must go on where they were.
"""

from __future__ import annotations

import concurrent.futures
import functools
import io
import json
import os
import pathlib
import select
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from pycrio.api._pb import api_pb2 as pb
from tests.cri import container as container_config
from tests.cri import pod as pod_config
from tests.fixtures_registry import Built, build_image, digest_of
from tests.isolation import Isolation, short_directory
from tests.system.conftest import Pushed, end_node, make_node
from tests.system.node import Node, eventually, linux, refused

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]
Code = grpc.StatusCode
COUNT = 'trap "exit 7" TERM; echo begun; while :; do n=$((n+1)); echo $n >/srv/n; sleep 0.05; done'
FAKE_RUNTIME = """#!/bin/bash
# A runtime whose checkpoints are not worth much: restoring one starts the container from its beginning.
args=("$@"); verb=""
for a in "$@"; do case $a in create|start|checkpoint|restore|state|kill|delete|exec|pause|resume|features|update)
  verb=$a; break;; esac; done
value() { local take=""; for a in "${args[@]}"; do [ -n "$take" ] && { echo "$a"; return; }; [ "$a" = "$1" ] && take=1
  done; }
id=${args[-1]}; root=${args[0]}
case $verb in
checkpoint)
  [ "$id" = --help ] && exit 0
  echo "$@" >>"@DIR@/calls"
  if [ -e "@DIR@/fail" ] || [ -e "@DIR@/fail-$id" ]; then
    echo "(00.1) Error (criu/x.c:1): cannot dump fifo" >"$(value --work-path)/dump.log"; echo "criu failed" >&2; exit 1
  fi
  @RUNC@ "$root" state "$id" | grep -q '"status": "paused"' || { echo "not paused" >&2; exit 1; }
  [ -e "@DIR@/hold" ] && { echo >"@DIR@/reached"; cat "@DIR@/hold" >/dev/null; }
  echo dumped >"$(value --image-path)/core-1.img"
  echo log >"$(value --work-path)/dump.log"; echo stats >"$(value --work-path)/stats-dump" ;;
restore)
  echo "$@" >>"@DIR@/calls"
  grep -q dumped "$(value --image-path)/core-1.img" || { echo "no image" >&2; exit 1; }
  if [ -e "@DIR@/fail" ]; then
    echo "(00.1) Error (criu/x.c:1): no such pid" >"$(value --work-path)/restore.log"; echo "criu failed" >&2; exit 1
  fi
  console=$(value --console-socket)
  @RUNC@ "$root" create --bundle "$(value --bundle)" --pid-file "$(value --pid-file)" \\
    ${console:+--console-socket "$console"} "$id"
  @RUNC@ "$root" start "$id"
  ;;
*) exec @RUNC@ "$@" ;;
esac
"""
FAKE_CRIU = """#!/bin/sh
[ "$1" = check ] && [ ! -e "@DIR@/broken" ] && { echo Looks good.; exit 0; }
echo "Warn  (criu/kerndat.c:1): odd" >&2
echo "Error (criu/vdso.c:381): no such area" >&2
exit 1
"""


@functools.cache
def criu_fault() -> str:
    """Why CRIU does not work here; "" when it does."""
    program = shutil.which("criu")
    if program is None:
        return "not installed"
    done = subprocess.run([program, "check"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr


@dataclass
class Engine:
    """A daemon and the handler that checkpoints. ``dir`` has the switches of the fake."""

    node: Node
    handler: str
    dir: pathlib.Path

    @property
    def real(self) -> bool:
        return not self.handler

    def pod(self, **more: Any) -> str:
        return self.node.pod(handler=self.handler, **more)

    def counter(self, pod: str, **more: Any) -> str:
        """A container that counts in its memory and shows the number in a file."""
        ident = self.node.start(pod, "sh", "-c", COUNT, **more)
        self.node.wait_log(ident, "begun")
        eventually(lambda: self.number(ident) > 1)
        return ident

    def number(self, ident: str) -> int:
        done = self.node.exec(ident, "cat", "/srv/n")
        return int(done.stdout.strip() or 0)

    def counts(self, ident: str) -> None:
        """The container counts on."""
        before = self.number(ident)
        eventually(lambda: self.number(ident) != before)

    def save(self, ident: str, name: str = "ckpt.tar") -> str:
        """Checkpoint to a fresh path."""
        path = f"{self.node.dir}/{name}"
        self.node.cri.CheckpointContainer(container_id=ident, location=path)
        return path

    def frozen(self, ident: str) -> bool:
        root = f"{self.node.dir if self.real else self.dir}/rt"
        out = subprocess.run(["runc", f"--root={root}", "state", ident], capture_output=True, text=True, check=True)
        return bool(json.loads(out.stdout)["status"] == "paused")


def script(path: pathlib.Path, text: str, directory: pathlib.Path) -> None:
    path.write_text(text.replace("@DIR@", str(directory)).replace("@RUNC@", shutil.which("runc") or ""))
    path.chmod(0o755)


@pytest.fixture(scope="module", params=["fake", "criu"] if not criu_fault() else ["fake"])
def engine(request: pytest.FixtureRequest, images: Pushed, isolation: Isolation) -> Iterator[Engine]:
    tools = pathlib.Path(short_directory())
    script(tools / "runtime", FAKE_RUNTIME, tools)
    handler, env = "", {}
    if request.param == "fake":
        handler = "faker"
        (tools / "bin").mkdir()
        script(tools / "bin" / "criu", FAKE_CRIU, tools)
        env["PATH"] = f"{tools}/bin:{os.environ['PATH']}"
    extra = f'[crio.runtime.runtimes.faker]\nruntime_path = "{tools}/runtime"\nruntime_root = "{tools}/rt"\n'
    extra += '[crio.runtime.runtimes.crun]\nruntime_path = "/usr/bin/crun"\n'
    node = make_node(images, isolation, extra=extra, env=env)
    yield Engine(node, handler, tools)
    end_node(node)
    shutil.rmtree(tools)


@pytest.fixture
def node(engine: Engine) -> Node:
    return engine.node


def members(path: str) -> dict[str, bytes]:
    with tarfile.open(path, "r:") as tar:
        return {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar if m.isreg()}


# --- one container ----------------------------------------------------------------------------------------------------


def test_an_archive_holds_what_tools_expect(engine: Engine, tmp_path: pathlib.Path) -> None:
    node = engine.node
    (tmp_path / "data").mkdir(mode=0o750)
    mount = pb.Mount(container_path="/mnt", host_path=str(tmp_path / "data"))
    ident = engine.counter(engine.pod(), name="counted", mounts=[mount], labels={"made": "here"})
    change = (
        "rm /bin/hostname && rm -r /srv/x 2>/dev/null; mkdir -p /srv/d && echo hi >/srv/d/f && chown 7:8 /srv/d/f && "
        "chmod 4751 /srv/d/f && ln /srv/d/f /srv/d/hard && ln -s f /srv/d/soft && rm -r /root && mkdir /root && "
        "chmod 1777 /var"
    )
    assert node.exec(ident, "sh", "-c", change).exit_code == 0
    path = engine.save(ident)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    found = members(path)
    wanted = {"config.dump", "spec.dump", "bind.mounts", "rootfs-diff.tar", "deleted.files", "dump.log", "stats-dump"}
    assert wanted | {"io.kubernetes.cri-o.LogPath"} == {n for n in found if not n.startswith("checkpoint/")}
    assert any(n.startswith("checkpoint/core-") for n in found)
    status = node.status(ident)
    config = json.loads(found["config.dump"])
    assert (config["id"], config["runtime"], config["restored"]) == (ident, engine.handler or "runc", False)
    assert config["rootfsImageName"] == node.image
    assert config["checkpointedTime"] > config["createdTime"]
    assert found["io.kubernetes.cri-o.LogPath"] == pathlib.Path(status.log_path).read_bytes()
    spec = json.loads(found["spec.dump"])
    assert json.loads(spec["annotations"]["io.kubernetes.cri-o.Metadata"])["name"] == "counted"
    assert spec["process"]["args"][0] == "sh"
    data = str(tmp_path / "data")
    binds = [{"source": data, "destination": "/mnt", "file_type": "directory", "permissions": 0o750}]
    assert json.loads(found["bind.mounts"]) == binds
    assert json.loads(found["deleted.files"]) == ["bin/hostname"]
    with tarfile.open(fileobj=io.BytesIO(found["rootfs-diff.tar"])) as diff:
        entries = {m.name: m for m in diff}
        kept = entries["srv/d/f"]
        assert (kept.mode, kept.uid, kept.gid, kept.size) == (0o4751, 7, 8, 3)
        assert (entries["srv/d/soft"].linkname, entries["srv/d/hard"].linkname) == ("f", "srv/d/f")
        assert (entries["root"].isdir(), entries["var"].mode) == (True, 0o1777)
    # it runs on, and says so
    assert not engine.frozen(ident)
    engine.counts(ident)
    info = node.spec(ident)
    assert info["checkpointedAt"][:19] == config["checkpointedTime"][:19]
    assert not list(pathlib.Path(node.dir).glob("root/overlay-containers/*/userdata/capture-*"))
    if not engine.real:
        line = (engine.dir / "calls").read_text().splitlines()[-1]
        scratch = line.split("--work-path ")[1].split()[0]
        flags = f"--file-locks --image-path {scratch}/checkpoint --work-path {scratch} --leave-running {ident}"
        assert line.endswith(f"checkpoint {flags}")


def test_a_container_restored_from_an_archive_goes_on(engine: Engine) -> None:
    node = engine.node
    pod = engine.pod()
    ident = engine.counter(pod, name="first", labels={"made": "here", "tier": "old"})
    node.exec(ident, "sh", "-c", "rm -r /root; echo kept >/srv/kept; chmod 640 /srv/kept; mkdir /srv/dir")
    eventually(lambda: engine.number(ident) > 5)
    path = engine.save(ident)
    node.remove_pod(pod)
    other = engine.pod()
    new = node.create(other, name="second", image=path, labels={"tier": "new"})
    os.unlink(path)  # unpacked: a restore must not depend on what becomes of the archive
    status = node.status(new)
    assert (status.state, status.image.image) == (pb.CONTAINER_CREATED, node.image)
    assert (status.labels["made"], status.labels["tier"]) == ("here", "new")
    node.cri.StartContainer(container_id=new)
    assert node.status(new).state == pb.CONTAINER_RUNNING
    info = node.spec(new)
    assert info["restored"] is True
    assert os.path.exists(f"/proc/{info['pid']}")
    said = node.exec(new, "sh", "-c", "cat /srv/kept; stat -c %a /srv/kept; test -d /srv/dir && ! test -e /root && ps")
    assert said.stdout.startswith(b"kept\n640\n"), said
    if engine.real:
        assert engine.number(new) > 5
        assert node.output(new).splitlines() == ["begun"]  # of its former life: it did not begin again
        assert node.status(new).mounts == status.mounts
    engine.counts(new)
    address = node.cri.PodSandboxStatus(pod_sandbox_id=other).status.network.ip
    netns = os.readlink(f"/proc/{info['pid']}/ns/net")
    assert address
    assert netns in {os.readlink(p) if p.is_symlink() else f"net:[{p.stat().st_ino}]" for p in pins(node)}
    assert not list(pathlib.Path(node.dir).glob(f"root/overlay-containers/{new}/userdata/restore"))
    again = engine.save(new, "again.tar")  # a restored container can be checkpointed as any other
    assert json.loads(members(again)["config.dump"])["restored"] is True
    node.cri.StopContainer(container_id=new, timeout=10)
    assert node.status(new).exit_code == 7


def pins(node: Node) -> list[pathlib.Path]:
    return list(pathlib.Path(node.dir).glob("ns/netns/*"))


def checkpoint_image(archive: str, base: dict[str, Any] | None = None) -> Built:
    """An image as the Kubernetes documentation makes one: the archive's content, and one annotation."""
    image = build_image([pathlib.Path(archive).read_bytes()])
    document = image.document
    document["annotations"] = {"io.kubernetes.cri-o.annotations.checkpoint.name": "counter"}
    return Built(json.dumps(document).encode(), image.media_type, image.blobs, image.diff_ids)


def test_a_container_restored_from_an_image(engine: Engine, images: Pushed) -> None:
    node = engine.node
    ident = engine.counter(engine.pod())
    node.exec(ident, "sh", "-c", "echo kept >/srv/kept")
    path = engine.save(ident)
    reference = images.registry.push(checkpoint_image(path), f"sys/{engine.handler or 'criu'}-checkpoint:1")
    node.cri.PullImage(image={"image": reference})
    pod = engine.pod()
    new = node.create(pod, image=reference)
    node.cri.RemoveImage(image={"image": reference})
    node.cri.StartContainer(container_id=new)
    assert node.exec(new, "cat", "/srv/kept").stdout == b"kept\n"
    assert node.status(new).image.image == node.image
    assert "/checkpoint-image" not in pathlib.Path("/proc/self/mountinfo").read_text()
    node.remove_pod(pod)


def test_a_terminal_comes_back(engine: Engine) -> None:
    node = engine.node
    ident = node.start(engine.pod(), "sh", "-c", COUNT, tty=True)
    node.wait_log(ident, "begun")
    path = engine.save(ident)
    pod = engine.pod()
    new = node.create(pod, image=path)
    node.cri.StartContainer(container_id=new)
    assert os.readlink(f"/proc/{node.pid_of(new)}/fd/1").startswith("/dev/pts/")
    node.cri.StopContainer(container_id=new, timeout=10)
    assert node.status(new).exit_code == 7


def test_another_user_comes_back(engine: Engine) -> None:
    node = engine.node
    security = pb.LinuxContainerSecurityContext(
        run_as_user=pb.Int64Value(value=1234), run_as_group=pb.Int64Value(value=4321), supplemental_groups=[99]
    )
    config = pb.LinuxContainerConfig(security_context=security)
    ident = node.start(engine.pod(), "sh", "-c", "echo begun; while :; do sleep 0.1; done", linux=config)
    node.wait_log(ident, "begun")
    if engine.real and not may_raise_limits():  # CRIU must ask for limits of processes that are not root's
        with refused(Code.UNKNOWN, "rlimit"):
            engine.save(ident)
        return
    path = engine.save(ident)
    new = node.create(engine.pod(), image=path)
    node.cri.StartContainer(container_id=new)
    status = pathlib.Path(f"/proc/{node.pid_of(new)}/status").read_text()
    assert "Uid:\t1234\t1234" in status
    assert "Gid:\t4321\t4321" in status
    user = node.status(new).user.linux
    assert (user.uid, user.gid, list(user.supplemental_groups)) == (1234, 4321, [99, 4321])


def may_raise_limits() -> bool:
    """CAP_SYS_RESOURCE."""
    status = pathlib.Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) & 1 << 24)


def test_what_cannot_be_checkpointed(engine: Engine) -> None:
    node = engine.node
    pod = engine.pod()
    done = node.start(pod, "true")
    node.ended(done)
    created = node.create(pod, "true")
    target = f"{node.dir}/no.tar"
    for ident in (done, created):
        with refused(Code.FAILED_PRECONDITION, "not running"):
            node.cri.CheckpointContainer(container_id=ident, location=target)
    with refused(Code.NOT_FOUND):
        node.cri.CheckpointContainer(container_id="f" * 64, location=target)
    ident = engine.counter(pod)
    for location in ("", "relative.tar", f"{node.dir}/", node.dir, f"{node.dir}/absent/x.tar"):
        with refused(Code.INVALID_ARGUMENT):
            node.cri.CheckpointContainer(container_id=ident, location=location)
    assert not os.path.exists(target)
    assert not engine.frozen(ident)
    assert not list(pathlib.Path(node.dir).glob("root/overlay-containers/*/userdata/capture-*"))


def test_what_cannot_be_restored(engine: Engine, tmp_path: pathlib.Path) -> None:
    node = engine.node
    pod = engine.pod()
    ident = engine.counter(pod)
    path = engine.save(ident)
    content = members(path)

    def broken(name: str, **changes: bytes | None) -> str:
        target = tmp_path / name
        with tarfile.open(target, "w") as tar:
            for member, data in {**content, **changes}.items():
                if data is not None:
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return str(target)

    config = json.loads(content["config.dump"])
    absent = dict.fromkeys(("rootfsImage", "rootfsImageName", "rootfsImageRef"), "127.0.0.1/nowhere:1")
    (tmp_path / "text").write_text("no archive")
    (tmp_path / "cut").write_bytes(pathlib.Path(path).read_bytes()[:5000])
    for archive, words in (
        (str(tmp_path / "text"), ["tar archive"]),
        (str(tmp_path / "cut"), []),
        (broken("no-config", **{"config.dump": None}), ["config.dump"]),
        (broken("no-json", **{"spec.dump": b"{"}), ["malformed"]),
        (broken("list", **{"spec.dump": b"[]"}), ["malformed"]),
        (broken("no-process", **{"spec.dump": b"{}"}), ["process"]),
        (broken("out", **{"deleted.files": b'["../../etc/passwd"]'}), ["leads out"]),
        (broken("no-diff", **{"rootfs-diff.tar": b"x" * 2000}), ["rootfs-diff.tar"]),
        ("/dev/null", ["neither"]),
    ):
        with refused(Code.UNKNOWN, *words):
            node.create(pod, image=archive)
    with refused(Code.NOT_FOUND, "nowhere", "pull it first"):
        node.create(pod, image=broken("absent", **{"config.dump": json.dumps({**config, **absent}).encode()}))
    images = {n: None for n in content if n.startswith("checkpoint/")}
    with refused(Code.UNKNOWN, "no checkpoint"):
        node.create(pod, image=broken("empty", **images))
    assert len(node.cri.ListContainers(filter={"pod_sandbox_id": pod}).containers) == 1


def test_bind_mounts_must_be_there_again(engine: Engine, tmp_path: pathlib.Path) -> None:
    node = engine.node
    (tmp_path / "old").mkdir()
    mount = pb.Mount(container_path="/mnt", host_path=str(tmp_path / "old"))
    ident = engine.counter(engine.pod(), mounts=[mount])
    path = engine.save(ident)
    pod = engine.pod()
    with refused(Code.INVALID_ARGUMENT, "expects the following bind mounts", "/mnt"):
        node.create(pod, image=path)
    mount.host_path = str(tmp_path / "new")
    with refused(Code.INVALID_ARGUMENT, str(tmp_path / "new")):
        node.create(pod, image=path, mounts=[mount])
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("new place\n")
    new = node.create(pod, image=path, mounts=[mount])
    node.cri.StartContainer(container_id=new)
    assert node.exec(new, "cat", "/mnt/file").stdout == b"new place\n"
    gone = node.create(pod, image=path, mounts=[mount])
    shutil.rmtree(tmp_path / "new")
    with refused(Code.INVALID_ARGUMENT, "bind mount sources are gone", str(tmp_path / "new")):
        node.cri.StartContainer(container_id=gone)
    with refused(Code.NOT_FOUND):
        node.status(gone)


def test_a_container_that_awaits_its_restore(engine: Engine) -> None:
    """It can be looked at, stopped, removed, and outlasts the daemon."""
    node = engine.node
    path = engine.save(engine.counter(engine.pod()))
    pod = engine.pod()
    stopped, removed, kept = (node.create(pod, image=path) for _ in range(3))
    with refused(Code.NOT_FOUND):
        node.exec(kept, "true")
    node.cri.ListContainerStats()
    node.cri.StopContainer(container_id=stopped, timeout=0)
    assert (node.status(stopped).state, node.status(stopped).exit_code) == (pb.CONTAINER_EXITED, 137)
    with refused(Code.FAILED_PRECONDITION):
        node.cri.StartContainer(container_id=stopped)
    node.cri.RemoveContainer(container_id=removed)
    node.daemon.kill()
    node.daemon.start()
    assert node.status(kept).state == pb.CONTAINER_CREATED
    node.cri.StartContainer(container_id=kept)
    engine.counts(kept)


# --- failures of CRIU, which only the fake has on command -------------------------------------------------------------


@pytest.fixture
def fake(engine: Engine) -> Iterator[Engine]:
    """The fake's switches; with the real CRIU in the daemon the tests use it through the second handler as well."""
    yield Engine(engine.node, "faker", engine.dir)
    for name in os.listdir(engine.dir):
        if name.startswith(("fail", "hold", "reached", "broken")):
            os.unlink(engine.dir / name)


def test_a_failed_dump_leaves_nothing(fake: Engine) -> None:
    node = fake.node
    ident = fake.counter(fake.pod())
    (fake.dir / "fail").touch()
    target = f"{node.dir}/fails.tar"
    with refused(Code.UNKNOWN, "criu failed", "cannot dump fifo"):
        node.cri.CheckpointContainer(container_id=ident, location=target)
    assert not os.path.exists(target)
    assert not fake.frozen(ident)
    assert not list(pathlib.Path(node.dir).glob("root/overlay-containers/*/userdata/capture-*"))
    fake.counts(ident)


def test_a_failed_restore_removes_the_container(fake: Engine) -> None:
    node = fake.node
    path = fake.save(fake.counter(fake.pod()))
    new = node.create(fake.pod(), image=path)
    (fake.dir / "fail").touch()
    with refused(Code.UNKNOWN, "container restore failed", "criu failed", "no such pid"):
        node.cri.StartContainer(container_id=new)
    with refused(Code.NOT_FOUND):
        node.status(new)


def held(fake: Engine) -> Callable[[], None]:
    """Have the next dump wait; gives back what lets it go on."""
    os.mkfifo(fake.dir / "hold")
    os.mkfifo(fake.dir / "reached")

    def go_on() -> None:
        with open(fake.dir / "hold", "w"):
            pass

    return go_on


def reached(fake: Engine, call: concurrent.futures.Future[Any]) -> None:
    """Wait until the dump of a call waits; a call that ends before fails the test."""
    fd = os.open(fake.dir / "reached", os.O_RDWR | os.O_NONBLOCK)
    try:
        eventually(lambda: call.done() or select.select([fd], [], [], 0)[0])
    finally:
        os.close(fd)
    if call.done():
        raise AssertionError("the checkpoint ended too early") from call.exception()


def test_a_stop_waits_for_a_checkpoint(fake: Engine) -> None:
    node = fake.node
    ident = fake.counter(fake.pod())
    go_on = held(fake)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        saving = threads.submit(fake.save, ident)
        reached(fake, saving)
        assert fake.frozen(ident)
        stopping = threads.submit(node.cri.StopContainer, container_id=ident, timeout=10)
        with pytest.raises(concurrent.futures.TimeoutError):
            stopping.result(0.3)
        go_on()
        assert "config.dump" in members(saving.result(30))
        stopping.result(30)
    assert node.status(ident).exit_code == 7


def test_a_daemon_killed_while_it_checkpoints(fake: Engine) -> None:
    node = fake.node
    ident = fake.counter(fake.pod())
    go_on = held(fake)
    target = f"{node.dir}/killed.tar"
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        saving = threads.submit(node.cri.CheckpointContainer, container_id=ident, location=target)
        reached(fake, saving)
        node.daemon.kill()
        assert saving.exception(30) is not None
    assert fake.frozen(ident)
    go_on()
    node.daemon.start()
    assert not fake.frozen(ident)
    fake.counts(ident)
    assert not os.path.exists(target)
    assert not list(pathlib.Path(node.dir).glob("root/overlay-containers/*/userdata/capture-*"))


# --- pods -------------------------------------------------------------------------------------------------------------


def restore_pod(engine: Engine, path: str, *names: str, pod: str = "again", **more: Any) -> Any:
    node = engine.node
    more.setdefault("runtime_handler", engine.handler)
    config = pod_config(pod, log_directory=f"{node.dir}/pods/{pod}", linux=linux())
    containers = [container_config(name, node.image) for name in names]
    return node.cri.RestorePod(checkpoint_path=path, config=config, container_configs=containers, **more)


def test_a_pod_goes_on(engine: Engine) -> None:
    node = engine.node
    pod = engine.pod()
    one, two, left = (engine.counter(pod, name=name) for name in ("one", "two", "left"))
    place = short_directory()
    node.cri.CheckpointPod(pod_sandbox_id=pod, output_path=place, container_ids=[one, two])
    names = {"pod-checkpoint.json", f"{one}.tar", f"{two}.tar"}
    assert set(os.listdir(place)) == names
    numbers = [engine.number(i) for i in (one, two, left)]
    eventually(lambda: all(engine.number(i) > n for i, n in zip((one, two, left), numbers, strict=True)))
    with refused(Code.ALREADY_EXISTS, "pod checkpoint"):
        node.cri.CheckpointPod(pod_sandbox_id=pod, output_path=place, container_ids=[left])
    node.remove_pod(pod)
    for wrong in (("one",), ("one", "two", "three"), ("one", "one"), ()):
        with refused(Code.INVALID_ARGUMENT, "exactly"):
            restore_pod(engine, place, *wrong)
    with refused(Code.INVALID_ARGUMENT, "speed"):
        restore_pod(engine, place, "one", "two", options={"speed": "1"})
    with refused(Code.INVALID_ARGUMENT, "handler"):
        restore_pod(engine, place, "one", "two", runtime_handler="nothing")
    with refused(Code.UNKNOWN, "no complete pod checkpoint"):
        restore_pod(engine, node.dir, "one", "two")
    assert not node.cri.ListPodSandbox(filter={"label_selector": {"io.kubernetes.pod.name": "again"}}).items
    made = restore_pod(engine, place, "two", "one")
    assert [r.name for r in made.restored_containers] == ["two", "one"]
    with refused(Code.ALREADY_EXISTS):
        restore_pod(engine, place, "one", "two")
    shutil.rmtree(place)
    assert node.cri.PodSandboxStatus(pod_sandbox_id=made.pod_sandbox_id).status.state == pb.SANDBOX_READY
    for restored in made.restored_containers:
        assert node.status(restored.container_id).state == pb.CONTAINER_CREATED
        node.cri.StartContainer(container_id=restored.container_id)
        if engine.real:
            assert engine.number(restored.container_id) >= numbers[("one", "two").index(restored.name)] - 5
        engine.counts(restored.container_id)


def test_members_of_a_pod_checkpoint_are_checked(engine: Engine) -> None:
    node = engine.node
    pod = engine.pod()
    ident, done = engine.counter(pod), node.start(pod, "true")
    foreign = engine.counter(engine.pod())
    node.ended(done)
    place = short_directory()
    for chosen, code in (
        ([], Code.INVALID_ARGUMENT),
        ([ident, ident], Code.INVALID_ARGUMENT),
        ([foreign], Code.INVALID_ARGUMENT),
        ([ident[:12]], Code.INVALID_ARGUMENT),
        ([ident, done], Code.FAILED_PRECONDITION),
    ):
        with refused(code):
            node.cri.CheckpointPod(pod_sandbox_id=pod, output_path=place, container_ids=chosen)
    for path in ("", "relative", f"{place}/absent", "/etc/passwd"):
        with refused(Code.INVALID_ARGUMENT):
            node.cri.CheckpointPod(pod_sandbox_id=pod, output_path=path, container_ids=[ident])
    with refused(Code.INVALID_ARGUMENT, "x"):
        node.cri.CheckpointPod(pod_sandbox_id=pod, output_path=place, container_ids=[ident], options={"x": "y"})
    with refused(Code.NOT_FOUND):
        node.cri.CheckpointPod(pod_sandbox_id="f" * 64, output_path=place, container_ids=[ident])
    assert os.listdir(place) == []
    os.rmdir(place)


def test_a_pod_checkpoint_is_all_or_nothing(fake: Engine) -> None:
    node = fake.node
    pod = fake.pod()
    first, second = fake.counter(pod), fake.counter(pod)
    place = short_directory()
    (fake.dir / f"fail-{second}").touch()
    with refused(Code.UNKNOWN, "cannot dump fifo"):
        node.cri.CheckpointPod(pod_sandbox_id=pod, output_path=place, container_ids=[first, second])
    assert os.listdir(place) == []
    os.unlink(fake.dir / f"fail-{second}")
    go_on = held(fake)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        impatient = node.daemon.client(timeout=4)
        saving = threads.submit(
            impatient.CheckpointPod, pod_sandbox_id=pod, output_path=place, container_ids=[first, second]
        )
        reached(fake, saving)
        assert fake.frozen(first)
        assert fake.frozen(second)
        with refused(Code.DEADLINE_EXCEEDED):
            saving.result(30)
        go_on()
        impatient.close()
    eventually(lambda: not fake.frozen(first) and not fake.frozen(second))
    eventually(lambda: not list(pathlib.Path(node.dir).glob("root/overlay-containers/*/userdata/capture-*")))
    assert os.listdir(place) == []
    os.rmdir(place)


def test_a_failed_restore_of_a_pod_leaves_no_pod(engine: Engine) -> None:
    node = engine.node
    pod = engine.pod()
    one, two = (engine.counter(pod, name=name) for name in ("one", "two"))
    place = short_directory()
    node.cri.CheckpointPod(pod_sandbox_id=pod, output_path=place, container_ids=[one, two])
    os.truncate(f"{place}/{two}.tar", 3000)
    with refused(Code.UNKNOWN):
        restore_pod(engine, place, "one", "two", pod="broken")
    assert [item.id for item in node.cri.ListPodSandbox().items] == [pod]
    shutil.rmtree(place)


# --- where it cannot be done ------------------------------------------------------------------------------------------


def everything(node: Node, ident: str, pod: str, handler: str, *words: str) -> None:
    """No call of this family is possible, and each says why."""
    words = ("checkpoint/restore support not available", *words)
    place = short_directory()
    archive = f"{node.dir}/is-there.tar"
    pathlib.Path(archive).touch()
    with refused(Code.UNIMPLEMENTED, *words):
        node.cri.CheckpointContainer(container_id=ident, location=f"{node.dir}/x.tar")
    with refused(Code.UNIMPLEMENTED, *words):
        node.cri.CheckpointPod(pod_sandbox_id=pod, output_path=place, container_ids=[ident])
    with refused(Code.UNIMPLEMENTED, *words):
        node.create(pod, image=archive)
    with refused(Code.UNIMPLEMENTED, *words):
        node.cri.RestorePod(checkpoint_path=place, config=pod_config("never"), runtime_handler=handler)
    assert os.listdir(place) == []
    os.rmdir(place)


def test_a_runtime_without_criu(engine: Engine) -> None:
    node = engine.node
    pod = node.pod(handler="crun")
    able = subprocess.run(["crun", "checkpoint", "--help"], capture_output=True, check=False).returncode == 0
    ident = node.start(pod, "sleep", "100")
    if not able:
        everything(node, ident, pod, "crun", "crun cannot checkpoint")


def test_a_kernel_that_criu_does_not_know(fake: Engine) -> None:
    """Asked again when the program changes: an upgrade of CRIU needs no restart of the daemon."""
    program = fake.dir / "bin" / "criu"
    if fake.node.daemon.env:
        pod = fake.pod()
        ident = fake.counter(pod)
        (fake.dir / "broken").touch()
        os.utime(program, (1, 1))
        everything(fake.node, ident, pod, "faker", "criu check", "no such area")
        (fake.dir / "broken").unlink()
        os.utime(program, (2, 2))
        fake.save(ident)


def test_this_host(images: Pushed, isolation: Isolation) -> None:
    """The daemon's answer is that of ``criu check``."""
    node = make_node(images, isolation)
    try:
        pod = node.pod()
        ident = node.start(pod, "sleep", "100")
        fault = criu_fault()
        if fault:
            everything(node, ident, pod, "", *([line for line in fault.splitlines() if "Error" in line][:1]))
        else:
            node.cri.CheckpointContainer(container_id=ident, location=f"{node.dir}/x.tar")
            assert digest_of(pathlib.Path(f"{node.dir}/x.tar").read_bytes())
    finally:
        end_node(node)
