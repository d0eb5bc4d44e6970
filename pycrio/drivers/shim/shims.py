"""The verbs on containers that shims run, by container id."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal as signals
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from pycrio._native import proc
from pycrio._native.base import Fd
from pycrio._native.pools import offload
from pycrio._native.run import readable
from pycrio.drivers.shim import bootstrap, execs, metrics, names, options, stuck
from pycrio.drivers.shim._pb import task_pb2 as pb
from pycrio.drivers.shim.calls import Calls, ShimGone
from pycrio.drivers.shim.events import Events, Log
from pycrio.drivers.shim.place import Facts, Place, places
from pycrio.errors import NotFound, PycrioError, RuntimeFailure, Timeout, Unsupported
from pycrio.model.container import ExecResult
from pycrio.model.node import Handler
from pycrio.model.requests import ExecRequest, MonitorRequest
from pycrio.model.stats import CgroupStats
from pycrio.obs import log as obslog

log = obslog.get("shim")
END_WAIT = 10.0
"""Seconds for a killed container to end, and for a shim without containers."""
ANSWER_WAIT = 2.0
"""Seconds for a shim of an earlier run to answer, before it counts as stuck: the start of the daemon waits for it."""
SILENT_WAIT = 0.5
"""Seconds for one that has not answered the last time."""
_STATUS = {pb.CREATED: "created", pb.RUNNING: "running", pb.STOPPED: "stopped", pb.PAUSED: "paused"}
_STATUS |= {pb.PAUSING: "paused"}


@dataclass(frozen=True, slots=True)
class Settings:
    """``state_dir`` holds a directory per container; ``program`` is pycrio-task; ``publish`` what shims may run to tell
    of events. ``call_timeout`` in seconds bounds every call but those that wait."""

    state_dir: str
    program: str
    publish: str = ""
    systemd_cgroup: bool = False
    no_pivot: bool = False
    debug: bool = False
    prefix: tuple[str, ...] = ()
    call_timeout: float = 120.0


class Placer(Protocol):
    """Moves a shim to where the configuration wants monitors."""

    async def place(self, pid: int, request: MonitorRequest) -> None: ...

    async def leave(self, parent: str, container_id: str) -> None: ...


class Shims:
    """One object for all handlers of type vm. ``placer`` may be None: shims then stay in the daemon's cgroup."""

    def __init__(self, settings: Settings, placer: Placer | None = None) -> None:
        self.settings = settings
        self._placer = placer
        self._calls = Calls(settings.call_timeout)
        os.makedirs(settings.state_dir, 0o700, exist_ok=True)
        self._events = Events(os.path.join(settings.state_dir, "events.sock"), self._oom)
        self._logs: dict[str, Log] = {}

    def _place(self, ident: str) -> Place:
        return Place(self.settings.state_dir, ident)

    def _facts(self, ident: str) -> tuple[Place, Facts]:
        place = self._place(ident)
        facts = place.facts()
        if facts is None:
            raise NotFound("task", ident, "no shim runs it")
        return place, facts

    @property
    def _caller(self) -> bootstrap.Caller:
        s = self.settings
        return bootstrap.Caller(self._events.path, s.publish, s.debug, s.prefix)

    def _oom(self, ident: str) -> None:
        if "/" not in ident and self._place(ident).exists():
            log.info("Container ran out of memory", id=ident)
            self._place(ident).mark("oom")

    # --- create ---------------------------------------------------------------------------------------------------

    async def prepare(self, request: MonitorRequest) -> MonitorRequest:
        """Make what a container needs, with the pod's shim if it is the sandbox, and give the request whose monitor
        runs it. Whatever fails: ``delete`` removes what was made."""
        if request.restore_from:
            raise Unsupported(f"handler {request.handler.name!r} of type vm cannot restore checkpoints")
        await self._events.open()
        handler, ident, pod = request.handler, request.container_id, request.pod_id
        place = self._place(ident)
        with open(f"{request.bundle}/config.json", encoding="utf-8", errors="surrogateescape") as f:
            config = options.annotated(json.load(f), ident, pod)
        fifos = ["stdout", *([] if request.tty else ["stderr"]), *(["stdin"] if request.tty or request.stdin else [])]
        await offload("proc", place.make, config, fifos)
        told = options.of(handler, config, systemd=self.settings.systemd_cgroup, no_pivot=self.settings.no_pivot)
        if ident == pod:
            facts = await self._start(request, place, told)
        else:
            facts = replace(self._facts(pod)[1], monitored=request.bundle)
            place.put_facts(facts)
        place.write("socket", os.fsencode(bootstrap.socket_name(facts.address)))
        place.write("service", names.task_service(facts.version).encode())
        place.write("create", self._create(request, place, config, told).SerializeToString())
        words = bootstrap.delete_words(handler.path, place, self._caller)
        place.write("delete", b"".join(os.fsencode(word) + b"\0" for word in words))
        # What stands for the container is not to be killed in its place: the score is the container's own.
        stands = replace(handler, path=self.settings.program, root=self.settings.state_dir)
        return replace(request, handler=stands, oom_score_adj=None)

    async def _start(self, request: MonitorRequest, place: Place, told: AnyMessage | None) -> Facts:
        self._logs[place.id] = Log(place.path("log"), place.id)
        handler = request.handler
        # Before the start, since the shim may run from the moment that it was asked for.
        facts = Facts(handler.name, place.id, handler.path, "", 0, request.bundle, request.cgroup_parent)
        place.put_facts(facts)
        answer = await bootstrap.start(
            handler, place, self._caller, told.SerializeToString() if told is not None else b""
        )
        facts = replace(facts, address=answer.address, version=answer.version)
        place.put_facts(facts)
        pid = await self._shim_pid(facts, END_WAIT)
        if pid:
            facts = replace(facts, pid=pid, start_time=proc.start_time(pid))
            place.put_facts(facts)
        if pid and self._placer is not None:
            await self._placer.place(pid, replace(request, container_id=_group(place.id)))
        return facts

    def _create(
        self, request: MonitorRequest, place: Place, config: dict[str, Any], told: AnyMessage | None
    ) -> pb.CreateRequest:
        message = pb.CreateRequest(
            id=place.id,
            bundle=place.dir,
            terminal=request.tty,
            options=told,
        )
        for name in ("stdin", "stdout", "stderr"):
            if place.exists(name):
                setattr(message, name, place.path(name))
        if request.handler.pull_image:
            pulled = options.guest_pull(config)
            if pulled is None:
                log.warning("Config names no image for the guest to pull", id=place.id)
            else:
                message.rootfs.append(pulled)
        return message

    async def init_pid(self, ident: str) -> int:
        """The container's first process as the host sees it: its own, or the hypervisor."""
        _, facts = self._facts(ident)
        return (await self._calls.call(facts, "State", pb.ProcessRequest(id=ident), pb.StateResponse)).pid

    def _patience(self, facts: Facts) -> float:
        """Seconds for the answer to a call without which we can do as well. A shim whose log is read has been met by
        this run; one that has not may hang since the last run was killed."""
        if self._calls.silent(facts.address):
            return SILENT_WAIT
        return END_WAIT if facts.pod in self._logs else ANSWER_WAIT

    async def _shim_pid(self, facts: Facts, patience: float) -> int:
        try:
            request = pb.ContainerRequest(id=facts.pod)
            answer = await self._calls.call(facts, "Connect", request, pb.ConnectResponse, patience)
        except PycrioError as e:
            log.debug("Shim does not tell its pid", sandbox=facts.pod, error=str(e))
            return 0
        return answer.shim_pid

    # --- the Runtime port -----------------------------------------------------------------------------------------

    async def start(self, handler: Handler, container_id: str) -> None:
        """Start a created container."""
        _, facts = self._facts(container_id)
        await self._calls.call(facts, "Start", pb.ProcessRequest(id=container_id), pb.StartResponse)

    async def state(self, handler: Handler, container_id: str) -> Mapping[str, Any] | None:
        """The state in the words of an OCI runtime; None for an unknown container."""
        try:
            _, facts = self._facts(container_id)
            request = pb.ProcessRequest(id=container_id)
            found = await self._calls.call(facts, "State", request, pb.StateResponse, self._patience(facts))
        except (NotFound, ShimGone):
            return None
        return {"id": container_id, "status": _STATUS.get(found.status, "unknown"), "pid": found.pid}

    async def update(self, handler: Handler, container_id: str, resources: Mapping[str, Any]) -> None:
        """Apply an OCI linux.resources document."""
        _, facts = self._facts(container_id)
        document = AnyMessage(type_url=names.RESOURCES, value=json.dumps(resources).encode())
        await self._calls.call(facts, "Update", pb.UpdateRequest(id=container_id, resources=document), Empty)

    async def pause(self, handler: Handler, container_id: str, frozen: bool) -> None:
        """Freeze or thaw."""
        _, facts = self._facts(container_id)
        verb = "Pause" if frozen else "Resume"
        await self._calls.call(facts, verb, pb.ContainerRequest(id=container_id), Empty)

    async def exec_sync(self, request: ExecRequest) -> ExecResult:
        """Run a process to its end. On a timeout the process is killed; what it has started in a guest lives as long as
        the container, since only the guest knows it."""
        place, facts = self._facts(request.container_id)
        running = execs.Exec(self._calls, place, facts, tty=False, stdin=False)
        try:
            result = await execs.run(running, _document(request), request.timeout, request.cap)
        except ShimGone as e:
            raise NotFound("container", request.container_id, f"container is not running: {e}") from e
        if result is None:
            raise Timeout(
                f"command timed out: exec in container {request.container_id} ran longer than {request.timeout:g} s"
            )
        return result

    async def exec_stream(self, request: ExecRequest, tty: bool, stdin: bool) -> execs.Session:
        """Start a process with its stdio in our hands."""
        place, facts = self._facts(request.container_id)
        running = execs.Exec(self._calls, place, facts, tty=tty, stdin=stdin)
        try:
            await running.start(_document(request))
        except BaseException:
            running.release()
            raise
        return execs.Session(running, tty=tty)

    async def garbage(self) -> int:
        """End the execs whose daemon was killed, and follow shims again; number of execs."""
        await self._events.open()
        known = [(p, facts) for p in places(self.settings.state_dir) if (facts := p.facts()) is not None]
        await asyncio.gather(*(self._follow(p, facts) for p, facts in known if p.id == facts.pod))
        old = [(p, facts, ident) for p, facts in known for ident in p.execs()]
        await asyncio.gather(*(execs.forget(self._calls, *one, self._patience(one[1])) for one in old))
        return len(old)

    async def _follow(self, place: Place, facts: Facts) -> None:
        """Read a shim's log again, unless it is gone."""
        if place.id in self._logs:
            return
        found = Log(place.path("log"), place.id)
        try:
            request = pb.ContainerRequest(id=facts.pod)
            await self._calls.call(facts, "Connect", request, pb.ConnectResponse, self._patience(facts))
        except ShimGone:
            found.close()
            return
        except PycrioError as e:
            log.warning("Shim does not answer well, its containers go on", sandbox=facts.pod, error=str(e))
        self._logs[place.id] = found

    # --- delete ---------------------------------------------------------------------------------------------------

    async def delete(self, handler: Handler, container_id: str) -> None:
        """Delete by force; the shim ends with its last container. One that no shim runs is deleted."""
        place = self._place(container_id)
        if not place.exists():
            return
        facts = place.facts()
        if facts is not None and not facts.address:  # the daemon was killed before it had heard; shims note it as well
            facts = replace(facts, address=place.noted_address(), version=2)
        if facts is not None and not await self._delete(place, facts):
            unheard = not facts.address or self._calls.silent(facts.address)
            if unheard and self._alone(place, facts):
                await offload("proc", stuck.kill, self._place(facts.pod).dir, facts)
            await self._clean_up(place, facts)
        patience = self._patience(facts) if facts is not None else 0.0
        if place.id in self._logs:
            self._logs.pop(place.id).close()
        await offload("proc", place.remove)
        if facts is not None and not self._others(place, facts):
            await self._end(facts, patience)

    def _others(self, place: Place, facts: Facts) -> bool:
        """Whether the pod has other containers."""
        return any(
            p.id != place.id and (other := p.facts()) is not None and other.pod == facts.pod
            for p in places(self.settings.state_dir)
        )

    def _alone(self, place: Place, facts: Facts) -> bool:
        """Whether a container may take its shim with it: the pod goes, or there is no other container."""
        return place.id == facts.pod or not self._others(place, facts)

    async def _delete(self, place: Place, facts: Facts) -> bool:
        """By the shim; False when it is gone, or does not do it."""
        if not facts.address:
            return False
        request = pb.ProcessRequest(id=place.id)
        try:
            with place.open_fifos(), self._read_log(facts):
                with contextlib.suppress(NotFound):  # it has ended
                    await self._signal(facts, place.id, signals.SIGKILL)
                with contextlib.suppress(NotFound):
                    await self._calls.call(facts, "Wait", request, pb.WaitResponse, END_WAIT)
                    limit = None if facts.pod in self._logs else END_WAIT
                    await self._calls.call(facts, "Delete", request, pb.DeleteResponse, limit)
        except ShimGone:
            return False
        except Timeout as e:
            log.warning("Shim does not delete its container, its program shall", id=place.id, error=str(e))
            return False
        return True

    @contextlib.contextmanager
    def _read_log(self, facts: Facts) -> Iterator[None]:
        """Be the other side of the log of a shim that this run has not met. One that was started just before the last
        run was killed waits for it, and answers nobody before."""
        place = self._place(facts.pod)
        if facts.pod in self._logs or not place.exists():
            yield
            return
        found = Log(place.path("log"), facts.pod)
        try:
            yield
        finally:
            found.close()

    async def _signal(self, facts: Facts, ident: str, number: int, patience: float | None = None) -> None:
        """All processes, when it is SIGKILL; that it has ended already is no failure."""
        request = pb.KillRequest(id=ident, signal=number, all=number == signals.SIGKILL)
        try:
            await self._calls.call(facts, "Kill", request, Empty, patience or self._patience(facts))
        except (ShimGone, NotFound, Timeout):
            raise
        except RuntimeFailure as e:
            log.debug("Container not signalled by its shim", id=ident, error=str(e))

    async def _clean_up(self, place: Place, facts: Facts) -> None:
        """By the shim's program, unless pycrio-task has done so when it saw the shim go."""
        if place.exists("deleted"):
            return
        words = bootstrap.delete_words(facts.shim, place, self._caller)
        try:
            await bootstrap.delete(facts.shim, place, words)
        except RuntimeFailure as e:
            # It knows nothing of a container whose creation was cut off; of any other it must.
            if os.path.exists(f"{facts.monitored}/pidfile"):
                raise
            log.debug("Container that was never made not cleaned up", id=place.id, error=str(e))

    async def _end(self, facts: Facts, patience: float) -> None:
        """End a shim without containers."""
        if facts.address and not self._calls.silent(facts.address):
            await self._shut_down(facts, patience)
        await offload("proc", stuck.kill, self._place(facts.pod).dir, facts)
        if facts.address:
            await self._calls.forget(facts.address)
            name = bootstrap.socket_name(facts.address)
            if not name.startswith("\0"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
        if self._placer is not None:
            await self._placer.leave(facts.cgroup_parent, _group(facts.pod))

    async def _shut_down(self, facts: Facts, patience: float) -> None:
        """Ask it to end, and wait until it has."""
        pid = await self._shim_pid(facts, patience)
        if self._calls.silent(facts.address):
            return
        try:
            process = Fd(os.pidfd_open(pid)) if pid else None
        except ProcessLookupError:
            process = None
        try:
            with contextlib.suppress(ShimGone):  # it may be faster than its answer
                request = pb.ShutdownRequest(id=facts.pod)
                await self._calls.call(facts, "Shutdown", request, Empty, patience)
            if await self._calls.ended(facts.address, patience) and process is not None:
                await asyncio.wait_for(readable(process.fileno()), patience)
        except (PycrioError, asyncio.TimeoutError) as e:
            log.warning("Shim does not end, killing it", sandbox=facts.pod, error=str(e))
        finally:
            if process is not None:
                process.close()

    # --- the Tasks port -------------------------------------------------------------------------------------------

    def knows(self, container_id: str) -> bool:
        """Whether a shim runs, or ran, the container."""
        return self._place(container_id).exists()

    async def kill(self, container_id: str, number: int) -> bool:
        """Signal a container's first process, all of them with SIGKILL; False when it is gone. With a shim that is
        gone the container is being ended by pycrio-task. A shim that is deaf to SIGKILL and to all else is killed:
        nobody else could end its containers."""
        try:
            _, facts = self._facts(container_id)
            await self._signal(facts, container_id, number, END_WAIT)
        except NotFound:
            return False
        except (ShimGone, Timeout) as e:
            if number == signals.SIGKILL and self._calls.silent(facts.address):
                await offload("proc", stuck.kill, self._place(facts.pod).dir, facts)
            log.warning("Container not signalled, its shim does not answer", id=container_id, error=str(e))
        return True

    async def end_rest(self, container_id: str) -> None:
        """After the end of what stands for a container: the container itself must not live on."""
        place = self._place(container_id)
        facts = place.facts()
        if facts is None:
            return
        try:
            try:
                request = pb.ProcessRequest(id=container_id)
                state = await self._calls.call(facts, "State", request, pb.StateResponse, self._patience(facts))
                if state.status != pb.STOPPED:
                    await self._signal(facts, container_id, signals.SIGKILL)
            except ShimGone:
                if not _runs(f"{facts.monitored}/pidfile"):
                    await self._clean_up(place, facts)
        except NotFound:
            return
        except (RuntimeFailure, Timeout) as e:
            log.warning("Rest of container not ended, its removal will do it", id=container_id, error=str(e))

    def oom_marked(self, container_id: str) -> bool:
        """Whether the shim told that the container ran out of memory."""
        return self._place(container_id).exists("oom")

    async def stats(self, container_id: str) -> CgroupStats | None:
        """The shim's readings; None when it has none."""
        try:
            _, facts = self._facts(container_id)
            answer = await self._calls.call(facts, "Stats", pb.ContainerRequest(id=container_id), pb.StatsResponse)
        except (NotFound, RuntimeFailure, Timeout) as e:
            log.debug("Shim has no readings", id=container_id, error=str(e))
            return None
        return metrics.decode(answer.stats)

    async def close(self) -> None:
        """Leave the shims alone; they go on."""
        for found in self._logs.values():
            found.close()
        self._logs.clear()
        await self._calls.close()
        await self._events.close()


def _document(request: ExecRequest) -> bytes:
    return json.dumps(request.process).encode("utf-8", "surrogateescape")


def _group(pod: str) -> str:
    """What a shim's cgroup is named after: beside that of the sandbox's monitor, which systemd wants to be another."""
    return f"{pod}-shim"


def _runs(pidfile: str) -> bool:
    """Whether the process that stands for a container is there. The file may name a reused pid, of another program."""
    try:
        with open(pidfile, "rb") as f:
            pid = int(f.read() or 0)
        with open(f"/proc/{pid}/comm", "rb") as f:
            return f.read().strip() == b"pycrio-task"
    except (OSError, ValueError):
        return False
