"""Rows of ``[crio.network]``: CNI."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

ROWS = (
    Row(
        "crio.network.cni_default_network",
        "string",
        "",
        "Name of the CNI network for pods. Empty: the first configuration file by name.",
        flags=("--cni-default-network",),
        env=("CONTAINER_CNI_DEFAULT_NETWORK",),
    ),
    Row(
        "crio.network.network_dir",
        "string",
        "/etc/cni/net.d/",
        "Directory with CNI configurations; changes are noticed at once.",
        flags=("--cni-config-dir",),
        env=("CONTAINER_CNI_CONFIG_DIR",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.network.plugin_dirs",
        "strings",
        ("/opt/cni/bin/",),
        "Directories with CNI plugins, searched in this order.",
        flags=("--cni-plugin-dir",),
        env=("CONTAINER_CNI_PLUGIN_DIR",),
        rules=(rules.each(rules.absolute_item),),
    ),
    Row(
        "crio.network.plugin_dir",
        "string",
        "",
        "One more directory with CNI plugins; it is appended to plugin_dirs.",
        deprecated="use plugin_dirs",
    ),
    Row(
        "crio.network.cni_status_grace_period",
        "duration",
        "0s",
        "After the network was ready once, go on asking the plugins for their status, and report the node as not ready "
        "when they fail for longer than this. 0s: do not ask.",
        flags=("--cni-status-grace-period",),
        env=("CNI_STATUS_GRACE_PERIOD",),
        rules=(rules.duration,),
    ),
)
