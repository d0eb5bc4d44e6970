"""Printing a configuration and reading it again gives the same; documents are rendered from every row."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycrio.config import check, completion, decode, documents, load, manual, migrate, render
from pycrio.config.options import FILE_ROWS, ROWS, Row
from pycrio.config.options.commands import ROOT
from pycrio.config.options.metrics import COLLECTORS
from pycrio.config.options.stats import POD_METRICS
from pycrio.config.values import Config, HandlerConf, WorkloadConf, WorkloadResources
from tests.unit.config.conftest import HOST, Load

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]


def again(config: Config) -> Config:
    """What the rendered file says."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "crio.conf")
        pathlib.Path(path).write_text(render.document(config), encoding="utf-8")
        env = {"CONTAINER_CONFIG": path, "CONTAINER_CONFIG_DIR": ""}
        return load.load({}, env, HOST)


def file_values(config: Config) -> dict[str, object]:
    return {key: value for key, value in config.values.items() if key.startswith("crio.")}


def assert_same(one: Config, other: Config) -> None:
    assert file_values(one) == file_values(other)
    assert one.handlers == other.handlers
    assert one.workloads == other.workloads


_plain = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
_paths = _plain.map(lambda text: "/" + text)
_special: dict[str, st.SearchStrategy[object]] = {
    "crio.root": _paths,
    "crio.storage_driver": st.just("overlay"),
    "crio.storage_option": st.lists(_plain, unique=True, max_size=3).map(tuple),
    "crio.api.stream_port": st.integers(0, 65535).map(str),
    "crio.api.tls_cipher_suites": st.just(()),
    "crio.runtime.default_runtime": st.just("crun"),
    "crio.runtime.default_ulimits": st.sampled_from([(), ("nofile=1:2", "core=0")]),
    "crio.runtime.default_capabilities": st.sampled_from([(), ("CHOWN",), ("KILL", "cap_bpf")]),
    "crio.runtime.default_sysctls": st.sampled_from([(), ("net.a=1",)]),
    "crio.runtime.additional_devices": st.sampled_from([(), ("/dev/null:/dev/x:rw",)]),
    "crio.runtime.default_env": st.lists(_plain.map(lambda t: "A=" + t), max_size=2).map(tuple),
    "crio.runtime.log_filter": st.sampled_from(["", 'a\\d+\t"b']),
    "crio.runtime.log_size_max": st.sampled_from([-1, -5, 8192]),
    "crio.runtime.uid_mappings": st.sampled_from(["", "0:1:2"]),
    "crio.runtime.gid_mappings": st.sampled_from(["", "0:1:2,3:4:5"]),
    "crio.runtime.ctr_stop_timeout": st.integers(30, 1000),
    "crio.runtime.infra_ctr_cpuset": st.sampled_from(["", "0-3"]),
    "crio.runtime.shared_cpuset": st.sampled_from(["", "1"]),
    "crio.runtime.timezone": st.sampled_from(["", "Local", "UTC"]),
    "crio.image.pause_image": st.sampled_from(["registry.k8s.io/pause:3.9", "a/b"]),
    "crio.metrics.metrics_collectors": st.lists(st.sampled_from(COLLECTORS), max_size=3).map(tuple),
    "crio.stats.included_pod_metrics": st.sampled_from([(), ("all",), POD_METRICS]),
    "crio.tracing.tracing_sampling_rate_per_million": st.integers(0, 10**6),
}


def _strategy(row: Row) -> st.SearchStrategy[object]:
    if row.key in _special:
        return _special[row.key]
    if row.kind == "bool":
        # TLS for streams wants files as well.
        return st.just(False) if row.key == "crio.api.stream_enable_tls" else st.booleans()
    if row.kind == "int":
        return st.integers(1, 65535)
    if row.kind == "duration":
        return st.integers(1, 10**6).map(lambda seconds: f"{seconds}s")
    if row.kind == "strings":
        return st.lists(_paths, max_size=3).map(tuple)
    words = {
        "crio.runtime.log_level": ("info", "debug"),
        "crio.runtime.cgroup_manager": ("systemd", "cgroupfs"),
        "crio.checkpoint_restore.container_level_enabled": ("none", "checkpoint_only"),
        "crio.image.default_transport": ("docker://",),
        "crio.image.image_volumes": ("mkdir", "bind", "ignore"),
        "crio.image.short_name_mode": ("enforcing", "disabled"),
        "crio.api.tls_min_version": ("VersionTLS12", "VersionTLS13"),
    }
    return st.sampled_from(words[row.key]) if row.key in words else _paths


