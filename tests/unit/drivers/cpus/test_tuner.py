"""Tuned CPUs on a made-up machine of four CPUs: what is changed, what comes back, also after a crash."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from pycrio.drivers.cpus.files import replace_text
from pycrio.drivers.cpus.irq import ban_of, with_ban
from pycrio.drivers.cpus.power import GOVERNOR, LATENCY
from pycrio.drivers.cpus.tuner import CpuTuner, Settings
from pycrio.errors import ExternalFailure, InvalidRequest, Unsupported
from pycrio.model.cpus import CpuTuning

CONFIG = '# a comment\nIRQBALANCE_ONESHOT=\nIRQBALANCE_BANNED_CPUS="00000000"\nIRQBALANCE_ARGS=\n'


@dataclass
class Machine:
    """Files as the kernel shows them, irqbalance as a script that notes how it was called."""

    root: pathlib.Path

    def __post_init__(self) -> None:
        for cpu in range(4):
            for name, text in (
                (LATENCY, "0\n"),
                (GOVERNOR, "powersave\n"),
                ("cpufreq/scaling_available_governors", "performance powersave\n"),
                ("topology/thread_siblings_list", f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}\n"),
            ):
                self.write(f"cpu/cpu{cpu}/{name}", text)
        self.write("proc/irq/default_smp_affinity", "f\n")
        self.write("irqbalance", CONFIG)
        self.tool("irqbalance", f'echo "once $1 $IRQBALANCE_BANNED_CPUS" >>{self.root}/calls')
        self.tool("systemctl", f'echo "$1 $2" >>{self.root}/calls; echo disabled')

    def tool(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, name: str) -> str:
        return (self.root / name).read_text().strip()

    @property
    def calls(self) -> list[str]:
        return self.read("calls").splitlines() if (self.root / "calls").exists() else []

    def values(self, name: str) -> list[str]:
        return [self.read(f"cpu/cpu{cpu}/{name}") for cpu in range(4)]

    def driver(self, restore: str = "disable", path: Mapping[str, str] | None = None) -> CpuTuner:
        return CpuTuner(
            Settings(
                irqbalance=f"{self.root}/irqbalance",
                restore=restore,
                proc=f"{self.root}/proc",
                system=f"{self.root}/cpu",
                saved=f"{self.root}/saved",
                claims=f"{self.root}/saved/claims",
                environ=path or {"PATH": f"{self.root}/bin:/usr/bin:/bin"},
            )
        )

    def untouched(self) -> bool:
        claims = self.root / "saved/claims"
        return (
            self.values(LATENCY) == ["0"] * 4
            and self.values(GOVERNOR) == ["powersave"] * 4
            and self.read("proc/irq/default_smp_affinity") in ("f", "0000000f")
            and not (claims.exists() and os.listdir(claims))
        )


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    return Machine(tmp_path)


ALL = CpuTuning("2-3", quiet="2-3", latency="n/a", governor="performance")


async def test_everything_and_back(machine: Machine) -> None:
    driver = machine.driver()
    await driver.tune("a", ALL)
    assert machine.values(LATENCY) == ["0", "0", "n/a", "n/a"]
    assert machine.values(GOVERNOR) == ["powersave", "powersave", "performance", "performance"]
    assert machine.read("proc/irq/default_smp_affinity") == "00000003"
    assert ban_of(machine.read("irqbalance")) == "000000fc"
    assert machine.read("irqbalance").startswith("# a comment\nIRQBALANCE_ONESHOT=\n")
    assert machine.calls == ["is-enabled irqbalance", "once --oneshot 000000fc"]
    assert machine.read("saved/cpu2/" + LATENCY) == "0"
    await driver.restore("a")
    assert machine.untouched()
    assert ban_of(machine.read("irqbalance")) == "fffffff0"
    assert machine.calls[-1] == "once --oneshot fffffff0"
    before = machine.calls
    await driver.restore("a")
    assert machine.calls == before


async def test_a_service_is_restarted_instead(machine: Machine) -> None:
    machine.tool("systemctl", f'echo "$1 $2" >>{machine.root}/calls; echo enabled')
    await machine.driver().tune("a", ALL)
    assert machine.calls == ["is-enabled irqbalance", "restart irqbalance"]


async def test_a_service_that_does_not_restart(machine: Machine) -> None:
    machine.tool("systemctl", f'echo "$1 $2" >>{machine.root}/calls; echo enabled; [ $1 = is-enabled ]')
    await machine.driver().tune("a", ALL)
    assert machine.calls == ["is-enabled irqbalance", "restart irqbalance", "once --oneshot 000000fc"]


async def test_without_irqbalance_the_kernel_is_told_all_the_same(machine: Machine) -> None:
    (machine.root / "irqbalance").unlink()
    await machine.driver(path={"PATH": "/nowhere"}).tune("a", ALL)
    assert machine.read("proc/irq/default_smp_affinity") == "00000003"
    assert not (machine.root / "irqbalance").exists()


async def test_another_daemon_gives_back_what_a_crash_left(machine: Machine) -> None:
    await machine.driver().tune("a", ALL)
    await machine.driver().tune("b", CpuTuning("1", quiet="1"))
    await machine.driver().sweep(["b"])
    assert machine.read("proc/irq/default_smp_affinity") == "0000000d"
    assert machine.values(LATENCY) == ["0"] * 4
    await machine.driver().sweep([])
    assert machine.untouched()


async def test_a_start_that_was_cut_off_may_be_repeated(machine: Machine) -> None:
    await machine.driver().tune("a", ALL)
    driver = machine.driver()
    await driver.tune("a", CpuTuning("2-3", quiet="2-3"))
    assert machine.values(LATENCY) == ["0"] * 4
    assert machine.read("proc/irq/default_smp_affinity") == "00000003"
    await driver.restore("a")
    assert machine.untouched()


async def test_a_successor_on_the_same_cpus_keeps_them(machine: Machine) -> None:
    driver = machine.driver()
    await driver.tune("old", ALL)
    await driver.tune("new", CpuTuning("3", quiet="3", latency="10"))
    await driver.restore("old")
    assert machine.values(LATENCY) == ["0", "0", "0", "10"]
    assert machine.values(GOVERNOR) == ["powersave"] * 4
    assert machine.read("proc/irq/default_smp_affinity") == "00000007"
    await driver.restore("new")
    assert machine.untouched()


async def test_cpus_that_served_no_interrupts_before_do_not_afterwards(machine: Machine) -> None:
    machine.write("proc/irq/default_smp_affinity", "7\n")
    driver = machine.driver()
    await driver.tune("a", ALL)
    assert machine.read("proc/irq/default_smp_affinity") == "00000003"
    await driver.restore("a")
    assert machine.read("proc/irq/default_smp_affinity") == "00000007"


async def test_a_governor_that_is_not_there(machine: Machine) -> None:
    with pytest.raises(InvalidRequest, match="'turbo' is not available for CPU 2: it has performance, powersave"):
        await machine.driver().tune("a", CpuTuning("2-3", quiet="2-3", governor="turbo"))
    (machine.root / "cpu/cpu2/cpufreq/scaling_available_governors").unlink()
    with pytest.raises(Unsupported, match="the frequency of CPU 2 has no governor"):
        await machine.driver().tune("a", ALL)
    assert machine.untouched()


async def test_a_failure_in_the_middle_leaves_nothing(machine: Machine) -> None:
    (machine.root / "cpu/cpu3" / LATENCY).unlink()
    with pytest.raises(ExternalFailure, match="CPUs 2-3 of container a cannot be tuned"):
        await machine.driver().tune("a", ALL)
    machine.write(f"cpu/cpu3/{LATENCY}", "0\n")
    assert machine.untouched()


async def test_a_ban_list_that_cannot_be_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, text: str) -> None:
        if path.endswith("irqbalance"):
            raise OSError(28, "No space left on device", path)
        replace_text(path, text)

    monkeypatch.setattr("pycrio.drivers.cpus.irq.replace_text", full)
    with pytest.raises(ExternalFailure, match="No space left"):
        await machine.driver().tune("a", CpuTuning("2", quiet="2"))
    assert machine.read("proc/irq/default_smp_affinity") in ("f", "0000000f")


async def test_a_cancelled_start_leaves_nothing(machine: Machine) -> None:
    machine.tool(
        "irqbalance", f"echo here >>{machine.root}/calls; while [ ! -e {machine.root}/go ]; do sleep 0.01; done"
    )
    task = asyncio.ensure_future(machine.driver().tune("a", ALL))
    while "here" not in machine.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)  # the program says that it runs in a file only
    machine.write("go", "")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert machine.untouched()


async def test_siblings(machine: Machine) -> None:
    driver = machine.driver()
    assert await driver.siblings("2-3") == "2-3"
    assert await driver.siblings("1-3") == "1"
    assert await driver.siblings("") == ""
    (machine.root / "cpu/cpu2/topology/thread_siblings_list").unlink()
    assert await driver.siblings("2-3") == "2"


@pytest.mark.effect("crio.runtime.irqbalance_config_restore_file")
async def test_after_a_boot_the_first_ban_list_comes_back(machine: Machine) -> None:
    backup = machine.root / "backup"
    driver = machine.driver(str(backup))
    await driver.open()
    assert backup.read_text() == "00000000"
    await driver.tune("a", ALL)
    await machine.driver(str(backup)).open()  # CPUs are kept off: no boot
    assert ban_of(machine.read("irqbalance")) == "000000fc"
    machine.write("proc/irq/default_smp_affinity", "f\n")
    shutil.rmtree(machine.root / "saved")
    machine.tool("systemctl", f'echo "$1 $2" >>{machine.root}/calls; echo enabled')
    await machine.driver(str(backup)).open()
    assert ban_of(machine.read("irqbalance")) == "00000000"
    assert machine.calls[-1] == "restart irqbalance"


async def test_it_may_be_switched_off(machine: Machine) -> None:
    machine.write("irqbalance", with_ban(CONFIG, "0000000c"))
    await machine.driver("disable").open()
    await machine.driver("").open()
    assert ban_of(machine.read("irqbalance")) == "0000000c"


def test_a_configuration_without_a_ban_list_gets_one() -> None:
    assert with_ban("A=1", "f") == 'A=1\nIRQBALANCE_BANNED_CPUS="f"\n'
    assert with_ban("", "f") == 'IRQBALANCE_BANNED_CPUS="f"\n'
    assert ban_of("A=1\n") == ""
