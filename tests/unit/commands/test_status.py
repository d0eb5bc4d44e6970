"""``pycrio status`` against the shapes of the daemon's pages, served here by a plain HTTP server."""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import socketserver
import threading
from collections.abc import Iterator

import pytest

from pycrio.commands import status, timeline
from pycrio.errors import NotFound, PycrioError, Unavailable

Pages = dict[str, tuple[int, bytes]]


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    pages: Pages


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        code, body = self.server.pages.get(self.path, (404, b"no such page\n"))
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Iterator[tuple[status.Client, Pages]]:
    path = str(tmp_path / "s")
    with Server(path, Handler) as server:
        server.pages = {}
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield status.Client(path), server.pages
        server.shutdown()
        thread.join()


Served = tuple[status.Client, Pages]


def test_info(served: Served) -> None:
    client, pages = served
    maps = [{"container_id": 0, "host_id": 100000, "size": 65536}]
    pages["/info"] = (
        200,
        json.dumps(
            {
                "storage_driver": "overlay",
                "storage_image": "/i",
                "storage_root": "/r",
                "cgroup_driver": "systemd",
                "default_id_mappings": {"uids": maps, "gids": maps},
            }
        ).encode(),
    )
    assert status.info(client) == (
        "cgroup driver: systemd\nstorage driver: overlay\nstorage graph root: /r\nstorage image: /i\n"
        "default GID mappings (format <container>:<host>:<size>):\n  0:100000:65536\n"
        "default UID mappings (format <container>:<host>:<size>):\n  0:100000:65536\n"
    )
    pages["/info"] = (200, b'{"default_id_mappings": null}')
    assert "storage driver: \n" in status.info(client)


def test_containers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, pages = served
    pages["/containers/a%2Fb"] = (
        200,
        json.dumps(
            {
                "name": "k8s_x",
                "pid": 7,
                "image": "i",
                "image_ref": "ref",
                "created_time": 1_700_000_000_000_000_001,
                "labels": {"b": "2", "a": "1"},
                "annotations": {},
                "crio_annotations": {"x": "y"},
                "log_path": "/l",
                "root": "/m",
                "sandbox": "pod",
                "ip_addresses": ["10.0.0.1", "fd00::1"],
            }
        ).encode(),
    )
    text = status.container(client, "a/b").splitlines()
    assert [line.partition(":")[0] for line in text if not line.startswith(" ")] == [
        *("name", "pid", "image", "image ref", "created", "labels", "annotations", "CRI-O annotations", "log path"),
        *("graph root", "sandbox", "ips"),
    ]
    assert text[6:8] == ["  a: 1", "  b: 2"]
    assert text[-1] == "ips: 10.0.0.1, fd00::1"
    assert ".000000001" in text[4]
    with pytest.raises(NotFound, match="container 'x' not found"):
        status.container(client, "x")


def test_raw_pages(served: Served, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, pages = served
    pages["/config"] = (200, b"[crio]\n")
    pages["/debug/goroutines"] = (200, b"task 1\n")
    pages["/debug/heap"] = (200, b"\x00heap")
    assert status.config(client) == "[crio]\n"
    assert status.tasks(client) == "task 1\n"
    target = tmp_path / "dump"
    assert status.heap(client, str(target)) == f"{target}\n"
    assert target.read_bytes() == b"\x00heap"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = status.heap(client, "").strip()
    assert os.path.basename(path).startswith("crio-heap-")
    assert os.path.dirname(path) == str(tmp_path)
    with pytest.raises(PycrioError, match="cannot be written"):
        status.heap(client, str(tmp_path / "no" / "dump"))


def test_failures(served: Served, tmp_path: pathlib.Path) -> None:
    client, pages = served
    pages["/info"] = (500, b"broken inside\n")
    with pytest.raises(PycrioError, match=r"500 .*broken inside"):
        status.info(client)
    pages["/info"] = (200, b"not json")
    with pytest.raises(PycrioError, match="not JSON"):
        status.info(client)
    with pytest.raises(Unavailable, match="is it running"):
        status.info(status.Client(str(tmp_path / "absent")))


def flow(
    kind: str, subject: str, duration: int, *steps: tuple[str, int, int, bool], **more: object
) -> dict[str, object]:
    found = [{"name": n, "start": s, "duration": d, "failed": f} for n, s, d, f in steps]
    entry = {"kind": kind, "subject": subject, "started": 1_700_000_000 * 10**9, "duration": duration, "left_out": 0}
    return {**entry, "running": False, "failed": False, "steps": found, **more}


FLOWS = [
    flow(
        "RunPodSandbox", "pod-1", 100_000_000,
        ("network", 50_000_000, 40_000_000, False), ("namespaces", 0, 25_000_000, False),
    ),
    flow("PullImage", "a/b<c>&d", 20_000_000_000, ("layers", 0, 20_000_000_000, True), failed=True),
    flow("StartContainer", "c", 0, running=True),
]  # fmt: skip


def test_the_timeline_as_text(served: Served) -> None:
    client, pages = served
    pages["/debug/timeline"] = (200, json.dumps(FLOWS).encode())
    lines = timeline.text(timeline.fetch(client, (), 0), 76).splitlines()
    assert "RunPodSandbox  pod-1  100.0 ms" in lines[0]
    namespaces, network, elsewhere = lines[1:4]
    assert namespaces.split()[:3] == ["namespaces", "25.0", "ms"]
    # 76 columns leave 49 for a bar: a quarter of them, and a bar that starts in the middle.
    assert namespaces.count("█") == 12
    assert 24 <= network.index("█") - namespaces.index("█") <= 25
    assert elsewhere.split() == ["(elsewhere)", "35.0", "ms"]
    pull = next(n for n, line in enumerate(lines) if "PullImage" in line)
    assert lines[pull].endswith("20.00 s  [failed]")
    assert lines[pull + 1].endswith("✗")
    assert "[running]" in "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert [c.kind for c in timeline.fetch(client, ("PullImage",), 5)] == ["PullImage"]
    assert [c.kind for c in timeline.fetch(client, (), 1)] == ["StartContainer"]
    assert timeline.text([]) == "No calls yet.\n"
    pages["/debug/timeline"] = (200, b"{}")
    with pytest.raises(PycrioError, match="not a list"):
        timeline.fetch(client, (), 5)


def test_the_timeline_as_a_page(served: Served) -> None:
    client, pages = served
    pages["/debug/timeline"] = (200, json.dumps(FLOWS).encode())
    page = timeline.page(timeline.fetch(client, (), 0))
    assert page.count("<svg") == 3
    assert "a/b&lt;c&gt;&amp;d" in page
    assert "a/b<c>" not in page
    assert "class='bad'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "src=" not in page


def test_the_page_of_the_daemon_has_the_shape_that_is_read(served: Served) -> None:
    from pycrio.obs import steps

    client, pages = served
    steps.clear()
    with steps.flow("RunPodSandbox", "x"), steps.step("network"):
        pass
    pages["/debug/timeline"] = (200, json.dumps(steps.dump()).encode())
    (call,) = timeline.fetch(client, (), 5)
    assert (call.kind, call.subject, call.state, call.steps[0].name) == ("RunPodSandbox", "x", "done", "network")
    assert "network" in timeline.text([call])
    steps.clear()
