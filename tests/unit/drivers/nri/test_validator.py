"""The built-in validator's rules."""

from __future__ import annotations

import pytest

from pycrio.drivers.nri import describe
from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.drivers.nri.owners import Owners
from pycrio.drivers.nri.settings import Validation
from pycrio.drivers.nri.validator import validate
from pycrio.errors import PluginFailure
from tests.unit.drivers.nri.support import container, pod

UNCONFINED, DEFAULT, LOCALHOST = (
    pb.SecurityProfile.UNCONFINED,
    pb.SecurityProfile.RUNTIME_DEFAULT,
    pb.SecurityProfile.LOCALHOST,
)


def request(profile: pb.SecurityProfile.ProfileType = UNCONFINED) -> pb.ValidateContainerAdjustmentRequest:
    owners = Owners()
    owners.share("c1", pb.OciHooks, "10-a")
    owners.share("c1", pb.OciHooks, "20-b")
    owners.claim("c1", pb.SeccompPolicy, "10-a")
    owners.claim("c1", pb.Namespace, "10-a", "uts")
    made = pb.ValidateContainerAdjustmentRequest(
        pod=describe.pod(pod()),
        container=describe.container(container()),
        owners=owners.message,
        plugins=[pb.PluginInstance(name="a", index="10")],
    )
    made.container.linux.seccomp_profile.profile_type = profile
    return made


def test_everything_is_allowed_by_default() -> None:
    validate(Validation(enabled=True), request())


def test_what_nobody_adjusted_breaks_no_rule() -> None:
    clean = request()
    clean.owners.Clear()
    validate(Validation(True, True, True, True, True, True), clean)


@pytest.mark.parametrize(
    ("rules", "profile", "complaint"),
    [
        (Validation(oci_hooks=True), UNCONFINED, "OCI hooks: 10-a,20-b did"),
        (Validation(namespaces=True), UNCONFINED, r"namespaces: 10-a \(uts\) did"),
        (Validation(unconfined_seccomp=True), UNCONFINED, "unconfined containers: 10-a"),
        (Validation(runtime_default_seccomp=True), DEFAULT, "runtime's default: 10-a"),
        (Validation(custom_seccomp=True), LOCALHOST, "custom profiles: 10-a"),
    ],
)
def test_what_is_refused(rules: Validation, profile: pb.SecurityProfile.ProfileType, complaint: str) -> None:
    with pytest.raises(PluginFailure, match=complaint):
        validate(rules, request(profile))


@pytest.mark.parametrize("profile", [UNCONFINED, DEFAULT, LOCALHOST])
def test_rules_for_other_profiles_do_not_count(profile: pb.SecurityProfile.ProfileType) -> None:
    rules = Validation(
        unconfined_seccomp=profile != UNCONFINED,
        runtime_default_seccomp=profile != DEFAULT,
        custom_seccomp=profile != LOCALHOST,
    )
    validate(rules, request(profile))


@pytest.mark.parametrize("required", [("a",), ("10-a",), ("a", "10-a"), ()])
def test_required_plugins_that_are_there(required: tuple[str, ...]) -> None:
    validate(Validation(required=required), request())


def test_required_plugins_that_are_not() -> None:
    with pytest.raises(PluginFailure, match="not there: b, 20-a"):
        validate(Validation(required=("a", "b", "20-a")), request())


@pytest.mark.parametrize(
    ("annotations", "complaint"),
    [
        ({"required-plugins.noderesource.dev": "[a]"}, ""),
        ({"required-plugins.noderesource.dev": ""}, ""),
        ({"required-plugins.noderesource.dev": "[a, x]"}, "not there: x"),
        ({"required-plugins.noderesource.dev/pod": "- x"}, "not there: x"),
        ({"required-plugins.noderesource.dev/container.app": "[x]"}, "not there: x"),
        ({"required-plugins.noderesource.dev/container.other": "[x]"}, ""),
        ({"required-plugins.noderesource.dev": "[x]", "required-plugins.noderesource.dev/container.app": "[a]"}, ""),
        ({"required-plugins.noderesource.dev": "{"}, "not YAML"),
        ({"required-plugins.noderesource.dev": "x"}, "must be a list"),
        ({"required-plugins.noderesource.dev": "[x]", "tolerate": "true"}, ""),
        ({"required-plugins.noderesource.dev": "[x]", "tolerate": "false"}, "not there: x"),
        ({"tolerate": "perhaps"}, "must be true or false"),
    ],
)
def test_annotations(annotations: dict[str, str], complaint: str) -> None:
    made = request()
    made.pod.annotations.update(annotations)
    rules = Validation(tolerate="tolerate")
    if complaint:
        with pytest.raises(PluginFailure, match=complaint):
            validate(rules, made)
    else:
        validate(rules, made)
