"""Idle states and frequencies of single CPUs, and what they were before (kernel: PM QoS and cpufreq in sysfs).

What a file said before is kept below ``saved`` under the same name, in the form that CRI-O uses.
"""

from __future__ import annotations

import os

from pycrio.drivers.cpus.files import read_text, replace_text, write_text
from pycrio.errors import InvalidRequest, Unsupported

LATENCY = "power/pm_qos_resume_latency_us"
GOVERNOR = "cpufreq/scaling_governor"
AVAILABLE = "cpufreq/scaling_available_governors"


class Power:
    """``system`` is where /sys/devices/system/cpu is."""

    def __init__(self, system: str, saved: str) -> None:
        self._system = system
        self._saved = saved

    def check_governor(self, cpus: frozenset[int], governor: str) -> None:
        """InvalidRequest unless every one of the CPUs has the governor."""
        for cpu in sorted(cpus):
            try:
                there = read_text(f"{self._system}/cpu{cpu}/{AVAILABLE}").split()
            except OSError as e:
                raise Unsupported(f"the frequency of CPU {cpu} has no governor: {e.strerror}") from e
            if governor not in there:
                raise InvalidRequest(f"governor {governor!r} is not available for CPU {cpu}: it has {', '.join(there)}")

    def set(self, name: str, cpus: frozenset[int], value: str) -> None:
        """Write a value to a file of each CPU. The old one is kept, unless one is kept already: then ours was there."""
        for cpu in sorted(cpus):
            path, kept = f"{self._system}/cpu{cpu}/{name}", f"{self._saved}/cpu{cpu}/{name}"
            if not os.path.exists(kept):
                replace_text(kept, read_text(path))
            write_text(path, value)

    def put_back(self, name: str, cpus: frozenset[int]) -> None:
        """Write what was kept, as far as something was."""
        for cpu in sorted(cpus):
            kept = f"{self._saved}/cpu{cpu}/{name}"
            try:
                text = read_text(kept)
            except FileNotFoundError:
                continue
            write_text(f"{self._system}/cpu{cpu}/{name}", text.strip())
            os.unlink(kept)

    def siblings(self, cpu: int) -> str:
        """The hardware threads of a CPU's core, itself included, as a CPU list."""
        try:
            found = read_text(f"{self._system}/cpu{cpu}/topology/thread_siblings_list").strip()
        except OSError:
            return str(cpu)
        return found or str(cpu)
