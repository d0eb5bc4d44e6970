"""AppArmor on a recorded list of profiles, with a parser that writes down what it is given."""

from __future__ import annotations

import pathlib

import pytest

from pycrio.drivers.security import apparmor
from pycrio.drivers.security.apparmor import DEFAULT, AppArmor
from pycrio.errors import ExternalFailure, InvalidRequest, NotFound
from pycrio.model.security import ProfileType, SecurityProfile

# Debian 12, /sys/kernel/security/apparmor/profiles
RECORDED = """nvidia_modprobe (enforce)
nvidia_modprobe//kmod (enforce)
lsb_release (enforce)
own one (complain)
"""
PARSER = """#!/bin/sh
echo "$1" >{dir}/flags
cat "$2" >{dir}/given
{then}
"""


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A host that enforces AppArmor, as far as the driver can see."""
    (tmp_path / "profiles").write_text(RECORDED)
    monkeypatch.setattr(apparmor, "SECURITYFS", str(tmp_path / "profiles"))
    monkeypatch.setattr(apparmor, "enabled", lambda: True)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def parser(host: pathlib.Path, then: str) -> None:
    program = host / "apparmor_parser"
    program.write_text(PARSER.format(dir=host, then=then))
    program.chmod(0o755)


def localhost(name: str) -> SecurityProfile:
    return SecurityProfile(ProfileType.LOCALHOST, name)


async def test_the_default_profile_is_loaded_once(host: pathlib.Path) -> None:
    parser(host, f"echo '{DEFAULT} (enforce)' >>{host}/profiles")
    for _ in range(2):
        driver = AppArmor("")
        await driver.open()
        assert driver.name_for(None, False) == DEFAULT
    text = (host / "given").read_text()
    assert f"profile {DEFAULT} flags=(attach_disconnected,mediate_deleted)" in text
    assert "deny mount," in text
    # newer distributions confine OCI runtimes; without this they could end no container
    assert "signal (receive) peer={runc,crun,/usr/**/runc,/usr/**/crun}," in text
    assert (host / "flags").read_text() == "-Kr\n"
    (host / "given").unlink()
    await AppArmor("").open()
    assert not (host / "given").exists()


async def test_a_refused_profile_stops_the_start(host: pathlib.Path) -> None:
    parser(host, "echo 'syntax error in line 3' >&2; exit 1")
    with pytest.raises(ExternalFailure, match="syntax error in line 3"):
        await AppArmor("").open()


async def test_without_the_parser_containers_run_unconfined(host: pathlib.Path) -> None:
    driver = AppArmor("")
    await driver.open()
    assert driver.name_for(None, False) == ""
    with pytest.raises(InvalidRequest, match="not enabled"):
        driver.name_for(localhost("lsb_release"), False)


async def test_a_configured_profile_is_not_ours_to_load(host: pathlib.Path) -> None:
    parser(host, "exit 1")
    driver = AppArmor("lsb_release")
    await driver.open()
    assert driver.name_for(None, False) == "lsb_release"


def test_names(host: pathlib.Path) -> None:
    driver = AppArmor("")
    assert driver.name_for(localhost("own one"), False) == "own one"
    assert driver.name_for(localhost("localhost/nvidia_modprobe//kmod"), False) == "nvidia_modprobe//kmod"
    assert driver.name_for(SecurityProfile(ProfileType.UNCONFINED), False) == ""
    assert driver.name_for(SecurityProfile(ProfileType.RUNTIME_DEFAULT), False) == DEFAULT
    assert driver.name_for(localhost("own one"), True) == ""
    with pytest.raises(NotFound, match="absent"):
        driver.name_for(localhost("absent"), False)
    with pytest.raises(InvalidRequest, match="needs a name"):
        driver.name_for(localhost("localhost/"), False)


def test_a_host_without_apparmor(host: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "enabled", lambda: False)
    driver = AppArmor("")
    assert driver.name_for(None, False) == ""
    with pytest.raises(InvalidRequest, match="not enabled"):
        driver.name_for(localhost("own one"), False)
