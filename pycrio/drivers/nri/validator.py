"""The built-in validator: what plugins may not do here, and which of them must be there."""

from __future__ import annotations

from collections.abc import Mapping

from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.settings import Validation
from pycrio.errors import PluginFailure

INDEX, NAME = "00", "default-validator"
REQUIRED = "required-plugins.noderesource.dev"
"""Annotation with a YAML list of plugins that a pod or container needs."""
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def validate(rules: Validation, request: pb.ValidateContainerAdjustmentRequest) -> None:
    """PluginFailure that names who broke which rule."""
    ident = request.container.id
    owners = request.owners.owners[ident] if ident in request.owners.owners else pb.FieldOwners()
    hooks = owners.simple.get(pb.OciHooks, "")
    if rules.oci_hooks and hooks:
        raise PluginFailure(f"NRI plugins are not allowed to add OCI hooks: {hooks} did")
    _seccomp(rules, request.container.linux.seccomp_profile, owners.simple.get(pb.SeccompPolicy, ""))
    if rules.namespaces and pb.Namespace in owners.compound:
        who = ", ".join(f"{p} ({kind})" for kind, p in sorted(owners.compound[pb.Namespace].owners.items()))
        raise PluginFailure(f"NRI plugins are not allowed to change namespaces: {who} did")
    _required(rules, request)


def _seccomp(rules: Validation, profile: pb.SecurityProfile, owner: str) -> None:
    refused, kind = {
        pb.SecurityProfile.UNCONFINED: (rules.unconfined_seccomp, "unconfined containers"),
        pb.SecurityProfile.RUNTIME_DEFAULT: (rules.runtime_default_seccomp, "the runtime's default"),
        pb.SecurityProfile.LOCALHOST: (rules.custom_seccomp, "custom profiles"),
    }[profile.profile_type]
    if refused and owner:
        raise PluginFailure(f"NRI plugins are not allowed to change the seccomp policy of {kind}: {owner} did")


def _required(rules: Validation, request: pb.ValidateContainerAdjustmentRequest) -> None:
    annotations, container = request.pod.annotations, request.container.name
    if rules.tolerate:
        value = effective(annotations, rules.tolerate, container)
        if value in _TRUE:
            return
        if value is not None and value not in _FALSE:
            raise PluginFailure(f"annotation {rules.tolerate} must be true or false, not {value!r}")
    wanted = [*rules.required, *_listed(effective(annotations, REQUIRED, container))]
    present = {n for p in request.plugins for n in (p.name, f"{p.index}-{p.name}")}
    missing = [name for name in wanted if name not in present]
    if missing:
        raise PluginFailure(f"required NRI plugins are not there: {', '.join(missing)}")


def _listed(text: str | None) -> list[str]:
    if text is None:
        return []
    import yaml

    try:
        names = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise PluginFailure(f"annotation {REQUIRED} is not YAML: {e}") from e
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise PluginFailure(f"annotation {REQUIRED} must be a list of plugin names, not {text!r}")
    return names


def effective(annotations: Mapping[str, str], key: str, container: str) -> str | None:
    """A pod's annotation for one of its containers: ``key/container.<name>``, else ``key/pod``, else ``key``."""
    for name in (f"{key}/container.{container}", f"{key}/pod", key):
        if name in annotations:
            return annotations[name]
    return None
