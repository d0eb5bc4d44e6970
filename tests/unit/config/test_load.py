"""Sources, their precedence and CRI-O's merging rules; origins; deprecated and unbuilt keys."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import pytest

from pycrio.config import documents, load, migrate
from pycrio.config.options import BY_KEY, ROWS
from pycrio.config.values import DEFAULT, Origin
from pycrio.errors import ConfigError
from tests.unit.config.conftest import HOST, Load


def faults(conf: Load, text: str = "", *argv: str, **kwargs: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        conf(text, *argv, **kwargs)
    return caught.value.faults


@pytest.mark.effect("cli.config", "cli.config_dir")
def test_each_source_wins_over_the_former(conf: Load, tmp_path: pathlib.Path) -> None:
    key = "crio.runtime.log_level"
    text = '[crio.runtime]\nlog_level = "warn"\n'
    drop_ins = {
        "10-a.conf": '[crio.runtime]\nlog_level = "error"',
        "20-b.conf": '\n\n[crio.runtime]\nlog_level="debug"',
    }
    env = {"CONTAINER_LOG_LEVEL": "trace"}
    assert conf().text(key) == "info"
    assert conf().origin(key) == DEFAULT
    assert str(conf(text).origin(key)) == f"{tmp_path}/crio.conf:2"
    found = conf(text, drop_ins=drop_ins)
    assert (found.text(key), str(found.origin(key))) == ("debug", f"{tmp_path}/crio.conf.d/20-b.conf:4")
    found = conf(text, drop_ins=drop_ins, env=env)
    assert (found.text(key), found.origin(key)) == ("trace", Origin("env", "CONTAINER_LOG_LEVEL"))
    found = conf(text, "--log-level", "fatal", drop_ins=drop_ins, env=env)
    assert (found.text(key), found.origin(key)) == ("fatal", Origin("flag", "--log-level"))


def test_drop_ins_are_walked_in_lexical_order_whatever_their_suffix(conf: Load) -> None:
    def level(name: str) -> str:
        return f'[crio.runtime]\nlog_level = "{name}"'

    drop_ins = {"b/z": level("warn"), "b-x": level("error"), "b/a.conf": level("debug"), "a": level("trace")}
    found = conf(drop_ins=drop_ins)
    names = [path.rpartition("crio.conf.d/")[2] for path in found.sources.files[1:]]
    assert names == ["a", "b/a.conf", "b/z", "b-x"]
    assert found.text("crio.runtime.log_level") == "error"


def test_a_list_is_replaced_but_storage_options_are_appended(conf: Load) -> None:
    text = '[crio]\nstorage_option = ["a=1", "b=2"]\n[crio.runtime]\ndefault_env = ["A=1"]\n'
    drop_in = '[crio]\nstorage_option = ["c=3", "a=1"]\n[crio.runtime]\ndefault_env = ["B=2"]\n'
    found = conf(text, drop_ins={"x": drop_in})
    assert found.texts("crio.storage_option") == ("b=2", "c=3", "a=1")
    assert found.texts("crio.runtime.default_env") == ("B=2",)
    assert conf(text, "--storage-opt", "d=4").texts("crio.storage_option") == ("d=4",)


def test_empty_store_places_keep_the_earlier_value(conf: Load) -> None:
    text = '[crio]\nroot = "/r"\nrunroot = "/rr"\nimagestore = "/i"\n'
    drop_in = '[crio]\nroot = ""\nrunroot = ""\nstorage_driver = ""\nimagestore = ""\n'
    found = conf(text, drop_ins={"x": drop_in})
    assert (found.text("crio.root"), found.text("crio.runroot")) == ("/r", "/rr")
    assert found.text("crio.storage_driver") == "overlay"
    assert found.text("crio.imagestore") == ""


def test_a_handler_declared_again_is_replaced_altogether(conf: Load) -> None:
    text = (
        '[crio.runtime.runtimes.runc]\nruntime_path = "/usr/sbin/runc"\nruntime_root = "/run/runc"\n'
        '[crio.runtime.runtimes.kata]\nruntime_path = "/usr/bin/kata"\n'
    )
    found = conf(text, drop_ins={"x": '[crio.runtime.runtimes.runc]\nmonitor_cgroup = "pod"\n'})
    assert list(found.handlers) == ["crun", "runc", "kata"]
    runc = found.handlers["runc"]
    assert (runc.runtime_path, runc.runtime_root, runc.monitor_cgroup) == ("", "", "pod")
    assert found.handlers["kata"].monitor_cgroup == "system.slice"
    assert found.handlers["crun"].runtime_root == "/run/crun"
    assert not found.is_set("crio.runtime.runtimes.runc.runtime_path")
    declared = conf('[crio.runtime.runtimes.crun]\nruntime_path = "/usr/bin/crun"\n').handlers["crun"]
    assert (declared.runtime_root, declared.allowed_annotations, declared.container_min_memory) == ("", (), "12MiB")


def test_the_runtimes_flag(conf: Load) -> None:
    found = conf("", "--runtimes", "runc:/usr/sbin/runc:/run/runc", "--runtimes", "b:/bin/b:/r:oci:true::64MiB")
    assert found.handlers["runc"].runtime_root == "/run/runc"
    b = found.handlers["b"]
    assert (b.privileged_without_host_devices, b.min_memory, b.runtime_path) == (True, 64 << 20, "/bin/b")
    once = conf("", "--runtimes", "a:/a:/ra, b:/b:/rb")
    assert list(once.handlers) == ["crun", "a", "b"]
    said = faults(conf, "", "--runtimes", "a:b", "--runtimes", "a:b:c:d:e:f:g:h")
    assert len(said) == 2
    assert all("name:path:root" in fault for fault in said)


def test_inheriting_the_default_handler(conf: Load) -> None:
    text = """
