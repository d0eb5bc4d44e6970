"""Profiles: their written forms, and where time and memory are found."""

from __future__ import annotations

import ctypes
import gc
import gzip
import hashlib
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.errors import Busy
from pycrio.obs.profile import cpu, heap, pprof
from pycrio.obs.profile.cpu import CpuProfiler
from pycrio.obs.profile.pprof import Frame, Kind, Profile
from tests.pprof import Read, read

NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
FRAMES = st.builds(Frame, NAMES, NAMES, st.integers(0, 2**31))
STACKS = st.lists(FRAMES, max_size=6).map(tuple)
VALUES = st.integers(-(2**63), 2**63 - 1)


@given(
    st.dictionaries(STACKS, st.tuples(VALUES, VALUES), max_size=8),
    st.integers(0, 2**62),
    st.lists(NAMES, max_size=3),
)
def test_what_is_written_is_read(
    samples: dict[tuple[Frame, ...], tuple[int, int]], at: int, comments: list[str]
) -> None:
    kinds = (Kind("samples", "count"), Kind("cpu", "nanoseconds"))
    profile = Profile(kinds, samples, at, 5, Kind("cpu", "nanoseconds"), 10, tuple(comments))
    found = read(pprof.encode(profile))
    assert found.kinds == [tuple(kind) for kind in kinds]
    assert {tuple(stack): (v["samples"], v["cpu"]) for stack, v in found.samples} == samples
    strings = found.raw.string_table
    assert (found.raw.time_nanos, found.raw.duration_nanos, found.raw.period) == (at, 5, 10)
    assert strings[found.raw.period_type.type] == strings[found.raw.default_sample_type] == "cpu"
    assert [strings[i] for i in found.raw.comment] == comments


def test_the_same_profile_is_the_same_file() -> None:
    profile = Profile((Kind("a", "b"),), {(Frame("f"),): (1,)})
    assert pprof.encode(profile) == pprof.encode(profile)
    assert gzip.decompress(pprof.encode(profile))


def test_collapsed_stacks() -> None:
    inner, outer, odd = Frame("inner", "f.py", 3), Frame("outer", "f.py", 9), Frame("a;b\nc")
    samples = {(inner, outer): (1, 20), (outer,): (2, 5), (odd, outer): (1, 7), (inner,): (4, 0)}
    assert pprof.collapsed(Profile((Kind("n", "count"), Kind("v", "bytes")), samples)) == (
        "outer 5\nouter;a:b c 7\nouter;inner 20\n"
    )


# --- CPU


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        work()


def work() -> int:
    return sum(i * i for i in range(1000))


def digest(block: bytes) -> None:
    hashlib.sha256(block).digest()


def in_threads(profiled: Callable[[], None]) -> Read:
    """The profile of a function. Another thread sleeps all the while."""
    done = threading.Event()
    sleeper = threading.Thread(target=done.wait)
    sleeper.start()
    profiler = CpuProfiler()
    profiler.start()
    try:
        profiled()
    finally:
        profile = profiler.stop()
        done.set()
        sleeper.join()
    return read(pprof.encode(profile))


def test_time_is_found_where_it_is_used() -> None:
    def profiled() -> None:
        block = bytes(8 << 20)
        other = threading.Thread(target=lambda: [digest(block) for _ in range(40)])
        other.start()
        burn(0.5)
        other.join()

    began = time.process_time_ns()
    found = in_threads(profiled)
    used = time.process_time_ns() - began
    assert found.kinds == [("samples", "count"), ("cpu", "nanoseconds")]
    total = found.total("cpu")
    # Nothing is counted twice; what is used after the last sample of each thread is not seen.
    assert total <= used
    burnt = found.of(".burn", "cpu")
    assert burnt > 0.25e9
    assert found.of(".digest", "cpu") > 0
    _, file, line = next(frame for stack, _ in found.samples for frame in stack if frame[0].endswith("work"))
    assert file == __file__
    assert line > 0
    assert found.raw.period == cpu.PERIOD
    assert found.raw.duration_nanos > 0
    assert found.raw.time_nanos > 10**18


