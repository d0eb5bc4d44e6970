"""What a build knows about itself: written by setup.py, told by ``pycrio version``."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys
import types
from typing import Any

import Cython.Build
import pytest
import setuptools

from pycrio.commands import version

ROOT = pathlib.Path(__file__).resolve().parents[3]
COMMIT = "c" * 40


@pytest.fixture
def setup_py(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Any:
    """The module, with nothing built and a directory of its own for a source tree."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(Cython.Build, "cythonize", lambda *_, **__: [])
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("LDFLAGS", "-Wl,-z,now")
    spec = importlib.util.spec_from_file_location("pycrio_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tree = tmp_path / "tree"
    (tree / "pycrio").mkdir(parents=True)
    monkeypatch.setattr(module, "HERE", tree)
    return module


def git(tree: pathlib.Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t.invalid", "-c", "init.defaultBranch=main"]
    env = {"PATH": "/usr/bin:/bin", "GIT_COMMITTER_DATE": "1600000000 +0200", "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(["git", *who, *words], cwd=tree, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def written(package: pathlib.Path) -> dict[str, str]:
    found: dict[str, dict[str, str]] = {}
    exec((package / "_build.py").read_text(), found)
    return found["FACTS"]


def test_a_checkout(setup_py: Any, tmp_path: pathlib.Path) -> None:
    tree = setup_py.HERE
    (tree / "file").write_text("1")
    git(tree, "init", "-q")
    git(tree, "add", "file")
    git(tree, "commit", "-q", "-m", "first")
    setup_py.write_facts(tree / "pycrio")
    facts = written(tree / "pycrio")
    assert facts == {
        "gitCommit": git(tree, "rev-parse", "HEAD"),
        "gitCommitDate": "2020-09-13T12:26:40Z",
        "gitTreeState": "clean",
        "buildDate": "2023-11-14T22:13:20Z",
        "linkmode": "dynamic",
        "buildTags": "bz2,crypto,isal,lzma,nghttp2,zstd",
        "ldFlags": "-Wl,-z,now",
    }
    (tree / "file").write_text("2")
    assert setup_py.source()["gitTreeState"] == "dirty"
    assert [p.name for p in (tree / "pycrio").iterdir()] == ["_build.py"]
    # A source distribution of it has no .git and remembers; the time is that of the new build.
    git_dir = tree / ".git"
    git_dir.rename(tmp_path / "elsewhere")
    out = tmp_path / "out"
    out.mkdir()
    setup_py.write_facts(out)
    assert written(out) == facts


def test_no_git(setup_py: Any) -> None:
    assert setup_py.source() == dict.fromkeys(("gitCommit", "gitCommitDate", "gitTreeState"), "unknown")
    (setup_py.HERE / ".git").mkdir()  # not a repository
    assert setup_py.source()["gitCommit"] == "unknown"


def built(monkeypatch: pytest.MonkeyPatch, commit: str, **facts: str) -> dict[str, Any]:
    """What is told by a build with these facts, whose checkout (if there is one) is at ``commit``."""
    module = types.ModuleType("pycrio._build")
    module.__dict__["FACTS"] = facts
    monkeypatch.setitem(sys.modules, "pycrio._build", module)
    monkeypatch.setattr(version, "_commit", lambda: commit)
    return dict(version.facts(False))


FACTS = {
    "gitCommit": COMMIT,
    "gitCommitDate": "2020-09-13T12:26:40Z",
    "gitTreeState": "clean",
    "buildDate": "2023-11-14T22:13:20Z",
    "linkmode": "dynamic",
    "buildTags": "crypto,zstd",
    "ldFlags": "-s",
}


@pytest.mark.parametrize("commit", [COMMIT, "unknown"])
def test_a_build_tells_what_it_is(monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    told = built(monkeypatch, commit, **FACTS)
    assert told.items() >= {**FACTS, "buildTags": ["crypto", "zstd"]}.items()
    assert json.loads(json.dumps(told)) == told
    assert f"GitCommit:       {COMMIT}\n" in version.text(False)
    assert "BuildTags:\n  crypto\n  zstd\nLDFlags:         -s\n" in version.text(False)


def test_a_checkout_that_has_moved_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told = built(monkeypatch, "d" * 40, **FACTS)
    assert (told["gitCommit"], told["gitCommitDate"], told["gitTreeState"]) == ("d" * 40, "unknown", "unknown")
    assert told["buildDate"] == "2023-11-14T22:13:20Z"


def test_a_tree_that_was_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycrio._build", None)
    monkeypatch.setattr(version, "_commit", lambda: "unknown")
    told = version.facts(False)
    assert told["gitCommit"] == told["gitCommitDate"] == told["gitTreeState"] == told["buildDate"] == "unknown"
    assert (told["buildTags"], told["ldFlags"], told["linkmode"]) == ([], "", "dynamic")