[crio.runtime]
default_runtime = "runc"
[crio.runtime.runtimes.runc]
runtime_path = "/usr/sbin/runc"
runtime_root = "/run/runc"
[crio.runtime.runtimes.heir]
inherit_default_runtime = true
runtime_path = "/not/this"
no_sync_log = true
"""
    heir = conf(text).handlers["heir"]
    assert (heir.runtime_path, heir.runtime_root, heir.no_sync_log) == ("/usr/sbin/runc", "/run/runc", True)


def test_workloads(conf: Load) -> None:
    text = """
[crio.runtime.workloads.management]
activation_annotation = "target.workload.openshift.io/management"
annotation_prefix = "resources.workload.openshift.io"
[crio.runtime.workloads.management.resources]
CPUShares = 10
cpuset = "0-1"
"""
    workload = conf(text).workloads["management"]
    assert workload.resources is not None
    assert (workload.resources.cpushares, workload.resources.cpuset, workload.resources.cpuquota) == (10, "0-1", 0)
    assert conf('[crio.runtime.workloads.w]\nactivation_annotation = "a"').workloads["w"].resources is None


def test_a_missing_main_file_is_skipped_unless_it_was_asked_for(tmp_path: pathlib.Path) -> None:
    absent = str(tmp_path / "absent.conf")
    directory = {"CONTAINER_CONFIG_DIR": str(tmp_path / "none")}
    for settings, env in (({"cli.config": (absent, Origin("flag", "-c"))}, {}), ({}, {"CONTAINER_CONFIG": absent})):
        with pytest.raises(ConfigError, match=r"absent\.conf: does not exist"):
            load.load(settings, {**directory, **env}, HOST)
    assert load.load({}, {**directory, "CONTAINER_CONFIG": ""}, HOST).sources.files == ()


def test_odd_files_are_refused(conf: Load, tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "crio.conf.d"
    directory.mkdir()
    os.mkfifo(directory / "a-fifo")
    (directory / "dangling").symlink_to(tmp_path / "nowhere")
    (directory / "huge").write_bytes(b"#" * (documents.LIMIT + 1))
    said = faults(conf)
    assert [fault.rpartition("/")[2].partition(": ")[2] for fault in said] == [
        "is not a regular file",
        "does not exist",
        f"has more than {documents.LIMIT} bytes",
    ]


def test_variables(conf: Load) -> None:
    env = {
        "CONTAINER_DEFAULT_ULIMITS": "nofile=1:2, nproc=5",
        "CONTAINER_INCLUDED_POD_METRCIS": "cpu",
        "CONTAINER_METRICS_PORT": "",
        "CONTAINER_NO_PIVOT": "",
        "STREAM_IDLE_TIMEOUT": "5m",
        "CONTAINER_SELINUX": "T",
    }
    found = conf("", env=env)
    assert found.texts("crio.runtime.default_ulimits") == ("nofile=1:2", "nproc=5")
    assert found.texts("crio.stats.included_pod_metrics") == ("cpu",)
    assert found.number("crio.metrics.metrics_port") == 9090
    assert found.seconds("crio.api.stream_idle_timeout") == 300.0
    assert found.flag("crio.runtime.selinux")
    assert found.is_set("crio.runtime.no_pivot")
    bad = {"CONTAINER_METRICS_PORT": "x", "CONTAINER_READ_ONLY": "maybe", "CONTAINER_ROOT": "\udcff"}
    assert len(faults(conf, "", env=bad)) == 3


def test_keys_are_found_whatever_their_case(conf: Load) -> None:
    found = conf('[Crio.Runtime]\nLog_Level = "debug"\n[crio.runtime.runtimes.X]\nRuntime_Path = "/x"\n')
    assert found.text("crio.runtime.log_level") == "debug"
    assert found.handlers["X"].runtime_path == "/x"


def test_bare_numbers_are_nanoseconds(conf: Load) -> None:
    assert conf("[crio.image]\npull_progress_timeout = 1500000000").seconds("crio.image.pull_progress_timeout") == 1.5


def test_every_fault_is_told_at_once_with_file_line_and_key(conf: Load, tmp_path: pathlib.Path) -> None:
    text = """[crio]
