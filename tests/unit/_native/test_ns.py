from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from pycrio._native import mounts, ns
from pycrio._native.base import NativeError
from pycrio._native.run import run

pytestmark = pytest.mark.usefixtures("no_leaks")

BIN = pathlib.Path(ns.__file__).parent / "bin"
KINDS = ("net", "uts", "ipc", "mnt", "cgroup")
MAP = [(0, 300000, 65536)]
NS_GET_USERNS = 0xB701


@pytest.fixture
def pins(tmp_path: pathlib.Path) -> Iterator[dict[str, str]]:
    """Kind → path; whatever is pinned there is gone afterwards, and no mount was added to our namespace."""
    before = pathlib.Path("/proc/self/mountinfo").read_text().count("\n")
    yield {kind: str(tmp_path / kind) for kind in (*KINDS, "user", "pid")}
    for path in tmp_path.iterdir():
        if not path.is_dir():
            ns.unpin(str(path))
    assert pathlib.Path("/proc/self/mountinfo").read_text().count("\n") == before


def chosen(pins: dict[str, str], *kinds: str) -> dict[str, str]:
    return {kind: pins[kind] for kind in kinds}


async def inside(pins: dict[str, str], *argv: str) -> str:
    args = [word for kind, path in pins.items() for word in (f"--{kind}", path)]
    done = await run([str(BIN / "pycrio-nsexec"), *args, "--", *argv])
    assert done.code == 0, done.stderr
    return done.stdout.decode()


async def test_everything_that_is_asked_for_is_there(pins: dict[str, str]) -> None:
    pins = chosen(pins, *KINDS, "user")
    ns.create(
        pins,
        sysctls=[
            ("net.ipv4.ip_unprivileged_port_start", "80"),
            ("kernel/shm_rmid_forced", "1"),
            ("kernel.domainname", "d"),
        ],
        hostname="pod-1",
        uid_map=MAP,
        gid_map=[(0, 400000, 1000), (1000, 500000, 10)],
    )
    script = "hostname; cat /proc/self/uid_map /proc/self/gid_map; cd /proc/sys; "
    script += "cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced kernel/domainname; "
    script += "id -u; cat /proc/self/setgroups"
    words = " ".join((await inside(pins, "sh", "-c", script)).split())
    assert words == "pod-1 0 300000 65536 0 400000 1000 1000 500000 10 80 1 d 0 allow"
    assert sorted(ns.addresses(pins["net"], "lo")) == ["127.0.0.1", "::1"]
    for kind, path in pins.items():
        assert ns.is_pinned(path)
        assert ns.ns_inode(path) != ns.ns_inode(f"/proc/self/ns/{kind}")
        assert os.stat(path).st_mode & 0o777 in (0o444, 0)
        assert ns.unpin(path)
        assert not os.path.exists(path)
        assert not ns.is_pinned(path)
        assert not ns.unpin(path)


def test_net_belongs_to_the_user_namespace(pins: dict[str, str]) -> None:
    ns.create(chosen(pins, "user", "net"), uid_map=MAP, gid_map=MAP)
    with open(pins["net"]) as net:
        owner = fcntl.ioctl(net, NS_GET_USERNS)
    assert os.fstat(owner).st_ino == ns.ns_inode(pins["user"])
    os.close(owner)


def test_an_existing_user_namespace_can_own(pins: dict[str, str]) -> None:
    with ns.hold_userns(MAP, MAP) as user:
        ns.create(chosen(pins, "net"), userns_fd=user.fileno())
        with open(pins["net"]) as net:
            owner = fcntl.ioctl(net, NS_GET_USERNS)
        assert os.fstat(owner).st_ino == os.fstat(user.fileno()).st_ino
        os.close(owner)


def test_loopback_stays_down_when_asked(pins: dict[str, str]) -> None:
    ns.create(chosen(pins, "net"), loopback_up=False)
    (lo,) = (link for link in ns.link_stats(pins["net"]) if link.name == "lo")
    assert not lo.up
    assert ns.addresses(pins["net"], "lo") == []


def test_threads_of_the_caller_stay_where_they_are(pins: dict[str, str]) -> None:
    def places() -> set[tuple[str, ...]]:
        return {
            tuple(os.readlink(f"/proc/self/task/{task}/ns/{kind}") for kind in (*KINDS, "user", "pid"))
            for task in os.listdir("/proc/self/task")
        }

    stop = threading.Event()
    crowd = [threading.Thread(target=stop.wait) for _ in range(10)]
    for thread in crowd:
        thread.start()
    try:
        before = places()
        ns.create(chosen(pins, *KINDS, "user"), uid_map=MAP, gid_map=MAP, hostname="h")
        assert places() == before
        assert len(before) == 1
    finally:
        stop.set()
        for thread in crowd:
            thread.join()


