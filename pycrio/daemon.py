"""The daemon's life: load, wire, recover, serve, reload, drain."""

from __future__ import annotations

import asyncio
import datetime
import functools
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pycrio import wiring
from pycrio._native import pools
from pycrio._native.base import bound_malloc, trim_malloc
from pycrio._native.calls import CallServer, Limits
from pycrio._native.front import Front
from pycrio.api.http import Pages
from pycrio.api.image import ImageService
from pycrio.api.runtime import RuntimeService
from pycrio.api.server import MAX_MESSAGE, Server
from pycrio.api.sockets import Listener, reach
from pycrio.commands import version
from pycrio.config import check as config_check
from pycrio.config import render
from pycrio.config.values import Config
from pycrio.errors import ConfigError, PycrioError
from pycrio.flows import exits, janitor, recover
from pycrio.flows.node import inspect
from pycrio.flows.node_state import Node
from pycrio.lifecycle import markers, memory, notify, profiling, reloading
from pycrio.obs import log as obslog
from pycrio.obs.metrics import metrics

log = obslog.get("daemon")
GRACE = 10.0
ARENAS = 2
TRIM_THRESHOLD = 128 << 10


class Daemon:
    """One run of the daemon, from a loaded configuration to its end."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._manager = notify.Manager.take(os.environ)

    async def run(self) -> int:
        """Serve until a signal or a failure; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        listener = Listener(self.config.text("crio.api.listen"))
        try:
            parts = await self._open()
            try:
                await self._serve(listener, parts)
            finally:
                await self._close(parts)
        finally:
            listener.close()
            pools.shutdown()
        return 0 if self._failure is None else 1

    async def _open(self) -> wiring.Parts:
        faults = config_check.host_faults(self.config, os.environ)
        if faults:
            raise ConfigError([str(f) for f in faults])
        os.makedirs(self.config.text("crio.log_dir"), mode=0o700, exist_ok=True)  # what containers say is root's alone
        parts = await wiring.build(self.config, str(version.facts(False)["version"]))
        removed = await parts.store.open()
        if removed:
            log.info("Removed what an interrupted run left in the store", count=removed)
        await markers.repair_store(self.config, parts.store)
        await parts.security.open()
        await parts.cpus.open()
        await parts.classes.open()
        await parts.network.open()
        await parts.registry.open()
        return parts

    async def _serve(self, listener: Listener, parts: wiring.Parts) -> None:
        node = Node(parts.host, os.path.join(self.config.text("crio.runroot"), "pycrio", "state"))
        await recover.recover(node)
        await markers.at_start(self.config, node)
        await recover.collect_garbage(node)
        await parts.nri.open(node.plugins)
        metrics.default_runtime(parts.host.handlers.get("").name)
        streams = await self._streams(node)
        receive, send = (self.config.number(f"crio.api.grpc_max_{way}_msg_size") for way in ("recv", "send"))
        limits = Limits(receive if receive > 0 else MAX_MESSAGE, send if send > 0 else MAX_MESSAGE)
        server = Server(
            os.path.join(self.config.text("crio.runroot"), "pycrio", "inner"),
            [RuntimeService(node, streams), ImageService(node)],
            self._pages(node),
            lambda table, quick: CallServer(table, limits, quick),
        )
        exporter = await self._exporter()
        end_tracing = await self._tracing()
        profile_server = await self._profile_server()
        targets = await server.start()
        front = Front(listener.fileno(), targets.grpc, targets.http)
        front.start()
        self._watch(exits.watch(node), "exits")
        self._watch(janitor.watch_monitors(node), "monitors")
        self._watch(janitor.watch_store(node), "store")
        self._watch(memory.watch(), "memory")
        self._signals(node, parts)
        # What start-up allocated lives as long as the daemon: no later collection needs to look at it again.
        gc.collect()
        gc.freeze()
        self._manager.ready()
        self._watch(self._manager.watchdog(node, functools.partial(reach, listener.path)), "watchdog")
        log.info("Serving", socket=self.config.text("crio.api.listen"), pid=os.getpid())
        try:
            await self._stop.wait()
            log.info("Stopping; containers go on")
            self._manager.stopping()
        finally:
            front.drain()
            await server.stop(GRACE)
            front.stop()
            if streams is not None:
                await streams.close()
            if exporter is not None:
                await exporter.close()
            if profile_server is not None:
                await profile_server.stop()
            await end_tracing()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close(self, parts: wiring.Parts) -> None:
        for end in (
            parts.shims.close,
            parts.notifier.close,
            parts.nri.close,
            parts.network.close,
            parts.registry.close,
            parts.cgroups.close,
            parts.store.close,
        ):
            try:
                await end()
            except PycrioError as e:
                log.warning("Part not closed cleanly, going on", error=str(e))
        if self._failure is None:
            await markers.at_end(self.config)

    # --- parts ----------------------------------------------------------------------------------------------------

    async def _streams(self, node: Node) -> Any:
        from pycrio.api.streaming.server import StreamServer, StreamSettings

        c = self.config
        server = StreamServer(
            node,
            StreamSettings(
                address=c.text("crio.api.stream_address"),
                port=int(c.text("crio.api.stream_port") or 0),
                tls=c.flag("crio.api.stream_enable_tls"),
                cert=c.text("crio.api.stream_tls_cert"),
                key=c.text("crio.api.stream_tls_key"),
                ca=c.text("crio.api.stream_tls_ca"),
                min_version=c.text("crio.api.tls_min_version"),
                ciphers=c.texts("crio.api.tls_cipher_suites"),
                idle_timeout=c.seconds("crio.api.stream_idle_timeout") or 4 * 3600,
            ),
        )
        await server.start()
        return server

    async def _exporter(self) -> Any:
        c = self.config
        metrics.select(c.texts("crio.metrics.metrics_collectors"))
        if not c.flag("crio.metrics.enable_metrics"):
            return None
        from pycrio.obs.exporter import Exporter, ExporterSettings

        cert, key = c.text("crio.metrics.metrics_cert"), c.text("crio.metrics.metrics_key")
        tls = None
        if cert and key:
            from pycrio.obs.tls import TlsSettings

            minimum, ciphers = c.text("crio.api.tls_min_version"), c.texts("crio.api.tls_cipher_suites")
            tls = TlsSettings(cert=cert, key=key, min_version=minimum, cipher_suites=ciphers)
        exporter = Exporter(
            ExporterSettings(
                host=c.text("crio.metrics.metrics_host"),
                port=c.number("crio.metrics.metrics_port"),
                socket=c.text("crio.metrics.metrics_socket"),
                tls=tls,
            ),
            metrics,
            lambda render_now: pools.offload("proc", render_now),
        )
        await exporter.start()
        return exporter

    async def _tracing(self) -> Callable[[], Awaitable[None]]:
        """Trace if that is configured; how to end it."""
        c = self.config
        if not c.flag("crio.tracing.enable_tracing"):
            return _nothing
        from pycrio.obs import trace

        def make() -> Any:
            from pycrio.obs.otlp import TraceSettings, Tracing  # late and in a thread: half a second of imports

            return Tracing(
                TraceSettings(
                    endpoint=c.text("crio.tracing.tracing_endpoint"),
                    rate=c.number("crio.tracing.tracing_sampling_rate_per_million"),
                    version=str(version.facts(False)["version"]),
                )
            )

        tracing = await pools.offload("proc", make)
        stop = trace.start(tracing)

        async def end() -> None:
            stop()
            await pools.offload("proc", tracing.close)

        return end

    def _pages(self, node: Node) -> Pages:
        return Pages(
            config=lambda: render.document(self.config),
            info=lambda: inspect.info(node, self.config.text("crio.storage_driver") or "overlay"),
            inspect=lambda ident: inspect.inspect(node, ident),
            pause=lambda ident: inspect.freeze(node, ident, True),
            unpause=lambda ident: inspect.freeze(node, ident, False),
            profiles=self._profiles.page if self.config.flag("cli.enable_profile_unix_socket") else None,
        )

    @functools.cached_property
    def _profiles(self) -> Any:
        from pycrio.api.pprof import Profiles

        return Profiles(lambda function: pools.offload("proc", function))

    async def _profile_server(self) -> Any:
        if not self.config.flag("cli.profile"):
            return None
        from pycrio.api import pprof

        return await pprof.serve(self._profiles, self.config.number("cli.profile_port"))

    def _watch(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """A background task without which the daemon must not go on."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)

        def ended(done: asyncio.Task[Any]) -> None:
            self._tasks.discard(done)
            if not done.cancelled() and (error := done.exception()) is not None:
                log.error("Background task failed, the daemon ends", task=name, error=repr(error))
                self._failure = error
                self._stop.set()

        task.add_done_callback(ended)

    # --- signals --------------------------------------------------------------------------------------------------

    def _signals(self, node: Node, parts: wiring.Parts) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._later(self._reload(parts)))
        loop.add_signal_handler(signal.SIGUSR1, _dump_stacks)
        loop.add_signal_handler(signal.SIGUSR2, _shrink)

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self, parts: wiring.Parts) -> None:
        """SIGHUP: read the files anew and take over what may change live; a fault keeps everything as it was."""
        log.info("Reloading configuration")
        self._manager.reloading()
        try:
            fresh, changes = await reloading.reload(self.config, os.environ, parts)
        except (PycrioError, ValueError) as e:
            log.error("Configuration not reloaded, the old one stays in force", error=str(e))
        else:
            self.config = fresh
            for change in changes:
                log.info(change.event)
            log.info("Effective configuration:\n" + render.document(fresh))
            log.info("Configuration reload completed")
        finally:
            self._manager.ready()


def _shrink() -> None:
    """Collect garbage, and give the memory back that this freed."""
    found = gc.collect()
    trim_malloc()
    log.info("Collected garbage", objects=found)


async def _nothing() -> None:
    """The end of what was not begun."""


def _dump_stacks() -> None:
    from pycrio.api import debug

    stamp = datetime.datetime.now().strftime("%Y-%m-%dT%H%M%S%z")
    path = os.path.join(tempfile.gettempdir(), f"crio-goroutine-stacks-{stamp}.log")
    try:
        with open(path, "x", encoding="utf-8") as f:
            f.write(debug.stacks())
    except OSError as e:
        log.error("Stacks not written", path=path, error=str(e))
        return
    log.info("Wrote the stacks of tasks and threads", path=path)


def run(config: Config) -> int:
    """Serve until a signal ends it; the exit code."""
    # A pull passes tens of megabytes through the threads' heaps; without bounds glibc would keep them for ever.
    bound_malloc(ARENAS, TRIM_THRESHOLD)
    try:
        with profiling.whole_run(config):
            return asyncio.run(Daemon(config).run())
    except ConfigError as e:
        for fault in e.faults:
            log.error("Configuration fault", fault=fault)
        log.fatal("The configuration does not fit this host, not starting")
    except PycrioError as e:
        log.fatal("Not started", error=str(e))
    except OSError as e:
        log.fatal("Not started", error=str(e))
    return 1


def wipe(config: Config, *, force: bool) -> int:
    """Remove containers and images by the rules of the version files."""
    return asyncio.run(markers.wipe(config, force))


def check(config: Config, options: Any) -> int:
    """Look over node and store."""
    from pycrio.commands import preflight

    code: int = asyncio.run(preflight.check(config, options))
    sys.stdout.flush()
    return code
