"""Every driver and every fake has the shape of its port: to the type checker, and by its signatures.

``wiring.build`` puts the drivers into a Host and ``FakeHost`` the fakes; where the type checker accepts both, each one
is assignable to its Protocol. That the check can fail is shown with a port that lacks a method.
"""

from __future__ import annotations

import ast
import inspect
import pathlib
import typing
from typing import Any

import pytest
from mypy import api

from pycrio.drivers.layers.store import Store
from pycrio.flows import ports
from pycrio.flows.ports import Host
from tests.fakes.node import FakeHost

ROOT = pathlib.Path(__file__).resolve().parents[2]
PORTS = {
    name: port
    for name, port in typing.get_type_hints(Host).items()
    if getattr(port, "_is_protocol", False) and port.__module__ == ports.__name__
}
WRONG = """
from pycrio.flows.ports import Hooks

class Half:
    def apply(self, config: dict[str, object]) -> None: ...

found: Hooks = Half()
"""


def checked(*paths: str) -> tuple[str, int]:
    out, err, code = api.run(["--config-file", str(ROOT / "pyproject.toml"), *paths])
    return out + err, code


@pytest.mark.parametrize("path", ["pycrio/wiring.py", "tests/fakes/node.py"])
def test_the_type_checker_accepts(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text, code = checked(path)
    assert code == 0, text


def test_the_type_checker_refuses_another_shape(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "wrong.py").write_text(WRONG)
    text, code = checked(str(tmp_path / "wrong.py"))
    assert code == 1
    assert "Incompatible types in assignment" in text


def drivers() -> dict[str, type[Any]]:
    """Field of Host → class that wiring puts there: read from its source, since making them needs a host."""
    from pycrio import wiring

    tree = ast.parse(inspect.getsource(wiring.build))
    assigned = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Tuple)
        ):
            assigned |= {
                t.id: v for t, v in zip(node.targets[0].elts, node.value.elts, strict=True) if isinstance(t, ast.Name)
            }
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Host")
    store = {
        n.targets[0].attr: n.value.func.id
        for n in ast.walk(ast.parse(inspect.getsource(Store).lstrip()))
        if isinstance(n, ast.Assign)
        and isinstance(n.targets[0], ast.Attribute)
        and isinstance(n.value, ast.Call)
        and isinstance(n.value.func, ast.Name)
    }
    found: dict[str, type[Any]] = {}
    for keyword in call.keywords:
        value = keyword.value
        if isinstance(value, ast.Name):
            value = assigned.get(value.id, value)
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == "store":
            name, home = store[value.attr], inspect.getmodule(Store)
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            name, home = value.func.id, wiring
        elif isinstance(value, ast.Await):
            name, home = "Handlers", wiring
        else:
            continue
        found[str(keyword.arg)] = getattr(home, name)
    return found


def fakes() -> dict[str, type[Any]]:
    host = FakeHost().host
    return {name: type(getattr(host, name)) for name in PORTS}


def faults(port: type[Any], implementation: type[Any]) -> list[str]:
    """Methods that are missing, are (not) coroutines, or name their parameters otherwise."""
    out = []
    for name, wanted in inspect.getmembers(port, inspect.isfunction):
        if name.startswith("_"):
            continue
        given = getattr(implementation, name, None)
        if given is None:
            out.append(f"{name} is missing")
            continue
        if inspect.iscoroutinefunction(wanted) != inspect.iscoroutinefunction(given):
            out.append(f"{name} is a coroutine on one side only")
        has = inspect.signature(given).parameters
        out += [f"{name} has no parameter {p!r}" for p in inspect.signature(wanted).parameters if p not in has]
    return out


@pytest.mark.parametrize("name", sorted(PORTS))
def test_a_driver_has_its_port_s_shape(name: str) -> None:
    assert faults(PORTS[name], drivers()[name]) == []


@pytest.mark.parametrize("name", sorted(PORTS))
def test_a_fake_has_its_port_s_shape(name: str) -> None:
    assert faults(PORTS[name], fakes()[name]) == []


def test_faults_are_found() -> None:
    class Half:
        def condition(self) -> None: ...

        def ready(self) -> None: ...

        async def add(self, other: object) -> None: ...

    found = faults(ports.Network, Half)
    assert {"check is missing", "ready is a coroutine on one side only", "add has no parameter 'request'"} <= set(found)


def test_every_port_is_looked_at() -> None:
    assert {"network", "cgroups", "processes", "rootfs", "nri"} <= set(PORTS)
    assert len(PORTS) >= 20
