"""The monitor with real runc: the same behaviour asked of ours and of Debian's conmon, then what is ours alone."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import re
import select
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pycrio._native import logmux

from .monitor_rig import CONMON, OURS, RUNC, Rig, packets, pidfd, wait_for

pytestmark = pytest.mark.system


@pytest.fixture(params=[OURS, CONMON], ids=["ours", "conmon"])
def rig(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Rig]:
    """Either program: what both must do."""
    rig = Rig(request.param, tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def ours(tmp_path: pathlib.Path) -> Iterator[Rig]:
    """Our program alone: where it does better."""
    rig = Rig(OURS, tmp_path)
    yield rig
    rig.close()


def output(rig: Rig) -> tuple[bytes, bytes]:
    log = rig.log_path.read_bytes()
    out, err, understood = logmux.split_streams(log)
    assert understood == len(log)
    return out, err


# --- both -------------------------------------------------------------------------------------------------------------


def test_container_from_create_to_exit(rig: Rig) -> None:
    rig.prepare("echo out; echo err >&2; printf tail; exit 3")
    report = rig.create()
    assert report == {"pid": int((rig.bundle / "pidfile").read_text())}
    assert stat.S_ISFIFO((rig.bundle / "ctl").stat().st_mode)
    assert stat.S_IMODE((rig.bundle / "ctl").stat().st_mode) == 0o640  # 0660 under umask 022
    assert stat.S_ISFIFO((rig.bundle / "winsz").stat().st_mode)
    link = rig.base / "socks" / rig.name
    assert link.readlink() == rig.bundle
    assert stat.S_IMODE((link / "attach").stat().st_mode) == 0o700
    assert stat.S_IMODE(rig.log_path.stat().st_mode) == (0o640 if rig.program == OURS else 0o600)  # as conmon since 2.2
    rig.start()
    assert rig.exit_code() == 3
    assert output(rig) == (b"out\ntail", b"err\n")
    assert b" stdout P tail\n" in rig.log_path.read_bytes()
    assert not (rig.bundle / "attach").exists()
    assert not link.is_symlink() or rig.program == CONMON  # which removes the link since 2.2
    assert not (rig.bundle / "oom").exists()


def test_killed_container_is_128_plus_signal(rig: Rig) -> None:
    rig.prepare("sleep 100")
    rig.run()
    rig.runc("kill", rig.name, "KILL")
    assert rig.exit_code() == 137


def test_signals_are_forwarded(rig: Rig) -> None:
    rig.prepare("trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 1; done")
    rig.run()
    rig.wait_log(b"ready")
    os.kill(rig.monitor_pid, signal.SIGPIPE)
    os.kill(rig.monitor_pid, signal.SIGTERM)
    assert rig.exit_code() == 5
    assert b"caught" in rig.log_path.read_bytes()


def test_failed_create_tells_the_runtime_s_words(rig: Rig) -> None:
    rig.prepare("true")
    config = json.loads((rig.bundle / "config.json").read_text())
    config["process"]["args"] = ["/no/such/program"]
    (rig.bundle / "config.json").write_text(json.dumps(config))
    report = rig.create()
    assert report["pid"] == -1
    assert "/no/such/program" in report["message"]
    assert not (rig.base / "exits" / rig.name).exists()


def test_runtime_that_dies(rig: Rig) -> None:
    rig.prepare("true")
    fake = rig.base / "fake"
    fake.write_text("#!/bin/sh\necho going down >&2\nkill -SEGV $$\n")
    fake.chmod(0o755)
    rig.runtime = str(fake)
    assert rig.create() == {"pid": -1, "message": "going down\n"}


RECORDER = """#!/bin/sh
printf '%s\\n' "$@" "pid=${LISTEN_PID:-none}" "stdin=$(readlink /proc/self/fd/0)" > OUT
printf '%s' "$(cat /proc/self/oom_score_adj) $PPID" > OUT.extra
echo no >&2
exit 1
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-s", "--no-pivot", "--no-new-keyring", "--runtime-opt", "--x=1"],
         ["--systemd-cgroup", "ROOT", "create", "--bundle", "BUNDLE", "--pid-file", "PID", "--no-pivot",
          "--no-new-keyring", "--x=1", "NAME"]),
        (["--restore", "/cp", "--runtime-opt", "--tcp-established", "--restore-arg", "--file-locks"],
         ["ROOT", "restore", "--bundle", "BUNDLE", "--pid-file", "PID", "--detach",
          "--image-path", "/cp", "--work-path", "BUNDLE",
          "--tcp-established", "--file-locks", "NAME"]),
    ],
)  # fmt: skip
def test_runtime_command_line(rig: Rig, arguments: list[str], expected: list[str]) -> None:
    rig.prepare("true")
    fake, out = rig.base / "fake", rig.base / "seen"
    fake.write_text(RECORDER.replace("OUT", str(out)))
    fake.chmod(0o755)
    rig.runtime = str(fake)
    assert rig.create(*arguments, LISTEN_PID="1") == {"pid": -1, "message": "no\n"}
    words = {"ROOT": rig.root_argument, "BUNDLE": str(rig.bundle), "PID": str(rig.bundle / "pidfile"), "NAME": rig.name}
    lines = out.read_text().splitlines()
    assert lines[:-2] == [words.get(word, word) for word in expected]
    assert lines[-2:] == ["pid=1", "stdin=/dev/null"]
    own = pathlib.Path("/proc/self/oom_score_adj").read_text().strip()
    assert (out.parent / "seen.extra").read_text().split() == [own, str(rig.monitor_pid)]