def test_waiting_costs_nothing() -> None:
    """No CPU time, no samples: the timer stands still. (In a process in which nothing else happens.)"""
    program = (
        "import time; from pycrio.obs.profile.cpu import CpuProfiler\n"
        "profiler = CpuProfiler(); profiler.start(); time.sleep(0.5); print(len(profiler.stop().samples))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0\n"


def test_threads_that_python_did_not_start_stand_under_their_names() -> None:
    """As those of gRPC and of the front, which have no stack in Python at all."""
    libc = ctypes.CDLL(None, use_errno=True)
    sampled = threading.Event()

    def body(_: int | None) -> int:
        end = time.thread_time() + 10
        while not sampled.is_set() and time.thread_time() < end:
            work()
        return 0

    started = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(body)
    ident = ctypes.c_ulong()

    def profiled() -> None:
        assert libc.pthread_create(ctypes.byref(ident), None, started, None) == 0
        burn(0.3)
        sampled.set()
        libc.pthread_join(ident, None)

    found = in_threads(profiled)
    natives = [stack[0][0] for stack, _ in found.samples if stack[0][0].startswith("[")]
    assert natives
    assert all(name.endswith("]") and len(name) > 2 for name in natives)


def test_the_handler_is_not_in_the_profile() -> None:
    """A signal that comes as the handler is entered for another one."""
    names: dict[str, Any] = {"here": lambda: sys._getframe(1)}
    exec(compile("def entered(handle):\n    handle(0, here())", cpu.__file__, "exec"), names)

    def interrupted() -> None:
        profiler._used.clear()  # all that this process has ever used counts for the sample
        names["entered"](cpu._interrupted)

    profiler = CpuProfiler()
    profiler.start()
    try:
        interrupted()
    finally:
        profile = profiler.stop()
    innermost = {stack[0].function for stack in profile.samples}
    assert any(name.endswith(".interrupted") for name in innermost)
    assert not any(name.endswith("entered") for name in innermost)


def test_one_at_a_time_and_again() -> None:
    first, second = CpuProfiler(), CpuProfiler()
    first.start()
    with pytest.raises(Busy, match="already in use"):
        second.start()
    first.stop()
    second.start()
    burn(0.05)
    second.stop()
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    signal.raise_signal(signal.SIGPROF)  # one that was on its way harms nobody


def test_stacks_and_their_depth_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "MAX_STACKS", 3)
    monkeypatch.setattr(cpu, "MAX_DEPTH", 5)

    def deeper(level: int) -> types.FrameType:
        return deeper(level - 1) if level else sys._getframe()

    profiler = CpuProfiler()
    profiler.start()
    for level in range(20):
        profiler._add(profiler._key(deeper(level)), 1)
    profile = profiler.stop()
    assert len(profile.samples) == 4
    assert max(map(len, profile.samples)) == 5
    assert sum(values[1] for values in profile.samples.values()) >= 20


def test_a_thread_that_has_ended_has_no_clock() -> None:
    thread = threading.Thread(target=burn, args=(0.01,))
    thread.start()
    thread.join()
    assert thread.native_id is not None
    while thread.native_id in cpu._threads():  # joined a moment before the kernel has buried it
        pass
    assert cpu._cpu_time(thread.native_id) == -1
    assert cpu._cpu_time(threading.get_native_id()) > 0
    assert "MainThread" in {t.name for t in threading.enumerate()}
    assert len(cpu.thread_names()) >= 1


# --- memory


class Counted:
    """Something to be found."""


def test_objects_by_type() -> None:
    kept = [Counted() for _ in range(1000)]
    found = read(pprof.encode(heap.types_held()))
    assert found.kinds == [("inuse_objects", "count"), ("inuse_space", "bytes")]
    assert found.of(".Counted", "inuse_objects") == len(kept)
    assert found.of(".Counted", "inuse_space") >= 1000 * sys.getsizeof(kept[0])


def test_frozen_objects_are_found_too() -> None:
    kept = [Counted() for _ in range(10)]
    gc.freeze()
    try:
        later = Counted()
        assert sum(isinstance(thing, Counted) for thing in heap.objects()) == len([*kept, later])
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def allocate() -> list[bytes]:
    return [bytes(1000) for _ in range(1000)]


def test_places_that_allocate() -> None:
    assert heap.start()
    try:
        assert heap.counting()
        assert not heap.start()
        kept = allocate()
        before = heap.snapshot()
        more = [allocate(), allocate()]
        now = heap.snapshot()
    finally:
        heap.stop()
    assert not heap.counting()
    here = "obs/test_profile.py"
    every, added = read(pprof.encode(heap.places(now))), read(pprof.encode(heap.places(now, before)))
    assert every.of(here, "inuse_space") >= 3_000_000
    assert 2_000_000 <= added.of(here, "inuse_space") < 3_000_000
    stack, _ = max(added.samples, key=lambda s: s[1]["inuse_space"])
    assert stack[0][1] == __file__
    lines = [line for _, file, line in stack if file == __file__]
    assert allocate.__code__.co_firstlineno + 1 in lines
    assert (len(kept), len(more)) == (1000, 2)


def test_nothing_is_imported_for_profiles_that_nobody_takes() -> None:
    program = (
        "import sys, pycrio.api.http, pycrio.api.server, pycrio.daemon\n"
        "print([m for m in sys.modules if m.startswith(('pycrio.obs.profile', 'pycrio.api.pprof', 'opentelemetry'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
