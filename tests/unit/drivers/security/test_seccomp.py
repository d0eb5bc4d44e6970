"""Profiles: ours, and files of the form that container engines share."""

from __future__ import annotations

import json
import os
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.security import seccomp
from pycrio.drivers.security.host import CAPABILITIES, Security, Settings
from pycrio.drivers.security.profile import BY_CAPABILITY, NAMESPACE_FLAGS, default_profile
from pycrio.errors import InvalidRequest, NotFound
from pycrio.model.node import Handler
from pycrio.model.security import ProfileType, SecurityProfile

NONE: frozenset[str] = frozenset()
HANDLER = Handler("runc", "/runc", "/r", "/m")
DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)


def allowed(document: dict[str, object]) -> set[str]:
    rules = document["syscalls"]
    assert isinstance(rules, list)
    return {n for r in rules if r["action"] == "SCMP_ACT_ALLOW" and not r.get("args") for n in r["names"]}


def test_the_default_refuses_what_leads_out() -> None:
    found = allowed(default_profile("x86_64", NONE))
    dangerous = """
        mount umount2 unshare setns pivot_root chroot bpf perf_event_open kexec_load kexec_file_load init_module
        finit_module delete_module keyctl add_key request_key open_by_handle_at userfaultfd io_uring_setup
        reboot swapon swapoff settimeofday clock_settime sethostname setdomainname syslog quotactl acct iopl ioperm
        clone clone3 fsopen fsmount move_mount open_tree mount_setattr nfsservctl uselib vm86 personality socket
        """
    assert not found & set(dangerous.split())
    needed = """
        read write openat close mmap munmap brk execve fork vfork exit_group futex rt_sigaction epoll_wait accept4
        sendmsg recvmsg getdents64 statx newfstatat prlimit64 arch_prctl set_tid_address rseq getrandom clock_gettime
        nanosleep wait4 kill pipe2 dup3 unlinkat renameat2 fchownat setuid setgid capset prctl seccomp ptrace mknodat
        """
    assert set(needed.split()) <= found


@pytest.mark.parametrize("capability", sorted(BY_CAPABILITY))
def test_a_capability_opens_its_calls_and_no_others(capability: str) -> None:
    before, after = default_profile("x86_64", NONE), default_profile("x86_64", frozenset({capability}))
    gained = allowed(after) - allowed(before)
    assert gained <= set(BY_CAPABILITY[capability].split())
    assert capability in CAPABILITIES


def test_new_namespaces_need_the_capability() -> None:
    rules = default_profile("x86_64", NONE)["syscalls"]
    (clone,) = [r for r in rules if r["names"] == ["clone"]]
    assert clone["args"] == [{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    (clone3,) = [r for r in rules if r["names"] == ["clone3"]]
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    (s390,) = [r for r in default_profile("s390x", NONE)["syscalls"] if r["names"] == ["clone"]]
    assert s390["args"][0]["index"] == 1
    admin = allowed(default_profile("x86_64", frozenset({"CAP_SYS_ADMIN"})))
    assert {"clone", "clone3", "unshare", "mount"} <= admin


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "s390x", "riscv64", "ppc64le", "mips"])
@given(capabilities=st.frozensets(st.sampled_from(CAPABILITIES)))
def test_every_default_is_sound(machine: str, capabilities: frozenset[str]) -> None:
    found = default_profile(machine, capabilities)
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"
    assert bool(found["architectures"]) == (machine != "mips")
    for rule in found["syscalls"]:
        assert rule["names"]
        assert rule["action"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO")
    json.dumps(found)


# --- files --------------------------------------------------------------------------------------------------------

ENGINE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "archMap": [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
    ],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": "c", "args": None, "errnoRet": None},
        {"name": "write", "action": "SCMP_ACT_ALLOW"},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        {"names": ["not_amd64"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
        {"names": ["old"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "3.0"}},
        {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "999.1"}},
    ],
}


def names(document: dict[str, object] | None) -> list[str]:
    assert document is not None
    rules = document["syscalls"]
    assert isinstance(rules, list)
    return [n for r in rules for n in r["names"]]


