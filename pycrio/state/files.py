"""A directory of record files: one file per object, replaced atomically.

No fsync: the directory lives on volatile storage (the run root), whose content has no meaning after a reboot, since no
container survives one. Against a kill of the daemon the rename is enough. Drivers have ``_native.files`` for the same;
this room knows no native code.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class Directory:
    """Files ``<id>.json`` below one directory, which is made with mode 0700 on first use."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(path, mode=0o700, exist_ok=True)
        for name in os.listdir(path):
            if name.endswith(".tmp"):
                os.unlink(os.path.join(path, name))

    def write(self, ident: str, content: bytes) -> None:
        """Create or replace; raises OSError, and then the old content is still there."""
        final = os.path.join(self.path, f"{ident}.json")
        temporary = f"{final}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            os.replace(temporary, final)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise

    def delete(self, ident: str) -> None:
        """Remove; absent is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, f"{ident}.json"))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for name in sorted(os.listdir(self.path)):
            if name.endswith(".json"):
                with open(os.path.join(self.path, name), "rb") as f:
                    yield name[: -len(".json")], f.read()