def test_listen_pid_is_replaced(rig: Rig) -> None:
    rig.prepare("true")
    fake, out = rig.base / "fake", rig.base / "seen"
    fake.write_text(RECORDER.replace("OUT", str(out)).replace("exit 1", f"echo $$ > {out}.pid; exit 1"))
    fake.chmod(0o755)
    rig.runtime = str(fake)
    assert rig.create("--replace-listen-pid", LISTEN_PID="1") == {"pid": -1, "message": "no\n"}
    assert f"pid={(out.parent / 'seen.pid').read_text().strip()}" in out.read_text().splitlines()


def test_newer_api_uses_the_key_data(rig: Rig) -> None:
    rig.prepare("true")
    assert rig.create("--api-version")["data"] > 0
    rig.start()
    assert rig.exit_code() == 0


def exec_arguments(rig: Rig, process: dict[str, object], *extra: str) -> list[str]:
    spec = rig.base / "process.json"
    spec.write_text(json.dumps({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], **process}))
    return [
        *("-c", rig.name, "-n", "name", "-r", rig.runtime, "--runtime-arg", rig.root_argument, "-e"),
        *("-p", str(rig.base / "exec-pid"), "-l", str(rig.base / "exec-log"), "--exec-process-spec", str(spec)),
        *("--socket-dir-path", str(rig.base / "socks"), "--log-level", "info", *extra),
    ]


def test_exec_sync(rig: Rig) -> None:
    rig.prepare("echo ready; sleep 100")
    rig.run()
    rig.wait_log(b"ready")
    arguments = exec_arguments(rig, {"args": ["sh", "-c", "echo o; echo e >&2; exit 7"]}, "--sync")
    process = rig.launch(arguments)
    assert rig.sync
    assert rig.sync.line() == {"exit_code": 7}
    assert process.wait(20) == 7
    out, err, _ = logmux.split_streams((rig.base / "exec-log").read_bytes())
    assert (out, err) == (b"o\n", b"e\n")


def test_exec_of_a_missing_program(rig: Rig) -> None:
    rig.prepare("echo ready; sleep 100")
    rig.run()
    rig.wait_log(b"ready")
    process = rig.launch(exec_arguments(rig, {"args": ["/no/such"]}, "--sync"))
    assert rig.sync
    report = rig.sync.line()
    assert report
    assert report["exit_code"] == -1
    assert "/no/such" in report["message"]
    assert process.wait(20) == 1


def test_exec_timeout(rig: Rig) -> None:
    rig.prepare("echo ready; sleep 100")
    rig.run()
    rig.wait_log(b"ready")
    process = rig.launch(exec_arguments(rig, {"args": ["sh", "-c", "sleep 100; true"]}, "--sync", "-T", "1"))
    assert rig.sync
    assert rig.sync.line() == {"exit_code": -1, "message": "command timed out"}
    assert process.wait(20) == 255


def test_terminal(rig: Rig) -> None:
    # The size may arrive after the key strokes: conmon hands it from one fifo to the other.
    script = 'read x; while [ "$(stty size)" != "33 77" ]; do :; done; stty size; read name; echo hello $name'
    rig.prepare(script, tty=True)
    rig.create()
    client = rig.attach()
    rig.start()
    rig.control(b"1 33 77\n")
    client.send(b"go\n")
    assert b"33 77\r\n" in packets(client, b"33 77\r\n")[2]
    client.send(b"you\n")
    assert b"hello you\r\n" in packets(client)[2]
    client.close()
    assert rig.exit_code() == 0
    assert b" stdout F 33 77\r\n" in rig.log_path.read_bytes()


def test_resize_fifo(rig: Rig) -> None:
    rig.prepare('read x; while [ "$(stty size)" != "10 20" ]; do :; done; stty size; read x', tty=True)
    rig.create()
    client = rig.attach()
    rig.start()
    rig.control(b"10 20\n", "winsz")
    client.send(b"\n")
    packets(client, b"10 20\r\n")
    client.send(b"\n")
    packets(client)
    client.close()
    assert rig.exit_code() == 0


