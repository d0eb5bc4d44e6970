"""The daemon under test: killed at any moment, and a client that repeats what this cut off."""

from __future__ import annotations

import collections
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from pycrio.api._pb import api_pb2 as pb
from tests.cri import SERVICES, Cri
from tests.daemon import Daemon

T = TypeVar("T")
RESTART = 120.0  # seconds in which a killed daemon must serve again, on a machine with other work


class Subject:
    """Shared by all threads of a run. ``calls`` and ``counts`` say what was asked, ``restarts`` how long each took."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.generation = 0
        self.calls: collections.Counter[str] = collections.Counter()
        self.counts: collections.Counter[str] = collections.Counter()
        self.restarts: list[float] = []
        self.repeated = 0
        self.broken: Exception | None = None
        self._dying = False
        self._changed = threading.Condition()
        self._cri: Cri | None = None

    # --- life and death -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The first start."""
        self.daemon.start()
        self._cri = self.daemon.client()

    def crash(self, dice: random.Random, again: float = 0.0) -> None:
        """SIGKILL and a new start; with the probability ``again`` the new one is killed while it starts. One that does
        not start again is the end of the run: ``broken``."""
        try:
            self._crash(dice, again)
        except Exception as e:
            with self._changed:
                self.broken = e
                self._changed.notify_all()

    def _crash(self, dice: random.Random, again: float) -> None:
        began = time.monotonic()
        with self._changed:
            self._dying = True
        self.daemon.kill()
        if dice.random() < again:
            self.daemon.start(wait=False)
            time.sleep(dice.random() * 0.8)  # the moment is the point
            self.daemon.kill()
            self.count("kills during start-up")
        self.daemon.start(wait=False)
        self.daemon.wait(RESTART)
        self.count("kills")
        old, self._cri = self._cri, self.daemon.client()
        with self._changed:
            self._dying = False
            self.generation += 1
            self.restarts.append(time.monotonic() - began)
            self._changed.notify_all()
        if old is not None:
            old.close()

    def shrink(self) -> None:
        """Have the daemon collect its garbage and give memory back (SIGUSR2); returns when it says that it has."""
        assert self.daemon.process is not None
        done = "Collected garbage"
        before = self.daemon.log.count(done)
        self.daemon.process.send_signal(signal.SIGUSR2)
        end = time.monotonic() + 30
        while self.daemon.log.count(done) == before:
            assert time.monotonic() < end, "the daemon does not answer SIGUSR2"
            time.sleep(0.05)

    # --- asking ---------------------------------------------------------------------------------------------------

    def count(self, what: str, number: int = 1) -> None:
        with self._changed:
            self.counts[what] += number

    def again(self, work: Callable[[], T]) -> T:
        """Do ``work``, and once more whenever the daemon was killed meanwhile."""
        while True:
            generation = self.generation
            try:
                return work()
            except Exception:
                with self._changed:
                    if not self._dying and self.generation == generation:
                        raise
                    self.repeated += 1
                    self._changed.wait_for(lambda: self.broken or self.generation != generation)  # noqa: B023
                    if self.broken is not None:
                        raise

    def call(self, name: str, *args: Any, **fields: Any) -> Any:
        """A CRI call, repeated when the daemon was killed in it."""
        tries = 0

        def once() -> Any:
            nonlocal tries
            tries += 1
            assert self._cri is not None
            return getattr(self._cri, name)(*args, **fields)

        with self._changed:
            self.calls[name] += 1
        try:
            return self.again(once)
        except grpc.RpcError as e:
            # The first try may have started it, and its answer was lost.
            if tries > 1 and name == "StartContainer" and e.code() == grpc.StatusCode.FAILED_PRECONDITION:
                ident = fields["container_id"]
                state = self.call("ContainerStatus", container_id=ident).status.state
                if state in (pb.CONTAINER_RUNNING, pb.CONTAINER_EXITED):
                    return pb.StartContainerResponse()
            raise

    def stream(self, name: str) -> Any:
        """A streaming call of the present daemon, not repeated."""
        assert self._cri is not None
        return getattr(self._cri, name)(deadline=3600.0)

    def end(self) -> int:
        """SIGTERM; the exit code."""
        if self._cri is not None:
            self._cri.close()
        return self.daemon.stop()


class PatientCri:
    """The client that the verbs of ``tests.system.node.Node`` use: every call through ``Subject.call``."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in SERVICES:
            raise AttributeError(name)
        return lambda *args, **fields: self._subject.call(name, *args, **fields)

    def close(self) -> None:
        """The connection belongs to the subject."""