def test_other_childrens_waits_do_not_see_holders(pins: dict[str, str]) -> None:
    """A SIGCHLD handler or a wait for any child, as event loops have them, meets no process of ours."""
    seen: list[int] = []
    old = signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
    try:
        ns.create(chosen(pins, "net", "user"), uid_map=MAP, gid_map=MAP)
    finally:
        signal.signal(signal.SIGCHLD, old)
    assert seen == []


@pytest.mark.parametrize(
    ("name", "value", "code", "what"),
    [
        ("net.ipv4.nonesuch", "1", errno.ENOENT, "/proc/sys/net/ipv4/nonesuch"),
        ("net.ipv4.ip_forward", "many", errno.EINVAL, "/proc/sys/net/ipv4/ip_forward"),
        ("kernel.shmmax", "1", errno.EPERM, "kernel.shmmax"),
        ("vm.overcommit_memory", "1", errno.EPERM, "vm.overcommit_memory"),
        ("net/ipv4/../../kernel", "1", errno.EINVAL, "net/ipv4/../../kernel"),
        ("../etc/passwd", "1", errno.EINVAL, "../etc/passwd"),
    ],
)
def test_refused_sysctls(pins: dict[str, str], name: str, value: str, code: int, what: str) -> None:
    with pytest.raises(NativeError) as caught:
        ns.create(chosen(pins, "net", "uts"), sysctls=[(name, value)])
    assert caught.value.errno == code
    assert caught.value.filename == what
    assert "sysctl" in caught.value.step
    assert not any(os.path.exists(path) for path in pins.values())


def test_read_only_sysctls_say_so(pins: dict[str, str]) -> None:
    mounts.bind("/proc/sys", "/proc/sys", readonly=True)
    try:
        with pytest.raises(NativeError) as caught:
            ns.create(chosen(pins, "net"), sysctls=[("net.ipv4.ip_forward", "1")])
    finally:
        assert mounts.umount("/proc/sys")
    assert (caught.value.errno, caught.value.step) == (errno.EROFS, "open sysctl")


def test_wrong_requests(pins: dict[str, str], tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="kind"):
        ns.create({"time": str(tmp_path / "x")})
    with pytest.raises(OverflowError):
        ns.create(chosen(pins, "user"), uid_map=[(0, -1, 5)], gid_map=MAP)
    with pytest.raises(ValueError, match="null"):
        ns.create({"net": "a\0b"})
    with pytest.raises(NativeError) as caught:
        ns.create({"net": str(tmp_path / "none" / "x")})
    assert (caught.value.errno, caught.value.step) == (errno.ENOENT, "create pin")
    many = [(i, 10 * i, 1) for i in range(1000)]
    with pytest.raises(NativeError) as caught:
        ns.create(chosen(pins, "user"), uid_map=many, gid_map=MAP)
    assert caught.value.errno == errno.E2BIG
    with pytest.raises(NativeError) as caught:
        ns.create(chosen(pins, "uts"), hostname="h" * 65)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert list(tmp_path.iterdir()) == []


def test_pin_and_identity(pins: dict[str, str], tmp_path: pathlib.Path) -> None:
    ns.pin("/proc/self/ns/net", pins["net"])
    assert ns.ns_inode(pins["net"]) == ns.ns_inode("/proc/self/ns/net")
    with pytest.raises(NativeError) as caught:
        ns.pin("/proc/self/ns/uts", pins["net"])
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(NativeError) as caught:
        ns.pin("/etc/hostname", pins["uts"])
    assert caught.value.errno == errno.ENXIO
    stale = tmp_path / "stale"
    stale.touch()
    assert not ns.is_pinned(str(stale))
    assert ns.unpin(str(stale))
    assert not stale.exists()


def test_kinds_of_sysctls() -> None:
    assert ns.sysctl_kind("net.core.somaxconn") == "net"
    assert ns.sysctl_kind("fs/mqueue/msg_max") == "ipc"
    assert ns.sysctl_kind("kernel.hostname") == "uts"
    with pytest.raises(NativeError) as caught:
        ns.sysctl_kind("vm.swappiness")
    assert caught.value.errno == errno.EPERM


def server_in(netns: str, host: str) -> socket.socket:
    """A listening socket inside a network namespace, made by a thread that is spoiled for anything else."""
    made: list[socket.socket] = []

    def make() -> None:
        import ctypes

        with open(netns) as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0) == 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind((host, 0))
        listener.listen(1)
        made.append(listener)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connect_in_and_counters(pins: dict[str, str], host: str) -> None:
    ns.create(chosen(pins, "net"))
    with server_in(pins["net"], host) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(NativeError) as caught:
            ns.connect_in("", host, port, 1000)
        assert caught.value.errno == errno.ECONNREFUSED
        with socket.socket(fileno=ns.connect_in(pins["net"], "localhost", port, 5000).take()) as client:
            client.setblocking(True)
            peer, _ = listener.accept()
            with peer:
                client.sendall(b"x" * 1000)
                assert peer.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        (lo,) = (link for link in ns.link_stats(pins["net"]) if link.name == "lo")
        assert lo.up
        assert lo.mtu == 65536
        assert lo.rx_bytes == lo.tx_bytes > 1000


