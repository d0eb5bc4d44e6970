"""``pycrio status``: questions to the running daemon, by HTTP over its socket."""

from __future__ import annotations

import datetime
import http.client
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import Any

from pycrio.errors import NotFound, PycrioError, Unavailable

TIMEOUT = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


class Client:
    """The HTTP pages of a daemon's socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get(self, target: str) -> bytes:
        """The body of a page. Unavailable when nobody answers, NotFound and PycrioError for other answers than 200."""
        connection = _UnixConnection(self._path)
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(f"the daemon does not answer on {self._path}: {why}; is it running?") from error
        finally:
            connection.close()
        said = body.decode("utf-8", "replace").strip()
        if answer.status == 404:
            raise NotFound("page", target, said)
        if answer.status != 200:
            raise PycrioError(f"the daemon answers {target} with {answer.status} {answer.reason}: {said}")
        return body

    def document(self, target: str) -> Any:
        """A page in JSON."""
        try:
            return json.loads(self.get(target))
        except ValueError as error:
            raise PycrioError(f"the daemon answers {target} with something that is not JSON: {error}") from error


def config(client: Client) -> str:
    """The configuration in force, as TOML."""
    return client.get("/config").decode("utf-8")


def info(client: Client) -> str:
    """Cgroup driver, storage, id maps."""
    found = client.document("/info")
    maps = found.get("default_id_mappings") or {}
    lines = [
        f"cgroup driver: {found.get('cgroup_driver', '')}",
        f"storage driver: {found.get('storage_driver', '')}",
        f"storage graph root: {found.get('storage_root', '')}",
        f"storage image: {found.get('storage_image', '')}",
    ]
    for kind, key in (("GID", "gids"), ("UID", "uids")):
        lines.append(f"default {kind} mappings (format <container>:<host>:<size>):")
        lines += [f"  {m['container_id']}:{m['host_id']}:{m['size']}" for m in maps.get(key) or ()]
    return "\n".join(lines) + "\n"


def container(client: Client, ident: str) -> str:
    """One container."""
    from urllib.parse import quote

    if not ident:
        raise PycrioError("the argument --id cannot be empty")
    try:
        found = client.document(f"/containers/{quote(ident, safe='')}")
    except NotFound as error:
        raise NotFound("container", ident) from error
    lines = [f"name: {found.get('name', '')}", f"pid: {found.get('pid', 0)}"]
    lines += [f"image: {found.get('image', '')}", f"image ref: {found.get('image_ref', '')}"]
    lines += [f"created: {_moment(found.get('created_time', 0))}"]
    lines += ["labels:", *_pairs(found.get("labels"))]
    lines += ["annotations:", *_pairs(found.get("annotations"))]
    lines += ["CRI-O annotations:", *_pairs(found.get("crio_annotations"))]
    lines += [f"log path: {found.get('log_path', '')}", f"graph root: {found.get('root', '')}"]
    lines += [f"sandbox: {found.get('sandbox', '')}", f"ips: {', '.join(found.get('ip_addresses') or ())}"]
    return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, str] | None) -> Iterable[str]:
    return (f"  {key}: {value}" for key, value in sorted((values or {}).items()))


def _moment(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    local = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).astimezone()
    offset = local.strftime("%z")
    zone = f"{offset[:3]}:{offset[3:]}" if offset not in {"+0000", ""} else "Z"
    return f"{local:%Y-%m-%dT%H:%M:%S}.{rest:09d}{zone}"


def tasks(client: Client) -> str:
    """Where every task and thread is."""
    return client.get("/debug/goroutines").decode("utf-8", "replace")


def heap(client: Client, path: str) -> str:
    """Write the memory dump to ``path`` (- for standard output, "" for a file of its own); what to print."""
    dump = client.get("/debug/heap")
    if path == "-":
        sys.stdout.buffer.write(dump)
        return ""
    if not path:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        path = os.path.join(tempfile.gettempdir(), f"crio-heap-{stamp}.out")
    try:
        with open(path, "wb") as file:
            file.write(dump)
    except OSError as error:
        raise PycrioError(f"{path} cannot be written: {error.strerror}") from error
    return path + "\n"
