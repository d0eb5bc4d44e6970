"""Debian's podman with --conmon pointing at our monitor, on scratch storage: a user who swaps one for the other."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import select
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from .monitor_rig import APPLETS, OURS

pytestmark = pytest.mark.system


class Podman:
    """podman on storage of its own; every call has a time limit."""

    def __init__(self, base: pathlib.Path) -> None:
        self.base = base
        self.environment = {**os.environ, "CONTAINERS_CONF": str(base / "containers.conf")}
        # The default limits are above what an unprivileged test host grants.
        ulimits = 'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]'
        (base / "containers.conf").write_text(f"[containers]\n{ulimits}\n")

    def command(self, *arguments: str) -> list[str]:
        return [
            "podman",
            *(
                "--root",
                str(self.base / "root"),
                "--runroot",
                str(self.base / "run"),
                "--tmpdir",
                str(self.base / "tmp"),
            ),
            *("--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime", "runc", "--storage-driver", "vfs"),
            *("--conmon", str(OURS), *arguments),
        ]

    def __call__(self, *arguments: str, stdin: bytes = b"", code: int | None = 0) -> subprocess.CompletedProcess[bytes]:
        result = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, check=False, timeout=60, env=self.environment
        )
        assert code is None or result.returncode == code, (result.returncode, result.stdout, result.stderr)
        return result

    def run(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> bytes:
        """Output of a container run in the foreground and removed."""
        return self("run", "--rm", "--network", "none", *arguments, stdin=stdin, code=code).stdout

    def detached(self, name: str, *arguments: str) -> None:
        self("run", "-d", "--name", name, "--network", "none", *arguments)

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", name).stdout)[0]
        return found


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    base = tmp_path_factory.mktemp("pm")
    podman = Podman(base)
    archive = base / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type = tarfile.SYMTYPE
            link.linkname = "busybox"
            tar.addfile(link)
    podman("import", str(archive), "bb")
    yield podman
    podman("rm", "-f", "-a", "-t", "0")
    podman("system", "prune", "-a", "-f", code=None)


def test_foreground_output_and_exit_code(podman: Podman) -> None:
    result = podman("run", "--rm", "--network", "none", "bb", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_stdin_goes_through(podman: Podman) -> None:
    data = b"%s\n" % (b"line of input" * 10) * 5000
    assert podman.run("-i", "bb", "cat", stdin=data) == data


def test_much_output_is_complete(podman: Podman) -> None:
    out = podman.run("bb", "sh", "-c", "yes 01234567890123456789 | head -n 1000000")
    assert out == b"01234567890123456789\n" * 1000000


def test_failure_to_start(podman: Podman) -> None:
    assert b"/no/such" in podman("run", "--rm", "--network", "none", "bb", "/no/such", code=127).stderr


def test_terminal(podman: Podman) -> None:
    master, slave = pty.openpty()
    command = podman.command("run", "--rm", "-it", "--network", "none", "bb", "sh", "-c", "tty; read x; echo got $x")
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=podman.environment)
    os.close(slave)
    seen = b""
    typed = False
    while True:
        assert select.select([master], [], [], 30)[0], seen
        try:
            data = os.read(master, 4096)
        except OSError:  # EIO: the other side is closed
            break
        if not data:
            break
        seen += data
        if b"/dev/pts/0" in seen and not typed:
            os.write(master, b"hello\n")
            typed = True
    os.close(master)
    assert process.wait(30) == 0
    assert b"got hello" in seen


def test_detached_logs_exec_stop(podman: Podman) -> None:
    podman.detached("d", "bb", "sh", "-c", "trap 'exit 3' TERM; echo started; while :; do sleep 1; done")
    assert podman("logs", "d").stdout == b"started\n"
    assert podman("exec", "d", "echo", "inside").stdout == b"inside\n"
    podman("exec", "d", "sh", "-c", "exit 9", code=9)
    assert podman("exec", "-i", "d", "cat", stdin=b"typed").stdout == b"typed"
    assert podman("exec", "d", "/no/such", code=127).stderr.count(b"/no/such") == 2  # in one sentence
    podman("exec", "-d", "d", "sh", "-c", "echo from exec > /proc/1/fd/1")
    podman("stop", "-t", "10", "d")
    assert podman.inspect("d")["State"]["ExitCode"] == 3
    podman("start", "d")
    podman("kill", "-s", "KILL", "d")
    assert podman("wait", "d").stdout == b"137\n"
    podman("rm", "-f", "d")


def test_stop_timeout_kills(podman: Podman) -> None:
    podman.detached("s", "bb", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    podman("stop", "-t", "1", "s")
    assert podman.inspect("s")["State"]["ExitCode"] == 137
    podman("rm", "-f", "s")


def test_attach_to_a_running_container(podman: Podman) -> None:
    podman("create", "-i", "--name", "a", "--network", "none", "bb", "sh", "-c", "read x; echo heard $x; exit 6")
    podman("start", "a")
    assert podman("attach", "a", stdin=b"you\n").stdout.rstrip() == b"heard you"  # podman adds a newline
    assert podman("wait", "a").stdout == b"6\n"
    assert podman("logs", "a").stdout == b"heard you\n"
    podman("rm", "-f", "a")


def test_log_size_limit(podman: Podman) -> None:
    podman.detached("l", "--log-driver", "k8s-file", "--log-opt", "max-size=10kb", "bb", "seq", "1", "5000")
    podman("wait", "l")
    log = pathlib.Path(podman.inspect("l")["HostConfig"]["LogConfig"]["Path"])
    assert 0 < log.stat().st_size <= 10240
    assert podman("logs", "l").stdout.split()[-1] == b"5000"
    podman("rm", "-f", "l")


def test_restart_policy(podman: Podman) -> None:
    podman.detached("r", "--restart", "on-failure:3", "bb", "sh", "-c", "echo run; exit 1")
    for _ in range(40):
        podman("wait", "r")
        state = podman.inspect("r")
        if state["RestartCount"] == 3 and state["State"]["Status"] == "exited":
            break
    assert podman("logs", "r").stdout == b"run\n" * 4
    podman("rm", "-f", "r")


def test_restart_always_until_stopped(podman: Podman) -> None:
    """Each life writes to a fifo, and one that finds the file stays: a stop ends it for good."""
    shared = podman.base / "shared"
    shared.mkdir()
    os.mkfifo(shared / "lives")
    life = "echo life > /d/lives; test -e /d/stay || exit 0; echo stays > /d/lives; sleep 1000"
    reader = os.open(shared / "lives", os.O_RDWR)  # both ends: it never sees an end of file
    podman.detached("ra", "--restart", "always", "-v", f"{shared}:/d", "bb", "sh", "-c", life)
    try:
        lives = b""
        while b"stays" not in lives:
            assert select.select([reader], [], [], 60)[0], lives
            lives += os.read(reader, 100)
            if lives.count(b"life") == 3:
                (shared / "stay").touch()
    finally:
        podman("stop", "-t", "0", "ra")
        os.close(reader)
    state = podman.inspect("ra")
    assert state["State"]["Status"] == "exited"
    assert state["RestartCount"] >= 2
    podman("rm", "-f", "ra")


def test_restart_unless_stopped(podman: Podman) -> None:
    """Each life says so in one fifo and ends by the other; the stop that the user asks for is the end of all."""
    shared = podman.base / "us"
    shared.mkdir()
    for name in ("lives", "end"):
        os.mkfifo(shared / name)
    lives, end = (os.open(shared / name, os.O_RDWR) for name in ("lives", "end"))
    script = "echo life > /d/lives; read x < /d/end"
    podman.detached("us", "--restart", "unless-stopped", "-v", f"{shared}:/d", "bb", "sh", "-c", script)
    try:
        for _ in range(3):
            assert select.select([lives], [], [], 60)[0]
            assert os.read(lives, 100) == b"life\n"
            os.write(end, b"\n")
        assert select.select([lives], [], [], 60)[0]
    finally:
        podman("stop", "-t", "0", "us")
        os.close(lives)
        os.close(end)
    assert podman.inspect("us")["State"]["Status"] == "exited"
    podman("rm", "-f", "us")


def test_started_again_with_its_output(podman: Podman) -> None:
    podman("create", "--name", "sa", "--network", "none", "bb", "sh", "-c", "echo out; echo err >&2; exit 4")
    for _ in range(2):
        result = podman("start", "-a", "sa", code=4)
        assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert podman("logs", "sa").stdout == b"out\n" * 2
    assert podman("logs", "--tail", "1", "sa").stderr == b"err\n"
    podman("rm", "sa")


def test_restarted_paused_and_ended_in_time(podman: Podman) -> None:
    podman.detached("rp", "bb", "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 1; done")
    podman("restart", "-t", "10", "rp")
    podman("pause", "rp")
    podman("unpause", "rp")
    podman("stop", "-t", "10", "rp")
    assert podman.inspect("rp")["State"]["ExitCode"] == 3
    assert podman("logs", "rp").stdout == b"up\n" * 2
    podman("rm", "-f", "rp")
    podman("run", "--timeout", "1", "--name", "to", "--network", "none", "bb", "sleep", "1000", code=255)
    assert podman.inspect("to")["State"]["Running"] is False
    podman("rm", "-f", "to")


def test_output_that_is_passed_through(podman: Podman) -> None:
    assert podman.run("--log-driver", "passthrough", "bb", "echo", "through") == b"through\n"


def test_descriptors_that_are_kept(podman: Podman) -> None:
    """--preserve-fds: from podman through the monitor and the runtime to the container."""
    text = podman.base / "kept"
    text.write_bytes(b"kept open\n")
    options = ("--rm", "--network", "none", "--preserve-fds", "1")
    command = podman.command("run", *options, "bb", "sh", "-c", "cat <&3")
    shell = ["sh", "-c", f'exec 3< {text}; exec "$@"', "sh", *command]
    done = subprocess.run(shell, capture_output=True, check=True, timeout=60, env=podman.environment)
    assert done.stdout == b"kept open\n"


def test_exec_takes_much_input_and_its_place(podman: Podman) -> None:
    podman.detached("ei", "bb", "sleep", "1000")
    data = b"0123456789abcde\n" * 200_000
    assert podman("exec", "-i", "ei", "cat", stdin=data).stdout == data
    where = podman("exec", "-u", "12", "-e", "A=b", "-w", "/bin", "ei", "sh", "-c", "echo $A $PWD")
    assert where.stdout == b"b /bin\n"
    podman("rm", "-f", "-t", "0", "ei")


def test_container_of_a_pod(podman: Podman) -> None:
    podman("pod", "create", "--infra=false", "--name", "pp")
    assert podman("run", "--rm", "--pod", "pp", "bb", "echo", "in a pod").stdout == b"in a pod\n"
    podman("pod", "rm", "-f", "pp")


def test_removed_at_its_end(podman: Podman) -> None:
    """run -d --rm: the monitor's exit command is what removes it."""
    podman.detached("rm", "--rm", "bb", "true")
    podman("wait", "rm", code=None)  # it may be gone already
    for _ in range(100):
        if podman("container", "exists", "rm", code=None).returncode == 1:
            break
    else:
        raise AssertionError("still there")


