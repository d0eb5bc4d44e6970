"""Rows of ``[crio.image]``: where images come from, whom we trust, what is kept."""

from __future__ import annotations

from pycrio.config import rules
from pycrio.config.options.row import Row

ROWS = (
    Row(
        "crio.image.default_transport",
        "string",
        "docker://",
        "Where images come from: docker://, a registry, is the only transport that pulls can use.",
        flags=("--default-transport",),
        env=("CONTAINER_DEFAULT_TRANSPORT",),
        rules=(rules.one_of("docker://"),),
    ),
    Row(
        "crio.image.global_auth_file",
        "string",
        "",
        "File with registry credentials in the form of Docker's config.json, for pulls that bring none.",
        flags=("--global-auth-file",),
        env=("CONTAINER_GLOBAL_AUTH_FILE",),
        rules=(rules.absolute_or_empty,),
    ),
    Row(
        "crio.image.namespaced_auth_dir",
        "string",
        "/etc/crio/auth",
        "Directory where a credential provider leaves files <namespace>-<sha256 of the image name>.json, each for one "
        "pull.",
        flags=("--namespaced-auth-dir",),
        env=("CONTAINER_NAMESPACED_AUTH_DIR",),
        rules=(rules.absolute,),
        hidden=True,
    ),
    Row(
        "crio.image.pause_image",
        "string",
        "registry.k8s.io/pause:3.10.1",
        "Image of the infra container, reported as the sandbox image and never removed. With the usual pause_command "
        "pods need no pull of it: pycrio brings that program.",
        flags=("--pause-image",),
        env=("CONTAINER_PAUSE_IMAGE",),
        reload="sighup",
        rules=(rules.image_reference,),
    ),
    Row(
        "crio.image.pause_image_auth_file",
        "string",
        "",
        "Credentials file for pulls of the pause image that bring none.",
        flags=("--pause-image-auth-file",),
        env=("CONTAINER_PAUSE_IMAGE_AUTH_FILE",),
        reload="sighup",
        rules=(rules.absolute_or_empty,),
    ),
    Row(
        "crio.image.pause_command",
        "string",
        "/pause",
        "Program of the infra container. /pause is pycrio's own, which does what that of a pause image does; another "
        "one is run from the pause image, and with an empty value the image's entrypoint and command.",
        flags=("--pause-command",),
        env=("CONTAINER_PAUSE_COMMAND",),
        reload="sighup",
    ),
    Row(
        "crio.image.pinned_images",
        "strings",
        (),
        "Images that the kubelet must not remove: an exact name, a beginning (name*) or a part (*name*). The pause "
        "image is always one of them.",
        flags=("--pinned-images",),
        env=("CONTAINER_PINNED_IMAGES",),
        reload="sighup",
    ),
    Row(
        "crio.image.signature_policy",
        "string",
        "",
        "File with the signature policy (policy.json). Empty: /etc/containers/policy.json. Its content is read again "
        "on SIGHUP.",
        flags=("--signature-policy",),
        env=("CONTAINER_SIGNATURE_POLICY",),
        rules=(rules.absolute_or_empty,),
    ),
    Row(
        "crio.image.signature_policy_dir",
        "string",
        "/etc/crio/policies",
        "Directory with signature policies for single Kubernetes namespaces, <namespace>.json; where there is none, "
        "signature_policy holds.",
        flags=("--signature-policy-dir",),
        env=("CONTAINER_SIGNATURE_POLICY_DIR",),
        rules=(rules.absolute,),
    ),
    Row(
        "crio.image.insecure_registries",
        "strings",
        (),
        "Once listed registries without TLS. It has no effect.",
        flags=("--insecure-registry",),
        env=("CONTAINER_INSECURE_REGISTRY",),
        deprecated="it has no effect; say insecure = true in registries.conf",
    ),
    Row(
        "crio.image.image_volumes",
        "string",
        "mkdir",
        "What to do with volumes that an image declares: mkdir makes the directory, bind mounts an anonymous volume "
        "there, ignore does nothing.",
        flags=("--image-volumes",),
        env=("CONTAINER_IMAGE_VOLUMES",),
        rules=(rules.one_of("mkdir", "bind", "ignore"),),
    ),
    Row(
        "crio.image.big_files_temporary_dir",
        "string",
        "",
        "Accepted and not used: layers are extracted while they arrive, so that pulling leaves no big files.",
        flags=("--big-files-temporary-dir",),
        env=("CONTAINER_BIG_FILES_TEMPORARY_DIR",),
        rules=(rules.absolute_or_empty,),
    ),
    Row(
        "crio.image.auto_reload_registries",
        "bool",
        False,
        "Take changes of registries.conf and registries.conf.d over at once, without SIGHUP.",
        flags=("--auto-reload-registries",),
        env=("AUTO_RELOAD_REGISTRIES",),
    ),
    Row(
        "crio.image.pull_progress_timeout",
        "duration",
        "0s",
        "Give a pull up when no byte arrived for this long; progress is logged every tenth of it. 0s: never.",
        flags=("--pull-progress-timeout",),
        env=("CONTAINER_PULL_PROGRESS_TIMEOUT",),
        rules=(rules.duration,),
    ),
    Row(
        "crio.image.oci_artifact_mount_support",
        "bool",
        True,
        "Let pods mount OCI artifacts as image volumes.",
        flags=("--oci-artifact-mount-support",),
        env=("CONTAINER_OCI_ARTIFACT_SUPPORT",),
    ),
    Row(
        "crio.image.short_name_mode",
        "string",
        "enforcing",
        "Names without a registry: enforcing refuses one that several search registries could mean, disabled tries "
        "them in order.",
        flags=("--short-name-mode",),
        env=("CONTAINER_SHORT_NAME_MODE",),
        rules=(rules.one_of("enforcing", "disabled", ""),),
    ),
)