def test_attach_with_stdin(rig: Rig) -> None:
    rig.prepare("cat; echo end >&2")
    rig.create("-i")
    client, watcher = rig.attach(), rig.attach()
    rig.start()
    data = os.urandom(3000).replace(b"\n", b" ") + b"\n"
    client.send(data)
    assert packets(client, size=len(data))[2] == data
    client.shutdown(socket.SHUT_WR)  # closes the container's stdin
    assert packets(client)[3] == b"end\n"
    assert packets(watcher)[2] == data
    client.close()
    watcher.close()
    assert rig.exit_code() == 0
    assert output(rig) == (data, b"end\n")


def test_stdin_left_open(rig: Rig) -> None:
    rig.prepare("read x; echo $x; read x; echo $x")
    rig.create("-i", "--leave-stdin-open")
    first = rig.attach()
    rig.start()
    first.send(b"one\n")
    rig.wait_log(b"F one")
    first.close()
    second = rig.attach()
    second.send(b"two\n")
    packets(second)
    second.close()
    assert rig.exit_code() == 0
    assert output(rig)[0] == b"one\ntwo\n"


def test_log_reopen(rig: Rig) -> None:
    rig.prepare("echo before; read x; echo after")
    rig.create("-i")
    client = rig.attach()
    rig.start()
    rig.wait_log(b"before")
    old = rig.log_path.with_suffix(".old")
    rig.log_path.rename(old)
    rig.control(b"2 0 0\n")
    rig.wait_log(b"")
    client.send(b"\n")
    packets(client)
    client.close()
    assert rig.exit_code() == 0
    assert b"before" in old.read_bytes()
    assert b"after" not in old.read_bytes()
    assert rig.log_path.read_bytes().endswith(b" stdout F after\n")


def test_log_size_limit(rig: Rig) -> None:
    rig.prepare("seq 1 2000")
    rig.run("--log-size-max", "4096")
    assert rig.exit_code() == 0
    log = rig.log_path.read_bytes()
    assert 0 < len(log) <= 4096
    lines = [int(line.rpartition(b" ")[2]) for line in log.splitlines()]
    assert lines == list(range(lines[0], 2001))


def test_log_total_limit(rig: Rig) -> None:
    rig.prepare("seq 1 2000")
    rig.run("--log-global-size-max", "1000")
    assert rig.exit_code() == 0
    log = rig.log_path.read_bytes()
    assert 1000 <= len(log) < 1060
    assert output(rig)[0].split() == [str(i).encode() for i in range(1, len(log.splitlines()) + 1)]


def test_exit_command(rig: Rig) -> None:
    rig.prepare("exit 4")
    mark = rig.base / "mark"
    command = ["--exit-command", "/bin/sh", "--exit-command-arg", "-c", "--exit-command-arg"]
    rig.run(*command, f"cat {rig.base}/exits/{rig.name} > {mark}; ls /proc/self/fd | wc -l >> {mark}")
    assert rig.exit_code() == 4
    code, fds = mark.read_text()[0], mark.read_text()[1:]
    assert code == "4"
    assert int(fds) == 4  # stdio and the directory that ls reads


def test_no_log(rig: Rig) -> None:
    rig.prepare("echo one; echo two")
    arguments = rig.arguments()
    arguments[arguments.index("-l") + 1] = "none"
    process = rig.launch(arguments)
    assert process.wait(20) == 0
    rig.monitor_pid = int((rig.bundle / "conmon-pidfile").read_text())
    assert rig.sync
    assert rig.sync.line()
    client = rig.attach()
    rig.start()
    assert packets(client)[2] == b"one\ntwo\n"
    client.close()
    assert rig.exit_code() == 0
    assert list(rig.log_path.parent.iterdir()) == []


def test_oom_is_reported(rig: Rig) -> None:
    rig.prepare("x=x; while :; do x=$x$x$x$x; done", resources={"memory": {"limit": 16 << 20, "swap": 16 << 20}})
    rig.run()
    assert rig.exit_code() == 137
    assert (rig.bundle / "oom").read_bytes() == b""
    assert (rig.base / "persist" / "oom").read_bytes() == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--foo"], ["-tx"], ["--cid"], ["-T", "abc", "-c", "x"], ["-c", "x"], [], ["-c", "x", "-u", "y"],
        ["-c", "x", "-u", "y", "-r", "/nonexistent"], ["-c", "x", "-u", "y", "-r", RUNC],
        ["-c", "x", "-u", "y", "-r", RUNC, "-l", "foo:bar"],
        ["-c", "x", "-u", "y", "-r", RUNC, "-l", "/no/such/dir/log"],
        ["-c", "x", "-e", "-r", RUNC, "-l", "none"], ["-c", "x", "--exec-attach"],
    ],
)  # fmt: skip
def test_bad_command_lines_are_refused_alike(arguments: list[str]) -> None:
    texts = []
    for program in (OURS, CONMON):
        result = subprocess.run([program, *arguments], capture_output=True, check=False, timeout=20)
        assert result.returncode == 1
        # conmon speaks on stderr since 2.2; the one of Debian used stdout for some of it
        assert result.stdout == b"" or program == CONMON
        text = (result.stdout + result.stderr).decode().replace("option parsing failed: ", "")
        texts.append(re.sub(r"^\[conmon:e\]:? ?", "", text))
    words = [set(re.findall(r"\w{4,}", text.lower())) for text in texts]
    assert words[0] & words[1], texts


