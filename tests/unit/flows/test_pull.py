"""Pulls beside removals of other images."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from pycrio.errors import Overtaken
from pycrio.flows.images import pull
from pycrio.model.image import ImageSpec
from tests.fakes.node import fake_node

NAME = "registry.test/lab/app:1"


async def test_a_layer_that_goes_with_another_image_is_fetched(tmp_path: pathlib.Path) -> None:
    """The base is in the store when the pull looks, and gone when the layer above it is committed."""
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.registry.offer("registry.test/lab/other:1", ("base",))
        fake.registry.offer(NAME, ("base", "own"))
        await pull.pull(node, ImageSpec("registry.test/lab/other:1"), None, None)
        there, go = fake.script.stop_at("layers.commit")
        task = asyncio.ensure_future(pull.pull(node, ImageSpec(NAME), None, None))
        await there.wait()
        fake.layers.kept.clear()
        go.set()
        await task
        assert len(fake.layers.kept) == 2
        assert not fake.layers.staged
        assert fake.script.count("registry.resolve") == 2  # the registry's answer still holds
        assert fake.script.count("registry.fetch") == 1 + 1 + 2


async def test_a_layer_that_always_goes_ends_the_pull(tmp_path: pathlib.Path) -> None:
    async with fake_node(str(tmp_path)) as (node, fake):
        fake.registry.offer(NAME, ("base", "own"))
        fake.script.fail["images.record"] = Overtaken("gone again")
        with pytest.raises(Overtaken):
            await pull.pull(node, ImageSpec(NAME), None, None)
        assert fake.script.count("images.record") == pull.TRIES