def test_terminal_of_an_exec(podman: Podman) -> None:
    podman.detached("et", "bb", "sleep", "1000")
    master, slave = pty.openpty()
    command = podman.command("exec", "-it", "et", "sh", "-c", "tty; read x; echo got $x; exit 4")
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=podman.environment)
    os.close(slave)
    try:
        seen = until(master, b"/dev/pts/")
        os.write(master, b"hello\n")
        seen += until(master, b"got hello")
        assert process.wait(30) == 4, seen
    finally:
        os.close(master)
        process.kill()
        process.wait()
        podman("rm", "-f", "-t", "0", "et")


def until(fd: int, text: bytes) -> bytes:
    """What a terminal shows, up to text."""
    seen = b""
    while text not in seen:
        assert select.select([fd], [], [], 30)[0], seen
        seen += os.read(fd, 4096)
    return seen


def test_attached_user_detaches_and_signals_pass(podman: Podman) -> None:
    """The detach keys leave the container running; a signal to ``podman run`` reaches what it runs."""
    master, slave = pty.openpty()
    options = ("-it", "--name", "dk", "--network", "none", "--detach-keys", "ctrl-q")
    command = podman.command("run", *options, "bb", "sh", "-c", "echo up; sleep 1000")
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=podman.environment)
    os.close(slave)
    try:
        until(master, b"up")
        os.write(master, b"\x11")  # ctrl-q
        assert process.wait(30) == 0
    finally:
        os.close(master)
        process.kill()
        process.wait()
    assert podman.inspect("dk")["State"]["Status"] == "running"
    podman("rm", "-f", "-t", "0", "dk")
    # podman takes signals as its own until a moment after it has shown the first output, so it has to prove more.
    script = "trap 'exit 5' TERM; while read x; do echo up; done"
    command = podman.command("run", "--rm", "-i", "--network", "none", "bb", "sh", "-c", script)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, env=podman.environment) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(3):
            process.stdin.write(b"\n")
            assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(30) == 5


