"""Rows of ``[crio.nri]``: the Node Resource Interface and its built-in validator."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

_V = "crio.nri.default_validator."


def _reject(what: str, doc: str) -> Row:
    """A switch of the validator: all are alike."""
    name = f"nri_validator_reject_{what}_adjustment"
    return Row(_V + name, "bool", False, doc, flags=("--" + name.replace("_", "-"),))


ROWS = (
    Row(
        "crio.nri.enable_nri",
        "bool",
        True,
        "Let NRI plugins follow and adjust pods and containers.",
        flags=("--enable-nri",),
    ),
    Row(
        "crio.nri.nri_listen",
        "string",
        "/var/run/nri/nri.sock",
        "Socket on which plugins register themselves.",
        flags=("--nri-listen",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.nri.nri_plugin_dir",
        "string",
        "/opt/nri/plugins",
        "Directory with plugins that are started with the daemon.",
        flags=("--nri-plugin-dir",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.nri.nri_plugin_config_dir",
        "string",
        "/etc/nri/conf.d",
        "Directory with configurations for these plugins.",
        flags=("--nri-plugin-config-dir",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.nri.nri_plugin_registration_timeout",
        "duration",
        "5s",
        "How long a plugin may take to register, and to take in the state of the node.",
        flags=("--nri-plugin-registration-timeout",),
        rules=(rules.duration,),
    ),
    Row(
        "crio.nri.nri_plugin_request_timeout",
        "duration",
        "2s",
        "How long a plugin may take to answer an event; one that takes longer is dropped.",
        flags=("--nri-plugin-request-timeout",),
        rules=(rules.duration,),
    ),
    Row(
        "crio.nri.nri_disable_connections",
        "bool",
        False,
        "Refuse plugins that were not started by the daemon.",
        flags=("--nri-disable-connections",),
    ),
    Row(
        _V + "nri_enable_default_validator",
        "bool",
        False,
        "Check what plugins change with the built-in validator.",
        flags=("--nri-enable-default-validator",),
    ),
    _reject("oci_hook", "Refuse OCI hooks that plugins add."),
    _reject("runtime_default_seccomp", "Refuse changes of the runtime's default seccomp profile."),
    _reject("unconfined_seccomp", "Refuse changes for containers without a seccomp profile."),
    _reject("custom_seccomp", "Refuse changes of seccomp profiles that a pod brings."),
    _reject("namespace", "Refuse changes of namespaces."),
    Row(
        _V + "nri_validator_required_plugins",
        "strings",
        (),
        "Plugins without which no container is made.",
        flags=("--nri-validator-required-plugins",),
    ),
    Row(
        _V + "nri_validator_tolerate_missing_plugins_annotation",
        "string",
        "",
        "Key of a pod annotation that lets a pod do without required plugins.",
        flags=("--nri-validator-tolerate-missing-plugins-annotation",),
    ),
)