def test_connect_gives_up_in_time_and_without_the_gil() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        waiting = []
        outcome: list[NativeError] = []
        started = threading.Event()

        def attempt() -> None:
            started.set()
            try:
                while True:  # those that still fit into the queue
                    waiting.append(ns.connect_in("", host, port, 300))
            except NativeError as e:
                outcome.append(e)

        thread = threading.Thread(target=attempt)
        thread.start()
        started.wait()
        turns = 0
        while thread.is_alive():
            turns += 1
            thread.join(0.01)
        for fd in waiting:
            fd.close()
    assert outcome[0].errno == errno.ETIMEDOUT
    assert turns > 3


def test_links_of_our_own() -> None:
    names = {link.name: link.index for link in ns.link_stats("")}
    assert names == {name: index for index, name in socket.if_nameindex()}
    with pytest.raises(NativeError) as caught:
        ns.addresses("", "nonesuch")
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(NativeError) as caught:
        ns.link_stats("/nonesuch")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/nonesuch")


async def test_many_links_and_addresses(pins: dict[str, str]) -> None:
    """More than one datagram of a dump; peers, both families, link-local last."""
    ns.create(chosen(pins, "net"))
    script = "; ".join(f"ip link add d{i} type bridge" for i in range(60))
    script += "; ip addr add 10.0.0.1/24 dev d7; ip -6 addr add fd00::1/64 dev d7 nodad; ip link set d7 up"
    script += "; ip addr add 10.0.0.5 peer 10.0.0.6 dev d8"
    await inside(chosen(pins, "net"), "sh", "-ec", script)
    assert len(ns.link_stats(pins["net"])) >= 61
    found = ns.addresses(pins["net"], "d7")
    assert found[:2] == ["10.0.0.1", "fd00::1"]
    assert [text for text in found[2:] if not text.startswith("fe80:")] == []
    assert ns.addresses(pins["net"], "d8") == ["10.0.0.5"]


@pytest.mark.parametrize("user", [False, True])
async def test_keeper_holds_a_pid_namespace(pins: dict[str, str], user: bool) -> None:
    kinds = ("net", "pid", "user") if user else ("net", "pid")
    keeper = ns.create_kept(
        chosen(pins, *kinds),
        [str(BIN / "pycrio-pause")],
        uid_map=MAP if user else (),
        gid_map=MAP if user else (),
    )
    try:
        assert ns.ns_inode(pins["pid"]) == ns.ns_inode(f"/proc/{keeper.pid}/ns/pid")
        status = pathlib.Path(f"/proc/{keeper.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["NSpid"].split() == [str(keeper.pid), "1"]
        assert set(fields["Uid"].split()) == {str(365535 if user else 65535)}
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert os.listdir(f"/proc/{keeper.pid}/root") == []
        assert sorted(os.listdir(f"/proc/{keeper.pid}/fd")) == ["0", "1", "2"]
        assert os.getsid(keeper.pid) == keeper.pid
        # a process of the pod sees the keeper, and cannot follow it to the host's files
        out = await inside(chosen(pins, *kinds), "sh", "-c", "echo $$; kill -0 1 && echo alive")
        assert out.split()[1] == "alive"
        assert end(keeper, signal.SIGTERM) == 0
    finally:
        keeper.pidfd.close()


def end(keeper: ns.Keeper, sig: int) -> int:
    os.kill(keeper.pid, sig)
    return os.waitpid(keeper.pid, 0)[1]


def test_keeper_that_cannot_run(pins: dict[str, str], tmp_path: pathlib.Path) -> None:
    script = tmp_path / "no-program"
    script.write_bytes(b"\x7fELF junk")
    script.chmod(0o755)
    with pytest.raises(NativeError) as caught:
        ns.create_kept(chosen(pins, "pid", "net"), [str(script)])
    assert (caught.value.errno, caught.value.step) == (errno.ENOEXEC, "exec")
    assert not os.path.exists(pins["net"])
    script.unlink()


def test_hold_userns_has_the_maps() -> None:
    with ns.hold_userns([(0, 1000, 1), (1, 200000, 99)], MAP) as user:
        assert fcntl.ioctl(user.fileno(), 0xB703) == 0x10000000  # NS_GET_NSTYPE: CLONE_NEWUSER
    with pytest.raises(NativeError):
        ns.hold_userns([], MAP)
