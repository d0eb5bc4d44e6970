"""What SIGHUP changes and what it leaves."""

from __future__ import annotations

import pathlib

import pytest

from pycrio.config import reload
from pycrio.config.decode import RUNTIMES
from pycrio.config.options import ROWS
from pycrio.config.values import Config
from pycrio.errors import ConfigError
from tests.unit.config.conftest import HOST, Load


def rewrite(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "crio.conf").write_text(text)


def test_reloadable_keys_change_and_others_wait(conf: Load, tmp_path: pathlib.Path) -> None:
    old = conf('[crio.runtime]\nlog_level = "warn"\n')
    rewrite(
        tmp_path,
        '[crio]\nlog_dir = "/new"\n[crio.runtime]\nlog_level = "debug"\ncdi_spec_dirs = ["/a", "/b"]\n'
        '[crio.runtime.runtimes.runc]\nruntime_path = "/usr/sbin/runc"\n'
        '[crio.runtime.workloads.w]\nactivation_annotation = "w"\n',
    )
    new, changes = reload.reread(old, {}, HOST)
    assert [(change.key, change.live) for change in changes] == [
        ("crio.runtime.log_level", True),
        ("crio.runtime.runtimes.runc", True),
        ("crio.runtime.cdi_spec_dirs", True),
        ("crio.log_dir", False),
        ("crio.runtime.workloads.w", False),
    ]
    assert changes[0].event == 'Set config log_level to "debug"'
    assert changes[2].event == 'Set config cdi_spec_dirs to "[/a /b]"'
    assert "next start" in changes[3].event
    assert new.text("crio.runtime.log_level") == "debug"
    assert str(new.origin("crio.runtime.log_level")).endswith("crio.conf:4")
    assert new.text("crio.log_dir") == old.text("crio.log_dir")
    assert "runc" in new.handlers
    assert new.is_set("crio.runtime.runtimes.runc.runtime_path")
    assert new.workloads == {}
    rewrite(tmp_path, "")
    final, changes = reload.reread(new, {}, HOST)
    assert list(final.handlers) == ["crun"]
    assert not any(key.startswith(RUNTIMES) for key in final.origins)
    assert [change.new for change in changes if change.key.startswith(RUNTIMES)] == [None]


def test_flags_are_not_applied_again_but_keep_what_needs_a_restart(conf: Load) -> None:
    old = conf("", "--log-level", "debug", "--log-dir", "/by/flag")
    new, changes = reload.reread(old, {"CONTAINER_LOG_LEVEL": "trace"}, HOST)
    assert [(change.key, change.new) for change in changes] == [("crio.runtime.log_level", "info")]
    assert new.text("crio.log_dir") == "/by/flag"
    assert not new.is_set("crio.runtime.log_level")


def test_nothing_changed(conf: Load) -> None:
    old = conf("[crio.runtime]\npids_limit = 5\n")
    new, changes = reload.reread(old, {}, HOST)
    assert changes == ()
    assert new.values == old.values


def test_a_faulty_file_changes_nothing(conf: Load, tmp_path: pathlib.Path) -> None:
    old = conf()
    rewrite(tmp_path, '[crio.runtime]\nlog_level = "loud"\ndefault_runtime = "absent"\n')
    with pytest.raises(ConfigError) as caught:
        reload.reread(old, {}, HOST)
    assert len(caught.value.faults) == 2


def test_the_order_has_every_reloadable_key() -> None:
    assert set(reload.ORDER) == {row.key for row in ROWS if row.reload == "sighup"}


def test_drop_ins_that_appear_later_are_read(conf: Load, tmp_path: pathlib.Path) -> None:
    old: Config = conf()
    (tmp_path / "crio.conf.d" / "x").write_text('[crio.image]\npinned_images = ["a"]\n')
    new, _ = reload.reread(old, {}, HOST)
    assert new.texts("crio.image.pinned_images") == ("a",)
    assert len(new.sources.files) == 2
