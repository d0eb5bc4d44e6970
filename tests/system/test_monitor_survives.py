"""What a monitor must live through: deaths around it, full disks, closed pipes, floods, pauses. Beside test_monitor."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pycrio._native import logmux

from .monitor_rig import OURS, Rig, packets, wait_for

pytestmark = pytest.mark.system


@pytest.fixture
def ours(tmp_path: pathlib.Path) -> Iterator[Rig]:
    rig = Rig(OURS, tmp_path)
    yield rig
    rig.close()


def gate(rig: Rig, name: str) -> pathlib.Path:
    """A fifo that the container sees as /tmp/name."""
    path = rig.bundle / "rootfs" / "tmp" / name
    os.mkfifo(path)
    return path


def opened(path: pathlib.Path) -> None:
    """Let the container go on that opens the fifo for reading."""
    with path.open("wb"):
        pass


def reached(path: pathlib.Path) -> None:
    """Wait until the container opens the fifo for writing and closes it."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        wait_for(fd)
        assert os.read(fd, 100) == b"here\n"
    finally:
        os.close(fd)


def logged(*paths: pathlib.Path) -> tuple[bytes, bytes]:
    log = b"".join(path.read_bytes() for path in paths)
    out, err, understood = logmux.split_streams(log)
    assert understood == len(log)
    return out, err


DAEMON = """
import os, subprocess, sys, json
sync = os.pipe(); start = os.pipe()
env = {**os.environ, "_OCI_SYNCPIPE": str(sync[1]), "_OCI_STARTPIPE": str(start[0])}
p = subprocess.Popen(sys.argv[1:], pass_fds=[sync[1], start[0]], env=env, stdin=subprocess.DEVNULL)
os.close(sync[1]); os.write(start[1], b"x")
assert p.wait(20) == 0
print(os.read(sync[0], 1000).decode(), end="", flush=True)
sys.stdin.read()
"""


def test_daemon_that_is_killed(ours: Rig) -> None:
    """The process that started the monitor dies by SIGKILL, with all its ends of all pipes; the container goes on."""
    ours.prepare("cat /tmp/go; echo out; echo err >&2; exit 6")
    go = gate(ours, "go")
    command = [sys.executable, "-c", DAEMON, str(OURS), *ours.arguments()]
    with subprocess.Popen(command, cwd=ours.bundle, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout
        assert json.loads(daemon.stdout.readline())["pid"] > 0
        ours.monitor_pid = int((ours.bundle / "conmon-pidfile").read_text())
        daemon.kill()
    ours.start()
    opened(go)
    assert ours.exit_code() == 6
    assert logged(ours.log_path) == (b"out\n", b"err\n")


def test_daemon_that_dies_before_the_report(ours: Rig) -> None:
    """Nobody reads the report: what was created keeps its monitor, so that the next daemon finds it."""
    ours.prepare("echo out; exit 4")
    process = ours.launch(ours.arguments())
    os.close(ours.closers.pop())
    assert process.wait(20) == 0
    ours.monitor_pid = int((ours.bundle / "conmon-pidfile").read_text())
    states: list[str] = []
    while "created" not in states:
        assert len(states) < 500, states[-1]
        states.append(json.loads(ours.runc("state", ours.name).stdout or b"{}").get("status", ""))
    ours.start()
    assert ours.exit_code() == 4
    assert logged(ours.log_path)[0] == b"out\n"


def test_broken_pipes_all_around(ours: Rig) -> None:
    """Its own stderr has no reader when it has to complain, and clients vanish with output on the way to them."""
    ours.prepare("read x; yes 0123456789 | head -n 200000; echo end; read x; exit 5")
    ours.create("-i", "--leave-stdin-open", "--log-level", "trace")
    process = ours.children[-1]
    assert process.stderr
    process.stderr.close()
    user, *vanishing = (ours.attach() for _ in range(20))
    ours.start()
    user.send(b"\n")
    for client in vanishing:
        client.recv(100)
        client.close()
    packets(user, b"end\n")
    ours.log_path.rename(ours.log_path.with_suffix(".old"))
    ours.log_path.parent.rename(ours.base / "elsewhere")
    ours.control(b"2 0 0\n")  # fails, and says so to nobody
    user.send(b"\n")
    packets(user)
    assert ours.exit_code() == 5
    assert logged(ours.base / "elsewhere" / "log.old")[0] == b"0123456789\n" * 200000 + b"end\n"


def test_sigpipe_sent_to_the_monitor(ours: Rig) -> None:
    """Service managers end a scope with SIGPIPE for this very reason: it does nothing to the monitor."""
    ours.prepare("cat /tmp/go; echo out; exit 6")
    go = gate(ours, "go")
    ours.run()
    for _ in range(3):
        os.kill(ours.monitor_pid, signal.SIGPIPE)
    opened(go)
    assert ours.exit_code() == 6
    assert logged(ours.log_path)[0] == b"out\n"


def test_attach_flood_during_output(ours: Rig) -> None:
    """Connections come and go by the hundred, and one sends without end to a container that reads nothing."""
    ours.prepare("cat /tmp/go; yes 0123456789 | head -n 100000; echo end; sleep 100")
    go = gate(ours, "go")
    ours.create("-i")
    pusher, user = ours.attach(), ours.attach()
    ours.start()
    pusher.setblocking(False)
    sent = 0
    while sent < 1 << 20:
        try:
            sent += pusher.send(b"x" * 4096)
        except BlockingIOError:
            break
    assert sent < 1 << 20  # held back, not piled up in the monitor
    opened(go)
    for _ in range(500):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(ours.base / "socks" / ours.name / "attach"))
    assert packets(user, b"end\n")[2] == b"0123456789\n" * 100000 + b"end\n"
    ours.runc("kill", ours.name, "KILL")
    assert ours.exit_code() == 137


