"""Our default seccomp profile under bare runc and crun: programs work, what could leave the container does not."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import uuid

import pytest

from pycrio.drivers.security.seccomp import Profiles

BUSYBOX = "/bin/busybox"
PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <pthread.h>
#include <unistd.h>

static void *idle(void *p) { return p; }
// Each call in a process of its own, which may not be what it was afterwards.
#define TRY(name, call) \
    do { \
        fflush(stdout); \
        pid_t pid = fork(); \
        if (pid == 0) _exit((call) < 0 ? errno : 0); \
        int status = 0; \
        waitpid(pid, &status, 0); \
        printf("%s %d\n", name, WIFEXITED(status) ? WEXITSTATUS(status) : 255); \
    } while (0)

int main(void) {
    pthread_t thread;
    char buffer[64] = {0};
    TRY("getpid", syscall(SYS_getpid));
    TRY("thread", pthread_create(&thread, NULL, idle, NULL) ? -1 : pthread_join(thread, NULL));
    TRY("fork", waitpid(fork() == 0 ? (_exit(0), 0) : -1, NULL, 0));
    TRY("socket", socket(AF_INET, SOCK_STREAM, 0));
    TRY("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
    TRY("personality", personality(0xffffffff));
    TRY("personality_odd", personality(0x0040000));
    TRY("unshare", unshare(CLONE_NEWUSER));
    TRY("clone_newuser", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    TRY("clone3", syscall(SYS_clone3, buffer, sizeof buffer));
    TRY("mount", mount("none", "/", "tmpfs", 0, NULL));
    TRY("umount2", umount2("/proc", MNT_DETACH));
    TRY("open_tree", syscall(SYS_open_tree, -100, "/", 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "k", "v", 1, -3));
    TRY("bpf", syscall(SYS_bpf, 0, buffer, 0));
    TRY("perf_event_open", syscall(SYS_perf_event_open, buffer, 0, -1, -1, 0));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    TRY("init_module", syscall(SYS_init_module, buffer, 0, ""));
    TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, buffer, 0));
    TRY("io_uring_setup", syscall(SYS_io_uring_setup, 1, buffer));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    TRY("swapon", syscall(SYS_swapon, "/x", 0));
    TRY("settimeofday", syscall(SYS_settimeofday, 0, buffer));
    TRY("setns", setns(-1, 0));
    TRY("chroot", chroot("/"));
    TRY("sethostname", sethostname("x", 1));
    TRY("unknown", syscall(100000));
    return 0;
}
"""
EPERM, ENOSYS, EBADF, EINVAL = 1, 38, 9, 22
WORKS = {"getpid", "thread", "fork", "socket", "personality"}
# Without any capability all of these are refused by the filter, not by the kernel's own checks.
REFUSED = {
    *("vsock", "personality_odd", "unshare", "clone_newuser", "mount", "umount2", "open_tree", "keyctl", "add_key"),
    *("bpf", "perf_event_open", "kexec_load", "init_module", "open_by_handle_at", "io_uring_setup", "userfaultfd"),
    *("reboot", "swapon", "settimeofday", "setns", "chroot", "sethostname"),
}


class Bundle:
    """A root with busybox and the probe, and an OCI config around our profile."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        (root / "rootfs/bin").mkdir(parents=True)
        for name in ("proc", "dev"):
            (root / "rootfs" / name).mkdir()
        shutil.copy(BUSYBOX, root / "rootfs/bin/busybox")
        for name in ("sh", "echo", "ls", "unshare", "mount"):
            (root / "rootfs/bin" / name).symlink_to("busybox")
        (root / "probe.c").write_text(PROBE)
        build = ["gcc", "-static", "-O1", "-pthread", "-o", str(root / "rootfs/bin/probe")]
        subprocess.run([*build, str(root / "probe.c")], check=True)

    def run(
        self, runtime: str, *argv: str, capabilities: tuple[str, ...] = (), filtered: bool = True
    ) -> subprocess.CompletedProcess[str]:
        held = {k: list(capabilities) for k in ("bounding", "effective", "permitted", "inheritable", "ambient")}
        linux: dict[str, object] = {
            "namespaces": [{"type": t} for t in ("pid", "mount", "ipc", "uts", "network")],
            "cgroupsPath": f"/pycrio-test-seccomp-{uuid.uuid4().hex[:8]}",
        }
        if filtered:
            linux["seccomp"] = Profiles().builtin(frozenset(capabilities))
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "args": list(argv),
                "env": ["PATH=/bin"],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
                "capabilities": held,
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": linux,
        }
        (self.root / "config.json").write_text(json.dumps(config))
        command = [runtime, f"--root={self.root}/state", "run", "-b", str(self.root), f"t{uuid.uuid4().hex[:8]}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tmp_path_factory.mktemp("seccomp"))


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def probed(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert done.returncode == 0, done.stderr
    return {name: int(code) for name, code in (line.split() for line in done.stdout.splitlines())}


def test_a_shell_runs(bundle: Bundle, runtime: str) -> None:
    done = bundle.run(
        runtime, "sh", "-c", "ls / | while read x; do echo $x; done; echo a | (read y; echo $y) && echo end"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["bin", "dev", "proc", "a", "end"]


@pytest.mark.parametrize("command", [("unshare", "-U", "true"), ("mount", "-t", "tmpfs", "none", "/dev")])
def test_tools_that_would_leave_fail(bundle: Bundle, runtime: str, command: tuple[str, ...]) -> None:
    done = bundle.run(runtime, *command)
    assert done.returncode != 0
    assert "not permitted" in done.stderr or "denied" in done.stderr


def test_calls_without_capabilities(bundle: Bundle, runtime: str) -> None:
    found = probed(bundle.run(runtime, "probe"))
    assert found.keys() == WORKS | REFUSED | {"clone3", "unknown"}
    assert {n for n in WORKS if found[n]} == set()
    assert {n: found[n] for n in REFUSED if found[n] != EPERM} == {}
    assert found["clone3"] == ENOSYS
    # runc says of calls that are newer than all in the profile that there are none, so that C libraries fall back
    assert found["unknown"] in (EPERM, ENOSYS)


def test_the_filter_is_what_refuses(bundle: Bundle, runtime: str) -> None:
    """Unfiltered, the same probe gets further: so the refusals above are the profile's."""
    found = probed(bundle.run(runtime, "probe", filtered=False))
    assert {"keyctl", "unshare", "personality_odd", "clone_newuser"} & {n for n, code in found.items() if code == 0}
    assert found["unknown"] == ENOSYS
    assert found["clone3"] != ENOSYS


def test_capabilities_open_their_calls(bundle: Bundle, runtime: str) -> None:
    found = probed(
        bundle.run(runtime, "probe", capabilities=("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_DAC_READ_SEARCH"))
    )
    opened = ("unshare", "clone_newuser", "mount", "open_tree", "sethostname", "chroot")
    assert {n: found[n] for n in opened if found[n] == EPERM} == {}
    assert (found["setns"], found["open_by_handle_at"]) == (EBADF, EINVAL)
    assert found["clone3"] != ENOSYS
    assert {n: found[n] for n in ("keyctl", "kexec_load", "init_module", "reboot") if found[n] != EPERM} == {}
