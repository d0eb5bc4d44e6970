"""The pause image may have credentials of its own, which are shown for no other image."""

from __future__ import annotations

import json
import pathlib

import pytest

from pycrio.drivers.registry.client import Registry
from pycrio.errors import ConfigError, RegistryError
from tests.fakes.registry import FakeRegistry, Reply, Request, refuse
from tests.fixtures_registry import build_image
from tests.unit.drivers.registry.support import insecure, settings


def guarded(request: Request) -> Reply | None:
    if request.headers.get("authorization") == "Basic bWU6cHc=":  # me:pw
        return None
    return refuse(401, "UNAUTHORIZED", "who are you", WWW_Authenticate='Basic realm="lab"')


@pytest.mark.effect("crio.image.pause_image_auth_file")
async def test_its_credentials_are_for_it_alone(tmp_path: pathlib.Path) -> None:
    image = build_image([{"a": b"1"}])
    secrets = tmp_path / "pause.json"
    async with FakeRegistry() as registry:
        for name in ("lab/pause:3", "lab/app:1"):
            registry.add(image, name)
        registry.on("/lab/", guarded)
        secrets.write_text(json.dumps({"auths": {registry.address: {"auth": "bWU6cHc="}}}))
        base = settings(tmp_path, insecure(registry.address))
        named = settings(
            tmp_path,
            insecure(registry.address),
            pause_image=f"{registry.address}/lab/pause:3",
            pause_image_auth_file=str(secrets),
        )
        driver = Registry(base)
        with pytest.raises(RegistryError, match="UNAUTHORIZED"):
            await driver.resolve(f"{registry.address}/lab/pause:3", None, "")
        (await driver.prepare(named))()
        found = await driver.resolve(f"{registry.address}/lab/pause:3", None, "")
        assert found.manifest_digest == image.digest
        with pytest.raises(RegistryError, match="UNAUTHORIZED"):
            await driver.resolve(f"{registry.address}/lab/app:1", None, "")
        secrets.unlink()
        (await driver.prepare(named))()
        with pytest.raises(RegistryError, match="UNAUTHORIZED"):
            await driver.resolve(f"{registry.address}/lab/pause:3", None, "")
        await driver.close()


async def test_what_is_prepared_holds_only_when_it_is_taken_over(tmp_path: pathlib.Path) -> None:
    base = settings(tmp_path)
    driver = Registry(base)
    pathlib.Path(base.registries_conf).write_text('unqualified-search-registries = ["one.example"]\n')
    commit = await driver.prepare(base)
    assert driver.names("app") == ()
    pathlib.Path(base.registries_conf).write_text("unqualified-search-registries = 7\n")
    with pytest.raises(ConfigError):
        await driver.prepare(base)
    assert driver.names("app") == ()
    commit()
    assert driver.names("app") == ("one.example/app:latest",)
    await driver.close()
