"""Profiles of a whole run of the daemon (--profile-cpu, --profile-mem), written when it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pycrio.config.values import Config
from pycrio.obs import log as obslog

log = obslog.get("profile")


@contextlib.contextmanager
def whole_run(config: Config) -> Iterator[None]:
    """Take what is configured, and write it at the end; OSError at once when a file cannot be opened.

    To be entered in the main thread. Killing the daemon leaves the files empty.
    """
    cpu, memory = config.text("cli.profile_cpu"), config.text("cli.profile_mem")
    with contextlib.ExitStack() as ends:
        if memory:
            ends.enter_context(_file(memory, _memory))
        if cpu:
            ends.enter_context(_file(cpu, _cpu))
        yield


@contextlib.contextmanager
def _file(path: str, begin: Callable[[], Callable[[], bytes]]) -> Iterator[None]:
    with open(path, "wb", buffering=0) as file:
        end = begin()
        try:
            yield
        finally:
            try:
                file.write(end())
            except OSError as e:
                log.error("Profile not written", path=path, error=e)
            else:
                log.info("Wrote profile", path=path)


def _cpu() -> Callable[[], bytes]:
    from pycrio.obs.profile import pprof
    from pycrio.obs.profile.cpu import CpuProfiler

    profiler = CpuProfiler()
    profiler.start()
    return lambda: pprof.encode(profiler.stop())


def _memory() -> Callable[[], bytes]:
    from pycrio.obs.profile import heap, pprof

    heap.start()
    return lambda: pprof.encode(heap.places(heap.snapshot()))
