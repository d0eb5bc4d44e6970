"""What dashboards ask of Go's runtime, answered with what comes nearest in this process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pycrio.obs.quantiles import Quantiles

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PAUSES = (0.0, 0.25, 0.5, 0.75, 1.0)


class _Mallinfo(ctypes.Structure):
    """struct mallinfo2 of mallinfo(3)."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]  # fmt: skip


class GoStats:
    """Counts pauses of the garbage collector from now on. ``tasks`` tells the number of the loop's tasks."""

    def __init__(self, tasks: Callable[[], int]) -> None:
        self._tasks = tasks
        self._pauses = Quantiles()
        self._began = 0.0
        self._last = 0.0
        self._mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc 2.33; other C libraries have none
        if self._mallinfo is not None:
            self._mallinfo.restype = _Mallinfo
        gc.callbacks.append(self._collected)

    def close(self) -> None:
        """Count no more."""
        gc.callbacks.remove(self._collected)

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._pauses.add(time.perf_counter() - self._began)
            self._last = time.time()

    def collect(self) -> Iterator[Metric]:
        """The metrics, for prometheus_client."""
        from prometheus_client.core import GaugeMetricFamily, Metric

        for name, text, value in self._gauges():
            yield GaugeMetricFamily(name, text, value)
        info = GaugeMetricFamily("go_info", "The language's version.", labels=["version"])
        info.add_metric([f"python{platform.python_version()}"], 1)
        yield info
        pauses = Metric("go_gc_duration_seconds", "Pauses by garbage collections.", "summary")
        for quantile, value in zip(PAUSES, self._pauses.at(PAUSES), strict=True):
            pauses.add_sample("go_gc_duration_seconds", {"quantile": f"{quantile:g}"}, value)
        pauses.add_sample("go_gc_duration_seconds_sum", {}, self._pauses.total)
        pauses.add_sample("go_gc_duration_seconds_count", {}, self._pauses.count)
        yield pauses

    def _gauges(self) -> Iterator[tuple[str, str, float]]:
        yield "go_goroutines", "Tasks of the event loop.", self._tasks()
        yield "go_threads", "Threads of the process.", len(os.listdir("/proc/self/task"))
        yield "go_memstats_heap_objects", "Blocks that Python's allocator has given out.", sys.getallocatedblocks()
        yield "go_memstats_last_gc_time_seconds", "Time of the last garbage collection.", self._last
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        most = float(limit) if limit != resource.RLIM_INFINITY else float(2**64 - 1)
        yield "process_virtual_memory_max_bytes", "Limit of the address space.", most
        with open("/proc/self/status", encoding="utf-8") as f:
            stack = next((int(line.split()[1]) << 10 for line in f if line.startswith("VmStk:")), 0)
        yield "go_memstats_stack_inuse_bytes", "Stack of the main thread.", stack
        if self._mallinfo is None:
            return
        heap = self._mallinfo()
        used, held = heap.uordblks + heap.hblkhd, heap.arena + heap.hblkhd
        yield "go_memstats_alloc_bytes", "Bytes that the C library's allocator has given out.", used
        yield "go_memstats_heap_alloc_bytes", "Bytes that the C library's allocator has given out.", used
        yield "go_memstats_heap_inuse_bytes", "Bytes that the C library's allocator has given out.", used
        yield "go_memstats_heap_idle_bytes", "Free bytes in the C library's heaps.", heap.fordblks
        yield "go_memstats_heap_sys_bytes", "Bytes that the C library's heaps have of the system.", held
        yield (
            "go_memstats_sys_bytes",
            "Bytes of the heaps and of the stack.",
            held + stack,
        )
