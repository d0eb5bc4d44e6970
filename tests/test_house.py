"""The house is tested: who may import whom (fails), and how large things are (`make house` prints)."""

from __future__ import annotations

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pycrio"
LEAVES = ("errors", "model", "obs")

# room -> what of ours it may import (prefixes below pycrio); "." is the room itself
RULES: dict[str, tuple[str, ...]] = {
    "errors": (),
    "model": (".",),
    "obs": (".", "errors"),
    "ttrpc": (".", "obs"),
    "config": (".", "errors", "model"),
    "_native": (".",),
    "spec": (".", *LEAVES),
    "state": (".", *LEAVES),
    "drivers": (".", *LEAVES, "_native", "ttrpc"),
    "flows": (".", *LEAVES, "spec", "state"),
    "api": (".", *LEAVES, "flows"),
}
TOP = {"daemon", "wiring", "__main__", "commands", "lifecycle"}
FOREIGN = {  # third-party packages that only these rooms may know
    "grpc": set(),  # clients of tests and benchmarks; the daemon serves calls by itself
    "google": {"api", "drivers.nri", "drivers.shim", "ttrpc"},
    "opentelemetry": {"obs"},
}


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: pathlib.Path) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package[: len(package) - node.level + 1]
                base = ".".join([*up, base]) if base else ".".join(up)
            found += [(node.lineno, f"{base}.{a.name}") for a in node.names]
    return found


def modules() -> list[pathlib.Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if "_pb" not in p.parts]


def complaint(module: str, target: str) -> str | None:
    """Why ``module`` may not import ``target``; None when it may."""
    parts, aim = module.split("."), target.split(".")
    room = parts[1] if len(parts) > 1 else ""
    if aim[0] in FOREIGN and not {room, ".".join(parts[1:3])} & FOREIGN[aim[0]]:
        return f"{aim[0]} belongs to {sorted(FOREIGN[aim[0]])}"
    if aim[0] != "pycrio" or len(aim) < 2 or not room or room in TOP:
        return None
    goal = aim[1]
    if goal in TOP:
        return f"nobody below imports pycrio.{goal}"
    if goal not in RULES:
        return None  # a name of pycrio/__init__.py
    allowed = RULES[room]
    if goal == room:
        if room == "drivers" and len(aim) > 2 and len(parts) > 2 and aim[2] != parts[2]:
            return "drivers never import their siblings"
        return None if "." in allowed else "a leaf of one module imports nothing of ours"
    if goal not in allowed:
        return f"{room} may import only {[a for a in allowed if a != '.']}"
    return None


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_import_direction(path: pathlib.Path) -> None:
    module = module_name(path)
    faults = [f"line {line}: {target}: {why}" for line, target in imports(path) if (why := complaint(module, target))]
    assert not faults, f"{module}:\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("pycrio.drivers.network.cni", "pycrio.drivers.layers.store"),
        ("pycrio.drivers.network.cni", "pycrio.flows.ports"),
        ("pycrio.flows.pods.run", "pycrio.drivers.network.cni"),
        ("pycrio.flows.pods.run", "pycrio._native.ns"),
        ("pycrio.flows.pods.run", "google.protobuf"),
        ("pycrio.drivers.network.cni", "google.protobuf"),
        ("pycrio.api.runtime", "pycrio.state.store"),
        ("pycrio.model.pod", "pycrio.errors"),
        ("pycrio._native.run", "pycrio.errors"),
        ("pycrio.flows.pods.run", "pycrio.wiring"),
    ],
)
def test_the_rules_refuse(module: str, target: str) -> None:
    assert complaint(module, target) is not None


def test_every_module_has_a_docstring() -> None:
    bare = [
        module_name(p)
        for p in modules()
        if p.read_text(encoding="utf-8").strip() and not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))
    ]
    assert not bare


def test_every_native_unit_is_complete() -> None:
    """A binding has its .pyi; a C unit has its header and a test program."""
    native = PACKAGE / "_native"
    missing = [p.name for p in native.glob("*.pyx") if not p.with_suffix(".pyi").exists()]
    for unit in (
        d for d in (ROOT / "csrc").iterdir() if d.is_dir() and d.name not in {"common", "monitor", "nsexec", "pause"}
    ):
        if not (unit / f"{unit.name}.h").exists():
            missing.append(f"{unit.name}.h")
        if not list((ROOT / "tests" / "c").glob(f"test_{unit.name}*.c")):
            missing.append(f"tests/c/test_{unit.name}*.c")
    assert not missing


def sizes() -> list[str]:
    """Modules, functions and parameter lists above the signal sizes of the anchors, largest first."""
    rows: list[tuple[float, str]] = []
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 400:
            rows.append((lines / 400, f"{path.relative_to(ROOT)}: {lines} lines"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                count = len([a for a in node.args.args + node.args.kwonlyargs if a.arg not in {"self", "cls"}])
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                if length > 60:
                    rows.append((length / 60, f"{where}: {length} lines"))
                if count > 6:
                    rows.append((count / 6, f"{where}: {count} parameters"))
    for path in sorted((ROOT / "csrc").rglob("*.[ch]")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 500:
            rows.append((lines / 500, f"{path.relative_to(ROOT)}: {lines} lines"))
    return [text for _, text in sorted(rows, reverse=True)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(sizes()) + "\n")
