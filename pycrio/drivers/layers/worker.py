"""The program that extracts one layer in a process of its own (see ``apart.py``). Imports next to nothing: it starts
for every layer.

Descriptors: 0 says when to begin and with which limits (JSON), 3 is the blob, 4 the directory, 5 the tar-split file, 6
takes the result or the failure (JSON).
"""

from __future__ import annotations

import json
import os
from typing import Any

BLOB, DIRECTORY, SPLIT, RESULT = 3, 4, 5, 6
FIELDS = ("compressed_digest", "compressed_size", "diff_id", "diff_size", "compression", "entries", "uids", "gids")


def main() -> None:
    """Extract when told to; the exit code is 0 when the result tells how that went."""
    told = b""
    while part := os.read(0, 1 << 16):
        told += part
    if not told:
        return  # the daemon changed its mind
    from pycrio._native.untar import extract

    limits = json.loads(told)
    answer: dict[str, Any]
    try:
        result = extract(BLOB, DIRECTORY, split_fd=SPLIT, keep_root=True, limits=limits)
        answer = {name: getattr(result, name) for name in (*FIELDS, "split_complete")}
    except OSError as e:
        name = os.fsdecode(e.filename) if e.filename else ""
        answer = {"errno": e.errno, "strerror": e.strerror, "filename": name, "step": getattr(e, "step", "")}
    data = json.dumps(answer).encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(RESULT, data) :]
