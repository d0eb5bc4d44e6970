"""The rows against the table of what the outside world knows."""

from __future__ import annotations

import dataclasses

import pytest

from pycrio.config import options, rules
from pycrio.config.options.api import CIPHER_SUITES
from pycrio.config.options.handlers import BUILT_IN
from pycrio.config.options.metrics import COLLECTORS
from pycrio.config.values import HandlerConf, WorkloadConf, WorkloadResources
from pycrio.obs import metrics, tls
from tests.unit.config import known


@pytest.mark.parametrize("entry", known.KEYS, ids=lambda entry: entry[0])
def test_every_known_key_is_a_row(entry: known.Key) -> None:
    row = options.BY_KEY[entry[0]]
    assert (row.key, row.kind, row.default, row.flags, row.env, row.reload) == entry
    assert type(row.default) is type(entry[2])


def test_there_are_no_other_keys() -> None:
    assert [row.key for row in options.FILE_ROWS if row.key not in {entry[0] for entry in known.KEYS}] == []


def test_flags_without_a_key() -> None:
    rows = [row for row in options.ROWS if not row.in_file]
    assert [(row.flags, row.env) for row in rows] == list(known.FLAGS)


def test_handler_and_workload_keys() -> None:
    ours = {row.name: (row.kind, row.default) for row in options.HANDLER}
    # CRI-O has this one besides the table, and model.node.Handler carries it.
    del ours["privileged_without_host_devices_all_devices_allowed"]
    assert ours == known.HANDLER
    assert tuple(row.name for row in options.WORKLOAD) == known.WORKLOAD
    assert tuple(row.name for row in options.RESOURCES) == known.RESOURCES


def test_rows_and_classes_agree() -> None:
    """Rows are read by name from the dataclasses, with the same defaults."""
    for row in options.HANDLER:
        value = getattr(HandlerConf("x"), row.name)
        assert (tuple(value) if row.kind == "map" else value) == row.default
    names = {field.name for field in dataclasses.fields(HandlerConf)} - {"name"}
    assert names == {row.name for row in options.HANDLER}
    assert {f.name for f in dataclasses.fields(WorkloadConf)} == {"name", "resources", *known.WORKLOAD}
    assert tuple(f.name for f in dataclasses.fields(WorkloadResources)) == known.RESOURCES


def test_the_built_in_handler() -> None:
    assert list(BUILT_IN) == ["crun"]
    crun = HandlerConf("crun", **BUILT_IN["crun"])  # type: ignore[arg-type]
    assert crun.runtime_root == "/run/crun"
    assert crun.allowed_annotations == ("io.containers.trace-syscall", "devices.crio.io")
    assert crun.monitor_env == ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    assert crun.min_memory == 500 * 1024
    assert HandlerConf("other").min_memory == 12 * 1024 * 1024


def test_flags_variables_and_keys_are_unique() -> None:
    flags = [flag for row in options.ROWS for flag in row.flags]
    variables = [name for row in options.ROWS for name in row.env]
    assert len(flags) == len(set(flags)) == len(options.BY_FLAG)
    assert len(variables) == len(set(variables))
    assert len(options.BY_KEY) == len(options.ROWS)


@pytest.mark.parametrize(
    "row", [*options.ROWS, *options.HANDLER, *options.WORKLOAD, *options.RESOURCES], ids=lambda r: r.key
)
def test_a_row_is_complete(row: options.Row) -> None:
    assert row.doc.strip() == row.doc
    assert row.doc.endswith(".") or row.doc.endswith("cpuquota.")
    for rule in row.rules:
        assert rule(row.default) == "", "the default passes its own rules"


def test_names_that_rooms_cannot_share_by_import_agree() -> None:
    assert set(COLLECTORS) == set(metrics.SPECS) == set(known.ALL_COLLECTORS)
    assert set(CIPHER_SUITES) == set(tls.SUITES)


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (
            rules.each(rules.ulimit),
            ("nofile=1024:2048", "NPROC=-1", "core=0:-1"),
            ("files=1", "nofile", "nofile=3:2", "nofile=a", "nofile=-1:5", "nofile=1:2:3"),
        ),
        (rules.each(rules.sysctl), ("net.ipv4.ip_forward=1", "", "a=b c"), ("a", "a =1", "a= 1", "=1")),
        (
            rules.each(rules.device),
            ("/dev/sda", "/dev/sda:/dev/xvda", "/dev/sda:rw", "/dev/sda:/dev/x:m"),
            ("sda", "/dev/a:/x", "/dev/a:q", "/dev/a:rr", "/dev/a:rw:/dev/b", "/dev/a::", "/dev/a:/dev/b:r:w"),
        ),
        (rules.each(rules.capability), ("CHOWN", "cap_sys_admin"), ("CHWN", "")),
        (rules.each(rules.environment), ("A=", "A=b=c"), ("A", "=b")),
        (
            rules.each(rules.annotation),
            ("devices.crio.io", "run.oci.handler", "org.systemd.property.X"),
            ("devices", "org.criu.configx"),
        ),
    ],
)
def test_list_rules(rule: options.Rule, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    assert rule(good) == ""
    for item in bad:
        assert rule((*good, item)) != "", item


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.absolute, ("/", "/a/b"), ("", "a", "./a")),
        (rules.absolute_or_empty, ("", "/a"), ("a",)),
        (rules.program, ("", "runc", "/usr/bin/runc"), ("./runc", "bin/runc")),
        (rules.duration, ("", "0", "30s", "1h0m0.5s"), ("-1s", "5", "1x", "s", "1s2")),
        (rules.cpu_list, ("", "0", "0-3,8"), ("a", "3-1", "1,", "70000")),
        (rules.regex, ("", "a.*b"), ("(", "*")),
        (rules.log_size, (-1, 8192), (0, 8191)),
        (rules.port_text, ("0", "65535"), ("", "x", "65536", "-1")),
        (
            rules.image_reference,
            ("registry.k8s.io/pause:3.10.1", "busybox", "localhost:5000/a/b@sha256:" + "a" * 64),
            ("", "host.io/UPPER", "a b", "a:", "http://x/y"),
        ),
        (rules.id_maps, ("", "0:100000:65536,1:2:3"), ("0:1", "0:1:0", "a:b:c", "0:1:2,")),
        (rules.timezone, ("", "Local", "local", "UTC"), ("Mars/Base", "../etc/passwd", "/etc/localtime")),
        (rules.between(0, 10), (0, 10), (-1, 11)),
    ],
)
def test_rules(rule: options.Rule, good: tuple[options.Value, ...], bad: tuple[options.Value, ...]) -> None:
    for value in good:
        assert rule(value) == "", value
    for value in bad:
        assert rule(value) != "", value
