"""Running CNI plugins: environment and stdin in, result or error object out (CNI spec, section 2)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pycrio._native.base import NativeError
from pycrio._native.run import run
from pycrio.drivers.network.conf import NetworkConf, find_plugin, runtime_conf
from pycrio.drivers.network.results import normal
from pycrio.errors import NetworkFailure, Timeout
from pycrio.obs import log as obslog
from pycrio.obs import trace

log = obslog.get("cni")
MAX_OUTPUT = 4 << 20
VERSION_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one pod in one network."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: tuple[tuple[str, str], ...] = ()
    capabilities: Mapping[str, Any] = field(default_factory=dict)

    def environment(self, verb: str, plugin_dirs: Sequence[str]) -> dict[str, str]:
        """The variables of a plugin call; further arguments of the daemon's own environment are appended."""
        args = ";".join(f"{k}={v}" for k, v in self.args)
        extra = os.environ.get("CNI_ARGS", "")
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("CNI_")},
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": ";".join(filter(None, (args, extra))),
            "CNI_PATH": ":".join(plugin_dirs),
        }


NOBODY = Attachment("", "", "")


class Plugins:
    """The plugins in some directories, searched in order."""

    def __init__(self, directories: Sequence[str]) -> None:
        self.directories = tuple(directories)
        self._versions: dict[tuple[object, ...], frozenset[str]] = {}

    async def add(
        self, network: NetworkConf, index: int, attachment: Attachment, prev: object, timeout: float
    ) -> dict[str, Any]:
        """ADD of one plugin: its result in the network's version."""
        result = await self.call(network, index, "ADD", attachment, timeout, prev)
        return normal(
            result, network.version, f"plugin {network.plugins[index]['type']!r} of {where(network, attachment)}"
        )

    async def call(
        self,
        network: NetworkConf,
        index: int,
        verb: str,
        attachment: Attachment,
        timeout: float,
        prev: object = None,
    ) -> Any:
        """One plugin of a network; what it answered as JSON, None for nothing.

        NetworkFailure and Timeout name plugin, network and pod. ``timeout`` in seconds.
        """
        stdin = runtime_conf(network, index, attachment.capabilities, prev)
        env = attachment.environment(verb, self.directories)
        return await self.invoke(network.plugins[index]["type"], stdin, env, where(network, attachment), timeout)

    async def collect(self, network: NetworkConf, valid: Sequence[Attachment], timeout: float) -> None:
        """GC of every plugin of a network (CNI 1.1): only the ``valid`` attachments are alive. A failure is logged."""
        alive = [{"containerID": a.container_id, "ifname": a.ifname} for a in valid]
        env = NOBODY.environment("GC", self.directories)
        for index, plugin in enumerate(network.plugins):
            document = {**json.loads(runtime_conf(network, index, {})), "cni.dev/valid-attachments": alive}
            try:
                await self.invoke(plugin["type"], json.dumps(document).encode(), env, where(network, NOBODY), timeout)
            except (NetworkFailure, Timeout) as e:
                log.warning("CNI garbage collection failed, going on", network=network.name, error=str(e))

    async def invoke(self, kind: str, stdin: bytes, env: Mapping[str, str], whose: str, timeout: float) -> Any:
        """One plugin call with everything prepared."""
        verb = env["CNI_COMMAND"]
        name = f"CNI plugin {kind!r} ({verb}) of {whose}"
        path = find_plugin(kind, self.directories)
        if not path:
            raise NetworkFailure(f"{name} is in none of {', '.join(self.directories)}: install it there")
        try:
            with trace.span(f"CNI {kind} {verb}", {"process.executable.path": path}) as span:
                done = await run([path], stdin=stdin, env=env, timeout=timeout, cap=MAX_OUTPUT)
                span.set("process.exit.code", done.code)
        except NativeError as e:
            raise NetworkFailure(f"{name} cannot be executed at {path}: {e.strerror}") from e
        if done.timed_out:
            raise Timeout(f"{name} did not end within {timeout:.0f} s and was killed")
        text = done.stdout.strip()
        if done.code != 0:
            raise NetworkFailure(f"{name} failed: {_reason(text, done.stderr, done.code)}")
        if not text:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as e:
            shown = text[:200].decode("utf-8", "replace")
            raise NetworkFailure(f"{name} answered what is not JSON: {shown}") from e

    async def agree(self, network: NetworkConf) -> NetworkConf:
        """The network with the highest version that it offers and all its plugins speak.

        NetworkFailure when there is none. A plugin that does not say what it speaks is taken to speak everything.
        """
        common = set(network.versions)
        for kind in dict.fromkeys(p["type"] for p in network.plugins):
            spoken = await self._spoken(kind)
            if spoken and not common & spoken:
                raise NetworkFailure(
                    f"{network.path}: plugin {kind!r} speaks CNI {', '.join(sorted(spoken))}, which leaves none of the"
                    f" versions {', '.join(network.versions)} for the network"
                )
            common &= spoken or common
        best = next(v for v in network.versions if v in common)
        return network if best == network.version else network.pinned(best)

    async def _spoken(self, kind: str) -> frozenset[str]:
        """What a plugin answers to VERSION, remembered until its file changes."""
        path = find_plugin(kind, self.directories)
        try:
            stat = os.stat(path)
        except OSError:
            return frozenset()
        key = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if key not in self._versions:
            env = {**NOBODY.environment("VERSION", self.directories), "CNI_IFNAME": "dummy", "CNI_NETNS": "dummy"}
            found: frozenset[str] = frozenset()
            try:
                answer = await self.invoke(kind, b'{"cniVersion":"1.0.0"}', env, "this host", VERSION_TIMEOUT)
                listed = answer.get("supportedVersions") if isinstance(answer, dict) else None
                found = frozenset(v for v in listed if isinstance(v, str)) if isinstance(listed, list) else found
            except (NetworkFailure, Timeout) as e:
                log.debug("CNI plugin does not tell its versions", plugin=path, error=str(e))
            self._versions = {k: v for k, v in self._versions.items() if k[0] != path} | {key: found}
        return self._versions[key]


def where(network: NetworkConf, attachment: Attachment) -> str:
    """The words for messages."""
    who = f" for pod sandbox {attachment.container_id}" if attachment.container_id else ""
    return f"network {network.name!r}{who}"


def _reason(stdout: bytes, stderr: bytes, code: int) -> str:
    """The error object's words, else what the plugin printed."""
    try:
        error = json.loads(stdout)
        parts = [str(error[k]) for k in ("msg", "details") if error.get(k)]
        if parts:
            return f"{': '.join(parts)[:2000]} (code {error.get('code', code)})"
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        pass  # not an error object: the text itself has to do
    said = " ".join((stdout + b" " + stderr).decode("utf-8", "replace").split())[:1000]
    return f"{said or 'no message'} (exit code {code})"
