"""The pages below /debug/pprof, as Go programs have them: profiles for ``go tool pprof`` and for flame graphs.

What Python has no equal of (allocs, block, mutex, trace) is not there and says so. ``seconds`` asks for what happens
from now on, ``format=collapsed`` for stacks as text.
"""

from __future__ import annotations

import asyncio
import collections
import html
import sys
import time
import types
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

from pycrio.api import debug
from pycrio.api.http import MISSING, Page, PageServer, Query
from pycrio.errors import Busy, ConfigError, InvalidRequest
from pycrio.obs import log as obslog
from pycrio.obs.profile import heap, pprof
from pycrio.obs.profile.cpu import CpuProfiler, frame_of, thread_names
from pycrio.obs.profile.pprof import Frame, Kind, Profile, Stack

log = obslog.get("profile")

PREFIX = "debug/pprof"
HOST = "127.0.0.1"
SECONDS = 30.0
LONGEST = 600.0
_ABSENT = ("allocs", "block", "mutex", "symbol", "trace")
Offload = Callable[[Callable[[], Any]], Awaitable[Any]]


class Profiles:
    """``page`` answers paths below ``debug/pprof``. ``offload`` runs a function that takes long in a thread."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._counting = False
        self._pages: dict[str, tuple[str, Callable[[Query], Awaitable[Page]]]] = {
            "cmdline": ("the daemon's command line", self._command),
            "goroutine": ("what tasks and threads wait for; debug=2 for whole stacks", self._waiting),
            "heap": ("objects by type; with seconds=N places that allocate", self._heap),
            "profile": ("CPU time; seconds=N, 30 if not given", self._cpu),
            "threadcreate": ("threads", self._threads),
        }

    async def page(self, path: str, query: Query) -> Page:
        """The page of a path; InvalidRequest for a bad query, Busy when two ask for the same at a time."""
        name = path.removeprefix(PREFIX).strip("/")
        if not name:
            return self._index()
        found = self._pages.get(name)
        if found is not None:
            return await found[1](query)
        if name in _ABSENT:
            return Page(f"404: Python keeps no profile called {name}\n".encode(), status=HTTPStatus.NOT_FOUND)
        return MISSING

    def _index(self) -> Page:
        rows = (
            f"<li><a href='{name}?debug=1'>{name}</a>: {html.escape(what)}" for name, (what, _) in self._pages.items()
        )
        body = f"<!doctype html><title>/{PREFIX}/</title><h1>/{PREFIX}/</h1><ul>{''.join(rows)}</ul>"
        return Page(
            (body + "<p>format=collapsed gives stacks for flame graphs.</p>\n").encode(), "text/html; charset=utf-8"
        )

    async def _command(self, query: Query) -> Page:
        return Page("\0".join(sys.orig_argv).encode("utf-8", "surrogateescape"))

    async def _waiting(self, query: Query) -> Page:
        if _number(query, "debug", 0) > 0:
            return Page(debug.stacks().encode())
        return await self._written("goroutine", waiting(), query)

    async def _threads(self, query: Query) -> Page:
        return await self._written("threadcreate", threads(), query)

    async def _cpu(self, query: Query) -> Page:
        seconds = _number(query, "seconds", SECONDS) or SECONDS
        profiler = CpuProfiler()
        profiler.start()
        try:
            await asyncio.sleep(seconds)  # the request is to look on for so long
        finally:
            profile = profiler.stop()
        return await self._written("profile", profile, query)

    async def _heap(self, query: Query) -> Page:
        seconds = _number(query, "seconds", 0)
        if not seconds and not heap.counting():
            if _number(query, "debug", 0) > 0:
                return Page(debug.heap().encode())
            return await self._written("heap", await self._offload(heap.types_held), query)
        if not seconds:
            return await self._written("heap", await self._offload(lambda: heap.places(heap.snapshot())), query)
        if self._counting:
            raise Busy("allocations are being counted for somebody else: try again when that has ended")
        self._counting = True
        begun = heap.start()
        try:
            before = None if begun else await self._offload(heap.snapshot)
            await asyncio.sleep(seconds)  # as above
            profile = await self._offload(lambda: heap.places(heap.snapshot(), before))
        finally:
            self._counting = False
            if begun:
                heap.stop()
        return await self._written("heap", profile, query)

    async def _written(self, name: str, profile: Profile, query: Query) -> Page:
        """A profile in the form that is asked for."""
        if query.get("format") == "collapsed" or _number(query, "debug", 0) > 0:
            return Page((await self._offload(lambda: pprof.collapsed(profile))).encode("utf-8", "replace"))
        body = await self._offload(lambda: pprof.encode(profile))
        return Page(body, "application/octet-stream", filename=f"{name}.pb.gz")


def _number(query: Query, name: str, default: float) -> float:
    """A number of the query, between 0 and ``LONGEST``."""
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text[:9]) > LONGEST:
        raise InvalidRequest(f"{name}={text} is not a whole number from 0 to {LONGEST:.0f}")
    return float(text)


def waiting() -> Profile:
    """How many tasks and threads have which stack: what the profile of goroutines is elsewhere."""
    found: collections.Counter[Stack] = collections.Counter()
    for task in debug.tasks():
        found[_stack(reversed(debug.awaiting(task.get_coro())))] += 1
    for frame in sys._current_frames().values():
        found[_stack(debug.callers(frame))] += 1
    return _counted("goroutine", found)


def threads() -> Profile:
    """How many threads have which name, native ones among them."""
    return _counted("threadcreate", collections.Counter((Frame(name),) for name in thread_names()))


def _counted(kind: str, found: collections.Counter[Stack]) -> Profile:
    count = Kind(kind, "count")
    samples = {stack: (number,) for stack, number in found.items() if stack}
    return Profile((count,), samples, at=time.time_ns(), period_kind=count, period=1)


def _stack(frames: Iterable[types.FrameType]) -> Stack:
    return tuple(
        frame_of(f.f_code, f.f_lineno or f.f_code.co_firstlineno, str(f.f_globals.get("__name__", ""))) for f in frames
    )


async def serve(profiles: Profiles, port: int) -> PageServer:
    """The pages alone, on a TCP port of this host's loopback; ConfigError when that fails."""
    server = PageServer(profiles.page)
    try:
        bound = await server.listen(HOST, port)
    except OSError as e:
        raise ConfigError([f"profiles cannot be served on {HOST} port {port} (--profile-port): {e.strerror}"]) from e
    log.info("Profiles are served", url=f"http://{HOST}:{bound}/{PREFIX}/")
    return server
