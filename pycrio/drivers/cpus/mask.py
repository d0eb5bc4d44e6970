"""CPU masks as ``/proc/irq`` and irqbalance write them: groups of eight hex digits, the highest CPUs first.

The kernel takes no mask that is wider than its number of possible CPUs rounded up to 32, so a mask keeps its width.
"""

from __future__ import annotations

import re

_MASK = re.compile(r"[0-9a-fA-F]{1,8}(?:,[0-9a-fA-F]{1,8})*")


def parse(text: str) -> tuple[frozenset[int], int]:
    """The CPUs of a mask, and its width in bits (a multiple of 8). ValueError when it is none."""
    text = text.strip()
    if not _MASK.fullmatch(text) and not re.fullmatch(r"[0-9a-fA-F]+", text):
        raise ValueError(f"{text!r} is not a CPU mask such as ff or 00000000,0000000f")
    groups = text.split(",")
    digits = groups[0] + "".join(g.zfill(8) for g in groups[1:])
    number = int(digits, 16)
    width = -(-len(digits) // 2) * 8
    return frozenset(cpu for cpu in range(number.bit_length()) if number >> cpu & 1), width


def render(cpus: frozenset[int], width: int) -> str:
    """The mask of that width, which is rounded up to whole groups."""
    number = sum(1 << cpu for cpu in cpus if cpu < width)
    digits = f"{number:0{-(-width // 32) * 8}x}"
    return ",".join(digits[i : i + 8] for i in range(0, len(digits), 8))