_values = st.fixed_dictionaries(
    {}, optional={r.key: _strategy(r) for r in FILE_ROWS if r.kind != "table" and r.key not in render.MOVED}
)
_maps = st.dictionaries(_plain, _plain, max_size=2)
_handlers = st.builds(
    HandlerConf,
    name=_plain.filter(bool),
    runtime_path=st.one_of(st.just(""), _paths),
    runtime_root=st.one_of(st.just(""), _paths),
    privileged_without_host_devices=st.booleans(),
    allowed_annotations=st.sampled_from([(), ("devices.crio.io", "run.oci.x")]),
    default_annotations=_maps,
    monitor_path=st.one_of(st.just(""), _paths),
    monitor_cgroup=st.sampled_from(["", "pod"]),
    monitor_env=st.lists(_plain.map(lambda t: "B=" + t), max_size=2).map(tuple),
    monitor_exec_cgroup=st.sampled_from(["", "container"]),
    platform_runtime_paths=st.sampled_from([{}, {"linux/arm64": "/x"}]),
    container_min_memory=st.sampled_from(["12MiB", "1GiB"]),
    no_sync_log=st.booleans(),
    seccomp_profile=_plain,
    container_create_timeout=st.integers(30, 9999),
)
_resources = st.builds(
    WorkloadResources,
    cpushares=st.integers(0, 10),
    cpuquota=st.sampled_from([0, 10, 1000]),
    cpuperiod=st.sampled_from([0, 1000]),
    cpuset=st.sampled_from(["", "0,2-3"]),
    cpulimit=st.integers(0, 5),
)
_workloads = st.builds(
    WorkloadConf,
    name=_plain,
    activation_annotation=_plain.filter(bool),
    annotation_prefix=_plain,
    allowed_annotations=st.sampled_from([(), ("umask.crio.io",)]),
    resources=st.one_of(st.none(), _resources),
)


@settings(max_examples=60, deadline=None)
@given(_values, st.lists(_handlers, max_size=3), st.lists(_workloads, max_size=2))
def test_rendering_and_loading_are_inverse(
    values: dict[str, object], handlers: list[HandlerConf], workloads: list[WorkloadConf]
) -> None:
    base = load.load({}, {"CONTAINER_CONFIG": "", "CONTAINER_CONFIG_DIR": ""}, HOST)
    draft = decode.Draft({**base.values, **values}, handlers=dict(base.handlers))  # type: ignore[dict-item]
    draft.handlers |= {handler.name: handler for handler in handlers}
    draft.workloads = {workload.name: workload for workload in workloads}
    migrate.migrate(draft)
    config = Config(draft.values, base.defaults, draft.origins, draft.handlers, draft.workloads)
    assert check.check(config).faults == []
    assert_same(again(config), config)
    assert render.document(again(config)) == render.document(config)


def test_defaults_are_all_comments(conf: Load) -> None:
    text = render.document(conf())
    live = [line for line in text.split("\n") if line and not line.startswith(("#", "["))]
    assert live == []
    assert_same(again(conf()), conf())


def test_the_default_file_explains_every_key(conf: Load) -> None:
    lines = render.document(conf()).split("\n")
    assert max(map(len, lines)) <= 120
    for row in FILE_ROWS:
        assert f"[{row.table}]" in lines
        if row.kind != "table" and row.key not in render.MOVED:
            place = next(n for n, line in enumerate(lines) if line.startswith(f"# {row.name} = "))
            assert lines[place - 1].startswith("# ")
    live = documents.parse("f", "\n".join(_uncommented(lines)).encode())
    assert live.fault == ""


def _uncommented(lines: list[str]) -> list[str]:
    """The file with every commented key made live: it must still be TOML."""
    out, inside = [], False
    for line in lines:
        body = line.removeprefix("# ")
        starts = body.split(" = ")[0].replace("_", "").isalnum() and " = " in body
        inside = inside and body != "]"
        if line.startswith("#") and not starts and not body.startswith("[") and not inside and body != "]":
            continue
        inside = inside or (starts and body.endswith("["))
        out.append(body)
    return out


def test_changed_values_are_live_and_moved_keys_absent(conf: Load) -> None:
    text = render.document(
        conf(
            '[crio.runtime]\nconmon = "/c"\npids_limit = 7\n[crio.runtime.runtimes."a b"]\nruntime_path = "/\\u00e9"\n',
            "--cgroup-manager=cgroupfs",
        )
    )
    lines = text.split("\n")
    assert 'cgroup_manager = "cgroupfs"' in lines
    assert "pids_limit = 7" in lines
    assert '[crio.runtime.runtimes."a b"]' in lines
    assert lines.count('monitor_path = "/c"') == 2
    assert not any(line.lstrip("# ").startswith("conmon = ") for line in lines)


