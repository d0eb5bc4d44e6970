"""Rows of flags that have no key in crio.conf (their keys start with ``cli.``)."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

ROWS = (
    Row(
        "cli.config",
        "string",
        "/etc/crio/crio.conf",
        "Main configuration file. A missing one is skipped unless this flag or variable names it; an empty name reads "
        "none.",
        flags=("--config", "-c"),
        env=("CONTAINER_CONFIG",),
    ),
    Row(
        "cli.config_dir",
        "string",
        "/etc/crio/crio.conf.d",
        "Directory of drop-in files, read in the order of their paths after the main file; later ones win.",
        flags=("--config-dir", "-d"),
        env=("CONTAINER_CONFIG_DIR",),
    ),
    Row(
        "cli.log",
        "string",
        "",
        "File to which the daemon's log is appended. Empty: standard error.",
        flags=("--log",),
        env=("CONTAINER_LOG",),
    ),
    Row(
        "cli.log_format",
        "string",
        "text",
        "Form of the daemon's log lines: text or json.",
        flags=("--log-format",),
        env=("CONTAINER_LOG_FORMAT",),
        rules=(rules.one_of("text", "json"),),
    ),
    Row(
        "cli.profile",
        "bool",
        False,
        "Serve profiles of the daemon by HTTP on 127.0.0.1, below /debug/pprof/.",
        flags=("--profile",),
        env=("CONTAINER_PROFILE",),
    ),
    Row(
        "cli.profile_port",
        "int",
        6060,
        "Port for --profile; 0 takes a free one, which the log tells.",
        flags=("--profile-port",),
        env=("CONTAINER_PROFILE_PORT",),
        rules=(rules.between(0, 65535),),
    ),
    Row(
        "cli.profile_cpu",
        "string",
        "",
        "File for a CPU profile of the whole run, written at its end (pprof).",
        flags=("--profile-cpu",),
        env=("CONTAINER_PROFILE_CPU",),
    ),
    Row(
        "cli.profile_mem",
        "string",
        "",
        "File for a profile of the memory in use, written at the end (pprof). Counting costs time and memory.",
        flags=("--profile-mem",),
        env=("CONTAINER_PROFILE_MEM",),
    ),
    Row(
        "cli.enable_profile_unix_socket",
        "bool",
        False,
        "Serve profiles of the daemon on the CRI socket, below /debug/pprof/.",
        flags=("--enable-profile-unix-socket",),
        env=("ENABLE_PROFILE_UNIX_SOCKET",),
    ),
    Row(
        "cli.registries_conf",
        "string",
        "",
        "Registry configuration file to be read instead of /etc/containers/registries.conf.",
        flags=("--registries-conf",),
        env=("CONTAINER_REGISTRIES_CONF",),
        hidden=True,
    ),
    Row(
        "cli.registries_conf_dir",
        "string",
        "",
        "Directory to be read instead of /etc/containers/registries.conf.d.",
        flags=("--registries-conf-dir",),
        env=("CONTAINER_REGISTRIES_CONF_DIR",),
        hidden=True,
    ),
    Row(
        "cli.address",
        "string",
        "",
        "Accepted and ignored.",
        flags=("--address",),
        hidden=True,
    ),
)
