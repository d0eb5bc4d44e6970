"""``pycrio check``: is the node fit to run pods, and is the store whole?

The node's findings go to standard output, one line each with what to do; the store's verdict is that of ``crio check``:
exit code 0 when it is whole or was repaired, else 1 with the counts of damaged objects.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable

from pycrio._native import mounts, ns
from pycrio._native.base import NativeError
from pycrio._native.pools import offload
from pycrio.commands import hostcheck, partscheck
from pycrio.commands.finding import Finding, Level, Place, fail, ok, warn
from pycrio.commands.node import CheckOptions
from pycrio.config.values import Config
from pycrio.drivers.layers.check import Report
from pycrio.drivers.layers.settings import Settings as StoreSettings
from pycrio.drivers.layers.store import Store
from pycrio.drivers.security.host import held_capabilities
from pycrio.errors import PycrioError, StoreFailure
from pycrio.lifecycle import markers
from pycrio.obs import log as obslog

log = obslog.get("check")
SHOWN = 20
_PROBE_MAP = ((0, 100000, 65536),)


async def check(config: Config, options: CheckOptions) -> int:
    """Look over the node, then the store; the exit code. PycrioError says what is left damaged."""
    found = await node(config)
    _print(found)
    await store(config, options)
    failed = sum(f.level is Level.FAIL for f in found)
    if failed:
        raise PycrioError(f"the node is not fit to run pods: {failed} failed checks, see above")
    return 0


def _print(findings: Iterable[Finding]) -> None:
    for finding in findings:
        sys.stdout.write(finding.line() + "\n")
    sys.stdout.flush()


# --- node ---------------------------------------------------------------------------------------------------------


async def node(config: Config, place: Place | None = None) -> list[Finding]:
    """Every finding about the node, in the order of a start."""
    host = place or Place()
    found = [
        *hostcheck.kernel(host, await offload("mount", features, config.text("crio.root"))),
        *hostcheck.modules(host),
        *hostcheck.cgroups(host, config.text("crio.runtime.cgroup_manager")),
        *hostcheck.privileges(host, held_capabilities("CapEff"), resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        *hostcheck.sysctls(host),
        *hostcheck.confinement(host, config.flag("crio.runtime.selinux")),
    ]
    found += [finding async for finding in partscheck.runtimes(config)]
    found += partscheck.network(config)
    found += partscheck.programs(config)
    found += partscheck.directories(config)
    found.append(partscheck.socket_state(config.text("crio.api.listen")))
    return found


def features(root: str) -> dict[str, bool]:
    """What the kernel can mount on the store's file system; nothing at all without the privilege to try."""
    while not os.path.isdir(root):
        root = os.path.dirname(root) or "/"
    try:
        with ns.hold_userns(_PROBE_MAP, _PROBE_MAP) as userns:
            return mounts.probe(root, userns.fileno())
    except NativeError as e:
        log.debug("Id-mapped mounts cannot be tried", error=str(e))
    try:
        return mounts.probe(root)
    except NativeError as e:
        log.debug("Mount features cannot be tried", error=str(e))
        return {}


# --- store --------------------------------------------------------------------------------------------------------


async def store(config: Config, options: CheckOptions) -> None:
    """Check and, if asked, repair. PycrioError with the counts of what is damaged in the end."""
    root = config.text("crio.root")
    if not os.path.isdir(root):
        _print([ok("store", f"{root} is not there yet: the first start makes it")])
        return
    opened = Store(
        StoreSettings.from_options(
            root,
            config.text("crio.runroot"),
            config.text("crio.imagestore"),
            config.text("crio.storage_driver"),
            config.texts("crio.storage_option"),
        )
    )
    try:
        await _checked(opened, options)
    except StoreFailure as e:
        if not (options.repair and options.wipe):
            raise
        log.error("Store cannot be repaired", error=str(e))
        await offload("store", markers.remove_store, root, options.force)
        _print([warn("store", f"{root} could not be repaired and was removed", "pull the images again")])
    finally:
        await opened.close()


async def _checked(store: Store, options: CheckOptions) -> None:
    removed = await store.open()
    if removed:
        _print([ok("store", f"removed {removed} things that an interrupted program left")])
    report = await store.checker.check(quick=options.quick)
    _print(describe(report, store.settings.root))
    if not options.repair:
        if report.damages:
            raise PycrioError(summary(report))
        return
    left = await store.checker.repair(report, force=options.force, age=options.age)
    resisting = [d for d in left.damages if not d.read_only]
    # Without --force damaged containers stay, and what they need with them: that is no failure of the repair.
    if resisting and (options.force or not left.ids("container")):
        raise StoreFailure(f"{resisting[0].kind} {resisting[0].id} cannot be repaired: {resisting[0].reason}")
    if left.damages:
        raise PycrioError(summary(left))
    mended = len(report.damages) + len(set(report.unreferenced) - set(left.unreferenced))
    if mended:
        _print([ok("store", f"repaired: {mended} damaged or unused objects were removed")])


def summary(report: Report) -> str:
    """The counts in the words of ``crio check``."""
    return ", ".join(f"{count} {kind} errors" for kind, count in report.counts().items())


def describe(report: Report, root: str) -> list[Finding]:
    """A line per damage, up to SHOWN of them; every one goes to the log at debug level."""
    out = []
    for damage in report.damages:
        log.debug("Damage found", kind=damage.kind, id=damage.id, reason=damage.reason, read_only=damage.read_only)
    for damage in report.damages[:SHOWN]:
        if damage.read_only:
            remedy = "it lies in an additional store: repair that"
        elif damage.kind == "container":
            remedy = "remove it with its pod, or by --repair --force"
        else:
            remedy = "remove it by --repair, then pull again"
        out.append(fail(f"store {damage.kind}", f"{damage.id}: {damage.reason}", remedy))
    if len(report.damages) > SHOWN:
        more = len(report.damages) - SHOWN
        out.append(fail("store", f"{more} more damaged objects", "--log-level debug tells them"))
    if report.unreferenced:
        remedy = "--repair removes those older than --age"
        out.append(warn("store", f"{len(report.unreferenced)} layers belong to no image or container", remedy))
    if not report.damages:
        out.append(ok("store", f"{root} is whole"))
    return out