def test_the_written_reference_is_in_step() -> None:
    """``python -m pycrio markdown --section 5 > docs/configuration.md`` brings it up to date."""
    wanted = manual.markdown("crio.conf(5)", manual.file_page())
    assert (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8") == wanted


def test_manuals_name_every_option() -> None:
    program, file = (
        manual.roff("page", 1, blocks).replace("\\:", "")  # without the points where long words may break
        for blocks in (manual.program_page(), manual.file_page())
    )
    for row in ROWS:
        if not row.hidden:
            for flag in row.flags:
                assert (
                    f"\\fB{flag.replace('-', chr(92) + '-')}" in program
                    or f", {flag.replace('-', chr(92) + '-')}" in program
                )
        if row.in_file and row.kind != "table":
            assert f"\\fB{row.name}\\fR" in file
        for name in row.env:
            assert row.hidden or name in program


@pytest.mark.parametrize("section", [5, 8])
def test_manual_pages_are_clean_for_groff(section: int) -> None:
    blocks = manual.program_page() if section == 8 else manual.file_page()
    page = manual.roff("pycrio", section, blocks)
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-b"], input=page.encode(), capture_output=True, check=True, timeout=60
    )
    assert done.stderr == b""
    assert b"NNAAMMEE" in done.stdout or b"NAME" in done.stdout


def _complete(words: list[str]) -> list[str]:
    """What bash would offer for the last of the words."""
    program = completion.script("bash") + (
        f"\nCOMP_WORDS=({' '.join(repr(w) for w in words)})\nCOMP_CWORD={len(words) - 1}\n_pycrio\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-eu", "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completion() -> None:
    assert _complete(["pycrio", "--cgroup-m"]) == ["--cgroup-manager"]
    assert _complete(["pycrio", "--cgroup-manager", ""]) == ["systemd", "cgroupfs"]
    assert _complete(["pycrio", "--log-level", "debug", "sta"]) == ["status"]
    assert _complete(["pycrio", "--root", "status", "st"]) == ["status"]
    assert set(_complete(["pycrio", "status", "-s", "/x", ""])) >= {"timeline", "info", "--socket"}
    assert "--html" in _complete(["pycrio", "status", "t", "--"])
    assert _complete(["pycrio", "completion", "z"]) == ["zsh"]
    assert "--repair" in _complete(["pycrio", "check", "-f", "--"])  # -f takes a file in another command
    assert _complete(["pycrio", "status", "heap", "-f", "/etc/hostn"]) == ["/etc/hostname"]
    assert _complete(["pycrio", "man", "--section", ""]) == ["5", "8"]
    assert _complete(["pycrio", "publ"]) == []


ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'fpath=({directory} $fpath); autoload -Uz compinit; compinit -u -d {directory}/dump; PS1=; print REA""DY'
zpty -r shell out '*READY*'
zpty -w shell 'pycrio() {{ print "GOT""<$*>" }}'
zpty -w shell $'pycrio {words}\t'
zpty -r shell out '*GOT<*>*'
print -r -- ${{${{out##*GOT<}}%%>*}}
zpty -d shell
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("sta", "status"),
        ("--log-level debug check --rep", "--log-level debug check --repair"),
        ("--cgroup-manager cg", "--cgroup-manager cgroupfs"),
        ("status -s /x time", "status -s /x timeline"),
        ("completion z", "completion zsh"),
    ],
)
def test_zsh_and_fish_completion(tmp_path: pathlib.Path, words: str, completed: str) -> None:
    """What the shells themselves make of the last word."""
    (tmp_path / "_pycrio").write_text(completion.script("zsh"))
    program = ZSH.format(directory=tmp_path, words=words)
    done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == completed
    (tmp_path / "c.fish").write_text(completion.script("fish"))
    program = f"source {tmp_path}/c.fish; complete -C 'pycrio {words}'"
    command = ["fish", "--no-config", "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == [completed.split()[-1]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_offer_every_flag_and_command(shell: str) -> None:
    script = completion.script(shell)
    for row in completion.GLOBAL:
        for flag in row.flags:
            shown = flag if shell != "fish" else f"-l {flag[2:]} " if flag.startswith("--") else f"-s {flag[1:]} "
            if not row.hidden:
                assert shown in script, flag
    for command in ROOT.commands:
        assert (command.name in script) is not command.hidden
    assert "registries-conf" not in script


def test_unknown_shell() -> None:
    with pytest.raises(KeyError):
        completion.script("tcsh")


def test_help() -> None:
    text = manual.help_text(ROOT)
    assert max(map(len, text.split("\n"))) <= 120
    assert "--registries-conf" not in text
    assert "wipe" in text
