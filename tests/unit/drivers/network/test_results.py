"""Results of every version in the form of every other."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycrio.drivers.network.conf import VERSIONS
from pycrio.drivers.network.results import addresses, normal
from pycrio.errors import NetworkFailure

ROUTES = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0"}]
OLD: dict[str, Any] = {
    "cniVersion": "0.2.0",
    "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": ROUTES[:1]},
    "ip6": {"ip": "fd00::2/64", "routes": ROUTES[1:]},
    "dns": {"nameservers": ["10.1.0.1"]},
}
MIDDLE: dict[str, Any] = {
    "cniVersion": "0.4.0",
    "ips": [
        {"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"version": "6", "address": "fd00::2/64"},
    ],
    "routes": ROUTES,
    "dns": {"nameservers": ["10.1.0.1"]},
}
NEW: dict[str, Any] = {
    **MIDDLE,
    "cniVersion": "1.0.0",
    "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}, {"address": "fd00::2/64"}],
}
FORMS = {"0.1.0": OLD, "0.2.0": OLD, "0.3.0": MIDDLE, "0.3.1": MIDDLE, "0.4.0": MIDDLE, "1.0.0": NEW, "1.1.0": NEW}


@pytest.mark.parametrize("old", VERSIONS)
@pytest.mark.parametrize("new", VERSIONS)
def test_every_pair(old: str, new: str) -> None:
    source = {**FORMS[old], "cniVersion": old}
    assert normal(source, new, "here") == {**FORMS[new], "cniVersion": new}
    assert source == {**FORMS[old], "cniVersion": old}, "the source stays as it was"
    assert addresses(source, "here") == ("10.1.0.2", "fd00::2")


def test_without_a_version_it_has_the_networks() -> None:
    assert normal({"ips": []}, "0.4.0", "here") == {"ips": [], "cniVersion": "0.4.0"}


def test_unknown_fields_stay() -> None:
    assert normal({**NEW, "vendor": 1}, "1.1.0", "here")["vendor"] == 1


@pytest.mark.parametrize(
    "result",
    [None, [], "x", 3, {"cniVersion": "2.0.0"}, {"cniVersion": 1}, {"cniVersion": ["1.0.0"]}],
)
def test_no_result_at_all(result: Any) -> None:
    with pytest.raises(NetworkFailure, match="here"):
        normal(result, "1.0.0", "here")


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"ips": None},
        {"ips": []},
        {"ips": {}},
        {"ips": 3},
        {"ips": [3]},
        {"ips": [{}]},
        {"ips": [{"address": 167772161}]},
        {"ips": [{"address": "10.0.0.300/24"}]},
        {"ips": [{"address": "10.0.0.1/24", "interface": "0"}]},
        {"ips": [{"address": "10.0.0.1/24", "interface": 0}], "interfaces": [7]},
        {"cniVersion": "0.2.0", "ip4": "10.0.0.1"},
        {"cniVersion": "0.2.0", "ip4": {"ip": "x"}},
    ],
)
def test_no_usable_address(result: Any) -> None:
    with pytest.raises(NetworkFailure, match="here"):
        addresses(result, "here")


def test_addresses_on_the_hosts_side_are_not_the_pods() -> None:
    interfaces = [{"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/x"}]
    ips = [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.2/24", "interface": 1}]
    assert addresses({"interfaces": interfaces, "ips": ips}, "here") == ("10.0.0.2",)
    # Nothing says where any of them is.
    assert addresses({"interfaces": interfaces[:1], "ips": ips[:1]}, "here") == ("10.0.0.1",)
    assert addresses({"ips": [*ips, *ips]}, "here") == ("10.0.0.1", "10.0.0.2")


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["10.0.0.1/24", "::1/64", "4", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ips", "ip4", "ip6", "ip", "address", "interface", "interfaces", "routes", "dst", "dns"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_json, st.sampled_from(VERSIONS), st.sampled_from(VERSIONS))
def test_only_foreseen_failures(result: Any, has: str, wanted: str) -> None:
    if isinstance(result, dict):
        result["cniVersion"] = has
    for work in (lambda: normal(result, wanted, "here"), lambda: addresses(result, "here")):
        with contextlib.suppress(NetworkFailure):
            work()
