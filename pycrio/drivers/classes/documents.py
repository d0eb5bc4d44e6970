"""Class files: YAML whose keys are read whatever their case, as the tools that such files are written for do."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from pycrio.errors import ConfigError

MOST = 1 << 20
_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d*)?|\.\d+)(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)")
_UNITS = {"": Fraction(1), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000)}
_UNITS |= {"k": Fraction(1000)}
_UNITS |= {letter: Fraction(10 ** (3 * power)) for power, letter in enumerate("MGTPE", start=2)}
_UNITS |= {f"{letter}i": Fraction(1 << (10 * power)) for power, letter in enumerate("KMGTPE", start=1)}


def read(path: str) -> dict[str, Any]:
    """The document; ConfigError when there is none, or it is no mapping."""
    import yaml  # seldom needed: few nodes have class files

    try:
        with open(path, "rb") as f:
            text = f.read(MOST + 1)
        if len(text) > MOST:
            raise ConfigError([f"{path}: larger than {MOST} bytes"])
        document = yaml.safe_load(text)
    except OSError as e:
        raise ConfigError([f"{path} cannot be read: {e.strerror}"]) from e
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise ConfigError([f"{path} is not YAML: {' '.join(str(e).split())}"]) from e
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError([f"{path}: not a mapping"])
    return document


def fields(value: Any, *names: str) -> dict[str, Any]:
    """The named fields of a mapping by lower-case name. ValueError for anything else, and for unknown fields."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not a mapping")
    found = {str(key).lower(): item for key, item in value.items()}
    unknown = sorted(set(found) - {name.lower() for name in names})
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}; there are {', '.join(names)}")
    return found


def quantity(text: str) -> int:
    """A Kubernetes quantity (``50M``, ``10k``, ``1Gi``), fractions rounded up. ValueError when it is none."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 50M")
    value = Fraction(match[1]) * (Fraction(f"1{match[2]}") if match[2] else _UNITS[match[3] or ""])
    return -(-value.numerator // value.denominator)