FLAGS = (
    "--api-version", "--exec", "--exec-attach", "--full-attach", "--leave-stdin-open", "--no-new-keyring", "--no-pivot",
    "--no-sync-log", "--replace-listen-pid", "--stdin", "--sync", "--syslog", "--systemd-cgroup", "--terminal",
)  # fmt: skip
VALUED = (
    "--bundle", "--cid", "--conmon-pidfile", "--container-pidfile", "--cuuid", "--exec-process-spec", "--exit-command",
    "--exit-command-arg", "--exit-delay", "--exit-dir", "--log-global-size-max", "--log-level", "--log-path",
    "--log-size-max", "--log-tag", "--name", "--persist-dir", "--restore", "--runtime", "--runtime-arg",
    "--runtime-opt", "--sdnotify-socket", "--socket-dir-path", "--timeout",
)  # fmt: skip
VALUES = (
    "", "x", "0123456789abcd", "/no/such", "1", "-1", "0", "5x", " 5", "0x10", "99999999999999999999", "2147483648",
    "-9223372036854775809", "none", "journald", "k8s-file:/no/such/x", "foo:bar", "debug", "loud", "--sync", "--",
    "a=b",
)  # fmt: skip
ODD = (
    "--foo", "-Z", "--", "-", "word", "--cid=", "--bundl", "--no-", "---cid", "--log-path=", "-?", "--help-all",
    "--help", "--help=", "--sync=no", "--exec=1", "--pidfile", "-h",
)  # fmt: skip


def some_command_line(chance: random.Random) -> list[str]:
    """Options as they may come, with a runtime that cannot be run, so that none gets far."""
    words: list[str] = []
    if chance.random() < 0.6:
        words += ["-c", "cid0123456789ab", "-u", "u", "-r", chance.choice(("/no/such", "/etc/passwd"))]
    for _ in range(chance.randrange(8)):
        kind, option, value = chance.random(), chance.choice(VALUED), chance.choice(VALUES)
        if kind < 0.12:
            words.append("-" + "".join(chance.choices("bcPpue0lnristTxZh", k=chance.randrange(1, 4))))
        elif kind < 0.2:
            words.append(chance.choice(ODD))
        elif kind < 0.45:
            words.append(chance.choice(FLAGS) + chance.choice(("", "", "=1", "=")))
        else:
            words += chance.choice(([f"{option}={value}"], [option, value], [option]))
    return words


def refusal(program: pathlib.Path, arguments: list[str]) -> tuple[int, str]:
    result = subprocess.run(
        [program, *arguments], capture_output=True, check=False, timeout=20, stdin=subprocess.DEVNULL
    )
    text = (result.stdout + result.stderr).decode()
    if text.startswith("Usage:"):
        return result.returncode, "help"
    # How a line begins, a colon before the reason, and the quotes that a C locale lacks: no more may differ.
    text = re.sub(r"^\[?conmon(:e\])?:? ", "", text).replace("option parsing failed: ", "")
    text = re.sub(
        r"^Runtime path (is not valid: )?(.*?):? (is not valid )?(?=No such|Permission)", r"runtime \2 ", text
    )
    return result.returncode, re.sub("[“”]", "?", text).strip().lower()


