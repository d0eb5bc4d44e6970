"""Drivers for the scripted registry."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pycrio.drivers.registry.client import Registry
from pycrio.drivers.registry.settings import Limits, Settings

ACCEPT_ALL = '{"default": [{"type": "insecureAcceptAnything"}]}'
QUICK = Limits(retry_delay=0.0, idle=20.0)


def settings(tmp_path: pathlib.Path, conf: str = "", **more: Any) -> Settings:
    """Settings that see nothing of this machine; ``conf`` is the registries.conf."""
    (tmp_path / "registries.conf").write_text(conf)
    if not (tmp_path / "policy.json").exists():
        (tmp_path / "policy.json").write_text(ACCEPT_ALL)
    base = Settings(
        registries_conf=str(tmp_path / "registries.conf"),
        registries_conf_dir=str(tmp_path / "registries.conf.d"),
        short_name_aliases=str(tmp_path / "aliases.conf"),
        policy=str(tmp_path / "policy.json"),
        policy_dir=str(tmp_path / "policies"),
        registries_d=str(tmp_path / "registries.d"),
        certs_dirs=(str(tmp_path / "certs.d"),),
        namespaced_auth_dir=str(tmp_path / "auth"),
        environ={"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")},
        arch="amd64",
        limits=QUICK,
    )
    return dataclasses.replace(base, **more)


def insecure(*addresses: str) -> str:
    """registries.conf tables that allow plain HTTP."""
    return "".join(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n' for address in addresses)


@asynccontextmanager
async def driver(tmp_path: pathlib.Path, *addresses: str, **more: Any) -> AsyncIterator[Registry]:
    """A registry driver that may talk plain HTTP to some addresses."""
    registry = Registry(settings(tmp_path, insecure(*addresses), **more))
    try:
        yield registry
    finally:
        await registry.close()
