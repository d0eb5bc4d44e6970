"""`pycrio status` and the HTTP pages of the CRI socket of a real daemon: shapes as CRI-O's scripts expect them."""

from __future__ import annotations

import http.client
import json
import pathlib
import re
import socket

import pytest

from pycrio.__main__ import main
from pycrio.api._pb import api_pb2 as pb
from tests.system.node import Node, linux

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("no_leaks")]


class Unix(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def get(node: Node, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = Unix(f"{node.dir}/crio.sock", timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", "").partition(";")[0], answer.read()
    finally:
        connection.close()


def status(node: Node, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["status", "--socket", f"{node.dir}/crio.sock", *words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.mark.effect("crio.root", "crio.storage_driver", "crio.api.listen")
def test_status_info_and_config(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    code, kind, body = get(node, "/info")
    assert (code, kind) == (200, "application/json")
    found = json.loads(body)
    assert set(found) == {"storage_driver", "storage_image", "storage_root", "cgroup_driver", "default_id_mappings"}
    text = status(node, capsys, "info")
    assert [line.partition(":")[0] for line in text.splitlines() if line[0] != " "] == [
        "cgroup driver",
        "storage driver",
        "storage graph root",
        "storage image",
        "default GID mappings (format <container>",
        "default UID mappings (format <container>",
    ]
    assert f"storage graph root: {node.dir}/root\n" in text
    assert re.search(r"^  0:0:\d+$", text, re.MULTILINE)
    assert status(node, capsys, "i") == text
    code, kind, body = get(node, "/config")
    assert (code, kind) == (200, "application/toml")
    assert status(node, capsys, "config") == status(node, capsys, "c") == body.decode()
    assert f'root = "{node.dir}/root"' in body.decode()


def test_status_containers(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    pod = node.pod("told", linux=linux())
    ctr = node.start(pod, "sleep", "1000", name="teller", labels={"app": "x"}, annotations={"note": "y"})
    code, kind, body = get(node, f"/containers/{ctr}")
    assert (code, kind) == (200, "application/json")
    found = json.loads(body)
    assert set(found) == {
        *("name", "pid", "image", "image_ref", "created_time", "labels", "annotations", "crio_annotations", "log_path"),
        *("root", "sandbox", "ip_addresses"),
    }
    assert (found["pid"], found["sandbox"], found["labels"]["app"]) == (node.pid_of(ctr), pod, "x")
    assert pathlib.Path(found["root"], "bin/busybox").exists()
    text = status(node, capsys, "containers", "--id", ctr)
    assert [line.partition(":")[0] for line in text.splitlines() if line[0] != " "] == [
        *("name", "pid", "image", "image ref", "created", "labels", "annotations", "CRI-O annotations", "log path"),
        *("graph root", "sandbox", "ips"),
    ]
    assert "name: k8s_teller_told_default_uid-told_0\n" in text
    assert "  app: x\n" in text
    for alias in ("container", "cs", "s"):
        assert status(node, capsys, alias, "-i", ctr) == text
    assert main(["status", "-s", f"{node.dir}/crio.sock", "cs", "-i", "0" * 64]) == 1


def test_pause_and_unpause(node: Node) -> None:
    ctr = node.start(node.pod(), "sleep", "1000")
    assert get(node, f"/unpause/{ctr}")[0] == 409
    assert get(node, f"/pause/{ctr}") == (200, "text/html", b"200 OK")
    assert get(node, f"/pause/{ctr}")[0] == 409
    assert get(node, f"/unpause/{ctr}") == (200, "text/html", b"200 OK")
    assert node.status(ctr).state == pb.CONTAINER_RUNNING
    for page in ("containers", "pause", "unpause"):
        assert get(node, f"/{page}/{'0' * 64}")[0] == 404
    node.cri.StopContainer(container_id=ctr, timeout=0)
    assert get(node, f"/pause/{ctr}")[0] == 409
    assert get(node, "/nothing")[0] == 404
    assert get(node, "/info", "POST")[0] == 405


def test_status_of_the_process(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    text = status(node, capsys, "goroutines")
    assert "task exits:" in text
    assert "thread MainThread" in text
    assert get(node, "/debug/goroutines")[:2] == (200, "text/plain")
    path = pathlib.Path(status(node, capsys, "heap").strip())
    try:
        assert re.match(r"crio-heap-\d{4}-\d\d-\d\dT.*\.out$", path.name)
        assert b"objects known to the collector" in path.read_bytes()
    finally:
        path.unlink()
    assert get(node, "/debug/heap")[:2] == (200, "application/octet-stream")