@pytest.mark.parametrize("seed", range(6))
def test_any_command_line_is_refused_alike(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(40):
        arguments = some_command_line(chance)
        ours, theirs = refusal(OURS, arguments), refusal(CONMON, arguments)
        assert ours == theirs, arguments


# --- ours -------------------------------------------------------------------------------------------------------------


def test_version_as_callers_probe_it() -> None:
    text = subprocess.run([OURS, "--version"], capture_output=True, check=True).stdout.decode()
    assert re.fullmatch(r"conmon version 2\.\d+\.\d+\ncommit: pycrio-\S+\n", text)


def test_help_is_complete() -> None:
    def options(program: pathlib.Path) -> set[str]:
        text = subprocess.run([program, "--help"], capture_output=True, check=True).stdout.decode()
        return set(re.findall(r"--[a-z-]+", text))

    missing = options(CONMON) - options(OURS)
    assert missing == {"--seccomp-notify-socket", "--seccomp-notify-plugins"}  # gone since conmon 2.2


def test_awkward_output_survives(ours: Rig) -> None:
    data = b"nul\0\xff\xfe\r\n\n" + b"long" * 5000 + b"\nlast without end"
    ours.prepare("cat /tmp/data; cat /tmp/data >&2")
    (ours.bundle / "rootfs" / "tmp" / "data").write_bytes(data)
    ours.run()
    assert ours.exit_code() == 0
    assert output(ours) == (data, data)
    assert max(len(line) for line in ours.log_path.read_bytes().split(b"\n")) <= 45 + logmux.PIECE_MAX


def test_100_megabytes_without_newline(ours: Rig) -> None:
    ours.prepare("dd if=/dev/zero bs=65536 count=1600 2>/dev/null")
    ours.run()
    assert ours.exit_code() == 0
    out, err = output(ours)
    assert (len(out), out.count(0), err) == (1600 << 16, 1600 << 16, b"")
    log = ours.log_path.read_bytes()
    pieces = [len(line) - 45 for line in log.split(b"\n")[:-1]]
    assert set(pieces[:-1]) == {logmux.PIECE_MAX}


def test_single_byte_writes_make_one_line(ours: Rig) -> None:
    ours.prepare("dd if=/tmp/data bs=1 2>/dev/null")
    (ours.bundle / "rootfs" / "tmp" / "data").write_bytes(b"%s\n" % (b"x" * 50) * 40)
    ours.run()
    assert ours.exit_code() == 0
    assert output(ours)[0] == b"%s\n" % (b"x" * 50) * 40


def test_prompt_is_logged_soon(ours: Rig) -> None:
    ours.prepare("printf 'name? '; sleep 100")
    ours.run()
    assert ours.wait_log(b"name? ").endswith(b" stdout P name? \n")


def test_stuck_client_does_not_stop_the_log(ours: Rig) -> None:
    ours.prepare("yes 0123456789012345678901234567890123456789 | head -n 400000; echo end; sleep 100")
    ours.create()
    stuck, good = ours.attach(), ours.attach()
    got: dict[int, bytes] = {}
    reader = threading.Thread(target=lambda: got.update(packets(good, b"end\n")))
    reader.start()
    ours.start()
    ours.wait_log(b"F end")
    reader.join(20)
    assert len(got[2]) == 400000 * 41 + 4  # the client that reads lacks nothing
    cut = packets(stuck)
    assert 0 < len(cut[2]) < 6 << 20  # the other one got what was in its backlog
    assert b"too slow" in cut[3]
    assert got[2].startswith(cut[2])
    stuck.close()
    good.close()


def test_failed_set_up_is_reported(ours: Rig) -> None:
    ours.prepare("true")
    (ours.base / "socks").rmdir()
    report = ours.create()
    assert report["pid"] == -1
    assert "create attach link" in report["message"]


def test_input_of_a_client_that_left_with_output_unread(ours: Rig) -> None:
    """Its end is a reset, which the kernel tells before what it had sent."""
    ours.prepare("echo unread; read x; echo got $x; sleep 100")
    ours.create("-i", "--leave-stdin-open")
    client = ours.attach()
    ours.start()
    ours.wait_log(b"F unread")
    os.kill(ours.monitor_pid, signal.SIGSTOP)
    client.send(b"word\n")
    client.close()
    os.kill(ours.monitor_pid, signal.SIGCONT)
    ours.wait_log(b"F got word")


def test_input_of_a_client_that_left_before_it_was_wanted(ours: Rig) -> None:
    """More than the container's pipe and the monitor hold waits in the client's socket."""
    ours.prepare("echo unread; read x </tmp/go; cat | wc -c")
    go = ours.bundle / "rootfs" / "tmp" / "go"
    os.mkfifo(go)
    ours.create("-i")
    client = ours.attach()
    ours.start()
    ours.wait_log(b"F unread")
    client.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += client.send(b"x" * 8192)
    client.close()
    assert sent > 96 << 10
    with pidfd(ours.monitor_pid) as fd:
        assert fd is not None
        wait_quiet(fd)
        before = cpu_time(ours.monitor_pid)
        wait_quiet(fd)
        assert cpu_time(ours.monitor_pid) - before < 10_000_000  # it does not turn in circles meanwhile
    go.write_bytes(b"\n")
    assert ours.exit_code() == 0
    assert output(ours) == (b"unread\n%d\n" % sent, b"")


def test_attach_flood(ours: Rig) -> None:
    ours.prepare("echo ready; sleep 100")
    ours.run()
    ours.wait_log(b"ready")
    clients = [ours.attach() for _ in range(100)]
    refused = 0
    for client in clients[64:]:
        refused += client.recv(16) == b""
    assert refused == 36
    for client in clients:
        client.close()
    again = ours.attach()
    again.send(b"x")
    ours.runc("kill", ours.name, "KILL")
    assert packets(again) == {2: b"", 3: b""}
    again.close()
    assert ours.exit_code() == 137


def test_control_garbage(ours: Rig) -> None:
    ours.prepare("echo ready; sleep 100")
    ours.run()
    ours.wait_log(b"ready")
    for garbage in (b"\n" * 100, b"x" * 4000, b"\n1 2\n3 3 3\n1 -1 99999999999999999999\n\0\0\n", os.urandom(4000)):
        ours.control(garbage)
        ours.control(garbage, "winsz")
    ours.control(b"\n2 0 0\n")
    new = ours.log_path
    while new.stat().st_size:  # the old text went away with the old file
        with pidfd(ours.monitor_pid) as fd:
            assert fd is not None
    ours.runc("kill", ours.name, "KILL")
    assert ours.exit_code() == 137


def test_container_that_closes_its_output_and_lives_on(ours: Rig) -> None:
    ours.prepare("echo bye; exec >&- 2>&-; sleep 0.3; exit 6")
    ours.run()
    assert ours.exit_code() == 6
    assert output(ours)[0] == b"bye\n"


def test_grandchild_that_keeps_the_pipes_open(ours: Rig) -> None:
    """An exec ends although a process that it left behind writes on and on."""
    ours.prepare("echo ready; sleep 100")
    ours.run()
    ours.wait_log(b"ready")
    script = "yes 1>&2 & echo done; exit 2"
    process = ours.launch(exec_arguments(ours, {"args": ["sh", "-c", script]}, "--sync"))
    assert ours.sync
    assert ours.sync.line() == {"exit_code": 2}
    assert process.wait(20) == 2


def test_log_directory_removed(ours: Rig) -> None:
    ours.prepare("echo one; read x; seq 1 5000; echo two >&2; exit 9")
    ours.create("-i", "--log-size-max", "10000")
    client = ours.attach()
    ours.start()
    ours.wait_log(b"one")
    ours.log_path.unlink()
    ours.log_path.parent.rmdir()
    ours.control(b"2 0 0\n")
    client.send(b"\n")
    assert packets(client)[3] == b"two\n"
    client.close()
    assert ours.exit_code() == 9


def test_full_disk(ours: Rig) -> None:
    ours.prepare("seq 1 100000; echo end >&2; exit 8")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", ours.base / "logs"], check=True)
    try:
        ours.run()
        assert ours.exit_code() == 8
        lines = ours.log_path.read_bytes().splitlines(keepends=True)
        assert lines[-1].endswith(b"\n")
        numbers = [int(line.split()[-1]) for line in lines]
        assert numbers == list(range(1, len(lines) + 1))
    finally:
        subprocess.run(["umount", "-l", ours.base / "logs"], check=True)


def test_daemon_death_does_not_matter(ours: Rig) -> None:
    ours.prepare("echo one; read x; echo two; exit 5")
    ours.create("-i")
    client = ours.attach()
    ours.start()
    os.close(ours.closers.pop())  # the sync pipe's reader
    client.send(b"\n")
    packets(client)
    client.close()
    assert ours.exit_code() == 5
    assert output(ours)[0] == b"one\ntwo\n"


def test_stopped_and_continued(ours: Rig) -> None:
    ours.prepare("read x; seq 1 20000; exit 3")
    ours.create("-i")
    client = ours.attach()
    ours.start()
    os.kill(ours.monitor_pid, signal.SIGSTOP)
    client.send(b"\n")
    os.kill(ours.monitor_pid, signal.SIGCONT)
    packets(client)
    client.close()
    assert ours.exit_code() == 3
    assert output(ours)[0].split()[-1] == b"20000"


def test_rotation_keeps_files(ours: Rig) -> None:
    ours.prepare("seq 1 1000")
    ours.run("--log-size-max", "8192", "--log-rotate", "--log-max-files", "3")
    assert ours.exit_code() == 0
    files = [ours.log_path, *(ours.log_path.with_name(f"log.{i}") for i in (1, 2, 3))]
    assert sorted(p.name for p in ours.log_path.parent.iterdir()) == ["log", "log.1", "log.2", "log.3"]
    numbers = [int(line.split()[-1]) for path in reversed(files) for line in path.read_bytes().splitlines()]
    assert numbers == list(range(numbers[0], 1001))
    assert all(path.stat().st_size <= 8192 for path in files)


def test_notify_relay(ours: Rig) -> None:
    ours.prepare("echo ready; sleep 100")
    (ours.bundle / "notify").mkdir()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest,
    ):
        host.bind(str(ours.base / "host"))
        host.settimeout(20)
        ours.run("--sdnotify-socket", str(ours.base / "host"))
        address = str(ours.bundle / "notify" / "notify.sock")
        guest.sendto(b"MAINPID=1\nFDSTORE=1", address)
        guest.sendto(b"READY=1\nMAINPID=1\nSTATUS=fine", address)
        assert host.recv(1000) == b"READY=1\nSTATUS=fine"


