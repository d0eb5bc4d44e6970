"""Rows of ``[crio]``: where the store and the daemon's marker files are."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

ROWS = (
    Row(
        "crio.root",
        "string",
        "/var/lib/containers/storage",
        "Directory of the image and container store. Podman, Buildah and Skopeo may use the same one. Without a value "
        "here, graphroot of storage.conf holds.",
        flags=("--root", "-r"),
        env=("CONTAINER_ROOT",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.runroot",
        "string",
        "/run/containers/storage",
        "Directory for the store's state that need not outlive a reboot. Without a value here, runroot of storage.conf "
        "holds.",
        flags=("--runroot",),
        env=("CONTAINER_RUNROOT",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.imagestore",
        "string",
        "",
        "Separate directory for images that are pulled from now on; containers stay below root. Empty keeps both "
        "together.",
        flags=("--imagestore",),
        env=("CONTAINER_IMAGESTORE",),
        rules=(rules.absolute_or_empty,),
    ),
    Row(
        "crio.storage_driver",
        "string",
        "overlay",
        "How layers are kept. overlay is the only driver that pycrio writes.",
        flags=("--storage-driver", "-s"),
        env=("CONTAINER_STORAGE_DRIVER",),
        rules=(rules.one_of("overlay"),),
    ),
    Row(
        "crio.storage_option",
        "strings",
        (),
        "Driver options as driver.name=value. They are added to those of storage.conf and of earlier files; of equal "
        "ones the last counts.",
        flags=("--storage-opt",),
        env=("CONTAINER_STORAGE_OPT",),
    ),
    Row(
        "crio.log_dir",
        "string",
        "/var/log/crio/pods",
        "Directory for container logs of pods whose request names no log directory. Must be absolute.",
        flags=("--log-dir",),
        env=("CONTAINER_LOG_DIR",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.version_file",
        "string",
        "/var/run/crio/version",
        "File on volatile storage with the version that ran last. When it is missing at start, the node has been "
        "rebooted and old containers are removed.",
        flags=("--version-file",),
        env=("CONTAINER_VERSION_FILE",),
    ),
    Row(
        "crio.version_file_persist",
        "string",
        "",
        "File on lasting storage with the version that ran last. When major or minor version changed since, images are "
        "removed as well. Empty: an upgrade removes no images.",
        flags=("--version-file-persist",),
        env=("CONTAINER_VERSION_FILE_PERSIST",),
    ),
    Row(
        "crio.clean_shutdown_file",
        "string",
        "/var/lib/crio/clean.shutdown",
        "Marker that is written after the store has been synced at the end. When it is missing at start, the node "
        "crashed and the store is checked. Empty switches this off.",
        flags=("--clean-shutdown-file",),
        env=("CONTAINER_CLEAN_SHUTDOWN_FILE",),
    ),
    Row(
        "crio.internal_wipe",
        "bool",
        True,
        "Remove containers and images after reboots and upgrades when the daemon starts, instead of leaving that to "
        "the wipe command.",
        flags=("--internal-wipe",),
        env=("CONTAINER_INTERNAL_WIPE",),
        deprecated="leave it at true; the wipe command alone will go away",
    ),
    Row(
        "crio.internal_repair",
        "bool",
        True,
        "After an unclean shutdown check the store when the daemon starts, and repair what is damaged.",
        flags=("--internal-repair",),
        env=("CONTAINER_INTERNAL_REPAIR",),
    ),
)
