"""A fake of the NRI port: plugins that are told everything and do what a test wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pycrio.model.nri import NriAnswer, NriContainer, NriEvent
from pycrio.model.pod import PodRecord
from pycrio.model.resources import Resources
from tests.fakes.script import Script


class FakeNri:
    """Nobody is there until ``listening``. ``told`` are events with the id of their pod or container; ``answer`` is
    what create, update and stop get, ``adjust`` may change the OCI config of a container."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.listening = False
        self.told: list[tuple[NriEvent, str]] = []
        self.answer = NriAnswer()
        self.adjust: Callable[[dict[str, Any], Callable[[str], bool]], None] | None = None
        self.seen: dict[str, NriContainer] = {}

    def wanted(self, event: NriEvent) -> bool:
        return self.listening

    async def pod(
        self,
        event: NriEvent,
        pod: PodRecord,
        overhead: Resources | None = None,
        resources: Resources | None = None,
    ) -> None:
        self.told.append((event, pod.id))
        await self._script.at(f"nri.{event.name.lower()}")

    async def container(self, event: NriEvent, pod: PodRecord, container: NriContainer) -> None:
        await self._one(event, container)

    async def create(self, pod: PodRecord, container: NriContainer, permitted: Callable[[str], bool]) -> NriAnswer:
        await self._one(NriEvent.CREATE, container)
        if self.adjust is not None:
            self.adjust(container.document, permitted)
        return self.answer

    async def update(self, pod: PodRecord, container: NriContainer, asked: Mapping[str, Any]) -> NriAnswer:
        await self._one(NriEvent.UPDATE, container)
        return self.answer

    async def stop(self, pod: PodRecord, container: NriContainer) -> NriAnswer:
        await self._one(NriEvent.STOP, container)
        return self.answer

    async def _one(self, event: NriEvent, container: NriContainer) -> None:
        self.told.append((event, container.record.id))
        self.seen[container.record.id] = container
        await self._script.at(f"nri.{event.name.lower()}")