def test_rules_that_do_not_apply_are_dropped() -> None:
    found = seccomp.reduce(ENGINE, "x86_64", NONE)
    assert names(found) == ["read", "write", "clone", "old"]
    assert found is not None
    assert found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert found["syscalls"][0] == {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    assert (found["defaultErrnoRet"], found["flags"]) == (38, ["SECCOMP_FILTER_FLAG_LOG"])
    assert names(seccomp.reduce(ENGINE, "x86_64", frozenset({"CAP_SYS_ADMIN"}))) == ["read", "write", "mount", "old"]
    assert names(seccomp.reduce(ENGINE, "aarch64", NONE)) == ["read", "write", "clone", "arm_only", "not_amd64", "old"]


def test_a_plain_oci_profile_stays_as_it_is() -> None:
    plain = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []}
    assert seccomp.reduce(plain, "x86_64", NONE) == plain
    assert seccomp.reduce({}, "x86_64", NONE) is None
    bare = seccomp.reduce({"defaultAction": "SCMP_ACT_ALLOW"}, "x86_64", NONE)
    assert bare is not None
    assert bare["architectures"][0] == "SCMP_ARCH_X86_64"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"defaultAction": 5}',
        '{"defaultAction":"A","syscalls":{}}',
        '{"defaultAction":"A","syscalls":[5]}',
        '{"defaultAction":"A","syscalls":[{"names":["x"]}]}',
        '{"defaultAction":"A","syscalls":[{"action":"A"}]}',
        '{"defaultAction":"A","syscalls":[{"names":"read","action":"A"}]}',
        '{"defaultAction":"A","syscalls":[{"names":["x"],"action":"A","includes":[1]}]}',
        '{"defaultAction":"A","archMap":[5]}',
        "\udcff",
    ],
)
def test_malformed_files(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "p.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidRequest, match=r"p\.json"):
        seccomp.Profiles().file(f"{tmp_path}/p.json", NONE)


def test_a_file_is_read_again_when_it_has_changed(tmp_path: pathlib.Path) -> None:
    profiles, path = seccomp.Profiles(), tmp_path / "p.json"
    path.write_text('{"defaultAction":"SCMP_ACT_ALLOW"}')
    os.utime(path, ns=(1, 1))
    first = profiles.file(str(path), NONE)
    assert first is not None
    assert first["defaultAction"] == "SCMP_ACT_ALLOW"
    path.write_text('{"defaultAction":"SCMP_ACT_ERRNO"}')
    os.utime(path, ns=(2, 2))
    second = profiles.file(str(path), NONE)
    assert second is not None
    assert second["defaultAction"] == "SCMP_ACT_ERRNO"
    path.unlink()
    with pytest.raises(NotFound, match=r"p\.json"):
        profiles.file(str(path), NONE)


# --- the choice ---------------------------------------------------------------------------------------------------


def profile(path: pathlib.Path, action: str) -> str:
    path.write_text(json.dumps({"defaultAction": action, "syscalls": []}))
    return str(path)


def action(document: object) -> object:
    return document["defaultAction"] if isinstance(document, dict) else document


def test_which_profile_is_chosen(tmp_path: pathlib.Path) -> None:
    actions = {"global": "KILL", "handler": "TRAP", "local": "LOG", "privileged": "TRACE"}
    paths = {n: profile(tmp_path / n, f"SCMP_ACT_{a}") for n, a in actions.items()}
    plain, full = Security(Settings()), Security(Settings(paths["global"], paths["privileged"]))
    own = Handler("runc", "/runc", "/r", "/m", seccomp_profile=paths["handler"])
    local = SecurityProfile(ProfileType.LOCALHOST, paths["local"])
    marked = SecurityProfile(ProfileType.LOCALHOST, f"localhost/{paths['local']}")
    assert plain.seccomp(None, False, HANDLER) is None
    assert plain.seccomp(SecurityProfile(ProfileType.UNCONFINED), False, own) is None
    assert action(plain.seccomp(DEFAULT, False, HANDLER)) == "SCMP_ACT_ERRNO"
    assert action(full.seccomp(DEFAULT, False, HANDLER)) == "SCMP_ACT_KILL"
    assert action(full.seccomp(DEFAULT, False, own)) == "SCMP_ACT_TRAP"
    assert action(full.seccomp(local, False, own)) == action(full.seccomp(marked, False, own)) == "SCMP_ACT_LOG"
    assert plain.seccomp(local, True, own) is None
    assert action(full.seccomp(DEFAULT, True, own)) == "SCMP_ACT_TRACE"
    with pytest.raises(InvalidRequest, match="absolute path"):
        plain.seccomp(SecurityProfile(ProfileType.LOCALHOST, "relative"), False, HANDLER)
    with pytest.raises(NotFound):
        plain.seccomp(SecurityProfile(ProfileType.LOCALHOST, "/nowhere/p"), False, HANDLER)


async def test_a_configured_profile_that_is_missing(tmp_path: pathlib.Path) -> None:
    security = Security(Settings(f"{tmp_path}/absent"))
    await security.open()
    assert action(security.seccomp(DEFAULT, False, HANDLER)) == "SCMP_ACT_ERRNO"
    (tmp_path / "absent").write_text("{")
    with pytest.raises(InvalidRequest):
        await security.open()