log_dir = "relative"
[crio.api]
listen = 5
stream_enable_tls = true
tls_cipher_suites = ["TLS_NONE"]
[crio.runtime]
default_ulimits = ["nofile=x", "nproc=1"]
default_runtime = "rune"
[crio.runtime.runtimes]
odd = 3
[crio.runtime.runtimes.runc]
runtime_type = 7
[crio.runtime.workloads.w]
[crio.runtime.workloads.v]
activation_annotation = "v"
resources = { cpuquota = 1, cpushares = 2, cpuperiod = 10, cpuset = "x" }
"""
    said = faults(conf, text, "--metrics-port", "70000", drop_ins={"bad.conf": "[crio]\nroot = \n"})
    for line, key in (
        (2, "crio.log_dir"),
        (4, "crio.api.listen"),
        (5, "crio.api.stream_tls_cert"),
        (5, "crio.api.stream_tls_key"),
        (6, "crio.api.tls_cipher_suites"),
        (8, "crio.runtime.default_ulimits"),
        (9, "crio.runtime.default_runtime"),
        (11, "crio.runtime.runtimes.odd"),
        (13, "crio.runtime.runtimes.runc.runtime_type"),
        (14, "crio.runtime.workloads.w.activation_annotation"),
        (17, "crio.runtime.workloads.v.resources.cpuquota"),
        (17, "crio.runtime.workloads.v.resources.cpuperiod"),
        (17, "crio.runtime.workloads.v.resources.cpuset"),
    ):
        assert [f for f in said if f.startswith(f"{tmp_path}/crio.conf:{line}: {key}: ")], (line, key, said)
    assert any(f.startswith(f"{tmp_path}/crio.conf.d/bad.conf:2: is not TOML") for f in said)
    assert any(f.startswith("flag --metrics-port: crio.metrics.metrics_port: ") for f in said)
    assert len(said) == 15
    assert "did you mean 'runc'" in next(f for f in said if "default_runtime" in f)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('[crio]\nrooot = "/x"', "crio.rooot is ignored; did you mean crio.root?"),
        ('[crio.image]\nseparate_pull_cgroup = "pod"', "did you mean crio.runtime.separate_pull_cgroup?"),
        ('[crio.runtme]\nlog_level = "debug"', "unknown key crio.runtme is ignored"),
        ('[crio.runtime.runtimes.runc]\nruntime_paht = "/x"', "did you mean crio.runtime.runtimes.runc.runtime_path?"),
        ("[podman]\nx = 1", "unknown key podman is ignored"),
        ("[crio]\nzzzz = 1", "unknown key crio.zzzz is ignored"),
    ],
)
def test_unknown_keys_are_warned_of(conf: Load, text: str, hint: str) -> None:
    warnings = conf(text).warnings
    assert len(warnings) == 1
    assert hint in warnings[0]
    assert "crio.conf:" in warnings[0]


def test_an_unusable_handler_is_left_out_unless_it_is_the_default(conf: Load) -> None:
    text = '[crio.runtime.runtimes.bad]\nruntime_type = "x"\nno_sync_log = true\n'
    found = conf(text)
    assert "bad" not in found.handlers
    assert sum("the handler is left out" in warning for warning in found.warnings) == 2
    said = faults(conf, text, "--default-runtime", "bad")
    assert len(said) == 2
    assert "crio.conf:2: crio.runtime.runtimes.bad.runtime_type" in said[0]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('runtime_type = "vm"\nruntime_path = "/usr/bin/kata"', "containerd-shim-<name>"),
        ('runtime_config_path = "/x"', "only for handlers of type vm"),
        ('runtime_type = "pod"\nno_sync_log = true', "only for handlers of type oci"),
        ("privileged_without_host_devices_all_devices_allowed = true", "only together with"),
        ("stream_websockets = true", "only for handlers of type pod"),
        ('monitor_cgroup = "mine"', "neither pod nor the name of a slice"),
        ('monitor_exec_cgroup = "pod"', "is not one of"),
        ('exec_cpu_affinity = "last"', "is not one of"),
        ('allowed_annotations = ["nobody.knows"]', "not an annotation"),
        ('platform_runtime_paths = { linux = "/x" }', "os/architecture"),
        ('runtime_path = "bin/runc"', "not an absolute path"),
    ],
)
def test_rules_between_the_keys_of_a_handler(conf: Load, body: str, fault: str) -> None:
    said = faults(conf, f"[crio.runtime.runtimes.h]\n{body}\n", "--default-runtime", "h")
    assert len(said) == 1
    assert fault in said[0]


def test_floors_and_fallbacks(conf: Load) -> None:
    text = """
