"""The program as a process: what it prints, where, and its exit codes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

import pycrio
from pycrio.config import documents

ENV = {"PATH": os.environ["PATH"], "CONTAINER_CONFIG_DIR": "", "CONTAINERS_STORAGE_CONF": "/dev/null"}


def run(*argv: str, env: dict[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    settings = {"CONTAINER_CONFIG": "", **ENV, **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "pycrio", *argv],
        capture_output=True,
        text=True,
        check=False,
        env=settings,
        input=stdin,
        timeout=60,
    )


def test_version() -> None:
    done = run("version")
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines() if not line.startswith(" "))
    assert list(lines) == [
        *("Version", "GitCommit", "GitCommitDate", "GitTreeState", "BuildDate", "GoVersion", "Compiler", "Platform"),
        *("Linkmode", "BuildTags", "LDFlags", "SeccompEnabled", "AppArmorEnabled"),
    ]
    assert lines["Version"].strip() == pycrio.__version__
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(run("version", "-j").stdout)
    assert list(found) == [
        *("version", "gitCommit", "gitCommitDate", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"),
        *("linkmode", "buildTags", "ldFlags", "seccompEnabled", "appArmorEnabled"),
    ]
    verbose = json.loads(run("version", "--json", "--verbose").stdout)
    assert isinstance(verbose["dependencies"], list)
    assert run("--version").stdout == f"crio version {pycrio.__version__}\n{done.stdout}"
    assert run("-v").stdout == run("--version").stdout


def test_the_version_is_that_of_the_package() -> None:
    project = pathlib.Path(pycrio.__file__).parents[1] / "pyproject.toml"
    assert documents.read(str(project)).data["project"]["version"] == pycrio.__version__


def test_config(tmp_path: pathlib.Path) -> None:
    main = tmp_path / "crio.conf"
    main.write_text('[crio.runtime]\nlog_level = "debug"\nconmon = "/usr/bin/conmon"\nodd = 1\n')
    done = run("-c", str(main), "--cgroup-manager=cgroupfs", "config")
    assert done.returncode == 0
    live = documents.parse("", done.stdout.encode()).data["crio"]["runtime"]
    assert live["log_level"] == "debug"
    assert live["runtimes"]["crun"]["monitor_path"] == "/usr/bin/conmon"
    assert f"warning: {main}:4: unknown key crio.runtime.odd" in done.stderr
    again = tmp_path / "again.conf"
    again.write_text(done.stdout)
    assert run("-c", str(again), "config").stdout == done.stdout
    default = run("-c", str(main), "config", "--default")
    assert "log_level" not in documents.parse("", default.stdout.encode()).data["crio"]["runtime"]


def test_faults_go_to_standard_error_and_end_with_1(tmp_path: pathlib.Path) -> None:
    main = tmp_path / "crio.conf"
    main.write_text('[crio]\nlog_dir = "x"\n[crio.runtime]\nlog_level = "loud"\n')
    done = run("-c", str(main), "config")
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [f"{main}:2", f"{main}:4"]
    daemon = run("-c", str(main))
    assert daemon.returncode == 1
    lines = daemon.stderr.splitlines()
    assert [line.split()[1] for line in lines] == ["level=error", "level=error", "level=fatal"]
    assert "crio.runtime.log_level" in lines[1]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nonsense"], 'command "nonsense" not supported'),
        (["--log-levl", "x"], "did you mean --log-level?"),
        (["--metrics-port", "many"], "not an integer"),
        (["config", "extra"], 'takes no argument "extra"'),
        (["config", "--nothing"], "flag --nothing is not defined"),
        (["check", "--age", "old"], "flag --age: 'old' is not a duration"),
        (["complete", "tcsh"], "only for bash, fish and zsh"),
        (["man", "--section", "3"], "sections 5 and 8"),
        (["help", "nonsense"], 'command "nonsense" not supported'),
        (["status", "help", "nonsense"], 'command "status nonsense" not supported'),
        (["complete", "bash", "zsh"], 'takes no argument "zsh"'),
        (["status", "nonsense"], 'command "status nonsense" not supported'),
        (["status", "-s", "relative", "info"], "not an absolute path"),
        (["status", "containers"], "--id cannot be empty"),
        (["status", "info", "x"], 'takes no argument "x"'),
        (["status", "-s", "/nonexistent/s", "info"], "does not answer on /nonexistent/s"),
        (["-c", "/nonexistent/c", "config"], "/nonexistent/c: does not exist"),
        (["-c", "/nonexistent/c", "wipe"], "/nonexistent/c: does not exist"),
        (["-c", "/nonexistent/c", "check"], "/nonexistent/c: does not exist"),
        (["--log", "/nonexistent/log", "wipe"], "log file cannot be opened"),
    ],
)
def test_mistakes(argv: list[str], said: str) -> None:
    done = run(*argv)
    assert done.returncode == 1
    assert said in done.stderr.replace('\\"', '"')
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--help"], "--cgroup-manager"),
        (["-h"], "Commands:"),
        (["help", "status"], "timeline"),
        (["help", "status", "timeline"], "--html"),
        (["h", "wipe"], "--force"),
        (["status", "help"], "goroutines"),
        (["status", "h", "hp"], "--file"),
        (["status"], "goroutines"),
        (["status", "t", "--help"], "pycrio status timeline"),
        (["check", "-h"], "--repair"),
        (["man"], '.TH "pycrio" "8"'),
        (["man", "-s", "5"], '.TH "crio.conf" "5"'),
        (["md"], "# pycrio(8)"),
        (["markdown", "--section=5"], "# crio.conf(5)"),
        (["complete"], "# bash completion"),
        (["completion", "fish"], "# fish completion"),
        (["complete", "zsh"], "#compdef pycrio crio"),
    ],
)
def test_what_is_printed(argv: list[str], shown: str) -> None:
    done = run(*argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


def test_publish_takes_an_event() -> None:
    done = run("publish", "--topic", "/tasks/exit", "--namespace", "k8s.io", stdin="event")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("publish", "--topic", "/tasks/exit", "--namespace", "k8s.io", "--address", "/x", stdin="")
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not take events at '/x'" in done.stderr


def test_output_may_be_cut_off() -> None:
    command = f"{sys.executable} -m pycrio man | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env={**ENV, "CONTAINER_CONFIG": ""}
    )
    assert done.stdout.startswith(".TH")
    assert done.stderr == ""
