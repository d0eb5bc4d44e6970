"""The unit: ready, reload, watchdog, hardening."""

from __future__ import annotations

import os
import signal

from tests.system.node import linux, secured
from tests.vm.guest.service import DROP_INS, UNIT, Vm, eventually, sh, unit

ENVIRONMENT = {"PATH", "HOSTNAME", "HOME", "TERM", ""}


def check_systemd_was_told_that_the_daemon_serves(node: Vm) -> None:
    shown = unit(UNIT, "Type", "ActiveState", "SubState", "StatusText", "NRestarts", "Delegate", "OOMScoreAdjust")
    assert shown == {
        "Type": "notify",
        "ActiveState": "active",
        "SubState": "running",
        "StatusText": "Serving",
        "NRestarts": "0",
        "Delegate": "yes",
        "OOMScoreAdjust": "-999",
    }
    status = {c.type: c.status for c in node.cri.Status().status.conditions}
    assert status == {"RuntimeReady": True, "NetworkReady": True}


def check_reload_reads_the_configuration_anew(node: Vm) -> None:
    pid = node.pid
    (DROP_INS / "50-level.conf").write_text('[crio.runtime]\nlog_level = "debug"\n')
    sh(f"systemctl reload {UNIT}")
    eventually(lambda: "Configuration reload completed" in node.service.log)
    eventually(lambda: unit(UNIT, "ActiveState", "StatusText") == {"ActiveState": "active", "StatusText": "Serving"})
    assert node.pid == pid
    (DROP_INS / "50-level.conf").unlink()
    sh(f"systemctl reload {UNIT}")
    assert node.cri.Version().runtime_name == "cri-o"


def check_a_broken_configuration_is_refused_by_reload_and_told(node: Vm) -> None:
    (DROP_INS / "50-bad.conf").write_text('[crio.runtime]\nlog_level = "shouting"\n')
    sh(f"systemctl reload {UNIT}")
    eventually(lambda: "Configuration not reloaded, the old one stays in force" in node.service.log)
    (DROP_INS / "50-bad.conf").unlink()
    assert node.cri.Version().runtime_name == "cri-o"


def check_the_watchdog_is_fed_and_bites(node: Vm) -> None:
    """Pings come; a daemon that hangs is killed by systemd and started anew, and its containers go on."""
    override = "/run/systemd/system/crio.service.d"
    os.makedirs(override, exist_ok=True)
    with open(f"{override}/vm.conf", "w") as f:
        f.write("[Service]\nWatchdogSec=40s\nRestartSec=1\n")
    sh("systemctl daemon-reload")
    node.service.restart()
    box = node.start(node.pod(), "sleep", "100000")
    first_process = node.pid_of(box)
    before = unit(UNIT, "WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"]
    eventually(lambda: unit(UNIT, "WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"] != before)
    pid = node.pid
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: unit(UNIT, "NRestarts")["NRestarts"] == "1")
    eventually(lambda: unit(UNIT, "ActiveState")["ActiveState"] == "active" and node.pid not in (0, pid))
    assert "Watchdog timeout" in node.service.log
    assert node.pid_of(box) == first_process
    assert node.exec(box, "echo", "alive").stdout == b"alive\n"
    os.unlink(f"{override}/vm.conf")
    sh("systemctl daemon-reload")
    node.service.restart()
    node.clear()


def check_the_status_command_reaches_the_daemon(node: Vm) -> None:
    assert "cgroup driver: systemd" in sh("/opt/pycrio/bin/pycrio status info")


def check_containers_inherit_nothing_of_the_unit(node: Vm) -> None:
    """No seccomp filter, no niceness to the OOM killer, nothing that systemd says to its service."""
    for handler in ("runc", "crun"):
        pod = node.pod(handler=handler, linux=linux(privileged=True))
        box = node.start(pod, "sleep", "100000", linux=secured(privileged=True))

        def read(path: str, box: str = box) -> str:
            return bytes(node.exec(box, "cat", path).stdout).decode()

        status = dict(line.split(":\t", 1) for line in read("/proc/1/status").splitlines())
        assert (status["Seccomp"], status["Seccomp_filters"], status["NoNewPrivs"]) == ("0", "0", "0")
        assert [read(f"/proc/{who}/oom_score_adj") for who in ("1", "self")] == ["0\n"] * 2, handler
        assert {entry.partition("=")[0] for entry in read("/proc/1/environ").split("\0")} <= ENVIRONMENT
        node.remove_pod(pod)
