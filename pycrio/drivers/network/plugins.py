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
from pycrio.errors import NetworkFailure, Timeout

TIMEOUTS = {"ADD": 300.0, "DEL": 60.0, "CHECK": 60.0, "GC": 30.0, "STATUS": 30.0}
MAX_OUTPUT = 4 << 20


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


async def call(
    network: NetworkConf, index: int, verb: str, attachment: Attachment, plugin_dirs: Sequence[str], prev: object = None
) -> Any:
    """Run one plugin; its result as JSON (None for none). NetworkFailure names plugin, network and pod."""
    return await invoke(
        network.plugins[index]["type"],
        verb,
        runtime_conf(network, index, attachment.capabilities, prev),
        attachment.environment(verb, plugin_dirs),
        _where(network, attachment),
    )


def _where(network: NetworkConf, attachment: Attachment) -> str:
    who = f" for pod sandbox {attachment.container_id}" if attachment.container_id else ""
    return f"network {network.name!r}{who}"


async def invoke(kind: str, verb: str, stdin: bytes, env: Mapping[str, str], where: str) -> Any:
    """One plugin call with everything prepared."""
    path = find_plugin(kind, env["CNI_PATH"].split(":"))
    if not path:
        raise NetworkFailure(f"CNI plugin {kind!r} of {where} is in none of {env['CNI_PATH']}")
    try:
        done = await run([path], stdin=stdin, env=env, timeout=TIMEOUTS[verb], cap=MAX_OUTPUT)
    except NativeError as e:
        raise NetworkFailure(f"CNI plugin {path} of {where} cannot be executed: {e.strerror}") from e
    if done.timed_out:
        raise Timeout(f"CNI plugin {kind!r} ({verb}) of {where} did not end within {TIMEOUTS[verb]:.0f} s")
    text = done.stdout.strip()
    if done.code != 0:
        raise NetworkFailure(f"CNI plugin {kind!r} ({verb}) of {where} failed: {_reason(text, done.stderr, done.code)}")
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError as e:
        raise NetworkFailure(
            f"CNI plugin {kind!r} ({verb}) of {where} answered garbage: {text[:200].decode('utf-8', 'replace')}"
        ) from e


def _reason(stdout: bytes, stderr: bytes, code: int) -> str:
    """The error object's words, else what the plugin printed."""
    try:
        error = json.loads(stdout)
        parts = [str(error[k]) for k in ("msg", "details") if error.get(k)]
        if parts:
            return f"{': '.join(parts)} (code {error.get('code', code)})"
    except (ValueError, AttributeError, TypeError, KeyError):
        pass  # not an error object: the text itself has to do
    said = " ".join((stdout + b" " + stderr).decode("utf-8", "replace").split())[:1000]
    return f"{said or 'no message'} (exit code {code})"


def addresses(result: Any, where: str) -> tuple[str, ...]:
    """Addresses of a result, without prefix lengths, in the plugin's order; both forms (0.2 and 0.3 up)."""
    if not isinstance(result, dict):
        raise NetworkFailure(f"the CNI result of {where} is not a JSON object")
    found = []
    try:
        if "ip4" in result or "ip6" in result:
            found = [result[k]["ip"] for k in ("ip4", "ip6") if result.get(k)]
        else:
            interfaces = result.get("interfaces") or []
            for entry in result.get("ips") or []:
                number = entry.get("interface")
                # An address of an interface on the host's side (no sandbox) is not the pod's.
                if number is not None and 0 <= number < len(interfaces) and not interfaces[number].get("sandbox"):
                    continue
                found.append(entry["address"])
        out = tuple(str(a).partition("/")[0] for a in found)
    except (KeyError, TypeError, AttributeError) as e:
        raise NetworkFailure(f"the CNI result of {where} has addresses of a form that no CNI version has") from e
    if not out:
        raise NetworkFailure(f"the CNI result of {where} has no address for the pod")
    return out