def test_log_is_followed(podman: Podman) -> None:
    podman("create", "-i", "--name", "lf", "--network", "none", "bb", "sh", "-c", "echo one; read x; echo two")
    podman("start", "lf")
    follower = podman.command("logs", "-f", "lf")
    with subprocess.Popen(follower, stdout=subprocess.PIPE, env=podman.environment) as process:
        assert process.stdout
        assert process.stdout.readline() == b"one\n"
        podman("attach", "lf", stdin=b"go\n")
        assert process.stdout.read() == b"two\n"
        assert process.wait(30) == 0
    podman("rm", "-f", "lf")


def test_no_log(podman: Podman) -> None:
    podman.detached("nl", "--log-driver", "none", "bb", "echo", "unseen")
    podman("wait", "nl")
    assert b"unseen" not in podman("logs", "nl", code=None).stdout
    podman("rm", "-f", "nl")


def test_out_of_memory(podman: Podman) -> None:
    script = "x=x; while :; do x=$x$x$x$x; done"
    podman.detached("o", "--memory", "16m", "--memory-swap", "16m", "bb", "sh", "-c", script)
    assert podman("wait", "o").stdout == b"137\n"
    assert podman.inspect("o")["State"]["OOMKilled"] is True
    podman("rm", "-f", "o")


def test_version_is_accepted(podman: Podman) -> None:
    info = json.loads(podman("info", "--format", "json").stdout)["host"]["conmon"]
    assert info["path"] == str(OURS)
    assert info["version"].startswith("conmon version 2.")