def test_disk_that_is_full_for_a_while(ours: Rig) -> None:
    """What does not fit is lost in whole lines; when there is room again the log goes on, the container never knew."""
    ours.prepare("seq 1 100000; read x; seq 200001 200100; echo end >&2; exit 8")
    logs = ours.base / "logs"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", logs], check=True)
    try:
        ours.create("-i")
        user = ours.attach()
        ours.start()
        packets(user, b"\n100000\n")
        subprocess.run(["mount", "-o", "remount,size=4m", logs], check=True)
        user.send(b"\n")
        packets(user)
        assert ours.exit_code() == 8
        out, err = logged(ours.log_path)
        numbers = [int(line) for line in out.split()]
        assert numbers[-100:] == list(range(200001, 200101))
        lost = numbers[:-100]
        assert 0 < len(lost) < 100000
        assert lost == sorted(set(lost))
        assert err == b"end\n"
    finally:
        subprocess.run(["umount", "-l", logs], check=True)


def test_log_directory_that_comes_back(ours: Rig) -> None:
    ours.prepare("echo one; read x; echo two; read x; echo three; exit 9")
    ours.create("-i", "--leave-stdin-open")
    user = ours.attach()
    ours.start()
    ours.wait_log(b"one")
    ours.log_path.unlink()
    ours.log_path.parent.rmdir()
    ours.control(b"2 0 0\n")
    user.send(b"\n")
    packets(user, b"two\n")
    ours.log_path.parent.mkdir()
    ours.control(b"2 0 0\n")
    while not ours.log_path.exists():
        assert pathlib.Path(f"/proc/{ours.monitor_pid}").exists()
    user.send(b"\n")
    packets(user)
    assert ours.exit_code() == 9
    assert logged(ours.log_path)[0] == b"three\n"


def test_runtime_that_crashes_talkative(ours: Rig) -> None:
    """More than a pipe holds on stderr, then SIGSEGV: the caller gets an answer, and of the words the last."""
    ours.prepare("true")
    fake = ours.base / "fake"
    fake.write_text("#!/bin/sh\nyes 0123456789 | head -n 30000 >&2\necho the end is near >&2\nkill -SEGV $$\n")
    fake.chmod(0o755)
    ours.runtime = str(fake)
    report = ours.create()
    assert report["pid"] == -1
    assert "0123456789" in report["message"]
    assert len(report["message"]) <= 64 << 10
    assert not (ours.base / "exits" / ours.name).exists()


@pytest.mark.parametrize("tty", [False, True], ids=["pipes", "terminal"])
def test_stdio_closed_by_a_container_that_lives_on(ours: Rig, tty: bool) -> None:
    """No spinning, no exit: users may come, sizes may change, and the exit code is there in the end."""
    ours.prepare("echo bye; exec <&- >&- 2>&-; echo here > /tmp/at; cat /tmp/go > /tmp/got; exit 6", tty=tty)
    at, go = gate(ours, "at"), gate(ours, "go")
    ours.create()
    user = ours.attach()
    ours.start()
    reached(at)
    ours.control(b"1 30 90\n")
    user.send(b"nobody reads this\n")
    before = cpu_ticks(ours.monitor_pid)
    for _ in range(20):
        ours.attach().close()
        ours.control(b"1 31 91\n")
    assert cpu_ticks(ours.monitor_pid) - before < 50
    opened(go)
    packets(user)
    assert ours.exit_code() == 6
    assert logged(ours.log_path)[0].startswith(b"bye")


def cpu_ticks(pid: int) -> int:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_grandchild_of_a_container_keeps_the_pipes_open(ours: Rig) -> None:
    """In the host's pid namespace children outlive the container: they neither hold the end up nor stay in the log."""
    ours.prepare("trap '' HUP; (echo here > /tmp/at; cat /tmp/go; echo late) & read x < /tmp/at; echo bye; exit 7")
    gate(ours, "at")
    go = gate(ours, "go")
    config = json.loads((ours.bundle / "config.json").read_text())
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "pid"]
    (ours.bundle / "config.json").write_text(json.dumps(config))
    ours.run()
    assert ours.exit_code() == 7
    assert logged(ours.log_path)[0] == b"bye\n"
    opened(go)  # the grandchild was alive all the time: else this would wait for ever


def test_stopped_while_the_container_writes_and_ends(ours: Rig) -> None:
    """Stopped: output waits in the pipe, users in the queue, the exit in the kernel. Continued: all of it counts."""
    ours.prepare("cat /tmp/go; seq 1 10000; echo here > /tmp/at; exit 3")  # 48 894 bytes: less than the pipe takes
    at, go = gate(ours, "at"), gate(ours, "go")
    ours.run()
    first = ours.attach()
    os.kill(ours.monitor_pid, signal.SIGSTOP)
    second = ours.attach()
    ours.control(b"1 20 20\n")
    opened(go)
    reached(at)
    os.kill(ours.monitor_pid, signal.SIGCONT)
    numbers = b"".join(b"%d\n" % n for n in range(1, 10001))
    assert packets(first)[2] == numbers
    packets(second)
    assert ours.exit_code() == 3
    assert logged(ours.log_path)[0] == numbers
