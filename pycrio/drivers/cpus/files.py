"""Small files of the kernel and of the node."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from pycrio._native.files import replace_file


def read_text(path: str) -> str:
    """At most 64 KiB of a file."""
    with open(path, encoding="utf-8") as f:
        return f.read(1 << 16)


def write_text(path: str, text: str) -> None:
    """One write(2) to a file that is there, as the kernel's files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def replace_text(path: str, text: str) -> None:
    """Create or replace a file on disk: the old or the new content survives a crash. Mode and owner stay."""
    os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
    mode, owner = 0o644, None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(path)
        mode, owner = stat.S_IMODE(old.st_mode), (old.st_uid, old.st_gid)
    replace_file(path, text.encode(), f"{path}.{secrets.token_hex(4)}.tmp", mode=mode, owner=owner, durable=True)