def test_passthrough(ours: Rig) -> None:
    ours.prepare("echo straight; exit 2")
    arguments = ours.arguments()
    arguments[arguments.index("-l") + 1] = "passthrough"
    process = ours.launch(arguments)
    assert process.wait(20) == 0
    ours.monitor_pid = int((ours.bundle / "conmon-pidfile").read_text())
    assert ours.sync
    assert ours.sync.line()
    ours.start()
    assert ours.exit_code() == 2
    assert process.stdout
    assert process.stdout.read() == b"straight\n"


@dataclass
class Session:
    """An exec with an attached user: the monitor waits for them before the runtime is started."""

    client: socket.socket
    start: int
    sync: int

    def go(self) -> None:
        os.write(self.start, b"\0")

    def reports(self) -> list[dict[str, object]]:
        """What the monitor says until it ends."""
        with open(self.sync, "rb", closefd=False) as sync:
            return [json.loads(line) for line in sync]


@contextlib.contextmanager
def exec_session(rig: Rig, args: list[str], *extra: str) -> Iterator[Session]:
    bundle = rig.base / "exec"
    bundle.mkdir()
    (rig.base / "exits2").mkdir()
    attach_read, attach_write = os.pipe()
    start_read, start_write = os.pipe()
    sync_read, sync_write = os.pipe()
    environment = {
        "_OCI_SYNCPIPE": str(sync_write),
        "_OCI_STARTPIPE": str(start_read),
        "_OCI_ATTACHPIPE": str(attach_write),
    }
    directory = ("--exit-dir", str(rig.base / "exits2"))
    arguments = exec_arguments(rig, {"args": args}, "-u", "session", "-b", str(bundle), *extra)
    process = subprocess.Popen(
        [rig.program, *arguments, "--api-version", "--exec-attach", "--full-attach", *directory],
        env={**os.environ, **environment},
        pass_fds=[attach_write, start_read, sync_write],
    )
    for fd in (attach_write, start_read, sync_write):
        os.close(fd)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(20)
        try:
            os.write(start_write, b"\0")
            assert process.wait(20) == 0
            wait_for(attach_read)
            assert os.read(attach_read, 100) == b'{"data": 0}\n'
            client.connect(str(bundle / "attach"))
            yield Session(client, start_write, sync_read)
        finally:
            for fd in (attach_read, start_write, sync_read):
                os.close(fd)


