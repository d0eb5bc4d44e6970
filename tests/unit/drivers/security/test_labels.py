"""AppArmor names and SELinux labels, on hosts made up for the test."""

from __future__ import annotations

import os
import pathlib

import pytest

from pycrio.drivers.security import apparmor, selinux
from pycrio.drivers.security.apparmor import AppArmor
from pycrio.drivers.security.host import held_capabilities
from pycrio.drivers.security.selinux import SELinux
from pycrio.errors import Exhausted, ExternalFailure, InvalidRequest, NotFound
from pycrio.model.security import ProfileType, SecurityProfile, SELinuxOptions

DEFAULT, UNCONFINED = SecurityProfile(ProfileType.RUNTIME_DEFAULT), SecurityProfile(ProfileType.UNCONFINED)


def local(name: str) -> SecurityProfile:
    return SecurityProfile(ProfileType.LOCALHOST, name)


@pytest.fixture
def armed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A host with AppArmor and two loaded profiles."""
    loaded = tmp_path / "profiles"
    loaded.write_text("crio-default (enforce)\nwith (brackets) (complain)\n")
    monkeypatch.setattr(apparmor, "SECURITYFS", str(loaded))
    monkeypatch.setattr(apparmor, "enabled", lambda: True)
    return loaded


@pytest.mark.effect("crio.runtime.apparmor_profile")
def test_apparmor_names(armed: pathlib.Path) -> None:
    host = AppArmor("")
    assert host.name_for(None, False) == host.name_for(DEFAULT, False) == "crio-default"
    assert host.name_for(UNCONFINED, False) == host.name_for(local("x"), True) == ""
    assert host.name_for(local("with (brackets)"), False) == "with (brackets)"
    assert host.name_for(local("localhost/crio-default"), False) == "crio-default"
    assert AppArmor("mine").name_for(DEFAULT, False) == "mine"
    with pytest.raises(NotFound, match="'ghost'"):
        host.name_for(local("ghost"), False)
    with pytest.raises(InvalidRequest, match="needs a name"):
        host.name_for(local("localhost/"), False)


def test_a_host_without_apparmor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "enabled", lambda: False)
    host = AppArmor("")
    assert host.name_for(DEFAULT, False) == host.name_for(None, False) == host.name_for(UNCONFINED, False) == ""
    with pytest.raises(InvalidRequest, match="not enabled on the host"):
        host.name_for(local("x"), False)


def parser(directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, script: str) -> pathlib.Path:
    tool = directory / "apparmor_parser"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return tool


async def test_the_default_profile_is_loaded_once(
    armed: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser(tmp_path, monkeypatch, f"cat $2 >> {tmp_path}/said; echo $1 >> {tmp_path}/flags")
    await AppArmor("").open()
    assert not (tmp_path / "said").exists()
    await AppArmor("other").open()
    assert not (tmp_path / "said").exists()
    armed.write_text("")
    await AppArmor("").open()
    text = (tmp_path / "said").read_text()
    assert "profile crio-default flags=(attach_disconnected,mediate_deleted) {" in text
    assert "deny mount," in text
    assert text.count("{") == text.count("}")
    assert (tmp_path / "flags").read_text() == "-Kr\n"
    assert not [n for n in os.listdir("/tmp") if n.startswith("pycrio-apparmor-")]


async def test_a_parser_that_refuses(
    armed: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed.write_text("")
    parser(tmp_path, monkeypatch, "echo syntax error >&2; exit 1")
    with pytest.raises(ExternalFailure, match="syntax error"):
        await AppArmor("").open()


async def test_no_parser_means_no_default(
    armed: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed.write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    host = AppArmor("")
    await host.open()
    assert host.name_for(DEFAULT, False) == ""


# --- SELinux ------------------------------------------------------------------------------------------------------

CONTEXTS = {
    "process": "system_u:system_r:container_t:s0",
    "file": "system_u:object_r:container_file_t:s0",
    "kvm_process": "system_u:system_r:container_kvm_t:s0",
}


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> SELinux:
    monkeypatch.setattr(selinux, "enabled", lambda: True)
    monkeypatch.setattr(selinux, "policy_contexts", lambda: CONTEXTS)
    return SELinux(True)


@pytest.mark.effect("crio.runtime.selinux")
def test_every_pod_has_a_level_of_its_own(labelled: SELinux) -> None:
    seen = set()
    for _ in range(300):
        process, mount = labelled.labels(None, False)
        assert process.startswith("system_u:system_r:container_t:s0:c")
        assert mount.removeprefix("system_u:object_r:container_file_t:") == process.split(":", 3)[3]
        seen.add(process)
    assert len(seen) == 300


def test_levels_come_back(labelled: SELinux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux.random, "sample", lambda population, count: [5, 3])
    first, _ = labelled.labels(None, False)
    assert first.endswith(":s0:c3,c5")
    with pytest.raises(Exhausted):
        labelled.labels(None, False)
    labelled.release(first)
    assert labelled.labels(None, False)[0] == first
    labelled.release("")


def test_levels_of_before_a_restart_are_taken(labelled: SELinux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux.random, "sample", lambda population, count: [5, 3])
    labelled.reserve("system_u:system_r:container_t:s0:c3,c5")
    labelled.reserve("")
    with pytest.raises(Exhausted):
        labelled.labels(None, False)


def test_parts_of_a_request(labelled: SELinux) -> None:
    wanted = SELinuxOptions("u", "r", "spc_t", "s0:c1,c2")
    assert labelled.labels(wanted, False) == ("u:r:spc_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2")
    pod = ("system_u:system_r:container_t:s0:c7,c8", "system_u:object_r:container_file_t:s0:c7,c8")
    assert labelled.container_labels(pod, None) == pod
    assert labelled.container_labels(pod, SELinuxOptions(type="container_logreader_t"))[0] == (
        "system_u:system_r:container_logreader_t:s0:c7,c8"
    )
    assert labelled.container_labels(("", ""), wanted) == ("", "")
    init = labelled.container_labels(pod, None, init=True)
    assert init == ("system_u:system_r:container_init_t:s0:c7,c8", pod[1])
    assert labelled.container_labels(pod, wanted, init=True)[0] == "u:r:spc_t:s0:c1,c2"
    assert labelled.labels(None, True)[0].startswith("system_u:system_r:container_kvm_t:")


async def test_without_selinux_nothing_is_labelled(tmp_path: pathlib.Path) -> None:
    off = SELinux(False)
    assert off.labels(SELinuxOptions(level="s0"), False) == ("", "")
    assert off.container_labels(("a:b:c:d", "x"), None) == ("", "")
    await off.relabel(str(tmp_path), "a:b:c:d", True)
    assert os.listxattr(tmp_path) == []


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/var", "/usr/", "//etc", "/etc/../usr"])
async def test_the_host_itself_is_never_relabelled(labelled: SELinux, path: str) -> None:
    with pytest.raises(InvalidRequest, match="not allowed"):
        await labelled.relabel(path, "a:b:c:d", True)


async def test_a_tree_is_relabelled(labelled: SELinux, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").touch()
    (tmp_path / "link").symlink_to("/etc/passwd")
    monkeypatch.setattr(selinux, "XATTR", "trusted.pycrio-test")
    await labelled.relabel(str(tmp_path), "a:b:c:d", True)
    for name in ("", "d", "d/f", "link"):
        assert os.getxattr(tmp_path / name, "trusted.pycrio-test", follow_symlinks=False) == b"a:b:c:d\0"
    (tmp_path / "new").touch()
    await labelled.relabel(str(tmp_path), "a:b:c:d", False)
    assert os.listxattr(tmp_path / "new") == []
    with pytest.raises(ExternalFailure, match="cannot be labelled"):
        await labelled.relabel(f"{tmp_path}/absent", "a:b:c:d", True)


def test_the_policy_s_own_types(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert selinux.policy_contexts(f"{tmp_path}/absent") == {}


def test_our_own_capabilities() -> None:
    assert "CAP_SYS_ADMIN" in held_capabilities("CapBnd")
    assert held_capabilities("CapEff") <= held_capabilities("CapBnd")
    assert held_capabilities("CapAmb") == frozenset()
