"""Who set what: no two plugins may set the same property of the same container, unless one takes it away first.

The book is kept in the protocol's own message, because validators are sent it. A plugin's name with a leading "-" as
owner means that the plugin took the property away: only it may set it anew.
"""

from __future__ import annotations

from pycrio.drivers.nri._pb import nri_pb2 as pb
from pycrio.errors import PluginFailure

REMOVED = "-"


def bare(key: str) -> tuple[str, bool]:
    """A key without the mark of removal, and whether it had one."""
    return (key[1:], True) if key.startswith(REMOVED) else (key, False)


class Owners:
    """The book of one request."""

    def __init__(self) -> None:
        self.message = pb.OwningPlugins()

    def claim(self, container_id: str, field: pb.Field, plugin: str, key: str | None = None) -> None:
        """Note that a plugin sets a field (or one ``key`` of it); PluginFailure when another one did already."""
        owner = self._owner(container_id, field, key)
        if owner:
            other, removed = bare(owner)
            if not (removed and other == plugin):
                what = pb.Field.Name(field) + (f" {key!r}" if key else "")
                raise PluginFailure(f"NRI plugins {other!r} and {plugin!r} both tried to set {what} of a container")
        self._set(container_id, field, key, plugin)

    def clear(self, container_id: str, field: pb.Field, plugin: str, key: str | None = None) -> None:
        """Note that a plugin takes away what another one set; what nobody set stays unowned."""
        if self._owner(container_id, field, key):
            self._set(container_id, field, key, REMOVED + plugin)

    def share(self, container_id: str, field: pb.Field, plugin: str) -> None:
        """Note a plugin beside others for a field that all may add to."""
        owner = self._owner(container_id, field, None)
        self._set(container_id, field, None, f"{owner},{plugin}" if owner else plugin)

    def _owner(self, container_id: str, field: pb.Field, key: str | None) -> str:
        if container_id not in self.message.owners:
            return ""
        fields = self.message.owners[container_id]
        if key is None:
            return fields.simple.get(field, "")
        if field not in fields.compound:
            return ""
        entries = fields.compound[field].owners
        return entries.get(key, "")

    def _set(self, container_id: str, field: pb.Field, key: str | None, owner: str) -> None:
        fields = self.message.owners[container_id]
        if key is None:
            fields.simple[field] = owner
        else:
            fields.compound[field].owners[key] = owner