def test_exec_attach(rig: Rig) -> None:
    rig.prepare("echo ready; sleep 100")
    rig.run()
    rig.wait_log(b"ready")
    with exec_session(rig, ["sh", "-c", "echo hi; cat"], "-i") as session:
        session.go()
        packets(session.client, b"hi\n")
        session.client.send(b"typed")
        session.client.shutdown(socket.SHUT_WR)
        assert packets(session.client)[2] == b"typed"
        first, second = session.reports()
    assert isinstance(first["data"], int)
    assert first["data"] > 0
    assert second == {"data": 0}


def test_failed_exec_is_told_once(rig: Rig) -> None:
    """The runtime's words go to the caller, who tells the user; not before the user's eyes as well."""
    rig.prepare("echo ready; sleep 100")
    rig.run()
    rig.wait_log(b"ready")
    with exec_session(rig, ["/no/such"]) as session:
        session.go()
        with contextlib.suppress(ConnectionResetError):  # conmon has not taken the user in by then
            assert packets(session.client) == {2: b"", 3: b""}
        (report,) = session.reports()
    assert report["data"] == -1
    assert "/no/such" in str(report["message"])


def test_output_of_an_exec_before_the_runtime_ends(ours: Rig) -> None:
    """It is kept until it is known that there is a process, and then shown whole and in order."""
    slow = ours.base / "slow"
    slow.write_text(f'#!/bin/sh\n{RUNC} "$@" || exit\ncase "$*" in *exec*) read x < {ours.base}/go;; esac\n')
    slow.chmod(0o755)
    ours.prepare("echo ready; sleep 100")
    ours.run()
    ours.wait_log(b"ready")
    ours.runtime = str(slow)
    fifos = (ours.base / "go", ours.bundle / "rootfs" / "tmp" / "done")
    for path in fifos:
        os.mkfifo(path)
    go, done = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in fifos)
    ours.closers += (go, done)
    with exec_session(ours, ["sh", "-c", "seq 1 30000; echo x > /tmp/done; echo end; cat"], "-i") as session:
        session.go()
        wait_for(done)  # nearly all was written, and the runtime still is there
        assert os.read(done, 10) == b"x\n"
        os.write(go, b"\n")
        text = packets(session.client, b"end\n")[2]
        session.client.shutdown(socket.SHUT_WR)
        assert packets(session.client) == {2: b"", 3: b""}
    assert text == b"".join(b"%d\n" % n for n in range(1, 30001)) + b"end\n"


