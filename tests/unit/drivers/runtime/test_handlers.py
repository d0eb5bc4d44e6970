"""What runtimes say of themselves."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from pycrio.drivers.runtime.handlers import Handlers, find_program, probe
from pycrio.errors import InvalidRequest
from pycrio.model.node import Handler


def handler(path: pathlib.Path, script: str) -> Handler:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Handler("x", str(path), "/r", "/m")


def saying(path: pathlib.Path, document: Any) -> Handler:
    (path.parent / "document").write_text(json.dumps(document))
    return handler(path, f'[ "$1" = features ] && exec cat {path.parent}/document')


RUNC = {"org.opencontainers.runc.version": "1.5.1"}
IDMAP = {"mountExtensions": {"idmap": {"enabled": True}}}


async def test_features(tmp_path: pathlib.Path) -> None:
    new = await probe(
        saying(
            tmp_path / "r",
            {
                "ociVersionMax": "1.3.0",
                "mountOptions": ["ro", "rro"],
                "linux": IDMAP | {"netDevices": {"enabled": True}},
                "annotations": RUNC,
            },
        )
    )
    assert (new.oci_max, new.recursive_read_only, new.idmap_mounts, new.net_devices) == ("1.3.0", True, True, True)


@pytest.mark.parametrize(
    ("document", "wants"),
    [
        ({"linux": IDMAP, "annotations": RUNC}, False),  # runc since 1.2
        ({"linux": {}, "annotations": RUNC}, True),  # runc 1.1
        ({"linux": IDMAP, "annotations": {"run.oci.crun.version": "1.20"}}, True),
        ({"linux": IDMAP}, True),
    ],
)
async def test_maps_of_joined_namespaces(tmp_path: pathlib.Path, document: Any, wants: bool) -> None:
    assert (await probe(saying(tmp_path / "r", document))).wants_joined_maps is wants


@pytest.mark.parametrize("script", ["exit 1", "echo no json", "echo '[1]'", "kill -9 $$"])
async def test_without_features(tmp_path: pathlib.Path, script: str) -> None:
    plain = await probe(handler(tmp_path / "r", script))
    assert plain.oci_max == ""
    assert (plain.recursive_read_only, plain.idmap_mounts, plain.net_devices) == (False, False, False)
    assert plain.wants_joined_maps


async def test_a_runtime_that_is_not_there(tmp_path: pathlib.Path) -> None:
    absent = Handler("x", str(tmp_path / "absent"), "/r", "/m")
    assert await probe(absent) == absent


def test_handlers_by_name() -> None:
    one, two = Handler("one", "/1", "/r", "/m"), Handler("two", "/2", "/r", "/m")
    known = Handlers({"one": one, "two": two}, "two")
    assert (known.get(""), known.get("one"), list(known.all())) == (two, one, [two, one])
    with pytest.raises(InvalidRequest, match="three"):
        known.get("three")
    known.replace({"one": one}, "one")
    assert known.get("") is one


def test_programs(tmp_path: pathlib.Path) -> None:
    made = handler(tmp_path / "prog", "true")
    assert find_program(made.path, "no-such-program") == made.path
    assert find_program("", "sh").endswith("/sh")
    assert find_program("", "no-such-program") == ""
