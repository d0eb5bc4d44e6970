"""Checkpoint images by CRIU through the OCI runtime."""

from __future__ import annotations

from pycrio.errors import Unsupported
from pycrio.model.node import Handler


class Checkpoints:
    """See ``flows.ports.Checkpoints``."""

    def available(self, handler: Handler) -> str:
        """Empty when usable, else the reason why not."""
        return "this version of pycrio does not write checkpoints"

    async def checkpoint(self, handler: Handler, container_id: str, directory: str) -> None:
        """Write the checkpoint of a container below ``directory``."""
        raise Unsupported(f"checkpoint of {container_id}: {self.available(handler)}")