def test_idle_monitor_gives_its_buffers_back(ours: Rig) -> None:
    """Megabytes of output, attach and resize leave the monitor as small as it was."""
    ours.prepare("while read x; do yes 0123456789 | head -n 20000; echo end $x; done", tty=False)
    ours.create("-i", "--leave-stdin-open")
    client = ours.attach()
    ours.start()

    def dirty() -> int:
        text = pathlib.Path(f"/proc/{ours.monitor_pid}/smaps_rollup").read_text()
        found = re.search(r"Private_Dirty: +(\d+)", text)
        assert found
        return int(found[1])

    sizes = []
    for i in range(4):
        client.send(b"%d\n" % i)
        packets(client, b"end %d\n" % i)
        ours.control(b"1 24 80\n")
        ours.attach().close()
        smallest = dirty()
        with pidfd(ours.monitor_pid) as fd:
            assert fd is not None
            for _ in range(10):
                wait_quiet(fd)
                smallest = min(smallest, dirty())
        sizes.append(smallest)
    client.close()
    assert sizes[-1] <= sizes[0] + 4, sizes
    assert sizes[-1] <= 110, sizes


def test_flood_of_single_lines_on_both_streams(ours: Rig) -> None:
    """Megabytes in writes of one line: what the monitor takes up for that (larger pipes, one of its own) goes again."""
    line = "x" * 90
    loop = f"while [ $n -lt $1 ]; do n=$((n+1)); echo $n {line}; echo $n {line} >&2; done"
    ours.prepare(f"flood() {{ {loop}; }}; n=0; read x; flood 48000; echo > /tmp/at; read x; flood 60000; exit 3")
    at = ours.bundle / "rootfs" / "tmp" / "at"
    os.mkfifo(at)
    ours.create("-i", "--leave-stdin-open")
    client = ours.attach()
    ours.start()

    def open_files() -> int:
        return len(os.listdir(f"/proc/{ours.monitor_pid}/fd"))

    before = open_files()
    client.send(b"\n")
    at.read_bytes()  # the first flood is over
    with pidfd(ours.monitor_pid) as fd:
        assert fd is not None
        for _ in range(100):
            if open_files() == before:
                break
            wait_quiet(fd)
    assert open_files() == before
    client.send(b"\n")
    client.close()
    assert ours.exit_code() == 3
    numbers = b"".join(b"%d %s\n" % (n, line.encode()) for n in range(1, 60001))
    assert output(ours) == (numbers, numbers)


@pytest.mark.parametrize("streams", ["one", "both"])
def test_flood_that_pauses(ours: Rig, streams: str) -> None:
    """In a flood lines are held for a moment; once it pauses everything is there, though the container lives on."""
    both = "seq 1 1500000 >&2 & " if streams == "both" else ""
    ours.prepare(f"{both}seq 1 3000001; wait; echo all; sleep 100")
    ours.run()
    with open(ours.log_path, "rb") as log, pidfd(ours.monitor_pid) as fd:
        assert fd is not None
        for _ in range(600):
            log.seek(max(0, log.seek(0, os.SEEK_END) - 50))
            if (end := log.read()).endswith(b" stdout F all\n"):
                break
            wait_quiet(fd)
    assert end.endswith(b" stdout F all\n")
    out, err = output(ours)
    assert out == b"".join(b"%d\n" % n for n in range(1, 3000002)) + b"all\n"
    assert err == (b"".join(b"%d\n" % n for n in range(1, 1500001)) if both else b"")


def test_log_is_replaced_and_followed_in_a_flood(ours: Rig) -> None:
    """Files that a kubelet has moved away hold whole lines; who follows one and waits for newlines reads each once."""
    ours.prepare("seq 1 6000000")
    ours.run()
    moved: list[pathlib.Path] = []
    followed = rest = b""
    with pidfd(ours.monitor_pid) as end, open(ours.log_path, "rb") as follower:
        assert end is not None
        while not select.select([end], [], [], 0)[0] and len(moved) < 6:
            rest += follower.read(1 << 20)  # of the first file only
            whole, newline, rest = rest.rpartition(b"\n")
            followed += whole + newline
            if ours.log_path.stat().st_size > 5 << 20:
                moved.append(ours.log_path.rename(ours.log_path.with_name(f"log.{len(moved)}")))
                ours.control(b"2 0 0\n")
                while not ours.log_path.exists() and not select.select([end], [], [], 0.001)[0]:
                    pass
        followed += rest + follower.read()
    assert ours.exit_code() == 0
    logs = [path.read_bytes() for path in [*moved, ours.log_path]]
    assert len(logs) > 2
    for log in logs:
        assert log.endswith(b"\n")
        assert logmux.split_streams(log)[2] == len(log)
    assert followed == logs[0]
    assert logmux.split_streams(b"".join(logs))[0] == b"".join(b"%d\n" % n for n in range(1, 6000001))


def cpu_time(pid: int) -> int:
    """Nanoseconds that the first thread of a process has run."""
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def wait_quiet(fd: int) -> None:
    """A twentieth of a second in which the process does not end."""
    assert not select.select([fd], [], [], 0.05)[0]