[crio.api]
grpc_max_send_msg_size = 0
grpc_max_recv_msg_size = -1
[crio.runtime]
ctr_stop_timeout = 5
default_runtime = ""
[crio.image]
short_name_mode = ""
[crio.runtime.runtimes.crun]
container_create_timeout = 10
container_min_memory = "lots"
monitor_cgroup = ""
"""
    found = conf(text)
    assert (
        found.number("crio.api.grpc_max_send_msg_size") == found.number("crio.api.grpc_max_recv_msg_size") == 80 << 20
    )
    assert found.number("crio.runtime.ctr_stop_timeout") == 30
    assert found.text("crio.runtime.default_runtime") == "crun"
    assert found.text("crio.image.short_name_mode") == "enforcing"
    crun = found.default_handler
    assert (crun.container_create_timeout, crun.min_memory, crun.monitor_cgroup) == (30, 12 << 20, "system.slice")
    assert sum("raised" in w for w in found.warnings) == 2
    assert sum("12MiB is used" in w for w in found.warnings) == 1


def test_cgroupfs_knows_no_slice(conf: Load) -> None:
    text = (
        '[crio.runtime]\ncgroup_manager = "cgroupfs"\n[crio.runtime.runtimes.runc]\nmonitor_cgroup = "system.slice"\n'
    )
    assert {handler.monitor_cgroup for handler in conf(text).handlers.values()} == {""}
    elsewhere = load.HostFacts(systemd=False, selinux=True, storage_files=())
    found = conf("", host=elsewhere)
    assert (found.text("crio.runtime.cgroup_manager"), found.flag("crio.runtime.selinux")) == ("cgroupfs", True)


@pytest.mark.effect("crio.stats.stats_collection_period")
def test_deprecated_keys_move_to_their_successors(conf: Load) -> None:
    text = """
[crio.runtime]
conmon = "/usr/bin/conmon"
conmon_cgroup = "pod"
conmon_env = ["A=1"]
enable_criu_support = false
default_mounts = ["/a:/b"]
[crio.image]
insecure_registries = ["x"]
[crio.network]
plugin_dir = "/extra"
[crio.stats]
stats_collection_period = 7
"""
    found = conf(text)
    crun = found.handlers["crun"]
    assert (crun.monitor_path, crun.monitor_cgroup, crun.monitor_env) == ("/usr/bin/conmon", "pod", ("A=1",))
    assert found.text("crio.checkpoint_restore.container_level_enabled") == "none"
    assert found.texts("crio.network.plugin_dirs") == ("/opt/cni/bin/", "/extra")
    assert found.number("crio.stats.collection_period") == 7
    assert found.texts("crio.image.insecure_registries") == ()
    assert sum("is deprecated" in warning for warning in found.warnings) == 8
    assert conf(text, "--collection-period", "9").number("crio.stats.collection_period") == 9


def test_unbuilt_features_are_told_once_per_key(conf: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(BY_KEY["crio.nri.enable_nri"], later="plugins", idle=False)
    rows = [row if other.key == row.key else other for other in ROWS]
    monkeypatch.setattr(migrate, "ROWS", rows)
    (said,) = conf("[crio.nri]\nenable_nri = true\n").warnings
    assert said.endswith("crio.conf:2: crio.nri.enable_nri has no effect: this version lacks plugins")
    assert conf("[crio.nri]\nenable_nri = false\n").warnings == ()
    assert conf().warnings == ()


def test_reading_no_files(conf: Load, tmp_path: pathlib.Path) -> None:
    (tmp_path / "c").write_text("not toml at all")
    found = load.load({"cli.config": (str(tmp_path / "c"), Origin("flag", "-c"))}, {}, HOST, read_files=False)
    assert found.values == {**found.defaults, "cli.config": str(tmp_path / "c")}


def test_misspelt_keys_in_our_own_code_are_found(conf: Load) -> None:
    found = conf()
    with pytest.raises(KeyError):
        found.text("crio.nothing")
    for call in (found.text, found.number, found.texts):
        with pytest.raises(TypeError):
            call("crio.runtime.read_only")
    with pytest.raises(TypeError):
        found.flag("crio.root")
