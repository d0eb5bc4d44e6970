"""The run: warm up, look, live with kills, live without, look at a fifth and at the end, compare."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc

from tests.daemon import Daemon
from tests.fixtures_registry import start_registry
from tests.isolation import Isolation, short_directory
from tests.soak import images, picture
from tests.soak.life import Life, Lives
from tests.soak.picture import Picture
from tests.soak.subject import PatientCri, Subject
from tests.system.node import Node

TTY = sys.stdout.isatty()
JUDGED = 200  # pods of the last phase from which on its memory is judged: a short run has not met everything once
GIVE_UP = 20


@dataclass
class Plan:
    """How many pods live when. ``kills`` fall in the middle phase."""

    pods: int
    workers: int
    seed: int
    kills: int

    @property
    def warm(self) -> int:
        """Until everything was met once: a daemon of 60 pods still grows by 4 %, one of 160 by 1.6, and then hardly."""
        return max(4, min(150, self.pods // 8))

    @property
    def calm(self) -> int:
        """Pods of the last phase, which no kill disturbs."""
        return self.pods * 4 // 10

    @property
    def stormy(self) -> int:
        return self.pods - self.warm - self.calm


@dataclass
class Run:
    """One run; ``failures`` are lives that went wrong, with where."""

    plan: Plan
    subject: Subject
    node: Node
    lives: Lives
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    failures: list[str] = field(default_factory=list)
    _started: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def phase(self, title: str, count: int) -> None:
        """Live ``count`` lives, several at a time; returns when all have ended and nothing is asked any more."""
        first = self._started
        quiet = threading.Event()
        watchers = [threading.Thread(target=w, args=(quiet,)) for w in (self._kubelet, self._listen)]
        for watcher in watchers:
            watcher.start()
        try:
            with concurrent.futures.ThreadPoolExecutor(self.plan.workers, "life") as pool:
                for work in [pool.submit(self._live, first + n, title) for n in range(count)]:
                    work.result()
        finally:
            quiet.set()
            for watcher in watchers:
                watcher.join()

    def _live(self, number: int, title: str) -> None:
        with self._changed:
            self._started += 1
            self._changed.notify_all()
        if len(self.failures) >= GIVE_UP or self.subject.broken is not None:
            return
        life = Life(self.lives, number, self.plan.seed)
        try:
            life.live()
        except Exception:
            self.failures.append(f"pod {number} ({life.pod}): {traceback.format_exc()}")
            print(f"\nFAILED: {self.failures[-1]}", flush=True)
            with contextlib.suppress(Exception):  # the failure is told already; what it leaves will be, too
                life.abandon()
        with self._changed:
            self.done += 1
        self.progress(title)

    def _kubelet(self, quiet: threading.Event) -> None:
        """Lists and statistics every second, as kubelets ask for them."""
        while not quiet.wait(1.0) and self.subject.broken is None:
            for name in ("Status", "ListPodSandbox", "ListContainers", "ListContainerStats", "ListPodSandboxStats"):
                self.subject.call(name)

    def _listen(self, quiet: threading.Event) -> None:
        """One listener to container events, back after each kill."""
        while not quiet.is_set() and self.subject.broken is None:
            call = self.subject.stream("GetContainerEvents")
            ended = threading.Thread(target=lambda: (quiet.wait(), call.cancel()))  # noqa: B023
            ended.start()
            try:
                for _ in call:
                    self.subject.count("events")
            except grpc.RpcError:
                quiet.wait(0.2)  # the daemon was killed, or we are done
            if quiet.is_set():
                ended.join()

    def storm(self) -> None:
        """Kill the daemon at random moments of the middle phase, from a thread of its own, until it has ended."""
        dice = random.Random(f"{self.plan.seed}/kills")
        first, count = self._started, self.plan.stormy
        moments = sorted(dice.randrange(count) for _ in range(self.plan.kills))
        for moment in moments:
            if self.subject.broken is not None:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._started > first + moment)  # noqa: B023
            time.sleep(dice.random() * 0.5)  # the moment is the point
            self.subject.crash(dice, again=0.2)

    def progress(self, title: str) -> None:
        pods, took = self.plan.pods, time.monotonic() - self.began
        line = f"{title:<22} {self.done:>5}/{pods} pods  {len(self.subject.restarts):>3} kills  {took:6.0f} s"
        line += f"  {self.done / took:4.1f} pods/s" + (f"  {len(self.failures)} FAILED" if self.failures else "")
        if TTY:
            print(f"\r{line} ", end="", flush=True)
        elif self.done % max(1, pods // 20) == 0:
            print(line, flush=True)

    def look(self, before: Picture | None = None) -> Picture:
        """Have the daemon give back what it can, wait until all is quiet, and look."""
        self.node.cri.ListPodSandbox()
        self.subject.shrink()
        picture.settled(self.node, before)
        self.subject.shrink()
        return picture.settled(self.node, before)


def soak(run: Run) -> bool:
    """All phases; True when nothing failed and nothing has come to stay."""
    plan, subject = run.plan, run.subject
    run.phase("warming up", plan.warm)
    start = run.look()
    killer = threading.Thread(target=run.storm)
    killer.start()
    run.phase("with kills", plan.stormy)
    killer.join()
    subject.crash(random.Random(plan.seed))
    if subject.broken is not None:
        print(f"FAILED: the daemon did not start again: {subject.broken}")
        return False
    run.phase("without kills", plan.calm // 5)
    fifth = run.look()
    run.phase("without kills", plan.calm - plan.calm // 5)
    end = run.look(start)
    print("\n" if TTY else "", flush=True)
    fine = report(start, fifth, end, judged=plan.calm >= JUDGED)
    summary(run)
    unforeseen = [line for line in subject.daemon.log.splitlines() if "Unforeseen" in line or "Traceback" in line]
    for line in unforeseen:
        print(f"FAILED: {line}")
    return fine and not run.failures and not unforeseen


def report(start: Picture, fifth: Picture, end: Picture, *, judged: bool) -> bool:
    """Print the table; True when it is as it should be."""
    print(f"{'what':<24}{'start':>10}{'at 20 %':>10}{'end':>10}   verdict")
    found = picture.differences(start, end)
    for kind in start.things:
        numbers = "".join(f"{sum(p.things[kind].values()):>10}" for p in (start, fifth, end))
        print(f"{kind:<24}{numbers}   {'DIFFERS' if kind in found else 'equal'}")
    crowded = end.threads > picture.MAX_THREADS
    numbers = "".join(f"{p.threads:>10}" for p in (start, fifth, end))
    print(f"{'threads':<24}{numbers}   {'TOO MANY' if crowded else 'within bounds'}")
    grown = {f"since {when}": picture.grown(p.memory, end.memory) for when, p in (("20 %", fifth), ("start", start))}
    steady = max(grown.values()) <= picture.TOLERANCE
    for kind in ("own", "pss", "rss"):
        numbers = "".join(f"{getattr(p.memory, kind):>10}" for p in (start, fifth, end))
        verdict = ""
        if kind == "own":
            verdict = ", ".join(f"{100 * part:+.1f} % {since}" for since, part in grown.items())
            verdict += "" if not judged else ": within 5 %" if steady else ": GROWN"
        print(f"{'memory, ' + kind + ' (kB)':<24}{numbers}   {verdict}")
    for kind, lines in found.items():
        print(f"\n{kind}:")
        for line in lines[:20]:
            print(f"  {line}")
    return not found and not crowded and (steady or not judged)


def summary(run: Run) -> None:
    subject, took = run.subject, time.monotonic() - run.began
    calls, counts = sum(subject.calls.values()), subject.counts
    print(f"\n{run.done} pods in {took:.0f} s: {run.done / took:.2f} pods/s, {calls} calls, {calls / took:.0f} calls/s")
    restarts = subject.restarts
    if restarts:
        mean = sum(restarts) / len(restarts)
        print(f"{len(restarts)} kills, each back after {mean:.1f} s on average; {subject.repeated} requests repeated")
    print(", ".join(f"{number} {what}" for what, number in sorted(counts.items())))


@contextlib.contextmanager
def stage(plan: Plan, keep: bool) -> Iterator[Run]:
    """Everything that a run needs, on scratch directories in namespaces of its own."""
    dice = random.Random(f"{plan.seed}/images")
    with Isolation() as isolation:
        directory = short_directory()
        daemon = Daemon(directory)
        registry = start_registry(pathlib.Path(directory, "registry"))
        failing = images.FailingRegistry(dice)
        daemon.insecure(registry.address)
        daemon.insecure(failing.address)
        pushed = images.push(registry, dice)
        subject = Subject(daemon)
        try:
            subject.start()
            node = Node(daemon, isolation, pushed.busy)
            node.cri.close()
            node.cri = PatientCri(subject)  # type: ignore[assignment]
            node.registries.add(int(failing.address.rpartition(":")[2]))
            node.cri.PullImage(image={"image": pushed.busy})
            yield Run(plan, subject, node, Lives(subject, node, pushed.others, failing.names))
            code = subject.end()
            if code:
                raise AssertionError(f"the daemon ended with code {code}")
        finally:
            failing.close()
            registry.stop()
            if keep:
                print(f"kept: {directory}")
            else:
                daemon.clean()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--pods", type=int, default=int(os.environ.get("PODS") or 1000))
    parser.add_argument("--workers", type=int, default=6, help="pods in flight (6)")
    parser.add_argument("--kills", type=int, help="of the daemon (one for 25 pods)")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or time.time()))
    parser.add_argument("--keep", action="store_true", help="keep the scratch directory")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("pods need root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plan = Plan(asked.pods, asked.workers, asked.seed, asked.pods // 25 if asked.kills is None else asked.kills)
    print(f"{plan.pods} pods, {plan.workers} at a time, {plan.kills} kills, seed {plan.seed}", flush=True)
    with stage(plan, asked.keep) as run:
        fine = soak(run)
    print("\nNothing has come to stay." if fine else "\nSOMETHING IS WRONG, see above.")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
